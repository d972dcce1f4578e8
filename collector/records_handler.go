package collector

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

// RecordsConfig says how /records is served.
type RecordsConfig struct {
	HandlerConfig
	// MaxOffset is the largest offset that is accepted.
	MaxOffset int64
	// AtOnce is how many requests may ask InfluxDB at the same time.
	AtOnce int
}

// Records serves the dumps themselves as JSON. A record is encoded as it is read.
func (c *Collector) Records(h RecordsConfig) http.Handler {
	places := make(chan struct{}, h.AtOnce)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, err := parseQuery(r.URL.RawQuery, h.MaxOffset)
		if err != nil {
			refuse(w, http.StatusBadRequest, err.Error())
			return
		}
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		default:
			w.Header().Set("Retry-After", "1")
			refuse(w, http.StatusServiceUnavailable, fmt.Sprintf("%d requests for records are being answered: try again in a second", h.AtOnce))
			return
		}
		budget := h.budget(r.Header)
		// It fails where the writer has no connection, as in a test.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(budget + writeGrace))
		ctx, cancel := context.WithTimeout(r.Context(), budget)
		defer cancel()
		page := &recordsPage{q: q, w: w, path: r.URL.Path, out: bufio.NewWriterSize(w, 16<<10)}
		err = contain(func() error {
			// Asked before, as the form of the credentials follows the answer; whether it
			// fails or not, the query says what matters.
			_, _ = c.Database.Identify(ctx)
			return c.list(ctx, q, page.add)
		})
		if err == nil {
			err = page.end()
		}
		if err == nil {
			return
		}
		c.logFailure(err, true, "msg", "records failed", "reason", reasonOf(err))
		if page.began {
			// The status is out: a cut connection is the only way left to say that this
			// is not all.
			panic(http.ErrAbortHandler)
		}
		status := http.StatusBadGateway
		if errors.Is(err, influx.ErrTimeout) {
			status = http.StatusGatewayTimeout
		}
		refuse(w, status, err.Error())
	})
}

func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": text})
}

// recordsPage writes one answer.
type recordsPage struct {
	q     query
	w     http.ResponseWriter
	path  string
	out   *bufio.Writer
	began bool // bytes may have left
	count int64
	first int64 // time of the first record, in nanoseconds since 1970
	line  bytes.Buffer
}

func (p *recordsPage) add(r Record) error {
	if p.count == 0 {
		p.first = r.TimeNs
		p.line.WriteString(`{"records":[`)
	} else {
		p.line.WriteString(",\n")
	}
	p.count++
	fmt.Fprintf(&p.line, `{"timestamp":%q`, time.Unix(0, r.TimeNs).UTC().Format("2006-01-02T15:04:05.000Z"))
	for i, column := range recordColumns {
		fmt.Fprintf(&p.line, ",%q:", column)
		if err := appendJSON(&p.line, r.values[i]); err != nil {
			return err
		}
	}
	p.line.WriteByte('}')
	return p.write()
}

// write hands on the line; the header goes out before the first bytes do.
func (p *recordsPage) write() error {
	if !p.began && p.out.Buffered()+p.line.Len() > p.out.Size() {
		p.begin()
	}
	_, err := p.line.WriteTo(p.out)
	return err
}

func (p *recordsPage) begin() {
	p.began = true
	p.w.Header().Set("Content-Type", "application/json")
	if p.count >= p.q.limit {
		p.next()
	}
}

// next links the next page, pinned to what was newest on this one: without that, dumps
// that are recorded in between would move the pages.
func (p *recordsPage) next() {
	values := url.Values{"limit": {strconv.FormatInt(p.q.limit, 10)}, "offset": {strconv.FormatInt(p.q.offset+p.q.limit, 10)}}
	if p.q.vmid != "" {
		values.Set("vmid", p.q.vmid)
	}
	if p.q.dom != "" {
		values.Set("dom", p.q.dom)
	}
	if p.q.span.From != ranges.All.From {
		values.Set("from", time.Unix(0, p.q.span.From).UTC().Format(time.RFC3339Nano))
	}
	to := p.q.span.To
	if to == ranges.All.To {
		to = p.first + 1
	}
	values.Set("to", time.Unix(0, to).UTC().Format(time.RFC3339Nano))
	p.w.Header().Set("Link", fmt.Sprintf("<%s?%s>; rel=\"next\"", p.path, values.Encode()))
}

func (p *recordsPage) end() error {
	if p.count == 0 {
		p.line.WriteString(`{"records":[`)
	}
	fmt.Fprintf(&p.line, "],\"count\":%d,\"limit\":%d,\"offset\":%d}\n", p.count, p.q.limit, p.q.offset)
	if err := p.write(); err != nil {
		return err
	}
	if !p.began {
		p.begin()
	}
	return p.out.Flush()
}

// appendJSON encodes a value exactly: whole numbers as their digits, floats as the
// shortest text that reads back as them.
func appendJSON(b *bytes.Buffer, value any) error {
	if number, ok := value.(json.Number); ok {
		if _, err := strconv.ParseInt(number.String(), 10, 64); err == nil {
			b.WriteString(number.String())
			return nil
		}
		value, _ = number.Float64() // infinite where float64 can't hold it, for which JSON has no form
	}
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("%w: a number that is none: %w", influx.ErrMalformed, err)
	}
	b.Write(text)
	return nil
}
