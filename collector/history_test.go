package collector

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"memdump_exporter/influx/influxtest"
)

// steadyDump is a dump every six hours, of VMs that restart from time to time.
func steadyDump(n int, at time.Time) influxtest.Point {
	vm := n % 7
	return influxtest.Point{
		Measurement: influxtest.Dumps, TimeNs: at.UnixNano(),
		Tags:   map[string]string{"dom": fmt.Sprint("vm", vm), "vmid": fmt.Sprint(vm + n/50), "host": "h"},
		Fields: map[string]any{"sha256": fmt.Sprint(n), "gzip_size_bytes": 1000 + n, "duration_sec": float64(n%9) + 0.5},
	}
}

// limitedServer is a real InfluxDB with a history, behind a proxy that rejects queries for too many
// files.
func limitedServer(t *testing.T, database string, h *influxtest.History, limit int) (*influxtest.Server, *influxtest.FileLimit) {
	t.Helper()
	server := influxdb.Server(t)
	server.MustStore(t, database, h)
	front := influxtest.LimitFiles(t, server.URL, "influxdb-3.6.0", limit)
	front.Holds(h)
	return server, front
}

// TestHistory_boundary: every scrape is true while settled time grows, ranges are joined, late points
// arrive, and old points are deleted.
func TestHistory_boundary(t *testing.T) {
	start := time.Now().Add(-60 * day).Truncate(time.Hour)
	now := newClock(start.Add(30 * day))
	h := &influxtest.History{}
	n := 0
	for at := start; at.Before(now.Now()); at = at.Add(6 * time.Hour) {
		h.Add(steadyDump(n, at))
		n++
	}
	server, front := limitedServer(t, "boundary", h, 20)
	e := newExporter(t, newClient(t, front.URL, "boundary"), at(now))
	write := func(points ...influxtest.Point) {
		t.Helper()
		h.Add(points...)
		for _, p := range points {
			if err := server.Store(t.Context(), "boundary", h, []string{p.Line()}); err != nil {
				t.Fatal(err)
			}
		}
		front.Holds(h)
	}
	for step := range 60 {
		now.set(now.Now().Add(time.Hour))
		switch step % 6 {
		case 0:
			write(steadyDump(n, now.Now().Add(-time.Minute)))
			n++
		case 3: // almost as late as is allowed
			write(steadyDump(n, now.Now().Add(-23*time.Hour-50*time.Minute)))
			n++
		}
		want := h.Truth(now.Now().UnixNano(), day).Metrics()
		got := scrape(t, e)
		for _, name := range []string{"memdump_dumps", "memdump_dumped_domains", "memdump_dumped_vms", "memdump_dumps_compressed_bytes",
			"memdump_dumps_duration_seconds", "memdump_dumps_with_duration", "memdump_last_dump_timestamp_seconds"} {
			if value, _ := got.value(name); value != want[name] {
				t.Errorf("step %d: %s is %v, want %v", step, name, value, want[name])
			}
		}
	}
	if state := e.Histories()[dumps]; state.Full || state.Ranges < 3 {
		t.Errorf("the history is not in use: %+v", state)
	}
	// What is deleted, or arrives later than allowed, shows within a day.
	from, to := start.Add(2*day).UnixNano(), start.Add(5*day).UnixNano()
	if err := server.Delete(t.Context(), "boundary", influxtest.Dumps, from, to); err != nil {
		t.Fatal(err)
	}
	h.Delete(influxtest.Dumps, from, to)
	write(steadyDump(n, start.Add(9*day+time.Minute)))
	now.set(now.Now().Add(day))
	scrape(t, e).wantValue(t, float64(h.Truth(now.Now().UnixNano(), day).Dumps), "memdump_dumps")
}

// TestHistory_loading: a scrape that is too short for the history fails with the reason loading,
// loading continues after it, and the history is complete at the next scrape.
func TestHistory_loading(t *testing.T) {
	end := time.Now()
	h := &influxtest.History{}
	for i := range 600 {
		h.Add(steadyDump(i, end.Add(-time.Duration(i)*time.Hour)))
	}
	_, front := limitedServer(t, "loading", h, 100)
	front.SetCost(3 * time.Millisecond)
	e := newExporter(t, newClient(t, front.URL, "loading"), at(newClock(end)))
	short := e.Handler(HandlerConfig{Self: prometheus.NewRegistry(), Timeouts: Timeouts{Default: time.Second}})
	got := scrapeFrom(t, short, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	got.wantAbsent(t, "memdump_dumps", "memdump_dumped_domains")
	got.wantValue(t, 0, "memdump_up")
	got.wantValue(t, 1, "memdump_query_errors_total", "query", "dumps", "reason", "loading")
	if ratio, _ := got.value("memdump_history_loaded_ratio", "history", "dumps"); ratio <= 0 || ratio >= 1 {
		t.Errorf("the ratio is %v while the history is being loaded", ratio)
	}
	e.loads.Wait() // goes on without a scrape
	if state := e.Histories()[dumps]; state.Loaded != 1 {
		t.Errorf("the history is loaded to %v", state.Loaded)
	}
	requests, _ := front.Queries()
	scrape(t, e).wantValue(t, 600, "memdump_dumps")
	if after, _ := front.Queries(); after-requests > 20 {
		t.Errorf("the next scrape made %d requests", after-requests)
	}
}

// TestExporter_close: Close ends the loading.
func TestExporter_close(t *testing.T) {
	h := &influxtest.History{}
	for i := range 300 {
		h.Add(steadyDump(i, time.Now().Add(-time.Duration(i)*time.Hour)))
	}
	_, front := limitedServer(t, "close", h, 10)
	front.SetCost(50 * time.Millisecond)
	e := newExporter(t, newClient(t, front.URL, "close"), at(newClock(time.Now())))
	e.histories[dumps].leaveFull(errors.New("for this test"))
	e.Close()
	if state := e.Histories()[dumps]; state.Loaded == 1 {
		t.Error("Close waited until the history was loaded")
	}
	requests, _ := front.Queries()
	e.histories[dumps].mu.Lock()
	e.histories[dumps].load()
	e.histories[dumps].mu.Unlock()
	e.loads.Wait()
	if after, _ := front.Queries(); after != requests {
		t.Errorf("%d requests after Close", after-requests)
	}
}

// TestHistory_fileLimit: every value of the first scrape is exact on a real InfluxDB behind the file
// limit of InfluxDB 3, with the recorded rejections of two versions.
func TestHistory_fileLimit(t *testing.T) {
	server := influxdb.Server(t)
	now := newClock(time.Now().Truncate(time.Microsecond))
	h := edgy(rand.New(rand.NewPCG(1, 2)), now.Now())
	server.MustStore(t, "edgy", h)
	for _, as := range []string{"influxdb-3.6.0", "influxdb-3.8.3"} {
		for _, limit := range []int{432, 200, 20, 2} {
			t.Run(fmt.Sprintf("%s/%d", as, limit), func(t *testing.T) {
				front := influxtest.LimitFiles(t, server.URL, as, limit)
				front.Holds(h)
				e := newExporter(t, newClient(t, front.URL, "edgy"), at(now))
				for i := range 2 {
					got := scrape(t, e)
					got.wantTable(t, truth(h, now.Now()))
					wantPerVM(t, got, h.DumpsByDomain())
					queries, rejected := front.Queries()
					t.Logf("scrape %d: %d queries, %d rejected", i, queries, rejected)
				}
				if _, rejected := front.Queries(); rejected > 0 != (limit < 432) {
					t.Errorf("%d queries were rejected", rejected)
				}
				_, before := front.Queries()
				scrape(t, e)
				if _, after := front.Queries(); after > before {
					t.Errorf("%d queries of the third scrape were rejected", after-before)
				}
			})
		}
	}
}

// edgy returns a history that is hard to split, with telemetry at the borders of the look-back and a nanosecond beside.
func edgy(rng *rand.Rand, now time.Time) *influxtest.History {
	h := &influxtest.History{}
	for _, at := range influxtest.EdgeTimes(rng, now) {
		h.Add(dumpAt(at, rng.IntN(40)))
	}
	for vm := range 30 {
		h.Add(seenAt(now.Add(-time.Duration(rng.Int64N(int64(26*time.Hour)))), vm))
	}
	for i, at := range []time.Time{now.Add(-day), now.Add(-day - 1), now, now.Add(1), now.Add(-time.Hour)} {
		h.Add(seenAt(at, 50+i))
	}
	return h
}
