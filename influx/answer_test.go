package influx

import (
	"encoding/json"
	"errors"
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

// TestUTF8Check: whatever the pieces that a text comes in, it is refused exactly when it
// is not UTF-8, but for an end inside a rune, which is truncated JSON anyway.
func TestUTF8Check(t *testing.T) {
	for _, text := range []string{
		"", "plain", "ä", "€uro", "a\u202Eb", "\U0001F4BE\U0001F4BE", "\xff", "a\xc3", "\xc3(", "\xe2\x82(", "\xf0\x9f\x92x", "\xed\xa0\x80", "\xc0\x80", "ok\x80", "\xf4\x90\x80\x80",
	} {
		for size := 1; size <= len(text)+1; size++ {
			var c utf8Check
			valid, rest := true, []byte(text)
			for len(rest) > 0 && valid {
				n := min(size, len(rest))
				valid, rest = c.valid(rest[:n]), rest[n:]
			}
			if want := utf8.ValidString(text); (valid && len(c.cut) == 0) != want {
				t.Errorf("%q in pieces of %d: %v, want %v", text, size, valid, want)
			}
		}
	}
}
