// Package ranges keeps figures that are merges of partial answers over ranges of
// time: it cuts time into ranges, keeps what was answered about each, asks again
// what may have changed, and merges. A figure asked about in ranges costs what is
// new since the last time, and is not refused for its age.
//
// It is pure logic: it must know no server, no metric and no clock of its own.
package ranges

import (
	"math"
	"time"
)

// Range is a half-open range of time, [From, To), in nanoseconds since 1970.
type Range struct{ From, To int64 }

// All is all time. Its ends are no times: a request about All names no time, and
// one about a range that shares an end with it names the other end alone.
var All = Range{From: math.MinInt64, To: math.MaxInt64}

// Contains reports whether a time lies in the range.
func (r Range) Contains(ns int64) bool { return r.From <= ns && ns < r.To }

// within returns the part of r that lies in other.
func (r Range) within(other Range) Range {
	return Range{max(r.From, other.From), min(r.To, other.To)}
}

// width returns how long a bounded range is, and 0 for one that is not.
func (r Range) width() time.Duration {
	if !r.bounded() {
		return 0
	}
	return time.Duration(r.To - r.From)
}

// bounded reports whether both ends are times.
func (r Range) bounded() bool { return r.From != All.From && r.To != All.To }

const (
	// narrowest is the width below which a range is not cut any more.
	narrowest = time.Second
	// firstReach is how far beyond its known end an endless range is cut when
	// nothing tells how dense it is.
	firstReach = time.Hour
)

// halves cuts a range in two: (older, newer). The older half of a range without a
// beginning is the endless one, so that cutting again and again walks back in
// growing steps until what is left is accepted whole; likewise into the future. A
// range that is too narrow to be cut gives false. The reach is the width of the
// range beside it, which tells how dense time is there.
func (r Range) halves(now int64, reach time.Duration) (older, newer Range, ok bool) {
	reach = 2 * max(reach, firstReach/2)
	var at int64
	switch {
	case r == All:
		at = now
	case r.From == All.From:
		at = r.To - int64(reach)
		if at > r.To || at < -earliest {
			return r, r, false
		}
	case r.To == All.To && r.From < now:
		at = now
	case r.To == All.To:
		at = r.From + int64(reach)
		if at < r.From {
			return r, r, false
		}
	case r.To-r.From < 2*int64(narrowest):
		return r, r, false
	default:
		at = r.From + (r.To-r.From)/2
	}
	return Range{r.From, at}, Range{at, r.To}, true
}

// earliest is how long before 1970 no server holds a time, in nanoseconds.
const earliest = math.MaxInt64 - 2
