package collector

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

const (
	// A dump takes up to 133 s and its compression up to six minutes; then its point may be delayed.
	dumpsDelay    = 90 * time.Minute
	dumpsLateness = dumpsDelay + 133*time.Second + 6*time.Minute
	// A point of telemetry may be delayed.
	telemetryDelay = 14 * time.Minute
)

// weekSteps are the times from a scrape to the next one, in turn. The history refreshes a recent range after ten minutes:
// half of the scrapes merge what it stored at the scrape before, and half what it fetches anew.
var weekSteps = []time.Duration{9 * time.Minute, 11 * time.Minute}

// TestWeek: at each of 1008 steps through a week of hosts, VMs and their writers, /metrics is true of the model. Time is
// virtual.
func TestWeek(t *testing.T) {
	for name, tt := range map[string]struct {
		seed      uint64
		lookback  time.Duration
		fileLimit int // too low for full queries; 0 for none
	}{
		"full queries": {seed: 3, lookback: 24 * time.Hour},
		"history":      {seed: 5, lookback: 8 * time.Hour, fileLimit: 28},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := influxtest.NewWorld(influxtest.WorldConfig{
					Seed: tt.seed, Start: time.Now(), Hosts: 3, VMs: 12, TelemetryEvery: 15 * time.Minute,
					DumpsLate: dumpsDelay, TelemetryLate: telemetryDelay,
				})
				fake := &influxtest.Fake{}
				if tt.fileLimit > 0 {
					fake.LimitFiles(tt.fileLimit)
				}
				c := &comparison{world: w, lookback: tt.lookback, maxAge: 6 * time.Hour}
				for n := range int(7 * day / (10 * time.Minute)) {
					if n%400 == 0 {
						c.start(t, newClientOver(t, fake, influx.Config{}), time.Now)
					}
					step := weekSteps[n%len(weekSteps)]
					time.Sleep(time.Until(w.Now().Add(step)))
					fake.Add(w.Advance(step)...)
					if n%100 == 99 {
						for _, measurement := range writtenTelemetry {
							fake.Delete(measurement, 0, w.Now().Add(-tt.lookback).UnixNano())
						}
					}
					c.step(t)
				}
				c.report(t)
				least, most := 0, 0
				if tt.fileLimit > 0 {
					least, most = c.steps*3/4, c.steps
				}
				for s, n := range c.split {
					if n < least || n > most {
						t.Errorf("the history of %s was used at %d steps, want %d to %d", source(s), n, least, most)
					}
				}
				if unknown := fake.Unknown(); len(unknown) > 0 {
					t.Errorf("the fake does not support %q", unknown)
				}
			})
		})
	}
}

// TestWeek_server: a day of a smaller world with more events on a real InfluxDB, directly and behind a file limit.
func TestWeek_server(t *testing.T) {
	const (
		database = "week"
		lookback = 6 * time.Hour
		step     = 30 * time.Minute
		steps    = int(day / step)
	)
	server, now := influxdb.Server(t), newClock(recordedNow)
	if err := server.CreateDatabase(t.Context(), database); err != nil {
		t.Fatal(err)
	}
	front := influxtest.LimitFiles(t, server.URL, "influxdb-3.8.3", 15)
	w := influxtest.NewWorld(influxtest.WorldConfig{
		Seed: 4, Start: now.Now(), Hosts: 3, VMs: 8, TelemetryEvery: 8 * time.Minute, DumpsLate: dumpsDelay, TelemetryLate: telemetryDelay,
		LifeEvery: 4 * time.Hour, RebootEvery: 8 * time.Hour, DumpEvery: time.Hour,
	})
	direct := &comparison{world: w, lookback: lookback, maxAge: 90 * time.Minute}
	limited := &comparison{world: w, lookback: lookback, maxAge: 90 * time.Minute}
	direct.start(t, newClient(t, server.URL, database), now.Now)
	limited.start(t, newClient(t, front.URL, database), now.Now)
	written := &influxtest.History{}
	for n := range steps {
		points := w.Advance(step)
		now.set(w.Now())
		if n == 0 {
			server.MustAdd(t, database, written, points...) // the only write that InfluxDB may lose
		} else {
			write(t, server, database, written, points)
		}
		if n == steps/2 {
			before := w.Now().Add(-lookback).UnixNano()
			written.DeleteTelemetry(before)
			for _, measurement := range writtenTelemetry {
				if err := server.Delete(t.Context(), database, measurement, 0, before); err != nil {
					t.Fatal(err)
				}
			}
		}
		front.Holds(written)
		direct.step(t)
		limited.step(t)
	}
	if err := server.Verify(t.Context(), database, written); err != nil {
		t.Error(err)
	}
	direct.report(t)
	limited.report(t)
	for s, n := range limited.split {
		if n < steps/2 {
			t.Errorf("the history of %s was used at %d steps, want %d or more", source(s), n, steps/2)
		}
	}
}

// write adds points to a history and to its database.
func write(t *testing.T, server *influxtest.Server, database string, h *influxtest.History, points []influxtest.Point) {
	t.Helper()
	h.Add(points...)
	lines := make([]string, len(points))
	for i, p := range points {
		lines[i] = p.Line()
	}
	if err := server.Write(t.Context(), database, lines); err != nil {
		t.Fatal(err)
	}
}

// writtenTelemetry are the measurements that the collectors write.
var writtenTelemetry = []string{influxtest.Telemetry, influxtest.OlderTelemetry, influxtest.Devices, influxtest.Features}

// comparison compares the scrapes of an exporter with the truth of a world.
type comparison struct {
	world            *influxtest.World
	lookback, maxAge time.Duration
	exporter         *Exporter
	handler          http.Handler

	steps, values int
	split         [numSources]int // steps where a query was split into ranges, and so the history used
	wrong         []string
	greatest      map[string]float64 // of the values of each series
	shared        int                // steps where two VMs shared a name
}

// start starts an exporter without a history.
func (c *comparison) start(t *testing.T, db Database, now func() time.Time) {
	t.Helper()
	if c.exporter != nil {
		c.exporter.Close()
	}
	c.exporter = newExporter(t, db, func(config *Config) {
		config.Now, config.TelemetryLookback, config.DumpsMaxAge = now, c.lookback, c.maxAge
		config.DumpsAllowedLateness, config.TelemetryAllowedLateness = dumpsLateness, telemetryDelay
	})
	c.handler = c.exporter.Handler(HandlerConfig{Self: prometheus.NewRegistry(), Timeouts: Timeouts{Default: time.Minute}})
}

// step scrapes once, and waits for what the scrape loads.
func (c *comparison) step(t *testing.T) {
	t.Helper()
	got := scrapeFrom(t, c.handler, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	c.exporter.loads.Wait()
	for s, query := range [numSources]string{dumpedVMs, monitoredVMs} {
		if ranges, _ := got.value("memdump_query_ranges", "query", query); ranges > 1 {
			c.split[s]++
		}
	}
	if len(c.world.Monitored(c.lookback).Shared()) > 0 {
		c.shared++
	}
	want, have := c.want(), got.labelled(append(tableMetrics(), "memdump_up", "memdump_vms_omitted", "memdump_vm_last_dump_timestamp_seconds",
		"memdump_vm_dumps", "memdump_vm_dumps_compressed_bytes", "memdump_vm_info"))
	c.steps++
	c.values += len(want)
	if c.greatest == nil {
		c.greatest = make(map[string]float64)
	}
	for series, value := range have {
		c.greatest[series] = max(c.greatest[series], value)
		if wanted, ok := want[series]; !ok {
			c.wrong = append(c.wrong, fmt.Sprintf("step %d: %s is %v, want it absent", c.steps, series, value))
		} else if value != wanted {
			c.wrong = append(c.wrong, fmt.Sprintf("step %d: %s is %v, want %v", c.steps, series, value, wanted))
		}
	}
	for series, value := range want {
		if _, ok := have[series]; !ok {
			c.wrong = append(c.wrong, fmt.Sprintf("step %d: %s is absent, want %v", c.steps, series, value))
		}
	}
}

// want returns the true values by series.
func (c *comparison) want() map[string]float64 {
	now, monitored := c.world.Now().UnixNano(), c.world.Monitored(c.lookback)
	want := c.world.Truth(c.lookback).Metrics()
	want["memdump_vms_dump_overdue"] = float64(monitored.Overdue(now, c.maxAge))
	want["memdump_vms_omitted"], want["memdump_up"] = 0, 1
	if len(c.world.Dumps()) == 0 { // the measurement does not exist yet
		maps.DeleteFunc(want, func(name string, _ float64) bool { return !strings.HasPrefix(name, "memdump_monitored_") })
		want["memdump_up"] = 0
	}
	for dom, vm := range c.world.DumpsByDomain() {
		want[seriesName("memdump_vm_last_dump_timestamp_seconds", "dom", dom)] = seconds(vm.LastNs)
		want[seriesName("memdump_vm_dumps", "dom", dom)] = float64(vm.Dumps)
		want[seriesName("memdump_vm_info", "dom", dom, "host", vm.Host, "vmid", vm.VMID)] = 1
		if vm.Sized {
			want[seriesName("memdump_vm_dumps_compressed_bytes", "dom", dom)] = float64(vm.CompressedBytes)
		}
	}
	return want
}

// report reports wrong values, and kinds of events that did not happen.
func (c *comparison) report(t *testing.T) {
	t.Helper()
	t.Logf("%d steps (with the histories: %v), %d values, wrong: %d; %v", c.steps, c.split, c.values, len(c.wrong), c.world.Happened)
	if len(c.wrong) > 0 {
		t.Errorf("%d of %d values are wrong:\n%s", len(c.wrong), c.values, strings.Join(c.wrong[:min(len(c.wrong), 10)], "\n"))
	}
	for _, what := range []string{
		"dump", "late dump", "lost dump", "late telemetry", "restart", "off", "migration", "rename", "replacement", "reboot",
	} {
		if c.world.Happened[what] == 0 {
			t.Errorf("no %s has happened", what)
		}
	}
	for _, name := range []string{"memdump_vms_never_dumped", "memdump_vms_dump_overdue"} {
		if c.greatest[name] < 2 {
			t.Errorf("%s was %v at most", name, c.greatest[name])
		}
	}
	if c.shared == 0 {
		t.Error("two VMs have never shared a name")
	}
}

// labelled returns the values of all series of gauges, by seriesName.
func (x exposition) labelled(names []string) map[string]float64 {
	all := make(map[string]float64)
	for _, name := range names {
		for _, m := range x.families[name].GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName(), l.GetValue())
			}
			all[seriesName(name, labels...)] = m.GetGauge().GetValue()
		}
	}
	return all
}

// seriesName returns a name for a series with labels, which are in order.
func seriesName(name string, labels ...string) string {
	if len(labels) == 0 {
		return name
	}
	return fmt.Sprintf("%s%q", name, labels)
}
