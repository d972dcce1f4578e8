package ranges

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	hour = int64(time.Hour)
	now  = 1000 * hour
)

// figureOf has known tiles between these times, each asked about an hour ago and holding
// the time of its beginning.
func figureOf(settle time.Duration, at ...int64) *Figure[ids] {
	f := New[ids](Config{Mode: Cached, Settle: settle})
	for i, to := range at[1:] {
		f.tiles = append(f.tiles, tile[ids]{Range: Range{at[i], to}, partial: ids{at[i]}, asked: now - hour, took: time.Second})
	}
	return f
}

// cuts are the times between which the tiles lie.
func cuts(f *Figure[ids]) []int64 {
	at := []int64{f.tiles[0].From}
	for _, t := range f.tiles {
		at = append(at, t.To)
	}
	return at
}

func TestFigure_lay(t *testing.T) {
	for _, tt := range []struct {
		settle time.Duration
		from   int64
		want   []int64
	}{
		{time.Hour, now - hour/2, []int64{now - hour/2, All.To}},
		{time.Hour, now - hour, []int64{now - hour, All.To}},
		{time.Hour, now - 3*hour, []int64{now - 3*hour, now - 2*hour, now - hour, All.To}},
		{time.Hour, now - 4*hour, []int64{now - 4*hour, now - 2*hour, now - hour, All.To}},
		{0, now - 4e9, []int64{now - 4e9, now - 2e9, now - 1e9, All.To}},
	} {
		f := New[ids](Config{Settle: tt.settle})
		f.lay(now, Range{tt.from, All.To})
		if got := cuts(f); !slices.Equal(got, tt.want) {
			t.Errorf("settling in %v, from %d: %v, want %v", tt.settle, tt.from, got, tt.want)
		}
	}
	f := New[ids](Config{Settle: time.Hour})
	f.lay(now, All)
	if n, first := len(f.tiles), f.tiles[0]; n != 20 || first.From != All.From || first.To < now-100*365*24*hour {
		t.Errorf("all time is %d ranges, the first %v", n, first.Range)
	}
}

// TestFigure_arrange: the newest is cut where it has settled, once that is a step away.
func TestFigure_arrange(t *testing.T) {
	for _, tt := range []struct {
		settle time.Duration
		newest int64 // its beginning
		cut    bool
	}{
		{8 * time.Hour, now - 9*hour, true}, {8 * time.Hour, now - 9*hour + 1, false},
		{0, now - 1e9, true}, {0, now - 1e9 + 1, false},
		{8 * time.Hour, All.From, false},
	} {
		f := figureOf(tt.settle, tt.newest, All.To)
		f.arrange(now, Range{tt.newest, All.To})
		want := []int64{tt.newest, All.To}
		if tt.cut {
			want = []int64{tt.newest, now - int64(tt.settle), All.To}
		}
		if got := cuts(f); !slices.Equal(got, want) {
			t.Errorf("%+v: %v, want %v", tt, got, want)
		}
	}
	// A refusal is forgotten after a day, one a call.
	f := figureOf(0, All.From, All.To)
	day := 24 * hour
	f.refusals = []refusal{{Range{1, 2}, now - day - 2}, {Range{3, 4}, now - day - 1}, {Range{5, 6}, now - day}}
	for _, want := range []int{2, 1, 1} {
		if f.arrange(now, All); len(f.refusals) != want {
			t.Errorf("%d refusals, want %d", len(f.refusals), want)
		}
	}
}

// TestFigure_open: what is not known is open, and what ended later than the settling
// time before it was asked about.
func TestFigure_open(t *testing.T) {
	f := New[ids](Config{Settle: time.Hour})
	for _, tt := range []struct {
		to, asked int64
		want      bool
	}{
		{-5 * hour, 0, true}, {now - hour, now, false}, {now - hour + 1, now, true}, {All.To, now, true},
	} {
		if got := f.open(&tile[ids]{Range: Range{All.From, tt.to}, asked: tt.asked}); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

// TestFigure_join: neighbours become one when both are closed and as old as both are
// wide, and nothing of them is lost or taken for newer than it is.
func TestFigure_join(t *testing.T) {
	at := []int64{now - 30*hour, now - 20*hour, now - 15*hour, All.To}
	for name, tt := range map[string]struct {
		now    int64
		change func(f *Figure[ids])
		joins  bool
	}{
		"old enough":      {now, func(*Figure[ids]) {}, true},
		"too young":       {now - 1, func(*Figure[ids]) {}, false},
		"older unknown":   {now, func(f *Figure[ids]) { f.tiles[0].asked = 0 }, false},
		"newer unknown":   {now, func(f *Figure[ids]) { f.tiles[1].asked = 0 }, false},
		"newer unsettled": {now, func(f *Figure[ids]) { f.tiles[1].asked = now - 15*hour }, false},
		"endless":         {now, func(f *Figure[ids]) { f.tiles[0].From = All.From }, false},
		"refused":         {now, func(f *Figure[ids]) { f.refusals = []refusal{{Range{now - 40*hour, now - 29*hour}, now}} }, false},
		"twice the same":  {now, func(f *Figure[ids]) { f.tiles[1].partial = f.tiles[0].partial }, false},
	} {
		f := figureOf(time.Hour, at...)
		f.tiles[0].asked, f.tiles[1].took = now-2*hour, 2*time.Second
		tt.change(f)
		f.join(tt.now)
		if !tt.joins {
			if len(f.tiles) != 3 {
				t.Errorf("%s: joined to %v", name, cuts(f))
			}
			continue
		}
		first := f.tiles[0]
		if !slices.Equal(cuts(f), []int64{at[0], at[2], All.To}) || !slices.Equal(first.partial, ids{at[0], at[1]}) || first.asked != now-2*hour || first.took != 3*time.Second {
			t.Errorf("%s: %v, %+v", name, cuts(f), first)
		}
	}
	f := figureOf(time.Hour, at...)
	f.tiles[1].asked = now - 2*hour
	if f.join(now); f.tiles[0].asked != now-2*hour {
		t.Errorf("asked about %v ago, want the older of both", time.Duration(now-f.tiles[0].asked))
	}
}

// TestFigure_refusals: what was refused tells of ranges as wide that share time with it.
func TestFigure_refusals(t *testing.T) {
	for _, tt := range []struct {
		old, r Range
		want   bool
	}{
		{Range{10, 20}, Range{10, 20}, true},
		{Range{10, 20}, Range{19, 29}, true},
		{Range{10, 20}, Range{1, 11}, true},
		{Range{10, 20}, Range{20, 40}, false},
		{Range{10, 20}, Range{0, 10}, false},
		{Range{10, 20}, Range{11, 20}, false},
		{Range{10, 20}, Range{-40, -20}, false},
		{Range{10, 20}, Range{50, 90}, false},
	} {
		f := Figure[ids]{refusals: []refusal{{tt.old, now}}}
		if got := f.refused(tt.r); got != tt.want {
			t.Errorf("%v after %v: %v", tt.r, tt.old, got)
		}
	}
}

// TestFigure_cut: the reach of an endless range is that of the newer one beside it, or
// else of the older.
func TestFigure_cut(t *testing.T) {
	for _, tt := range []struct {
		at    []int64
		which int
		want  int64 // where
	}{
		{[]int64{All.From, now - 9*hour, now - 6*hour, All.To}, 0, now - 15*hour},
		{[]int64{now - 3*hour, now, All.To}, 1, now + 6*hour},
		{[]int64{now - 9*hour, now - 3*hour, now, All.To}, 2, now + 6*hour},
		{[]int64{now, All.To}, 0, now + hour},
		{[]int64{now - 9*hour, now - 5*hour, now - hour, now}, 1, now - 3*hour},
	} {
		f := figureOf(0, tt.at...)
		whole := f.tiles[tt.which].Range
		f.refusals = []refusal{{All, 5}, {Range{0, 1}, 5}, {whole, 5}}
		if err := f.cut(tt.which, now, ErrTooWide); err != nil {
			t.Error(err)
		}
		if got, want := cuts(f), slices.Insert(slices.Clone(tt.at), tt.which+1, tt.want); !slices.Equal(got, want) {
			t.Errorf("%v: %v, want %v", tt.at, got, want)
		}
		if f.tiles[tt.which].known() || f.tiles[tt.which+1].known() {
			t.Error("what was cut is known")
		}
		want := []refusal{{Range{0, 1}, 5}}
		if whole.bounded() {
			want = append(want, refusal{whole, now})
		}
		if !slices.Equal(f.refusals, want) {
			t.Errorf("%v: refused %v, want %v", tt.at, f.refusals, want)
		}
	}
	many := figureOf(0, 0, hour, All.To)
	many.tiles = append(make([]tile[ids], mostRanges-2), many.tiles...)
	for _, at := range []int{mostRanges - 2, 0} { // the other is too narrow as well
		if err := many.cut(at, now, ErrTooWide); !errors.Is(err, ErrTooWide) || strings.Contains(err.Error(), "narrow") != (at == 0) {
			t.Errorf("cut of %d: %v", at, err)
		}
	}
	if many.tiles = many.tiles[1:]; many.cut(mostRanges-3, now, ErrTooWide) != nil || len(many.tiles) != mostRanges {
		t.Errorf("%d ranges, want as many as there may be", len(many.tiles))
	}
}

// TestFigure_base: whatever happens to closed ranges, what is merged is what they hold,
// though one more had been closed by a call that failed.
func TestFigure_base(t *testing.T) {
	for name, change := range map[string]func(*Figure[ids]){
		"nothing":               func(*Figure[ids]) {},
		"the oldest is asked":   func(f *Figure[ids]) { f.keep(0, result[ids]{partial: ids{1}, asked: time.Unix(0, now)}) },
		"the newest is asked":   func(f *Figure[ids]) { f.keep(1, result[ids]{partial: ids{2}, asked: time.Unix(0, now)}) },
		"the oldest is outside": func(f *Figure[ids]) { f.arrange(now, Range{now - 19*hour, All.To}) },
		"two are one":           func(f *Figure[ids]) { f.join(now) },
	} {
		for _, closes := range []bool{false, true} {
			f := figureOf(time.Hour, now-30*hour, now-20*hour, now-15*hour, now-hour-1, All.To)
			if _, err := f.merged(); err != nil || f.baseTiles != 2 {
				t.Fatalf("%d of the ranges are closed, %v", f.baseTiles, err)
			}
			if closes {
				f.keep(2, result[ids]{partial: f.tiles[2].partial, asked: time.Unix(0, now)})
			}
			change(f)
			var want ids
			for _, t := range f.tiles {
				want = slices.Concat(want, t.partial)
			}
			slices.Sort(want)
			if got, err := f.merged(); err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: %v, %v, want %v", name, got, err, want)
			}
		}
	}
}

// TestFigure_due: the open, the one that is nearest to its limit once that is half-way,
// and what would pass it before the next call.
func TestFigure_due(t *testing.T) {
	const minute = int64(time.Minute)
	for _, tt := range []struct {
		previous int64    // minutes ago
		asked    [3]int64 // minutes ago, of ranges checked within 40 and 20 minutes, and the open one
		want     []int
	}{
		{5, [3]int64{10, 5, 5}, []int{2}},
		{5, [3]int64{20, 5, 9}, []int{0, 2}},
		{5, [3]int64{30, 14, 5}, []int{0, 2}},
		{5, [3]int64{32, 15, 5}, []int{0, 1, 2}},
		{5, [3]int64{5, 18, 5}, []int{1, 2}},
		{5, [3]int64{-1, 5, 5}, []int{0, 2}}, // the clock was set back
		{-60, [3]int64{40, 20, 5}, []int{0, 1, 2}},
	} {
		f := figureOf(time.Hour, now-9000*minute, now-4000*minute, now-2000*minute, All.To)
		f.previous = now - tt.previous*minute
		for i := range f.tiles {
			f.tiles[i].asked = now - tt.asked[i]*minute
		}
		due := f.dueBy(now)
		var got []int
		for i := range f.tiles {
			if due(&f.tiles[i]) {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

// TestCheckWithin: a hundredth of the age, within bounds.
func TestCheckWithin(t *testing.T) {
	for age, want := range map[time.Duration]time.Duration{
		0: 10 * time.Minute, 1000 * time.Minute: 10 * time.Minute, 2000 * time.Minute: 20 * time.Minute,
		2400 * time.Hour: 24 * time.Hour, math.MaxInt64: 24 * time.Hour,
	} {
		if got := checkWithin(age); got != want {
			t.Errorf("%v: %v, want %v", age, got, want)
		}
	}
}
