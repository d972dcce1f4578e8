package ranges

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Partial is what one request about one range answers. Partials of ranges that
// tile a longer range merge into the partial of that range; the zero value is the
// partial of a range that holds nothing. Merge must change neither side.
type Partial[P any] interface{ Merge(P) (P, error) }

// Ask asks about one range. An error that is ErrTooWide or ErrTooSlow may be mended
// by asking about narrower ranges.
type Ask[P any] func(context.Context, Range) (P, error)

var (
	// ErrTooWide says that the server refuses a range for its width.
	ErrTooWide = errors.New("the range is too wide")
	// ErrTooSlow says that the answer did not come in time.
	ErrTooSlow = errors.New("the answer took too long")
)

// Mode says when a figure is asked about in ranges.
type Mode string

const (
	// Auto asks about the whole until that is refused, or takes more than a fair
	// share of the time there is; and again once it would take far less, if it was
	// not refused.
	Auto Mode = "auto"
	// Whole always asks about the whole.
	Whole Mode = "whole"
	// Cached always asks in ranges and keeps the answers about closed ones.
	Cached Mode = "cached"
)

// Modes returns what Config.Mode can be.
func Modes() []Mode { return []Mode{Auto, Whole, Cached} }

// Config says how a figure is kept.
type Config struct {
	Mode Mode
	// Settle is how late a point may arrive and still be seen by the next answer:
	// ranges that end later than this ago are open, and asked about each time.
	Settle time.Duration
	// Now is the clock.
	Now func() time.Time
}

// Closed ranges are asked about again, at latest, after a time that grows with
// their age.
const (
	soonestCheck = 10 * time.Minute
	latestCheck  = 24 * time.Hour
	agePerCheck  = 100
)

// checkWithin returns how old an answer about a closed range may be, for a range
// that ended so long ago.
func checkWithin(age time.Duration) time.Duration {
	return min(max(soonestCheck, age/agePerCheck), latestCheck)
}

const (
	// fairShare is the part of the time of a call that one request may take.
	fairShare = 4
	// leastShare: a request this quick is never slow, however little time there is.
	leastShare = time.Second
	// sideBySide is how many requests for one figure are made at once.
	sideBySide = 2
	// forgetRefusal is when a refused range may be tried again.
	forgetRefusal = 24 * time.Hour
	// mostRanges bounds the memory of one figure.
	mostRanges = 20_000
)

// Figure keeps the partials of one figure from call to call. It is safe for
// concurrent use.
type Figure[P Partial[P]] struct {
	config Config

	ranged  atomic.Bool   // asked about in ranges
	tooWide atomic.Bool   // the whole has been refused, and is not tried again
	turn    chan struct{} // holds the right to use what follows

	tiles    []tile[P] // ascending, without gap or overlap
	refusals []refusal
	round    int64 // number of the call
	previous int64 // when the call before began, in nanoseconds since 1970

	base      P   // merge of the first baseTiles tiles
	baseTiles int // 0 while not known
}

// tile is one range and what is known of it.
type tile[P any] struct {
	Range
	partial P
	asked   int64         // when partial was asked for, in nanoseconds since 1970; 0 while not known
	took    time.Duration // of that request
	round   int64         // of the call that asked
}

func (t *tile[P]) known() bool { return t.asked != 0 }

// refusal is a range that the server has refused as too wide, or answered too slowly.
type refusal struct {
	Range
	at int64
}

// New returns a Figure that knows nothing yet.
func New[P Partial[P]](c Config) *Figure[P] {
	f := &Figure[P]{config: c, turn: make(chan struct{}, 1)}
	f.ranged.Store(c.Mode == Cached)
	return f
}

// State is how a figure is kept.
type State struct {
	Ranged bool // asked about in ranges
	Ranges int  // how many; 1 for the whole
	// OldestCheck is when the longest unasked range was asked about; zero while some
	// range is unknown.
	OldestCheck time.Time
}

// Over returns the partial of all of a span, or an error: never one of less than
// the span. Partials of ranges that end before their settling time may be as old as
// checkWithin says. The beginning of the span may move forward from call to call;
// an answer may then cover more than the span, by less than one range.
//
// What was learnt is kept even when the call fails, so that calls which each run
// out of time get there in the end.
func (f *Figure[P]) Over(ctx context.Context, span Range, ask Ask[P]) (P, State, error) {
	if !f.ranged.Load() {
		found, state, err := f.whole(ctx, span, ask)
		if !f.ranged.Load() || !errors.Is(err, ErrTooWide) {
			return found, state, err
		}
	}
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		var nothing P
		return nothing, State{Ranged: true}, fmt.Errorf("waiting for another call about the same figure: %w", context.Cause(ctx))
	}
	found, err := f.inRanges(ctx, span, ask)
	state := f.state()
	if err == nil && f.config.Mode == Auto && f.cheapAsWhole(ctx) {
		f.ranged.Store(false)
		f.tiles, f.baseTiles = nil, 0
	}
	return found, state, err
}

// whole asks about the span at once, and in Auto mode judges whether to go on so.
func (f *Figure[P]) whole(ctx context.Context, span Range, ask Ask[P]) (P, State, error) {
	begin := f.config.Now()
	share := share(ctx)
	found, err := ask(ctx, span)
	slow := f.config.Now().Sub(begin) >= share
	f.tooWide.CompareAndSwap(false, errors.Is(err, ErrTooWide))
	if f.config.Mode == Auto && (errors.Is(err, ErrTooWide) || slow && (err == nil || errors.Is(err, ErrTooSlow))) {
		f.ranged.Store(true)
	}
	state := State{Ranged: f.ranged.Load(), Ranges: 1}
	if err == nil {
		state.OldestCheck = begin
	}
	return found, state, err
}

// share is the time that one request may take of the time until the deadline. That is
// of the real clock, whatever Config.Now says.
func share(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return time.Hour
	}
	return max(time.Until(deadline)/fairShare, leastShare)
}

// cheapAsWhole reports whether one request about all would take far less than its
// share, going by what the ranges took.
func (f *Figure[P]) cheapAsWhole(ctx context.Context) bool {
	if f.tooWide.Load() || len(f.refusals) > 0 {
		return false
	}
	total := time.Duration(0)
	for i := range f.tiles {
		total += f.tiles[i].took
	}
	return total < share(ctx)/fairShare
}

func (f *Figure[P]) state() State {
	s := State{Ranged: true, Ranges: len(f.tiles)}
	for i := range f.tiles {
		t := &f.tiles[i]
		if !t.known() {
			return State{Ranged: true, Ranges: len(f.tiles)}
		}
		if asked := time.Unix(0, t.asked); i == 0 || asked.Before(s.OldestCheck) {
			s.OldestCheck = asked
		}
	}
	return s
}

// inRanges asks about what is not known, may have changed, or is open, and merges.
func (f *Figure[P]) inRanges(ctx context.Context, span Range, ask Ask[P]) (P, error) {
	var nothing P
	now := f.config.Now().UnixNano()
	f.round++
	f.arrange(now, span)
	due := f.dueBy(now)
	f.previous = now
	before, answered := len(f.tiles), false
	for wave := f.wave(due); len(wave) > 0; wave = f.wave(due) {
		results := f.askWave(ctx, span, wave, ask)
		for _, r := range results {
			answered = answered || r.err == nil
		}
		var failure error
		// Newest first, so that a cut moves none of the tiles still to be dealt with.
		for i, at := range wave {
			r := results[i]
			switch {
			case r.err == nil:
				f.keep(at, r)
			case errors.Is(r.err, ErrTooWide) || errors.Is(r.err, ErrTooSlow) && answered && ctx.Err() == nil:
				if err := f.cut(at, now, r.err); err != nil {
					failure = err
				}
			default:
				failure = r.err
			}
		}
		if failure != nil {
			if !answered && len(f.tiles) > before {
				// Refused whatever the width: the cuts have taught nothing.
				f.tiles, f.refusals, f.baseTiles = nil, nil, 0
			}
			return nothing, failure
		}
	}
	return f.merged()
}

// result is the answer about one tile.
type result[P any] struct {
	partial P
	asked   time.Time
	took    time.Duration
	err     error
}

// askWave asks about tiles side by side, each within its share of the time.
func (f *Figure[P]) askWave(ctx context.Context, span Range, wave []int, ask Ask[P]) []result[P] {
	results := make([]result[P], len(wave))
	var requests sync.WaitGroup
	for i, at := range wave {
		about := f.tiles[at].within(span)
		requests.Go(func() {
			r := &results[i]
			r.asked = f.config.Now()
			ctx, cancel := context.WithTimeout(ctx, share(ctx))
			defer cancel()
			r.partial, r.err = ask(ctx, about)
			r.took = f.config.Now().Sub(r.asked)
		})
	}
	requests.Wait()
	return results
}

func (f *Figure[P]) keep(at int, r result[P]) {
	t := &f.tiles[at]
	t.partial, t.asked, t.took, t.round = r.partial, r.asked.UnixNano(), r.took, f.round
	if at < f.baseTiles {
		f.baseTiles = 0
	}
}

// merged merges all tiles. The closed ones, which seldom change, are merged once.
func (f *Figure[P]) merged() (total P, err error) {
	closed := 0
	for !f.open(&f.tiles[closed]) { // the last, which has no end, is
		closed++
	}
	if closed == 0 || f.baseTiles != closed {
		var base P
		for i := range f.tiles[:closed] {
			if base, err = base.Merge(f.tiles[i].partial); err != nil {
				return total, err
			}
		}
		f.base, f.baseTiles = base, closed
	}
	total = f.base
	for i := closed; i < len(f.tiles); i++ {
		if total, err = total.Merge(f.tiles[i].partial); err != nil {
			var nothing P
			return nothing, err
		}
	}
	return total, nil
}
