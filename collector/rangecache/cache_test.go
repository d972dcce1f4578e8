package rangecache

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"
)

// ids counts each point of an aggregate by its identity, so that a point that is counted twice or
// not at all is detected.
type ids struct {
	times  []int64 // sorted
	merges *int    // of all aggregates of a test; may be nil
}

func (a *ids) Merge(other *ids) {
	a.times = slices.Concat(a.times, other.times)
	slices.Sort(a.times)
	if other.merges != nil {
		*other.merges++
	}
}

func (a *ids) has(ns int64) bool {
	_, found := slices.BinarySearch(a.times, ns)
	return found
}

func noIDs() *ids { return &ids{} }

const noMaxRows = math.MaxInt64

// cacheOf returns a cache whose settled ranges lie between these times. Each was fetched now, in a
// second, and has one row with the time of its start. The open range begins at the last time.
func cacheOf(lateness time.Duration, at ...int64) *Cache[*ids] {
	c := New(lateness, noMaxRows, noIDs)
	c.now, c.previous, c.end = now, now, at[len(at)-1]
	for i, to := range at[1:] {
		c.settled = append(c.settled, entry[*ids]{Range{at[i], to}, &ids{times: []int64{at[i]}}, now, Cost{1, time.Second}})
	}
	c.open = []Range{{c.end, All.To}}
	return c
}

// bounds returns the times between which the settled ranges lie.
func bounds(c *Cache[*ids]) []int64 {
	var at []int64
	for _, e := range c.settled {
		at = append(at, e.From)
	}
	return append(at, c.end)
}

// wantWhole reports an error unless the ranges are ascending and contiguous, and cover the relevant
// range and everything after it.
func wantWhole(t *testing.T, c *Cache[*ids], relevant Range) {
	t.Helper()
	all := c.Ranges()
	at := min(relevant.From, all[0].From)
	for _, r := range all {
		if r.From != at || r.Empty() {
			t.Fatalf("a range %v where one from %d was due: %v", r, at, all)
		}
		at = r.To
	}
	if at != All.To {
		t.Fatalf("the last range ends at %d", at)
	}
	if open := c.Open(); open[0].From != c.end {
		t.Fatalf("settled time ends at %d, open time begins at %d", c.end, open[0].From)
	}
	if n := len(c.settled); n > 0 && c.settled[n-1].To != c.end {
		t.Fatalf("settled time ends at %d, its ranges at %d", c.end, c.settled[n-1].To)
	}
	if !c.next.Empty() && (c.next.From != c.end || c.next.To > c.now-int64(c.lateness)) {
		t.Fatalf("the step is %v, where settled time ends at %d", c.next, c.end)
	}
}

func TestCache_Plan_first(t *testing.T) {
	for _, tt := range []struct {
		lateness time.Duration
		from     int64
		want     []int64
	}{
		{time.Hour, now - hour/2, []int64{now - hour}},
		{time.Hour, now - hour, []int64{now - hour}},
		{time.Hour, now - 3*hour, []int64{now - 3*hour, now - 2*hour, now - hour}},
		{time.Hour, now - 4*hour, []int64{now - 4*hour, now - 2*hour, now - hour}},
		{0, now - 4e9, []int64{now - 4e9, now - 2e9, now - 1e9}},
	} {
		t.Run(fmt.Sprint(tt.lateness, now-tt.from), func(t *testing.T) {
			c := New(tt.lateness, noMaxRows, noIDs)
			c.Plan(now, Range{tt.from, now + 1})
			if got := bounds(c); !slices.Equal(got, tt.want) {
				t.Errorf("laid at %v, want %v", got, tt.want)
			}
			wantWhole(t, c, Range{c.Ranges()[0].From, now + 1})
		})
	}
	c := New(time.Hour, noMaxRows, noIDs)
	c.Plan(now, All)
	wantWhole(t, c, All)
	n, first := len(c.settled), c.settled[0]
	if n != 19 {
		t.Errorf("all time is %d ranges, want 19", n)
	}
	if first.From != All.From || first.To < now-int64(maxAge) {
		t.Errorf("the first is %v", first.Range)
	}
	if upcoming := c.Upcoming(); len(upcoming) > 0 {
		t.Errorf("upcoming is %v before anything is stored", upcoming)
	}
}

// TestCache_Plan_step: time settles once the allowed lateness has passed for a step of it, if it is
// relevant.
func TestCache_Plan_step(t *testing.T) {
	for name, tt := range map[string]struct {
		lateness  time.Duration
		end, from int64
		want      Range
	}{
		"a step":             {8 * time.Hour, now - 9*hour, All.From, Range{now - 9*hour, now - 8*hour}},
		"less":               {8 * time.Hour, now - 9*hour + 1, All.From, Range{}},
		"more":               {8 * time.Hour, now - 20*hour, All.From, Range{now - 20*hour, now - 8*hour}},
		"no lateness":        {0, now - 1e9, All.From, Range{now - 1e9, now}},
		"less than a second": {0, now - 1e9 + 1, All.From, Range{}},
		"not relevant":       {8 * time.Hour, now - 9*hour, now - 8*hour, Range{}},
		"partly relevant":    {8 * time.Hour, now - 9*hour, now - 8*hour - 5*hour, Range{now - 9*hour, now - 8*hour}},
	} {
		t.Run(name, func(t *testing.T) {
			c := cacheOf(tt.lateness, now-30*hour, tt.end)
			c.Plan(now, Range{tt.from, All.To})
			if c.next != tt.want {
				t.Errorf("the step is %v, want %v", c.next, tt.want)
			}
		})
	}
}

// TestCache_Store_step: a step settles when its aggregate is stored, and does not change before.
func TestCache_Store_step(t *testing.T) {
	c := cacheOf(8*time.Hour, All.From, now-9*hour)
	c.open = []Range{{now - 9*hour, now - 8*hour}, {now - 8*hour, now - 7*hour}, {now - 7*hour, All.To}}
	c.Plan(now, All)
	step := Range{now - 9*hour, now - 8*hour}
	if got, ok := c.Step(); got != step || !ok {
		t.Fatalf("the step is %v, %v, want %v", got, ok, step)
	}
	if got := c.Needed(); len(got) > 0 {
		t.Errorf("a step is needed: %v", got)
	}
	c.Plan(now+60e9, All)
	if c.next != step {
		t.Errorf("the step became %v before it was stored", c.next)
	}
	before, _ := c.Settled()
	c.Store(step, &ids{times: []int64{step.From}}, c.now, Cost{1, time.Second})
	wantWhole(t, c, All)
	if want := []Range{{now - 8*hour, now - 7*hour}, {now - 7*hour, All.To}}; !slices.Equal(c.Open(), want) {
		t.Errorf("open is %v, want %v", c.Open(), want)
	}
	after, ok := c.Settled()
	if !ok || !slices.Equal(after.times, []int64{All.From, step.From}) {
		t.Errorf("settled is %v, %v", after, ok)
	}
	if !slices.Equal(before.times, []int64{All.From}) {
		t.Errorf("what was settled before became %v", before.times)
	}
	c.Store(step, &ids{times: []int64{step.From}}, c.now, Cost{1, time.Second})
	if again, _ := c.Settled(); len(again.times) != 2 {
		t.Errorf("stored twice, settled is %v", again.times)
	}
	// A step is no longer than an open range, and the next one begins at once.
	c.Plan(now+5*hour, All)
	for _, want := range []Range{{now - 8*hour, now - 7*hour}, {now - 7*hour, now - 3*hour}, {}} {
		if got, ok := c.Step(); got != want || ok != !want.Empty() {
			t.Errorf("the step is %v, %v, want %v", got, ok, want)
		}
		if !want.Empty() {
			c.Store(want, noIDs(), c.now, Cost{})
		}
		wantWhole(t, c, All)
	}
}

// TestCache_Plan_joins: neighbours are joined if both were accepted and are together at most as long
// as they are old. The joined range has the rows of both, and is as old as the older one.
func TestCache_Plan_joins(t *testing.T) {
	at := []int64{now - 30*hour, now - 20*hour, now - 15*hour}
	for name, tt := range map[string]struct {
		now    int64
		change func(*Cache[*ids])
		joins  bool
	}{
		"old enough":    {now, func(*Cache[*ids]) {}, true},
		"too young":     {now - 1, func(*Cache[*ids]) {}, false},
		"older missing": {now, func(c *Cache[*ids]) { c.settled[0].fetched = 0 }, false},
		"newer missing": {now, func(c *Cache[*ids]) { c.settled[1].fetched = 0 }, false},
		"unbounded":     {now, func(c *Cache[*ids]) { c.settled[0].From = All.From }, false},
		"rejected":      {now, func(c *Cache[*ids]) { c.rejected = []rejection{{Range{now - 40*hour, now - 29*hour}, now}} }, false},
		"few rows":      {now, func(c *Cache[*ids]) { c.maxRows = 2 }, true},
		"many rows":     {now, func(c *Cache[*ids]) { c.maxRows = 1 }, false},
		"then too old":  {now, func(c *Cache[*ids]) { c.settled[0].fetched = now - hour/6 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := cacheOf(15*time.Hour, at...)
			c.settled[0].fetched, c.settled[1].cost.Took = now-hour/10, 2*time.Second
			tt.change(c)
			from := c.settled[0].From
			c.Plan(tt.now, Range{from, All.To})
			wantWhole(t, c, Range{from, All.To})
			if !tt.joins {
				if len(c.settled) != 2 {
					t.Errorf("joined to %v", bounds(c))
				}
				return
			}
			if got := bounds(c); !slices.Equal(got, []int64{at[0], at[2]}) {
				t.Fatalf("ranges at %v", got)
			}
			joined := c.settled[0]
			if !slices.Equal(joined.aggregate.times, at[:2]) {
				t.Errorf("it holds %v", joined.aggregate.times)
			}
			if joined.fetched != now-hour/10 {
				t.Errorf("fetched %v ago, want the longer of both", time.Duration(now-joined.fetched))
			}
			if want := (Cost{2, 3 * time.Second}); joined.cost != want {
				t.Errorf("the cost is %v, want %v", joined.cost, want)
			}
		})
	}
	c := cacheOf(15*time.Hour, at...)
	c.settled[1].fetched = now - hour/10
	c.Plan(now, Range{at[0], All.To})
	if c.settled[0].fetched != now-hour/10 {
		t.Errorf("fetched %v ago, want the longer of both", time.Duration(now-c.settled[0].fetched))
	}
}

// TestCache_wasRejected: a rejection applies to ranges that are as wide and overlap it.
func TestCache_wasRejected(t *testing.T) {
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
		c := Cache[*ids]{rejected: []rejection{{tt.old, now}}}
		if got := c.wasRejected(tt.r); got != tt.want {
			t.Errorf("%v after %v: %v", tt.r, tt.old, got)
		}
	}
}

// TestCache_Plan_expires: a rejection expires after a day, one in each call.
func TestCache_Plan_expires(t *testing.T) {
	c := cacheOf(24*time.Hour, All.From, now-24*hour)
	day := 24 * hour
	c.rejected = []rejection{{Range{1, 2}, now - day - 2}, {Range{3, 4}, now - day - 1}, {Range{5, 6}, now - day}}
	for i, want := range []int{2, 1, 1} {
		if c.Plan(now, All); len(c.rejected) != want {
			t.Errorf("call %d: %d rejections, want %d", i, len(c.rejected), want)
		}
	}
}

// TestCache_Split: an unbounded range is split according to the width of its neighbour.
func TestCache_Split(t *testing.T) {
	for _, tt := range []struct {
		settled, open []int64
		split         int
		at            int64
	}{
		{[]int64{All.From, now - 9*hour, now - 6*hour}, nil, 0, now - 15*hour},
		{[]int64{now - 3*hour, now}, nil, 1, now + 6*hour},
		{[]int64{now - 9*hour, now - 3*hour, now}, nil, 2, now + 6*hour},
		{[]int64{now}, nil, 0, now + hour},
		{[]int64{now - 9*hour, now - 5*hour, now - hour}, nil, 1, now - 3*hour},
		{[]int64{now - 9*hour}, []int64{now - 5*hour}, 0, now - 7*hour},
		{[]int64{now - 9*hour}, []int64{now - 5*hour}, 1, now},
		{[]int64{now - 9*hour}, []int64{now - 5*hour, now}, 2, now + 10*hour},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			c := cacheOf(0, tt.settled...)
			for _, at := range tt.open {
				last := len(c.open) - 1
				c.open = slices.Replace(c.open, last, last+1, Range{c.open[last].From, at}, Range{at, All.To})
			}
			all := c.Ranges()
			r := all[tt.split]
			c.rejected = []rejection{{All, 5}, {Range{0, 1}, 5}, {r, 5}}
			if err := c.Split(r); err != nil {
				t.Fatal(err)
			}
			want := slices.Replace(slices.Clone(all), tt.split, tt.split+1, Range{r.From, tt.at}, Range{tt.at, r.To})
			if got := c.Ranges(); !slices.Equal(got, want) {
				t.Errorf("ranges are %v, want %v", got, want)
			}
			for i, e := range c.settled {
				if e.fetched == 0 != (i == tt.split || i == tt.split+1) {
					t.Errorf("%v has been fetched: %v", e.Range, e.fetched != 0)
				}
			}
			rejected := []rejection{{All, 5}, {Range{0, 1}, 5}, {r, 5}}
			if r.bounded() { // its rejection implies that of the ranges that contain it
				rejected = []rejection{{Range{0, 1}, 5}, {r, now}}
			}
			if !slices.Equal(c.rejected, rejected) {
				t.Errorf("rejected are %v, want %v", c.rejected, rejected)
			}
			if err := c.Split(r); err != nil {
				t.Errorf("split again: %v", err)
			}
			if got := c.Ranges(); !slices.Equal(got, want) {
				t.Errorf("split again, ranges are %v, want %v", got, want)
			}
		})
	}
}

func TestCache_Split_limits(t *testing.T) {
	many := cacheOf(0, now-hour, now)
	var narrow []entry[*ids]
	for from := now - hour - maxRanges + 3; from < now-hour; from++ {
		narrow = append(narrow, entry[*ids]{Range: Range{from, from + 1}})
	}
	many.settled = append(narrow, many.settled...)
	wantWhole(t, many, Range{now - hour - maxRanges + 3, All.To})
	if err := many.Split(Range{now - hour - 1, now - hour}); !errors.Is(err, ErrTooNarrow) {
		t.Errorf("of a nanosecond: %v", err)
	}
	if err := many.Split(Range{now - hour, now}); err != nil {
		t.Errorf("the last one that may be split: %v", err)
	}
	if got := len(many.Ranges()); got != maxRanges {
		t.Errorf("%d ranges, want as many as there may be", got)
	}
	if err := many.Split(Range{now - hour, now - hour/2}); !errors.Is(err, ErrTooNarrow) {
		t.Errorf("one more: %v", err)
	}
	if err := many.Split(Range{now, All.To}); !errors.Is(err, ErrTooNarrow) {
		t.Errorf("an open one more: %v", err)
	}
	if n := len(many.rejected); n != 1 {
		t.Errorf("%d rejections, want that of the split range", n)
	}
}

// TestCache_Split_step: a rejected step is halved, and no time is lost.
func TestCache_Split_step(t *testing.T) {
	c := cacheOf(8*time.Hour, All.From, now-12*hour)
	c.Plan(now, All)
	if err := c.Split(Range{now - 12*hour, now - 8*hour}); err != nil {
		t.Fatal(err)
	}
	if want := (Range{now - 12*hour, now - 10*hour}); c.next != want {
		t.Errorf("the step is %v, want %v", c.next, want)
	}
	if want := []rejection{{Range{now - 12*hour, now - 8*hour}, now}}; !slices.Equal(c.rejected, want) {
		t.Errorf("rejected are %v, want %v", c.rejected, want)
	}
	wantWhole(t, c, All)
	c.Store(Range{now - 12*hour, now - 8*hour}, noIDs(), now, Cost{})
	if c.end != now-12*hour {
		t.Error("the rejected step was stored")
	}
	c.Store(c.next, noIDs(), now, Cost{})
	if c.end != now-10*hour {
		t.Errorf("settled time ends at %d", c.end)
	}
	wantWhole(t, c, All)
	c.next = Range{c.end, c.end + 2e9 - 1}
	if err := c.Split(c.next); !errors.Is(err, ErrTooNarrow) {
		t.Errorf("of less than two seconds: %v", err)
	}
}

// TestCache_Store_dropped: the aggregate of a dropped range is not stored.
func TestCache_Store_dropped(t *testing.T) {
	c := cacheOf(time.Hour, now-30*hour, now-20*hour, now-hour)
	for _, r := range []Range{{now - 30*hour, now - 25*hour}, {now - 30*hour, now - hour}, {now - hour, All.To}, {now - hour, now}} {
		c.Store(r, &ids{times: []int64{1}}, now, Cost{})
	}
	if got, ok := c.Settled(); !ok || !slices.Equal(got.times, []int64{now - 30*hour, now - 20*hour}) {
		t.Errorf("settled is %v, %v", got.times, ok)
	}
	wantWhole(t, c, Range{now - 30*hour, All.To})
}

// TestCache_Store_thins: a missing range is split until its newest part has at most maxRows rows, if
// it is as dense as its stored neighbour.
func TestCache_Store_thins(t *testing.T) {
	for name, tt := range map[string]struct {
		rows   int64
		change func(*Cache[*ids])
		want   []int64
	}{
		"dense":         {25, func(*Cache[*ids]) {}, []int64{now - 180*hour, now - 100*hour, now - 60*hour, now - 20*hour, now - 10*hour}},
		"thin":          {6, func(*Cache[*ids]) {}, []int64{now - 180*hour, now - 20*hour, now - 10*hour}},
		"just too much": {7, func(*Cache[*ids]) {}, []int64{now - 180*hour, now - 100*hour, now - 20*hour, now - 10*hour}},
		"accepted":      {25, func(c *Cache[*ids]) { c.settled[0].fetched = now }, []int64{now - 180*hour, now - 20*hour, now - 10*hour}},
		"unbounded":     {25, func(c *Cache[*ids]) { c.settled[0].From = All.From }, []int64{All.From, now - 20*hour, now - 10*hour}},
		"no more":       {1e12, func(*Cache[*ids]) {}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := cacheOf(time.Hour, now-180*hour, now-20*hour, now-10*hour)
			c.maxRows = 100
			c.settled[0].fetched = 0
			tt.change(c)
			c.Store(Range{now - 20*hour, now - 10*hour}, noIDs(), now, Cost{Rows: tt.rows})
			wantWhole(t, c, Range{c.settled[0].From, All.To})
			if got := bounds(c); tt.want != nil && !slices.Equal(got, tt.want) {
				t.Errorf("ranges at %v, want %v", got, tt.want)
			}
			if n := len(c.settled); n > 60 {
				t.Errorf("%d ranges", n)
			}
		})
	}
}

// TestCache_Settled: after every change of the settled ranges, Settled is the merge of their aggregates.
func TestCache_Settled(t *testing.T) {
	at := []int64{now - 30*hour, now - 20*hour, now - 15*hour}
	for name, tt := range map[string]struct {
		change func(*Cache[*ids])
		want   []int64
	}{
		"nothing":            {func(*Cache[*ids]) {}, at[:2]},
		"oldest again":       {func(c *Cache[*ids]) { c.Store(c.settled[0].Range, &ids{times: []int64{1}}, now, Cost{}) }, []int64{1, at[1]}},
		"newest again":       {func(c *Cache[*ids]) { c.Store(c.settled[1].Range, &ids{times: []int64{1}}, now, Cost{}) }, []int64{1, at[0]}},
		"oldest left":        {func(c *Cache[*ids]) { c.Plan(now, Range{at[1], All.To}) }, []int64{at[1]}},
		"oldest partly left": {func(c *Cache[*ids]) { c.Plan(now, Range{at[1] - 1, All.To}) }, at[:2]},
		"joined":             {func(c *Cache[*ids]) { c.Plan(now, Range{at[0], All.To}) }, at[:2]},
		"a step": {func(c *Cache[*ids]) {
			c.next = Range{at[2], now}
			c.Store(c.next, &ids{times: []int64{5}}, now, Cost{})
		}, []int64{5, at[0], at[1]}},
		"split":                                {func(c *Cache[*ids]) { _ = c.Split(c.settled[0].Range) }, nil},
		"clock set back, relevant range older": {func(c *Cache[*ids]) { c.Plan(now-hour, Range{at[0] - hour, All.To}) }, nil},
		"nothing left":                         {func(c *Cache[*ids]) { c.Plan(now+90*hour, Range{now + hour, All.To}) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := cacheOf(15*time.Hour, at...)
			before, ok := c.Settled()
			if !ok {
				t.Fatal("settled time is not accepted")
			}
			tt.change(c)
			got, ok := c.Settled()
			if ok != (tt.want != nil) {
				t.Errorf("accepted: %v", ok)
			}
			if ok && !slices.Equal(got.times, tt.want) {
				t.Errorf("settled is %v, want %v", got.times, tt.want)
			}
			if !slices.Equal(before.times, at[:2]) {
				t.Errorf("what was settled before became %v", before.times)
			}
		})
	}
	merges := 0
	c := cacheOf(15*time.Hour, at...)
	for i := range c.settled {
		c.settled[i].aggregate.merges = &merges
	}
	for range 3 {
		c.Settled()
	}
	if merges != 2 {
		t.Errorf("%d merges for three calls, want 2", merges)
	}
}

// TestCache_Needed: the missing and overdue ranges, newest first.
func TestCache_Needed(t *testing.T) {
	const minute = int64(time.Minute)
	for name, tt := range map[string]struct {
		fetched [3]int64 // minutes ago, of ranges that are refreshed within 40, 20 and 10 minutes; 0 for never
		want    []int
	}{
		"none":                   {[3]int64{39, 19, 9}, nil},
		"all too old":            {[3]int64{40, 20, 10}, []int{2, 1, 0}},
		"one too old":            {[3]int64{39, 20, 9}, []int{1}},
		"missing":                {[3]int64{0, 19, 0}, []int{2, 0}},
		"fetched during a call":  {[3]int64{-1, -9, 9}, nil},
		"the clock was set back": {[3]int64{-10, -60, 9}, []int{1, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			c := cacheOf(time.Hour, now-9000*minute, now-4000*minute, now-2000*minute, now-60*minute)
			for i, ago := range tt.fetched {
				if c.settled[i].fetched = now - ago*minute; ago == 0 {
					c.settled[i].fetched = 0
				}
			}
			var want []Range
			for _, i := range tt.want {
				want = append(want, c.settled[i].Range)
			}
			if got := c.Needed(); !slices.Equal(got, want) {
				t.Errorf("needed are %v, want %v", got, want)
			}
			if _, ok := c.Settled(); ok != (want == nil) {
				t.Errorf("settled is accepted: %v", ok)
			}
			if got := c.State().Needed; got != len(want) {
				t.Errorf("the state has %d, want %d", got, len(want))
			}
		})
	}
}

// TestCache_Upcoming: the ranges that would be overdue at the next call, and the one that is nearest
// to it after half of its time.
func TestCache_Upcoming(t *testing.T) {
	const minute = int64(time.Minute)
	for name, tt := range map[string]struct {
		previous int64    // minutes ago
		fetched  [2]int64 // minutes ago, of ranges that are refreshed within 40 and 20 minutes
		want     []int
	}{
		"all new":                {5, [2]int64{10, 5}, nil},
		"less than half":         {5, [2]int64{19, 9}, nil},
		"half of the time":       {5, [2]int64{20, 5}, []int{0}},
		"nearest of two":         {5, [2]int64{30, 14}, []int{0}},
		"the other is nearest":   {5, [2]int64{21, 14}, []int{1}},
		"before the next call":   {5, [2]int64{35, 15}, []int{0, 1}},
		"and the nearest":        {5, [2]int64{32, 15}, []int{1, 0}},
		"needed":                 {5, [2]int64{40, 20}, nil},
		"the clock was set back": {-60, [2]int64{30, 5}, []int{0}},
	} {
		t.Run(name, func(t *testing.T) {
			c := cacheOf(time.Hour, now-9000*minute, now-4000*minute, now-2000*minute)
			c.previous = now - tt.previous*minute
			for i, ago := range tt.fetched {
				c.settled[i].fetched = now - ago*minute
			}
			var want []Range
			for _, i := range tt.want {
				want = append(want, c.settled[i].Range)
			}
			if got := c.Upcoming(); !slices.Equal(got, want) {
				t.Errorf("upcoming are %v, want %v", got, want)
			}
		})
	}
	c := cacheOf(time.Hour, now-9*hour, now-hour)
	c.Plan(now+hour, All)
	c.Plan(now+hour, All)
	if c.previous != now {
		t.Errorf("the call before was %v before this one, want 1h", time.Duration(c.now-c.previous))
	}
}

func TestRefreshAfter(t *testing.T) {
	for age, want := range map[time.Duration]time.Duration{
		0: 10 * time.Minute, 1000 * time.Minute: 10 * time.Minute, 2000 * time.Minute: 20 * time.Minute,
		2400 * time.Hour: 24 * time.Hour, math.MaxInt64: 24 * time.Hour, -time.Hour: 10 * time.Minute,
	} {
		if got := refreshAfter(age); got != want {
			t.Errorf("%v: %v, want %v", age, got, want)
		}
	}
}

// TestCache_Plan_relevant: settled time begins where the relevant range does, whenever that changes.
func TestCache_Plan_relevant(t *testing.T) {
	at := []int64{now - 30*hour, now - 20*hour, now - 2*hour}
	for name, tt := range map[string]struct {
		now      int64
		relevant Range
		want     []int64
	}{
		"the same":    {now, Range{at[0], now + 1}, at},
		"partly left": {now, Range{at[1] - 1, now + 1}, at},
		"left":        {now, Range{at[1], now + 1}, at[1:]},
		"set back":    {now - hour, Range{at[0] - hour, now - hour + 1}, []int64{at[0] - hour, at[0], at[1], at[2]}},
		"set back by much": {now - 2*hour - 2, Range{at[0], now - 2*hour - 1},
			[]int64{at[0], now - 18*hour - 2, now - 10*hour - 2, now - 6*hour - 2, now - 4*hour - 2}},
		"set back by a day": {now - 24*hour, Range{All.From, All.To}, nil},
		"set back by more":  {now - 24*hour - 1, Range{All.From, All.To}, nil},
		"nothing is left": {now + 100*hour, Range{now + 94*hour, now + 100*hour},
			[]int64{now + 94*hour, now + 96*hour, now + 98*hour}},
		"the relevant range is too new": {now, Range{now - hour, now + 1}, []int64{at[2]}},
	} {
		t.Run(name, func(t *testing.T) {
			c := cacheOf(2*time.Hour, at...)
			c.settled[1].cost.Rows = 0
			c.maxRows = 0 // nothing joins
			c.Plan(tt.now, tt.relevant)
			wantWhole(t, c, tt.relevant)
			if got := bounds(c); tt.want != nil && !slices.Equal(got, tt.want) {
				t.Errorf("ranges at %v, want %v", got, tt.want)
			}
			if laid := c.end == tt.now-2*hour; tt.want == nil && laid != (tt.now < now-24*hour) {
				t.Errorf("laid anew: %v", laid)
			}
		})
	}
}

func TestCache_State(t *testing.T) {
	c := cacheOf(time.Hour, now-30*hour, now-20*hour, now-hour)
	c.settled[0].fetched = now - hour/10
	c.settled[1].fetched = now - hour/20
	if got, want := c.State(), (State{Ranges: 2, Oldest: now - hour/10, Took: 2 * time.Second}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if err := c.Split(c.settled[1].Range); err != nil {
		t.Fatal(err)
	}
	if got, want := c.State(), (State{Ranges: 3, Missing: 2, Needed: 2, Took: time.Second, Rejected: true}); got != want {
		t.Errorf("with a split: %+v, want %+v", got, want)
	}
	if got, want := New(time.Hour, noMaxRows, noIDs).State(), (State{}); got != want {
		t.Errorf("before the first plan: %+v", got)
	}
}
