//go:build bench && unix

package collector_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"

	"memdump_exporter/collector"
	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// The cost of a scrape on every real InfluxDB that runs on this machine. `make bench` writes the
// tables.
var (
	costTable  = flag.String("cost.table", "", "file to write the tables to")
	costDumps  = flag.Int("cost.dumps", 1_000_000, "the largest number of dumps")
	costVMs    = flag.Int("cost.vms", 1000, "the largest number of VMs with telemetry, on the first server; 100 on the others")
	costFronts = flag.Bool("cost.fronts", true, "measure behind a front with the costs of InfluxDB 3")
)

const (
	costYear     = 365 * 24 * time.Hour
	costInterval = 15 * time.Second // between two scrapes, by the exporter's clock
	costDumpVMs  = 500
	costDatabase = "cost"
	costTimeout  = 10 * time.Second // of a scrape
	// costPerFile is what InfluxDB 3 Core 3.6.0 takes for each Parquet file, and costFileLimit
	// how many it reads.
	costPerFile   = 750 * time.Microsecond
	costFileLimit = 432
)

// costReport is the text of the table.
type costReport struct {
	t    *testing.T
	text strings.Builder
}

func (r *costReport) add(format string, args ...any) {
	fmt.Fprintf(&r.text, format+"\n", args...)
	r.t.Logf(format, args...)
}

func TestCost(t *testing.T) {
	report := &costReport{t: t}
	report.add("Written by `make bench` on %s, %s/%s, %d cores, %s. It is one run on one machine, so read the ratios. "+
		"Dumps of %d VMs over a year; telemetry every 5 s for 24 h; a scrape each 15 s by the exporter's clock. "+
		"The peer sends the six statements of the Python service in one request, as json_exporter does.\n",
		time.Now().UTC().Format(time.DateOnly), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version(), costDumpVMs)
	specs, missing, err := influxtest.Available(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	for i, spec := range specs {
		maxVMs := *costVMs
		if i > 0 { // a day of a thousand VMs is 17 million points
			maxVMs = min(maxVMs, 100)
		}
		t.Run(spec.Name, func(t *testing.T) { costOfServer(t, report, spec, maxVMs) })
	}
	for _, line := range missing {
		report.add("Not measured: %s.", line)
	}
	if *costFronts {
		t.Run("file limit", func(t *testing.T) { costBehindLimit(t, report, specs[0]) })
	}
	if *costTable == "" {
		return
	}
	page, err := os.ReadFile(*costTable)
	if err != nil {
		t.Fatal(err)
	}
	const begin = "<!-- make bench -->\n"
	text, _, found := strings.Cut(string(page), begin)
	if !found {
		t.Fatalf("%s has no line %q", *costTable, begin)
	}
	if err := os.WriteFile(*costTable, []byte(text+begin+report.text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// costOfServer measures steady scrapes and their peer on one server.
func costOfServer(t *testing.T, report *costReport, spec influxtest.ServerSpec, maxVMs int) {
	server := spec.MustStart(t)
	end := time.Now()
	if err := server.CreateDatabase(t.Context(), costDatabase); err != nil {
		t.Fatal(err)
	}
	var sizes, fleets []int
	for n := 1000; n <= *costDumps; n *= 10 {
		sizes = append(sizes, n)
		writeDumps(t, server, n, costYear, end)
	}
	for n := 100; n <= maxVMs; n *= 10 {
		fleets = append(fleets, n)
		writeTelemetry(t, server, n, 24*time.Hour, end)
	}
	awaitRest(t, server)
	report.add("\n## InfluxDB %s\n", spec.Name)
	report.add("| dumps | VMs with telemetry | first scrape | a scrape, p50 | InfluxDB's CPU | our CPU | requests | settled ranges | " +
		"peer, p50 | its InfluxDB CPU | CPU, ours / peer's |")
	report.add("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	row := func(dumps, vms int) {
		c := measureCost(t, server, dumps, vms, end)
		report.add("| %d | %d | %v | %v | %v | %v | %.1f | %d | %v | %v | %.2f |",
			dumps, vms, c.first.Round(time.Millisecond), c.wall.Round(10*time.Microsecond),
			c.influxd.Round(10*time.Microsecond), c.own.Round(10*time.Microsecond), c.requests, c.ranges, c.peer.Round(10*time.Microsecond),
			c.peerCPU.Round(10*time.Microsecond), float64(c.influxd)/float64(c.peerCPU))
	}
	for _, n := range sizes {
		row(n, fleets[0])
	}
	for _, n := range fleets[1:] {
		row(sizes[0], n)
	}
}

// cost is the cost of one scrape.
type cost struct {
	first, wall, influxd, own time.Duration
	requests                  float64
	ranges                    int
	peer, peerCPU             time.Duration
}

func measureCost(t *testing.T, server *influxtest.Server, dumps, vms int, end time.Time) (c cost) {
	t.Helper()
	now := &costClock{now: end.Add(-time.Hour)}
	e, db := costExporter(t, server.URL, server.Token, dumpsOf(dumps), telemetryOf(vms), now)
	handler := e.Handler(collector.HandlerConfig{Self: prometheus.NewRegistry(), Timeouts: collector.Timeouts{Default: time.Minute}})
	begin := time.Now()
	costScrape(t, handler)
	c.first = time.Since(begin)
	// The history, where it is used, has been loaded by the end of the second scrape.
	for range 5 {
		now.advance(costInterval)
		costScrape(t, handler)
	}
	runtime.GC()
	db.requests.Store(0)
	scrapes := 40
	var walls []time.Duration
	influxd, own := cpuOf(t, server.Pid()), ownCPU(t)
	for range scrapes {
		begin := time.Now()
		costScrape(t, handler)
		walls = append(walls, time.Since(begin))
		now.advance(costInterval)
	}
	c.wall = costMedian(walls)
	c.influxd = (cpuOf(t, server.Pid()) - influxd) / time.Duration(scrapes)
	c.own = (ownCPU(t) - own) / time.Duration(scrapes)
	c.requests = float64(db.requests.Load()) / float64(scrapes)
	for _, h := range e.Histories() {
		if !h.Full {
			c.ranges += h.Ranges
		}
	}
	c.peer, c.peerCPU = measurePeer(t, server, dumps, vms, end)
	return c
}

// measurePeer sends the six statements in one request.
func measurePeer(t *testing.T, server *influxtest.Server, dumps, vms int, end time.Time) (wall, influxd time.Duration) {
	t.Helper()
	d, v := strconv.Quote(dumpsOf(dumps)), strconv.Quote(telemetryOf(vms))
	statements := []string{
		"SELECT COUNT(sha256) FROM " + d,
		`SELECT COUNT(s) FROM (SELECT LAST(sha256) AS s FROM ` + d + ` GROUP BY vmid)`,
		"SELECT SUM(gzip_size_bytes) FROM " + d,
		"SELECT MEAN(duration_sec) FROM " + d,
		"SELECT LAST(sha256) FROM " + d,
		fmt.Sprintf(`SELECT COUNT(c) FROM (SELECT LAST(cpu) AS c FROM %s WHERE time > %d GROUP BY "VMID")`, v, end.Add(-25*time.Hour).UnixNano()),
	}
	target := server.URL + "/query?" + url.Values{"db": {costDatabase}, "q": {strings.Join(statements, ";")}}.Encode()
	const requests = 10
	var walls []time.Duration
	before := cpuOf(t, server.Pid())
	for range requests {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		if server.Token != "" {
			request.Header.Set("Authorization", "Token "+server.Token)
		}
		begin := time.Now()
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || strings.Contains(string(body), `"error"`) {
			t.Fatalf("the peer's request failed: %v: %.300s", err, body)
		}
		walls = append(walls, time.Since(begin))
	}
	return costMedian(walls), (cpuOf(t, server.Pid()) - before) / requests
}

// costBehindLimit measures the start behind a proxy with the file limit of InfluxDB 3 Core and its time
// for each file.
func costBehindLimit(t *testing.T, report *costReport, spec influxtest.ServerSpec) {
	server := spec.MustStart(t)
	end := time.Now()
	if err := server.CreateDatabase(t.Context(), costDatabase); err != nil {
		t.Fatal(err)
	}
	report.add("\n## Behind a front that costs what InfluxDB 3 Core 3.6.0 does\n")
	report.add("A file limit of %d, %v for each file that a request reads, one request a core; in front of a real InfluxDB %s. "+
		"One dump in each ten minutes. Scrapes have %v and come one a minute, or when the one before has ended.\n",
		costFileLimit, costPerFile, spec.Name, costTimeout)
	report.add("| dumps over | files | telemetry | complete with scrape | after | files' cost until then | requests | rejected | " +
		"our memory | a later scrape | its files' cost |")
	report.add("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, c := range []struct {
		name string
		days int
		vms  int
	}{
		{"35 days", 35, 0}, {"35 days", 35, 100}, {"a year", 365, 0},
	} {
		n := c.days * 144
		measurement := fmt.Sprint("every_ten_minutes_", c.days)
		times := writeRegularDumps(t, server, measurement, n, end)
		front := influxtest.LimitFiles(t, server.URL, "influxdb-3.6.0", costFileLimit)
		front.SetCost(costPerFile)
		front.HoldsAt(measurement, times)
		telemetry := telemetryOf(max(c.vms, 1))
		if c.vms > 0 {
			writeTelemetry(t, server, c.vms, 24*time.Hour, end)
			front.HoldsAt(telemetry, everyTenMinutes(24*time.Hour, end))
		} else {
			writeTelemetry(t, server, 1, time.Hour, end)
		}
		now := &costClock{now: end.Add(-time.Minute)}
		e, _ := costExporter(t, front.URL, server.Token, measurement, telemetry, now)
		timeouts := collector.Timeouts{Default: costTimeout, Offset: 500 * time.Millisecond}
		handler := e.Handler(collector.HandlerConfig{Self: prometheus.NewRegistry(), Timeouts: timeouts})
		begin, scrapes := time.Now(), 1
		for ; tryScrape(t, handler)["memdump_up"] != 1; scrapes++ {
			if time.Since(begin) > 10*time.Minute {
				t.Fatalf("%s: not complete", c.name)
			}
			now.advance(time.Second)
		}
		took, spent := time.Since(begin), front.Spent()
		requests, rejected := front.Queries()
		memory := heapInUse()
		now.advance(time.Minute)
		costScrape(t, handler)
		now.advance(time.Minute)
		before, beginLater := front.Spent(), time.Now()
		costScrape(t, handler)
		later := time.Since(beginLater)
		report.add("| %s | %d | %d VMs | %d | %v | %v | %d | %d | %.1f MiB | %v | %v |",
			c.name, n, c.vms, scrapes, took.Round(10*time.Millisecond), spent.Round(10*time.Millisecond), requests, rejected,
			float64(memory)/(1<<20), later.Round(time.Millisecond), (front.Spent() - before).Round(time.Millisecond))
		e.Close()
	}
}

func heapInUse() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapInuse
}

// costClock is a clock that tests advance.
type costClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *costClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *costClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// countingDatabase counts requests.
type countingDatabase struct {
	*influx.Client
	requests atomic.Int64
}

func (d *countingDatabase) Rows(ctx context.Context, r influx.Request) iter.Seq2[influx.Row, error] {
	d.requests.Add(1)
	return d.Client.Rows(ctx, r)
}

func costExporter(t *testing.T, url, token, dumps, telemetry string, now *costClock) (*collector.Exporter, *countingDatabase) {
	t.Helper()
	config := influx.Config{URL: url, Database: costDatabase, UserAgent: "bench", Transport: influx.NewTransport(nil)}
	if token != "" {
		config.Token = func() (string, error) { return token, nil }
	}
	client, err := influx.New(config)
	if err != nil {
		t.Fatal(err)
	}
	db := &countingDatabase{Client: client}
	e := collector.New(collector.Config{
		Database: db, DumpsMeasurement: dumps, TelemetryMeasurements: []string{telemetry}, TelemetryLookback: 24 * time.Hour,
		DumpsAllowedLateness: 24 * time.Hour, TelemetryAllowedLateness: 5 * time.Minute, Logger: log.NewNopLogger(), Now: now.Now,
	})
	t.Cleanup(e.Close)
	return e, db
}

func costScrape(t *testing.T, handler http.Handler) {
	t.Helper()
	if up := tryScrape(t, handler)["memdump_up"]; up != 1 {
		t.Fatalf("memdump_up %v", up)
	}
}

// tryScrape returns the metrics without labels.
func tryScrape(t *testing.T, handler http.Handler) map[string]float64 {
	t.Helper()
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	metrics := make(map[string]float64)
	for line := range strings.Lines(w.Body.String()) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			metrics[name] = v
		}
	}
	return metrics
}

func costMedian(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

func dumpsOf(n int) string       { return fmt.Sprint("dumps_", n) }
func telemetryOf(vms int) string { return fmt.Sprint("telemetry_", vms) }

// writeDumps writes n dumps spread over a period.
func writeDumps(t *testing.T, server *influxtest.Server, n int, period time.Duration, end time.Time) {
	t.Helper()
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	writeLines(t, server, func(yield func(string) bool) {
		for i := range n {
			at := end.Add(-period).Add(time.Duration(float64(period) / float64(n) * (float64(i) + rng.Float64()))).UnixNano()
			if !yield(dumpLine(dumpsOf(n), rng.IntN(costDumpVMs), at, rng)) {
				return
			}
		}
	})
}

// writeRegularDumps writes a dump for each ten minutes, and returns their times.
func writeRegularDumps(t *testing.T, server *influxtest.Server, measurement string, n int, end time.Time) []int64 {
	t.Helper()
	rng := rand.New(rand.NewPCG(uint64(n), 3))
	times := everyTenMinutes(time.Duration(n)*10*time.Minute, end)
	writeLines(t, server, func(yield func(string) bool) {
		for i, at := range times {
			if !yield(dumpLine(measurement, i%costDumpVMs, at, rng)) {
				return
			}
		}
	})
	return times
}

func everyTenMinutes(period time.Duration, end time.Time) (times []int64) {
	for at := end.Add(-period); at.Before(end); at = at.Add(10 * time.Minute) {
		times = append(times, at.UnixNano())
	}
	return times
}

func dumpLine(measurement string, vm int, at int64, rng *rand.Rand) string {
	return fmt.Sprintf(`%s,dom=vm-%d,vmid=%d sha256="%016x%016x%016x%016x",duration_sec=%d.5,gzip_size_bytes=%di,`+
		`ctime=%d,mtime=%d,atime=%d,dump_path="/var/lib/memdump/vm-%d/%d.gz" %d`,
		measurement, vm, 1000+vm, rng.Uint64(), rng.Uint64(), rng.Uint64(), rng.Uint64(), 10+rng.IntN(100), rng.Int64N(1<<34),
		at/1e9, at/1e9, at/1e9, vm, at, at)
}

func writeTelemetry(t *testing.T, server *influxtest.Server, vms int, period time.Duration, end time.Time) {
	t.Helper()
	rng := rand.New(rand.NewPCG(uint64(vms), 2))
	writeLines(t, server, func(yield func(string) bool) {
		for at := end.Add(-period); at.Before(end); at = at.Add(5 * time.Second) {
			for vm := range vms {
				if !yield(fmt.Sprintf(`%s,VMID=%d,name=vm-%d,uuid=%08d-0000-4000-a000-000000000000 cpu=%d.5,mem=%d %d`,
					telemetryOf(vms), 1000+vm, vm, vm, rng.IntN(100), rng.IntN(1e6), at.UnixNano()+int64(vm))) {
					return
				}
			}
		}
	})
}

// writeLines writes lines in batches. InfluxDB rejects a write while its cache is full: the
// write is repeated.
func writeLines(t *testing.T, server *influxtest.Server, lines iter.Seq[string]) {
	t.Helper()
	const maxTries = 60
	for batch := range batches(lines, 5000) {
		var err error
		for try := 0; try < maxTries; try++ {
			if err = server.Write(t.Context(), costDatabase, batch); err == nil {
				break
			}
			awaitRest(t, server)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func batches(lines iter.Seq[string], size int) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		batch := make([]string, 0, size)
		for line := range lines {
			if batch = append(batch, line); len(batch) == size {
				if !yield(batch) {
					return
				}
				batch = batch[:0]
			}
		}
		if len(batch) > 0 {
			yield(batch)
		}
	}
}

// awaitRest waits until InfluxDB has finished its compactions: until it uses less than a tenth of a core
// for ten seconds, but no longer than five minutes.
func awaitRest(t *testing.T, server *influxtest.Server) {
	t.Helper()
	ticker := time.NewTicker(2 * time.Second)
	defer ticker.Stop()
	for quiet, waited := 0, 0; quiet < 5 && waited < 150; waited++ {
		before := cpuOf(t, server.Pid())
		<-ticker.C
		if quiet++; cpuOf(t, server.Pid())-before > 200*time.Millisecond {
			quiet = 0
		}
	}
}

// cpuOf returns the CPU time of a process so far, in steps of 10 ms.
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
