package rangecache

import "errors"

// ErrStop ends a walk without an error if a visit returns it.
var ErrStop = errors.New("stop")

// maxAhead limits the number of ranges that are still to be visited.
const maxAhead = 20_000

// Walk visits all parts of a range, newest first. It begins with the whole range, or with its
// parts in accepted, if there are any: ranges that succeeded before, oldest first and contiguous.
// If a visit fails with an error that is splittable, Walk splits the range and visits its halves.
// now is in nanoseconds since 1970.
func Walk(now int64, all Range, accepted []Range, splittable func(error) bool, visit func(Range) error) error {
	ahead := []Range{all} // the last one is next
	if len(accepted) > 0 {
		ahead = ahead[:0]
		for _, r := range accepted {
			if part := r.Within(all); !part.Empty() {
				ahead = append(ahead, part)
			}
		}
	}
	var latest Range // the latest range whose visit succeeded
	for len(ahead) > 0 {
		r := ahead[len(ahead)-1]
		ahead = ahead[:len(ahead)-1]
		err := visit(r)
		switch {
		case errors.Is(err, ErrStop):
			return nil
		case err != nil && splittable(err):
			reach := latest.width()
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
			latest = r
		}
	}
	return nil
}
