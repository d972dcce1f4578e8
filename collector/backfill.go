package collector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

// Step is what the records said of the dumps up to a time, that time included.
type Step struct {
	At                time.Time
	Dumps, VMs, Bytes int64
	LastNs            int64 // of the newest dump, since 1970; 0 without one
}

// Backfill is history for a Prometheus that starts today.
type Backfill struct {
	// From and To are the first step and the latest that there can be; Every is the
	// time between two. All are whole seconds.
	From, To time.Time
	Every    time.Duration
	// Timeout bounds a request; one that takes longer is asked in parts.
	Timeout time.Duration
}

// BackfillSeries are the gauges that a Step has values for, and where its value is;
// false when there is none.
var BackfillSeries = []struct {
	Query string
	Value func(Step) (float64, bool)
}{
	{"dumps", func(s Step) (float64, bool) { return float64(s.Dumps), true }},
	{dumpedVMs, func(s Step) (float64, bool) { return float64(s.VMs), true }},
	{"compressed_bytes", func(s Step) (float64, bool) { return float64(s.Bytes), true }},
	{"last_dump", func(s Step) (float64, bool) { return seconds(s.LastNs), s.Dumps > 0 }},
}

// Gauge returns the name and the help of a query's gauge.
func (c *Collector) Gauge(query string) (name, help string) {
	for _, f := range c.figures {
		if f.query == query {
			return f.name, f.help
		}
	}
	return "", ""
}

// backfillWindow is how much of the time is asked about at once, where a step is no longer.
const backfillWindow = 24 * time.Hour

// history is what the records of some time say.
type history struct {
	dumps, bytes total
	vms          members
	last         newest
}

func (h *history) add(more history) (err error) {
	if h.dumps, err = h.dumps.Merge(more.dumps); err != nil {
		return err
	}
	if h.bytes, err = h.bytes.Merge(more.bytes); err != nil {
		return err
	}
	// In place, as it happens at each step; most steps have no dump.
	if h.vms == nil && len(more.vms) > 0 {
		h.vms = make(members)
	}
	for vmid, point := range more.vms {
		h.vms.add(vmid, point)
	}
	h.last, err = h.last.Merge(more.last)
	return err
}

func (h history) step(at time.Time) Step {
	return Step{at, int64(h.dumps), int64(len(h.vms)), int64(h.bytes), h.last.ns}
}

// Backfill passes on one step after the other. What lies before the first is asked for as
// figures, the rest as records, a window at a time: the memory it takes grows with the
// number of VMs alone.
func (c *Collector) Backfill(ctx context.Context, b Backfill, each func(Step) error) error {
	run, _ := c.begin(ctx)
	if run.api == influx.APIV3Query {
		return errors.New("a v3-query gateway is not asked for history")
	}
	so, err := run.before(b)
	if err != nil {
		return err
	}
	at := b.From
	if err := each(so.step(at)); err != nil {
		return err
	}
	perWindow := max(1, int(backfillWindow/b.Every))
	for left := int(b.To.Sub(b.From) / b.Every); left > 0; {
		n := min(left, perWindow)
		left -= n
		window, err := run.window(b, at, n)
		if err != nil {
			return fmt.Errorf("asking for the records after %s: %w", at.UTC().Format(time.RFC3339), err)
		}
		for _, more := range window {
			if err := so.add(more); err != nil {
				return err
			}
			at = at.Add(b.Every)
			if err := each(so.step(at)); err != nil {
				return err
			}
		}
	}
	return nil
}

// before asks the figures about all time up to the first step, one after the other: nobody
// waits for them as for a scrape.
func (s *scrape) before(b Backfill) (h history, err error) {
	r := ranges.Range{From: ranges.All.From, To: b.From.UnixNano() + 1}
	if h.dumps, err = merged[total](s, b, "dumps", r); err != nil {
		return h, err
	}
	if h.bytes, err = merged[total](s, b, "compressed_bytes", r); err != nil {
		return h, err
	}
	if h.last, err = merged[newest](s, b, "last_dump", r); err != nil {
		return h, err
	}
	h.vms, err = merged[members](s, b, dumpedVMs, r)
	return h, err
}

// merged is a query's partial of a range, in as many pieces as it takes.
func merged[P partial[P]](run *scrape, b Backfill, query string, r ranges.Range) (sum P, err error) {
	for _, f := range run.figures {
		k, ok := f.asker.(kept[P])
		if !ok || f.query != query {
			continue
		}
		err = run.walk(b, r, func(ctx context.Context, r ranges.Range) error {
			part, err := k.over(ctx, run, r)
			if err != nil {
				return err
			}
			sum, err = sum.Merge(part)
			return err
		})
		if err == nil && sum.empty() {
			err = run.prove(f.from, f.fields)
		}
		if err != nil {
			err = fmt.Errorf("asking for %s of the time before: %w", query, err)
		}
	}
	return sum, err
}

// walk visits a range in pieces that can be answered about.
func (s *scrape) walk(b Backfill, r ranges.Range, visit func(context.Context, ranges.Range) error) error {
	return ranges.Walk(s.ctx, s.now.UnixNano(), r, nil, func(ctx context.Context, r ranges.Range) error {
		ctx, cancel := context.WithTimeout(ctx, b.Timeout)
		defer cancel()
		err := visit(ctx, r)
		if s.ctx.Err() == nil && (errors.Is(err, influx.ErrTooLarge) || errors.Is(err, influx.ErrTimeout)) {
			return fmt.Errorf("%w: %w", ranges.ErrTooWide, err)
		}
		return tooWide(err)
	})
}

// window reads the records of n steps after a time, each step's by themselves.
func (s *scrape) window(b Backfill, after time.Time, n int) ([]history, error) {
	all := make([]history, n)
	begin := after.UnixNano() + 1
	text := statement{sel: `"sha256","vmid","gzip_size_bytes"`}
	err := s.walk(b, ranges.Range{From: begin, To: begin + int64(n)*int64(b.Every)}, func(ctx context.Context, r ranges.Range) error {
		piece := make([]history, n) // of a request that fails half-way, nothing counts
		request := influx.Request{Statement: text.over(s.DumpsMeasurement, r, influxQL), MaxBytes: maxSetBytes}
		err := s.Database.Query(ctx, request, func(row influx.Row) error {
			ns, err := row.Time()
			if err != nil {
				return err
			}
			if !r.Contains(ns) {
				return fmt.Errorf("%w: a record of a time that was not asked for", influx.ErrMalformed)
			}
			more, err := recorded(ns, row)
			if err != nil {
				return err
			}
			return piece[(ns-begin)/int64(b.Every)].add(more)
		})
		if err != nil {
			return err
		}
		for i := range piece {
			if err := all[i].add(piece[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return all, err
}

// recorded is what one record says. Without sha256 it is no dump, though its size counts as
// in the sum of all.
func recorded(ns int64, row influx.Row) (h history, err error) {
	if size, _ := row.Value("gzip_size_bytes"); size != nil {
		n, err := row.Int64("gzip_size_bytes")
		if err != nil {
			return h, err
		}
		h.bytes = total(n)
	}
	if sha, _ := row.Value("sha256"); sha == nil {
		return h, nil
	}
	h.dumps, h.last = 1, newest{ns, true}
	if vmid := text(row, "vmid"); vmid != "" {
		h.vms = members{vmid: {ns: ns}}
	}
	return h, nil
}
