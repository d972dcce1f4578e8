package main

import (
	"context"
	"time"

	"memdump_exporter/influx/influxtest"
)

// live goes on with the history until ctx ends, or the exporter does, where there is one, which is an error.
func (d *demo) live(ctx context.Context, exporter *influxtest.Process) error {
	telemetry := time.NewTicker(d.telemetryEvery)
	defer telemetry.Stop()
	dump := time.NewTicker(d.dumpEvery)
	defer dump.Stop()
	prune := time.NewTicker(pruneEvery)
	defer prune.Stop()
	var exporterDone <-chan struct{}
	if exporter != nil {
		exporterDone = exporter.Done()
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-exporterDone:
			return ended(exporter)
		case <-telemetry.C:
			d.add(ctx, d.history.LiveTelemetry)
		case <-dump.C:
			d.add(ctx, d.history.LiveDump)
		case <-prune.C:
			// Telemetry beyond the look-back is true of nothing any more, and would fill the memory in days.
			d.history.Delete(influxtest.Telemetry, 0, time.Now().Add(-lookback-time.Hour).UnixNano())
		}
	}
}

// add makes new points and stores them behind those that wait. The history holds nothing that is neither stored nor
// waiting: when too many wait, it makes no new ones, so that the truth stays true.
func (d *demo) add(ctx context.Context, next func(time.Time) []influxtest.Point) {
	waited := len(d.queue)
	var dump string
	if waited < queueBound {
		for _, p := range next(time.Now()) {
			d.queue = append(d.queue, p.Line())
			if p.Measurement == influxtest.Dumps {
				dump = p.Tags["dom"]
			}
		}
	}
	bounded, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	// A write that is given up may yet be carried out; writing the points again changes nothing.
	if err := d.influx.Write(bounded, d.database, d.queue); err != nil {
		if waited == 0 && ctx.Err() == nil {
			d.out.printf("%s  InfluxDB does not take the points: %v. Keeping them until it does\n", clock(time.Now()), err)
		}
		return
	}
	if waited > 0 {
		d.out.printf("%s  InfluxDB takes points again: wrote all %d that waited\n", clock(time.Now()), len(d.queue))
	}
	d.queue = nil
	if dump != "" || waited > 0 {
		d.tell(dump)
	}
}

func clock(t time.Time) string { return t.Format("15:04:05") }

// tell prints the truth as the generator knows it, in the numbers of /metrics; dump is the domain just dumped.
func (d *demo) tell(dump string) {
	now := time.Now()
	truth := d.history.Truth(now.UnixNano(), lookback)
	mean, last := "absent", "absent"
	if m, ok := truth.Mean(); ok {
		mean = number(m)
	}
	if l, ok := truth.Last(); ok {
		last = number(l)
	}
	d.out.printf("%s  truth: dumps %d, dumped_vms %d, compressed_bytes %s, duration_mean %s, last_dump %s, monitored_vms %d",
		clock(now), truth.Dumps, truth.DumpedVMs, number(float64(truth.CompressedBytes)), mean, last, truth.MonitoredVMs)
	if dump != "" {
		d.out.printf("  (dumped %s)", dump)
	}
	d.out.printf("\n")
}
