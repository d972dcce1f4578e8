package rangecache

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

const (
	hour = int64(time.Hour)
	now  = 1000 * hour
)

func TestRange_Split(t *testing.T) {
	const now = 7 * hour
	for _, tt := range []struct {
		r     Range
		reach time.Duration
		at    int64 // 0: not split
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
		t.Run(fmt.Sprint(tt.r, tt.reach), func(t *testing.T) {
			older, newer, ok := tt.r.Split(now, tt.reach)
			want := [2]Range{{tt.r.From, tt.at}, {tt.at, tt.r.To}}
			if tt.at == 0 {
				want = [2]Range{tt.r, tt.r}
			}
			if ok != (tt.at != 0) {
				t.Errorf("split: %v", ok)
			}
			if got := [2]Range{older, newer}; got != want {
				t.Errorf("split into %v, want %v", got, want)
			}
		})
	}
}

// TestRange_Split_ends: repeated splits return contiguous ranges that are not empty, and end.
func TestRange_Split_ends(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 2000 {
		r, reach := All, time.Duration(rng.Int64N(int64(400*24*time.Hour)))
		if i%4 > 0 {
			r.From = rng.Int64() - math.MaxInt64/2
		}
		if i%3 > 0 {
			r.To = max(r.From, -math.MaxInt64/2) + 1 + rng.Int64N(1000*hour)
		}
		for splits := 0; ; splits++ {
			older, newer, ok := r.Split(now, reach)
			if !ok {
				break
			}
			if older.From != r.From || older.To != newer.From || newer.To != r.To || older.Empty() || newer.Empty() {
				t.Fatalf("%v is split into %v and %v", r, older, newer)
			}
			if splits > 200 {
				t.Fatalf("%v is still split", r)
			}
			r = [2]Range{older, newer}[rng.IntN(2)]
			reach *= 2
		}
	}
}

func TestRange_width(t *testing.T) {
	for r, want := range map[Range]time.Duration{All: 0, {All.From, 5}: 0, {5, All.To}: 0, {5, 8}: 3, {-5, 8}: 13} {
		if got := r.width(); got != want {
			t.Errorf("%v is %v wide, want %v", r, got, want)
		}
	}
}

func TestRange_Contains(t *testing.T) {
	for ns, want := range map[int64]bool{1: false, 2: true, 4: true, 5: false} {
		if got := (Range{2, 5}).Contains(ns); got != want {
			t.Errorf("%d: %v, want %v", ns, got, want)
		}
	}
}

func TestRange_Within(t *testing.T) {
	for _, tt := range []struct {
		other, want Range
		empty       bool
	}{
		{All, Range{2, 5}, false},
		{Range{3, 4}, Range{3, 4}, false},
		{Range{1, 3}, Range{2, 3}, false},
		{Range{4, 9}, Range{4, 5}, false},
		{Range{5, 9}, Range{5, 5}, true},
		{Range{0, 1}, Range{2, 1}, true},
	} {
		got := Range{2, 5}.Within(tt.other)
		if got != tt.want {
			t.Errorf("within %v: %v, want %v", tt.other, got, tt.want)
		}
		if got.Empty() != tt.empty {
			t.Errorf("within %v: empty %v, want %v", tt.other, got.Empty(), tt.empty)
		}
	}
}
