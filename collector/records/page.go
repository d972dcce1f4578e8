package records

import (
	"bytes"
	"fmt"
	"iter"
	"net/url"
	"strconv"
	"time"

	"memdump_exporter/influx"
)

// maxPageBytes limits the size of a page, which is held in memory until it is complete.
const maxPageBytes = 16 << 20

// page is a response of /records.
type page struct {
	query       Query
	body        bytes.Buffer
	count       int64
	first, last Record
}

// fill adds the records of a list.
func (p *page) fill(list iter.Seq2[Record, error]) error {
	for r, err := range list {
		if err != nil {
			return err
		}
		if err := p.add(r); err != nil {
			return err
		}
	}
	return nil
}

func (p *page) add(r Record) error {
	text, err := r.MarshalJSON()
	if err != nil {
		return err
	}
	if p.body.Len()+len(text) > maxPageBytes {
		return fmt.Errorf("%w: the page exceeds %d MiB: use a smaller limit", influx.ErrTooLarge, maxPageBytes>>20)
	}
	if p.count == 0 {
		p.first = r
		p.body.WriteString(`{"records":[`)
	} else {
		p.body.WriteString(",\n")
	}
	p.body.Write(text)
	p.count++
	p.last = r
	return nil
}

// end completes the body and returns the link to the next page, which is empty for the last page.
func (p *page) end() (next string) {
	if p.count == 0 {
		p.body.WriteString(`{"records":[`)
	}
	fmt.Fprintf(&p.body, "],\"count\":%d,\"limit\":%d,\"offset\":%d}\n", p.count, p.query.Limit, p.query.Offset)
	if p.count < p.query.Limit {
		return ""
	}
	return p.next()
}

// next returns the link to the records after the last one of this page: its time, and how many
// records with that time have been on a page. So new records do not shift the next page, and a page
// far back costs as much as the first one.
func (p *page) next() string {
	to, offset := p.last.TimeNs+1, p.last.place+1
	if p.last.place < 0 {
		to, offset = min(p.query.Time.To, p.first.TimeNs+1), p.query.Offset+p.query.Limit
	}
	values := url.Values{
		"limit": {strconv.FormatInt(p.query.Limit, 10)}, "offset": {strconv.FormatInt(offset, 10)}, "to": {rfc3339(to)},
	}
	for name, value := range map[string]string{"dom": p.query.Dom, "vmid": p.query.VMID} {
		if value != "" {
			values.Set(name, value)
		}
	}
	if p.query.Time.From != influx.AllTime.From {
		values.Set("from", rfc3339(p.query.Time.From))
	}
	// Relative to the path of this page, so that it works behind a proxy that strips a prefix.
	return "?" + values.Encode()
}

func rfc3339(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }
