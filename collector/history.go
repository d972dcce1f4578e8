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

// history is everything settled of a source, as one aggregate: loaded once, then refreshed. It
// is in use only while that is cheaper than full queries, which read all time at each scrape.
type history struct {
	exporter *Exporter
	source   source
	lateness time.Duration

	mu       sync.Mutex
	full     bool // full queries are in use, and the cache is not
	cache    *rangecache.Cache[*aggregate]
	planned  time.Time     // the time of the cache: when the latest batch began
	used     time.Time     // when a batch last needed the history
	timeout  time.Duration // of one request
	loading  bool          // a loader runs
	stored   int           // the number of ranges that loaders have fetched
	failure  error         // of the latest loader
	changed  chan struct{} // closed and replaced at each change
	begun    time.Time     // when the loader that is logged began; zero when none is
	switched time.Time     // when a switch between full and range queries was logged
	resume   time.Time     // when full queries may be used again

	slow []rangecache.Range // that took too long in the latest wave; the loader's
}

const (
	// slowFullQuery: where a full query takes longer, the history replaces it.
	slowFullQuery = 250 * time.Millisecond
	// cheapHistory: where all settled ranges together take less, full queries replace it.
	cheapHistory = 100 * time.Millisecond
	// slowLife and rejectionLife are how long full queries are not tried again after one that
	// was too slow, or was rejected.
	slowLife      = 10 * time.Minute
	rejectionLife = 24 * time.Hour
	// loadAfterScrape is how long loading goes on after the latest scrape.
	loadAfterScrape = 10 * time.Minute
	// parallelRequests is how many requests of one query, or of one history, run in parallel.
	parallelRequests = 2
	// maxRows is the number of rows of a response about settled time: InfluxDB 1.x and 2.x hold
	// all of them in memory before they send the first.
	maxRows = 50_000
	// minRequestTimeout: a server that responds within it is never too slow.
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
	settled *aggregate         // of everything older than the open ranges; never changed
	open    []rangecache.Range // what is to be queried, oldest first
	span    rangecache.Range   // the time that counts
	full    bool               // full queries are in use
	ranges  int                // settled and open
	oldest  time.Time          // when the longest unrefreshed range was fetched; zero where all are queried
}

// view returns the history and the ranges that are still to be queried at now. While the
// history is incomplete, it begins or joins the loading and waits for it until the context
// ends. Its error is then errLoading, or influx.ErrTimeout where nothing was loaded meanwhile.
func (h *history) view(ctx context.Context, now time.Time) (view, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	span := h.exporter.config.span(h.source, now)
	if deadline, ok := ctx.Deadline(); ok {
		h.timeout = max(time.Until(deadline)/4, minRequestTimeout)
	}
	h.planned = now
	if !h.full {
		h.cache.Plan(now.UnixNano(), span)
	}
	stored, waited := h.stored, false
	for {
		h.used = h.exporter.config.Now()
		if h.full {
			return view{settled: newAggregate(), open: []rangecache.Range{span}, span: span, full: true, ranges: 1}, nil
		}
		state := h.cache.State()
		if settled, ok := h.cache.Settled(); ok {
			v := view{settled: settled, open: h.cache.Open(), span: span}
			v.ranges = state.Ranges + len(v.open)
			if v.oldest = now; state.Oldest != 0 {
				v.oldest = time.Unix(0, state.Oldest)
			}
			if _, settles := h.cache.Step(); settles || len(h.cache.Upcoming()) > 0 {
				h.load()
			}
			return v, nil
		}
		switch err := ctx.Err(); {
		case waited && h.failure != nil && !h.loading:
			return view{}, fmt.Errorf("load the history of %s: %w", h.source, h.failure)
		case errors.Is(err, context.Canceled):
			return view{}, fmt.Errorf("load the history of %s: %w: %w", h.source, influx.ErrCanceled, err)
		case err != nil && h.stored > stored:
			return view{}, fmt.Errorf("%w: %d of %d time ranges of the history of %s are loaded",
				errLoading, state.Ranges-state.Needed, state.Ranges, h.source)
		case err != nil:
			return view{}, fmt.Errorf("load the history of %s: %w: no response within the scrape timeout", h.source, influx.ErrTimeout)
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

// leaveFull replaces full queries by the history, and begins to load it.
func (h *history) leaveFull(cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.full {
		return
	}
	now := h.exporter.config.Now()
	h.full, h.planned, h.used, h.resume = false, now, now, now.Add(slowLife)
	h.cache = rangecache.New(h.lateness, maxRows, newAggregate)
	if h.source.splittable(cause) {
		h.resume = now.Add(rejectionLife)
	}
	h.cache.Plan(now.UnixNano(), h.exporter.config.span(h.source, now))
	h.logSwitch("switching to range queries: the full query was rejected or too slow", "cause", cause)
	h.load()
}

// logSwitch logs a switch between full and range queries: at level debug where one was logged
// less than repeatLog ago, as a database near the threshold may switch often.
func (h *history) logSwitch(message string, fields ...any) {
	logger, now := level.Debug(h.exporter.config.Logger), h.exporter.config.Now()
	if now.Sub(h.switched) >= repeatLog {
		logger, h.switched = level.Info(h.exporter.config.Logger), now
	}
	_ = logger.Log(append([]any{"msg", message, "history", h.source}, fields...)...)
}

// split splits a range that was rejected, and returns the ranges that replace it.
func (h *history) split(r rangecache.Range) ([]rangecache.Range, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.cache.Split(r); err != nil {
		return nil, err
	}
	var pieces []rangecache.Range
	for _, piece := range h.cache.Ranges() {
		if piece = piece.Within(r); !piece.Empty() {
			pieces = append(pieces, piece)
		}
	}
	if len(pieces) < 2 {
		return nil, rangecache.ErrTooNarrow
	}
	return pieces, nil
}

// load starts a loader unless one runs. The history is locked.
func (h *history) load() {
	if h.loading || h.exporter.ctx.Err() != nil {
		return
	}
	h.loading, h.failure = true, nil
	if state := h.cache.State(); state.Missing > 0 && h.begun.IsZero() {
		h.begun = h.exporter.config.Now()
		_ = level.Info(h.exporter.config.Logger).Log("msg", "loading the history", "history", h.source, "ranges", state.Ranges)
	}
	upcoming := h.cache.Upcoming()
	h.exporter.loads.Go(func() {
		err := contain(func() error { return h.fetch(upcoming) })
		h.mu.Lock()
		defer h.mu.Unlock()
		h.loading, h.failure = false, err
		h.end()
		h.change()
	})
}

// end logs that the history is complete, and gives it up where it is cheaper to do without.
func (h *history) end() {
	state := h.cache.State()
	if state.Missing > 0 || h.failure != nil {
		return
	}
	if !h.begun.IsZero() {
		_ = level.Info(h.exporter.config.Logger).Log("msg", "history loaded", "history", h.source, "ranges", state.Ranges,
			"took", h.exporter.config.Now().Sub(h.begun))
		h.begun = time.Time{}
	}
	if state.Took < cheapHistory && !state.Rejected && !h.exporter.config.Now().Before(h.resume) {
		h.full = true
		h.logSwitch("switching to full queries: all time ranges together are cheap")
	}
}

func (h *history) change() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// fetch fetches what is needed, newest first, then what settles, and then what will be needed.
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
			// What takes too long is split where InfluxDB responds at all, or where it fails again.
			if h.source.splittable(err) || slow && (responded || slices.Contains(again, wave[i])) {
				errs[i] = h.splitSettled(wave[i], err)
			}
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
}

// splitSettled splits a range that failed. It returns the failure where that can't be done.
func (h *history) splitSettled(r rangecache.Range, failure error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cache.Split(r) != nil {
		return failure
	}
	return nil
}

// next returns the ranges to fetch next, the time of the cache, and the timeout of a request.
func (h *history) next(upcoming *[]rangecache.Range) (wave []rangecache.Range, planned time.Time, timeout time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.full || h.exporter.ctx.Err() != nil || h.exporter.config.Now().Sub(h.used) > loadAfterScrape {
		return nil, h.planned, h.timeout
	}
	if wave = h.cache.Needed(); len(wave) > 0 {
		return wave[:min(len(wave), parallelRequests)], h.planned, h.timeout
	}
	if step, settles := h.cache.Step(); settles {
		return []rangecache.Range{step}, h.planned, h.timeout
	}
	n := min(len(*upcoming), parallelRequests)
	wave, *upcoming = (*upcoming)[:n], (*upcoming)[n:]
	return wave, h.planned, h.timeout
}

// fetchRange fetches one range and stores its aggregate, which is as old as the cache was when
// the request began.
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
	h.change()
	return nil
}

// historyColumns are those of a record that some metric needs.
const historyColumns = `"dom"::tag AS "dom","vmid"::tag AS "vmid","host"::tag AS "host","sha256"::field AS "sha256",` +
	`"duration_sec"::field AS "duration_sec","gzip_size_bytes"::field AS "gzip_size_bytes","raw_size_bytes"::field AS "raw_size_bytes"`

// fetchHistory requests everything that the metrics need of a settled range: of dumps, the
// records themselves; of telemetry, what its query reads.
func (e *Exporter) fetchHistory(ctx context.Context, s source, r rangecache.Range) (*aggregate, error) {
	columns, tail, add := historyColumns, "", (*aggregate).addRecord
	if s == telemetry {
		q := e.query(monitoredVMs)
		columns, tail, add = q.columns, q.tail, q.add
	}
	return e.fetch(ctx, e.config.statement(s, columns, tail, r), maxSetBytes, add)
}

// splittable reports whether a request that failed may succeed over a shorter range. Telemetry
// has a row for each VM whatever the range.
func (s source) splittable(err error) bool {
	return errors.Is(err, influx.ErrFileLimit) || s == dumps && errors.Is(err, influx.ErrTooLarge)
}

// HistoryState describes the history of a source.
type HistoryState struct {
	Source string // "dumps" or "telemetry"
	Full   bool   // full queries are in use, and no history
	// Loaded is the part of its time ranges that are loaded and not too old, from 0 to 1.
	Loaded float64
	Ranges int
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

// query returns the row of the table with a name.
func (e *Exporter) query(name string) *query {
	i := slices.IndexFunc(e.queries, func(q query) bool { return q.name == name })
	return &e.queries[i]
}
