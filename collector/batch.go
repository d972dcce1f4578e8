package collector

import (
	"context"
	"fmt"
	"sync"
	"time"

	"memdump_exporter/influx"
)

// batch is one execution of all queries, which scrapes that overlap share.
type batch struct {
	exporter *Exporter
	ctx      context.Context // ends at the deadline
	cancel   context.CancelFunc
	began    time.Time // by the real clock, as the deadline is
	now      time.Time // by the configured clock: the time that the values are of
	views    [numSources]func() (view, error)
	schemas  *schemas

	done    chan struct{} // closed when every query has a result; what follows is final then
	results []result      // in the order of the table
	server  influx.Server // Major is 0 where it is unknown
	// histories are their states at the end of the batch.
	histories []HistoryState

	encoded encodings
}

// lateGrace is how long a query may take to end after the deadline.
const lateGrace = 100 * time.Millisecond

// newBatch returns a batch that ends at the deadline, by the real clock. It makes no request
// yet.
func (e *Exporter) newBatch(ctx context.Context, deadline time.Time) *batch {
	b := &batch{exporter: e, began: time.Now(), now: e.config.Now(), done: make(chan struct{}), results: make([]result, len(e.queries))}
	b.ctx, b.cancel = context.WithDeadline(ctx, deadline)
	b.schemas = e.newSchemas(b.ctx)
	for source := range numSources {
		b.views[source] = b.viewOnce(e.histories[source])
	}
	return b
}

// viewOnce returns a function that returns the same view of a history to every query of the
// batch. They wait on a channel and not at a mutex, where the virtual time of tests stops.
func (b *batch) viewOnce(h *history) func() (view, error) {
	var (
		v     view
		err   error
		begin sync.Once
	)
	done := make(chan struct{})
	return func() (view, error) {
		begin.Do(func() {
			go func() {
				defer close(done)
				err = contain(func() error { v, err = h.view(b.ctx, b.now); return err })
			}()
		})
		<-done
		return v, err
	}
}

// view returns the history of a source, the same to every query of the batch.
func (b *batch) view(s source) (view, error) { return b.views[s]() }

// execute runs all queries in parallel, and identifies InfluxDB meanwhile. A query without a
// response at the deadline has failed. It calls finished for each result, and waits for others
// that use the context of the batch.
func (b *batch) execute(finished func(result), others func()) {
	defer close(b.done)
	defer b.cancel()
	type outcome struct {
		i int
		r result
	}
	outcomes := make(chan outcome, len(b.results)) // nobody waits to send
	for i := range b.exporter.queries {
		go func() { outcomes <- outcome{i, b.run(&b.exporter.queries[i])} }()
	}
	identified := make(chan influx.Server, 1)
	go func() {
		var server influx.Server
		// The queries tell what matters, whether it fails or not.
		_ = contain(func() (err error) { server, err = b.exporter.config.Database.Identify(b.ctx); return err })
		identified <- server
	}()
	ended, late, expired := b.ctx.Done(), (<-chan time.Time)(nil), false
	for missing := len(b.results); missing > 0 && !expired; {
		select {
		case o := <-outcomes:
			b.results[o.i] = o.r
			finished(o.r)
			missing--
		case <-ended:
			// What waits for the context ends now, and has its own reason.
			ended, late = nil, time.After(lateGrace)
		case <-late:
			expired = true
		}
	}
	for i := range b.results {
		if q := &b.exporter.queries[i]; b.results[i].query == nil {
			b.results[i] = result{query: q, took: time.Since(b.began),
				err: fmt.Errorf("%w: no response within the scrape timeout", influx.ErrTimeout)}
			finished(b.results[i])
		}
	}
	select {
	case b.server = <-identified:
	case <-b.ctx.Done():
	}
	others()
	b.histories = b.exporter.Histories()
}

// result returns the result of a query by its name; false where it failed.
func (b *batch) result(name string) (result, bool) {
	for _, r := range b.results {
		if r.query.name == name {
			return r, r.err == nil
		}
	}
	return result{}, false
}
