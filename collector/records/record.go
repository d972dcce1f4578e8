package records

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"memdump_exporter/influx"
)

// A record has a time and these tags and fields, in this order; other fields of the measurement
// are omitted.
var (
	tags    = []string{"dom", "vmid"}
	fields  = []string{"sha256", "duration_sec", "gzip_size_bytes", "ctime", "mtime", "atime", "dump_path"}
	columns = slices.Concat(tags, fields)
)

// Record is a point of the measurement of the dumps.
type Record struct {
	TimeNs int64 // since 1970
	values []any // of columns: string, int64, float64, bool, or nil
	// place is the position among the selected records with the same time; -1 if it is unknown.
	place int64
}

// newRecord reads a row.
func newRecord(row influx.Row) (r Record, err error) {
	if r.TimeNs, err = row.Time(); err != nil {
		return r, err
	}
	r.values = make([]any, len(columns))
	for i, column := range columns {
		r.values[i], _ = row.Value(column)
		if number, ok := r.values[i].(json.Number); ok {
			if r.values[i], err = exact(number); err != nil {
				return r, err
			}
		}
	}
	return r, nil
}

// exact returns integers as int64, because a float64 would round them.
func exact(number json.Number) (any, error) {
	if n, err := strconv.ParseInt(number.String(), 10, 64); err == nil {
		return n, nil
	}
	f, err := number.Float64()
	if err != nil {
		return nil, fmt.Errorf("%w: a record holds a number beyond 64 bits", influx.ErrMalformed)
	}
	return f, nil
}

func (r Record) value(column string) any { return r.values[slices.Index(columns, column)] }

// Text returns a tag or a string field; false if the record has none.
func (r Record) Text(column string) (string, bool) {
	text, ok := r.value(column).(string)
	return text, ok
}

// Number returns a numeric field; false if the record has none.
func (r Record) Number(column string) (float64, bool) {
	switch number := r.value(column).(type) {
	case int64:
		return float64(number), true
	case float64:
		return number, true
	}
	return 0, false
}

// MarshalJSON encodes the record: integers as their digits, floats as the shortest text that
// reads back as them.
func (r Record) MarshalJSON() ([]byte, error) {
	text := append([]byte(`{"timestamp":`), strconv.Quote(time.Unix(0, r.TimeNs).UTC().Format("2006-01-02T15:04:05.000Z"))...)
	for i, column := range columns {
		value, err := json.Marshal(r.values[i])
		if err != nil {
			return nil, fmt.Errorf("encoding a record: %w", err)
		}
		text = append(append(append(text, `,"`...), column...), `":`...)
		text = append(text, value...)
	}
	return append(text, '}'), nil
}
