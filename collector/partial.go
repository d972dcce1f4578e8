package collector

import (
	"fmt"
	"maps"

	"memdump_exporter/collector/ranges"
)

// A partial is what one request about one range of time answers.
type partial[P any] interface {
	ranges.Partial[P]
	// empty reports whether nothing was found. Servers answer "nothing there" and
	// "no such field" alike, so an empty partial is looked into before it counts.
	empty() bool
}

// total is a count or a sum, exact.
type total int64

func (t total) Merge(other total) (total, error) {
	sum := t + other
	if (sum > t) != (other > 0) {
		return 0, fmt.Errorf("%w: %d + %d overflows 64 bits", errOutOfRange, t, other)
	}
	return sum, nil
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

// byKey is the newest point of each value of a tag, and what that point says beside.
type byKey[T any] map[string]point[T]

type point[T any] struct {
	ns   int64 // since 1970
	says T
}

// members are the distinct values of a tag; a point says the name of the VM, in telemetry.
type members = byKey[string]

// places are where the newest dump of each VM was made.
type places = byKey[place]

type place struct{ dom, host string }

func (k byKey[T]) Merge(other byKey[T]) (byKey[T], error) {
	merged := make(byKey[T], max(len(k), len(other)))
	maps.Copy(merged, k)
	for key, p := range other {
		merged.add(key, p)
	}
	return merged, nil
}

func (k byKey[T]) empty() bool { return len(k) == 0 }

func (k byKey[T]) add(key string, p point[T]) {
	if known, ok := k[key]; !ok || p.ns > known.ns {
		k[key] = p
	}
}

// within counts the keys whose newest point lies in the range.
func (k byKey[T]) within(r ranges.Range) int {
	if r == ranges.All {
		return len(k)
	}
	n := 0
	for _, p := range k {
		if r.Contains(p.ns) {
			n++
		}
	}
	return n
}
