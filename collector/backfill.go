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
	// Timeout bounds a question; one that takes longer is asked in parts.
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
		if f.label() == query {
			return f.gauge(), f.about()
		}
	}
	return "", ""
}

// backfillWindow is how much of the time is asked about at once, where a step is no longer.
const backfillWindow = 24 * time.Hour

// Backfill passes on one step after the other. What lies before the first is asked for as
// figures, the rest as records, a window at a time: the memory it takes grows with the
// number of VMs alone.
func (c *Collector) Backfill(ctx context.Context, b Backfill, each func(Step) error) error {
	run, _ := c.begin(ctx)
	if run.api == influx.APIV3Query {
		return errors.New("a gateway of the old service's kind is not asked for history")
	}
	// In order: nobody waits for it as for a scrape.
	now, err := c.upTo(run, b)
	if err != nil {
		return err
	}
	vms := now.vms
	step := Step{b.From, int64(now.dumps), int64(len(vms)), int64(now.bytes), now.last.ns}
	if err := each(step); err != nil {
		return err
	}
	perWindow := max(1, int(backfillWindow/b.Every))
	for left := int(b.To.Sub(b.From) / b.Every); left > 0; {
		n := min(left, perWindow)
		left -= n
		slots, err := c.window(run, b, step.At, n)
		if err != nil {
			return fmt.Errorf("asking for the records after %s: %w", step.At.UTC().Format(time.RFC3339), err)
		}
		for _, s := range slots {
			total, err := total(step.Bytes).Merge(s.bytes)
			if err != nil {
				return err
			}
			for vmid := range s.vms {
				vms.add(vmid, member{})
			}
			step = Step{step.At.Add(b.Every), step.Dumps + s.dumps, int64(len(vms)), int64(total), max(step.LastNs, s.lastNs)}
			if err := each(step); err != nil {
				return err
			}
		}
	}
	return nil
}

// upTo is what figures say of all time up to the first step.
type upTo struct {
	dumps, bytes total
	vms          members
	last         newest
}

func (c *Collector) upTo(run *scrape, b Backfill) (sum upTo, err error) {
	r := ranges.Range{From: ranges.All.From, To: b.From.UnixNano() + 1}
	if sum.dumps, err = merged[total](run, b, "dumps", r); err != nil {
		return sum, err
	}
	if sum.bytes, err = merged[total](run, b, "compressed_bytes", r); err != nil {
		return sum, err
	}
	if sum.last, err = merged[newest](run, b, "last_dump", r); err != nil {
		return sum, err
	}
	if sum.vms, err = merged[members](run, b, dumpedVMs, r); err == nil && sum.vms == nil {
		sum.vms = make(members)
	}
	return sum, err
}

// merged is a query's partial of a range, in as many pieces as it takes.
func merged[P partial[P]](run *scrape, b Backfill, query string, r ranges.Range) (sum P, err error) {
	for _, f := range run.figures {
		k, ok := f.(kept[P])
		if !ok || f.label() != query {
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
			err = run.prove(k.text.from, k.fields)
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

// slot is what was recorded between a step and the one before.
type slot struct {
	dumps  int64
	bytes  total
	lastNs int64
	vms    map[string]struct{}
}

// window reads the records of n steps after a time.
func (c *Collector) window(run *scrape, b Backfill, after time.Time, n int) ([]slot, error) {
	all := make([]slot, n)
	begin := after.UnixNano() + 1
	text := statement{sel: `"sha256","vmid","gzip_size_bytes"`, from: dumps}
	err := run.walk(b, ranges.Range{From: begin, To: begin + int64(n)*int64(b.Every)}, func(ctx context.Context, r ranges.Range) error {
		piece := make([]slot, n) // of a question that fails half-way, nothing counts
		question := influx.Question{Statement: text.over(c.DumpsMeasurement, r), MaxBytes: maxSetBytes}
		err := c.Database.Query(ctx, question, func(row influx.Row) error {
			ns, err := row.Time()
			if err != nil {
				return err
			}
			if !r.Contains(ns) {
				return fmt.Errorf("%w: a record of a time that was not asked for", influx.ErrMalformed)
			}
			return piece[(ns-begin)/int64(b.Every)].add(ns, row)
		})
		if err != nil {
			return err
		}
		for i, s := range piece {
			if all[i], err = all[i].plus(s); err != nil {
				return err
			}
		}
		return nil
	})
	return all, err
}

func (s *slot) add(ns int64, row influx.Row) error {
	if value, _ := row.Value("gzip_size_bytes"); value != nil {
		size, err := row.Int64("gzip_size_bytes")
		if err != nil {
			return err
		}
		if s.bytes, err = s.bytes.Merge(total(size)); err != nil {
			return err
		}
	}
	if value, _ := row.Value("sha256"); value == nil { // no dump
		return nil
	}
	s.dumps++
	s.lastNs = max(s.lastNs, ns)
	if vmid, _ := row.Value("vmid"); vmid != nil && vmid != "" {
		if s.vms == nil {
			s.vms = make(map[string]struct{})
		}
		s.vms[fmt.Sprint(vmid)] = struct{}{}
	}
	return nil
}

func (s slot) plus(other slot) (slot, error) {
	bytes, err := s.bytes.Merge(other.bytes)
	for vmid := range s.vms {
		if other.vms == nil {
			other.vms = make(map[string]struct{})
		}
		other.vms[vmid] = struct{}{}
	}
	return slot{s.dumps + other.dumps, bytes, max(s.lastNs, other.lastNs), other.vms}, err
}
