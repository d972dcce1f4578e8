package influx

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
)

// Row is one row of a response. It is valid until the next row is read.
type Row struct {
	// Measurement is the name of the row's series.
	Measurement string
	// Tags are the tags of a GROUP BY; empty without one. A point without the tag has the
	// empty string.
	Tags map[string]string

	columns []string
	values  []any // string, json.Number, bool or nil
}

// Value returns the value of a column, and whether the column exists. The value is a string,
// a json.Number, a bool, or nil for null.
func (r Row) Value(column string) (any, bool) {
	for i, name := range r.columns {
		if name == column {
			return r.values[i], true
		}
	}
	return nil, false
}

// Only returns the name of the only column that is not "time".
func (r Row) Only() (column string, err error) {
	for _, name := range r.columns {
		switch {
		case name == "time":
		case column != "":
			return "", malformed("%d columns: expected one beside the time", len(r.columns))
		default:
			column = name
		}
	}
	if column == "" {
		return "", malformed("no column beside the time")
	}
	return column, nil
}

func (r Row) number(column string) (json.Number, error) {
	value, ok := r.Value(column)
	if !ok {
		return "", malformed("no column %q in the response", column)
	}
	number, ok := value.(json.Number)
	if !ok {
		return "", malformed("column %q is a %T: expected a number", column, value)
	}
	return number, nil
}

// Int64 returns a column as a whole number, exactly. A whole float below 2^53 is accepted,
// because a writer may store the field as a float; from 2^53 on, other floats round to it.
// Anything else is ErrMalformed.
func (r Row) Int64(column string) (int64, error) {
	number, err := r.number(column)
	if err != nil {
		return 0, err
	}
	if n, err := strconv.ParseInt(number.String(), 10, 64); err == nil {
		return n, nil
	}
	const exact = 1 << 53
	f, err := strconv.ParseFloat(number.String(), 64)
	// ParseFloat returns 0 for a number that is too small for a float64.
	tiny := f == 0 && strings.ContainsAny(number.String(), "123456789")
	if err != nil || tiny || f != math.Trunc(f) || math.Abs(f) >= exact {
		return 0, malformed("column %q is %.40q: expected a whole number of 64 bits", column, number.String())
	}
	return int64(f), nil
}

// Float64 returns a column as the nearest float64. A number beyond its range is ErrMalformed.
func (r Row) Float64(column string) (float64, error) {
	number, err := r.number(column)
	if err != nil {
		return 0, err
	}
	f, err := strconv.ParseFloat(number.String(), 64)
	if err != nil {
		return 0, malformed("column %q is %.40q: expected a float", column, number.String())
	}
	return f, nil
}

// Time returns the column "time" in nanoseconds since 1970. It is a number, as requested by
// epoch=ns, or RFC 3339, in UTC without a zone.
func (r Row) Time() (int64, error) {
	value, _ := r.Value("time")
	text, ok := value.(string)
	if !ok {
		return r.Int64("time")
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t, err = time.Parse("2006-01-02T15:04:05.999999999", text)
	}
	if err != nil || t.Before(time.Unix(0, math.MinInt64)) || t.After(time.Unix(0, math.MaxInt64)) {
		return 0, malformed("the time is another text than RFC 3339, or out of range")
	}
	return t.UnixNano(), nil
}
