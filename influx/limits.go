package influx

import (
	"errors"
	"io"
	"unicode/utf8"
)

// maxHeldBytes limits how much is read before a row is complete, and held in memory.
const maxHeldBytes = 1 << 20

// limitedReader reads at most left bytes, and at most hold of them before the next row. It
// fails with ErrTooLarge beyond, so that a truncated response is never complete. It rejects
// what is not UTF-8, because encoding/json maps different invalid names to one.
type limitedReader struct {
	r          io.Reader
	left, hold int64
	text       utf8Check
	err        error // sticky: json.Decoder.More drops an error and reads again
}

func (b *limitedReader) Read(p []byte) (n int, err error) {
	if b.err == nil {
		n, b.err = b.read(p)
	}
	return n, b.err
}

func (b *limitedReader) read(p []byte) (int, error) {
	limit := min(b.left, b.hold)
	if limit <= 0 {
		if n, err := b.r.Read(p[:1]); n == 0 {
			return 0, err
		}
		return 0, &Error{Kind: ErrTooLarge, Err: errors.New("the response exceeds the limit of this request")}
	}
	n, err := b.r.Read(p[:min(int64(len(p)), limit)])
	b.left -= int64(n)
	b.hold -= int64(n)
	if !b.text.valid(p[:n]) {
		return 0, malformed("the response is not UTF-8")
	}
	return n, err
}

// utf8Check validates a text that arrives in pieces.
type utf8Check struct{ cut []byte } // incomplete rune at the end of the last piece

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
