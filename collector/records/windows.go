package records

import (
	"math"
	"time"

	"memdump_exporter/influx"
)

const (
	firstWidth = 24 * time.Hour
	// maxWidth is the width of the widest window with a beginning.
	maxWidth = 1024 * firstWidth
	// minWidth is the width of a window that is not narrowed further.
	minWidth = time.Second
	// firstReach is the first distance from now to the beginning of the newest window, if the
	// future and the past do not fit into one window.
	firstReach = time.Hour
	// After a window with too few records, the next one is wider by the factor growth, or by
	// slowGrowth once a window has been rejected. A rejected window is divided by shrinkage.
	growth, slowGrowth, shrinkage = 32, 2, 4
)

// windows splits a time range into windows, which are read one after the other, newest first. The
// width of a window follows from the windows before it, as the density of the records is unknown.
type windows struct {
	left  influx.TimeRange
	now   int64
	known []influx.TimeRange // no window crosses the beginning of one of them

	width  time.Duration
	growth time.Duration
	reach  time.Duration // from now to the beginning of the newest window; 0 if that is in the past
}

func newWindows(all influx.TimeRange, now int64, known []influx.TimeRange) *windows {
	return &windows{left: all, now: now, known: known, width: firstWidth, growth: growth}
}

func (w *windows) done() bool { return w.left.From >= w.left.To }

// next returns the newest window of the time that is left.
func (w *windows) next() influx.TimeRange {
	end := w.left.To
	if w.reach == 0 {
		end = min(end, w.now)
	}
	from := w.left.From
	switch {
	case w.reach > 0 && end == influx.AllTime.To:
		from = max(from, w.now+int64(w.reach))
	case w.width <= maxWidth && end > math.MinInt64+int64(w.width):
		from = max(from, end-int64(w.width))
	}
	for _, r := range w.known {
		if r.From < w.left.To {
			from = max(from, r.From)
		}
	}
	return influx.TimeRange{From: from, To: w.left.To}
}

// accepted records that a window has been read from a time on. If that is the beginning of the
// window, it had too few records, and the next window is wider.
func (w *windows) accepted(window influx.TimeRange, from int64) {
	w.left.To = from
	if from == window.From {
		w.width = min(w.width, maxWidth) * w.growth
	}
}

// rejected records that a window is too wide. It returns false if it can't be narrowed.
func (w *windows) rejected(window influx.TimeRange) bool {
	w.growth = slowGrowth
	switch {
	case w.reach == 0 && window.To > w.now:
		w.reach = firstReach
		return true
	case window.To == influx.AllTime.To:
		w.reach *= growth
		return w.reach < maxWidth*growth
	}
	// The difference of two int64 may exceed an int64.
	width := time.Duration(min(uint64(window.To)-uint64(window.From), math.MaxInt64))
	w.width = min(w.width, shrinkage*maxWidth, width) / shrinkage
	return w.width >= minWidth
}
