package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"memdump_exporter/influx/influxtest"
)

// live continues the history until ctx ends. It is an error if the exporter, which may be nil, ends first.
func (d *demo) live(ctx context.Context, exporter *influxtest.Process) error {
	telemetry := time.NewTicker(d.telemetryEvery)
	defer telemetry.Stop()
	dump := time.NewTicker(d.dumpEvery)
	defer dump.Stop()
	restart := time.NewTicker(d.restartEvery)
	defer restart.Stop()
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
		case <-restart.C:
			if domain, before, after := d.history.LiveRestart(time.Now()); domain != "" {
				d.out.printf("%s  %s restarts: its runtime ID was %s and is %s\n", clock(time.Now()), domain, before, after)
			}
		case <-prune.C:
			// Telemetry beyond the look-back affects no metric, and would fill the memory within days.
			d.history.DeleteTelemetry(time.Now().Add(-lookback - time.Hour).UnixNano())
		}
	}
}

// add creates new points and writes them after those in the queue. If the queue is full it creates none: the history must
// contain only points that are stored or queued, so that the truth stays true.
func (d *demo) add(ctx context.Context, next func(time.Time) []influxtest.Point) {
	queued := len(d.queue)
	var dump string
	if queued < maxQueue {
		for _, p := range next(time.Now()) {
			d.queue = append(d.queue, p.Line())
			if p.Measurement == influxtest.Dumps {
				dump = p.Tags["dom"]
			}
		}
	}
	limited, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	// A write that timed out may still be stored; writing the same points again changes nothing.
	if err := d.influx.Write(limited, d.database, d.queue); err != nil {
		if queued == 0 && ctx.Err() == nil {
			d.out.printf("%s  InfluxDB does not accept the points: %v; they stay in the queue\n", clock(time.Now()), err)
		}
		return
	}
	if queued > 0 {
		d.out.printf("%s  InfluxDB accepts points again: wrote all %d that waited\n", clock(time.Now()), len(d.queue))
	}
	d.queue = nil
	if dump != "" || queued > 0 {
		d.printTruth(dump)
	}
}

func clock(t time.Time) string { return t.Format("15:04:05") }

// shownMetrics are the metrics whose truth a line shows, without the prefix of all metrics.
var shownMetrics = []string{
	"dumps", "dumped_domains", "dumped_vms", "dumps_compressed_bytes", "dumps_raw_bytes",
	"dump_duration_mean_seconds", "last_dump_timestamp_seconds",
	"monitored_domains", "monitored_vms", "vms_never_dumped", "vms_dump_overdue",
}

// printTruth prints the truth of the generated data in the format of /metrics. dump is the domain that was just dumped.
func (d *demo) printTruth(dump string) {
	now := time.Now()
	truth := d.history.Truth(now.UnixNano(), lookback).Metrics()
	truth["memdump_vms_dump_overdue"] = float64(d.history.MonitoredDomains(now.UnixNano(), lookback).Overdue(now.UnixNano(), maxAge))
	var values []string
	for _, metric := range shownMetrics {
		value := "absent"
		if v, ok := truth["memdump_"+metric]; ok {
			value = number(v)
		}
		values = append(values, metric+" "+value)
	}
	d.out.printf("%s  truth: %s", clock(now), strings.Join(values, ", "))
	if dump != "" {
		d.out.printf("  (dumped %s)", dump)
	}
	d.out.printf("\n")
}

// introduce prints which VMs the history contains.
func (d *demo) introduce() {
	now := time.Now().UnixNano()
	monitored := d.history.MonitoredDomains(now, lookback)
	var restarted, never, overdue []string
	for _, vm := range monitored {
		switch {
		case !vm.Dumped:
			never = append(never, vm.Name)
		case now-vm.LastNs > int64(maxAge):
			overdue = append(overdue, vm.Name)
		}
		if len(vm.VMIDs) > 1 {
			restarted = append(restarted, vm.Name)
		}
	}
	d.out.printf(`
%d VMs are monitored. Never dumped: %s. Not dumped for more than a day: %s.
Restarted or moved within the day, each time under another runtime ID (vmid): %s.
A host that restarts assigns these numbers from 1 again, so all VMs share %d of them; a VM is its domain.
`, len(monitored), list(never), list(overdue), list(restarted), d.history.Truth(now, lookback).MonitoredVMs)
}

// list returns the first names, and the number of the others.
func list(names []string) string {
	const maxNames = 5
	switch n := len(names); {
	case n == 0:
		return "none"
	case n > maxNames:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNames], ", "), n-maxNames)
	}
	return strings.Join(names, ", ")
}
