package influx

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
)

// Row is one row of an answer. It is valid only during the call it is passed to.
type Row struct {
	// Measurement is the name of the series that the row belongs to.
	Measurement string
	// Tags are the tags of a GROUP BY, empty without one. A point without the tag
	// has the empty string.
	Tags map[string]string

	columns []string
	values  []any // string, json.Number, bool or nil
}

// Value returns the value of a column: a string, json.Number, bool, or nil for
// null; and whether there is such a column.
func (r Row) Value(column string) (any, bool) {
	for i, name := range r.columns {
		if name == column {
			return r.values[i], true
		}
	}
	return nil, false
}

// Only returns the name of the one column that is not "time".
func (r Row) Only() (column string, err error) {
	for _, name := range r.columns {
		switch {
		case name == "time":
		case column != "":
			return "", malformed("%d columns where one beside the time was expected", len(r.columns))
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
		return "", malformed("no column %q in the answer", column)
	}
	number, ok := value.(json.Number)
	if !ok {
		return "", malformed("column %q holds a %T where a number was expected", column, value)
	}
	return number, nil
}

// Int64 returns a column as a whole number, exactly. A float that is whole and below
// 2^53, where others would be rounded to it, is taken, as a server may hold the field
// as a float; anything else is ErrMalformed.
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
	// What is too small for a float64 is parsed as 0.
	tiny := f == 0 && strings.ContainsAny(number.String(), "123456789")
	if err != nil || tiny || f != math.Trunc(f) || math.Abs(f) >= exact {
		return 0, malformed("column %q holds %.40q where a whole number of 64 bits was expected", column, number.String())
	}
	return int64(f), nil
}

// Float64 returns a column as a float; a number beyond float64 is ErrMalformed.
func (r Row) Float64(column string) (float64, error) {
	number, err := r.number(column)
	if err != nil {
		return 0, err
	}
	f, err := strconv.ParseFloat(number.String(), 64)
	if err != nil {
		return 0, malformed("column %q holds %.40q where a float was expected", column, number.String())
	}
	return f, nil
}

// Time returns the column "time" in nanoseconds since 1970: a number, as epoch=ns
// asks for, or RFC 3339, in UTC where it names no zone.
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
		return 0, malformed("the time is a text where nanoseconds or RFC 3339 were expected")
	}
	return t.UnixNano(), nil
}
