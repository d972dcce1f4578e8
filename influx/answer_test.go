package influx

import (
	"testing"
	"unicode/utf8"
)

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
