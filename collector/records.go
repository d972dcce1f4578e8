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
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-kit/log/level"

	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

// recordColumns are what a record holds beside its time, in this order; other fields of
// the measurement are left out.
var recordColumns = []string{"dom", "vmid", "sha256", "duration_sec", "gzip_size_bytes", "ctime", "mtime", "atime", "dump_path"}

// Record is one point of the dumps' measurement.
type Record struct {
	TimeNs int64 // since 1970
	values []any // of recordColumns: string, json.Number, bool, or nil
}

// Value returns a column's value as influx.Row.Value does.
func (r Record) Value(column string) any { return r.values[slices.Index(recordColumns, column)] }

// query is which records are asked for.
type query struct {
	limit, offset int64
	vmid, dom     string       // empty: any
	span          ranges.Range // of their times
}

const (
	defaultRecords = 1000
	mostRecords    = 10_000
	// recordBytes is more than a record's share of an answer can be in earnest.
	recordBytes = 8 << 10
	// maxFilterBytes bounds a name to filter by.
	maxFilterBytes = 512
)

// list passes on the records asked for, newest first; equal times in the order of their
// values, so that two servers, and two requests, agree within a page. On a server that
// refuses the whole it walks back in time.
func (c *Collector) list(ctx context.Context, q query, row func(Record) error) error {
	var tie []Record
	flush := func() error {
		slices.SortFunc(tie, func(a, b Record) int { return strings.Compare(fmt.Sprint(a.values...), fmt.Sprint(b.values...)) })
		for _, r := range tie {
			if err := row(r); err != nil {
				return err
			}
		}
		tie = tie[:0]
		return nil
	}
	skip, left := q.offset, q.limit
	inPieces, found := false, false
	err := ranges.Walk(ctx, c.Now().UnixNano(), q.span, c.recordsMap(), func(ctx context.Context, r ranges.Range) error {
		// How many records a piece holds is known only when they have been read, so in
		// pieces those to skip are read, too.
		limit, offset := left, skip
		if inPieces = inPieces || r != q.span; inPieces {
			limit, offset = left+skip, 0
		}
		question := influx.Question{MaxBytes: limit*recordBytes + influx.DefaultMaxBytes}
		question.Statement = q.statement(c.DumpsMeasurement, r, limit, offset)
		if c.Database.API() == influx.APIV3Query {
			question.API = influx.APIV3Query
			question.Statement = q.sql(c.DumpsMeasurement, r, limit, offset)
		}
		err := c.Database.Query(ctx, question, func(answer influx.Row) error {
			found = true
			if inPieces && skip > 0 {
				skip--
				return nil
			}
			record := Record{values: make([]any, len(recordColumns))}
			var err error
			if record.TimeNs, err = answer.Time(); err != nil {
				return err
			}
			for i, column := range recordColumns {
				record.values[i], _ = answer.Value(column)
			}
			if len(tie) > 0 && tie[0].TimeNs != record.TimeNs {
				if err := flush(); err != nil {
					return err
				}
			}
			tie = append(tie, record)
			left--
			return nil
		})
		switch {
		case errors.Is(err, influx.ErrFileLimit):
			return fmt.Errorf("%w: %w", ranges.ErrTooWide, err)
		case err != nil:
			return err
		case left <= 0:
			return ranges.ErrStop
		}
		return nil
	})
	if err == nil && !found && c.Database.API() != influx.APIV3Query {
		// The servers answer "no such measurement" as they answer "none".
		err = (&scrape{Collector: c, ctx: ctx}).prove(dumps, nil)
	}
	if err != nil {
		return err
	}
	return flush()
}

// recordsMap is how the server lets itself be asked about dumps, as far as that is known.
func (c *Collector) recordsMap() []ranges.Range {
	for _, f := range c.figures {
		if f.source() == dumps {
			return f.ranges()
		}
	}
	return nil
}

// statement returns the question in InfluxQL.
func (q query) statement(measurement string, r ranges.Range, limit, offset int64) string {
	var columns, conditions []string
	for _, column := range recordColumns {
		columns = append(columns, influx.Ident(column))
	}
	for _, filter := range []struct{ tag, value string }{{"vmid", q.vmid}, {"dom", q.dom}} {
		if filter.value != "" {
			conditions = append(conditions, influx.Ident(filter.tag)+" = "+influx.String(filter.value))
		}
	}
	s := statement{
		sel: strings.Join(columns, ","), where: strings.Join(conditions, " AND "),
		tail: fmt.Sprintf("ORDER BY time DESC LIMIT %d OFFSET %d", limit, offset),
	}
	return s.over(measurement, r)
}

// sql returns it for a gateway of the old service's kind.
func (q query) sql(measurement string, r ranges.Range, limit, offset int64) string {
	text := gatewayStatement{sel: "time, " + strings.Join(recordColumns, ", ")}.over(measurement, r)
	for _, filter := range []struct{ tag, value string }{{"vmid", q.vmid}, {"dom", q.dom}} {
		if filter.value != "" {
			word := " WHERE "
			if strings.Contains(text, word) {
				word = " AND "
			}
			text += word + filter.tag + " = '" + strings.ReplaceAll(filter.value, "'", "''") + "'"
		}
	}
	return text + fmt.Sprintf(" ORDER BY time DESC LIMIT %d OFFSET %d", limit, offset)
}

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
		ctx, cancel := context.WithTimeout(r.Context(), h.budget(r.Header))
		defer cancel()
		page := &recordsPage{q: q, w: w, path: r.URL.Path, out: bufio.NewWriterSize(w, 16<<10)}
		err = contain(func() error {
			// Asked before, as the form of the credentials follows the answer; whether it
			// fails or not, the question says what matters.
			_, _ = c.Database.Identify(ctx)
			return c.list(ctx, q, page.add)
		})
		if err == nil {
			err = page.end()
		}
		if err == nil {
			return
		}
		_ = level.Error(c.Logger).Log("msg", "records failed", "reason", reasonOf(err), "err", err)
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
	p.line.Reset()
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
	p.w.WriteHeader(http.StatusOK)
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
		f, err := number.Float64()
		if err != nil {
			return fmt.Errorf("%w: a number that is none", influx.ErrMalformed)
		}
		value = f
	}
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encoding a record: %w", err)
	}
	b.Write(text)
	return nil
}
