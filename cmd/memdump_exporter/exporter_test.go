package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"memdump_exporter/influx/influxtest"
)

// binary is the exporter as a user builds it.
var binary string

// influxdb is a real one.
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
		// toxiproxy leaves its own behind where a connection breaks under a toxic.
		const toxic = "github.com/Shopify/toxiproxy/v2"
		if err := goleak.Find(goleak.IgnoreAnyFunction(toxic+"/toxics.(*ToxicStub).Run"),
			goleak.IgnoreAnyFunction(toxic+".(*ToxicLink).read"), goleak.IgnoreAnyFunction(toxic+".(*ToxicLink).write")); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}())
}

// exporter is the built binary, running, or another such server.
type exporter struct {
	URL  string
	proc *influxtest.Process
	ends string // by which error, at its end; empty: by none

	mu   sync.Mutex
	logs strings.Builder
	more *sync.Cond // a line has come, or the last one has
	over bool
}

// listening is what every server says that is built on the exporter-toolkit.
var listening = regexp.MustCompile(`msg="Listening on".* address=(\S+)`)

// must ends a test that can't go on.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// startExporter runs the binary on a free port with nothing in its environment but
// what is given, until the test ends.
func startExporter(t *testing.T, env []string, args ...string) *exporter {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"--web.listen-address=127.0.0.1:0", "--log.level=debug"}, args...)...)
	cmd.Env = append([]string{}, env...)
	return start(t, cmd)
}

// start runs a server until the test ends, and waits until it says where it listens.
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

// run runs a server until the test ends. Where it listens is what its log, which is read
// unless it goes elsewhere, has said when it has.
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
			t.Logf("log of %s:\n%s", cmd.Path, e.Logs())
		}
	})
	return address
}

// socket listens already, and is handed over to exporters as systemd would: what is asked
// at its URL waits for them.
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
	// The process that the socket is meant for is the shell, and then the exporter.
	cmd := exec.Command("sh", append([]string{"-c", "export LISTEN_PID=$$; " + script, "sh", binary, "--web.systemd-socket"}, args...)...)
	cmd.Env, cmd.ExtraFiles, cmd.Stderr = append([]string{"LISTEN_FDS=1"}, env...), []*os.File{s.file}, stderr
	e := &exporter{URL: s.URL}
	e.run(t, cmd)
	return e
}

// until waits for what no signal tells of, and tells how long that took.
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
		time.Sleep(time.Millisecond + took/50)
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// atOnce asks so often at once. When all are answered, the channel is closed.
func atOnce(n int, ask func() reply) <-chan reply {
	answers := make(chan reply, n)
	var all sync.WaitGroup
	for range n {
		all.Go(func() { answers <- ask() })
	}
	go func() { all.Wait(); close(answers) }()
	return answers
}

// openFiles is how many files and connections the process has open.
func (e *exporter) openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", e.proc.Pid()))
	must(t, err)
	return len(files)
}

// peakMiB is the most memory that the process has had in RAM.
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

// scrape fetches /metrics as Prometheus does, by default with a timeout that does not matter;
// any response but a whole 200 fails.
func (e *exporter) scrape(t *testing.T, header ...string) families {
	t.Helper()
	if len(header) == 0 {
		header = []string{timeoutHeader, fmt.Sprint(patient)}
	}
	found, err := parseText(get(t, e.URL+"/metrics", http.StatusOK, header...))
	must(t, err)
	return found
}

// reply is what a client was answered.
type reply struct {
	status int // 0: no whole answer
	header http.Header
	body   string
	took   time.Duration
	err    error
}

// whole tells of a scrape that it has all figures.
func (r reply) whole() bool {
	return r.status == http.StatusOK && strings.Contains(r.body, "\nmemdump_up 1\n")
}

const (
	// timeoutHeader announces the scrape timeout of Prometheus, in seconds.
	timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"
	// patient is a scrape timeout, in seconds, that no test reaches.
	patient = 30
)

// ask asks by a client, or on a connection of its own when that is nil; header is a list of
// names and values, and the URL may have a name and a password.
func ask(client *http.Client, method, url string, header ...string) reply {
	began := time.Now()
	if client == nil {
		client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 40 * time.Second, CheckRedirect: stay}
	}
	req, err := http.NewRequestWithContext(context.Background(), method, url, nil)
	if err != nil {
		return reply{err: err}
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
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

// get returns the whole body of an answer with the status; header is a list of names and values.
func get(t *testing.T, url string, status int, header ...string) string {
	t.Helper()
	got := ask(nil, http.MethodGet, url, header...)
	if got.err != nil || got.status != status {
		t.Fatalf("%s: HTTP %d, want %d; %v\n%s", url, got.status, status, got.err, got.body)
	}
	return got.body
}

// number is a metric's, whatever its type.
func number(m *dto.Metric) float64 {
	return m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue()
}

// value is that of a metric's first series, and 0 when there is none.
func (f families) value(name string) float64 {
	for _, m := range f[name].GetMetric() {
		return number(m)
	}
	return 0
}

// gauges are the series by name and labels, such as memdump_query_success{query="dumps"}.
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

// failures are how many were counted, by query and reason, such as dumps/timeout.
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
