package collector

import (
	"context"
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
		case err != nil:
			return tooWide(err)
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
	var columns []string
	for _, column := range recordColumns {
		columns = append(columns, influx.Ident(column))
	}
	return statement{
		sel: strings.Join(columns, ","), tail: page(limit, offset),
		where: q.filter(func(tag, value string) string { return influx.Ident(tag) + " = " + influx.String(value) }),
	}.over(measurement, r)
}

// sql returns it for a gateway of the old service's kind.
func (q query) sql(measurement string, r ranges.Range, limit, offset int64) string {
	return gatewayStatement{
		sel: "time, " + strings.Join(recordColumns, ", "), tail: page(limit, offset),
		where: q.filter(func(tag, value string) string { return tag + " = '" + strings.ReplaceAll(value, "'", "''") + "'" }),
	}.over(measurement, r)
}

func page(limit, offset int64) string {
	return fmt.Sprintf("ORDER BY time DESC LIMIT %d OFFSET %d", limit, offset)
}

// filter joins the conditions on names, each written by equal.
func (q query) filter(equal func(tag, value string) string) string {
	var conditions []string
	if q.vmid != "" {
		conditions = append(conditions, equal("vmid", q.vmid))
	}
	if q.dom != "" {
		conditions = append(conditions, equal("dom", q.dom))
	}
	return strings.Join(conditions, " AND ")
}
