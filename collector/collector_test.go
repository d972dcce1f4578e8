package collector_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"memdump_exporter/collector"
	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

var (
	update = flag.Bool("update", false, "rewrite the golden expositions")
	record = flag.Bool("record", false, "record, from a real InfluxDB, the answers to questions that testdata lacks")
)

// influxdb is a real one.
var influxdb influxtest.Shared

type tests struct{ *testing.M }

// Run ends InfluxDB before leaks are looked for.
func (m tests) Run() int {
	code := m.M.Run()
	if err := influxdb.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(tests{m})
}

// recordedNow is the time at which the recordings are asked about.
var recordedNow = time.Unix(0, 1762857000000000000)

func newCollector(t *testing.T, db collector.Database) *collector.Collector {
	t.Helper()
	c := collector.New(collector.Config{
		Database:             db,
		DumpsMeasurement:     "mem_dumps",
		TelemetryMeasurement: "vm_info",
		TelemetryLookback:    24 * time.Hour,
		Ranges:               ranges.Auto,
		DumpsSettle:          24 * time.Hour,
		DumpsMaxAge:          maxAge,
		Logger:               log.NewNopLogger(),
		Now:                  func() time.Time { return recordedNow },
	})
	return c
}

func newClient(t testing.TB, url, database string) *influx.Client {
	t.Helper()
	transport := influx.NewTransport(nil)
	t.Cleanup(transport.CloseIdleConnections)
	client, err := influx.New(influx.Config{URL: url, Database: database, Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// scrape asks for /metrics once, with all the time that it may take.
func scrape(t *testing.T, c *collector.Collector) []*dto.MetricFamily {
	t.Helper()
	return scrapeWithin(t, c, time.Hour)
}

// scrapeWithin asks for /metrics once, in so much time, and returns what is ours.
func scrapeWithin(t *testing.T, c *collector.Collector, budget time.Duration) []*dto.MetricFamily {
	t.Helper()
	return request(t, c, budget, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
}

func request(t *testing.T, c *collector.Collector, budget time.Duration, r *http.Request) []*dto.MetricFamily {
	t.Helper()
	answer := httptest.NewRecorder()
	c.Handler(collector.HandlerConfig{Self: prometheus.NewRegistry(), Timeout: budget}).ServeHTTP(answer, r)
	if answer.Code != http.StatusOK {
		t.Fatalf("status %d: %s", answer.Code, answer.Body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	byName, err := parser.TextToMetricFamilies(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	var families []*dto.MetricFamily
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		if strings.HasPrefix(name, "memdump_") {
			families = append(families, byName[name])
		}
	}
	return families
}

// exposition is the text of a scrape without what differs from run to run
// (durations, versions) and without failures that did not happen.
func exposition(t *testing.T, families []*dto.MetricFamily) []byte {
	t.Helper()
	var text bytes.Buffer
	for _, family := range families {
		if slices.Contains([]string{"memdump_query_duration_seconds", "memdump_influxdb_info", "memdump_query_oldest_check_timestamp_seconds"}, family.GetName()) {
			continue
		}
		family.Metric = slices.DeleteFunc(family.Metric, func(m *dto.Metric) bool { return m.Counter != nil && m.Counter.GetValue() == 0 })
		if len(family.Metric) == 0 {
			continue
		}
		if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
			t.Fatal(err)
		}
	}
	return text.Bytes()
}

// isPerVM tells what --collect.per-vm adds.
func isPerVM(name string) bool {
	return strings.HasPrefix(name, "memdump_vm_") || name == "memdump_vms_omitted"
}

// without leaves metrics out, and the samples about queries that only --collect.per-vm asks.
func without(families []*dto.MetricFamily, out func(name string) bool) []*dto.MetricFamily {
	families = slices.DeleteFunc(slices.Clone(families), func(f *dto.MetricFamily) bool { return out(f.GetName()) })
	for _, f := range families {
		f.Metric = slices.DeleteFunc(f.Metric, func(m *dto.Metric) bool {
			return slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetName() == "query" && strings.HasPrefix(l.GetValue(), "vm_") })
		})
	}
	return families
}

func compareGolden(t *testing.T, file string, got []byte) {
	t.Helper()
	file = filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (go test ./collector -update makes it)", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (after reading the difference: go test ./collector -update)\n got:\n%s\nwant:\n%s", file, got, want)
	}
}

// recordedDatabases are the databases of the recorded scenarios.
var recordedDatabases = map[string]string{
	"traps": "traps", "edges": "edges", "one-point": "one", "empty-database": "empty", "no-database": "nodb",
}

// TestScrape_recordings replays each situation from each server: one golden for
// all four, as four servers know one truth.
func TestScrape_recordings(t *testing.T) {
	for scenario := range recordedDatabases {
		for _, server := range influxtest.Servers(scenario, "identity") {
			t.Run(scenario+"/"+server, func(t *testing.T) {
				replay := influxtest.Serve(t, influxtest.MustLoad(t, server, scenario), influxtest.MustLoad(t, server, "identity"))
				replay.Also(questions(t, scenario)...)
				client := newClient(t, replay.URL, databaseOf(t, server, scenario))
				for _, mode := range []ranges.Mode{ranges.Auto, ranges.Whole} {
					families := scrape(t, perVMCollectorAt(t, client, mode, &clock{recordedNow}, 500))
					if unknown := replay.Unknown(); len(unknown) > 0 {
						slices.Sort(unknown)
						t.Fatalf("no recording answers %q\n(go test ./collector -record -update keeps the answers of a real InfluxDB)", slices.Compact(unknown))
					}
					compareGolden(t, scenario+".metrics", exposition(t, without(families, isPerVM)))
					compareGolden(t, scenario+".vms.metrics", exposition(t, without(families, func(name string) bool { return !isPerVM(name) })))
				}
			})
		}
	}
}

func databaseOf(t *testing.T, server, scenario string) string {
	t.Helper()
	for _, e := range influxtest.MustLoad(t, server, scenario).Exchanges {
		if db := e.Request.Query["db"]; db != "" {
			return db
		}
	}
	t.Fatalf("%s of %s names no database", scenario, server)
	return ""
}

// TestScrape_truth holds the gauges against what the writer of the recording knew.
func TestScrape_truth(t *testing.T) {
	for _, server := range influxtest.Servers("traps", "identity") {
		t.Run(server, func(t *testing.T) {
			recording := influxtest.MustLoad(t, server, "traps")
			replay := influxtest.Serve(t, recording, influxtest.MustLoad(t, server, "identity"))
			// The telemetry was recorded in an older form of the question, which gives
			// each VM the range's start as its time.
			replay.Alias(
				`SELECT * FROM "vm_info" WHERE "VMID" != '' AND time >= 1762770600000000000 AND time < 1762857000000000001 GROUP BY "VMID" ORDER BY time DESC LIMIT 1`,
				`SELECT LAST(*) FROM "vm_info" WHERE "VMID" != '' AND time >= 1762770600000000000 AND time <= 1762857000000000000 GROUP BY "VMID"`)
			replay.Also(questions(t, "traps")...)
			families := scrape(t, newCollector(t, newClient(t, replay.URL, "traps")))
			version := map[string]string{"influxdb-1.7.11": "unknown", "influxdb-2.7.12": "dev"}[server] // built from source
			if want := []string{"influxql", cmp.Or(version, strings.TrimPrefix(server, "influxdb-"))}; !slices.Equal(serverInfo(families), want) {
				t.Errorf("the server is said to be %q, want %q", serverInfo(families), want)
			}
			got := gauges(families)
			truth := recording.Truth
			for name, want := range map[string]float64{
				"memdump_up":                          1,
				"memdump_dumps":                       float64(*truth.Dumps),
				"memdump_dumped_vms":                  float64(*truth.DumpedVMs),
				"memdump_dumps_compressed_bytes":      float64(*truth.CompressedBytes),
				"memdump_dump_duration_mean_seconds":  *truth.DurationMean,
				"memdump_last_dump_timestamp_seconds": float64(*truth.LastDumpNs / 1e9),
				"memdump_monitored_vms":               float64(*truth.MonitoredVMs),
			} {
				if value, ok := got[name]; !ok || value != want {
					t.Errorf("%s is %v (there: %v), written %v", name, value, ok, want)
				}
			}
		})
	}
}

// serverInfo returns the labels of memdump_influxdb_info: api and version.
func serverInfo(families []*dto.MetricFamily) (labels []string) {
	for _, family := range families {
		if family.GetName() == "memdump_influxdb_info" {
			for _, label := range family.Metric[0].Label {
				labels = append(labels, label.GetValue())
			}
		}
	}
	return labels
}

// ofTruth tells whether the writer of the data knows the truth of a gauge. A row that is new
// to the table has its goldens.
func ofTruth(gauge string) bool {
	return slices.Contains([]string{"memdump_up", "memdump_vms_never_dumped", "memdump_vms_dump_overdue", "memdump_vms_omitted"}, gauge) ||
		slices.ContainsFunc(monthQueries, func(q monthQuery) bool { return q.gauge == gauge })
}

// gauges are the values of those that are there.
func gauges(families []*dto.MetricFamily) map[string]float64 {
	values := make(map[string]float64)
	for _, family := range families {
		if ofTruth(family.GetName()) {
			values[family.GetName()] = family.Metric[0].Gauge.GetValue()
		}
	}
	return values
}

// questions are the answers recorded by -record: to questions that the recordings
// of the four servers lack, such as that of a new row. They come from the one real
// server that can be run here.
func questions(t *testing.T, scenario string) []influxtest.Exchange {
	t.Helper()
	file := filepath.Join("testdata", "recorded", scenario+".json")
	if *record {
		recordQuestions(t, scenario, file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var recording influxtest.Recording
	if err := json.Unmarshal(text, &recording); err != nil {
		t.Fatal(err)
	}
	return recording.Exchanges
}

var recorded sync.Map // scenario → struct{}: recorded once a run

func recordQuestions(t *testing.T, scenario, file string) {
	t.Helper()
	if _, done := recorded.LoadOrStore(scenario, struct{}{}); done {
		return
	}
	const server = "influxdb-1.7.11"
	official := influxtest.MustLoad(t, server, scenario)
	replay := influxtest.Serve(t, official, influxtest.MustLoad(t, server, "identity"))
	database := databaseOf(t, server, scenario)

	own := influxtest.Recording{Server: server, Scenario: scenario,
		About: "Answers to questions that the recordings lack, recorded by go test ./collector -record"}
	real := influxtest.MustStart(t)
	if scenario != "no-database" {
		if err := real.Exec(t.Context(), "CREATE DATABASE "+influx.Ident(database)); err != nil {
			t.Fatal(err)
		}
		if err := real.Write(t.Context(), database, official.Written); err != nil {
			t.Fatal(err)
		}
	}
	// An answer may lead to a further question, so it is asked until all are known.
	for known := 0; ; {
		scrape(t, perVMCollectorAt(t, newClient(t, replay.URL, database), ranges.Auto, &clock{recordedNow}, 500))
		asked := replay.UnknownStatements()
		if len(asked) == known {
			break
		}
		for _, statement := range asked[known:] {
			e := recordQuestion(t, real.URL, database, statement)
			own.Exchanges = append(own.Exchanges, e)
			replay.Also(e)
		}
		known = len(asked)
	}
	slices.SortFunc(own.Exchanges, func(a, b influxtest.Exchange) int {
		return strings.Compare(a.Request.Query["q"], b.Request.Query["q"])
	})
	text, err := json.MarshalIndent(own, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func recordQuestion(t *testing.T, server, database, statement string) (e influxtest.Exchange) {
	t.Helper()
	e.Label, e.Request.Method, e.Request.Path = "question", http.MethodGet, "/query"
	e.Request.Query = map[string]string{"db": database, "epoch": "ns", "q": statement}
	values := url.Values{}
	for name, value := range e.Request.Query {
		values.Set(name, value)
	}
	resp, err := http.Get(server + "/query?" + values.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	e.Response.Status, e.Response.Body = resp.StatusCode, string(body)
	e.Response.Headers = map[string]string{"Content-Type": resp.Header.Get("Content-Type")}
	return e
}

// TestGoldens_lint holds every golden against the naming rules of Prometheus.
func TestGoldens_lint(t *testing.T) {
	files, err := filepath.Glob("testdata/*.metrics")
	if err != nil || len(files) < len(recordedDatabases) {
		t.Fatalf("%d goldens, %v", len(files), err)
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		problems, err := promlint.New(f).Lint()
		f.Close()
		if err != nil || len(problems) > 0 {
			t.Errorf("%s: %v, %v", file, problems, err)
		}
	}
}

// fake answers questions as told; a question that it is not told of succeeds with
// one row of plausible values, as from a server.
type fake struct {
	answer func(ctx context.Context, statement string) (handled bool, err error)
	server influx.Server
	client *influx.Client
}

func (f fake) Identify(context.Context) (influx.Server, error) { return f.server, nil }

func (f fake) API() influx.API { return influx.APIInfluxQL }

func (f fake) Query(ctx context.Context, q influx.Request, row func(influx.Row) error) error {
	if handled, err := f.answer(ctx, q.Statement); handled {
		return err
	}
	return f.client.Query(ctx, q, row)
}

func newFake(t *testing.T, answer func(ctx context.Context, statement string) (bool, error)) fake {
	t.Helper()
	replay := influxtest.Serve(t, influxtest.MustLoad(t, "influxdb-1.7.11", "traps"), influxtest.MustLoad(t, "influxdb-1.7.11", "identity"))
	replay.Also(questions(t, "traps")...)
	return fake{answer: answer, client: newClient(t, replay.URL, "traps"), server: influx.Server{Major: 1, Version: "1.8.10"}}
}

// TestScrape_oneFails: whatever the failure of one query, its gauge alone is gone,
// and is counted by its reason.
func TestScrape_oneFails(t *testing.T) {
	for reason, failure := range map[string]func(){
		"file_limit": nil, "unreachable": nil, "timeout": nil, "internal": func() { panic("own defect") },
	} {
		t.Run(reason, func(t *testing.T) {
			db := newFake(t, func(_ context.Context, statement string) (bool, error) {
				if !strings.Contains(statement, "SUM(\"gzip") {
					return false, nil
				}
				if failure != nil {
					failure()
				}
				return true, &influx.Error{Kind: influx.Kind(reason)}
			})
			got := remove(remove(string(exposition(t, scrape(t, newCollector(t, db)))), "memdump_query_ranges"), "memdump_panics_total")
			want, err := os.ReadFile("testdata/traps.metrics")
			if err != nil {
				t.Fatal(err)
			}
			expected := remove(remove(string(want), "memdump_dumps_compressed_bytes"), "memdump_query_ranges")
			expected = strings.Replace(expected, `memdump_query_success{query="compressed_bytes"} 1`, `memdump_query_success{query="compressed_bytes"} 0`, 1)
			expected = strings.Replace(expected, "\nmemdump_up 1", "\nmemdump_up 0", 1)
			counter := fmt.Sprintf("# HELP memdump_query_errors_total Failures of the query since the exporter started, by reason.\n"+
				"# TYPE memdump_query_errors_total counter\nmemdump_query_errors_total{query=\"compressed_bytes\",reason=%q} 1\n", reason)
			expected = strings.Replace(expected, "# HELP memdump_query_success", counter+"# HELP memdump_query_success", 1)
			if got != expected {
				t.Errorf("got:\n%s\nwant:\n%s", got, expected)
			}
		})
	}
}

// remove takes a family out of an exposition.
func remove(text, name string) string {
	var kept strings.Builder
	for _, line := range strings.SplitAfter(text, "\n") {
		if !strings.Contains(line, name+" ") && !strings.HasPrefix(line, name+"{") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// TestScrape_empty: an answer without rows is believed only of a measurement that
// exists and has the field, which is asked for once a measurement.
func TestScrape_empty(t *testing.T) {
	tests := map[string]struct {
		fields string          // answer to SHOW FIELD KEYS
		want   map[string]bool // gauges that are 0
		reason string
	}{
		"no measurement": {fields: `{"results":[{"statement_id":0}]}`, reason: "measurement_missing"},
		"no field":       {fields: fieldKeys("other"), reason: "field_missing", want: map[string]bool{"memdump_monitored_vms": true}},
		"refused":        {fields: `{"results":[{"error":"not executed"}]}`, reason: "refused"},
		"no name":        {fields: strings.Replace(fieldKeys("other"), `"other"`, `1`, 1), reason: "malformed"},
		"no type":        {fields: strings.Replace(fieldKeys("sha256"), `"float"`, `null`, 1), reason: "malformed"},
		"no rows": {fields: fieldKeys("sha256", "gzip_size_bytes", "duration_sec"), want: map[string]bool{
			"memdump_dumps": true, "memdump_dumped_vms": true, "memdump_dumps_compressed_bytes": true, "memdump_monitored_vms": true,
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			proofs := 0
			server := newServer(t, func(statement string) string {
				if strings.HasPrefix(statement, "SHOW FIELD KEYS") {
					mu.Lock()
					defer mu.Unlock()
					proofs++
					return tt.fields
				}
				return `{"results":[{"statement_id":0}]}`
			})
			c := newCollector(t, newClient(t, server, "db"))
			families := scrape(t, c)
			if info := serverInfo(families); info != nil {
				t.Errorf("the server is said to be %q, and has not said so", info)
			}
			got := gauges(families)
			up := got["memdump_up"]
			delete(got, "memdump_up")
			for name := range tt.want {
				if _, there := got[name]; !there {
					t.Errorf("%s is not there", name)
				}
			}
			for name, value := range got {
				if value != 0 || len(tt.want) == 0 {
					t.Errorf("%s is %v", name, value)
				}
			}
			if wantUp := map[bool]float64{true: 1, false: 0}[tt.reason == ""]; up != wantUp {
				t.Errorf("memdump_up is %v", up)
			}
			if proofs != 2 {
				t.Errorf("fields were asked for %d times, want once a measurement", proofs)
			}
			for _, status := range c.Statuses() {
				if status.Err != nil && status.Reason != tt.reason {
					t.Errorf("%s: %v, want %s", status.Query, status.Err, tt.reason)
				}
			}
		})
	}
}

// TestScrape_proofPanics: a defect while an empty answer is looked into leaves it unproven.
func TestScrape_proofPanics(t *testing.T) {
	c := newCollector(t, newFake(t, func(_ context.Context, statement string) (bool, error) {
		if strings.HasPrefix(statement, "SHOW") {
			panic("own defect")
		}
		return true, nil // without a row
	}))
	if got := gauges(scrape(t, c)); len(got) != 1 || got["memdump_up"] != 0 {
		t.Errorf("got %v, want nothing but memdump_up 0", got)
	}
	for _, status := range c.Statuses() {
		if status.Reason != "internal" {
			t.Errorf("%s failed as %q: it waited for a defect", status.Query, status.Reason)
		}
	}
}

func fieldKeys(names ...string) string {
	rows := make([]string, 0, len(names))
	for _, name := range names {
		rows = append(rows, fmt.Sprintf("[%q,\"float\"]", name))
	}
	return `{"results":[{"statement_id":0,"series":[{"name":"m","columns":["fieldKey","fieldType"],"values":[` + strings.Join(rows, ",") + `]}]}]}`
}

// TestScrape_untrue: numbers that can't be true are left out, and named.
func TestScrape_untrue(t *testing.T) {
	for name, tt := range map[string]struct{ part, columns, values, reason string }{
		"sum that wrapped":                 {`SUM("gzip`, `["time","value"]`, `[0,-5]`, "out_of_range"},
		"sum beyond 64 bits":               {`SUM("gzip`, `["time","value"]`, `[0,18446744073709551616]`, "malformed"},
		"sum that is no number":            {`SUM("gzip`, `["time","value"]`, `[0,"1"]`, "malformed"},
		"sum that is null":                 {`SUM("gzip`, `["time","value"]`, `[0,null]`, "malformed"},
		"count that is a float":            {`COUNT("sha256")`, `["time","value"]`, `[0,1.5]`, "malformed"},
		"no such column":                   {`COUNT("sha256")`, `["time","count"]`, `[0,1]`, "malformed"},
		"mean that is infinite":            {`SUM("duration`, `["time","sum","count"]`, `[0,1e309,4]`, "malformed"},
		"mean of an infinite sum":          {`SUM("duration`, `["time","sum","count"]`, `[0,1e308,1],[0,1e308,1]`, "out_of_range"},
		"mean without a count":             {`SUM("duration`, `["time","sum","count"]`, `[0,1,null]`, "malformed"},
		"mean of which a point is missing": {`SUM("duration`, `["time","sum","count","mean"]`, `[0,700,11,70]`, "out_of_range"},
		"mean of short dumps":              {`SUM("duration`, `["time","sum","count","mean"]`, `[0,0.0005,5,0.000100001]`, "out_of_range"},
		"mean that is no number":           {`SUM("duration`, `["time","sum","count","mean"]`, `[0,0,1,"0"]`, "malformed"},
		"time that is no time":             {`ORDER BY time DESC LIMIT 1`, `["time","value"]`, `["soon","x"]`, "malformed"},
		"series at no time":                {`GROUP BY "vmid"`, `["time","value"]`, `["soon","x"]`, "malformed"},
		"series without a tag":             {`GROUP BY "VMID"`, `["time","value"]`, `[0,"x"]`, "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			server := newServer(t, func(statement string) string {
				switch {
				case strings.HasPrefix(statement, "SHOW"):
					return fieldKeys("sha256", "gzip_size_bytes", "duration_sec")
				case !strings.Contains(statement, tt.part):
					return `{"results":[{"error":"undefined function"}]}`
				}
				return `{"results":[{"statement_id":0,"series":[{"name":"m","tags":{"vmid":"a"},"columns":` + tt.columns + `,"values":[` + tt.values + `]}]}]}`
			})
			c := newCollector(t, newClient(t, server, "db"))
			if got := gauges(scrape(t, c)); len(got) != 1 || got["memdump_up"] != 0 {
				t.Errorf("got %v, want nothing but memdump_up 0", got)
			}
			reasons := map[string]bool{}
			for _, status := range c.Statuses() {
				reasons[status.Reason] = true
			}
			if want := map[string]bool{"refused": true, tt.reason: true}; !maps.Equal(reasons, want) {
				t.Errorf("failed for %v, want %v", reasons, want)
			}
		})
	}
}

// TestScrape_mean: what the servers say of dumps that took no time, and of none, is believed.
func TestScrape_mean(t *testing.T) {
	for name, tt := range map[string]struct {
		values string
		want   float64
		there  bool
	}{
		"none":         {`[0,null,0,null]`, 0, false},
		"of no time":   {`[0,0,3,0]`, 0, true},
		"rounded":      {`[0,40000000000,4,10000000000.000002]`, 1e10, true},
		"without mean": {`[0,9,3,null]`, 3, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCollector(t, newClient(t, newServer(t, func(statement string) string {
				if strings.HasPrefix(statement, "SHOW") {
					return fieldKeys("sha256", "gzip_size_bytes", "duration_sec")
				}
				if !strings.Contains(statement, `SUM("duration`) {
					return `{"results":[{"statement_id":0}]}`
				}
				return answerOf(`"sum","count","mean"`, tt.values)
			}), "db"))
			got := gauges(scrape(t, c))
			if value, there := got["memdump_dump_duration_mean_seconds"]; there != tt.there || value != tt.want || got["memdump_up"] != 1 {
				t.Errorf("%v (there: %v), up %v; want %v (%v)", value, there, got["memdump_up"], tt.want, tt.there)
			}
		})
	}
}

// newServer answers /query by statement and has no /ping.
func newServer(t testing.TB, answer func(statement string) string) string {
	t.Helper()
	return influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/query" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, answer(r.URL.Query().Get("q")))
	})
}

// TestCollect_sideBySide: the questions of a scrape wait for each other's beginning,
// so a scrape costs the slowest, not the sum.
func TestCollect_sideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		c := collector.New(collector.Config{
			Database: fake{answer: func(ctx context.Context, _ string) (bool, error) {
				select {
				case <-time.After(3 * time.Second):
				case <-ctx.Done():
				}
				return true, &influx.Error{Kind: influx.ErrServer}
			}},
			DumpsMeasurement: "d", TelemetryMeasurement: "t", TelemetryLookback: time.Hour, Ranges: ranges.Whole,
			Logger: log.NewNopLogger(), Now: time.Now,
		})
		families := scrape(t, c)
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("six questions of 3 s took %v", took)
		}
		for _, family := range families {
			if family.GetName() == "memdump_query_duration_seconds" {
				for _, m := range family.Metric {
					if m.Gauge.GetValue() != 3 {
						t.Errorf("%v", m)
					}
				}
			}
		}
	})
}
