package collector

import (
	"fmt"
	"math"

	"memdump_exporter/collector/ranges"
)

// A partial is what one question about one range of time answers.
type partial[P any] interface {
	ranges.Partial[P]
	// empty reports whether nothing was found. Servers answer "nothing there" and
	// "no such field" alike, so an empty partial is looked into before it counts.
	empty() bool
}

// total is a count or a sum, exact.
type total int64

func (t total) Merge(other total) (total, error) {
	if (other > 0 && t > math.MaxInt64-other) || (other < 0 && t < math.MinInt64-other) {
		return 0, fmt.Errorf("%w: %d + %d overflows 64 bits", errOutOfRange, t, other)
	}
	return t + other, nil
}

func (t total) empty() bool { return t == 0 }

// mean is what a mean is made of.
type mean struct {
	sum   float64
	count int64
}

func (m mean) Merge(other mean) (mean, error) {
	return mean{m.sum + other.sum, m.count + other.count}, nil
}

func (m mean) empty() bool { return m.count == 0 }

// newest is the newest time of anything, in nanoseconds since 1970.
type newest struct {
	ns    int64
	known bool
}

func (n newest) Merge(other newest) (newest, error) {
	if !n.known || other.known && other.ns > n.ns {
		return other, nil
	}
	return n, nil
}

func (n newest) empty() bool { return !n.known }

// members are the distinct values of a tag, each with its newest point.
type members map[string]member

// member is the newest point of one of them.
type member struct {
	ns   int64  // since 1970
	name string // of the VM, in telemetry; empty in dumps
}

func (m members) Merge(other members) (members, error) {
	if len(m) < len(other) {
		m, other = other, m
	}
	merged := make(members, len(m))
	for _, side := range []members{m, other} {
		for value, point := range side {
			merged.add(value, point)
		}
	}
	return merged, nil
}

func (m members) empty() bool { return len(m) == 0 }

func (m members) add(value string, point member) {
	if known, ok := m[value]; !ok || point.ns > known.ns {
		m[value] = point
	}
}

// within counts the members whose newest time lies in the range.
func (m members) within(r ranges.Range) int {
	if r == ranges.All {
		return len(m)
	}
	n := 0
	for _, point := range m {
		if r.Contains(point.ns) {
			n++
		}
	}
	return n
}
