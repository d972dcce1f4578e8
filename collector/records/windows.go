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
	// firstReach is how far ahead of now the newest window begins at first, where the future
	// does not fit into one window with what is before it.
	firstReach = time.Hour
	// A window that holds too few records is followed by a wider one. Once a window has been
	// rejected, the next ones grow slowly.
	growth, slowGrowth, shrinkage = 32, 2, 4
)

// windows cuts a time range into windows that are read one after the other, newest first.
// Nothing is known of how dense the records are but from the windows before.
type windows struct {
	left  influx.TimeRange
	now   int64
	known []influx.TimeRange // no window crosses an end of one of them

	width  time.Duration
	growth time.Duration
	reach  time.Duration // from now to the beginning of the newest window; 0 where it reaches back
}

func newWindows(all influx.TimeRange, now int64, known []influx.TimeRange) *windows {
	return &windows{left: all, now: now, known: known, width: firstWidth, growth: growth}
}

func (w *windows) done() bool { return w.left.From >= w.left.To }

// next returns the newest window of what is left.
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

// accepted notes that a window has been read from a time on. If that is its beginning, it held
// too few records.
func (w *windows) accepted(window influx.TimeRange, from int64) {
	w.left.To = from
	if from == window.From {
		w.width = min(w.width, maxWidth) * w.growth
	}
}

// rejected notes that a window is too wide; false if it can't be narrowed.
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
	// The difference of two int64 may be none.
	width := time.Duration(min(uint64(window.To)-uint64(window.From), math.MaxInt64))
	w.width = min(w.width, shrinkage*maxWidth, width) / shrinkage
	return w.width >= minWidth
}
