// Package rangecache stores one aggregate for each settled time range. It splits time into
// ranges, selects the ranges to fetch or refresh, and merges their aggregates.
//
// It is pure logic: it contains no server, no metric and no clock.
package rangecache

import (
	"math"
	"time"
)

// Range is a half-open range of time, [From, To), in nanoseconds since 1970. An end that is equal
// to that of All is unbounded.
type Range struct{ From, To int64 }

// All is unbounded.
var All = Range{From: math.MinInt64, To: math.MaxInt64}

// Contains reports whether a time lies in the range.
func (r Range) Contains(ns int64) bool { return r.From <= ns && ns < r.To }

// Within returns the part of r that lies in other. It may be empty.
func (r Range) Within(other Range) Range {
	return Range{max(r.From, other.From), min(r.To, other.To)}
}

// Empty reports whether the range holds no time.
func (r Range) Empty() bool { return r.From >= r.To }

// width returns the length of a bounded range, and 0 for an unbounded one.
func (r Range) width() time.Duration {
	if !r.bounded() {
		return 0
	}
	return time.Duration(r.To - r.From)
}

func (r Range) bounded() bool { return r.From != All.From && r.To != All.To }

const (
	// minWidth is the minimum width of the halves of a range.
	minWidth = time.Second
	// firstReach is the distance between the bounded end of a range and the time where it is
	// split, if no neighbour shows how dense its data is.
	firstReach = time.Hour
	// minTime is the earliest time that a server accepts, in nanoseconds since 1970.
	minTime = -(math.MaxInt64 - 2)
)

// Split splits a range in two: a bounded one in the middle; All, and a range without an upper end
// that contains now, at now; any other at twice the reach from its bounded end, so that repeated
// splits move away from that end in growing steps until the rest is accepted. reach is the width
// of the neighbouring range, which shows how dense the data is. ok is false if the range is too
// narrow.
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
