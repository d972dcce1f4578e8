package influx

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestLimitedReader_exactly: a response as long as the limit is complete, also if the reader
// returns its end separately.
func TestLimitedReader_exactly(t *testing.T) {
	const body = `{"results":[{}]}`
	for left, want := range map[int64]error{int64(len(body)): nil, int64(len(body)) - 1: ErrTooLarge} {
		err := decodeResponse(&limitedReader{r: strings.NewReader(body), left: left}, http.StatusOK, nil, nil)
		if !errors.Is(err, want) {
			t.Errorf("a limit of %d: %v, want %v", left, err, want)
		}
	}
}

// TestUTF8Check: a text in pieces of any size is valid exactly if it is UTF-8, or if it ends
// inside a rune, which is truncated JSON anyway.
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
