// Package rangecache stores one aggregate for each settled time range: it splits time into
// ranges, says which of them to fetch or refresh, and merges their aggregates.
//
// It is pure logic. It must know no server, no metric and no clock.
package rangecache

import (
	"math"
	"time"
)

// Range is a half-open range of time, [From, To), in nanoseconds since 1970. It is unbounded
// where it shares an end with All.
type Range struct{ From, To int64 }

// All is unbounded.
var All = Range{From: math.MinInt64, To: math.MaxInt64}

// Contains reports whether a time lies in the range.
func (r Range) Contains(ns int64) bool { return r.From <= ns && ns < r.To }

// Within returns the part of r that lies in other. It is empty where From is not before To.
func (r Range) Within(other Range) Range {
	return Range{max(r.From, other.From), min(r.To, other.To)}
}

// Empty reports whether the range holds no time.
func (r Range) Empty() bool { return r.From >= r.To }

// width returns the length of a bounded range, and 0 for one that is not.
func (r Range) width() time.Duration {
	if !r.bounded() {
		return 0
	}
	return time.Duration(r.To - r.From)
}

func (r Range) bounded() bool { return r.From != All.From && r.To != All.To }

const (
	// minWidth is the width below which a range is not split any more.
	minWidth = time.Second
	// firstReach is how far beyond its bounded end an unbounded range is split when no
	// neighbour tells how dense its data is.
	firstReach = time.Hour
	// minTime is the earliest time of any server, in nanoseconds since 1970.
	minTime = -(math.MaxInt64 - 2)
)

// Split cuts a range in two. The older half of a range without a lower bound is the unbounded
// one, so that repeated splits walk back in growing steps until the rest is accepted; likewise
// into the future. Reach is the width of the neighbouring range, which tells how dense the
// data is there. ok is false when the range is too narrow.
func (r Range) Split(now int64, reach time.Duration) (older, newer Range, ok bool) {
	reach = 2 * max(reach, firstReach/2)
	var at int64
	switch {
	case r == All:
		at = now
	case r.From == All.From:
		at = r.To - int64(reach)
		if at > r.To || at < minTime {
			return r, r, false
		}
	case r.To == All.To && r.From < now:
		at = now
	case r.To == All.To:
		at = r.From + int64(reach)
		if at < r.From {
			return r, r, false
		}
	case r.To-r.From < 2*int64(minWidth):
		return r, r, false
	default:
		at = r.From + (r.To-r.From)/2
	}
	return Range{r.From, at}, Range{at, r.To}, true
}
