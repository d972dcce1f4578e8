package records

import (
	"fmt"
	"strings"

	"memdump_exporter/influx"
)

// selected are the columns of a record, in InfluxQL.
var selected = func() string {
	var names []string
	for _, tag := range tags {
		names = append(names, influx.Tag(tag)+" AS "+influx.Ident(tag))
	}
	for _, field := range fields {
		names = append(names, influx.Field(field)+" AS "+influx.Ident(field))
	}
	return strings.Join(names, ",")
}()

// selectRecords selects all records of a time range, newest first. It has no LIMIT: InfluxDB
// 3.8 and later apply LIMIT and OFFSET to each field separately, so a row could have values of
// several records.
func (l *listing) selectRecords(r influx.TimeRange) string {
	return l.statement(selected, r, "ORDER BY time DESC")
}

// These columns identify the response: a cache may return that of another statement.
const nthColumn, recordsColumn = "nth", "dump_path"

// selectNth selects the hash of the n-th newest record with a hash in a time range.
func (l *listing) selectNth(r influx.TimeRange, n int64) string {
	return l.statement(influx.Field("sha256")+" AS "+influx.Ident(nthColumn), r, fmt.Sprintf("ORDER BY time DESC LIMIT 1 OFFSET %d", n-1))
}

func (l *listing) statement(columns string, r influx.TimeRange, tail string) string {
	return influx.Statement{
		Columns: columns, Policy: l.source.Policy, From: []string{l.source.Measurement}, Where: l.query.conditions(influx.InfluxQL, influx.Tag),
		Time: r, Tail: tail,
	}.Text(influx.InfluxQL)
}

// selectSQL selects a page of records from a v3-query gateway, where LIMIT counts rows.
func (l *listing) selectSQL() string {
	return influx.Statement{
		Columns: "time, " + strings.Join(columns, ", "), Policy: l.source.Policy, From: []string{l.source.Measurement},
		Where: l.query.conditions(influx.SQL, influx.SQL.Ident), Time: l.query.Time,
		Tail: fmt.Sprintf("ORDER BY time DESC LIMIT %d OFFSET %d", l.query.Limit, l.query.Offset),
	}.Text(influx.SQL)
}

// conditions returns the conditions on tags.
func (q Query) conditions(d influx.Dialect, tag func(string) string) []string {
	var all []string
	for i, value := range []string{q.Dom, q.VMID} {
		if value != "" {
			all = append(all, tag(tags[i])+" = "+d.String(value))
		}
	}
	return all
}
