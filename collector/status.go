package collector

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-kit/log/level"

	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

// repeatLog is how often a failure that goes on is logged.
const repeatLog = time.Hour

// Status is how the last run of one query went.
type Status struct {
	Query  string // value of the label {query}
	Gauge  string // name of the gauge
	Asked  bool   // false before the first scrape
	Err    error  // nil when it succeeded
	Reason string // its name, as in the label {reason}
	Took   time.Duration
	At     time.Time // when it ended
	Ranges ranges.State

	failures int       // in a row, for the same reason
	logged   time.Time // when the last of them was
}

// Statuses returns how the last run of each query went, in the order of the table.
// It asks nothing.
func (c *Collector) Statuses() []Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]Status, 0, len(c.figures))
	for _, f := range c.figures {
		status := c.last[f.query]
		status.Query, status.Gauge = f.query, f.name
		all = append(all, status)
	}
	return all
}

// note keeps how a run of a query went, counts its failure, and logs what is news.
func (c *Collector) note(f figure, a answer, end time.Time) {
	status := Status{Asked: true, Err: a.err, Took: a.took, At: end, Ranges: a.ranges}
	c.mu.Lock()
	before := c.last[f.query]
	if status.Ranges.Ranges == 0 { // not said
		status.Ranges = before.Ranges
	}
	if a.err != nil {
		status.Reason = reasonOf(a.err)
		if status.failures = 1; status.Reason == before.Reason {
			status.failures, status.logged = before.failures+1, before.logged
		}
	}
	news := end.Sub(status.logged) >= repeatLog
	if news {
		status.logged = end
	}
	c.last[f.query] = status
	c.mu.Unlock()

	fields := []any{"query", f.query, "took", a.took, "ranges", status.Ranges.Ranges}
	if ranged := status.Ranges.Ranged; ranged != before.Ranges.Ranged {
		_ = level.Info(c.Logger).Log(append([]any{"msg", map[bool]string{
			true:  "asking in ranges of time from now on, as the whole was refused or took too long",
			false: "asking as a whole again",
		}[ranged]}, fields...)...)
	}
	switch {
	case a.err != nil:
		c.errors.WithLabelValues(f.query, status.Reason).Inc()
		c.logFailure(a.err, news, append([]any{"msg", "query failed", "reason", status.Reason, "in_a_row", status.failures}, fields...)...)
	case before.Err != nil && !errors.Is(before.Err, influx.ErrCanceled):
		_ = level.Info(c.Logger).Log(append([]any{"msg", "query succeeds again", "after_failures", before.failures}, fields...)...)
	default:
		_ = level.Debug(c.Logger).Log(append([]any{"msg", "query done"}, fields...)...)
	}
}

// logFailure says what failed: a viewer or scraper that left is no news, nor is what
// has been said; and a panic is counted and comes with its stack.
func (c *Collector) logFailure(err error, news bool, fields ...any) {
	logger := level.Debug(c.Logger)
	if news && !errors.Is(err, influx.ErrCanceled) {
		logger = level.Error(c.Logger)
	}
	fields = append(fields, "err", err)
	if panicked := (*panicError)(nil); errors.As(err, &panicked) {
		c.panics.Inc()
		fields = append(fields, "panic", fmt.Sprintf("%.200q", panicked.value), "stack", string(panicked.stack))
	}
	_ = logger.Log(fields...)
}
