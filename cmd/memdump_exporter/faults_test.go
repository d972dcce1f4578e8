//go:build faults

package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/rs/zerolog"

	"memdump_exporter/influx/influxtest"
)

// row is one fault of the matrix: what can go wrong around the exporter, and what must
// be seen of it.
type row struct {
	id, what string
	run      func(*testing.T, *matrix)
	// Without run: where else it is tested, or why it does not apply here.
	tested, why string
	// off are edits of the source that switch the row's guard off: with them, the row
	// must fail (TestSabotage).
	off []edit
}

type edit struct{ file, old, new string }

// rows is the whole matrix.
func rows() []row {
	return slices.Concat(networkRows, protocolRows, bodyRows, influxdbRows, credentialsRows, clientRows, hostRows)
}

const (
	rowsInAll = 94
	// canary is the token that is sent to InfluxDB. It must not come out anywhere.
	canary = "canary-9f2c81d4"
	// announced is the scrapers' timeout, in seconds.
	announced = 3
	// moreMiB is how much more memory than idle a fault may cost, in MiB.
	moreMiB = 24
	// mostTaken is how much of an answer may be taken from its writer, in bytes: the
	// largest bound of an answer, and what the kernel holds.
	mostTaken = 48 << 20
	// settleTime is in how long everything that a fault took is given back.
	settleTime = 2 * time.Second
)

// TestFaults runs the matrix on the built exporter, and prints a line for each row.
func TestFaults(t *testing.T) {
	if n := len(rows()); n != rowsInAll {
		t.Errorf("%d rows, want %d", n, rowsInAll)
	}
	m := newMatrix(t)
	sums := map[string]int{}
	for _, r := range rows() {
		result, remark := "passed", ""
		switch {
		case r.why != "":
			result, remark = "not applicable", r.why
		case r.run == nil:
			result, remark = "elsewhere", r.tested
		default:
			began, ran, left := time.Now(), false, ""
			if !t.Run(r.id, func(t *testing.T) {
				ran = true
				m.left, m.subject.peak = "", 0
				defer func() { left = m.left }()
				r.run(t, m)
			}) {
				result = "FAILED"
			}
			if !ran { // not asked for with -run
				continue
			}
			if m.subject.peak > 0 {
				m.note("peak %.1f MiB, idle %.1f", m.subject.peak, m.subject.idle)
			}
			if remark = fmt.Sprintf("%.1f s; %s", time.Since(began).Seconds(), m.said()); left != "" {
				result, remark = "not tried", left
			}
		}
		sums[result]++
		fmt.Printf("%-4s%-15s%s (%s)\n", r.id, result, r.what, strings.TrimSuffix(remark, "; "))
	}
	fmt.Printf("%d rows:", rowsInAll)
	for _, result := range slices.Sorted(maps.Keys(sums)) {
		fmt.Printf(" %d %s", sums[result], result)
	}
	fmt.Println()
}

// TestSabotage switches the guard of each row off, and wants the row to fail.
func TestSabotage(t *testing.T) {
	for _, r := range rows() {
		if len(r.off) == 0 {
			continue
		}
		t.Run(r.id, func(t *testing.T) {
			file := overlay(t, r.off...)
			cmd := exec.Command(os.Args[0], "-test.run=^TestFaults$/^"+r.id+"$", "-test.v")
			cmd.Env = append(os.Environ(), "GOFLAGS=-overlay="+file)
			output, err := cmd.CombinedOutput()
			if !strings.Contains(string(output), "--- FAIL: TestFaults/"+r.id+" ") {
				t.Errorf("it does not fail: %v\n%s", err, output)
				return
			}
			fmt.Printf("%-4sred without its guard: %s\n", r.id, firstError(string(output)))
		})
	}
}

// overlay is a file for the go command's flag -overlay, by which it reads the source
// with edits.
func overlay(t *testing.T, edits ...edit) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	replaced := map[string]string{}
	if before, ok := strings.CutPrefix(os.Getenv("GOFLAGS"), "-overlay="); ok { // of a sabotage
		text, err := os.ReadFile(before)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &struct{ Replace *map[string]string }{&replaced}); err != nil {
			t.Fatal(err)
		}
	}
	for i, e := range edits {
		file := filepath.Join(root, e.file)
		source, err := os.ReadFile(cmp.Or(replaced[file], file))
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(source), e.old); n != 1 {
			t.Fatalf("%s holds %d of %q, want 1", e.file, n, e.old)
		}
		replaced[file] = filepath.Join(t.TempDir(), fmt.Sprint(i))
		write(t, replaced[file], strings.Replace(string(source), e.old, e.new, 1))
	}
	text, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "overlay.json")
	write(t, file, string(text))
	return file
}

// firstError is the first message of a test that failed.
func firstError(output string) string {
	for line := range strings.Lines(output) {
		if _, text, found := strings.Cut(line, "_test.go:"); found {
			_, text, _ = strings.Cut(text, ": ")
			return fmt.Sprintf("%.160s", strings.TrimSpace(text))
		}
	}
	return "no message"
}

// matrix is what the rows share: one exporter before one InfluxDB, through all of them.
type matrix struct {
	server  *influxtest.Server
	history *influxtest.History
	front   *front
	toxic   *toxiproxy.Proxy // another way to InfluxDB
	subject *subject         // behind front
	left    string           // why a row could not be tried

	storeSlow sync.Once
	many      *influxtest.History // in slowDatabase

	mu      sync.Mutex
	remarks []string
}

func newMatrix(t *testing.T) *matrix {
	m := &matrix{server: influxtest.MustStart(t), history: influxtest.Believable(5, time.Now())}
	store(t, m.server, "vmstats", m.history)
	m.front = newFront(t, m.server.URL)
	zerolog.SetGlobalLevel(zerolog.Disabled)
	toxics := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	m.toxic = toxiproxy.NewProxy(toxics, "influxdb", "127.0.0.1:0", strings.TrimPrefix(m.server.URL, "http://"))
	if err := m.toxic.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.toxic.Stop)
	m.subject = m.start(t, m.front.URL)
	return m
}

// note is said beside the row's result.
func (m *matrix) note(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remarks = append(m.remarks, fmt.Sprintf(format, args...))
}

func (m *matrix) said() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	said := strings.Join(m.remarks, "; ")
	m.remarks = nil
	return said
}

// skip leaves a row out that this machine does not let be tried.
func (m *matrix) skip(t *testing.T, format string, args ...any) {
	m.left = fmt.Sprintf(format, args...)
	t.Skip(m.left)
}

// front stands before InfluxDB and answers one question as a row says, byte for byte.
type front struct {
	*httptest.Server

	mu     sync.Mutex
	on     []string // parts of the questions that are answered so, or paths
	answer script
	asked  int   // these
	sent   int64 // bytes of the longest of the answers

	others atomic.Int64 // questions that were answered by InfluxDB
}

// script writes whatever it likes; then the connection is closed.
type script func(conn *countingConn, r *http.Request)

const (
	sumQuestion     = `SUM("gzip_size_bytes")`
	recordsQuestion = `"dump_path"`
)

func newFront(t *testing.T, influxdb string) *front {
	target, err := url.Parse(influxdb)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	proxy.Transport = transport
	proxy.ErrorLog = errorLog(discard{}) // an exporter that leaves is what is tested
	f := &front{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer := f.match(r); answer != nil {
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
			return
		}
		proxy.ServeHTTP(w, r)
		f.others.Add(1)
	}))
	t.Cleanup(func() { f.Close(); transport.CloseIdleConnections() })
	return f
}

func (f *front) match(r *http.Request) script {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.answer == nil || !slices.ContainsFunc(f.on, func(part string) bool {
		return part == r.URL.Path || strings.Contains(r.URL.Query().Get("q"), part)
	}) {
		return nil
	}
	f.asked++
	return f.answer
}

// set changes what is answered to whom, and returns how often it was, and how many
// bytes were taken at most.
func (f *front) set(a script, on ...string) (asked int, sent int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	asked, sent = f.asked, f.sent
	f.answer, f.on, f.asked, f.sent = a, on, 0, 0
	return asked, sent
}

type countingConn struct {
	*net.TCPConn
	sent int64
}

func (c *countingConn) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	c.sent += int64(n)
	return n, err
}

// subject is an exporter that is looked at from all sides.
type subject struct {
	*exporter
	m          *matrix
	token      string  // file
	goroutines float64 // when idle, as files and MiB
	files      int
	idle       float64
	peak       float64 // MiB, of this row
	counted    map[string]float64
	logged     int
}

// start starts an exporter that asks there, and asks it for everything before it is
// measured. It asks each figure once a scrape, whatever happens.
func (m *matrix) start(t *testing.T, influxdb string, args ...string) *subject {
	t.Helper()
	return m.startAs(t, nil, influxdb, args...)
}

// startAs does that by a command that runs "$@", such as nice.
func (m *matrix) startAs(t *testing.T, by []string, influxdb string, args ...string) *subject {
	t.Helper()
	s := m.run(t, by, influxdb, args...)
	for range 2 {
		if !strings.Contains(s.fetch(t, "/metrics", patient...).body, "\nmemdump_up 1") {
			break
		}
		s.fetch(t, "/records?limit=10000")
		s.fetch(t, "/")
	}
	s.measure(t)
	return s
}

func (m *matrix) run(t *testing.T, by []string, influxdb string, args ...string) *subject {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	write(t, file, canary)
	command := slices.Concat(by, []string{binary, "--web.listen-address=127.0.0.1:0", "--log.level=debug", "--influx.ranges=whole",
		"--influx.url=" + influxdb, "--influx.token-file=" + file}, args)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	return &subject{exporter: start(t, cmd), m: m, token: file}
}

// measure notes what the exporter is like when idle.
func (s *subject) measure(t *testing.T) {
	t.Helper()
	now := s.parse(t, s.fetch(t, "/metrics", patient...).body)
	s.counted = now.counts()
	s.goroutines, s.files, s.idle = now.goroutines(), s.openFiles(t), s.peakMiB(t)
}

func (f families) goroutines() float64 { return f.gauges("go_goroutines")["go_goroutines"] }

// counts are the failures so far by query and reason.
func (f families) counts() map[string]float64 {
	counts := map[string]float64{}
	for _, m := range f["memdump_query_errors_total"].GetMetric() {
		counts[label(m, "query")+"/"+label(m, "reason")] = m.GetCounter().GetValue()
	}
	return counts
}

// patient is the header of a scraper for which what is asked for does not matter.
var patient = []string{"X-Prometheus-Scrape-Timeout-Seconds", "20"}

func (s *subject) openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.proc.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// reply is what a client was answered.
type reply struct {
	status int // 0: no whole answer
	header http.Header
	body   string
	took   time.Duration
	err    error
}

// fetch asks on a connection of its own; header is a list of names and values.
func (s *subject) fetch(t *testing.T, path string, header ...string) reply {
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, nil)
	if err != nil {
		return reply{err: err}
	}
	req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", fmt.Sprint(announced))
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return reply{err: err, took: time.Since(began)}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	r := reply{resp.StatusCode, resp.Header, string(body), time.Since(began), err}
	if strings.Contains(r.body+fmt.Sprint(r.header), canary) {
		t.Errorf("the token is in the answer to %s:\n%s", path, r.body)
	}
	if err != nil {
		r.status = 0
	}
	return r
}

// parse reads an exposition, and has it judged by promlint.
func (s *subject) parse(t *testing.T, text string) families {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	found, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
	return found
}

// seen is what must be seen of a fault during one scrape.
type seen struct {
	reason  string        // for which the queries fail; empty: none may
	queries []string      // that do; nil: compressed_bytes
	values  expected      // of the others; zero: the truth
	within  time.Duration // 0: the scraper's timeout
	timeout int           // that, in seconds; 0: announced
	records bool          // /records must fail, too
}

func all() []string { return slices.Sorted(maps.Keys(gaugeOf)) }

// sees makes a scrape while something is wrong.
func (s *subject) sees(t *testing.T, want seen) {
	t.Helper()
	records := make(chan reply, 1)
	if want.records {
		go func() { records <- s.fetch(t, "/records") }()
	}
	s.holds(t, want, s.fetch(t, "/metrics", "X-Prometheus-Scrape-Timeout-Seconds", fmt.Sprint(cmp.Or(want.timeout, announced))))
	if want.records {
		r := <-records
		var said struct{ Error string }
		switch {
		case r.err != nil: // cut in the middle, or nothing
		case r.status != http.StatusBadGateway && r.status != http.StatusGatewayTimeout:
			t.Errorf("/records is HTTP %d\n%.300s", r.status, r.body)
		case json.Unmarshal([]byte(r.body), &said) != nil || said.Error == "":
			t.Errorf("/records is HTTP %d without an error: %.300s", r.status, r.body)
		}
	}
}

// holds compares an answer with what must be seen.
func (s *subject) holds(t *testing.T, want seen, got reply) {
	t.Helper()
	if got.err != nil || got.status != http.StatusOK {
		t.Fatalf("the scrape: HTTP %d, %v\n%s", got.status, got.err, got.body)
	}
	if within := cmp.Or(want.within, time.Duration(cmp.Or(want.timeout, announced))*time.Second); got.took > within {
		t.Errorf("answered in %v, want at most %v", got.took, within)
	}
	values := want.values
	if values.values == nil {
		values = truth(s.m.history)
	}
	if want.queries == nil {
		want.queries = []string{"compressed_bytes"}
	}
	if want.reason != "" {
		values = values.but(want.reason, want.queries...)
	}
	found := s.parse(t, got.body)
	values.shown(t, found)
	counts := found.counts()
	for key, count := range counts {
		query, reason, _ := strings.Cut(key, "/")
		step := 0.0
		if reason == want.reason && slices.Contains(want.queries, query) {
			step = 1
		}
		if count-s.counted[key] != step {
			t.Errorf("memdump_query_errors_total of %s went from %v to %v, want %v more", key, s.counted[key], count, step)
		}
	}
	s.counted = counts
}

// recovers makes sure that nothing of a fault is left.
func (s *subject) recovers(t *testing.T) {
	t.Helper()
	select {
	case <-s.proc.Done():
		t.Fatalf("the exporter has ended: %v", s.proc.Err())
	default:
	}
	green := s.fetch(t, "/metrics")
	s.holds(t, seen{}, green)
	open := s.fetch(t, "/metrics", "Accept", "application/openmetrics-text; version=1.0.0")
	body, ended := strings.CutSuffix(open.body, "# EOF\n")
	if !ended || !strings.HasPrefix(open.header.Get("Content-Type"), "application/openmetrics-text") {
		t.Errorf("%q does not end as OpenMetrics does", open.header)
	}
	truth(s.m.history).shown(t, s.parseOpen(t, body))
	if page := s.fetch(t, "/"); page.status != http.StatusOK {
		t.Errorf("the page: HTTP %d, %v", page.status, page.err)
	}
	s.settles(t)
	if peak := s.peakMiB(t); peak > s.idle+moreMiB {
		t.Errorf("peak memory %.1f MiB, %.1f MiB when idle", peak, s.idle)
	} else {
		s.peak = max(s.peak, peak)
	}
	log := s.Logs()
	if strings.Contains(log[s.logged:], canary) {
		t.Errorf("the token is in the log:\n%s", log[s.logged:])
	}
	for line := range strings.Lines(log[s.logged:]) {
		if len(line) > 1024 && !strings.Contains(line, "stack=") {
			t.Errorf("a line of %d bytes in the log: %.300s", len(line), line)
		}
	}
	s.logged = len(log)
}

// parseOpen reads OpenMetrics by the older form's parser, in which a counter's family
// has the name of its samples.
func (s *subject) parseOpen(t *testing.T, text string) families {
	t.Helper()
	var older strings.Builder
	help := ""
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "# HELP ") {
			help = line
			continue
		}
		if name, isCounter := strings.CutSuffix(strings.TrimPrefix(line, "# TYPE "), " counter\n"); isCounter {
			help, line = strings.Replace(help, name, name+"_total", 1), "# TYPE "+name+"_total counter\n"
		}
		older.WriteString(help + line)
		help = ""
	}
	return s.parse(t, older.String())
}

// settles waits until goroutines and open files are as they were when idle, with two
// more of the connections to InfluxDB that are kept.
func (s *subject) settles(t *testing.T) {
	t.Helper()
	for until := time.Now().Add(settleTime); ; {
		files, goroutines := s.openFiles(t), s.parse(t, s.fetch(t, "/metrics", patient...).body).goroutines()
		if files <= s.files+2 && goroutines <= s.goroutines+4 {
			return
		}
		if time.Now().After(until) {
			t.Errorf("%d open files and %v goroutines, %d and %v when idle", files, goroutines, s.files, s.goroutines)
			return
		}
	}
}

// forgetPeak makes the peak of memory begin anew.
func (s *subject) forgetPeak() {
	// Where it is not allowed, the peak is that of all rows so far.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.proc.Pid()), []byte("5"), 0)
}

// oneCase is one form of a row's fault.
type oneCase struct {
	name   string
	answer script
	seen
	on     []string // nil: the sum
	asked  int      // 0: once; less: any number, as net/http repeats on another connection where nothing came
	values func(e expected)
}

// cases answer one question of a scrape as no InfluxDB should, and the others truly.
func cases(list ...oneCase) func(*testing.T, *matrix) {
	return func(t *testing.T, m *matrix) {
		s := m.subject
		for _, c := range list {
			t.Run(c.name, func(t *testing.T) {
				on := c.on
				if on == nil {
					on = []string{sumQuestion}
				}
				if c.records {
					on = append(slices.Clone(on), recordsQuestion)
				}
				s.forgetPeak()
				if c.values != nil {
					c.seen.values = truth(m.history)
					c.values(c.seen.values)
				}
				m.front.set(c.answer, on...)
				s.sees(t, c.seen)
				asked, sent := m.front.set(nil)
				want := 1
				if c.records {
					want = 2
				}
				if c.asked == 0 && asked != want {
					t.Errorf("asked %d times, want %d", asked, want)
				}
				if sent > mostTaken {
					t.Errorf("%d bytes of the answer were taken", sent)
				}
				s.recovers(t)
			})
		}
	}
}

// transport are cases of what happens below the answer: the records meet it, too.
func transport(list ...oneCase) func(*testing.T, *matrix) {
	for i := range list {
		list[i].records = list[i].reason != ""
	}
	return cases(list...)
}

// raw answers with bytes.
func raw(bytes string) script {
	return func(conn *countingConn, _ *http.Request) { _, _ = io.WriteString(conn, bytes) }
}

// status answers well-formed, with any status; header are whole lines.
func status(code int, body string, header ...string) script {
	text := fmt.Sprintf("HTTP/1.1 %d Such\r\nContent-Length: %d\r\n", code, len(body))
	for _, line := range header {
		text += line + "\r\n"
	}
	return raw(text + "\r\n" + body)
}

func ok(body string) script { return status(http.StatusOK, body, "Content-Type: application/json") }

// value is an answer to the question for the sum.
func value(v string) string {
	return `{"results":[{"statement_id":0,"series":[{"name":"mem_dumps","columns":["time","value"],"values":[[0,` + v + `]]}]}]}`
}

// endless writes a head and then the same again and again, up to 10 GiB.
func endless(head, again string) script {
	const whole = 10 << 30
	again = strings.Repeat(again, 1+(64<<10)/len(again))
	return func(conn *countingConn, _ *http.Request) {
		_, err := io.WriteString(conn, head)
		for err == nil && conn.sent < whole {
			_, err = io.WriteString(conn, again)
		}
	}
}

// drip says one thing each fifth of a second, until the exporter leaves.
func drip(head, one string) script {
	return func(conn *countingConn, _ *http.Request) {
		_, err := io.WriteString(conn, head)
		for tick := time.NewTicker(200 * time.Millisecond); err == nil; <-tick.C {
			_, err = io.WriteString(conn, one)
		}
	}
}

// through carries one question to InfluxDB by the proxy with toxics, and the answer back.
func (m *matrix) through(conn *countingConn, r *http.Request) {
	r.Close = true
	m.carry(conn, r)
}

// carry does that until either side leaves.
func (m *matrix) carry(conn *countingConn, r *http.Request) {
	up, err := net.Dial("tcp", m.toxic.Listen)
	if err != nil {
		return
	}
	defer up.Close()
	if r.Write(up) != nil {
		return
	}
	go func() {
		_, _ = io.Copy(io.Discard, conn.TCPConn)
		up.Close()
	}()
	if _, err := io.Copy(conn.TCPConn, up); err != nil {
		_ = conn.SetLinger(0) // as it was reset
	}
}

// poison adds a toxic until the test ends.
func (m *matrix) poison(t *testing.T, kind, attributes string) {
	t.Helper()
	toxic, err := m.toxic.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(`{"type":%q,"attributes":{%s}}`, kind, attributes)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.toxic.Toxics.RemoveToxic(context.Background(), toxic.Name); err != nil {
			t.Error(err)
		}
	})
}

// dial opens a connection to the exporter, until the test ends.
func (s *subject) dial(t *testing.T) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, bufio.NewReader(conn)
}
