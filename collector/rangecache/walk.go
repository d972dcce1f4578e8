package rangecache

import "errors"

// ErrStop is what a visit returns to end a walk without an error.
var ErrStop = errors.New("stop")

// maxAhead limits the ranges that wait to be visited.
const maxAhead = 20_000

// Walk visits a span from its newest end to its oldest: in one piece where that succeeds. A
// range whose visit fails with an error that is splittable is split and visited in pieces.
// Known are ranges that succeeded before, oldest first; there may be none. Now is in
// nanoseconds since 1970.
func Walk(now int64, span Range, known []Range, splittable func(error) bool, visit func(Range) error) error {
	ahead := []Range{span} // the last one is next
	if len(known) > 0 {
		ahead = ahead[:0]
		for _, r := range known {
			if part := r.Within(span); !part.Empty() {
				ahead = append(ahead, part)
			}
		}
	}
	var beside Range
	for len(ahead) > 0 {
		r := ahead[len(ahead)-1]
		ahead = ahead[:len(ahead)-1]
		err := visit(r)
		switch {
		case errors.Is(err, ErrStop):
			return nil
		case err != nil && splittable(err):
			reach := beside.width()
			if reach == 0 && len(ahead) > 0 {
				reach = ahead[len(ahead)-1].width()
			}
			older, newer, ok := r.Split(now, reach)
			if !ok || len(ahead) >= maxAhead {
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
