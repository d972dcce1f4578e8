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
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"memdump_exporter/influx/influxtest"
)

// row is one fault of the matrix, and what /metrics must then show.
type row struct {
	id, what string
	run      func(*testing.T, *matrix)
	// Without run: the tests that cover it, or why it does not apply.
	tested, why string
}

// rows is the whole matrix.
func rows() []row {
	return slices.Concat(networkRows, protocolRows, bodyRows, influxdbRows, credentialsRows, clientRows, hostRows)
}

const (
	rowsInAll = 94
	// canary is the token that is sent to InfluxDB. It must not appear in any output.
	canary = "canary-9f2c81d4"
	// announced is the scrape timeout of most scrapes, in seconds.
	announced = 3
	// moreMiB is how much more memory than idle a fault may cost, in MiB.
	moreMiB = 24
	// maxBytesPerVM is how much more memory a scrape may cost for each dumped VM, in bytes: twice what it
	// holds, as the garbage collector lets the heap double.
	maxBytesPerVM = 400
	// maxTaken limits how much of a response is read, in bytes: the largest limit of a response, and the kernel's buffers.
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
			if !ran { // not selected by -run
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

// TestFaults_elsewhere: each test that a row names, and each subtest, exists.
func TestFaults_elsewhere(t *testing.T) {
	code := sources(t, "*_test.go", "../../collector/*_test.go", "../../collector/*/*_test.go", "../../influx/*_test.go")
	names := regexp.MustCompile(`((?:Test|Fuzz)[\w]+)(?:/([^ ;,)]+))?`)
	checked := 0
	for _, r := range rows() {
		for _, name := range names.FindAllStringSubmatch(r.what+" "+r.tested+" "+r.why, -1) {
			checked++
			if !strings.Contains(code, "\nfunc "+name[1]+"(") {
				t.Errorf("%s: there is no test %s", r.id, name[1])
			}
			if sub := strings.ReplaceAll(name[2], "_", " "); sub != "" && !strings.Contains(code, strconv.Quote(sub)) {
				t.Errorf("%s: %s has no subtest %q", r.id, name[1], sub)
			}
		}
	}
	if checked < 15 {
		t.Errorf("only %d names found", checked)
	}
}

// matrix is what the rows share: one exporter and one InfluxDB, for all of them.
type matrix struct {
	server  *influxtest.Server
	history *influxtest.History
	front   *front
	toxic   *toxicProxy // another way to InfluxDB
	subject *subject    // behind front; the next one where a fault ends its full queries
	t       *testing.T  // of the whole matrix
	left    string      // why a row could not be tried
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

// note adds a remark to the row's result.
func (m *matrix) note(format string, args ...any) {
	m.remarks = append(m.remarks, fmt.Sprintf(format, args...))
}

// own returns a command that runs "$@" in a namespace of its own. Where this machine does not allow that, the row is
// skipped and printed as not tried.
func (m *matrix) own(t *testing.T, namespace, script string, args ...string) []string {
	command := append([]string{"unshare", "--map-root-user", namespace, "sh", "-c", script + ` && exec "$@"`, "sh"}, args...)
	if output, err := exec.Command(command[0], append(command[1:], "true")...).CombinedOutput(); err != nil {
		m.left = fmt.Sprintf("unshare %s: %s", namespace, strings.TrimSpace(string(output)))
		t.Skip(m.left)
	}
	return command
}

// subject is an exporter whose metrics, log, memory, files and goroutines are checked.
type subject struct {
	*exporter
	history    *influxtest.History // what its metrics are true of
	token      string              // file
	goroutines float64             // when idle, as files and MiB
	files      int
	idle       float64
	peak       float64 // MiB, of this row
	counted    map[string]float64
	logged     int
}

// renew restarts the subject where a fault has made it use its history: later rows expect one request for each query.
func (m *matrix) renew() {
	m.t.Helper()
	ranges := m.subject.parse(m.t, m.subject.metrics(m.t, patient).body).gauges("memdump_query_ranges")
	if slices.Max(slices.Collect(maps.Values(ranges))) > 1 {
		m.replace()
	}
}

// replace restarts the subject.
func (m *matrix) replace() {
	m.t.Helper()
	must(m.t, m.subject.proc.Stop())
	m.subject = m.start(m.t, nil, m.front.URL)
}

// start starts an exporter of that InfluxDB, by a command that runs "$@", such as nice, or by none. It requests each
// route before it measures the idle exporter.
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

// recount counts failures from a response on.
func (s *subject) recount(t *testing.T, got reply) families {
	t.Helper()
	found := s.parse(t, got.body)
	s.counted = found.failures()
	return found
}

// fetch sends a request on a connection of its own; header is a list of names and values.
func (s *subject) fetch(t *testing.T, path string, header ...string) reply {
	r := send(nil, http.MethodGet, s.URL+path, append([]string{timeoutHeader, fmt.Sprint(announced)}, header...)...)
	if strings.Contains(r.body+fmt.Sprint(r.header), canary) {
		t.Errorf("the token is in the response of %s:\n%s", path, r.body)
	}
	return r
}

// metrics scrapes with a timeout.
func (s *subject) metrics(t *testing.T, seconds any) reply {
	return s.fetch(t, "/metrics", timeoutHeader, fmt.Sprint(seconds))
}

func (s *subject) patiently(t *testing.T) func() reply {
	return func() reply { return s.metrics(t, patient) }
}

// parse reads an exposition, and checks it with promlint.
func (s *subject) parse(t *testing.T, text string) families {
	t.Helper()
	found, err := parseText(text)
	must(t, err)
	if problems, err := promlint.New(strings.NewReader(text)).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
	return found
}

// sees scrapes during a fault.
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
		var failure struct{ Error string }
		switch {
		case r.err != nil: // cut in the middle, or nothing
		case r.status != http.StatusBadGateway && r.status != http.StatusGatewayTimeout:
			t.Errorf("/records is HTTP %d\n%.300s", r.status, r.body)
		case json.Unmarshal([]byte(r.body), &failure) != nil || failure.Error == "":
			t.Errorf("/records is HTTP %d without an error: %.300s", r.status, r.body)
		}
	}
	return got
}

// holds compares a response with what must be seen.
func (s *subject) holds(t *testing.T, want seen, got reply) {
	t.Helper()
	if got.err != nil || got.status != http.StatusOK {
		t.Fatalf("the scrape: HTTP %d, %v\n%s", got.status, got.err, got.body)
	}
	if within := cmp.Or(want.within, time.Duration(cmp.Or(want.timeout, announced))*time.Second); got.took > within {
		t.Errorf("responded in %v, want at most %v", got.took, within)
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

// recovers checks that a fault has left nothing behind.
func (s *subject) recovers(t *testing.T) {
	t.Helper()
	s.recoversWithin(t, moreMiB)
}

// recoversWithin does that after a fault that may cost more memory, in MiB.
func (s *subject) recoversWithin(t *testing.T, mib float64) {
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
	if s.peak = max(s.peak, s.peakMiB(t)); s.peak > s.idle+mib {
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

// settles waits until goroutines and open files are as when idle, with two more idle connections to InfluxDB.
func (s *subject) settles(t *testing.T) {
	t.Helper()
	until(t, 2*time.Second, "goroutines and files are released", func() error {
		files, goroutines := s.openFiles(t), s.parse(t, s.metrics(t, patient).body).value("go_goroutines")
		if files > s.files+2 || goroutines > s.goroutines+4 {
			return fmt.Errorf("%d open files and %v goroutines, %d and %v when idle", files, goroutines, s.files, s.goroutines)
		}
		return nil
	})
}

// forgetPeak resets the peak of memory. Where that is not allowed, the peak is that of all rows so far.
func (s *subject) forgetPeak() {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.proc.Pid()), []byte("5"), 0)
}

// dial opens a connection to the exporter, until the test ends, and sends a text.
func (s *subject) dial(t *testing.T, text string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	go io.WriteString(conn, text)
	return conn, bufio.NewReader(conn)
}
