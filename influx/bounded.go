package influx

import (
	"errors"
	"io"
	"unicode/utf8"
)

// maxHeldBytes bounds what is read before a row is complete, as that is held.
const maxHeldBytes = 1 << 20

// bounded reads at most left bytes, and at most hold of them before the next row, and
// fails with ErrTooLarge beyond, so that a cut answer can't pass for a whole one. It
// refuses what is not UTF-8, of which encoding/json would make one name of many.
type bounded struct {
	r          io.Reader
	left, hold int64
	text       utf8Check
	err        error // json.Decoder.More drops an error, and asks again
}

func (b *bounded) Read(p []byte) (n int, err error) {
	if b.err == nil {
		n, b.err = b.read(p)
	}
	return n, b.err
}

func (b *bounded) read(p []byte) (int, error) {
	most := min(b.left, b.hold)
	if most <= 0 {
		if n, err := b.r.Read(p[:1]); n == 0 {
			return 0, err
		}
		return 0, &Error{Kind: ErrTooLarge, Err: errors.New("the answer exceeds the bound for this request")}
	}
	n, err := b.r.Read(p[:min(int64(len(p)), most)])
	b.left -= int64(n)
	b.hold -= int64(n)
	if !b.text.valid(p[:n]) {
		return 0, malformed("the answer is not UTF-8")
	}
	return n, err
}

// utf8Check checks a text that comes in pieces.
type utf8Check struct{ cut []byte } // the beginning of a rune that the next piece ends

func (c *utf8Check) valid(piece []byte) bool {
	for len(c.cut) > 0 && len(piece) > 0 {
		c.cut, piece = append(c.cut, piece[0]), piece[1:]
		if !utf8.FullRune(c.cut) {
			continue
		}
		if !utf8.Valid(c.cut) {
			return false
		}
		c.cut = c.cut[:0]
	}
	for i := len(piece) - 1; i >= max(0, len(piece)-utf8.UTFMax); i-- {
		if utf8.RuneStart(piece[i]) {
			if !utf8.FullRune(piece[i:]) {
				c.cut, piece = append(c.cut, piece[i:]...), piece[:i]
			}
			break
		}
	}
	return utf8.Valid(piece)
}
