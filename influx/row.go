package influx

import (
	"encoding/json"
	"math"
	"slices"
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
	values  []json.RawMessage // scalars
}

// Value returns the value of a column, and whether the column exists. The value is a string,
// a json.Number, a bool, or nil for null.
func (r Row) Value(column string) (any, bool) {
	for i, name := range r.columns {
		if name == column {
			return scalar(r.values[i]), true
		}
	}
	return nil, false
}

// scalar decodes a JSON scalar. Values are decoded when they are read: the dozens of fields of
// telemetry never are.
func scalar(raw json.RawMessage) any {
	switch raw[0] {
	case 'n':
		return nil
	case 't', 'f':
		return raw[0] == 't'
	case '"':
		var text string
		_ = json.Unmarshal(raw, &text) // no error: the decoder has validated it
		return text
	}
	return json.Number(raw)
}

// HasColumns reports whether the row has a column "time", the named columns, and no other one.
func (r Row) HasColumns(names []string) bool {
	for _, name := range names {
		if !slices.Contains(r.columns, name) {
			return false
		}
	}
	return len(r.columns) == len(names)+1 && slices.Contains(r.columns, "time")
}

// Only returns the name of the only column that is not "time".
func (r Row) Only() (column string, err error) {
	for _, name := range r.columns {
		switch {
		case name == "time":
		case column != "":
			return "", malformed("%d columns: expected one besides time", len(r.columns))
		default:
			column = name
		}
	}
	if column == "" {
		return "", malformed("no column besides time")
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

// Number is a number in a response.
type Number struct {
	// Float is the nearest float64.
	Float float64
	// Whole reports whether Int is exactly the number. A float of 2^53 or more is not Whole,
	// because other numbers round to it.
	Whole bool
	Int   int64
}

// Number returns a column as a number. A number beyond the range of a float64 is
// ErrMalformed, as is anything else.
func (r Row) Number(column string) (Number, error) {
	text, err := r.number(column)
	if err != nil {
		return Number{}, err
	}
	if n, err := strconv.ParseInt(text.String(), 10, 64); err == nil {
		return Number{float64(n), true, n}, nil
	}
	f, err := strconv.ParseFloat(text.String(), 64)
	if err != nil {
		return Number{}, malformed("column %q is %.40q: expected a number", column, text.String())
	}
	const exact = 1 << 53
	// ParseFloat returns 0 for a number that is too small for a float64.
	mantissa, _, _ := strings.Cut(strings.ToLower(text.String()), "e")
	if tiny := f == 0 && strings.ContainsAny(mantissa, "123456789"); tiny || f != math.Trunc(f) || math.Abs(f) >= exact {
		return Number{Float: f}, nil
	}
	return Number{f, true, int64(f)}, nil
}

// Int64 returns a column as a whole number, exactly. Anything that is not a whole Number is
// ErrMalformed.
func (r Row) Int64(column string) (int64, error) {
	number, err := r.Number(column)
	if err == nil && !number.Whole {
		text, _ := r.number(column)
		err = malformed("column %q is %.40q: expected a whole number of 64 bits", column, text.String())
	}
	return number.Int, err
}

// Float64 returns a column as the nearest float64. A number beyond its range is ErrMalformed.
func (r Row) Float64(column string) (float64, error) {
	number, err := r.Number(column)
	return number.Float, err
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
		return 0, malformed("the time is not in RFC 3339, or out of range")
	}
	return t.UnixNano(), nil
}
