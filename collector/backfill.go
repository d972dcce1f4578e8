package collector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"memdump_exporter/collector/rangecache"
	"memdump_exporter/influx"
)

// Backfill is history for a Prometheus that starts today.
type Backfill struct {
	// From and To are the first step and the latest possible one; Every is the time between
	// two. All are whole seconds.
	From, To time.Time
	Every    time.Duration
	// Timeout bounds a request; one that takes longer is split.
	Timeout time.Duration
}

// Step has the values of all metrics of BackfillMetrics at a time: those of the dumps that
// began up to then, that time included.
type Step struct {
	At     time.Time
	Values []MetricValue
}

// BackfillMetrics returns the metrics that a Step has values of.
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

// backfillWindow is the time range of a request, where a step is not longer.
const backfillWindow = 24 * time.Hour

// Backfill calls each for one step after the other. It reads the records themselves, a window
// at a time: the memory that it takes grows with the number of VMs alone.
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
	sum := newAggregate()
	before := rangecache.Range{From: rangecache.All.From, To: b.From.UnixNano() + 1}
	err = e.readRecords(ctx, b, before, func(int64) *aggregate { return sum })
	if err != nil {
		return fmt.Errorf("read the records before %s: %w", b.From.UTC().Format(time.RFC3339), err)
	}
	values, changed := e.BackfillMetrics(), true
	step := func(at time.Time) error {
		if changed {
			if err := e.backfillValues(sum, values); err != nil {
				return err
			}
		}
		return each(Step{at, values})
	}
	at := b.From
	if err := step(at); err != nil {
		return err
	}
	perWindow := max(1, int(backfillWindow/b.Every))
	for left := int(b.To.Sub(b.From) / b.Every); left > 0; {
		n := min(left, perWindow)
		left -= n
		parts := make([]*aggregate, n)
		begin := at.UnixNano() + 1
		window := rangecache.Range{From: begin, To: begin + int64(n)*int64(b.Every)}
		err := e.readRecords(ctx, b, window, func(ns int64) *aggregate {
			i := (ns - begin) / int64(b.Every)
			if parts[i] == nil {
				parts[i] = newAggregate()
			}
			return parts[i]
		})
		if err != nil {
			return fmt.Errorf("read the records after %s: %w", at.UTC().Format(time.RFC3339), err)
		}
		for _, part := range parts {
			if changed = part != nil; changed {
				sum.Merge(part)
			}
			at = at.Add(b.Every)
			if err := step(at); err != nil {
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

// backfillValues sets the values of the metrics to those of an aggregate. What it has no rows
// for has no value.
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
				v.Known = false
				continue
			}
			// Counting the runs afresh for each step would take most of the time.
			if q.name == dumpedVMs && v.Known && sum.dumpedRuns == v.runs {
				continue
			}
			if v.Value, v.Known, err = m.value(sum); err != nil {
				return err
			}
			v.runs = sum.dumpedRuns
		}
	}
	return nil
}

// readRecords adds the records of a range to the aggregates that part returns for their times.
// It splits the range where InfluxDB rejects it or takes too long.
func (e *Exporter) readRecords(ctx context.Context, b Backfill, span rangecache.Range, part func(ns int64) *aggregate) error {
	splittable := func(err error) bool {
		return dumps.splittable(err) || errors.Is(err, influx.ErrTimeout) && ctx.Err() == nil
	}
	return rangecache.Walk(e.config.Now().UnixNano(), span, nil, splittable, func(r rangecache.Range) error {
		parts, err := e.readRange(ctx, b, r, span)
		if err != nil {
			return err
		}
		for ns, more := range parts {
			part(ns).Merge(more)
		}
		return nil
	})
}

// readRange returns the records of a range: an aggregate for each step within the window, by
// a time of the step, or one for all that lies before the first.
func (e *Exporter) readRange(ctx context.Context, b Backfill, r, span rangecache.Range) (map[int64]*aggregate, error) {
	ctx, cancel := context.WithTimeout(ctx, b.Timeout)
	defer cancel()
	parts := make(map[int64]*aggregate)
	statement := e.config.statement(dumps, historyColumns, "", r)
	for row, err := range e.config.Database.Rows(ctx, influx.Request{Statement: statement, MaxBytes: maxSetBytes}) {
		if err != nil {
			return nil, err
		}
		ns, err := row.Time()
		if err != nil {
			return nil, err
		}
		if !r.Contains(ns) {
			return nil, fmt.Errorf("%w: a record outside of the requested time range", influx.ErrMalformed)
		}
		at := span.From
		if at != rangecache.All.From {
			at += (ns - span.From) / int64(b.Every) * int64(b.Every)
		}
		if parts[at] == nil {
			parts[at] = newAggregate()
		}
		if err := parts[at].addRecord(row); err != nil {
			return nil, err
		}
	}
	return parts, nil
}
