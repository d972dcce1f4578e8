package collector

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

// Overview is everything that a page for people says, asked for at one time. It counts
// for none of the metrics.
type Overview struct {
	At     time.Time
	Server influx.Server // Major is 0 while it is not known
	API    influx.API
	// Figures are the rows of the table, in its order.
	Figures []FigureNow
	// VMs are those monitored, the never dumped first; not known without VMsKnown.
	VMs      []VM
	VMsKnown bool
	// Days are the last thirty, oldest first; empty with DaysErr.
	Days    []Day
	DaysErr error
	// Newest are the newest dumps; empty with NewestErr, or where there is none.
	Newest    []Record
	NewestErr error
}

// Day is what was dumped in one day of UTC.
type Day struct {
	Start        time.Time
	Dumps, Bytes int64
}

const (
	overviewDays = 30
	overviewRows = 20
	day          = 24 * time.Hour
)

// Overview asks for everything side by side. The context bounds it.
func (c *Collector) Overview(ctx context.Context) Overview {
	run, server := c.begin(ctx)
	o := Overview{At: run.now, Server: server}
	var requests sync.WaitGroup
	requests.Go(func() {
		var answers []answer
		o.Figures, answers = c.figuresNow(run)
		o.VMs, o.VMsKnown = c.monitored(answers, run.now)
	})
	requests.Go(func() { o.DaysErr = contain(func() (err error) { o.Days, err = c.days(run); return err }) })
	requests.Go(func() {
		o.NewestErr = contain(func() error {
			return c.list(ctx, query{limit: overviewRows, span: ranges.All}, func(r Record) error {
				o.Newest = append(o.Newest, r)
				return nil
			})
		})
	})
	requests.Wait()
	if o.API = c.Database.API(); o.NewestErr != nil {
		o.Newest = nil
	}
	return o
}

var errNoDays = errors.New("a v3-query gateway is not asked for dumps per day")

// days counts the dumps of each of the last days. Where the server refuses so many at
// once, parts of days add up.
func (c *Collector) days(run *scrape) ([]Day, error) {
	if run.api == influx.APIV3Query {
		return nil, errNoDays
	}
	today := run.now.UTC().Truncate(day)
	first := today.Add(-(overviewDays - 1) * day)
	all := make([]Day, overviewDays)
	for i := range all {
		all[i].Start = first.Add(time.Duration(i) * day)
	}
	text := statement{sel: `COUNT("sha256") AS "dumps", SUM("gzip_size_bytes") AS "bytes"`, tail: "GROUP BY time(1d) fill(none)"}
	found := false
	span := ranges.Range{From: first.UnixNano(), To: today.Add(day).UnixNano()}
	err := ranges.Walk(run.ctx, run.now.UnixNano(), span, c.recordsMap(), func(ctx context.Context, r ranges.Range) error {
		part := make([]Day, overviewDays) // of a request that fails half-way, nothing counts
		err := c.Database.Query(ctx, influx.Request{Statement: text.over(c.DumpsMeasurement, r, influxQL)}, func(row influx.Row) error {
			ns, err := row.Time()
			if err != nil {
				return err
			}
			if !span.Contains(ns) {
				return fmt.Errorf("%w: a day that was not asked for", influx.ErrMalformed)
			}
			found = true
			return part[(ns-span.From)/int64(day)].add(row)
		})
		if err != nil {
			return tooWide(err)
		}
		for i := range part {
			all[i].Dumps += part[i].Dumps
			all[i].Bytes += part[i].Bytes
		}
		return nil
	})
	if err == nil && !found {
		err = run.prove(dumps, []string{"sha256"})
	}
	if err != nil {
		return nil, err
	}
	return all, nil
}

func (d *Day) add(row influx.Row) error {
	dumps, _, err := countIfAny(row, "dumps")
	if err != nil {
		return err
	}
	bytes, _, err := countIfAny(row, "bytes")
	d.Dumps, d.Bytes = d.Dumps+int64(dumps), d.Bytes+int64(bytes)
	return err
}
