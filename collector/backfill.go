package collector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"memdump_exporter/collector/rangecache"
	"memdump_exporter/influx"
)

// Backfill selects the times for which past values of metrics are computed.
type Backfill struct {
	// From is the first step, and To the latest possible one. Every is the time between two
	// steps. All are whole seconds.
	From, To time.Time
	Every    time.Duration
	// Timeout is the timeout of one request. The time range of a request that exceeds it is split.
	Timeout time.Duration
}

// Step has the values of the metrics of BackfillMetrics at a time, computed from the dumps that
// began at that time or before.
type Step struct {
	At     time.Time
	Values []MetricValue
}

// BackfillMetrics returns the metrics of each Step, without values.
func (e *Exporter) BackfillMetrics() []MetricValue {
	var all []MetricValue
	for i := range e.queries {
		for _, m := range e.queries[i].metrics {
			if e.queries[i].source == dumps {
				all = append(all, MetricValue{Name: m.name, Help: m.help})
			}
		}
	}
	return all
}

// backfillWindow is the time range of one request, unless a step is longer.
const backfillWindow = 24 * time.Hour

// Backfill calls each with one step after the other, and ends with the first error. It reads the
// records of one window after the other, so that its memory grows with the number of VMs only.
func (e *Exporter) Backfill(ctx context.Context, b Backfill, each func(Step) error) error {
	if e.config.Database.API() == influx.APIV3Query {
		return errors.New("there is no history in a v3-query gateway")
	}
	found, err := e.fetchSchema(ctx, dumps)
	if err != nil {
		return err
	}
	for i := range e.queries {
		if q := &e.queries[i]; q.source == dumps {
			if err := found.conflict(q); err != nil {
				return err
			}
		}
	}
	sum, values := newAggregate(), e.BackfillMetrics()
	step := func(at time.Time, more *aggregate) error {
		if more != nil {
			sum.Merge(more)
			if err := e.backfillValues(sum, values); err != nil {
				return err
			}
		}
		return each(Step{at, values})
	}
	at := b.From
	before := rangecache.Range{From: rangecache.All.From, To: at.UnixNano() + 1}
	parts, err := e.readRecords(ctx, b, before)
	if err != nil {
		return fmt.Errorf("read the records before %s: %w", at.UTC().Format(time.RFC3339), err)
	}
	if err := step(at, cmp.Or(parts[before.From], newAggregate())); err != nil {
		return err
	}
	maxSteps := max(1, int(backfillWindow/b.Every))
	for left := int(b.To.Sub(b.From) / b.Every); left > 0; {
		steps := min(left, maxSteps)
		left -= steps
		window := rangecache.Range{From: at.UnixNano() + 1, To: at.Add(time.Duration(steps)*b.Every).UnixNano() + 1}
		if parts, err = e.readRecords(ctx, b, window); err != nil {
			return fmt.Errorf("read the records after %s: %w", at.UTC().Format(time.RFC3339), err)
		}
		for range steps {
			more := parts[at.UnixNano()+1]
			at = at.Add(b.Every)
			if err := step(at, more); err != nil {
				return err
			}
		}
	}
	if sum.dumps.whole > 0 {
		return nil
	}
	_, err = e.checkEmpty(e.newSchemas(ctx), e.query("dumps"), e.config.Now())
	return err
}

// backfillValues sets the values of the metrics to those of an aggregate. A metric of an optional
// query without rows has no value.
func (e *Exporter) backfillValues(sum *aggregate, values []MetricValue) (err error) {
	next := 0
	for i := range e.queries {
		q := &e.queries[i]
		for _, m := range q.metrics {
			if q.source != dumps {
				continue
			}
			v := &values[next]
			next++
			if q.optional && q.empty(sum) {
				v.HasValue = false
				continue
			}
			// Counting the runs again at each step would take most of the time.
			if q.name == dumpedVMs && v.HasValue && sum.dumpedRuns == v.runs {
				continue
			}
			if v.Value, v.HasValue, err = m.value(sum); err != nil {
				return err
			}
			v.runs = sum.dumpedRuns
		}
	}
	return nil
}

// readRecords returns the records of a window: an aggregate for each step that has some, by the
// start of the step, or one for a window without a lower end. It splits a range that InfluxDB
// rejects, or that takes too long.
func (e *Exporter) readRecords(ctx context.Context, b Backfill, window rangecache.Range) (map[int64]*aggregate, error) {
	splittable := func(err error) bool {
		return dumps.splittable(err) || errors.Is(err, influx.ErrTimeout) && ctx.Err() == nil
	}
	parts := make(map[int64]*aggregate)
	err := rangecache.Walk(e.config.Now().UnixNano(), window, nil, splittable, func(r rangecache.Range) error {
		more, err := e.readRange(ctx, b, r, window)
		if err != nil {
			return err
		}
		for start, part := range more {
			if parts[start] == nil {
				parts[start] = newAggregate()
			}
			parts[start].Merge(part)
		}
		return nil
	})
	return parts, err
}

// readRange is readRecords for a part of the window, in one request.
func (e *Exporter) readRange(ctx context.Context, b Backfill, r, window rangecache.Range) (map[int64]*aggregate, error) {
	ctx, cancel := context.WithTimeout(ctx, b.Timeout)
	defer cancel()
	parts := make(map[int64]*aggregate)
	for row, err := range e.rows(ctx, selection{dumps, historyColumns, "", r}, maxSetBytes) {
		if err != nil {
			return nil, err
		}
		ns, err := row.Time()
		if err != nil {
			return nil, err
		}
		if !r.Contains(ns) {
			return nil, fmt.Errorf("%w: a record outside the requested time range", influx.ErrMalformed)
		}
		start := window.From
		if start != rangecache.All.From {
			start += (ns - window.From) / int64(b.Every) * int64(b.Every)
		}
		if parts[start] == nil {
			parts[start] = newAggregate()
		}
		if err := parts[start].addRecord(row); err != nil {
			return nil, err
		}
	}
	return parts, nil
}
