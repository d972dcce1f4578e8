package ranges

import (
	"testing"
	"time"
)

// TestRange_halves: where a range is cut, and which is not.
func TestRange_halves(t *testing.T) {
	const now = 7 * hour
	for _, tt := range []struct {
		r     Range
		reach time.Duration
		at    int64 // 0: not cut
	}{
		{All, 0, now},
		{Range{All.From, 10 * hour}, 0, 9 * hour},
		{Range{All.From, 10 * hour}, 2 * time.Hour, 6 * hour},
		{Range{All.From, All.From + 3 + hour}, 0, All.From + 3},
		{Range{All.From, All.From + 2 + hour}, 0, 0},
		{Range{All.From, All.From + 5}, 0, 0},
		{Range{5 * hour, All.To}, 0, now},
		{Range{now, All.To}, 0, 8 * hour},
		{Range{now, All.To}, 3 * time.Hour, 13 * hour},
		{Range{All.To - hour, All.To}, time.Hour, 0},
		{Range{1, 1 + 2e9}, time.Hour, 1 + 1e9},
		{Range{1, 2e9}, time.Hour, 0},
		{Range{hour, 4 * hour}, 0, hour + 3*hour/2},
	} {
		older, newer, ok := tt.r.halves(now, tt.reach)
		want := [2]Range{{tt.r.From, tt.at}, {tt.at, tt.r.To}}
		if tt.at == 0 {
			want = [2]Range{tt.r, tt.r}
		}
		if ok != (tt.at != 0) || want != [2]Range{older, newer} {
			t.Errorf("%v beside %v: %v, %v, %v, want %v", tt.r, tt.reach, older, newer, ok, want)
		}
	}
}

// TestRange_width: a range without an end has none.
func TestRange_width(t *testing.T) {
	for r, want := range map[Range]time.Duration{All: 0, {All.From, 5}: 0, {5, All.To}: 0, {5, 8}: 3, {-5, 8}: 13} {
		if got := r.width(); got != want {
			t.Errorf("%v is %v wide, want %v", r, got, want)
		}
	}
}
