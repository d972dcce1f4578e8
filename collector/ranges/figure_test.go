package ranges

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// ids is a partial that knows each point it counts, so that a point counted twice or
// not at all is seen, however the sums would come out. It is sorted.
type ids []int64

var merges int // of ids

func (a ids) Merge(b ids) (ids, error) {
	merges++
	both := slices.Concat(a, b)
	if len(a) > 0 && len(b) > 0 && a[len(a)-1] < b[0] {
		return both, nil
	}
	slices.Sort(both)
	for i := range both[min(1, len(both)):] {
		if both[i] == both[i+1] {
			return both, fmt.Errorf("the point %d is counted twice", both[i])
		}
	}
	return both, nil
}

func (a ids) has(id int64) bool {
	_, has := slices.BinarySearch(a, id)
	return has
}

// server stands for a database: it knows when each point was there.
type server struct {
	rng      *rand.Rand
	points   map[int64]*point // by time
	times    []int64          // of points, ascending
	files    int              // blocks of ten minutes that a question may touch; 0: any number
	perPoint time.Duration    // that a point costs
	failing  bool
	hanging  bool

	mu                 sync.Mutex
	questions, refused int
	read               int // points
	asked              []Range
}

type point struct {
	written, deleted time.Time // deleted is zero while it is there
}

func (p *point) there() bool { return p.deleted.IsZero() }

var errFailed = errors.New("the server failed")

func (s *server) ask(ctx context.Context, r Range) (ids, error) {
	s.mu.Lock()
	s.questions++
	s.asked = append(s.asked, r)
	s.mu.Unlock()
	if s.hanging {
		<-ctx.Done()
		return nil, fmt.Errorf("%w: %w", ErrTooSlow, ctx.Err())
	}
	if s.failing {
		return nil, errFailed
	}
	found, blocks := s.truth(r), map[int64]bool{}
	for _, ns := range found {
		blocks[ns/int64(10*time.Minute)] = true
	}
	s.mu.Lock()
	refuse := s.files > 0 && len(blocks) > s.files
	if refuse {
		s.refused++
	} else {
		s.read += len(found)
	}
	s.mu.Unlock()
	if refuse {
		return nil, ErrTooWide
	}
	if s.perPoint == 0 {
		return found, nil
	}
	select {
	case <-time.After(time.Duration(len(found)) * s.perPoint):
		return found, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrTooSlow, ctx.Err())
	}
}

func (s *server) write(when time.Time) {
	ns := when.UnixNano()
	at, old := slices.BinarySearch(s.times, ns)
	if !old {
		s.times = slices.Insert(s.times, at, ns)
	}
	if !old || !s.points[ns].there() {
		s.points[ns] = &point{written: time.Now()}
	}
}

// truth is what is there now.
func (s *server) truth(span Range) ids {
	all := ids{}
	from, _ := slices.BinarySearch(s.times, span.From)
	for _, ns := range s.times[from:] {
		if !span.Contains(ns) {
			break
		}
		if s.points[ns].there() {
			all = append(all, ns)
		}
	}
	return all
}

func newServer(seed uint64) *server {
	return &server{rng: rand.New(rand.NewPCG(seed, 1)), points: map[int64]*point{}}
}

// history writes days of points with a gap of weeks, some in the future, some long
// before all others, and some on the borders of ten-minute blocks.
func (s *server) history(days, n int) {
	now := time.Now()
	for range n {
		age := time.Duration(s.rng.Int64N(int64(days) * int64(24*time.Hour)))
		if gap := age > 20*24*time.Hour && age < 45*24*time.Hour; gap {
			continue
		}
		at := now.Add(-age)
		if s.rng.IntN(4) == 0 {
			at = at.Truncate(10 * time.Minute)
		}
		s.write(at)
	}
	s.write(now.Add(40 * 24 * time.Hour))
	s.write(now.Add(time.Minute))
	s.write(time.Unix(0, 0))
	s.write(time.Unix(-1e9, 0))
}

func call(f *Figure[ids], s *server, span Range, budget time.Duration) (ids, State, error) {
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	return f.Over(ctx, span, s.ask)
}

func sameIDs(t *testing.T, got, want ids) {
	t.Helper()
	for _, id := range want {
		if !got.has(id) {
			t.Errorf("the point at %v is missing", time.Unix(0, id))
		}
	}
	for _, id := range got {
		if !want.has(id) {
			t.Errorf("the point at %v is too many", time.Unix(0, id))
		}
	}
}

// tiled holds that the ranges cover the span without gap or overlap.
func tiled(t *testing.T, f *Figure[ids], span Range) {
	t.Helper()
	at := f.tiles[0].From
	if at > span.From || f.tiles[0].To <= span.From {
		t.Errorf("the first range is [%d, %d), and the span begins at %d", at, f.tiles[0].To, span.From)
	}
	for _, tile := range f.tiles {
		if tile.From != at || tile.To <= tile.From {
			t.Fatalf("a range [%d, %d) where one from %d was due", tile.From, tile.To, at)
		}
		at = tile.To
	}
	if at != All.To {
		t.Errorf("the last range ends at %d", at)
	}
}

// TestFigure_limits: exact at any file limit, and from the second call on without
// asking for what is refused.
func TestFigure_limits(t *testing.T) {
	for _, mode := range []Mode{Auto, Cached} {
		for _, files := range []int{432, 20, 2} {
			t.Run(fmt.Sprintf("%s/%d files", mode, files), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newServer(7)
					s.history(120, 600)
					s.files = files
					f := New[ids](Config{Mode: mode, Settle: 24 * time.Hour, Now: time.Now})
					got, state, err := call(f, s, All, 10*time.Second)
					if err != nil {
						t.Fatal(err)
					}
					sameIDs(t, got, s.truth(All))
					tiled(t, f, All)
					t.Logf("%d ranges, %d questions, %d refused", state.Ranges, s.questions, s.refused)
					before := s.refused
					for range 100 {
						time.Sleep(5 * time.Minute)
						if got, _, err = call(f, s, All, 10*time.Second); err != nil {
							t.Fatal(err)
						}
					}
					sameIDs(t, got, s.truth(All))
					if more := s.refused - before; more > 50 { // old ranges are joined, and sometimes refused then
						t.Errorf("100 further calls were refused %d times", more)
					}
				})
			})
		}
	}
}

// TestFigure_whole: cheap and not refused, it is one question about everything.
func TestFigure_whole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(1)
		s.history(10, 100)
		f := New[ids](Config{Mode: Auto, Settle: time.Hour, Now: time.Now})
		for range 3 {
			got, state, err := call(f, s, All, time.Second)
			if err != nil || state.Ranges != 1 || state.Ranged || !state.OldestCheck.Equal(time.Now()) {
				t.Fatalf("%+v, %v", state, err)
			}
			sameIDs(t, got, s.truth(All))
		}
		if !slices.Equal(s.asked, []Range{All, All, All}) {
			t.Errorf("asked about %v", s.asked)
		}
	})
}

// TestFigure_turns: what makes a figure be asked about in ranges, and what does not.
func TestFigure_turns(t *testing.T) {
	for name, tt := range map[string]struct {
		mode   Mode
		takes  time.Duration // the whole
		err    error
		budget time.Duration // 0: endless
		ranged bool
	}{
		"a fair share":    {Auto, 2500 * time.Millisecond, nil, 10 * time.Second, true},
		"less than that":  {Auto, 2499 * time.Millisecond, nil, 10 * time.Second, false},
		"quick, in haste": {Auto, 999 * time.Millisecond, nil, time.Second, false},
		"endless time":    {Auto, 10 * time.Minute, nil, 0, false},
		"no answer":       {Auto, 3 * time.Second, ErrTooSlow, 10 * time.Second, true},
		"slow failure":    {Auto, 3 * time.Second, errFailed, 10 * time.Second, false},
		"refused":         {Auto, 0, ErrTooWide, 10 * time.Second, true},
		"whole, slow":     {Whole, 9 * time.Second, nil, 10 * time.Second, false},
		"whole, refused":  {Whole, 0, ErrTooWide, 10 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin, ctx := time.Now(), t.Context()
				if tt.budget > 0 {
					bounded, cancel := context.WithTimeout(ctx, tt.budget)
					defer cancel()
					ctx = bounded
				}
				f := New[ids](Config{Mode: tt.mode, Settle: time.Hour, Now: time.Now})
				_, state, err := f.Over(ctx, All, func(_ context.Context, r Range) (ids, error) {
					if r != All {
						return nil, nil
					}
					time.Sleep(tt.takes)
					return nil, tt.err
				})
				want := tt.err
				if tt.mode == Auto && errors.Is(want, ErrTooWide) { // and so asked about in ranges at once
					want = nil
				}
				if state.Ranged != tt.ranged || !errors.Is(err, want) {
					t.Errorf("%+v, %v", state, err)
				}
				if asked := state.OldestCheck; asked.IsZero() != (err != nil) || err == nil && !asked.Equal(begin) {
					t.Errorf("asked at %v, %v after the beginning", asked, asked.Sub(begin))
				}
			})
		})
	}
}

// TestFigure_turnsBack: a figure in ranges is one whole again when that would take far
// less than its share, and not before.
func TestFigure_turnsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(1)
		s.history(100, 600)
		s.perPoint = 3 * time.Second / time.Duration(len(s.points))
		f := New[ids](Config{Mode: Auto, Settle: 24 * time.Hour, Now: time.Now})
		for i, part := range []time.Duration{1, 4, 8} { // of 3 s, where the share is 2.5 s
			s.perPoint /= part
			for begin := time.Now(); time.Since(begin) < 50*time.Hour; time.Sleep(20 * time.Minute) {
				was := f.ranged.Load()
				s.failing = was && (f.tiles == nil || s.rng.IntN(10) == 0)
				if _, state, err := call(f, s, All, 10*time.Second); (err != nil) != s.failing || i < 2 && (!state.Ranged || was && state.Ranges == 1) {
					t.Fatalf("a %dth of the time, after %v: %+v, %v", part, time.Since(begin), state, err)
				}
			}
			s.perPoint *= part
		}
		if f.ranged.Load() || f.Map() != nil {
			t.Errorf("still in ranges %v", f.Map())
		}
	})
}

// TestFigure_waits: a call that waits for another ends when its own time does.
func TestFigure_waits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New[ids](Config{Mode: Cached, Settle: time.Hour, Now: time.Now})
		answer := make(chan struct{})
		first := make(chan State)
		go func() {
			_, state, err := f.Over(context.Background(), All, func(context.Context, Range) (ids, error) {
				<-answer
				return nil, nil
			})
			if err != nil {
				t.Error(err)
			}
			first <- state
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := f.Over(ctx, All, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the deadline", err)
		}
		if known := f.Map(); known != nil {
			t.Errorf("a map of what is being worked on: %v", known)
		}
		close(answer)
		state, known := <-first, f.Map()
		if len(known) != state.Ranges || !slices.IsSortedFunc(known, func(a, b Range) int { return cmp.Compare(a.From, b.From) }) || !slices.Equal(known, f.Map()) {
			t.Errorf("%d ranges, and the map is %v", state.Ranges, known)
		}
	})
}

// TestFigure_oldestCheck: it is the time of the answer that has been kept longest.
func TestFigure_oldestCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(1)
		s.history(100, 300)
		f := New[ids](Config{Mode: Cached, Settle: 24 * time.Hour, Now: time.Now})
		latest := map[int64]time.Time{} // of the questions about the beginning of each range
		for calls := range 300 {
			s.failing = calls == 0 || s.rng.IntN(4) == 0
			s.asked = nil
			_, state, _ := call(f, s, All, time.Second)
			for _, r := range s.asked {
				if _, known := latest[r.From]; !known {
					latest[r.From] = time.Time{}
				}
			}
			oldest := time.Now()
			for at := range latest {
				if !s.failing && slices.ContainsFunc(s.asked, func(r Range) bool { return r.Contains(at) }) {
					latest[at] = oldest
				}
			}
			for _, asked := range latest {
				if asked.Before(oldest) {
					oldest = asked
				}
			}
			if slices.ContainsFunc(f.tiles, func(t tile[ids]) bool { return !t.known() }) {
				oldest = time.Time{}
			}
			if !state.OldestCheck.Equal(oldest) || state.Ranges != len(f.tiles) {
				t.Fatalf("call %d: %+v of %d, want %v", calls, state, len(f.tiles), oldest)
			}
			time.Sleep(20 * time.Minute)
		}
	})
}

// TestFigure_refusedWhole: where the whole is refused and no range of it is, the whole
// is not tried again.
func TestFigure_refusedWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(1)
		for age := time.Duration(0); age < 84*time.Hour; age += 10 * time.Minute {
			s.write(time.Now().Add(-age))
		}
		s.files = 432
		f := New[ids](Config{Mode: Auto, Settle: 24 * time.Hour, Now: time.Now})
		for range 20 {
			got, state, err := call(f, s, All, 10*time.Second)
			if err != nil || !state.Ranged {
				t.Fatalf("%+v, %v", state, err)
			}
			sameIDs(t, got, s.truth(All))
			time.Sleep(time.Minute)
		}
		if s.refused != 1 {
			t.Errorf("refused %d times, want once", s.refused)
		}
	})
}

// TestFigure_slow: in Auto, what is slow is asked about in ranges, what became quick
// as a whole again; Whole stays whole.
func TestFigure_slow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(1)
		s.history(100, 2000)
		s.perPoint = 5 * time.Millisecond // some 7 s for all
		f := New[ids](Config{Mode: Auto, Settle: 24 * time.Hour, Now: time.Now})
		whole := New[ids](Config{Mode: Whole, Settle: 24 * time.Hour, Now: time.Now})
		if _, state, err := call(f, s, All, 10*time.Second); err != nil || !state.Ranged {
			t.Fatalf("slow, but true: %+v, %v", state, err)
		}
		// Each call has too little time for all; what was learnt stays.
		calls := 0
		for {
			calls++
			got, state, err := call(f, s, All, 2*time.Second)
			if err == nil {
				sameIDs(t, got, s.truth(All))
				tiled(t, f, All)
				t.Logf("whole after %d calls, in %d ranges", calls, state.Ranges)
				break
			}
			if !errors.Is(err, ErrTooSlow) && !errors.Is(err, context.DeadlineExceeded) || calls > 20 {
				t.Fatalf("call %d: %v", calls, err)
			}
			time.Sleep(13 * time.Second)
		}
		if calls < 2 {
			t.Error("one call had time for all: this test shows nothing")
		}
		time.Sleep(15 * time.Second)
		begin := time.Now()
		if _, _, err := call(f, s, All, 2*time.Second); err != nil || time.Since(begin) > 500*time.Millisecond {
			t.Errorf("the call after that: %v in %v", err, time.Since(begin))
		}
		if _, _, err := call(whole, s, All, 2*time.Second); !errors.Is(err, ErrTooSlow) {
			t.Errorf("whole: %v", err)
		}
		if _, _, err := call(whole, s, All, time.Minute); err != nil {
			t.Errorf("whole: %v", err)
		}
		s.perPoint = 0
		for range 200 { // cuts for slowness are forgotten after a day
			time.Sleep(10 * time.Minute)
			if _, _, err := call(f, s, All, 2*time.Second); err != nil {
				t.Fatal(err)
			}
		}
		if _, state, err := call(f, s, All, 2*time.Second); err != nil || state.Ranged {
			t.Errorf("quick again: %+v, %v", state, err)
		}
	})
}

// TestFigure_hangs: a database that hangs once is not asked in ranges for ever, and
// what hangs altogether is not cut finer and finer.
func TestFigure_hangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(1)
		s.history(100, 500)
		f := New[ids](Config{Mode: Auto, Settle: 24 * time.Hour, Now: time.Now})
		s.hanging = true
		for range 10 {
			before := s.questions
			if _, _, err := call(f, s, All, 10*time.Second); !errors.Is(err, ErrTooSlow) || s.questions-before > 2 {
				t.Fatalf("%v after %d questions", err, s.questions-before)
			}
		}
		if n := len(f.tiles); n > 30 {
			t.Errorf("%d ranges of nothing but silence", n)
		}
		s.hanging, s.asked = false, nil
		for _, s.files = range []int{20, 0} { // while a range is refused, the whole is not asked about
			for begin := time.Now(); time.Since(begin) < 50*time.Hour; time.Sleep(time.Hour) {
				got, _, err := call(f, s, All, 10*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				sameIDs(t, got, s.truth(All))
			}
			if s.files > 0 && slices.Contains(s.asked, All) {
				t.Error("asked about the whole")
			}
		}
		if f.ranged.Load() {
			t.Error("still in ranges")
		}
	})
}

// TestFigure_refused: a server that refuses whatever it is asked is asked a few dozen
// questions a call, call after call, and believed as soon as it answers.
func TestFigure_refused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(1)
		s.history(100, 500)
		f := New[ids](Config{Mode: Auto, Settle: 24 * time.Hour, Now: time.Now})
		refuse := func(context.Context, Range) (ids, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.questions++
			return nil, ErrTooWide
		}
		for range 50 {
			before := s.questions
			if _, _, err := f.Over(t.Context(), All, refuse); !errors.Is(err, ErrTooWide) || s.questions-before > 100 || len(f.refusals) > 0 {
				t.Fatalf("%v after %d questions", err, s.questions-before)
			}
			time.Sleep(time.Minute)
		}
		got, state, err := call(f, s, All, 10*time.Second)
		if err != nil || state.Ranges > 30 {
			t.Fatalf("%+v, %v", state, err)
		}
		sameIDs(t, got, s.truth(All))
	})
}

// TestFigure_outOfTime: a range whose answer did not come because the call's time was up
// is not cut, nor one that failed; what was learnt stays, and calls of a second get there.
func TestFigure_outOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New[ids](Config{Mode: Cached, Settle: 24 * time.Hour, Now: time.Now})
		ranges, begin := 0, time.Now()
		for calls := 1; ; calls++ {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, state, err := f.Over(ctx, All, func(ctx context.Context, _ Range) (ids, error) {
				select {
				case <-time.After(600 * time.Millisecond):
					return nil, nil
				case <-ctx.Done():
					return nil, ErrTooSlow
				}
			})
			cancel()
			if calls == 1 {
				ranges = state.Ranges
			}
			if state.Ranges != ranges || len(f.refusals) > 0 || err != nil && !errors.Is(err, ErrTooSlow) || calls > ranges {
				t.Fatalf("call %d: %d ranges of %d, %d refusals, %v", calls, state.Ranges, ranges, len(f.refusals), err)
			}
			if err == nil {
				if !state.OldestCheck.Equal(begin) {
					t.Errorf("asked %v after the beginning, want when the question began", state.OldestCheck.Sub(begin))
				}
				break
			}
		}
		f = New[ids](f.config)
		_, state, err := f.Over(t.Context(), All, func(_ context.Context, r Range) (ids, error) {
			if r.To == All.To {
				return nil, errFailed
			}
			return nil, nil
		})
		if !errors.Is(err, errFailed) || state.Ranges != ranges {
			t.Errorf("a failure: %d ranges of %d, %v", state.Ranges, ranges, err)
		}
	})
}

// TestFigure_mergeFails: partials that can't be merged are an error, be they of ranges
// that are closed or of the open one.
func TestFigure_mergeFails(t *testing.T) {
	for name, newer := range map[string]time.Duration{"closed": 100 * 24 * time.Hour, "open": time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := New[ids](Config{Mode: Cached, Settle: 24 * time.Hour, Now: time.Now})
				older := time.Now().Add(-300 * 24 * time.Hour).UnixNano()
				newer := time.Now().Add(-newer).UnixNano()
				got, _, err := f.Over(t.Context(), All, func(_ context.Context, r Range) (ids, error) {
					if r.Contains(older) || r.Contains(newer) {
						return ids{1}, nil
					}
					return nil, nil
				})
				if err == nil || got != nil {
					t.Errorf("%v, %v, want an error", got, err)
				}
			})
		})
	}
}

// TestFigure_jumps: wherever a span begins after the one before, be all of it open, too.
func TestFigure_jumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(1)
		s.history(100, 500)
		f := New[ids](Config{Mode: Cached, Settle: time.Hour, Now: time.Now})
		for _, age := range []time.Duration{64 * time.Hour, 32 * time.Hour, 30 * time.Minute, 24 * time.Hour} {
			span := Range{time.Now().Add(-age).UnixNano(), All.To}
			s.asked = nil
			got, state, err := call(f, s, span, 10*time.Second)
			if err != nil || state.Ranges > 15 {
				t.Fatalf("%+v, %v", state, err)
			}
			if i := slices.IndexFunc(s.asked, func(r Range) bool { return r.From < span.From }); i >= 0 {
				t.Errorf("asked about %v, and the span is %v", s.asked[i], span)
			}
			tiled(t, f, span)
			sameIDs(t, got, s.truth(Range{f.tiles[0].From, All.To}))
		}
	})
}

// TestFigure_steady: a call costs the open range and now and then one other.
func TestFigure_steady(t *testing.T) {
	for every, most := range map[time.Duration][2]int{ // questions, merges
		time.Minute:     {3, 8}, // the open range, one that has just settled, and the next to be checked
		9 * time.Minute: {8, 20},
	} {
		t.Run(every.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { steady(t, every, most[0], most[1]) })
		})
	}
}

func steady(t *testing.T, every time.Duration, allowed, merged int) {
	s := newServer(3)
	s.history(365, 2000)
	f := New[ids](Config{Mode: Cached, Settle: 24 * time.Hour, Now: time.Now})
	var state State
	most, calls, before := 0, 0, merges
	for begin := time.Now(); time.Since(begin) < 72*time.Hour; time.Sleep(every) {
		if calls%10 == 0 {
			s.write(time.Now())
		}
		s.asked = nil
		for i := range f.tiles {
			now := time.Now().UnixNano()
			if tile := &f.tiles[i]; !f.open(tile) && now-tile.asked > f.limit(tile, now) {
				t.Errorf("what the last call answered about a range %v old was %v old", time.Duration(now-tile.To), time.Duration(now-tile.asked))
			}
		}
		got, st, err := call(f, s, All, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		state = st
		if calls++; calls == 1 {
			s.read = 0
			continue
		}
		if calls%300 == 0 {
			sameIDs(t, got, s.truth(All))
			tiled(t, f, All)
		}
		most = max(most, len(s.asked))
		if calls > 1000 {
			break
		}
	}
	t.Logf("%d ranges; at most %d questions a call, %d points read on average", state.Ranges, most, s.read/calls)
	if state.Ranges > 40 {
		t.Errorf("a year is %d ranges", state.Ranges)
	}
	if n := s.read / calls; n > len(s.points)/10 {
		t.Errorf("%d of %d points are read in each call", n, len(s.points))
	}
	if most > allowed {
		t.Errorf("%d questions in one call", most)
	}
	if n := (merges - before) / calls; n > merged {
		t.Errorf("%d merges in each call: what is closed is merged again", n)
	}
}

// TestFigure_slides: the newest day of telemetry, exact at both ends as it slides.
func TestFigure_slides(t *testing.T) {
	for _, files := range []int{0, 20, 2} {
		t.Run(fmt.Sprint(files, " files"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(5)
				s.files = files
				for range 200 {
					s.write(time.Now().Add(-time.Duration(s.rng.Int64N(int64(30 * time.Hour)))))
				}
				f := New[ids](Config{Mode: Cached, Settle: time.Hour, Now: time.Now})
				for range 400 {
					now := time.Now().UnixNano()
					span := Range{now - int64(24*time.Hour), now + 1}
					got, state, err := call(f, s, span, 10*time.Second)
					if err != nil {
						t.Fatal(err)
					}
					got = slices.DeleteFunc(slices.Clone(got), func(ns int64) bool { return !span.Contains(ns) })
					sameIDs(t, got, s.truth(span))
					tiled(t, f, span)
					if t.Failed() {
						t.FailNow()
					}
					if state.Ranges > 200 {
						t.Fatalf("%d ranges", state.Ranges)
					}
					time.Sleep(time.Duration(s.rng.Int64N(int64(5 * time.Minute))))
					s.write(time.Now().Add(-time.Duration(s.rng.Int64N(int64(50 * time.Minute)))))
				}
			})
		})
	}
}

// TestFigure_random: whatever happens, an answer holds every point that was there for
// all of the stated time, and none that was away for all of it; and some time after
// the last change it is the truth.
func TestFigure_random(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { random(t, seed) })
		})
	}
}

func random(t *testing.T, seed uint64) {
	s := newServer(seed)
	mode := []Mode{Cached, Auto}[seed%2]
	settle := []time.Duration{24 * time.Hour, time.Hour}[seed/2%2]
	make := func() *Figure[ids] { return New[ids](Config{Mode: mode, Settle: settle, Now: time.Now}) }
	f := make()
	s.history(90, 400)
	answers, failures := 0, 0
	step := func() {
		s.failing = s.rng.IntN(12) == 0
		if s.rng.IntN(30) == 0 {
			s.files = []int{0, 432, 20, 2}[s.rng.IntN(4)]
		}
		if s.rng.IntN(40) == 0 {
			f = make() // a restart
		}
		got, _, err := call(f, s, All, 10*time.Second)
		if err != nil {
			failures++
			if got != nil {
				t.Fatalf("%v, and yet %d points", err, len(got))
			}
			return
		}
		answers++
		holds(t, s, settle, got)
	}
	for range 300 {
		switch s.rng.IntN(8) {
		case 0, 1:
			s.write(time.Now().Add(-time.Duration(s.rng.Int64N(int64(settle)))))
		case 2: // a backlog is replayed
			s.write(time.Now().Add(-time.Duration(s.rng.Int64N(int64(60 * 24 * time.Hour)))))
		case 3:
			for ns, p := range s.points {
				if p.there() && s.rng.IntN(len(s.points)) < 2 {
					s.points[ns].deleted = time.Now()
				}
			}
		case 4:
			time.Sleep(time.Duration(s.rng.Int64N(int64(6 * time.Hour))))
		}
		time.Sleep(time.Duration(s.rng.Int64N(int64(time.Minute))))
		step()
		if t.Failed() {
			t.FailNow()
		}
	}
	// Nothing changes any more.
	s.failing = false
	for end := time.Now().Add(latestCheck); time.Now().Before(end); time.Sleep(9 * time.Minute) {
		if _, _, err := call(f, s, All, 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	got, state, err := call(f, s, All, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	sameIDs(t, got, s.truth(All))
	if answers < 100 || failures < 10 {
		t.Errorf("%d answers and %d failures show little", answers, failures)
	}
	if testing.Verbose() {
		t.Logf("%d answers, %d failures, %d questions, %d refused, %d ranges at the end", answers, failures, s.questions, s.refused, state.Ranges)
	}
}

// holds compares an answer with the promise: a point counts at latest after the time
// that an answer about its range may be old.
func holds(t *testing.T, s *server, settle time.Duration, got ids) {
	t.Helper()
	now := time.Now()
	for ns, p := range s.points {
		old := time.Duration(0)
		if age := now.Sub(time.Unix(0, ns)); age > settle {
			old = checkWithin(age)
		}
		since := now.Add(-old)
		switch {
		case p.there() && !p.written.After(since) && !got.has(ns):
			t.Errorf("the point at %v, there since %v, is missing at %v", time.Unix(0, ns), p.written, now)
		case !p.there() && !p.deleted.After(since) && got.has(ns):
			t.Errorf("the point at %v, deleted at %v, still counts at %v", time.Unix(0, ns), p.deleted, now)
		}
	}
	for _, ns := range got {
		if s.points[ns] == nil {
			t.Errorf("the point at %v was never written", time.Unix(0, ns))
		}
	}
}
