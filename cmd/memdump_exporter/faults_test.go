//go:build faults

package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"memdump_exporter/influx/influxtest"
)

// row is one fault of the matrix: what can go wrong around the exporter, and what /metrics
// must then show.
type row struct {
	id, what string
	run      func(*testing.T, *matrix)
	// Without run: where else it is tested, or why it does not apply here.
	tested, why string
}

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
	// maxTaken is how much of a response may be taken from its writer, in bytes: the largest
	// limit of a response, and what the kernel buffers.
	maxTaken = (96 + 16) << 20
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
			began, ran := time.Now(), false
			m.left, m.remarks, m.subject.peak = "", nil, 0
			if !t.Run(r.id, func(t *testing.T) {
				ran = true
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
			remark = strings.Join(append([]string{fmt.Sprintf("%.1f s", time.Since(began).Seconds())}, m.remarks...), "; ")
			if m.left != "" {
				result, remark = "not tried", m.left
			}
		}
		sums[result]++
		fmt.Printf("%-4s%-15s%s (%s)\n", r.id, result, r.what, remark)
	}
	fmt.Printf("%d rows:", rowsInAll)
	for _, result := range slices.Sorted(maps.Keys(sums)) {
		fmt.Printf(" %d %s", sums[result], result)
	}
	fmt.Println()
}

// matrix is what the rows share: one exporter before one InfluxDB, through all of them.
type matrix struct {
	server  *influxtest.Server
	history *influxtest.History
	front   *front
	toxic   *toxiproxy.Proxy // another way to InfluxDB
	subject *subject         // behind front; the next one where a fault ends its full queries
	t       *testing.T       // of the whole matrix
	left    string           // why a row could not be tried
	remarks []string
}

func newMatrix(t *testing.T) *matrix {
	m := &matrix{server: influxtest.MustStart(t), history: influxtest.Believable(5, time.Now()), t: t}
	m.server.MustStore(t, "vmstats", m.history)
	m.front = newFront(t, m.server.URL)
	m.toxic = newToxic(t, m.server.URL)
	m.subject = m.start(t, nil, m.front.URL)
	return m
}

// note is said beside the row's result.
func (m *matrix) note(format string, args ...any) {
	m.remarks = append(m.remarks, fmt.Sprintf(format, args...))
}

// own is how a command runs in a namespace of its own. The row is left out where this
// machine does not let it.
func (m *matrix) own(t *testing.T, namespace, script string, args ...string) []string {
	command := append([]string{"unshare", "--map-root-user", namespace, "sh", "-c", script + ` && exec "$@"`, "sh"}, args...)
	if output, err := exec.Command(command[0], append(command[1:], "true")...).CombinedOutput(); err != nil {
		m.left = fmt.Sprintf("unshare %s: %s", namespace, strings.TrimSpace(string(output)))
		t.Skip(m.left)
	}
	return command
}

// subject is an exporter that is looked at from all sides.
type subject struct {
	*exporter
	history    *influxtest.History // what it should tell of
	token      string              // file
	goroutines float64             // when idle, as files and MiB
	files      int
	idle       float64
	peak       float64 // MiB, of this row
	counted    map[string]float64
	logged     int
}

// renew starts a subject anew where a fault has made it use its history: later rows expect a
// request for each query, over all time.
func (m *matrix) renew() {
	m.t.Helper()
	ranges := m.subject.parse(m.t, m.subject.metrics(m.t, patient).body).gauges("memdump_query_ranges")
	if slices.Max(slices.Collect(maps.Values(ranges))) > 1 {
		must(m.t, m.subject.proc.Stop())
		m.subject = m.start(m.t, nil, m.front.URL)
	}
}

// start starts an exporter of that InfluxDB, by a command that runs "$@", such as nice, or
// none; it fetches everything once before it measures what the exporter is like when idle.
func (m *matrix) start(t *testing.T, by []string, influxdb string, args ...string) *subject {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	write(t, file, canary)
	command := slices.Concat(by, []string{binary, "--web.listen-address=127.0.0.1:0", "--log.level=debug",
		"--influx.url=" + influxdb, "--influx.token-file=" + file}, args)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	s := &subject{exporter: start(t, cmd), history: m.history, token: file}
	for i := 0; i < 2 && s.metrics(t, patient).whole(); i++ {
		s.fetch(t, "/records?limit=10000")
		s.fetch(t, "/")
	}
	s.measure(t)
	return s
}

func (s *subject) measure(t *testing.T) {
	t.Helper()
	now := s.recount(t, s.metrics(t, patient))
	s.goroutines, s.files, s.idle = now.value("go_goroutines"), s.openFiles(t), s.peakMiB(t)
}

// recount counts failures from an answer on.
func (s *subject) recount(t *testing.T, got reply) families {
	t.Helper()
	found := s.parse(t, got.body)
	s.counted = found.failures()
	return found
}

// fetch asks on a connection of its own; header is a list of names and values.
func (s *subject) fetch(t *testing.T, path string, header ...string) reply {
	r := ask(nil, http.MethodGet, s.URL+path, append([]string{timeoutHeader, fmt.Sprint(announced)}, header...)...)
	if strings.Contains(r.body+fmt.Sprint(r.header), canary) {
		t.Errorf("the token is in the answer to %s:\n%s", path, r.body)
	}
	return r
}

// metrics scrapes with so many seconds' patience.
func (s *subject) metrics(t *testing.T, seconds any) reply {
	return s.fetch(t, "/metrics", timeoutHeader, fmt.Sprint(seconds))
}

func (s *subject) patiently(t *testing.T) func() reply {
	return func() reply { return s.metrics(t, patient) }
}

// parse reads an exposition, and has it judged by promlint.
func (s *subject) parse(t *testing.T, text string) families {
	t.Helper()
	found, err := parseText(text)
	must(t, err)
	if problems, err := promlint.New(strings.NewReader(text)).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
	return found
}

// seen is what must be seen of a fault during one scrape.
type seen struct {
	reason  string         // for which the queries fail; empty: none may
	queries []string       // that meet the fault; nil: compressed_bytes
	change  func(expected) // of the truth
	within  time.Duration  // 0: the scraper's timeout
	timeout int            // that, in seconds; 0: announced
	records bool           // /records must fail, too
	repeats bool           // net/http may send the request again, on another connection, where nothing came
}

// splits reports whether the fault makes the exporter try shorter time ranges.
func (want seen) splits() bool { return want.reason == "timeout" || want.reason == "too_large" }

func fails(reason string, queries ...string) seen { return seen{reason: reason, queries: queries} }

func all() []string { return slices.Sorted(maps.Keys(metricsOf)) }

// sees makes a scrape while something is wrong.
func (s *subject) sees(t *testing.T, want seen) reply {
	t.Helper()
	records := make(chan reply, 1)
	if want.records {
		go func() { records <- s.fetch(t, "/records") }()
	}
	got := s.metrics(t, cmp.Or(want.timeout, announced))
	s.holds(t, want, got)
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
	return got
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
	values, failures := truth(s.history), maps.Clone(s.counted)
	if want.change != nil {
		want.change(values)
	}
	if want.reason != "" {
		values = values.but(want.reason, want.of()...)
		for _, query := range want.of() {
			failures[query+"/"+want.reason]++
		}
	}
	before := s.counted
	values.shown(t, s.recount(t, got))
	if !maps.Equal(s.counted, failures) {
		t.Errorf("failures %v became %v, want %v", before, s.counted, failures)
	}
}

func (want seen) of() []string {
	if want.queries == nil {
		return []string{"compressed_bytes"}
	}
	return want.queries
}

// trueOrAbsent checks that each metric of a response is the one or the other.
func (s *subject) trueOrAbsent(t *testing.T, got reply) {
	t.Helper()
	found, want := s.parse(t, got.body), truth(s.history)
	for _, metric := range knownMetrics() {
		if _, there := found[metric]; there && found.value(metric) != want.values[metric] {
			t.Errorf("%s is %v, want %v", metric, found.value(metric), want.values[metric])
		}
	}
}

// recovers makes sure that nothing of a fault is left.
func (s *subject) recovers(t *testing.T) {
	t.Helper()
	s.sees(t, seen{})
	open := s.fetch(t, "/metrics", "Accept", "application/openmetrics-text; version=1.0.0")
	if !strings.HasSuffix(open.body, "\n# EOF\n") || !strings.HasPrefix(open.header.Get("Content-Type"), "application/openmetrics-text") {
		t.Errorf("%q does not end as OpenMetrics does", open.header)
	}
	// The samples alone, as a counter's family has another name in the older form.
	found, err := parseText(regexp.MustCompile("(?m)^#.*\n").ReplaceAllString(open.body, ""))
	must(t, err)
	truth(s.history).shown(t, found)
	if page := s.fetch(t, "/"); page.status != http.StatusOK {
		t.Errorf("the page: HTTP %d, %v", page.status, page.err)
	}
	s.settles(t)
	if s.peak = max(s.peak, s.peakMiB(t)); s.peak > s.idle+moreMiB {
		t.Errorf("peak memory %.1f MiB, %.1f MiB when idle", s.peak, s.idle)
	}
	log := s.Logs()[s.logged:]
	s.logged += len(log)
	if strings.Contains(log, canary) {
		t.Errorf("the token is in the log:\n%s", log)
	}
	for line := range strings.Lines(log) {
		if len(line) > 1024 && !strings.Contains(line, "stack=") {
			t.Errorf("a line of %d bytes in the log: %.300s", len(line), line)
		}
	}
}

// settles waits until goroutines and open files are as they were when idle, with two
// more of the connections to InfluxDB that are kept.
func (s *subject) settles(t *testing.T) {
	t.Helper()
	until(t, 2*time.Second, "all is given back", func() error {
		files, goroutines := s.openFiles(t), s.parse(t, s.metrics(t, patient).body).value("go_goroutines")
		if files > s.files+2 || goroutines > s.goroutines+4 {
			return fmt.Errorf("%d open files and %v goroutines, %d and %v when idle", files, goroutines, s.files, s.goroutines)
		}
		return nil
	})
}

// forgetPeak makes the peak of memory begin anew. Where that is not allowed, it is that of
// all rows so far.
func (s *subject) forgetPeak() {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.proc.Pid()), []byte("5"), 0)
}

// dial opens a connection to the exporter, until the test ends, and says something.
func (s *subject) dial(t *testing.T, said string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	go io.WriteString(conn, said)
	return conn, bufio.NewReader(conn)
}

// oneCase is one form of a row's fault.
type oneCase struct {
	name   string
	answer script
	seen
}

// statementOf is a part of each query's statement that no other has.
var statementOf = map[string]string{
	"compressed_bytes": sumColumns, "dumped_vms": `AS "newest" FROM`, "duration_mean": `SUM("duration_sec"::field) AS "sum"`,
	"last_dump": `AS "last" FROM`, "monitored_vms": `SELECT *::field FROM`,
	"records": `"dump_path"`, "ping": "/ping",
}

// cases respond to one statement of a scrape as no InfluxDB should, and to the others truly.
func cases(groups ...[]oneCase) func(*testing.T, *matrix) {
	return func(t *testing.T, m *matrix) {
		for _, c := range slices.Concat(groups...) {
			t.Run(c.name, func(t *testing.T) {
				var on []string
				for _, query := range c.of() {
					on = append(on, statementOf[query])
				}
				if c.records {
					on = append(on, statementOf["records"])
				}
				m.subject.forgetPeak()
				m.front.set(c.answer, on...)
				m.subject.sees(t, c.seen)
				asked, sent := m.front.set(nil)
				if again := c.repeats || c.records || c.splits(); asked < len(on) || !again && asked > len(on) {
					t.Errorf("%d requests, want %d", asked, len(on))
				}
				if sent > maxTaken {
					t.Errorf("%d bytes of the response were taken", sent)
				}
				m.subject.recovers(t)
				m.renew()
			})
		}
	}
}

// transport are cases of what happens below the answer: the records meet it, too.
func transport(groups ...[]oneCase) func(*testing.T, *matrix) {
	list := slices.Concat(groups...)
	for i := range list {
		list[i].records = list[i].reason != ""
	}
	return cases(list)
}

// raw answers with bytes.
func raw(bytes string) script {
	return func(conn *countingConn, _ *http.Request) { _, _ = io.WriteString(conn, bytes) }
}

// whole is an answer as HTTP wants it, around a body.
func whole(body string) string {
	return fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head200, len(body), body)
}

func ok(body string) script { return raw(whole(body)) }

// table is a response of one row; value is one with the sum of compressed bytes.
func table(columns, row string) string {
	return `{"results":[{"statement_id":0,"series":[{"name":"mem_dumps","columns":[` + columns + `],"values":[[` + row + `]]}]}]}`
}

func value(v string) string { return table(`"time","compressed"`, "0,"+v) }

// sum is the true one.
func (m *matrix) sum() string { return value(fmt.Sprint(m.history.Truth(0, 0).CompressedBytes)) }

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
	remove, err := poison(m.toxic, kind, attributes)
	must(t, err)
	t.Cleanup(func() {
		if err := remove(); err != nil {
			t.Error(err)
		}
	})
}
