// Package ranges keeps figures that are merges of partial answers over ranges of
// time. It is pure logic: it must know no server, no metric and no clock of its own.
package ranges

import "math"

// Range is a half-open range of time, [From, To), in nanoseconds since 1970.
type Range struct{ From, To int64 }

// All is all time. Its ends are no times: a question about All names no time.
var All = Range{From: math.MinInt64, To: math.MaxInt64}

// Contains reports whether a time lies in the range.
func (r Range) Contains(ns int64) bool { return r.From <= ns && ns < r.To }
