package collector

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

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

// Text returns a tag or field of text; false when the record has none.
func (r Record) Text(column string) (string, bool) {
	text, ok := r.Value(column).(string)
	return text, ok
}

// Number returns a numeric field; false when the record has none.
func (r Record) Number(column string) (float64, bool) {
	number, ok := r.Value(column).(json.Number)
	if !ok {
		return 0, false
	}
	f, err := number.Float64()
	return f, err == nil
}

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
func (c *Collector) list(ctx context.Context, q query, each func(Record) error) error {
	l := listing{each: each, left: q.limit}
	skip, found, inPieces := q.offset, false, false
	err := ranges.Walk(ctx, c.Now().UnixNano(), q.span, c.recordsMap(), func(ctx context.Context, r ranges.Range) error {
		// How many records a piece holds is known only when they have been read, so in
		// pieces those to skip are read, too.
		limit, offset := l.left, skip
		if inPieces = r != q.span; inPieces {
			limit, offset = l.left+skip, 0
		}
		in, columns, api := influxQL, recordsInfluxQL, influx.APIInfluxQL
		if c.Database.API() == influx.APIV3Query {
			in, columns, api = sql, recordsSQL, influx.APIV3Query
		}
		request := influx.Request{
			Statement: q.statement(in, columns, limit, offset).over(c.DumpsMeasurement, r, in),
			API:       api,
			MaxBytes:  limit*recordBytes + influx.DefaultMaxBytes,
		}
		err := c.Database.Query(ctx, request, func(row influx.Row) error {
			found = true
			if inPieces && skip > 0 {
				skip--
				return nil
			}
			return l.add(row)
		})
		switch {
		case err != nil:
			return tooWide(err)
		case l.left <= 0:
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
	return l.flush()
}

// listing passes on records in their order.
type listing struct {
	each func(Record) error
	left int64    // how many more are wanted
	tie  []Record // of one time, not yet passed on
}

func (l *listing) add(row influx.Row) (err error) {
	record := Record{values: make([]any, len(recordColumns))}
	if record.TimeNs, err = row.Time(); err != nil {
		return err
	}
	for i, column := range recordColumns {
		record.values[i], _ = row.Value(column)
	}
	if len(l.tie) > 0 && l.tie[0].TimeNs != record.TimeNs {
		err = l.flush()
	}
	l.tie = append(l.tie, record)
	l.left--
	return err
}

func (l *listing) flush() error {
	slices.SortFunc(l.tie, func(a, b Record) int { return strings.Compare(fmt.Sprint(a.values...), fmt.Sprint(b.values...)) })
	for _, r := range l.tie {
		if err := l.each(r); err != nil {
			return err
		}
	}
	l.tie = l.tie[:0]
	return nil
}

// recordsMap is how the server lets itself be asked about dumps, as far as that is known.
func (c *Collector) recordsMap() []ranges.Range {
	for _, f := range c.figures {
		if f.from == dumps {
			return f.known()
		}
	}
	return nil
}

// What a SELECT names of the records; SQL gives no time unasked.
var (
	recordsInfluxQL = `"` + strings.Join(recordColumns, `","`) + `"`
	recordsSQL      = "time, " + strings.Join(recordColumns, ", ")
)

// statement returns the text but for the measurement and the range of time.
func (q query) statement(in dialect, columns string, limit, offset int64) statement {
	var conditions []string
	for _, wanted := range []struct{ tag, value string }{{"vmid", q.vmid}, {"dom", q.dom}} {
		if wanted.value != "" {
			conditions = append(conditions, in.name(wanted.tag)+" = "+in.text(wanted.value))
		}
	}
	return statement{
		sel:   columns,
		where: strings.Join(conditions, " AND "),
		tail:  fmt.Sprintf("ORDER BY time DESC LIMIT %d OFFSET %d", limit, offset),
	}
}
