package influx

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
)

// TestRow_Time: nanoseconds and RFC 3339, with and without a zone, are times; a time out of
// the range of nanoseconds, or none, is an error.
func TestRow_Time(t *testing.T) {
	for value, want := range map[any]int64{
		json.Number("1762857000000000001"): 1762857000000000001,
		json.Number("-5"):                  -5,
		"1970-01-01T00:00:01Z":             1e9,
		"1970-01-01T01:00:01.5+01:00":      1.5e9,
		"1970-01-01T00:00:02":              2e9,
		"1970-01-01T00:00:02.000000003":    2e9 + 3,
		"1677-09-21T00:12:43.145224192Z":   -9223372036854775808,
		"2262-04-11T23:47:16.854775807Z":   9223372036854775807,
		"1677-09-21T00:12:43.145224191Z":   0,
		"2262-04-11T23:47:16.854775808Z":   0,
		"1970-01-01":                       0,
		"":                                 0,
		nil:                                0,
		json.Number("1.5"):                 0,
	} {
		got, err := newRow([]string{"time"}, value).Time()
		if got != want || (err != nil) != (want == 0) || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%v: %d, %v, want %d", value, got, err, want)
		}
	}
}

// TestRow_number: the error of a column distinguishes a missing one from one that is not a number.
func TestRow_number(t *testing.T) {
	row := newRow([]string{"time", "text", "null"}, json.Number("5"), "7", nil)
	for column, want := range map[string]string{
		"time": "", "text": `"text" is a string`, "null": `"null" is a <nil>`, "none": `no column "none"`,
	} {
		n, errN := row.Int64(column)
		f, errF := row.Float64(column)
		if want == "" {
			if n != 5 || f != 5 || errN != nil || errF != nil {
				t.Errorf("%s: %d, %v, %v, %v", column, n, f, errN, errF)
			}
			continue
		}
		for _, err := range []error{errN, errF} {
			if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", column, err, want)
			}
		}
	}
}

// TestRow_Number: whole numbers of 64 bits are exact, in any notation below 2^53; any other
// number is the nearest float64, such as the sums of floats of InfluxDB 3 from 2^53 on.
func TestRow_Number(t *testing.T) {
	for text, want := range map[string]Number{
		"0":                      {0, true, 0},
		"-0":                     {0, true, 0},
		"0.0":                    {0, true, 0},
		"0e5":                    {0, true, 0},
		"10.0":                   {10, true, 10},
		"1e3":                    {1000, true, 1000},
		"9007199254740991.0":     {9007199254740991, true, 9007199254740991},
		"9007199254740993":       {9007199254740992, true, 9007199254740993},
		"9223372036854775807":    {9223372036854775807, true, 9223372036854775807},
		"-9223372036854775808":   {-9223372036854775808, true, -9223372036854775808},
		"9007199254740992.0":     {9007199254740992, false, 0},
		"9.007199254740994e15":   {9007199254740994, false, 0},
		"9.007199254740993e15":   {9007199254740992, false, 0},
		"6.0129542737E10":        {60129542737, true, 60129542737},
		"9223372036854775808":    {9223372036854775808, false, 0},
		"-9.223372036854776e18":  {-9223372036854775808, false, 0},
		"18446744073709551615":   {18446744073709551615, false, 0},
		"1.7976931348623157e308": {math.MaxFloat64, false, 0},
		"0.5":                    {0.5, false, 0},
		"-879.25":                {-879.25, false, 0},
		"1e-400":                 {0, false, 0},
		"1e-300":                 {1e-300, false, 0},
	} {
		row := newRow([]string{"sum"}, json.Number(text))
		got, err := row.Number("sum")
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
		if n, err := row.Int64("sum"); n != want.Int || (err == nil) != want.Whole {
			t.Errorf("%s as an integer: %d, %v, want %+v", text, n, err, want)
		}
		if f, err := row.Float64("sum"); err != nil || f != want.Float {
			t.Errorf("%s as a float: %v, %v, want %v", text, f, err, want.Float)
		}
	}
	for _, value := range []any{json.Number("1e999"), json.Number("-1e309"), "7", nil, true} {
		if got, err := (newRow([]string{"sum"}, value)).Number("sum"); !errors.Is(err, ErrMalformed) || got != (Number{}) {
			t.Errorf("%v: %+v, %v, want malformed", value, got, err)
		}
	}
	if _, err := (Row{}).Number("sum"); !errors.Is(err, ErrMalformed) {
		t.Errorf("no column: %v, want malformed", err)
	}
}

// TestRow_Only: the only column besides time, or an error.
func TestRow_Only(t *testing.T) {
	for columns, want := range map[string]string{
		"value": "value", "time value": "value", "value time": "value", "": "", "time": "", "time a b": "", "a time b": "",
	} {
		got, err := (Row{columns: strings.Fields(columns)}).Only()
		if got != want {
			t.Errorf("%q: %q, want %q", columns, got, want)
		}
		if failed := errors.Is(err, ErrMalformed); failed != (want == "") {
			t.Errorf("%q: %v", columns, err)
		}
	}
}

// newRow returns a row as the decoder makes it.
func newRow(columns []string, values ...any) Row {
	row := Row{columns: columns}
	for _, value := range values {
		raw, err := json.Marshal(value)
		if number, ok := value.(json.Number); ok { // also one that Marshal rejects
			raw, err = []byte(number), nil
		}
		if err != nil {
			panic(err)
		}
		row.values = append(row.values, raw)
	}
	return row
}
