package collector

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"regexp"
	"slices"
	"sync"
	"time"

	"memdump_exporter/collector/rangecache"
	"memdump_exporter/influx"
)

// result is the outcome of one query in a batch: for each of its metrics a value or no value, or
// an error.
type result struct {
	query *query
	// aggregate is what the metrics are read from; nil if the query failed or a gateway responded.
	aggregate *aggregate
	values    []float64 // by metric of the query
	hasValue  []bool    // by metric of the query
	err       error
	took      time.Duration
	ranges    int       // number of time ranges; 0 if unknown
	oldest    time.Time // when the oldest part of the result was fetched; zero if all of it is new
}

// runQuery executes one query. A panic is an error.
func (b *batch) runQuery(q *query) (r result) {
	begin := b.exporter.config.Now()
	err := contain(func() error {
		r = b.queryInfluxDB(q)
		return r.err
	})
	if err != nil {
		r = result{err: err, ranges: r.ranges} // without values: those of a failed query are invalid
	}
	r.query, r.took = q, b.exporter.config.Now().Sub(begin)
	return r
}

// queryInfluxDB executes one query through the API of the server.
func (b *batch) queryInfluxDB(q *query) (r result) {
	db := b.exporter.config.Database
	if db.API() != influx.APIV3Query {
		r = b.queryRanges(q)
		// ErrNotFound means a gateway, unless the response has proven that the server is an InfluxDB.
		if !errors.Is(r.err, influx.ErrNotFound) || db.API() == influx.APIInfluxQL {
			return r
		}
	}
	return b.queryGateway(q)
}

// queryRanges requests the data that is not settled yet, and merges it with the history.
func (b *batch) queryRanges(q *query) (r result) {
	v, open, err := b.fetchWithin(q, rangecache.All)
	r.ranges = v.ranges
	if err != nil {
		if errors.Is(err, influx.ErrRefused) { // InfluxDB refuses a SUM of strings
			if conflict := b.exporter.checkTypes(b.schemas, q, b.now); errors.Is(conflict, errTypeConflict) {
				err = conflict
			}
		}
		r.err = err
		return r
	}
	merged := v.settled.with(open)
	maps.DeleteFunc(merged.vms, func(_ identity, ns int64) bool { return !v.relevant.Contains(ns) })
	if r.err = b.exporter.checkTypes(b.schemas, q, b.now); r.err != nil {
		return r
	}
	r.aggregate, r.oldest = merged, v.oldest
	if q.empty(merged) {
		written, err := b.exporter.checkEmpty(b.schemas, q, b.now)
		if err != nil || !written {
			r.err, r.values, r.hasValue = err, make([]float64, len(q.metrics)), make([]bool, len(q.metrics))
			return r
		}
	}
	for _, m := range q.metrics {
		value, ok, err := m.value(merged)
		if err != nil {
			r.err = err
			return r
		}
		r.values, r.hasValue = append(r.values, value), append(r.hasValue, ok)
	}
	return r
}

// fetchWithin returns the history and what is not settled of a time range. If InfluxDB rejects
// the full query, or is too slow, the history replaces it.
func (b *batch) fetchWithin(q *query, r rangecache.Range) (v view, open *aggregate, err error) {
	fetch := func() {
		if err == nil {
			v.relevant = v.relevant.Within(r)
			v.open = slices.DeleteFunc(slices.Clone(v.open), func(open rangecache.Range) bool { return open.Within(v.relevant).Empty() })
			open, err = b.fetchOpen(q, v)
		}
	}
	v, err = b.view(q.source)
	fetch()
	if v.full && err != nil && (q.source.splittable(err) || errors.Is(err, errSlow)) {
		h := b.exporter.histories[q.source]
		h.leaveFull(err)
		v, err = h.view(b.ctx, b.now)
		fetch()
	}
	return v, open, err
}

// errSlow: a full query took so long that the history must replace it within the same scrape.
var errSlow = fmt.Errorf("%w: the full query took more than half of the scrape timeout", influx.ErrTimeout)

// fetchOpen requests the open ranges of a view, and splits those that InfluxDB rejects. It gives
// a full query half of the time until the deadline.
func (b *batch) fetchOpen(q *query, v view) (*aggregate, error) {
	ctx, cancel := b.ctx, context.CancelFunc(func() {})
	if deadline, ok := b.ctx.Deadline(); ok && v.full {
		ctx, cancel = context.WithTimeout(b.ctx, time.Until(deadline)/2)
	}
	defer cancel()
	sum := newAggregate()
	for ahead := v.open; len(ahead) > 0; {
		wave := ahead[:min(len(ahead), parallelRequests)]
		ahead = ahead[len(wave):]
		begin := time.Now()
		parts, errs := b.fetchWave(ctx, q, v, wave)
		for i, err := range slices.Backward(errs) { // so that the oldest part is next
			switch {
			case err == nil:
				sum.Merge(parts[i])
			case v.full && ctx.Err() != nil && b.ctx.Err() == nil:
				return nil, errSlow
			case v.full || !q.source.splittable(err):
				return nil, err
			default:
				narrower, splitErr := b.exporter.histories[q.source].split(wave[i])
				if splitErr != nil {
					return nil, err
				}
				ahead = append(narrower, ahead...)
			}
		}
		if took := time.Since(begin); v.full && took > maxFullQuery {
			b.exporter.histories[q.source].leaveFull(fmt.Errorf("the query %s took %s", q.name, took))
		}
	}
	return sum, nil
}

// fetchWave requests several open ranges of a view concurrently. It returns an aggregate or an
// error for each.
func (b *batch) fetchWave(ctx context.Context, q *query, v view, wave []rangecache.Range) ([]*aggregate, []error) {
	parts, errs := make([]*aggregate, len(wave)), make([]error, len(wave))
	var requests sync.WaitGroup
	for i, r := range wave {
		requests.Go(func() {
			errs[i] = contain(func() (err error) {
				s := selection{q.source, q.columns, q.tail, r.Within(v.relevant)}
				parts[i], err = b.exporter.fetch(ctx, s, q.maxBytes, q.add)
				return err
			})
		})
	}
	requests.Wait()
	return parts, errs
}

// fetch makes one request and returns the aggregate of its rows.
func (e *Exporter) fetch(ctx context.Context, s selection, maxBytes int64, add addRow) (*aggregate, error) {
	a := newAggregate()
	for row, err := range e.rows(ctx, s, maxBytes) {
		if err == nil {
			a.rows++
			err = add(a, row)
		}
		if err != nil {
			return nil, err
		}
	}
	return a, nil
}

// selection is what a statement selects.
type selection struct {
	source        source
	columns, tail string
	time          rangecache.Range
}

// alias matches the name of a column in a selection.
var alias = regexp.MustCompile(` AS "([a-z0-9_]+)"`)

// rows makes one request and yields the rows of the response. A row of another measurement, or with
// other columns, is influx.ErrMalformed: a cache has returned the response to another request.
func (e *Exporter) rows(ctx context.Context, s selection, maxBytes int64) iter.Seq2[influx.Row, error] {
	_, measurements := e.config.measurements(s.source)
	var names []string // none for a selection of all fields
	for _, match := range alias.FindAllStringSubmatch(s.columns, -1) {
		names = append(names, match[1])
	}
	return func(yield func(influx.Row, error) bool) {
		request := influx.Request{Statement: e.config.statement(s.source, s.columns, s.tail, s.time), MaxBytes: maxBytes}
		for row, err := range e.config.Database.Rows(ctx, request) {
			if err == nil && (!slices.Contains(measurements, row.Measurement) || len(names) > 0 && !row.HasColumns(names)) {
				err = fmt.Errorf("%w: the response has another measurement or other columns than the request", influx.ErrMalformed)
			}
			if !yield(row, err) || err != nil {
				return
			}
		}
	}
}

// gatewayQuery is a query for a v3-query gateway, which takes SQL and returns the JSON of InfluxDB
// 1.x. The statements are those of the Python service, because a gateway may accept no others. The
// response holds the value of the metric, so that nothing is merged. An empty response is not
// verified, because a gateway has no schema queries.
type gatewayQuery struct {
	columns, tail string
	// value reads the only row of the response; false if there is no value.
	value func(influx.Row) (float64, bool, error)
}

// queryGateway requests the value of the query's first metric. Metrics for which the Python
// service had no query are absent, without an error. The metrics per VM fail instead, because
// the user has enabled them by a flag.
func (b *batch) queryGateway(q *query) (r result) {
	r.ranges = 1
	r.values, r.hasValue = make([]float64, len(q.metrics)), make([]bool, len(q.metrics))
	switch {
	case q.gateway.value == nil && len(q.metrics) > 0:
		return r
	case q.gateway.value == nil:
		r.err = fmt.Errorf("%w: there is no %s query for a v3-query gateway", influx.ErrRefused, q.name)
		return r
	}
	rows := 0
	request := influx.Request{Statement: b.exporter.config.gatewayStatement(q, b.now), API: influx.APIV3Query}
	for row, err := range b.exporter.config.Database.Rows(b.ctx, request) {
		if rows++; err == nil && rows > 1 {
			err = fmt.Errorf("%w: more than one row", influx.ErrMalformed)
		}
		if err == nil {
			r.values[0], r.hasValue[0], err = q.gateway.value(row)
		}
		if err != nil {
			r.err = err
			return r
		}
	}
	r.oldest = b.now
	return r
}

// gatewayStatement returns the SQL of a query over the time range that counts.
func (c Config) gatewayStatement(q *query, now time.Time) string {
	policy, names := c.measurements(q.source)
	relevant := influx.TimeRange(c.relevantRange(q.source, now))
	s := influx.Statement{Columns: q.gateway.columns, Policy: policy, From: names[:1], Time: relevant, Tail: q.gateway.tail}
	return s.Text(influx.SQL)
}

// gatewayNumber reads the only column besides time; null is no value.
func gatewayNumber(row influx.Row) (float64, bool, error) {
	column, err := row.Only()
	if err != nil {
		return 0, false, err
	}
	if value, _ := row.Value(column); value == nil {
		return 0, false, nil
	}
	value, err := row.Float64(column)
	return value, err == nil, err
}

// gatewayCount is gatewayNumber for a value that can't be negative.
func gatewayCount(row influx.Row) (float64, bool, error) {
	value, ok, err := gatewayNumber(row)
	if value < 0 {
		return 0, false, fmt.Errorf("%w: the gateway returned %v", errOutOfRange, value)
	}
	return value, ok, err
}

func gatewayTime(row influx.Row) (float64, bool, error) {
	ns, err := row.Time()
	return seconds(ns), err == nil, err
}
