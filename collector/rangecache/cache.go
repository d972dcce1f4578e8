package rangecache

import (
	"errors"
	"slices"
	"time"
)

// Aggregate is what the rows of a time range add up to. Merge adds another aggregate and leaves
// that one unchanged.
type Aggregate[A any] interface{ Merge(A) }

// The time after which a settled range is refreshed grows with the age of its data.
const (
	minRefresh    = 10 * time.Minute
	maxRefresh    = 24 * time.Hour
	agePerRefresh = 100
)

// refreshAfter returns the maximum age of the aggregate of a range that ended an age ago.
func refreshAfter(age time.Duration) time.Duration {
	return min(max(minRefresh, age/agePerRefresh), maxRefresh)
}

const (
	// stepsPerLateness is the number of steps in which an allowed lateness settles. A step for
	// each call of Plan would make too many ranges.
	stepsPerLateness = 8
	// rejectionLife is the time after which a range as wide as a rejected one may be tried again.
	rejectionLife = 24 * time.Hour
	// maxRanges limits the memory of one cache.
	maxRanges = 20_000
	// maxAge limits how far back an empty cache splits time: everything older is one range.
	maxAge = 50 * 365 * 24 * time.Hour
)

// ErrTooNarrow means that a range can't be split any further.
var ErrTooNarrow = errors.New("the time range is too narrow, or there are too many, to split it further")

// Cache stores the aggregates of settled time ranges. Time that is not settled is open: the cache
// splits it, too, but stores no aggregate of it. A Cache is not safe for concurrent use. All times
// are in nanoseconds since 1970.
type Cache[A Aggregate[A]] struct {
	lateness time.Duration
	maxRows  int64
	empty    func() A

	settled []entry[A] // ascending and contiguous, up to end
	next    Range      // the range that becomes settled once its aggregate is stored; may be empty
	open    []Range    // ascending and contiguous, from end to the end of All
	end     int64

	now, previous int64 // the times of the latest two calls of Plan
	from          int64 // the start of the relevant range in the latest call of Plan
	rejected      []rejection
	base          A
	merged        bool // base is the merge of all aggregates
}

type entry[A any] struct {
	Range
	aggregate A
	fetched   int64 // when the request began; 0 without an aggregate
	cost      Cost  // of the request
}

// Cost describes the response to a request.
type Cost struct {
	Rows int64 // number of rows
	Took time.Duration
}

// rejection is a range that a server rejected, or whose request took too long.
type rejection struct {
	Range
	at int64
}

// New returns an empty cache. lateness is the time after which a point has arrived: older time is
// settled. maxRows is the intended limit to the rows of one range: a server may hold all rows of a
// response in memory. empty returns an aggregate of no rows.
func New[A Aggregate[A]](lateness time.Duration, maxRows int64, empty func() A) *Cache[A] {
	return &Cache[A]{lateness: lateness, maxRows: maxRows, empty: empty}
}

// Plan updates the ranges to a new time. It drops settled ranges before the relevant one, joins
// old neighbours, and selects the next range to settle.
func (c *Cache[A]) Plan(now int64, relevant Range) {
	c.from = relevant.From
	if c.open == nil {
		c.now, c.previous = now, now
		c.reset(relevant)
		return
	}
	if now != c.now { // a scrape may call Plan several times
		c.previous, c.now = c.now, now
	}
	// At most one rejection expires in each call: its range may be rejected again. The first
	// one is the oldest.
	if len(c.rejected) > 0 && now-c.rejected[0].at > int64(rejectionLife) {
		c.rejected = slices.Delete(c.rejected, 0, 1)
	}
	c.trim(relevant)
	c.join()
	if c.next.To > now-int64(c.lateness) { // the clock was set back
		c.next = Range{}
	}
	c.advance()
}

// advance selects the next range to settle if enough time has passed. It is at most as long as
// the first open range: if open ranges are short, longer ones were rejected.
func (c *Cache[A]) advance() {
	target := c.now - int64(c.lateness)
	step := max(int64(c.lateness)/stepsPerLateness, int64(minWidth))
	if c.next.Empty() && target-c.end >= step && target > c.from {
		c.next = Range{c.end, min(target, c.open[0].To)}
	}
}

// reset drops everything and splits settled time into ranges whose length is about their age: a
// dozen for a year. The longer a range is, the less often it is refreshed.
func (c *Cache[A]) reset(relevant Range) {
	age := max(int64(c.lateness), int64(minWidth))
	c.end = c.now - age
	c.open, c.next, c.settled, c.merged = []Range{{c.end, All.To}}, Range{}, nil, false
	for to := c.end; to > relevant.From; {
		from := relevant.From
		if age *= 2; age <= int64(maxAge) {
			from = max(relevant.From, c.now-age)
		}
		c.settled = slices.Insert(c.settled, 0, entry[A]{Range: Range{from, to}})
		to = from
	}
}

// trim drops the settled ranges before the relevant one. It leaves a range unchanged that is
// partly relevant, because its aggregate can't be split.
func (c *Cache[A]) trim(relevant Range) {
	old := 0
	for old < len(c.settled) && c.settled[old].To <= relevant.From {
		old++
	}
	if old > 0 {
		c.settled, c.merged = slices.Delete(c.settled, 0, old), false
	}
	first := c.end
	if len(c.settled) > 0 {
		first = c.settled[0].From
	}
	if first > relevant.From { // the clock was set back
		c.settled = slices.Insert(c.settled, 0, entry[A]{Range: Range{relevant.From, first}})
	}
	target := c.now - int64(c.lateness)
	switch {
	case target < c.end-int64(maxRefresh), c.end > relevant.To: // the clock was set back by a long time
		c.reset(relevant)
	case c.end < relevant.From && target > relevant.From: // nothing settled is relevant
		c.reset(relevant)
	}
}

// join joins neighbours that together are at most as long as they are old and have at most maxRows
// rows. It does not join them if a range as wide was rejected there, or if the result would be
// overdue at once.
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

// wasRejected reports whether a range that overlaps r and is at most as wide was rejected.
func (c *Cache[A]) wasRejected(r Range) bool {
	return slices.ContainsFunc(c.rejected, func(old rejection) bool {
		return old.From < r.To && r.From < old.To && r.To-r.From >= old.To-old.From
	})
}

// Settled returns the merge of everything settled, which the caller must not change. ok is false
// while a settled range has no aggregate, or is overdue for a refresh.
func (c *Cache[A]) Settled() (base A, ok bool) {
	for i := range c.settled {
		if c.needed(&c.settled[i]) {
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

// Open returns the open ranges, oldest first.
func (c *Cache[A]) Open() []Range { return slices.Clone(c.open) }

// Ranges returns the settled ranges and then the open ones, oldest first.
func (c *Cache[A]) Ranges() []Range {
	all := make([]Range, 0, len(c.settled)+len(c.open))
	for i := range c.settled {
		all = append(all, c.settled[i].Range)
	}
	return append(all, c.open...)
}

// overdue reports whether an entry is to be refreshed now or within a gap, in nanoseconds. An entry
// that was fetched long after now is overdue, too: the clock was set back.
func (c *Cache[A]) overdue(e *entry[A], gap int64) bool {
	return e.fetched-c.now >= int64(minRefresh) || c.now+gap-e.fetched >= c.refreshAfter(e)
}

// needed reports whether an entry has no aggregate, or is to be refreshed now.
func (c *Cache[A]) needed(e *entry[A]) bool { return e.fetched == 0 || c.overdue(e, 0) }

func (c *Cache[A]) refreshAfter(e *entry[A]) int64 {
	return int64(refreshAfter(time.Duration(c.now - e.To)))
}

// Needed returns the ranges that are missing or overdue, newest first: the response for a newer
// range shows how dense the data is, and so how to split the older ones.
func (c *Cache[A]) Needed() []Range {
	var needed []Range
	for i := len(c.settled) - 1; i >= 0; i-- {
		if e := &c.settled[i]; c.needed(e) {
			needed = append(needed, e.Range)
		}
	}
	return needed
}

// Step returns the range that becomes settled once its aggregate is stored; false if there is none.
func (c *Cache[A]) Step() (Range, bool) { return c.next, !c.next.Empty() }

// Upcoming returns the ranges to refresh before the next call of Plan: those that would be overdue
// then, and the one that is nearest to it, so that the refreshes spread over time.
func (c *Cache[A]) Upcoming() []Range {
	var upcoming []Range
	gap := max(0, c.now-c.previous)
	nearest, maxPart := -1, 0.5
	for i := range c.settled {
		e := &c.settled[i]
		if c.needed(e) {
			continue
		}
		if c.overdue(e, gap) {
			upcoming = append(upcoming, e.Range)
		} else if part := float64(c.now-e.fetched) / float64(c.refreshAfter(e)); part >= maxPart {
			nearest, maxPart = i, part
		}
	}
	if nearest >= 0 {
		upcoming = append(upcoming, c.settled[nearest].Range)
	}
	return upcoming
}

// Store stores the aggregate of a range. fetched is when the request began. Store ignores a range
// that the cache has split, joined or dropped in the meantime.
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

// thin splits a range without an aggregate until its newest part is expected to have at most
// maxRows rows, if its data is as dense as that of the newer neighbour.
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
		i++ // the newer half is the neighbour of the stored range
	}
}

func (c *Cache[A]) find(r Range) int {
	return slices.IndexFunc(c.settled, func(e entry[A]) bool { return e.Range == r })
}

// Split splits a range that a server rejected, or whose request took too long. It does nothing if
// the range is not in the cache any more. The error is ErrTooNarrow.
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
	for _, neighbour := range all[max(0, at-1):min(len(all), at+2)] { // and r, whose width is 0 if reach matters
		reach = max(reach, neighbour.width())
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
	// The rejection of a part of a range implies that of the range.
	c.rejected = slices.DeleteFunc(c.rejected, func(old rejection) bool { return old.From <= r.From && r.To <= old.To })
	c.rejected = append(c.rejected, rejection{r, c.now})
}

// State describes a cache.
type State struct {
	// Ranges is the number of settled ranges, Missing the number of those without an aggregate,
	// and Needed the number of those that are missing or overdue.
	Ranges, Missing, Needed int
	// Oldest is when the oldest aggregate was fetched; 0 if there is none, or if one is missing.
	Oldest int64
	// Took is the duration of the latest requests for all settled ranges. Rejected is true if a
	// range was rejected within the last day.
	Took     time.Duration
	Rejected bool
}

// State returns the state of the cache.
func (c *Cache[A]) State() State {
	s := State{Ranges: len(c.settled), Rejected: len(c.rejected) > 0}
	for i := range c.settled {
		e := &c.settled[i]
		s.Took += e.cost.Took
		if c.needed(e) {
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
