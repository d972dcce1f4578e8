package collector

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"memdump_exporter/collector/rangecache"
	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

var (
	update = flag.Bool("update", false, "rewrite the golden files")
	record = flag.Bool("record", false, "record, from the servers that run here, the responses that the recordings lack")
)

// influxdb is a real InfluxDB.
var influxdb influxtest.Shared

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(influxtest.Tests{M: m, Server: &influxdb})
}

// recordedNow is the time for which the telemetry was recorded.
var recordedNow = time.Unix(0, 1762857000000000000)

// maxAge is the --dumps.max-age of newExporter.
const maxAge = 48 * time.Hour

// newExporter returns an exporter with the defaults of the flags, at recordedNow, with metrics
// per VM. It is closed when the test ends.
func newExporter(tb testing.TB, db Database, changes ...func(*Config)) *Exporter {
	tb.Helper()
	c := Config{
		Database:                 db,
		DumpsMeasurement:         influxtest.Dumps,
		TelemetryMeasurements:    influxtest.TelemetryMeasurements(),
		TelemetryLookback:        24 * time.Hour,
		DumpsAllowedLateness:     24 * time.Hour,
		TelemetryAllowedLateness: 5 * time.Minute,
		DumpsMaxAge:              maxAge,
		PerVM:                    500,
		Logger:                   log.NewNopLogger(),
		Now:                      func() time.Time { return recordedNow },
	}
	for _, change := range changes {
		change(&c)
	}
	e := New(c)
	tb.Cleanup(e.Close)
	return e
}

// at sets the clock of an exporter.
func at(now *clock) func(*Config) { return func(c *Config) { c.Now = now.Now } }

// clock is a clock that does not advance by itself.
type clock struct{ ns atomic.Int64 }

func newClock(now time.Time) *clock {
	c := &clock{}
	c.set(now)
	return c
}

func (c *clock) Now() time.Time    { return time.Unix(0, c.ns.Load()) }
func (c *clock) set(now time.Time) { c.ns.Store(now.UnixNano()) }

// newClient returns a client of a server at a URL.
func newClient(tb testing.TB, url, database string) *influx.Client {
	tb.Helper()
	transport := influx.NewTransport(nil)
	tb.Cleanup(transport.CloseIdleConnections)
	return newClientOver(tb, transport, influx.Config{URL: url, Database: database})
}

// newClientOver returns a client whose requests the transport sends.
func newClientOver(tb testing.TB, transport http.RoundTripper, c influx.Config) *influx.Client {
	tb.Helper()
	if c.URL == "" {
		c.URL, c.Database = "http://memory", "db"
	}
	c.Transport = transport
	client, err := influx.New(c)
	if err != nil {
		tb.Fatal(err)
	}
	return client
}

// inMemory sends requests to a handler without a network, so that time can be virtual.
type inMemory struct{ http.Handler }

func (m inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	m.ServeHTTP(w, r)
	if err := context.Cause(r.Context()); err != nil {
		return nil, err
	}
	response := w.Result()
	response.Request = r
	return response, nil
}

// exposition is a response of /metrics.
type exposition struct {
	text     string
	families map[string]*dto.MetricFamily
}

// scrape requests /metrics once.
func scrape(tb testing.TB, e *Exporter) exposition {
	tb.Helper()
	h := e.Handler(HandlerConfig{Self: prometheus.NewRegistry(), Timeouts: Timeouts{Default: time.Minute}})
	return scrapeFrom(tb, h, httptest.NewRequestWithContext(tb.Context(), http.MethodGet, "/metrics", nil))
}

func scrapeFrom(tb testing.TB, h http.Handler, r *http.Request) exposition {
	tb.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		tb.Fatalf("HTTP status %d: %s", w.Code, w.Body)
	}
	return parseExposition(tb, w.Body.String())
}

func parseExposition(tb testing.TB, text string) exposition {
	tb.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		tb.Fatalf("%v in\n%s", err, text)
	}
	return exposition{text, families}
}

// value returns the value of the series with exactly these labels, such as "query", "dumps".
func (x exposition) value(name string, labels ...string) (float64, bool) {
	for _, m := range x.families[name].GetMetric() {
		var got []string
		for _, l := range m.GetLabel() {
			got = append(got, l.GetName(), l.GetValue())
		}
		if slices.Equal(got, labels) {
			return m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue(), true
		}
	}
	return 0, false
}

// series returns the values of all series of a metric with one label, by its value.
func (x exposition) series(name string) map[string]float64 {
	all := make(map[string]float64)
	for _, m := range x.families[name].GetMetric() {
		all[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	return all
}

// wantValue reports an error unless the series has the value.
func (x exposition) wantValue(tb testing.TB, want float64, name string, labels ...string) {
	tb.Helper()
	got, ok := x.value(name, labels...)
	switch {
	case !ok:
		tb.Errorf("%s%q is absent, want %v", name, labels, want)
	case got != want:
		tb.Errorf("%s%q is %v, want %v", name, labels, got, want)
	}
}

// wantAbsent reports an error when the metric has a series.
func (x exposition) wantAbsent(tb testing.TB, names ...string) {
	tb.Helper()
	for _, name := range names {
		if family := x.families[name]; family != nil {
			tb.Errorf("%s is there, want it absent: %v", name, family.GetMetric())
		}
	}
}

// wantTable reports an error for each metric of the table, or of coverage, that has another value than
// wanted. A metric that is not in want must be absent.
func (x exposition) wantTable(tb testing.TB, want map[string]float64) {
	tb.Helper()
	for _, name := range tableMetrics() {
		if value, ok := want[name]; ok {
			x.wantValue(tb, value, name)
		} else {
			x.wantAbsent(tb, name)
		}
	}
}

// tableMetrics returns the names of the metrics about dumps and VMs that have no labels.
func tableMetrics() []string {
	names := []string{"memdump_vms_never_dumped", "memdump_vms_dump_overdue"}
	for _, q := range queries {
		for _, m := range q.metrics {
			names = append(names, m.name)
		}
	}
	return names
}

// wantReasons reports an error for each query that failed for another reason than wanted. A query
// without a reason must have succeeded.
func wantReasons(tb testing.TB, e *Exporter, want map[string]string) {
	tb.Helper()
	for _, status := range e.Statuses() {
		if status.Reason != want[status.Query] {
			tb.Errorf("the query %s failed as %q (%v), want %q", status.Query, status.Reason, status.Err, want[status.Query])
		}
	}
}

// allReasons returns the argument of wantReasons if every query fails for one reason.
func allReasons(e *Exporter, reason string) map[string]string {
	all := make(map[string]string)
	for _, q := range e.queries {
		all[q.name] = reason
	}
	return all
}

// dumpsReasons returns those where every query of dumps fails for a reason, and no other does.
func dumpsReasons(e *Exporter, reason string) map[string]string {
	want := allReasons(e, reason)
	delete(want, monitoredVMs)
	return want
}

// comparable returns the text of an exposition without values that differ from run to run, and without
// counters of 0.
func (x exposition) comparable(tb testing.TB) string {
	tb.Helper()
	var text bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(x.families)) {
		family := x.families[name]
		switch {
		case !strings.HasPrefix(name, "memdump_"):
			continue
		case slices.Contains([]string{durationName, "memdump_influxdb_info", "memdump_query_oldest_check_timestamp_seconds"}, name):
			continue
		}
		family.Metric = slices.DeleteFunc(family.Metric, func(m *dto.Metric) bool { return m.Counter != nil && m.Counter.GetValue() == 0 })
		if len(family.Metric) == 0 {
			continue
		}
		if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
			tb.Fatal(err)
		}
	}
	return text.String()
}

const durationName = "memdump_query_duration_seconds"

// compareGolden compares a text with a file of testdata.
func compareGolden(tb testing.TB, file, got string) {
	tb.Helper()
	file = filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		tb.Fatalf("%v (go test ./collector -update makes it)", err)
	}
	if got != string(want) {
		tb.Errorf("%s differs (after reading the difference: go test ./collector -update)\n got:\n%s\nwant:\n%s", file, got, want)
	}
}

// historyOf returns the history of lines of line protocol.
func historyOf(tb testing.TB, lines ...string) *influxtest.History {
	tb.Helper()
	h := &influxtest.History{}
	for _, line := range lines {
		h.Add(point(tb, line))
	}
	return h
}

// aged returns the points of lines of line protocol that have an age before recordedNow instead of a
// time. A line without fields has those of a dump, or of a running VM.
func aged(tb testing.TB, lines ...string) *influxtest.History {
	tb.Helper()
	h := &influxtest.History{}
	for _, line := range lines {
		parts := splitLine(line, ' ', true)
		age, err := time.ParseDuration(parts[len(parts)-1])
		if err != nil {
			tb.Fatal(err)
		}
		fields := "state=1i"
		switch {
		case len(parts) == 3:
			fields = parts[1]
		case strings.HasPrefix(line, influxtest.Dumps):
			fields = `sha256="x"`
		}
		h.Add(point(tb, fmt.Sprint(parts[0], " ", fields, " ", recordedNow.Add(-age).UnixNano())))
	}
	return h
}

// point parses a line of line protocol.
func point(tb testing.TB, line string) influxtest.Point {
	tb.Helper()
	key := splitLine(line, ' ', false)[0]
	rest := splitLine(line[len(key)+1:], ' ', true)
	ns, err := strconv.ParseInt(rest[len(rest)-1], 10, 64)
	if err != nil || len(rest) != 2 {
		tb.Fatalf("a line of %d parts after its tags, %v: %s", len(rest), err, line)
	}
	names := strings.NewReplacer(`\,`, ",", `\ `, " ", `\=`, "=")
	texts := strings.NewReplacer(`\"`, `"`, `\\`, `\`)
	p := influxtest.Point{Tags: make(map[string]string), Fields: make(map[string]any), TimeNs: ns}
	for i, part := range splitLine(key, ',', false) {
		if i == 0 {
			p.Measurement = names.Replace(part)
			continue
		}
		pair := splitLine(part, '=', false)
		p.Tags[names.Replace(pair[0])] = names.Replace(pair[1])
	}
	for _, part := range splitLine(rest[0], ',', true) {
		name, value, _ := strings.Cut(part, "=")
		switch value[len(value)-1] {
		case '"':
			p.Fields[name] = texts.Replace(value[1 : len(value)-1])
		case 'i':
			p.Fields[name], err = strconv.ParseInt(value[:len(value)-1], 10, 64)
		case 'e':
			p.Fields[name], err = strconv.ParseBool(value)
		default:
			p.Fields[name], err = strconv.ParseFloat(value, 64)
		}
		if err != nil {
			tb.Fatalf("the field %s of %s: %v", name, line, err)
		}
	}
	return p
}

// splitLine splits at a separator that is neither escaped nor in quotes.
func splitLine(text string, separator byte, quotes bool) []string {
	var parts []string
	begin, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\\':
			i++
		case text[i] == '"' && quotes:
			quoted = !quoted
		case text[i] == separator && !quoted:
			parts, begin = append(parts, text[begin:i]), i+1
		}
	}
	return append(parts, text[begin:])
}

// contextWithin returns a context that ends after a time, or with the test.
func contextWithin(tb testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	tb.Helper()
	return context.WithTimeout(tb.Context(), d)
}

// front is a server in front of another one.
type front struct {
	URL string

	mu         sync.Mutex
	statements []string
}

// newFront starts a front until the test ends that records the statements it forwards.
func newFront(tb testing.TB, server string) *front {
	tb.Helper()
	f := &front{}
	forward := influxtest.Forward(tb, server)
	f.URL = influxtest.Handle(tb, func(w http.ResponseWriter, r *http.Request) {
		if statement := r.URL.Query().Get("q"); statement != "" {
			f.mu.Lock()
			f.statements = append(f.statements, statement)
			f.mu.Unlock()
		}
		forward.ServeHTTP(w, r)
	})
	return f
}

// count returns how many statements with a prefix have come since the last call.
func (f *front) count(prefix string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	f.statements = slices.DeleteFunc(f.statements, func(statement string) bool {
		is := strings.HasPrefix(statement, prefix)
		if is {
			n++
		}
		return is
	})
	return n
}

// memory is an InfluxDB in memory, for virtual time. It has a dump with all fields and telemetry of one
// VM, both a minute old at the start.
type memory struct {
	influxtest.Fake
	// wait is how long a response to a query for dumps takes; nil for no time. Histories and
	// schemas take none: virtual time stands still while queries wait for them in a sync.Once.
	wait func(statement string) time.Duration
	// respond returns the body of another response; nil, or an empty one, for the true one.
	respond func(statement string) string

	batches  atomic.Int64 // requests of the query dumps, which return their number so far
	canceled atomic.Int64 // requests that were given up
}

func newMemory(tb testing.TB) *memory {
	tb.Helper()
	m := &memory{}
	for _, line := range []string{allFields, running} {
		p := aged(tb, line).Points(strings.FieldsFunc(line, func(r rune) bool { return r == ',' })[0])[0]
		p.TimeNs = time.Now().Add(-time.Minute).UnixNano()
		m.Add(p)
	}
	m.Intercept(m.intercept)
	return m
}

// exporter returns an exporter of the database, by the clock of the test.
func (m *memory) exporter(tb testing.TB, changes ...func(*Config)) *Exporter {
	tb.Helper()
	// Nothing waits for its turn in the client, for the reason that wait has.
	client := newClientOver(tb, m, influx.Config{MaxConcurrency: 1000})
	return newExporter(tb, client, append([]func(*Config){func(c *Config) { c.Now = time.Now }}, changes...)...)
}

func (m *memory) intercept(r *http.Request) (*http.Response, error) {
	statement, body := r.URL.Query().Get("q"), ""
	if m.respond != nil {
		body = m.respond(statement)
	}
	if strings.HasPrefix(statement, `SELECT COUNT("sha256"::field) AS "dumps" FROM`) {
		body = rowsOf(`"time","dumps"`, fmt.Sprintf("[0,%d]", m.batches.Add(1)))
	}
	shared := strings.HasPrefix(statement, "SHOW") || strings.Contains(statement, historyColumns) || strings.Contains(statement, "*::field")
	if m.wait != nil && !shared {
		select {
		case <-time.After(m.wait(statement)):
		case <-r.Context().Done():
			m.canceled.Add(1)
			return nil, context.Cause(r.Context())
		}
	}
	if body == "" {
		return nil, nil
	}
	return influxtest.FakeResponse(r, http.StatusOK, body), nil
}

const (
	noRows = `{"results":[{"statement_id":0}]}`
	// rejected is the response to a statement that InfluxDB can't execute.
	rejected = `{"results":[{"statement_id":0,"error":"not executed"}]}`
)

// rowsOf returns a response of rows without tags.
func rowsOf(columns, rows string) string {
	return `{"results":[{"statement_id":0,"series":[{"name":"mem_dumps","columns":[` + columns + `],"values":[` + rows + `]}]}]}`
}

// fieldKeys returns a response to SHOW FIELD KEYS with pairs of name and type.
func fieldKeys(pairs ...string) string {
	var rows []string
	for i := 0; i < len(pairs); i += 2 {
		rows = append(rows, fmt.Sprintf("[%q,%q]", pairs[i], pairs[i+1]))
	}
	return rowsOf(`"fieldKey","fieldType"`, strings.Join(rows, ","))
}

// during returns a wait for memory: statements that contain part take the time.
func during(part string, wait time.Duration) func(string) time.Duration {
	return func(statement string) time.Duration {
		if strings.Contains(statement, part) {
			return wait
		}
		return 0
	}
}

// sumOfBytes is a part of a statement that only the query compressed_bytes has.
const sumOfBytes = `SELECT SUM("gzip`

// lines is a logger that stores its lines.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
	n    int
}

func (l *lines) Log(fields ...any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
	return log.NewLogfmtLogger(&l.text).Log(fields...)
}

// String returns the lines so far.
func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// virtual is an exporter of a Fake, by the virtual clock of synctest.
type virtual struct {
	*influxtest.Fake
	scraper
	log *bytes.Buffer
}

func newVirtual(t *testing.T, fake *influxtest.Fake, changes ...func(*Config)) *virtual {
	t.Helper()
	v := &virtual{Fake: fake, log: &bytes.Buffer{}}
	logger := log.NewLogfmtLogger(log.NewSyncWriter(v.log))
	changes = append([]func(*Config){func(c *Config) { c.Now, c.Logger = time.Now, logger }}, changes...)
	// With fewer, queries wait for each other, some of them at a mutex, where virtual time stops.
	client := newClientOver(t, fake, influx.Config{URL: "http://memory", Database: "db", MaxConcurrency: 32})
	e := newExporter(t, client, changes...)
	v.scraper = scraper{e, e.Handler(HandlerConfig{Self: prometheus.NewRegistry(), Timeouts: Timeouts{Default: 10 * time.Second}})}
	return v
}

// scrape scrapes once, with a timeout of ten seconds.
func (v *virtual) scrape(t *testing.T) exposition {
	t.Helper()
	return (<-v.begin(t.Context(), "10")).metrics(t)
}

// wantTruth reports an error unless all metrics about dumps and VMs are true of the points of the
// Fake at now.
func (v *virtual) wantTruth(t *testing.T, got exposition) {
	t.Helper()
	v.Read(func(h *influxtest.History) {
		got.wantTable(t, truth(h, v.exporter.config.Now()))
		wantPerVM(t, got, h.DumpsByDomain())
	})
	got.wantValue(t, 1, "memdump_up")
	if t.Failed() {
		for _, status := range v.exporter.Statuses() {
			if status.Err != nil {
				t.Errorf("%s: %v", status.Query, status.Err)
			}
		}
		t.FailNow()
	}
}

// state returns the state of the history of dumps.
func (v *virtual) state() HistoryState { return v.exporter.Histories()[dumps] }

// dumpAt returns a dump of the VM with a number, with the fields of both writers.
func dumpAt(at time.Time, vm int) influxtest.Point {
	return influxtest.Point{
		Measurement: influxtest.Dumps,
		Tags:        map[string]string{"dom": fmt.Sprint("vm-", vm), "vmid": strconv.Itoa(100 + vm), "host": fmt.Sprint("hv", vm%3)},
		Fields: map[string]any{"sha256": "x", "duration_sec": float64(8+vm%50) / 8, "gzip_size_bytes": int64(1000 + vm),
			"raw_size_bytes": int64(1<<30 + vm)},
		TimeNs: at.UnixNano(),
	}
}

// seenAt returns telemetry of the VM with a number.
func seenAt(at time.Time, vm int) influxtest.Point {
	return influxtest.Point{
		Measurement: influxtest.Telemetry,
		Tags:        map[string]string{"VMID": strconv.Itoa(100 + vm), "name": fmt.Sprint("vm-", vm), "uuid": fmt.Sprint("u-", vm)},
		Fields:      map[string]any{"state": 1},
		TimeNs:      at.UnixNano(),
	}
}

// regular returns a Fake with a dump every ten minutes up to now, of ten VMs that are monitored.
func regular(dumps int) *influxtest.Fake {
	fake, now := &influxtest.Fake{}, time.Now()
	for i := range dumps {
		fake.Add(dumpAt(now.Add(-time.Duration(i)*10*time.Minute), i%10))
	}
	for vm := range 10 {
		fake.Add(seenAt(now.Add(-time.Duration(vm)*time.Hour), vm))
	}
	return fake
}

// The kinds of statements.
func isShow(statement string) bool { return strings.HasPrefix(statement, "SHOW") }
func isRecords(statement string) bool {
	return strings.Contains(statement, `"raw_size_bytes"::field AS "raw_size_bytes" FROM`)
}
func isFullDumps(statement string) bool {
	return strings.Contains(statement, `FROM "mem_dumps"`) && !isShow(statement) && !strings.Contains(statement, " WHERE ")
}

// count returns how many statements are of a kind.
func countOf(statements []string, is func(string) bool) int {
	n := 0
	for _, statement := range statements {
		if is(statement) {
			n++
		}
	}
	return n
}

var timeCondition = regexp.MustCompile(`time (>=|<) (-?\d+)`)

// boundsOf returns the time range of a statement.
func boundsOf(statement string) rangecache.Range {
	r := rangecache.All
	for _, m := range timeCondition.FindAllStringSubmatch(statement, -1) {
		ns, _ := strconv.ParseInt(m[2], 10, 64)
		if m[1] == "<" {
			r.To = ns
		} else {
			r.From = ns
		}
	}
	return r
}

// intercept responds to some requests in place of a Fake; with neither a response nor an error, the Fake does.
type intercept = func(*http.Request) (*http.Response, error)

// intercepted converts a function of the statement into one for Fake.Intercept.
func intercepted(see func(ctx context.Context, statement string) (status int, body string, err error)) intercept {
	return func(r *http.Request) (*http.Response, error) {
		status, body, err := see(r.Context(), r.URL.Query().Get("q"))
		if status != 0 {
			return influxtest.FakeResponse(r, status, body), nil
		}
		return nil, err
	}
}

// delays returns a function for Fake.Intercept that waits for the time that a statement takes.
func delays(wait func(statement string) time.Duration) intercept {
	return intercepted(func(ctx context.Context, statement string) (int, string, error) {
		if d := wait(statement); d > 0 {
			select {
			case <-time.After(d):
			case <-ctx.Done():
				return 0, "", ctx.Err()
			}
		}
		return 0, "", nil
	})
}

// slowed makes an intercept that delays the statements of a kind.
func slowed(is func(statement string) bool, d time.Duration) intercept {
	return delays(func(statement string) time.Duration {
		if is(statement) {
			return d
		}
		return 0
	})
}

// forever is longer than any test waits.
const forever = 1000 * time.Hour
