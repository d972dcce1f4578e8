package rangecache

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// database is a model of a database: it has the times at which each point existed.
type database struct {
	rng     *rand.Rand
	now     int64
	points  map[int64]*point // by time
	times   []int64          // of points, ascending
	files   int              // blocks of ten minutes that a query may read; 0 for any number
	failing bool
	queried []Range // since the last reset
	read    int     // points
}

type point struct{ written, deleted int64 } // deleted is 0 while it is there

var (
	errFailed   = errors.New("failed")
	errRejected = errors.New("rejected")
)

func newDatabase(seed uint64) *database {
	return &database{rng: rand.New(rand.NewPCG(seed, 1)), now: 2_000_000 * hour / 3600, points: make(map[int64]*point)}
}

// fill writes the points of some days with a gap of weeks. Some are in the future, some long before
// all others, and some at the ends of blocks.
func (d *database) fill(days, n int) {
	for range n {
		age := d.within(int64(days) * 24 * hour)
		if gap := age > 20*24*hour && age < 45*24*hour; gap {
			continue
		}
		at := d.now - age
		if d.rng.IntN(4) == 0 {
			at -= at % (hour / 6)
		}
		d.write(at)
	}
	for _, at := range []int64{d.now + 40*24*hour, d.now + hour/60, d.now, d.now - 1, 0, -1} {
		d.write(at)
	}
}

func (d *database) within(ns int64) int64 { return d.rng.Int64N(ns) }

func (d *database) write(ns int64) {
	at, old := slices.BinarySearch(d.times, ns)
	if !old {
		d.times = slices.Insert(d.times, at, ns)
	}
	if !old || d.points[ns].deleted != 0 {
		d.points[ns] = &point{written: d.now}
	}
}

// truth returns the points in a range that exist now.
func (d *database) truth(r Range) []int64 {
	var all []int64
	from, _ := slices.BinarySearch(d.times, r.From)
	for _, ns := range d.times[from:] {
		if !r.Contains(ns) {
			break
		}
		if d.points[ns].deleted == 0 {
			all = append(all, ns)
		}
	}
	return all
}

func (d *database) query(r Range) (*ids, error) {
	d.queried = append(d.queried, r)
	if d.failing {
		return nil, errFailed
	}
	found, blocks := d.truth(r), make(map[int64]bool)
	for _, ns := range found {
		blocks[ns/(hour/6)] = true
	}
	if d.files > 0 && len(blocks) > d.files {
		return nil, errRejected
	}
	d.read += len(found)
	return &ids{times: found}, nil
}

// loader calls a cache like a history.
type loader struct {
	*database
	*Cache[*ids]
	late    bool     // what is upcoming may be stored after the scrape, or after others
	pending []func() // stores what was fetched
}

// scrape returns the points that are counted in the relevant range at now. The boundary between settled
// and open time may move between the queries for the two.
func (l *loader) scrape(t *testing.T, relevant Range) ([]int64, error) {
	t.Helper()
	l.Plan(l.database.now, relevant)
	wantWhole(t, l.Cache, relevant)
	for {
		wave := l.Needed()
		if len(wave) == 0 {
			break
		}
		if err := l.fetch(wave[0], false); err != nil {
			return nil, err
		}
		wantWhole(t, l.Cache, relevant)
	}
	settled, ok := l.Settled()
	if !ok {
		t.Fatal("nothing is needed, and yet settled time is not accepted")
	}
	counted, open := slices.Clone(settled.times), l.Open()
	step := Range{}
	for next, ok := l.Step(); ok && next != step; next, ok = l.Step() { // the same again is still to be stored
		step = next
		_ = l.fetch(step, l.late && l.rng.IntN(3) > 0)
	}
	for _, r := range l.Upcoming() {
		_ = l.fetch(r, l.late && l.rng.IntN(3) > 0) // it is tried again
	}
	wantWhole(t, l.Cache, relevant)
	for len(open) > 0 {
		r := open[0]
		open = open[1:]
		part, err := l.query(r.Within(relevant))
		if errors.Is(err, errRejected) {
			if err := l.Split(r); err != nil {
				t.Fatalf("split %v: %v", r, err)
			}
			var pieces []Range
			for _, piece := range l.Ranges() {
				if piece = piece.Within(r); !piece.Empty() {
					pieces = append(pieces, piece)
				}
			}
			if len(pieces) < 2 {
				t.Fatalf("%v was split into %v", r, pieces)
			}
			open = append(pieces, open...)
			continue
		}
		if err != nil {
			return nil, err
		}
		counted = append(counted, part.times...)
	}
	wantWhole(t, l.Cache, relevant)
	for len(l.pending) > 0 && l.rng.IntN(2) == 0 {
		l.pending[0]()
		l.pending = l.pending[1:]
		wantWhole(t, l.Cache, relevant)
	}
	slices.Sort(counted)
	return counted, nil
}

// fetch fetches a range, and stores it at once or later.
func (l *loader) fetch(r Range, late bool) error {
	a, err := l.query(r)
	if errors.Is(err, errRejected) {
		return l.Split(r)
	}
	if err != nil {
		return err
	}
	fetched := l.database.now
	store := func() { l.Store(r, a, fetched, Cost{Rows: int64(len(a.times)), Took: time.Second}) }
	if late {
		l.pending = append(l.pending, store)
	} else {
		store()
	}
	return nil
}

// want reports an error unless every point is counted that existed for the whole promised time, no
// point that did not exist in all of it, and no point twice.
func (l *loader) want(t *testing.T, counted []int64, relevant Range) {
	t.Helper()
	ago := func(ns int64) time.Duration { return time.Duration(l.database.now - ns) }
	for i := range counted[min(1, len(counted)):] {
		if counted[i] == counted[i+1] {
			t.Errorf("the point %v before now is counted twice", ago(counted[i]))
		}
	}
	got := ids{times: counted}
	for ns, p := range l.points {
		if !relevant.Contains(ns) {
			continue
		}
		since := l.database.now
		if age := ago(ns); age > l.lateness {
			since -= int64(refreshAfter(age))
		}
		switch {
		case p.deleted == 0 && p.written <= since && !got.has(ns):
			t.Errorf("the point %v before now, written %v ago, is missing", ago(ns), ago(p.written))
		case p.deleted != 0 && p.deleted <= since && got.has(ns):
			t.Errorf("the point %v before now, deleted %v ago, is counted", ago(ns), ago(p.deleted))
		}
	}
	for _, ns := range counted {
		if l.points[ns] == nil {
			t.Errorf("the point %v before now was never written", ago(ns))
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// TestCache_random: after random events, points count within the promised times, and the count is
// the truth some time after the last change.
func TestCache_random(t *testing.T) {
	for seed := range uint64(12) {
		lateness := []time.Duration{24 * time.Hour, time.Hour, 0}[seed%3]
		t.Run(fmt.Sprint(seed, lateness), func(t *testing.T) {
			d := newDatabase(seed)
			maxRows := []int64{noMaxRows, 40}[seed/3%2]
			restart := func() *loader { return &loader{database: d, Cache: New(lateness, maxRows, noIDs), late: true} }
			l := restart()
			d.fill(90, 400)
			counts, failures := 0, 0
			for range 400 {
				switch d.rng.IntN(8) {
				case 0, 1:
					if lateness > 0 {
						d.write(d.now - d.within(int64(lateness)))
					}
				case 2: // a backlog is written
					d.write(d.now - d.within(60*24*hour))
				case 3:
					for _, p := range d.points {
						if p.deleted == 0 && d.rng.IntN(len(d.points)) < 2 {
							p.deleted = d.now
						}
					}
				case 4:
					d.now += d.within(6 * hour)
				}
				d.now += d.within(hour / 60)
				d.failing = d.rng.IntN(12) == 0
				if d.rng.IntN(30) == 0 {
					d.files = []int{0, 432, 20, 2}[d.rng.IntN(4)]
				}
				if d.rng.IntN(40) == 0 {
					l = restart()
				}
				counted, err := l.scrape(t, All)
				if err != nil {
					failures++
					continue
				}
				counts++
				l.want(t, counted, All)
			}
			d.failing = false
			for range 24 * 60 / 9 { // nothing changes any more
				d.now += 9 * hour / 60
				if _, err := l.scrape(t, All); err != nil {
					t.Fatal(err)
				}
			}
			counted, err := l.scrape(t, All)
			if err != nil {
				t.Fatal(err)
			}
			if want := d.truth(All); !slices.Equal(counted, want) {
				t.Errorf("a day after the last change, %d points are counted, there are %d", len(counted), len(want))
			}
			if counts < 100 || failures < 10 {
				t.Errorf("%d counts and %d failures show little", counts, failures)
			}
		})
	}
}

// TestCache_random_lookback: the newest day is exact at both ends while it moves.
func TestCache_random_lookback(t *testing.T) {
	for _, files := range []int{0, 20, 2} {
		t.Run(fmt.Sprint(files, " files"), func(t *testing.T) {
			d := newDatabase(5)
			d.files = files
			for range 200 {
				d.write(d.now - d.within(30*hour))
			}
			l := &loader{database: d, Cache: New(time.Hour, noMaxRows, noIDs), late: true}
			for range 500 {
				relevant := Range{d.now - 24*hour, d.now + 1}
				counted, err := l.scrape(t, relevant)
				if err != nil {
					t.Fatal(err)
				}
				counted = slices.DeleteFunc(counted, func(ns int64) bool { return !relevant.Contains(ns) })
				if want := d.truth(relevant); !slices.Equal(counted, want) {
					t.Fatalf("%d points are counted, there are %d", len(counted), len(want))
				}
				if n := l.State().Ranges; n > 200 {
					t.Fatalf("%d ranges", n)
				}
				d.now += d.within(5 * hour / 60)
				d.write(d.now - d.within(50*hour/60))
				if d.rng.IntN(100) == 0 {
					d.now += d.within(40 * hour)
				}
			}
		})
	}
}

// TestCache_random_clock: after any jump of the clock, the ranges are contiguous, and the count is
// the truth some time later.
func TestCache_random_clock(t *testing.T) {
	for seed := range uint64(6) {
		for _, lookback := range []int64{0, 24 * hour} {
			t.Run(fmt.Sprint(seed, time.Duration(lookback)), func(t *testing.T) {
				d := newDatabase(seed)
				d.fill(90, 400)
				l := &loader{database: d, Cache: New([]time.Duration{24 * time.Hour, 5 * time.Minute}[seed%2], noMaxRows, noIDs), late: true}
				relevant := func() Range {
					if lookback == 0 {
						return All
					}
					return Range{d.now - lookback, d.now + 1}
				}
				for range 300 {
					jump := []int64{hour / 60, hour, 30 * hour, 3000 * hour}[d.rng.IntN(4)]
					d.now += d.within(2*jump) - jump
					counted, err := l.scrape(t, relevant())
					if err != nil {
						t.Fatal(err)
					}
					counted = slices.DeleteFunc(counted, func(ns int64) bool { return !relevant().Contains(ns) })
					if want := d.truth(relevant()); !slices.Equal(counted, want) { // no point is written or deleted
						t.Fatalf("%d points are counted, there are %d", len(counted), len(want))
					}
				}
			})
		}
	}
}

// TestCache_steady: a scrape requests the open range, and rarely another one.
func TestCache_steady(t *testing.T) {
	for name, tt := range map[string]struct {
		lateness        time.Duration
		lookback, every int64
		queries, needed int // at most, in one scrape
	}{
		"dumps, a minute":        {24 * time.Hour, 0, hour / 60, 3, 0},
		"dumps, nine minutes":    {24 * time.Hour, 0, 9 * hour / 60, 8, 0},
		"telemetry, 15 seconds":  {5 * time.Minute, 24 * hour, 15e9, 3, 0},
		"telemetry, two minutes": {5 * time.Minute, 24 * hour, 120e9, 12, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDatabase(3)
			d.fill(365, 2000)
			for age := range int64(24 * 60) {
				d.write(d.now - age*hour/60)
			}
			l := &loader{database: d, Cache: New(tt.lateness, noMaxRows, noIDs)}
			relevant := All
			maxQueries, maxRanges := 0, 0
			for i := range 1500 {
				if tt.lookback > 0 {
					relevant = Range{d.now - tt.lookback, d.now + 1}
				}
				l.Plan(d.now, relevant)
				if needed := len(l.Needed()); i > 0 && needed > tt.needed {
					t.Fatalf("scrape %d needs %d ranges", i, needed)
				}
				d.queried = nil
				if i == 1 {
					d.read = 0
				}
				if _, err := l.scrape(t, relevant); err != nil {
					t.Fatal(err)
				}
				if i > 0 {
					maxQueries = max(maxQueries, len(d.queried))
				}
				maxRanges = max(maxRanges, l.State().Ranges)
				d.now += tt.every
				d.write(d.now)
			}
			read := d.read / 1500
			t.Logf("at most %d queries a scrape, %d ranges, %d of %d points read", maxQueries, maxRanges, read, len(d.points))
			if maxQueries > tt.queries {
				t.Errorf("%d queries in one scrape, want at most %d", maxQueries, tt.queries)
			}
			if maxRanges > 40 {
				t.Errorf("%d ranges", maxRanges)
			}
			if tt.lookback == 0 && read > len(d.points)/2 {
				t.Errorf("%d of %d points are read in each scrape", read, len(d.points))
			}
		})
	}
}

// TestCache_rejectsAll: a server that rejects every query gets a few dozen in each scrape, and its
// first response counts.
func TestCache_rejectsAll(t *testing.T) {
	d := newDatabase(1)
	d.fill(100, 500)
	for age := range int64(3000) {
		d.write(d.now - age*60e9)
	}
	l := &loader{database: d, Cache: New(24*time.Hour, noMaxRows, noIDs)}
	for scrape := range 50 {
		l.Plan(d.now, All)
		queries := 0
		for ; ; queries++ {
			if err := l.Split(l.Needed()[0]); err != nil {
				break
			}
		}
		if queries > 40 {
			t.Fatalf("%d queries in scrape %d", queries, scrape)
		}
		d.now += 60e9
	}
	counted, err := l.scrape(t, All)
	if err != nil {
		t.Fatal(err)
	}
	l.want(t, counted, All)
	if n := l.State().Ranges; n > 60 {
		t.Errorf("%d ranges", n)
	}
}
