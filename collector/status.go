package collector

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-kit/log/level"

	"memdump_exporter/influx"
)

// repeatLog is the time between two log lines about a persistent failure.
const repeatLog = time.Hour

// Status is the last result of one query.
type Status struct {
	Query  string // value of the label query
	Ran    bool   // false before the first scrape
	Err    error  // nil if the query succeeded
	Reason string // value of the label reason; empty without an error
	Took   time.Duration
	At     time.Time // when the query ended
	Ranges int       // number of time ranges; 0 if unknown

	failures int       // number of consecutive failures for the same reason
	logged   time.Time // when one of them was last logged
}

// statusLog stores the last status of each query.
type statusLog struct {
	mu   sync.Mutex
	last map[string]Status // by query
}

// Statuses returns the last result of each query, in the order of the table. It makes no
// request.
func (e *Exporter) Statuses() []Status {
	e.status.mu.Lock()
	defer e.status.mu.Unlock()
	all := make([]Status, 0, len(e.queries))
	for _, q := range e.queries {
		status := e.status.last[q.name]
		status.Query = q.name
		all = append(all, status)
	}
	return all
}

// record stores a result, counts a failure, and logs a change.
func (e *Exporter) record(r result) {
	status := Status{Ran: true, Err: r.err, Took: r.took, At: e.config.Now(), Ranges: r.ranges}
	e.status.mu.Lock()
	if e.status.last == nil {
		e.status.last = make(map[string]Status)
	}
	before := e.status.last[r.query.name]
	if status.Ranges == 0 {
		status.Ranges = before.Ranges
	}
	if r.err != nil {
		status.Reason = Reason(r.err)
		if status.failures = 1; status.Reason == before.Reason {
			status.failures, status.logged = before.failures+1, before.logged
		}
	}
	due := status.At.Sub(status.logged) >= repeatLog
	if due {
		status.logged = status.At
	}
	e.status.last[r.query.name] = status
	e.status.mu.Unlock()

	fields := []any{"query", r.query.name, "took", r.took, "ranges", status.Ranges}
	switch {
	case r.err != nil:
		e.errors.WithLabelValues(r.query.name, status.Reason).Inc()
		e.logFailure(r.err, due, append([]any{"msg", "query failed", "reason", status.Reason, "in_a_row", status.failures}, fields...)...)
	case before.Err != nil && !errors.Is(before.Err, influx.ErrCanceled):
		_ = level.Info(e.config.Logger).Log(append([]any{"msg", "query succeeds again", "after_failures", before.failures}, fields...)...)
	default:
		_ = level.Debug(e.config.Logger).Log(append([]any{"msg", "query succeeded"}, fields...)...)
	}
}

// logFailure logs a failure: at level error if it is due for the log and the client has not left,
// otherwise at level debug. It counts a panic and adds its stack.
func (e *Exporter) logFailure(err error, due bool, fields ...any) {
	logger := level.Debug(e.config.Logger)
	if due && !errors.Is(err, influx.ErrCanceled) {
		logger = level.Error(e.config.Logger)
	}
	fields = append(fields, "err", err)
	if panicked := (*panicError)(nil); errors.As(err, &panicked) {
		e.panics.Inc()
		fields = append(fields, "panic", fmt.Sprintf("%.200q", panicked.value), "stack", string(panicked.stack))
	}
	_ = logger.Log(fields...)
}
