package collector

import (
	"context"
	"fmt"
	"sync"
	"time"

	"memdump_exporter/influx"
)

// batch is one execution of all queries. Overlapping scrapes share it.
type batch struct {
	exporter *Exporter
	ctx      context.Context // ends at the deadline
	cancel   context.CancelFunc
	began    time.Time // by the real clock, like the deadline
	now      time.Time // by the configured clock: the end of the time range that counts
	views    [numSources]sharedView
	schemas  *schemas

	scrapers int // number of scrapes that wait; the handler's mutex guards it

	done chan struct{} // closed when every query has a result; the fields below are final then

	results   []result       // in the order of the table
	server    influx.Server  // Major is 0 if it is unknown
	histories []HistoryState // at the end of the batch

	// coverage computes its result once, when it is first needed. It returns false if a query that
	// it depends on failed.
	coverage func() ([]VM, bool)

	encoded encodings
}

// sharedView is the view of a history that the queries of a batch share.
type sharedView struct {
	once once
	view view
}

// lateGrace is how long a query may take to return after the deadline.
const lateGrace = 100 * time.Millisecond

// newBatch returns a batch that ends at the deadline, by the real clock. It makes no request.
func (e *Exporter) newBatch(ctx context.Context, deadline time.Time) *batch {
	b := &batch{
		exporter: e, began: time.Now(), now: e.config.Now(),
		done: make(chan struct{}), results: make([]result, len(e.queries)),
	}
	b.ctx, b.cancel = context.WithDeadline(ctx, deadline)
	b.schemas = e.newSchemas(b.ctx)
	b.coverage = sync.OnceValues(b.findCoverage)
	return b
}

// once executes a function once for all its callers. Unlike those of sync.Once, the callers wait
// on a channel: the virtual time of tests stops while a goroutine waits for a mutex, and with it a
// function that makes requests. The zero value is ready.
type once struct {
	begin sync.Once
	done  chan struct{}
	err   error
}

// do calls f if it is the first call, and returns the error of f. A panic in f is an error.
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

// execute executes all queries concurrently and, at the same time, identifies InfluxDB. A query
// without a result shortly after the deadline has failed. execute calls finished with each
// result, and others before it returns: others waits for goroutines that use the context of the
// batch.
func (b *batch) execute(finished func(result), others func()) {
	defer close(b.done)
	defer b.cancel()
	results := make(chan result, len(b.results)) // buffered: a late query never blocks
	for i := range b.exporter.queries {
		go func() { results <- b.runQuery(&b.exporter.queries[i]) }()
	}
	identified := make(chan influx.Server, 1)
	go func() {
		var server influx.Server
		// The error is irrelevant: the version is for information only.
		_ = contain(func() (err error) { server, err = b.exporter.config.Database.Identify(b.ctx); return err })
		identified <- server
	}()
	b.collect(results, finished)
	select {
	case b.server = <-identified:
	case <-b.ctx.Done():
	}
	others()
	b.histories = b.exporter.Histories()
}

// collect stores the results of the queries, and an error for each query without a result shortly
// after the deadline.
func (b *batch) collect(results <-chan result, finished func(result)) {
	ended, late := b.ctx.Done(), (<-chan time.Time)(nil)
	for missing := len(b.results); missing > 0; {
		select {
		case r := <-results:
			b.store(r)
			finished(r)
			missing--
		case <-ended:
			// Queries return soon, with a more precise error than a missing result.
			ended, late = nil, time.After(lateGrace)
		case <-late:
			missing = 0
		}
	}
	for i := range b.results {
		if b.results[i].query == nil {
			b.results[i] = result{query: &b.exporter.queries[i], took: time.Since(b.began),
				err: fmt.Errorf("%w: no response within the scrape timeout", influx.ErrTimeout)}
			finished(b.results[i])
		}
	}
}

// store stores a result in the order of the table.
func (b *batch) store(r result) {
	for i := range b.exporter.queries {
		if r.query == &b.exporter.queries[i] {
			b.results[i] = r
		}
	}
}

// aggregateOf returns the aggregate of a query by its name; nil if the query failed, is not in the
// table, or a gateway responded.
func (b *batch) aggregateOf(name string) *aggregate {
	for _, r := range b.results {
		if r.query.name == name && r.err == nil {
			return r.aggregate
		}
	}
	return nil
}
