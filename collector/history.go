package collector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-kit/log/level"

	"memdump_exporter/collector/rangecache"
	"memdump_exporter/influx"
)

// history is everything settled of a source as one aggregate, loaded once and then refreshed. It
// is in use only where it is cheaper than full queries, which read all time in each scrape.
type history struct {
	exporter *Exporter
	source   source
	lateness time.Duration

	mu          sync.Mutex
	full        bool // full queries are in use, and the cache is not
	cache       *rangecache.Cache[*aggregate]
	plannedAt   time.Time     // when the latest batch began: the time of the cache
	usedAt      time.Time     // when a batch last needed the history
	timeout     time.Duration // of one request
	loading     bool          // a loader is active
	stored      int           // number of ranges that loaders have stored
	failure     error         // of the latest loader
	changed     chan struct{} // closed and replaced at each change
	loadBegan   time.Time     // when the loading in the log began; zero if none is in the log
	switchedAt  time.Time     // when a switch between full and range queries was last logged
	retryFullAt time.Time     // when full queries may be used again

	slow []rangecache.Range // ranges of the latest wave that took too long; only the loader uses it
}

const (
	// maxFullQuery limits the duration of a full query: the history replaces a slower one.
	maxFullQuery = 250 * time.Millisecond
	// minHistory is the duration of all requests for a history below which full queries replace
	// the history.
	minHistory = 100 * time.Millisecond
	// slowLife and rejectionLife are how long a full query that was too slow, or was rejected, is
	// not tried again.
	slowLife      = 10 * time.Minute
	rejectionLife = 24 * time.Hour
	// loadAfterScrape is how long loading continues after the latest scrape.
	loadAfterScrape = 10 * time.Minute
	// parallelRequests limits the concurrent requests of one query, and of one history.
	parallelRequests = 2
	// maxRows is the intended limit to the rows of one settled range: InfluxDB 1.x and 2.x hold
	// all rows of a response in memory before they send the first.
	maxRows = 50_000
	// minRequestTimeout is the shortest timeout of one request for a history.
	minRequestTimeout = time.Second
)

func newHistory(e *Exporter, s source, lateness time.Duration) *history {
	return &history{
		exporter: e, source: s, lateness: lateness, full: true,
		cache:   rangecache.New(lateness, maxRows, newAggregate),
		changed: make(chan struct{}),
		timeout: minRequestTimeout,
	}
}

// view is what the queries of a batch need of a history.
type view struct {
	settled  *aggregate         // of everything older than the open ranges; must not be changed
	open     []rangecache.Range // ranges to query, oldest first
	relevant rangecache.Range   // the time range that counts
	full     bool               // full queries are in use
	ranges   int                // number of settled and open ranges
	oldest   time.Time          // when the oldest settled aggregate was fetched; zero if full is true
}

// view returns the history, and the ranges that are to be queried at now. While the history is
// incomplete, it starts or joins the loading and waits for it until the context ends. The error
// is then errLoading, or influx.ErrTimeout if no range was stored in the meantime.
func (h *history) view(ctx context.Context, now time.Time) (view, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	relevant := h.exporter.config.relevantRange(h.source, now)
	if deadline, ok := ctx.Deadline(); ok {
		h.timeout = max(time.Until(deadline)/4, minRequestTimeout)
	}
	h.plannedAt = now
	if !h.full {
		h.cache.Plan(now.UnixNano(), relevant)
	}
	stored, waited := h.stored, false
	for {
		h.usedAt = h.exporter.config.Now()
		if v, ok := h.currentView(now, relevant); ok {
			return v, nil
		}
		switch err := ctx.Err(); {
		case waited && h.failure != nil && !h.loading:
			return view{}, fmt.Errorf("load the history of %s: %w", h.source, h.failure)
		case err != nil:
			return view{}, h.loadError(err, h.stored > stored)
		}
		h.load()
		changed := h.changed
		h.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		h.mu.Lock()
		waited = true
	}
}

// currentView returns the view at now; false while the history is incomplete. It starts a loader
// if ranges are due for a refresh. The caller holds the mutex.
func (h *history) currentView(now time.Time, relevant rangecache.Range) (view, bool) {
	if h.full {
		return view{settled: newAggregate(), open: []rangecache.Range{relevant}, relevant: relevant, full: true, ranges: 1}, true
	}
	settled, ok := h.cache.Settled()
	if !ok {
		return view{}, false
	}
	state := h.cache.State()
	v := view{settled: settled, open: h.cache.Open(), relevant: relevant, oldest: now}
	v.ranges = state.Ranges + len(v.open)
	if state.Oldest != 0 {
		v.oldest = time.Unix(0, state.Oldest)
	}
	if _, due := h.cache.Step(); due || len(h.cache.Upcoming()) > 0 {
		h.load()
	}
	return v, true
}

// loadError returns the error of a batch whose context ended, with err, while the history was
// incomplete. progress reports whether a range was stored in the meantime. The caller holds the
// mutex.
func (h *history) loadError(err error, progress bool) error {
	switch state := h.cache.State(); {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("load the history of %s: %w: %w", h.source, influx.ErrCanceled, err)
	case progress:
		return fmt.Errorf("%w: %d of %d time ranges of the history of %s are loaded",
			errLoading, state.Ranges-state.Needed, state.Ranges, h.source)
	}
	return fmt.Errorf("load the history of %s: %w: no response within the scrape timeout", h.source, influx.ErrTimeout)
}

// leaveFull replaces full queries by the history, and starts loading it.
func (h *history) leaveFull(cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.full {
		return
	}
	now := h.exporter.config.Now()
	h.full, h.plannedAt, h.usedAt, h.retryFullAt = false, now, now, now.Add(slowLife)
	h.cache = rangecache.New(h.lateness, maxRows, newAggregate)
	if h.source.splittable(cause) {
		h.retryFullAt = now.Add(rejectionLife)
	}
	h.cache.Plan(now.UnixNano(), h.exporter.config.relevantRange(h.source, now))
	h.logSwitch("switching to range queries: the full query was rejected or too slow", "cause", cause)
	h.load()
}

// logSwitch logs a switch between full and range queries. The level is debug if the last switch
// was logged less than repeatLog ago: a database near the threshold may switch often.
func (h *history) logSwitch(message string, fields ...any) {
	logger, now := level.Debug(h.exporter.config.Logger), h.exporter.config.Now()
	if now.Sub(h.switchedAt) >= repeatLog {
		logger, h.switchedAt = level.Info(h.exporter.config.Logger), now
	}
	_ = logger.Log(append([]any{"msg", message, "history", h.source}, fields...)...)
}

// split splits a range that InfluxDB rejected, and returns the ranges that replace it.
func (h *history) split(r rangecache.Range) ([]rangecache.Range, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.cache.Split(r); err != nil {
		return nil, err
	}
	var parts []rangecache.Range
	for _, part := range h.cache.Ranges() {
		if part = part.Within(r); !part.Empty() {
			parts = append(parts, part)
		}
	}
	if len(parts) < 2 {
		return nil, rangecache.ErrTooNarrow
	}
	return parts, nil
}

// load starts a loader unless one is active. The caller holds the mutex.
func (h *history) load() {
	if h.loading || h.exporter.ctx.Err() != nil {
		return
	}
	h.loading, h.failure = true, nil
	if state := h.cache.State(); state.Missing > 0 && h.loadBegan.IsZero() {
		h.loadBegan = h.exporter.config.Now()
		_ = level.Info(h.exporter.config.Logger).Log("msg", "loading the history", "history", h.source, "ranges", state.Ranges)
	}
	upcoming := h.cache.Upcoming()
	h.exporter.loads.Go(func() {
		err := contain(func() error { return h.fetch(upcoming) })
		h.mu.Lock()
		defer h.mu.Unlock()
		h.loading, h.failure = false, err
		h.finishLoad()
		h.notify()
	})
}

// finishLoad logs that the history is complete, and returns to full queries if they are cheap.
// The caller holds the mutex.
func (h *history) finishLoad() {
	state := h.cache.State()
	if state.Missing > 0 || h.failure != nil {
		return
	}
	if !h.loadBegan.IsZero() {
		_ = level.Info(h.exporter.config.Logger).Log("msg", "history loaded", "history", h.source, "ranges", state.Ranges,
			"took", h.exporter.config.Now().Sub(h.loadBegan))
		h.loadBegan = time.Time{}
	}
	if state.Took < minHistory && !state.Rejected && !h.exporter.config.Now().Before(h.retryFullAt) {
		h.full = true
		h.logSwitch("switching to full queries: all time ranges together are cheap")
	}
}

// notify wakes the batches that wait for a change. The caller holds the mutex.
func (h *history) notify() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// fetch fetches the ranges that are missing or overdue, newest first, then the ranges that have
// settled since, and then those that will soon be overdue.
func (h *history) fetch(upcoming []rangecache.Range) error {
	responded := false
	for {
		wave, planned, timeout := h.next(&upcoming)
		if len(wave) == 0 {
			return nil
		}
		errs := make([]error, len(wave))
		var requests sync.WaitGroup
		for i, r := range wave {
			requests.Go(func() { errs[i] = h.fetchRange(r, planned, timeout) })
		}
		requests.Wait()
		responded = responded || slices.Contains(errs, nil)
		again := h.slow
		h.slow = nil
		for i, err := range errs {
			slow := errors.Is(err, influx.ErrTimeout)
			if slow {
				h.slow = append(h.slow, wave[i])
			}
			// A timeout means that the range is too long if InfluxDB responds to another request, or if
			// the range times out again. Otherwise InfluxDB may just be down.
			if h.source.splittable(err) || slow && (responded || slices.Contains(again, wave[i])) {
				errs[i] = h.splitSettled(wave[i], err)
			}
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
}

// splitSettled splits a range whose request failed. It returns the failure if the range can't be
// split.
func (h *history) splitSettled(r rangecache.Range, failure error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cache.Split(r) != nil {
		return failure
	}
	return nil
}

// next returns the ranges to fetch next, none if the loader is to end, the time of the cache, and
// the timeout of a request.
func (h *history) next(upcoming *[]rangecache.Range) (wave []rangecache.Range, planned time.Time, timeout time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.full || h.exporter.ctx.Err() != nil || h.exporter.config.Now().Sub(h.usedAt) > loadAfterScrape {
		return nil, h.plannedAt, h.timeout
	}
	if wave = h.cache.Needed(); len(wave) > 0 {
		return wave[:min(len(wave), parallelRequests)], h.plannedAt, h.timeout
	}
	if step, due := h.cache.Step(); due {
		return []rangecache.Range{step}, h.plannedAt, h.timeout
	}
	n := min(len(*upcoming), parallelRequests)
	wave, *upcoming = (*upcoming)[:n], (*upcoming)[n:]
	return wave, h.plannedAt, h.timeout
}

// fetchRange fetches one range and stores its aggregate, with the time of the cache when the
// request began.
func (h *history) fetchRange(r rangecache.Range, planned time.Time, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(h.exporter.ctx, timeout)
	defer cancel()
	begin := time.Now()
	var a *aggregate
	err := contain(func() (err error) { a, err = h.exporter.fetchHistory(ctx, h.source, r); return err })
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cache.Store(r, a, planned.UnixNano(), rangecache.Cost{Rows: a.rows, Took: time.Since(begin)})
	h.stored++
	h.notify()
	return nil
}

// historyColumns are the columns of a record that some metric needs.
const historyColumns = `"dom"::tag AS "dom","vmid"::tag AS "vmid","host"::tag AS "host","sha256"::field AS "sha256",` +
	`"duration_sec"::field AS "duration_sec","gzip_size_bytes"::field AS "gzip_size_bytes","raw_size_bytes"::field AS "raw_size_bytes"`

// fetchHistory requests everything that the metrics need of a settled range: the records of the
// dumps, or the series that the query for the monitored VMs reads.
func (e *Exporter) fetchHistory(ctx context.Context, s source, r rangecache.Range) (*aggregate, error) {
	columns, tail, add := historyColumns, "", addRow((*aggregate).addRecord)
	if s == telemetry {
		q := e.query(monitoredVMs)
		columns, tail, add = q.columns, q.tail, q.add
	}
	return e.fetch(ctx, selection{s, columns, tail, r}, maxSetBytes, add)
}

// splittable reports whether a request that failed may succeed for a shorter range. A response
// about telemetry does not shrink with the range: it has a row for each VM.
func (s source) splittable(err error) bool {
	return errors.Is(err, influx.ErrFileLimit) || s == dumps && errors.Is(err, influx.ErrTooLarge)
}

// HistoryState describes the history of a source.
type HistoryState struct {
	Source string // "dumps" or "telemetry"
	Full   bool   // full queries are in use, and no history
	// Loaded is the ratio of the time ranges that are loaded and not overdue, from 0 to 1.
	Loaded float64
	Ranges int // number of settled time ranges
}

// Histories returns the states of the histories. It makes no request.
func (e *Exporter) Histories() []HistoryState {
	var states []HistoryState
	for _, h := range e.histories {
		h.mu.Lock()
		s, full := h.cache.State(), h.full
		h.mu.Unlock()
		loaded := 1.0
		if !full && s.Ranges > 0 {
			loaded = float64(s.Ranges-s.Needed) / float64(s.Ranges)
		}
		states = append(states, HistoryState{h.source.String(), full, loaded, s.Ranges})
	}
	return states
}

// query returns the query with a name, which must be in the table.
func (e *Exporter) query(name string) *query {
	i := slices.IndexFunc(e.queries, func(q query) bool { return q.name == name })
	return &e.queries[i]
}
