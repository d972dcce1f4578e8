package collector

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"memdump_exporter/collector/rangecache"
	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// scenario is a recorded situation.
type scenario struct {
	// recording is the name of the recordings.
	recording string
	// servers are those of which it must be recorded: whichever lacks a response fails.
	servers []string
	// dumps is the time range of the dumps that the queries request.
	dumps rangecache.Range
	// data is the recording with the lines that were written.
	data string
	// wraps is true if the server wraps sums beyond 64 bits, so that the lines have no truth.
	wraps bool
}

// runnable are the servers that can run on this machine. With -record, their missing responses are
// recorded. The recordings of InfluxDB 3 came with the project.
var runnable = []string{"influxdb-1.7.11", "influxdb-1.13.2", "influxdb-2.7.12"}

// tomorrow is the recorded time range without rows.
var tomorrow = rangecache.Range{From: 1762943400e9, To: 1763029800e9}

var scenarios = map[string]scenario{
	"writers":         {recording: "writers", servers: influxtest.Servers(), dumps: rangecache.All},
	"writers-bounded": {recording: "writers", servers: influxtest.Servers(), dumps: rangecache.Range{From: 1761129000e9, To: 1762770600e9}},
	// On InfluxDB 3: TestRecordings_schemas.
	"schemas":          {recording: "schemas", servers: runnable, dumps: rangecache.All},
	"no-database":      {recording: "no-database", servers: runnable, dumps: rangecache.All},
	"empty-database":   {recording: "empty-database", servers: runnable, dumps: rangecache.All},
	"one-point":        {recording: "one-point", servers: runnable, dumps: rangecache.All},
	"no-rows-in-range": {recording: "no-rows-in-range", servers: runnable, dumps: tomorrow, data: "one-point"},
	"traps":            {recording: "traps", servers: runnable, dumps: rangecache.All},
	"edges":            {recording: "edges", servers: runnable, dumps: rangecache.All, wraps: true},
}

// TestRecordings replays each situation from each server. The servers share one golden file,
// as they share one truth.
func TestRecordings(t *testing.T) {
	for name, s := range scenarios {
		for _, server := range s.servers {
			t.Run(name+"/"+server, func(t *testing.T) {
				if *record {
					recordMissing(t, server, s)
				}
				got := replayed(t, server, s)
				compareGolden(t, name+".metrics", got.comparable(t))
				if !s.wraps && s.recording != "schemas" {
					wantTruth(t, got, server, s)
				}
			})
		}
	}
}

// replayed returns the response of /metrics with the recordings. A missing recording is an error.
func replayed(t *testing.T, server string, s scenario) exposition {
	t.Helper()
	got, missing := tryReplay(t, server, s)
	for _, statement := range missing {
		t.Errorf("%s: no recording of %s has %s", server, s.recording, statement)
	}
	if t.Failed() {
		t.Fatal("go test ./collector -run Recordings -record -update records from the servers that run here")
	}
	return got
}

func tryReplay(t *testing.T, server string, s scenario) (got exposition, missing []string) {
	t.Helper()
	replay := influxtest.Serve(t, recordings(t, server, s)...)
	synctest.Test(t, func(t *testing.T) { // a slow machine must not turn a full query into a slow one
		client := newClientOver(t, inMemory{replay}, influx.Config{URL: "http://memory", Database: databaseOf(t, server, s)})
		e := newExporter(t, client)
		got = bounded(t, e, s.dumps)
	})
	missing = replay.UnknownStatements()
	slices.Sort(missing)
	return got, slices.Compact(missing)
}

// bounded returns the response of /metrics as if there were dumps in a time range only.
func bounded(t *testing.T, e *Exporter, r rangecache.Range) exposition {
	t.Helper()
	b := e.newBatch(t.Context(), time.Now().Add(time.Minute))
	if r != rangecache.All {
		_ = b.views[dumps].once.do(func() error { return nil })
		b.views[dumps].view = view{settled: newAggregate(), open: []rangecache.Range{r}, relevant: r, ranges: 1}
	}
	b.execute(e.record, func() {})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(snapshot{b})
	h := &handler{exporter: e, config: HandlerConfig{Self: prometheus.NewRegistry()}}
	return parseExposition(t, h.encodeOnce(b, encodingKey{}).body.String())
}

// wantTruth compares metrics with the truth of the lines, as their writer recorded it.
func wantTruth(t *testing.T, got exposition, server string, s scenario) {
	t.Helper()
	h := historyOf(t, written(t, server, s)...)
	if s.dumps != rangecache.All {
		h.Delete(influxtest.Dumps, rangecache.All.From, s.dumps.From)
		h.Delete(influxtest.Dumps, s.dumps.To, rangecache.All.To)
	}
	want := truth(h, recordedNow)
	if len(h.Points(influxtest.Dumps)) == 0 && s.data == "" {
		want = nil // there is no measurement
	}
	if len(h.MonitoredDomains(recordedNow.UnixNano(), 24*time.Hour)) == 0 {
		maps.DeleteFunc(want, func(name string, _ float64) bool {
			return strings.HasPrefix(name, "memdump_monitored_") || strings.HasPrefix(name, "memdump_vms_")
		})
	}
	got.wantTable(t, want)
	wantPerVM(t, got, h.DumpsByDomain())
	if s.dumps == rangecache.All {
		wantRecordedTruth(t, got, official(t, server, s.recording).Truth)
	}
}

// truth returns the values of the metrics without labels.
func truth(h *influxtest.History, now time.Time) map[string]float64 {
	const lookback = 24 * time.Hour
	want := h.Truth(now.UnixNano(), lookback).Metrics()
	want["memdump_vms_dump_overdue"] = float64(h.MonitoredDomains(now.UnixNano(), lookback).Overdue(now.UnixNano(), maxAge))
	return want
}

// wantPerVM compares the metrics of each VM with the truth.
func wantPerVM(t *testing.T, got exposition, want map[string]influxtest.DumpsOfDomain) {
	t.Helper()
	last, dumps, compressed := make(map[string]float64), make(map[string]float64), make(map[string]float64)
	for dom, vm := range want {
		last[dom], dumps[dom] = seconds(vm.LastNs), float64(vm.Dumps)
		if vm.Sized {
			compressed[dom] = float64(vm.CompressedBytes)
		}
		got.wantValue(t, 1, "memdump_vm_info", "dom", dom, "host", vm.Host, "vmid", vm.VMID)
	}
	if n := len(got.families["memdump_vm_info"].GetMetric()); n != len(want) {
		t.Errorf("%d series of memdump_vm_info, want %d", n, len(want))
	}
	for name, want := range map[string]map[string]float64{
		"memdump_vm_last_dump_timestamp_seconds": last, "memdump_vm_dumps": dumps, "memdump_vm_dumps_compressed_bytes": compressed,
	} {
		if got := got.series(name); !maps.Equal(got, want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// wantRecordedTruth compares metrics with the truth in the recording.
func wantRecordedTruth(t *testing.T, got exposition, truth influxtest.RecordedTruth) {
	t.Helper()
	for name, want := range map[string]*int64{
		"memdump_dumps":                  truth.Dumps,
		"memdump_dumped_vms":             truth.DumpedVMs,
		"memdump_dumped_domains":         truth.DumpedDomains,
		"memdump_dumps_compressed_bytes": truth.CompressedBytes,
		"memdump_dumps_raw_bytes":        truth.RawBytes,
		"memdump_dumps_with_duration":    truth.WithDuration,
		"memdump_monitored_vms":          truth.MonitoredVMs,
		"memdump_monitored_domains":      truth.MonitoredDomains,
		"memdump_vms_never_dumped":       truth.NeverDumped,
	} {
		if want != nil {
			got.wantValue(t, float64(*want), name)
		}
	}
	if truth.LastDumpNs != nil {
		got.wantValue(t, seconds(*truth.LastDumpNs), "memdump_last_dump_timestamp_seconds")
	}
	if truth.DurationMean != nil {
		got.wantValue(t, *truth.DurationMean, "memdump_dump_duration_mean_seconds")
	}
	if truth.DurationSum != nil {
		got.wantValue(t, *truth.DurationSum, "memdump_dumps_duration_seconds")
	}
}

// TestRecordings_history: the history, read from the records themselves, has the same values
// as the queries.
func TestRecordings_history(t *testing.T) {
	for _, name := range []string{"writers", "writers-bounded"} {
		s := scenarios[name]
		for _, server := range s.servers {
			t.Run(name+"/"+server, func(t *testing.T) {
				replay := influxtest.Serve(t, recordings(t, server, s)...)
				e := newExporter(t, newClient(t, replay.URL, s.recording))
				settled, err := e.fetchHistory(t.Context(), dumps, s.dumps)
				if err != nil {
					t.Fatalf("%s: %v", server, err)
				}
				want := replayed(t, server, s)
				for _, q := range e.queries {
					if q.source != dumps {
						continue
					}
					for _, m := range q.metrics {
						value, known, err := m.value(settled)
						if err != nil || !known {
							t.Errorf("%s: known %v, %v", m.name, known, err)
						}
						want.wantValue(t, value, m.name)
					}
				}
				wantHistoryPerVM(t, settled, want)
			})
		}
	}
}

func wantHistoryPerVM(t *testing.T, settled *aggregate, want exposition) {
	t.Helper()
	if n := len(want.series("memdump_vm_dumps")); len(settled.dumpedDomains()) != n {
		t.Errorf("%d domains, want %d", len(settled.dumpedDomains()), n)
	}
	for dom, totals := range settled.domains() {
		if !totals.dumped {
			continue
		}
		want.wantValue(t, float64(totals.dumps), "memdump_vm_dumps", "dom", dom)
		want.wantValue(t, float64(totals.compressed), "memdump_vm_dumps_compressed_bytes", "dom", dom)
		want.wantValue(t, seconds(totals.newest), "memdump_vm_last_dump_timestamp_seconds", "dom", dom)
		want.wantValue(t, 1, "memdump_vm_info", "dom", dom, "host", totals.host, "vmid", totals.vmid)
	}
}

// TestRecordings_schemas: fields of several types. InfluxDB 3 rejects points with a second type; it is
// recorded for these two queries.
func TestRecordings_schemas(t *testing.T) {
	for _, server := range influxtest.Servers() {
		if slices.Contains(runnable, server) {
			continue
		}
		t.Run(server, func(t *testing.T) {
			replay := influxtest.Serve(t, official(t, server, "schemas"))
			e := newExporter(t, newClient(t, replay.URL, "schemas"))
			e.queries = []query{*e.query("dumps"), *e.query("compressed_bytes")}
			got := scrape(t, e)
			if missing := replay.UnknownStatements(); len(missing) > 0 {
				t.Fatalf("%s: no recording of schemas has %q", server, missing)
			}
			got.wantValue(t, 1, "memdump_up")
			got.wantValue(t, 10, "memdump_dumps")
			got.wantValue(t, 10_000, "memdump_dumps_compressed_bytes")
		})
	}
}

// TestRecordings_refusals: servers that reject every statement for one reason. The response that was
// recorded for one statement is replayed for all.
func TestRecordings_refusals(t *testing.T) {
	for scenario, tt := range map[string]struct {
		label, reason string
	}{
		"no-database": {"dumps", "database_not_found"},
		"auth":        {"none_query", "unauthorized"},
		"file-limit":  {"dumps", "file_limit"},
	} {
		for _, server := range influxtest.Servers(scenario) {
			t.Run(scenario+"/"+server, func(t *testing.T) {
				all := official(t, server, scenario).Exchanges
				i := slices.IndexFunc(all, func(e influxtest.Exchange) bool { return e.Label == tt.label })
				refusal := all[i].Response
				e := newExporter(t, newClient(t, influxtest.Handle(t, func(w http.ResponseWriter, _ *http.Request) {
					w.WriteHeader(refusal.Status)
					_, _ = io.WriteString(w, refusal.Body)
				}), "db"))
				got := scrape(t, e)
				got.wantTable(t, nil)
				got.wantValue(t, 0, "memdump_up")
				wantReasons(t, e, allReasons(e, tt.reason))
			})
		}
	}
}

// TestRecordings_identity: what each server reports of itself.
func TestRecordings_identity(t *testing.T) {
	for _, server := range influxtest.Servers("identity") {
		t.Run(server, func(t *testing.T) {
			// Without the other recordings, whose builds reported another version with each response.
			replay := influxtest.Serve(t, official(t, server, "identity"))
			version := strings.TrimPrefix(server, "influxdb-")
			switch version { // built from source
			case "1.7.11":
				version = "unknown"
			case "2.7.12":
				version = "dev"
			}
			got := scrape(t, newExporter(t, newClient(t, replay.URL, "writers")))
			got.wantValue(t, 1, "memdump_influxdb_info", "api", "influxql", "version", version)
		})
	}
}

// recordings returns the recordings of a server for a scenario: those that came with the
// project, and those of -record.
func recordings(t *testing.T, server string, s scenario) []influxtest.Recording {
	t.Helper()
	var all []influxtest.Recording
	for _, name := range []string{s.recording, "identity"} {
		if slices.Contains(influxtest.Servers(name), server) {
			all = append(all, official(t, server, name))
		}
	}
	own, err := readRecording(server, s.recording)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return append(all, own)
}

// official returns a recording that came with the project. For a server without one, it returns that
// of the oldest server, for the lines that were written.
func official(t *testing.T, server, scenario string) influxtest.Recording {
	t.Helper()
	if !slices.Contains(influxtest.Servers(scenario), server) {
		server = "influxdb-1.7.11"
	}
	return influxtest.MustLoad(t, server, scenario)
}

// written returns the lines that were written.
func written(t *testing.T, server string, s scenario) []string {
	t.Helper()
	if s.data != "" {
		return official(t, server, s.data).Written
	}
	return official(t, server, s.recording).Written
}

func databaseOf(t *testing.T, server string, s scenario) string {
	t.Helper()
	for _, e := range official(t, server, s.recording).Exchanges {
		if db := e.Request.Query["db"]; db != "" {
			return db
		}
	}
	t.Fatalf("%s of %s names no database", s.recording, server)
	return ""
}

// recordedFile is where -record stores the responses of a server.
func recordedFile(server, recording string) string {
	return filepath.Join("testdata", "recorded", server, recording+".json")
}

func readRecording(server, recording string) (r influxtest.Recording, err error) {
	text, err := os.ReadFile(recordedFile(server, recording))
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	return r, err
}

// recordMissing records what the recordings of a server lack. A response may lead to a further
// request, so it records until none is missing.
func recordMissing(t *testing.T, server string, s scenario) {
	t.Helper()
	own, err := readRecording(server, s.recording)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	own.Server, own.Scenario = server, s.recording
	own.About = "Responses to statements that the other recordings lack, by go test ./collector -record"
	for {
		_, missing := tryReplay(t, server, s)
		if len(missing) == 0 {
			return
		}
		real := recorder(t, server, s)
		for _, statement := range missing {
			own.Exchanges = append(own.Exchanges, recordExchange(t, real, databaseOf(t, server, s), statement))
		}
		slices.SortFunc(own.Exchanges, func(a, b influxtest.Exchange) int {
			return strings.Compare(a.Request.Query["q"], b.Request.Query["q"])
		})
		text, err := json.MarshalIndent(own, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(recordedFile(server, s.recording)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(recordedFile(server, s.recording), append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// recorder returns a real server with the data of a scenario.
func recorder(t *testing.T, server string, s scenario) *influxtest.Server {
	t.Helper()
	specs, _, err := influxtest.Available(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(specs, func(spec influxtest.ServerSpec) bool { return "influxdb-"+spec.Version == server })
	if i < 0 {
		t.Fatalf("%s can't be recorded: it does not run here", server)
	}
	real := specs[i].MustStart(t)
	if s.recording == "no-database" {
		return real
	}
	database := databaseOf(t, server, s)
	if err := real.CreateDatabase(t.Context(), database); err != nil {
		t.Fatal(err)
	}
	if err := real.Write(t.Context(), database, written(t, server, s)); err != nil {
		t.Fatal(err)
	}
	return real
}

func recordExchange(t *testing.T, real *influxtest.Server, database, statement string) (e influxtest.Exchange) {
	t.Helper()
	e.Label, e.Request.Method, e.Request.Path = "recorded", http.MethodGet, "/query"
	e.Request.Query = map[string]string{"db": database, "epoch": "ns", "q": statement}
	values := url.Values{}
	for name, value := range e.Request.Query {
		values.Set(name, value)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, real.URL+"/query?"+values.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if real.Token != "" {
		r.Header.Set("Authorization", "Token "+real.Token)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	e.Response.Status, e.Response.Body = response.StatusCode, string(body)
	e.Response.Headers = make(map[string]string)
	for _, name := range []string{"Content-Type", "X-Influxdb-Build", "X-Influxdb-Version"} {
		if value := response.Header.Get(name); value != "" {
			e.Response.Headers[name] = value
		}
	}
	return e
}
