//go:build bench

package collector_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"memdump_exporter/collector"
	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// What a scrape costs, measured on a real InfluxDB: `make bench` writes the table.
var (
	costTable = flag.String("cost.table", "", "file to write the table to")
	costScale = flag.Float64("cost.scale", 1, "share of the points to write, for a try")
)

const (
	year        = 365 * 24 * time.Hour
	costEvery   = 15 * time.Second // between two scrapes, by the collector's clock
	costDumpVMs = 500
)

// steps are by the collector's clock in the last hour of the data, so that the newest
// ranges hold what they would hold in use.
func costClock(end time.Time) *clock { return &clock{end.Add(-time.Hour)} }

func TestCost(t *testing.T) {
	server := influxtest.MustStart(t)
	end := time.Now()
	if err := server.Exec(t.Context(), "CREATE DATABASE cost"); err != nil {
		t.Fatal(err)
	}
	var report strings.Builder
	say := func(format string, args ...any) {
		fmt.Fprintf(&report, format, args...)
		t.Logf(strings.TrimSuffix(format, "\n"), args...)
	}
	sizes := []int{1e3, 1e4, 1e5, 1e6}
	var times []int64
	for _, n := range sizes {
		times = writeDumps(t, server, n, year, end)
	}
	// As many a day as the million of a year, for less long.
	ages := []int{4, 40}
	daily := func(days int) int { return 1_000_000 / 365 * days }
	for _, days := range ages {
		writeDumps(t, server, daily(days), time.Duration(days)*24*time.Hour, end)
	}
	for _, vms := range []int{100, 1000} {
		writeTelemetry(t, server, vms, end)
	}
	settle(t, server)

	say("# What a scrape costs\n\nWritten by `make bench` on %s, %s/%s, %d cores, %s: one run on one machine, so read the ratios. ", end.UTC().Format(time.DateOnly), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
	say("A real InfluxDB 1.7.11 on loopback; dumps of %d VMs; telemetry every 5 s for 24 h (scale %v). A scrape each 15 s by the collector's clock.\n\n", costDumpVMs, *costScale)
	trip, exposition := floor(t, server)
	say("The floor: one HTTP round trip (GET /ping) %v; a fixed exposition over HTTP %v.\n\n", trip, exposition)
	say("| dumps | VMs with telemetry | ranges | scrape, p50 | × round trip | InfluxDB's CPU | our CPU | requests | scrape / slowest request |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	results := map[string]cost{}
	row := func(n, vms int, mode ranges.Mode, scrapes int) {
		c := measure(t, server, n, vms, mode, scrapes, end)
		results[fmt.Sprint(n, "/", vms, "/", mode)] = c
		say("| %d | %d | %s | %v | %.0f | %v | %v | %.1f | %.2f |\n", n, vms, mode, c.wall.Round(10*time.Microsecond), float64(c.wall)/float64(trip),
			c.influxd.Round(10*time.Microsecond), c.own.Round(10*time.Microsecond), c.questions, c.overSlowest)
	}
	for _, n := range sizes {
		row(n, 100, ranges.Whole, max(10, min(100, int(1e6/n))))
		row(n, 100, ranges.Cached, 230)
	}
	row(1e3, 1000, ranges.Whole, 20)
	row(1e3, 1000, ranges.Cached, 230)
	for _, days := range ages {
		row(daily(days), 100, ranges.Whole, 20)
		row(daily(days), 100, ranges.Cached, 230)
	}
	ratio := func(a, b string) float64 { return float64(results[a].influxd) / float64(results[b].influxd) }
	say("\nInfluxDB's CPU, cached: 1e6 dumps / 1e3 dumps = %.2f; telemetry of 1000 VMs / of 100 = %.2f. Whole: %.2f and %.2f.\n",
		ratio("1000000/100/cached", "1000/100/cached"), ratio("1000/1000/cached", "1000/100/cached"),
		ratio("1000000/100/whole", "1000/100/whole"), ratio("1000/1000/whole", "1000/100/whole"))
	say("\nWith age, at %d dumps a day: a year / %d days = %.2f cached, %.2f whole. (The rows of %d and %d dumps are those of %d and %d days; all others are of a year.)\n", daily(1), ages[0],
		ratio("1000000/100/cached", fmt.Sprint(daily(ages[0]), "/100/cached")), ratio("1000000/100/whole", fmt.Sprint(daily(ages[0]), "/100/whole")),
		daily(ages[0]), daily(ages[1]), ages[0], ages[1])

	front := influxtest.LimitFiles(t, server.URL, "influxdb-3.8.3", 432)
	front.HoldsAt(dumpsOf(1e6), times)
	col, _ := costCollector(t, front.URL, 1e6, 100, ranges.Auto, costClock(end))
	scrapes, begin := 0, time.Now()
	for up := 0.0; up == 0; scrapes++ {
		up = gauges(scrapeWithin(t, col, 10*time.Second))["memdump_up"]
		if scrapes > 100 {
			t.Fatal("never whole")
		}
	}
	questions, refused := front.Asked()
	say("\nA start on 1e6 dumps behind a file limit of 432, with 10 s for a scrape: whole after %d scrape(s), %v, %d requests, %d of them refused.\n", scrapes, time.Since(begin).Round(10*time.Millisecond), questions, refused)

	say("\n%s\n", memory(t, 10_000, 32))
	if *costTable != "" {
		if err := os.WriteFile(*costTable, []byte(report.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func dumpsOf(n int) string       { return fmt.Sprint("dumps_", n) }
func telemetryOf(vms int) string { return fmt.Sprint("telemetry_", vms) }

// writeDumps writes n dumps spread over a span, and returns their times.
func writeDumps(t *testing.T, server *influxtest.Server, n int, span time.Duration, end time.Time) (times []int64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	written := max(1, int(float64(n)**costScale))
	lines := make(chan string, 1000)
	stored := store(t, server, lines)
	for i := range written {
		at := end.Add(-span).Add(time.Duration(float64(span) / float64(written) * (float64(i) + rng.Float64()))).UnixNano()
		times = append(times, at)
		vm := rng.IntN(costDumpVMs)
		lines <- fmt.Sprintf(`%s,dom=vm-%d,vmid=%d sha256="%016x%016x%016x%016x",duration_sec=%d.5,gzip_size_bytes=%di,ctime=%d,mtime=%d,atime=%d,dump_path="/var/lib/memdump/vm-%d/%d.gz" %d`,
			dumpsOf(n), vm, 1000+vm, rng.Uint64(), rng.Uint64(), rng.Uint64(), rng.Uint64(), 10+rng.IntN(100), rng.Int64N(1<<34), at/1e9, at/1e9, at/1e9, vm, at, at)
	}
	close(lines)
	stored.Wait()
	return times
}

func writeTelemetry(t *testing.T, server *influxtest.Server, vms int, end time.Time) {
	t.Helper()
	rng := rand.New(rand.NewPCG(uint64(vms), 2))
	lines := make(chan string, 1000)
	stored := store(t, server, lines)
	every := time.Duration(float64(5*time.Second) / *costScale)
	for at := end.Add(-24 * time.Hour); at.Before(end); at = at.Add(every) {
		for vm := range vms {
			lines <- fmt.Sprintf(`%s,VMID=%d,name=vm-%d,uuid=%08d-0000-4000-a000-000000000000 cpu=%d.5,mem=%d %d`, telemetryOf(vms), 1000+vm, vm, vm, rng.IntN(100), rng.IntN(1e6), at.UnixNano()+int64(vm))
		}
	}
	close(lines)
	stored.Wait()
}

// store writes what comes, two requests at a time.
func store(t *testing.T, server *influxtest.Server, lines <-chan string) *sync.WaitGroup {
	var writers sync.WaitGroup
	for range 2 {
		writers.Go(func() {
			batch := make([]string, 0, 5000)
			flush := func() {
				for try := 0; ; try++ { // its cache may be full until it has written a file
					err := server.Write(context.Background(), "cost", batch)
					if err == nil {
						break
					}
					if try > 60 {
						t.Error(err)
						break
					}
					time.Sleep(time.Second)
				}
				batch = batch[:0]
			}
			for line := range lines {
				if batch = append(batch, line); len(batch) == cap(batch) {
					flush()
				}
			}
			if len(batch) > 0 {
				flush()
			}
		})
	}
	return &writers
}

// settle waits until InfluxDB has nothing more to compact.
func settle(t *testing.T, server *influxtest.Server) {
	t.Helper()
	for quiet, waited := 0, 0; quiet < 5; waited++ {
		before := cpuOf(t, server.Pid())
		time.Sleep(2 * time.Second)
		if quiet++; cpuOf(t, server.Pid())-before > 100*time.Millisecond {
			quiet = 0
		}
		if waited > 300 {
			t.Fatal("InfluxDB does not come to rest")
		}
	}
}

// cpuOf is the CPU time of a process so far, in steps of 10 ms.
func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+2:]))
	ticks := 0
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func ownCPU(t *testing.T) time.Duration {
	t.Helper()
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		t.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// timed notes how long each request took.
type timed struct {
	*influx.Client
	mu    sync.Mutex
	count int
	worst time.Duration
}

func (d *timed) Query(ctx context.Context, q influx.Request, row func(influx.Row) error) error {
	begin := time.Now()
	err := d.Client.Query(ctx, q, row)
	took := time.Since(begin)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.count++
	d.worst = max(d.worst, took)
	return err
}

func costCollector(t *testing.T, url string, n, vms int, mode ranges.Mode, c *clock) (*collector.Collector, *timed) {
	t.Helper()
	db := &timed{Client: newClient(t, url, "cost")}
	col := collector.New(collector.Config{
		Database: db, DumpsMeasurement: dumpsOf(n), TelemetryMeasurement: telemetryOf(vms), TelemetryLookback: 24 * time.Hour,
		Ranges: mode, DumpsSettle: 24 * time.Hour, Logger: log.NewNopLogger(), Now: c.Now,
	})
	return col, db
}

type cost struct {
	wall, influxd, own     time.Duration // each of one scrape
	questions, overSlowest float64
}

func measure(t *testing.T, server *influxtest.Server, n, vms int, mode ranges.Mode, scrapes int, end time.Time) (c cost) {
	t.Helper()
	now := costClock(end)
	col, db := costCollector(t, server.URL, n, vms, mode, now)
	for range 3 {
		if up := gauges(scrapeWithin(t, col, time.Minute))["memdump_up"]; up != 1 {
			t.Fatalf("%d dumps, %d VMs, %s: %q", n, vms, mode, failed(col))
		}
		now.now = now.now.Add(costEvery)
	}
	runtime.GC()
	db.count = 0
	var walls, over []float64
	influxd, own := cpuOf(t, server.Pid()), ownCPU(t)
	for range scrapes {
		db.worst = 0
		begin := time.Now()
		families := scrapeWithin(t, col, time.Minute)
		wall := time.Since(begin)
		if gauges(families)["memdump_up"] != 1 {
			t.Fatal(failed(col))
		}
		walls = append(walls, float64(wall))
		over = append(over, float64(wall)/float64(db.worst))
		now.now = now.now.Add(costEvery)
	}
	return cost{
		wall:        time.Duration(median(walls)),
		influxd:     (cpuOf(t, server.Pid()) - influxd) / time.Duration(scrapes),
		own:         (ownCPU(t) - own) / time.Duration(scrapes),
		questions:   float64(db.count) / float64(scrapes),
		overSlowest: median(over),
	}
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// floor is what nothing can be quicker than: one trip to InfluxDB, one fixed answer.
func floor(t *testing.T, server *influxtest.Server) (trip, exposition time.Duration) {
	t.Helper()
	registry := prometheus.NewRegistry()
	for i := range 20 {
		registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: fmt.Sprint("fixed_", i), Help: "Fixed."}))
	}
	fixed := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	defer fixed.Close()
	time := func(url string) time.Duration {
		var took []float64
		for range 200 {
			begin := time.Now()
			resp, err := http.Get(url)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			took = append(took, float64(time.Since(begin)))
		}
		return time.Duration(median(took)).Round(time.Microsecond)
	}
	return time(server.URL + "/ping"), time(fixed.URL)
}
