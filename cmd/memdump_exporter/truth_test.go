package main

import (
	"context"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

// The six gauges whose truth the writer of the data knows, and the query that each comes
// from. A row that is new to the table has its golden in collector.
var gaugeOf = map[string]string{
	"dumps":            "memdump_dumps",
	"dumped_vms":       "memdump_dumped_vms",
	"compressed_bytes": "memdump_dumps_compressed_bytes",
	"duration_mean":    "memdump_dump_duration_mean_seconds",
	"last_dump":        "memdump_last_dump_timestamp_seconds",
	"monitored_vms":    "memdump_monitored_vms",
}

func execute(t *testing.T, server *influxtest.Server, statement string) {
	t.Helper()
	must(t, server.Exec(t.Context(), statement))
}

// expected is what /metrics must say, from what was written: a value for each gauge
// that has one, and a reason for each query that must fail.
type expected struct {
	values  map[string]float64 // by query
	reasons map[string]string  // by query
}

// truth is what is expected when nothing fails.
func truth(h *influxtest.History) expected {
	return expected{values: h.Truth(time.Now().UnixNano(), 24*time.Hour).Figures()}
}

// but is what is expected when the queries named fail for a reason.
func (e expected) but(reason string, queries ...string) expected {
	e = expected{maps.Clone(e.values), maps.Clone(e.reasons)}
	if e.reasons == nil {
		e.reasons = make(map[string]string)
	}
	for _, query := range queries {
		delete(e.values, query)
		e.reasons[query] = reason
	}
	return e
}

// allFail is what is expected when no query can succeed.
func allFail(reason string) expected {
	return expected{}.but(reason, slices.Collect(maps.Keys(gaugeOf))...)
}

// holds compares the first scrape of an exporter with what is expected: every gauge,
// memdump_up, every memdump_query_success, and the reasons of what failed.
func (e expected) holds(t *testing.T, got families) {
	t.Helper()
	e.shown(t, got)
	reasons := make(map[string]string)
	for failure := range got.failures() {
		if query, reason, _ := strings.Cut(failure, "/"); gaugeOf[query] != "" {
			reasons[query] = reason
		}
	}
	if len(e.reasons) > 0 && !maps.Equal(reasons, e.reasons) {
		t.Errorf("failed for %v, want %v", reasons, e.reasons)
	}
}

// shown compares all but the counters.
func (e expected) shown(t *testing.T, got families) {
	t.Helper()
	want := make(map[string]float64)
	for query, gauge := range gaugeOf {
		if value, ok := e.values[query]; ok {
			want[gauge] = value
		}
		_, fails := e.reasons[query]
		want[`memdump_query_success{query="`+query+`"}`] = map[bool]float64{true: 0, false: 1}[fails]
	}
	want["memdump_up"] = map[bool]float64{true: 1, false: 0}[len(e.reasons) == 0]
	names := slices.AppendSeq([]string{"memdump_up", "memdump_query_success"}, maps.Values(gaugeOf))
	seen := got.gauges(names...)
	maps.DeleteFunc(seen, func(series string, _ float64) bool {
		_, query, ofQuery := strings.Cut(series, "{query=")
		return ofQuery && gaugeOf[strings.Trim(query, `"}`)] == ""
	})
	for series, value := range want {
		if s, ok := seen[series]; !ok {
			t.Errorf("%s is not there, want %v", series, value)
		} else if s != value {
			t.Errorf("%s is %v, want %v", series, s, value)
		}
	}
	for series, value := range seen {
		if _, ok := want[series]; !ok {
			t.Errorf("%s is %v, want it not to be there", series, value)
		}
	}
}

func dump(vmid string, at time.Time, fields map[string]any) influxtest.Point {
	return influxtest.Point{Measurement: influxtest.Dumps, Tags: map[string]string{"dom": "dom-" + vmid, "vmid": vmid}, Fields: fields, TimeNs: at.UnixNano()}
}

func sample(vmid string, at time.Time, fields map[string]any) influxtest.Point {
	return influxtest.Point{Measurement: influxtest.Telemetry, Tags: map[string]string{"VMID": vmid, "name": "dom-" + vmid, "uuid": "u"}, Fields: fields, TimeNs: at.UnixNano()}
}

func first(bytes int64) map[string]any {
	return map[string]any{"sha256": "ab", "duration_sec": 2.5, "gzip_size_bytes": bytes, "ctime": 1, "mtime": 1.5, "dump_path": "/d"}
}

func second() map[string]any {
	return map[string]any{"sha256": "cd", "ok": true, "raw_size_bytes": 4e9, "dump_duration_sec": 9.0, "loop": 3, "every_sec": 60.0}
}

// TestTruth holds the built exporter on a real InfluxDB against what was written.
func TestTruth(t *testing.T) {
	server := influxdb.Server(t)
	now := time.Now()
	monitored := []influxtest.Point{sample("1", now.Add(-time.Minute), map[string]any{"cpu": 1.0})}
	of := func(points ...influxtest.Point) *influxtest.History {
		h := &influxtest.History{}
		h.Add(points...)
		return h
	}
	both := func(points ...influxtest.Point) *influxtest.History { return of(append(points, monitored...)...) }
	gone := dump("1", now.Add(-time.Hour), first(5))
	dumpQueries := []string{"dumps", "dumped_vms", "compressed_bytes", "duration_mean", "last_dump"}

	for name, tt := range map[string]struct {
		history *influxtest.History // what the database holds when it is asked; nil: there is no database
		written []influxtest.Point  // and deleted again before that
		want    func(expected) expected
		args    []string
	}{
		"no database":    {want: func(expected) expected { return allFail("database_not_found") }},
		"empty database": {history: of(), want: func(expected) expected { return allFail("measurement_missing") }},
		"one point": {history: of(dump("1", now, first(5))),
			want: func(e expected) expected { return e.but("measurement_missing", "monitored_vms") }},
		"telemetry alone": {history: of(monitored...),
			want: func(e expected) expected { return e.but("measurement_missing", dumpQueries...) }},
		// The other point keeps the measurement and its fields in InfluxDB's books.
		"measurement without rows": {history: both(dump("2", now, map[string]any{"other": 1})), written: []influxtest.Point{gone}},
		"believable history":       {history: influxtest.Believable(7, now)},
		"believable, in ranges":    {history: influxtest.Believable(8, now), args: []string{"--influx.ranges=cached"}},
		"believable, whole":        {history: influxtest.Believable(9, now), args: []string{"--influx.ranges=whole"}},
		"without vmid":             {history: both(dump("", now, first(5)), dump("1", now, first(6)))},
		"no vmid at all":           {history: both(dump("", now, first(5)))},
		"without sha256": {history: both(dump("1", now, first(5)),
			dump("2", now.Add(time.Second), map[string]any{"duration_sec": 4.0, "gzip_size_bytes": 7}))},
		"both writers": {history: both(dump("1", now.Add(-time.Hour), first(5)), dump("2", now, second()))},
		"second writer alone": {history: both(dump("2", now, second())),
			want: func(e expected) expected { return e.but("field_missing", "compressed_bytes", "duration_mean") }},
		"equal times":     {history: both(dump("1", now, first(5)), dump("2", now, first(6)), dump("3", now, second()))},
		"in the future":   {history: both(dump("1", now.Add(30*24*time.Hour), first(5)), dump("2", now, first(6)))},
		"before 1970":     {history: both(dump("1", time.Unix(-1e9, 0), first(5)))},
		"sum beyond 2^53": {history: both(dump("1", now, first(1<<53)), dump("2", now, first(3)), dump("3", now, first(1<<53+1)))},
		"sum up to 2^63":  {history: both(dump("1", now, first(math.MaxInt64-9)), dump("2", now, first(9)))},
		"sum beyond 2^63": {history: both(dump("1", now, first(math.MaxInt64)), dump("2", now, first(9))),
			want: func(e expected) expected { return e.but("out_of_range", "compressed_bytes") }},
		"different fields": {history: of(dump("1", now, first(5)),
			sample("1", now.Add(-time.Hour), map[string]any{"cpu": 1.0}), sample("2", now.Add(-2*time.Hour), map[string]any{"mem": 2.0}),
			sample("3", now.Add(-23*time.Hour), map[string]any{"disk": 3.0}), sample("4", now.Add(-25*time.Hour), map[string]any{"cpu": 1.0}),
			sample("", now.Add(-time.Hour), map[string]any{"cpu": 1.0}))},
		"nobody monitored now": {history: of(dump("1", now, first(5)), sample("1", now.Add(-25*time.Hour), map[string]any{"cpu": 1.0}))},
		"hostile names":        {history: both(dump(`a"b'c\d,e f=g`, now, first(5)), dump("ünï-日本", now, first(6)), dump(`;DROP DATABASE x--`, now, first(7)))},
	} {
		t.Run(name, func(t *testing.T) {
			database := "db " + name
			var want expected
			if tt.history != nil {
				server.MustStore(t, database, tt.history)
				want = truth(tt.history)
			}
			if tt.written != nil {
				h := of(tt.written...)
				must(t, server.Write(t.Context(), database, h.Lines()))
				must(t, server.ExecIn(t.Context(), database, `DELETE FROM "mem_dumps" WHERE "vmid" = '1'`))
			}
			if tt.want != nil {
				want = tt.want(want)
			}
			want.holds(t, startExporter(t, []string{"INFLUX_URL=" + server.URL, "INFLUX_DB=" + database}, tt.args...).scrape(t))
		})
	}
}

// TestTruth_otherNames: measurements are configuration, and quoted whatever they hold.
func TestTruth_otherNames(t *testing.T) {
	server := influxdb.Server(t)
	h := &influxtest.History{}
	p := dump("1", time.Now(), first(5))
	h.Add(p)
	want := truth(h).but("measurement_missing", "monitored_vms")
	p.Measurement = `my "dumps", 'here'`
	execute(t, server, `CREATE DATABASE "names"`)
	must(t, server.Write(t.Context(), "names", []string{p.Line()}))
	e := startExporter(t, nil, "--influx.url="+server.URL, "--influx.db=names", "--dumps.measurement="+p.Measurement, `--telemetry.measurement=vm_info" WHERE 1=1`)
	want.holds(t, e.scrape(t))
}

// TestTruth_awayAndBack: within one scrape the figures go with the database, and come back with it.
func TestTruth_awayAndBack(t *testing.T) {
	server := influxtest.MustStart(t)
	h := influxtest.Believable(3, time.Now())
	server.MustStore(t, "vmstats", h)
	e := startExporter(t, []string{"INFLUX_URL=" + server.URL})
	truth(h).holds(t, e.scrape(t))
	for _, step := range []struct {
		name   string
		away   func() error
		back   func() error
		reason string
	}{
		{"stopped", server.Stop, func() error { return server.Start(t.Context()) }, "unreachable"},
		{"crashed", server.Kill, func() error { return server.Start(t.Context()) }, "unreachable"},
		{"hangs", func() error { return syscall.Kill(server.Pid(), syscall.SIGSTOP) },
			func() error { return syscall.Kill(server.Pid(), syscall.SIGCONT) }, "timeout"},
	} {
		must(t, step.away())
		begin := time.Now()
		gone := e.scrape(t, "X-Prometheus-Scrape-Timeout-Seconds", "2")
		if took := time.Since(begin); took >= 2*time.Second {
			t.Errorf("%s: answered in %v to a scraper that waits 2 s", step.name, took)
		}
		checkAway(t, step.name, gone, step.reason)
		must(t, step.back())
		truth(h).shown(t, e.scrape(t))
	}
}

func checkAway(t *testing.T, step string, got families, reason string) {
	t.Helper()
	t.Run(step, func(t *testing.T) {
		allFail(reason).shown(t, got)
		for query := range gaugeOf {
			if failure := query + "/" + reason; got.failures()[failure] == 0 {
				t.Errorf("no failure is counted as %s", failure)
			}
		}
	})
}

// front stands before InfluxDB, and answers some questions itself, byte for byte.
type front struct {
	*httptest.Server
	connections atomic.Int64
	passed      chan struct{} // one for each answer of InfluxDB's, when there is room

	mu       sync.Mutex
	requests []*http.Request
	on       []string // parts of the questions, or paths, that are answered here
	answer   script
	asked    int   // how often these were
	sent     int64 // bytes of the longest of the answers
}

// script writes whatever it likes; then the connection is closed.
type script func(conn *countingConn, r *http.Request)

type countingConn struct {
	*net.TCPConn
	sent int64
}

func (c *countingConn) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	c.sent += int64(n)
	return n, err
}

// sumQuestion is part of one of the six.
const sumQuestion = `SUM("gzip_size_bytes")`

func newFront(t *testing.T, influxdb string) *front {
	t.Helper()
	proxy := influxtest.Forward(t, influxdb)
	f := &front{passed: make(chan struct{}, 100)}
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := f.match(r)
		if answer == nil {
			proxy.ServeHTTP(w, r)
			select {
			case f.passed <- struct{}{}:
			default:
			}
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		counting := &countingConn{TCPConn: conn.(*net.TCPConn)}
		answer(counting, r)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.sent = max(f.sent, counting.sent)
	}))
	f.Config.ConnState = countNew(&f.connections)
	f.Start()
	t.Cleanup(f.Close)
	return f
}

func (f *front) match(r *http.Request) script {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests[max(0, len(f.requests)-99):], r.Clone(context.Background()))
	if f.answer == nil || !slices.ContainsFunc(f.on, func(part string) bool {
		return part == r.URL.Path || strings.Contains(r.URL.Query().Get("q"), part)
	}) {
		return nil
	}
	f.asked++
	return f.answer
}

// set changes what is answered to which questions, and returns how often it was, and how
// many bytes were taken at most.
func (f *front) set(answer script, on ...string) (asked int, sent int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	asked, sent = f.asked, f.sent
	f.answer, f.on, f.asked, f.sent = answer, on, 0, 0
	return asked, sent
}

// hold leaves questions without an answer until the exporter leaves, and tells of each.
func (f *front) hold(part string) (held chan struct{}) {
	held = make(chan struct{}, 100)
	f.set(func(conn *countingConn, _ *http.Request) {
		held <- struct{}{}
		_, _ = io.Copy(io.Discard, conn)
	}, part)
	return held
}

// taken returns the requests since the last call.
func (f *front) taken() []*http.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	requests := f.requests
	f.requests = nil
	return requests
}

// TestScrape_cost: one request for each query of a scrape and one ping in all, over kept
// connections.
func TestScrape_cost(t *testing.T) {
	server := influxdb.Server(t)
	server.MustStore(t, "vmstats", influxtest.Believable(5, time.Now()))
	w := newFront(t, server.URL)
	// An existing deployment's environment and nothing else.
	e := startExporter(t, []string{"INFLUX_URL=" + w.URL, "INFLUX_DB=vmstats", "INFLUX_TOKEN=s3cr3t"})
	queries := 0
	for i := range 4 {
		got := e.scrape(t)
		if up := got.value("memdump_up"); up != 1 {
			t.Fatalf("memdump_up is %v", up)
		}
		queries = len(got["memdump_query_success"].GetMetric())
		requests, others := 0, 0
		for _, r := range w.taken() {
			if r.URL.Path == "/query" {
				requests++
			} else {
				others++
			}
			// influxtest, recording auth: what 3.x takes, and what 2.x takes once /ping has told that it is one.
			if got := r.Header.Get("Authorization"); got != "Bearer s3cr3t" {
				t.Errorf("%s %s with %q", r.Method, r.URL.Path, got)
			}
		}
		if want := map[bool]int{true: 1, false: 0}[i == 0]; requests != queries || others != want {
			t.Errorf("scrape %d: %d requests for %d queries, and %d others, want %d", i, requests, queries, others, want)
		}
	}
	if n := int(w.connections.Load()); n > queries+1 || queries < len(gaugeOf) {
		t.Errorf("%d connections for four scrapes of %d queries", n, queries)
	}
}

// TestScrape_oneHangs: one question without an answer costs its own gauge alone.
func TestScrape_oneHangs(t *testing.T) {
	server := influxdb.Server(t)
	h := influxtest.Believable(5, time.Now())
	server.MustStore(t, "vmstats", h)
	w := newFront(t, server.URL)
	w.hold(sumQuestion)
	e := startExporter(t, []string{"INFLUX_URL=" + w.URL})
	begin := time.Now()
	got := e.scrape(t, "X-Prometheus-Scrape-Timeout-Seconds", "2")
	if took := time.Since(begin); took >= 2*time.Second {
		t.Errorf("answered in %v to a scraper that waits 2 s", took)
	}
	truth(h).but("timeout", "compressed_bytes").holds(t, got)
}

func countNew(n *atomic.Int64) func(net.Conn, http.ConnState) {
	return func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			n.Add(1)
		}
	}
}
