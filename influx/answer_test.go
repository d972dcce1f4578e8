package influx

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestRow_Time: nanoseconds, and RFC 3339 with and without a zone, are times; what is out
// of the reach of nanoseconds, or none, is refused.
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
		got, err := Row{columns: []string{"time"}, values: []any{value}}.Time()
		if got != want || (err != nil) != (want == 0) || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%v: %d, %v, want %d", value, got, err, want)
		}
	}
}

// TestRow_number: what is no number, or not there, is refused in words that tell which.
func TestRow_number(t *testing.T) {
	row := Row{columns: []string{"time", "text", "null"}, values: []any{json.Number("5"), "7", nil}}
	for column, want := range map[string]string{"time": "", "text": `"text" holds a string`, "null": `"null" holds a <nil>`, "none": `no column "none"`} {
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

// TestRow_Only: one column beside the time, or an error.
func TestRow_Only(t *testing.T) {
	for want, columns := range map[string][][]string{
		"value": {{"value"}, {"time", "value"}, {"value", "time"}},
		"":      {{}, {"time"}, {"time", "a", "b"}, {"a", "time", "b"}},
	} {
		for _, columns := range columns {
			if got, err := (Row{columns: columns}).Only(); got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("%q: %q, %v", columns, got, err)
			}
		}
	}
}

// TestBounded_exactly: an answer as long as its bound is whole, also where its end comes
// after it.
func TestBounded_exactly(t *testing.T) {
	const body = `{"results":[{}]}`
	for left, want := range map[int64]error{int64(len(body)): nil, int64(len(body)) - 1: ErrTooLarge} {
		err := decodeAnswer(&bounded{r: strings.NewReader(body), left: left}, http.StatusOK, nil, nil)
		if !errors.Is(err, want) {
			t.Errorf("a bound of %d: %v, want %v", left, err, want)
		}
	}
}

// TestUTF8Check: whatever the pieces that a text comes in, it is refused exactly when it
// is not UTF-8, but for an end inside a rune, which is truncated JSON anyway.
func TestUTF8Check(t *testing.T) {
	for _, text := range []string{
		"", "plain", "ä", "€uro", "a\u202Eb", "\U0001F4BE\U0001F4BE", "\xff", "a\xc3", "\xc3(", "\xe2\x82(", "\xf0\x9f\x92x", "\xed\xa0\x80", "\xc0\x80", "ok\x80", "\xf4\x90\x80\x80", "\xe2\xe2", "\xe2\xe2\x82",
	} {
		whole, cut := utf8.ValidString(text), false
		for i := max(0, len(text)-utf8.UTFMax); i < len(text); i++ {
			cut = cut || utf8.ValidString(text[:i]) && !utf8.FullRuneInString(text[i:])
		}
		for size := 1; size <= len(text)+1; size++ {
			var c utf8Check
			valid, rest := true, []byte(text)
			for len(rest) > 0 && valid {
				n := min(size, len(rest))
				valid, rest = c.valid(rest[:n]), rest[n:]
			}
			if valid != (whole || cut) || valid && len(c.cut) > 0 != cut {
				t.Errorf("%q in pieces of %d: %v, with %q held; whole %v, cut %v", text, size, valid, c.cut, whole, cut)
			}
		}
	}
}

// TestDescribe: a token is named, and its text, which is foreign, is not told.
func TestDescribe(t *testing.T) {
	body := strings.NewReader(`{"results":[{"series":[{"tags":{"foreign":1}}]}]}`)
	if err := decodeAnswer(&bounded{r: body, left: 100}, http.StatusOK, nil, nil); err == nil || strings.Contains(err.Error(), "foreign") {
		t.Error(err)
	}
	for want, token := range map[string]json.Token{`"{"`: json.Delim('{'), "a string": "x", "a json.Number": json.Number("5"), "a <nil>": nil} {
		if got := describe(token); got != want {
			t.Errorf("%v: %s, want %s", token, got, want)
		}
	}
}
