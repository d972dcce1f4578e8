package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"memdump_exporter/influx/influxtest"
)

// binary is the path of the exporter, built as a user builds it.
var binary string

// influxdb is a real InfluxDB, shared by the tests.
var influxdb influxtest.Shared

func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() != "" { // whose workers have no use for the binary
		os.Exit(m.Run())
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "memdump_exporter-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, name)
		if output, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building the exporter: %v\n%s", err, output)
			return 1
		}
		code := m.Run()
		if err := influxdb.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if err := goleak.Find(); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}())
}

// exporter is a running process: the built binary, or another server that logs its address as the exporter does.
type exporter struct {
	URL  string
	proc *influxtest.Process
	ends string // the error with which it must end; empty: none

	mu   sync.Mutex
	logs strings.Builder
	more *sync.Cond // a line has come, or the last one has
	over bool
}

// maxLogOfFailure limits how much of its log a failed test prints, in bytes.
const maxLogOfFailure = 16 << 10

// listening matches the address in the log of a server that is built on the exporter-toolkit.
var listening = regexp.MustCompile(`msg="Listening on".* address=(\S+)`)

// must ends the test where there is an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sources returns the contents of all files that the patterns match.
func sources(t *testing.T, patterns ...string) string {
	t.Helper()
	var code strings.Builder
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		must(t, err)
		for _, file := range files {
			source, err := os.ReadFile(file)
			must(t, err)
			code.Write(source)
		}
	}
	return code.String()
}

// write writes a file that the user alone may read.
func write(t *testing.T, file, text string) {
	t.Helper()
	must(t, os.WriteFile(file, []byte(text), 0o600))
}

// putInPlace puts a file in place as Kubernetes does: whole, by a rename.
func putInPlace(t *testing.T, file, text string) {
	t.Helper()
	write(t, file+".new", text)
	must(t, os.Rename(file+".new", file))
}

// startExporter runs the binary on a free port with that environment and no other, until the test ends.
func startExporter(t *testing.T, env []string, args ...string) *exporter {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"--web.listen-address=127.0.0.1:0", "--log.level=debug"}, args...)...)
	cmd.Env = append([]string{}, env...)
	return start(t, cmd)
}

// start runs a server until the test ends, and waits for its address.
func start(t *testing.T, cmd *exec.Cmd) *exporter {
	t.Helper()
	e := &exporter{}
	select {
	case address := <-e.run(t, cmd):
		e.URL = "http://" + address
	case <-e.proc.Done():
		t.Fatalf("%s ended: %v\n%s", cmd.Path, e.proc.Err(), e.Logs())
	}
	return e
}

// run runs a server until the test ends. It sends the address that the log names, unless the log goes elsewhere.
func (e *exporter) run(t *testing.T, cmd *exec.Cmd) (address chan string) {
	t.Helper()
	stderr, logs := io.Pipe()
	if cmd.Stderr == nil {
		cmd.Stderr = logs
	}
	e.more = sync.NewCond(&e.mu)
	proc, err := influxtest.StartProcess(cmd)
	must(t, err)
	e.proc = proc
	address = make(chan string, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			e.mu.Lock()
			e.logs.WriteString(lines.Text() + "\n")
			e.mu.Unlock()
			e.more.Broadcast()
			if found := listening.FindStringSubmatch(lines.Text()); found != nil {
				address <- found[1]
			}
		}
		e.mu.Lock()
		e.over = true
		e.mu.Unlock()
		e.more.Broadcast()
	}()
	t.Cleanup(func() {
		if err := proc.Stop(); err != nil {
			t.Error(err)
		}
		logs.Close()
		<-read
		if err := proc.Err(); err != nil && err.Error() != e.ends || err == nil && e.ends != "" {
			t.Errorf("after SIGTERM: %v", err)
		}
		if t.Failed() {
			log := e.Logs()
			t.Logf("the end of the log of %s:\n%s", cmd.Path, log[max(0, len(log)-maxLogOfFailure):])
		}
	})
	return address
}

// socket is a listener that exporters inherit as from systemd. Requests to its URL wait for them.
type socket struct {
	URL  string
	file *os.File
}

func newSocket(t *testing.T) socket {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	file, err := listener.(*net.TCPListener).File()
	must(t, err)
	t.Cleanup(func() { listener.Close(); file.Close() })
	return socket{"http://" + listener.Addr().String(), file}
}

// start runs an exporter on the socket until the test ends: a shell that executes "$@".
func (s socket) start(t *testing.T, script string, env []string, stderr io.Writer, args ...string) *exporter {
	t.Helper()
	// LISTEN_PID names the shell, which becomes the exporter.
	cmd := exec.Command("sh", append([]string{"-c", "export LISTEN_PID=$$; " + script, "sh", binary, "--web.systemd-socket"}, args...)...)
	cmd.Env, cmd.ExtraFiles, cmd.Stderr = append([]string{"LISTEN_FDS=1"}, env...), []*os.File{s.file}, stderr
	e := &exporter{URL: s.URL}
	e.run(t, cmd)
	return e
}

// until waits for a state of another process, which sends no signal, and returns how long that took.
func until(t *testing.T, within time.Duration, what string, holds func() error) time.Duration {
	t.Helper()
	for began := time.Now(); ; {
		err := holds()
		took := time.Since(began)
		if err == nil {
			return took
		} else if took > within {
			t.Errorf("not within %v: %s: %v", within, what, err)
			return took
		}
		pause(t.Context(), time.Millisecond+took/50)
	}
}

// pause waits for d, or until the context ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// atOnce sends n requests at once. The channel is closed after the last response.
func atOnce(n int, send func() reply) <-chan reply {
	replies := make(chan reply, n)
	var all sync.WaitGroup
	for range n {
		all.Go(func() { replies <- send() })
	}
	go func() { all.Wait(); close(replies) }()
	return replies
}

// openFiles returns how many files and connections the process has open.
func (e *exporter) openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", e.proc.Pid()))
	must(t, err)
	return len(files)
}

// peakMiB returns the largest resident memory that the process has had.
func (e *exporter) peakMiB(t *testing.T) float64 { return e.memoryMiB(t, "VmHWM:") }

func (e *exporter) memoryMiB(t *testing.T, kind string) (mib float64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.proc.Pid()))
	must(t, err)
	_, after, _ := strings.Cut(string(status), kind)
	_, err = fmt.Sscan(after, &mib)
	must(t, err)
	return mib / 1024
}

func (e *exporter) Logs() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.logs.String()
}

// logsWith waits until all of the words are in the log from a place on, or the log has
// ended, or a minute has passed, and returns that part of the log.
func (e *exporter) logsWith(from int, words ...string) string {
	late := false
	defer time.AfterFunc(time.Minute, func() {
		e.mu.Lock()
		late = true
		e.mu.Unlock()
		e.more.Broadcast()
	}).Stop()
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		text := e.logs.String()[from:]
		missing := slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(text, word) })
		if !missing || e.over || late {
			return text
		}
		e.more.Wait()
	}
}

// families are the metrics of one scrape by name.
type families map[string]*dto.MetricFamily

func parseText(text string) (families, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	found, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%w in\n%s", err, text)
	}
	return found, nil
}

// scrape fetches /metrics as Prometheus does, by default with a timeout that no test reaches. Any response but a whole 200
// ends the test.
func (e *exporter) scrape(t *testing.T, header ...string) families {
	t.Helper()
	if len(header) == 0 {
		header = []string{timeoutHeader, fmt.Sprint(patient)}
	}
	found, err := parseText(get(t, e.URL+"/metrics", http.StatusOK, header...))
	must(t, err)
	return found
}

// reply is a response, or the error of a request.
type reply struct {
	status int // 0: no whole response
	header http.Header
	body   string
	took   time.Duration
	err    error
}

// whole reports whether a scrape has all metrics.
func (r reply) whole() bool {
	return r.status == http.StatusOK && strings.Contains(r.body, "\nmemdump_up 1\n")
}

const (
	// timeoutHeader announces the scrape timeout of Prometheus, in seconds.
	timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"
	// patient is a scrape timeout, in seconds, that no test reaches.
	patient = 30
)

// send sends a request with a client, or on a connection of its own where that is nil. Header is a list of names and
// values; the URL may contain a user and a password.
func send(client *http.Client, method, url string, header ...string) reply {
	req, err := http.NewRequestWithContext(context.Background(), method, url, nil)
	if err != nil {
		return reply{err: err}
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return do(client, req)
}

// do sends a request with a client, or on a connection of its own where that is nil.
func do(client *http.Client, req *http.Request) reply {
	began := time.Now()
	if client == nil {
		client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 40 * time.Second, CheckRedirect: stay}
	}
	resp, err := client.Do(req)
	if err != nil {
		return reply{err: err, took: time.Since(began)}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		resp.StatusCode = 0
	}
	return reply{resp.StatusCode, resp.Header, string(body), time.Since(began), err}
}

// stay follows no redirect.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// get returns the whole body of a response with the status; header is a list of names and values.
func get(t *testing.T, url string, status int, header ...string) string {
	t.Helper()
	got := send(nil, http.MethodGet, url, header...)
	if got.err != nil || got.status != status {
		t.Fatalf("%s: HTTP %d, want %d; %v\n%s", url, got.status, status, got.err, got.body)
	}
	return got.body
}

// number returns the value of a metric of any type.
func number(m *dto.Metric) float64 {
	return m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue()
}

// value returns the value of a metric's first series, and 0 where there is none.
func (f families) value(name string) float64 {
	for _, m := range f[name].GetMetric() {
		return number(m)
	}
	return 0
}

// gauges returns the series by name and labels, such as memdump_query_success{query="dumps"}.
func (f families) gauges(names ...string) map[string]float64 {
	values := make(map[string]float64)
	for _, name := range names {
		for _, m := range f[name].GetMetric() {
			series := name
			for _, l := range m.GetLabel() {
				series += fmt.Sprintf("{%s=%q}", l.GetName(), l.GetValue())
			}
			values[series] = number(m)
		}
	}
	return values
}

// failures returns the number of failures by query and reason, such as dumps/timeout.
func (f families) failures() map[string]float64 {
	counts := make(map[string]float64)
	for _, m := range f["memdump_query_errors_total"].GetMetric() {
		if n := number(m); n > 0 {
			counts[label(m, "query")+"/"+label(m, "reason")] = n
		}
	}
	return counts
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// metricsOf are the metrics, by query, that the generator of the data has a truth for. Those of coverage need two queries.
var metricsOf = map[string][]string{
	"dumps":            {"memdump_dumps"},
	"dumped_vms":       {"memdump_dumped_vms", "memdump_dumped_domains", "memdump_vms_never_dumped", "memdump_vms_dump_overdue"},
	"compressed_bytes": {"memdump_dumps_compressed_bytes"},
	"raw_bytes":        {"memdump_dumps_raw_bytes"},
	"duration_mean":    {"memdump_dump_duration_mean_seconds", "memdump_dumps_duration_seconds", "memdump_dumps_with_duration"},
	"last_dump":        {"memdump_last_dump_timestamp_seconds"},
	"monitored_vms":    {"memdump_monitored_vms", "memdump_monitored_domains", "memdump_vms_never_dumped", "memdump_vms_dump_overdue"},
}

// knownMetrics returns those of all queries, sorted.
func knownMetrics() []string {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(slices.Collect(maps.Values(metricsOf))...))))
}

// expected is what /metrics must hold: the value of each metric that has one, and the reason of each query that must fail.
type expected struct {
	values  map[string]float64 // by metric
	reasons map[string]string  // by query
}

// truth returns what is expected where no query fails.
func truth(h *influxtest.History) expected {
	return expected{values: h.Truth(time.Now().UnixNano(), 24*time.Hour).Metrics()}
}

// but returns what is expected where the queries fail for a reason.
func (e expected) but(reason string, queries ...string) expected {
	e = expected{maps.Clone(e.values), maps.Clone(e.reasons)}
	if e.reasons == nil {
		e.reasons = make(map[string]string)
	}
	for _, query := range queries {
		for _, metric := range metricsOf[query] {
			delete(e.values, metric)
		}
		e.reasons[query] = reason
	}
	return e
}

// with returns what is expected where metrics have these values.
func (e expected) with(values map[string]float64) expected {
	e.values = maps.Clone(e.values)
	maps.Copy(e.values, values)
	return e
}

// allFail returns what is expected where all queries fail for a reason.
func allFail(reason string) expected {
	return expected{}.but(reason, slices.Collect(maps.Keys(metricsOf))...)
}

// holds compares the first scrape of an exporter with what is expected: every metric,
// memdump_up, every memdump_query_success, and the reasons of what failed.
func (e expected) holds(t *testing.T, got families) {
	t.Helper()
	e.shown(t, got)
	reasons := make(map[string]string)
	for failure := range got.failures() {
		if query, reason, _ := strings.Cut(failure, "/"); metricsOf[query] != nil {
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
	for _, wrong := range e.differences(got) {
		t.Error(wrong)
	}
}

// differences describes the metrics, but for counters, that differ from what is expected.
func (e expected) differences(got families) (wrong []string) {
	want := maps.Clone(e.values)
	if want == nil {
		want = make(map[string]float64)
	}
	for query := range metricsOf {
		_, fails := e.reasons[query]
		want[`memdump_query_success{query="`+query+`"}`] = map[bool]float64{true: 0, false: 1}[fails]
	}
	want["memdump_up"] = map[bool]float64{true: 1, false: 0}[len(e.reasons) == 0]
	seen := got.gauges(append([]string{"memdump_up", "memdump_query_success"}, knownMetrics()...)...)
	maps.DeleteFunc(seen, func(series string, _ float64) bool {
		_, query, ofQuery := strings.Cut(series, "{query=")
		return ofQuery && metricsOf[strings.Trim(query, `"}`)] == nil
	})
	for series, value := range want {
		if s, ok := seen[series]; !ok {
			wrong = append(wrong, fmt.Sprintf("%s is absent, want %v", series, value))
		} else if s != value {
			wrong = append(wrong, fmt.Sprintf("%s is %v, want %v", series, s, value))
		}
	}
	for series, value := range seen {
		if _, ok := want[series]; !ok {
			wrong = append(wrong, fmt.Sprintf("%s is %v, want it to be absent", series, value))
		}
	}
	return wrong
}

func execute(t *testing.T, server *influxtest.Server, statement string) {
	t.Helper()
	must(t, server.Exec(t.Context(), statement))
}

func point(measurement string, at time.Time, fields map[string]any, tags map[string]string) influxtest.Point {
	return influxtest.Point{Measurement: measurement, Tags: tags, Fields: fields, TimeNs: at.UnixNano()}
}

func dump(vmid string, at time.Time, fields map[string]any) influxtest.Point {
	return point(influxtest.Dumps, at, fields, map[string]string{"dom": "dom-" + vmid, "vmid": vmid})
}

func sample(vmid string, at time.Time, fields map[string]any) influxtest.Point {
	return point(influxtest.Telemetry, at, fields, map[string]string{"VMID": vmid, "name": "dom-" + vmid, "uuid": "u-" + vmid})
}

// first returns the fields of the older dump program, second those of today's dump service.
func first(bytes int64) map[string]any {
	return map[string]any{"sha256": "ab", "duration_sec": 2.5, "gzip_size_bytes": bytes, "ctime": 1, "mtime": 1.5, "dump_path": "/d"}
}

func second() map[string]any {
	return map[string]any{"sha256": "cd", "ok": true, "raw_size_bytes": 4e9, "dump_duration_sec": 9.0, "loop": 3, "every_sec": 60.0}
}

// front is a proxy before InfluxDB that responds to some statements itself, byte for byte.
type front struct {
	*httptest.Server
	connections atomic.Int64
	passed      chan struct{} // one for each response of InfluxDB to a SELECT since set, when there is room

	mu       sync.Mutex
	requests []*http.Request
	on       []string // parts of the statements, or paths, that the script responds to
	respond  script
	handled  int   // requests that it responded to
	sent     int64 // bytes of its longest response
}

// script writes a response, valid or not; then the connection is closed.
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

// sumColumns are the columns of compressed_bytes, and of no other query.
const sumColumns = `SELECT SUM("gzip_size_bytes"::field) AS "compressed" FROM`

func newFront(t *testing.T, influxdb string) *front {
	t.Helper()
	proxy := influxtest.Forward(t, influxdb)
	f := &front{passed: make(chan struct{}, 100)}
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		respond := f.match(r)
		if respond == nil {
			proxy.ServeHTTP(w, r)
			if strings.HasPrefix(r.URL.Query().Get("q"), "SELECT") {
				select {
				case f.passed <- struct{}{}:
				default:
				}
			}
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		counting := &countingConn{TCPConn: conn.(*net.TCPConn)}
		respond(counting, r)
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
	if f.respond == nil || !slices.ContainsFunc(f.on, func(part string) bool {
		return part == r.URL.Path || strings.Contains(r.URL.Query().Get("q"), part)
	}) {
		return nil
	}
	f.handled++
	return f.respond
}

// last delays a script until InfluxDB has responded to all other queries of a scrape.
func (f *front) last(respond script) script {
	return func(conn *countingConn, r *http.Request) {
		late := time.After(patient * time.Second)
		for range len(metricsOf) - 1 {
			select {
			case <-f.passed:
			case <-late:
				return
			}
		}
		respond(conn, r)
	}
}

// set sets the script and what it responds to. It returns how many requests the former
// script responded to, and the bytes of its longest response.
func (f *front) set(respond script, on ...string) (handled int, sent int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	handled, sent = f.handled, f.sent
	f.respond, f.on, f.handled, f.sent = respond, on, 0, 0
	for len(f.passed) > 0 {
		<-f.passed
	}
	return handled, sent
}

// hold leaves statements without a response until the exporter closes the connection. The channel receives a value for
// each.
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

func countNew(n *atomic.Int64) func(net.Conn, http.ConnState) {
	return func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			n.Add(1)
		}
	}
}

// tlsFront is a proxy for influx.example that requires a client certificate of the same CA.
func tlsFront(t *testing.T, influxdb string, ca *authority) string {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	front := httptest.NewUnstartedServer(influxtest.Forward(t, influxdb))
	front.TLS = &tls.Config{
		Certificates: []tls.Certificate{ca.pair(t, "influx.example")},
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
	}
	front.Config.ErrorLog = log.New(io.Discard, "", 0) // refusals are what is tested
	front.StartTLS()
	t.Cleanup(front.Close)
	return front.URL
}

// authority signs certificates for a test.
type authority struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	PEM   string
	until time.Time         // of what is issued
	leaf  *ecdsa.PrivateKey // of what is issued; nil: a new one each time
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{until: time.Now().Add(time.Hour)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	a.key = newKey(t)
	der := sign(t, template, template, &a.key.PublicKey, a.key)
	a.cert, a.PEM = parseCert(t, der), toPEM("CERTIFICATE", der)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func sign(t *testing.T, template, parent *x509.Certificate, public *ecdsa.PublicKey, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	must(t, err)
	return der
}

func parseCert(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert
}

func toPEM(kind string, der []byte) string {
	var b bytes.Buffer
	_ = pem.Encode(&b, &pem.Block{Type: kind, Bytes: der})
	return b.String()
}

// issue returns the PEM of a certificate for a name, and of its key.
func (a *authority) issue(t *testing.T, dnsName string) (cert, key string) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: dnsName}, DNSNames: []string{dnsName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: a.until,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	private := cmp.Or(a.leaf, newKey(t))
	der, err := x509.MarshalECPrivateKey(private)
	must(t, err)
	return toPEM("CERTIFICATE", sign(t, template, a.cert, &private.PublicKey, a.key)), toPEM("EC PRIVATE KEY", der)
}

func (a *authority) pair(t *testing.T, name string) tls.Certificate {
	t.Helper()
	cert, key := a.issue(t, name)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	must(t, err)
	return pair
}
