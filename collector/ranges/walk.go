package ranges

import (
	"context"
	"errors"
)

// ErrStop is what a visit returns to end a walk without an error.
var ErrStop = errors.New("stop")

// Walk visits a span from its newest end to its oldest, in one piece where that is
// accepted: what a visit refuses with ErrTooWide is cut and visited in pieces. The
// map, such as a Figure's Map, says what has been accepted before; it may be empty.
// Nothing is kept.
func Walk(ctx context.Context, now int64, span Range, known []Range, visit func(context.Context, Range) error) error {
	ahead := []Range{span} // the next to visit is the last
	if len(known) > 0 {
		ahead = ahead[:0]
		for _, r := range known {
			if part := r.within(span); part.From < part.To {
				ahead = append(ahead, part)
			}
		}
	}
	var beside Range
	for len(ahead) > 0 {
		r := ahead[len(ahead)-1]
		ahead = ahead[:len(ahead)-1]
		err := visit(ctx, r)
		switch {
		case errors.Is(err, ErrStop):
			return nil
		case errors.Is(err, ErrTooWide):
			older, newer, ok := r.halves(now, beside.width())
			if !ok || len(ahead) >= mostRanges {
				return err
			}
			ahead = append(ahead, older, newer)
		case err != nil:
			return err
		default:
			beside = r
		}
	}
	return nil
}

// Map returns the ranges that the figure is asked about, oldest first; nil when it is
// asked about as a whole, or when that is being worked on right now.
func (f *Figure[P]) Map() []Range {
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	default:
		return nil
	}
	var known []Range
	for i := range f.tiles {
		known = append(known, f.tiles[i].Range)
	}
	return known
}
