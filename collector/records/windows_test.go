package records

import (
	"math"
	"testing"
	"time"

	"memdump_exporter/influx"
)

// TestWindows: whatever is rejected, the windows cover the time range, newest first, without gap or
// overlap, in a limited number of steps.
func TestWindows(t *testing.T) {
	const hour, day = int64(time.Hour), 24 * int64(time.Hour)
	now := int64(1762857000) * 1e9
	// files are the times of files; a window with more than limit of them is rejected.
	files := []int64{now + 9*365*day, now + 40*day, now + 2*hour, now + hour, 0, -5 * day, math.MinInt64 + 2}
	for i := range int64(500) {
		files = append(files, now-i*i*hour)
	}
	known := []influx.TimeRange{
		{From: influx.AllTime.From, To: now - 20*day}, {From: now - 20*day, To: now - 3*day}, {From: now - 3*day, To: influx.AllTime.To},
	}
	for name, tt := range map[string]struct {
		all   influx.TimeRange
		limit int
		known []influx.TimeRange
		steps int
	}{
		"all of time":                 {influx.AllTime, 1e9, nil, 4},
		"known ranges":                {influx.AllTime, 1e9, known, 5},
		"up to a time":                {influx.TimeRange{From: influx.AllTime.From, To: now - 5*day}, 1e9, nil, 4},
		"up to a time in the future":  {influx.TimeRange{From: influx.AllTime.From, To: now + 5*day}, 1e9, nil, 4},
		"from a time":                 {influx.TimeRange{From: now - 5*day, To: influx.AllTime.To}, 1e9, nil, 2},
		"from a time in the future":   {influx.TimeRange{From: now + 5*day, To: influx.AllTime.To}, 1e9, nil, 1},
		"a second":                    {influx.TimeRange{From: now - 5e9, To: now - 4e9}, 1e9, nil, 1},
		"the widest range with ends":  {influx.TimeRange{From: math.MinInt64 + 1, To: math.MaxInt64 - 1}, 1e9, nil, 4},
		"the oldest times":            {influx.TimeRange{From: influx.AllTime.From, To: math.MinInt64 + 9}, 1e9, nil, 1},
		"200 files":                   {influx.AllTime, 200, nil, 14},
		"20 files":                    {influx.AllTime, 20, nil, 70},
		"20 files, known ranges":      {influx.AllTime, 20, known, 75},
		"3 files":                     {influx.AllTime, 3, nil, 450},
		"3 files, up to a time":       {influx.TimeRange{From: influx.AllTime.From, To: now + 50*day}, 3, nil, 450},
		"one file, in the future":     {influx.TimeRange{From: now + day, To: influx.AllTime.To}, 1, nil, 30},
		"20 files, the widest range":  {influx.TimeRange{From: math.MinInt64 + 1, To: math.MaxInt64 - 1}, 20, nil, 70},
		"20 files, found at the half": {influx.AllTime, -20, nil, 80},
	} {
		w := newWindows(tt.all, now, tt.known)
		to, steps := tt.all.To, 0
		for ; !w.done() && steps <= tt.steps; steps++ {
			window := w.next()
			if window.To != to || window.From >= window.To || window.From < tt.all.From {
				t.Fatalf("%s: the window %v after %d", name, window, to)
			}
			held := 0
			for _, file := range files {
				if window.Contains(file) {
					held++
				}
			}
			if held > max(tt.limit, -tt.limit) {
				if !w.rejected(window) {
					t.Fatalf("%s: %v can't be narrowed", name, window)
				}
				continue
			}
			if to = window.From; tt.limit < 0 && steps%2 == 0 && window.To < now && window.From > -now {
				to += (window.To - window.From) / 2
			}
			w.accepted(window, to)
		}
		if steps > tt.steps {
			t.Errorf("%s: more than %d windows, up to %v", name, tt.steps, w.left)
		}
	}
}

// TestWindows_rejected: a window that is rejected at any width is not narrowed forever.
func TestWindows_rejected(t *testing.T) {
	for name, all := range map[string]influx.TimeRange{
		"all of time": influx.AllTime, "the past": {From: influx.AllTime.From, To: 5e9},
		"the future": {From: 2e18, To: influx.AllTime.To}, "an instant": {From: 5, To: 6},
	} {
		w := newWindows(all, 1.7e18, nil)
		n := 1
		for w.rejected(w.next()) {
			if n++; n > 30 {
				t.Fatalf("%s: still rejected: %v", name, w.next())
			}
		}
	}
}
