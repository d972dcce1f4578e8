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
	views    [numSources]sharedView
	schemas  *schemas

	scrapers int // that wait; guarded by the handler

	done    chan struct{} // closed when every query has a result; what follows is final then
	results []result      // in the order of the table
	server  influx.Server // Major is 0 where it is unknown
	// histories are their states at the end of the batch.
	histories []HistoryState

	// dumpedDomains and coverage are computed from the results when they are first needed.
	dumpedDomains func() (map[string]domainTotals, bool)
	coverage      func() ([]VM, bool)

	encoded encodings
}

// sharedView is the view of a history that the queries of a batch share.
type sharedView struct {
	once once
	view view
}

// lateGrace is how long a query may take to end after the deadline.
const lateGrace = 100 * time.Millisecond

// newBatch returns a batch that ends at the deadline, by the real clock. It makes no request
// yet.
func (e *Exporter) newBatch(ctx context.Context, deadline time.Time) *batch {
	b := &batch{exporter: e, began: time.Now(), now: e.config.Now(), done: make(chan struct{}), results: make([]result, len(e.queries))}
	b.ctx, b.cancel = context.WithDeadline(ctx, deadline)
	b.schemas = e.newSchemas(b.ctx)
	b.dumpedDomains = sync.OnceValues(b.findDumpedDomains)
	b.coverage = sync.OnceValues(b.findCoverage)
	return b
}

// once runs a function that makes requests once, for all callers that need its result. They
// wait on a channel: a mutex, as in sync.Once, would stop the virtual time of tests.
type once struct {
	begin sync.Once
	done  chan struct{}
	err   error
}

// do runs f in the first call, and returns the error of f in each call. A panic in f is an error.
func (o *once) do(f func() error) error {
	o.begin.Do(func() {
		o.done = make(chan struct{})
		go func() {
			defer close(o.done)
			o.err = contain(f)
		}()
	})
	<-o.done
	return o.err
}

// view returns the view of the history of a source, the same to every query of the batch.
func (b *batch) view(s source) (view, error) {
	v := &b.views[s]
	err := v.once.do(func() (err error) { v.view, err = b.exporter.histories[s].view(b.ctx, b.now); return err })
	return v.view, err
}

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

// aggregateOf returns the aggregate of a query by its name; nil where the query failed, is not
// in the table, or a gateway responded.
func (b *batch) aggregateOf(name string) *aggregate {
	for _, r := range b.results {
		if r.query.name == name && r.err == nil {
			return r.aggregate
		}
	}
	return nil
}
