package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"memdump_exporter/influx/influxtest"
)

// live goes on with the history until ctx ends, or the exporter does, where there is one, which is an error.
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
			// Telemetry beyond the look-back is true of nothing any more, and would fill the memory in days.
			d.history.DeleteTelemetry(time.Now().Add(-lookback - time.Hour).UnixNano())
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

// shownMetrics are the metrics whose truth a line shows, without the prefix of all metrics.
var shownMetrics = []string{
	"dumps", "dumped_domains", "dumped_vms", "dumps_compressed_bytes", "dumps_raw_bytes",
	"dump_duration_mean_seconds", "last_dump_timestamp_seconds",
	"monitored_domains", "monitored_vms", "vms_never_dumped", "vms_dump_overdue",
}

// tell prints the truth as the generator knows it, in the numbers of /metrics; dump is the domain just dumped.
func (d *demo) tell(dump string) {
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

// introduce prints who lives in the history that has been written.
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
Hosts hand these numbers out from 1 again when they restart, so all share %d of them; a VM is its domain.
`, len(monitored), list(never), list(overdue), list(restarted), d.history.Truth(now, lookback).MonitoredVMs)
}

// list is some names for a person.
func list(names []string) string {
	const most = 5
	switch n := len(names); {
	case n == 0:
		return "none"
	case n > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), n-most)
	}
	return strings.Join(names, ", ")
}
