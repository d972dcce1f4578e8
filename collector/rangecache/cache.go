package rangecache

import (
	"errors"
	"slices"
	"time"
)

// Aggregate is what the rows of a time range add up to. Merge adds another aggregate, which
// it leaves unchanged.
type Aggregate[A any] interface{ Merge(A) }

// A settled range is refreshed, at the latest, after a time that grows with its age.
const (
	minRefresh    = 10 * time.Minute
	maxRefresh    = 24 * time.Hour
	agePerRefresh = 100
)

// refreshAfter returns how old the aggregate of a range may become that ended an age ago.
func refreshAfter(age time.Duration) time.Duration {
	return min(max(minRefresh, age/agePerRefresh), maxRefresh)
}

const (
	// stepsPerLateness: settled time grows in steps of this part of the allowed lateness. A
	// step for each call would make as many ranges.
	stepsPerLateness = 8
	// rejectionLife is when a range as wide as a rejected one may be tried again.
	rejectionLife = 24 * time.Hour
	// maxRanges bounds the memory of one cache.
	maxRanges = 20_000
	// maxAge is how far back time is split when nothing is known about it; what is older is
	// one range.
	maxAge = 50 * 365 * 24 * time.Hour
)

// ErrTooNarrow says that a rejected range can't be split any further.
var ErrTooNarrow = errors.New("the time range is too narrow, or there are too many, to split it further")

// Cache stores the aggregates of settled time ranges. Time that is not settled yet is open:
// the cache splits it too, but stores nothing of it. A Cache is not safe for concurrent use.
// All times are in nanoseconds since 1970.
type Cache[A Aggregate[A]] struct {
	lateness time.Duration
	maxRows  int64
	empty    func() A

	settled []entry[A] // ascending, contiguous, up to end
	next    Range      // the step of time that settles when its aggregate is stored; may be empty
	open    []Range    // ascending, contiguous, from end to the end of time
	end     int64

	now, previous int64 // of the latest two calls of Plan
	from          int64 // where the span of the latest one begins
	rejected      []rejection
	base          A
	merged        bool // base is the merge of all aggregates
}

type entry[A any] struct {
	Range
	aggregate A
	fetched   int64 // when the request began; 0 while the range is missing
	cost      Cost  // of the request
}

// Cost is what a request took.
type Cost struct {
	Rows int64 // of the response
	Took time.Duration
}

// rejection is a range that a server has rejected, or that took too long.
type rejection struct {
	Range
	at int64
}

// New returns an empty cache. Lateness is how long after its time a point may arrive: older
// time is settled. MaxRows is the number of rows that a range should not exceed, as a server
// may hold a whole response in memory. Empty returns an aggregate of no rows.
func New[A Aggregate[A]](lateness time.Duration, maxRows int64, empty func() A) *Cache[A] {
	return &Cache[A]{lateness: lateness, maxRows: maxRows, empty: empty}
}

// Plan prepares the cache for a call at now: settled ranges begin where the span does, old
// neighbours become one, and the next step of time may settle.
func (c *Cache[A]) Plan(now int64, span Range) {
	c.from = span.From
	if c.open == nil {
		c.now, c.previous = now, now
		c.lay(span)
		return
	}
	if now != c.now { // several queries of a scrape may call at one time
		c.previous, c.now = c.now, now
	}
	// One a call, as what is tried again may be rejected again. The first is the oldest.
	if len(c.rejected) > 0 && now-c.rejected[0].at > int64(rejectionLife) {
		c.rejected = slices.Delete(c.rejected, 0, 1)
	}
	c.trim(span)
	c.join()
	if c.next.To > now-int64(c.lateness) { // the clock was set back
		c.next = Range{}
	}
	c.advance()
}

// advance begins a step when there is time for one. A step is no longer than one open range:
// where those are short, longer ones were rejected.
func (c *Cache[A]) advance() {
	target := c.now - int64(c.lateness)
	step := max(int64(c.lateness)/stepsPerLateness, int64(minWidth))
	if c.next.Empty() && target-c.end >= step && target > c.from {
		c.next = Range{c.end, min(target, c.open[0].To)}
	}
}

// lay splits settled time into ranges as long as they are old: a year makes a dozen, and the
// share of them to refresh at each call stays the same.
func (c *Cache[A]) lay(span Range) {
	age := max(int64(c.lateness), int64(minWidth))
	c.end = c.now - age
	c.open, c.next, c.settled, c.merged = []Range{{c.end, All.To}}, Range{}, nil, false
	for to := c.end; to > span.From; {
		from := span.From
		if age *= 2; age <= int64(maxAge) {
			from = max(span.From, c.now-age)
		}
		c.settled = slices.Insert(c.settled, 0, entry[A]{Range: Range{from, to}})
		to = from
	}
}

// trim makes the settled ranges begin where the span does. A range that the span has partly
// left stays as it is: its aggregate is still that of the whole range.
func (c *Cache[A]) trim(span Range) {
	gone := 0
	for gone < len(c.settled) && c.settled[gone].To <= span.From {
		gone++
	}
	if gone > 0 {
		c.settled, c.merged = slices.Delete(c.settled, 0, gone), false
	}
	first := c.end
	if len(c.settled) > 0 {
		first = c.settled[0].From
	}
	if first > span.From { // the clock was set back
		c.settled = slices.Insert(c.settled, 0, entry[A]{Range: Range{span.From, first}})
	}
	target := c.now - int64(c.lateness)
	switch {
	case target < c.end-int64(maxRefresh), c.end > span.To: // it was set back by much
		c.lay(span)
	case c.end < span.From && target > span.From: // the span has left everything settled
		c.lay(span)
	}
}

// join makes neighbours one that are old enough for the width of both, unless a range as wide
// was rejected there, or the younger neighbour is refreshed more often than the older one was.
func (c *Cache[A]) join() {
	for i := 0; i+1 < len(c.settled); {
		older, newer := &c.settled[i], &c.settled[i+1]
		both := entry[A]{
			Range:   Range{older.From, newer.To},
			fetched: min(older.fetched, newer.fetched),
			cost:    Cost{older.cost.Rows + newer.cost.Rows, older.cost.Took + newer.cost.Took},
		}
		if older.fetched == 0 || newer.fetched == 0 || both.cost.Rows > c.maxRows || !both.bounded() || both.To-both.From > c.now-both.To ||
			c.wasRejected(both.Range) || c.overdue(&both, 0) {
			i++
			continue
		}
		both.aggregate = c.empty()
		both.aggregate.Merge(older.aggregate)
		both.aggregate.Merge(newer.aggregate)
		c.settled = slices.Replace(c.settled, i, i+2, both)
	}
}

// wasRejected reports whether a range as wide as one was rejected where it lies.
func (c *Cache[A]) wasRejected(r Range) bool {
	return slices.ContainsFunc(c.rejected, func(old rejection) bool {
		return old.From < r.To && r.From < old.To && r.To-r.From >= old.To-old.From
	})
}

// Settled returns the merge of everything settled, which nobody may change. ok is false while
// a settled range is missing, or was fetched longer ago than it may be.
func (c *Cache[A]) Settled() (base A, ok bool) {
	for i := range c.settled {
		if c.settled[i].fetched == 0 || c.overdue(&c.settled[i], 0) {
			return base, false
		}
	}
	if !c.merged {
		c.base, c.merged = c.empty(), true
		for i := range c.settled {
			c.base.Merge(c.settled[i].aggregate)
		}
	}
	return c.base, true
}

// Open returns the ranges that are not settled, oldest first.
func (c *Cache[A]) Open() []Range { return slices.Clone(c.open) }

// Ranges returns the settled ranges and then the open ones, oldest first.
func (c *Cache[A]) Ranges() []Range {
	all := make([]Range, 0, len(c.settled)+len(c.open))
	for i := range c.settled {
		all = append(all, c.settled[i].Range)
	}
	return append(all, c.open...)
}

// overdue reports whether an entry is older than it may be, or would be before another gap
// has passed. One that was fetched after now is new, or the clock was set back.
func (c *Cache[A]) overdue(e *entry[A], gap int64) bool {
	return e.fetched-c.now >= int64(minRefresh) || c.now+gap-e.fetched >= c.refreshAfter(e)
}

func (c *Cache[A]) refreshAfter(e *entry[A]) int64 {
	return int64(refreshAfter(time.Duration(c.now - e.To)))
}

// Needed returns the ranges without which Settled is not ok, newest first: newer data is
// denser known, and tells how to split the older.
func (c *Cache[A]) Needed() []Range {
	var needed []Range
	for i := len(c.settled) - 1; i >= 0; i-- {
		if e := &c.settled[i]; e.fetched == 0 || c.overdue(e, 0) {
			needed = append(needed, e.Range)
		}
	}
	return needed
}

// Step returns the next time range that settles once it is stored; false when there is none.
func (c *Cache[A]) Step() (Range, bool) { return c.next, !c.next.Empty() }

// Upcoming returns the ranges to fetch before the next call: those that would be overdue by
// then, and, so that they do not all become so at once, the one that is nearest to it.
func (c *Cache[A]) Upcoming() []Range {
	var upcoming []Range
	gap := max(0, c.now-c.previous)
	nearest, most := -1, 0.5
	for i := range c.settled {
		e := &c.settled[i]
		if e.fetched == 0 || c.overdue(e, 0) {
			continue
		}
		if c.overdue(e, gap) {
			upcoming = append(upcoming, e.Range)
		} else if part := float64(c.now-e.fetched) / float64(c.refreshAfter(e)); part >= most {
			nearest, most = i, part
		}
	}
	if nearest >= 0 {
		upcoming = append(upcoming, c.settled[nearest].Range)
	}
	return upcoming
}

// Store stores the aggregate of a range. Fetched is when its request began. A range that the
// cache has split, joined or dropped meanwhile is ignored.
func (c *Cache[A]) Store(r Range, a A, fetched int64, cost Cost) {
	e := entry[A]{r, a, fetched, cost}
	if r == c.next {
		c.settled = append(c.settled, e)
		c.end, c.next, c.merged = r.To, Range{}, false
		for len(c.open) > 0 && c.open[0].To <= c.end {
			c.open = c.open[1:]
		}
		c.open[0].From = c.end
		c.advance()
		return
	}
	if i := c.find(r); i >= 0 {
		c.settled[i], c.merged = e, false
		c.thin(i - 1)
	}
}

// thin splits a missing range until its newest part has no more than maxRows, if its data is
// as dense as that of the newer neighbour.
func (c *Cache[A]) thin(i int) {
	for i >= 0 && len(c.settled) < maxRanges {
		e, neighbour := &c.settled[i], &c.settled[i+1]
		if e.fetched != 0 || !e.bounded() || !neighbour.bounded() ||
			float64(neighbour.cost.Rows)*float64(e.width())/float64(neighbour.width()) <= float64(c.maxRows) {
			return
		}
		older, newer, ok := e.Split(c.now, 0)
		if !ok {
			return
		}
		c.settled = slices.Replace(c.settled, i, i+1, entry[A]{Range: older}, entry[A]{Range: newer})
		// The newer half is the neighbour of what has been stored.
		i++
	}
}

func (c *Cache[A]) find(r Range) int {
	return slices.IndexFunc(c.settled, func(e entry[A]) bool { return e.Range == r })
}

// Split splits a range that was rejected, or took too long. It is nil when that has been done
// already, and ErrTooNarrow when it can't be done.
func (c *Cache[A]) Split(r Range) error {
	if r == c.next {
		if r.width() < 2*minWidth {
			return ErrTooNarrow
		}
		c.reject(r)
		c.next.To = r.From + int64(r.width()/2)
		return nil
	}
	if i := slices.Index(c.open, r); i >= 0 {
		older, newer, err := c.split(r)
		if err == nil {
			c.open = slices.Replace(c.open, i, i+1, older, newer)
		}
		return err
	}
	i := c.find(r)
	if i < 0 {
		return nil
	}
	older, newer, err := c.split(r)
	if err != nil {
		return err
	}
	c.settled = slices.Replace(c.settled, i, i+1, entry[A]{Range: older}, entry[A]{Range: newer})
	return nil
}

func (c *Cache[A]) split(r Range) (older, newer Range, err error) {
	all, reach := c.Ranges(), time.Duration(0)
	if len(all) >= maxRanges {
		return r, r, ErrTooNarrow
	}
	at := slices.Index(all, r)
	for _, beside := range all[max(0, at-1):min(len(all), at+2)] { // one, where the range is unbounded
		reach = max(reach, beside.width())
	}
	older, newer, ok := r.Split(c.now, reach)
	if !ok {
		return r, r, ErrTooNarrow
	}
	c.reject(r)
	return older, newer, nil
}

func (c *Cache[A]) reject(r Range) {
	if !r.bounded() {
		return
	}
	// A rejected range that holds a smaller one says nothing more.
	c.rejected = slices.DeleteFunc(c.rejected, func(old rejection) bool { return old.From <= r.From && r.To <= old.To })
	c.rejected = append(c.rejected, rejection{r, c.now})
}

// State describes a cache.
type State struct {
	// Ranges is the number of settled ranges, Missing how many of them have no aggregate, and
	// Needed how many have none or one that is older than it may be.
	Ranges, Missing, Needed int
	// Oldest is when the longest unrefreshed range was fetched; 0 without one, or while one is missing.
	Oldest int64
	// Took is what all requests for settled ranges took, and Rejected whether any was rejected.
	Took     time.Duration
	Rejected bool
}

// State returns the state of the cache.
func (c *Cache[A]) State() State {
	s := State{Ranges: len(c.settled), Rejected: len(c.rejected) > 0}
	for i := range c.settled {
		e := &c.settled[i]
		s.Took += e.cost.Took
		if e.fetched == 0 || c.overdue(e, 0) {
			s.Needed++
		}
		switch {
		case e.fetched == 0:
			s.Missing++
		case s.Oldest == 0 || e.fetched < s.Oldest:
			s.Oldest = e.fetched
		}
	}
	if s.Missing > 0 {
		s.Oldest = 0
	}
	return s
}
