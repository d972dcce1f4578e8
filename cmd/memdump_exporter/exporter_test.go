package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
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

func TestMain(m *testing.M) {
	flag.Parse()
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
		// toxiproxy's own, after a toxic that cuts an answer short; the exporter is another
		// process.
		links := []goleak.Option{
			goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).read"),
			goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"),
		}
		if err := goleak.Find(links...); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}())
}

// exporter is the built binary, running.
type exporter struct {
	URL  string
	proc *influxtest.Process

	mu   sync.Mutex
	logs strings.Builder
	more *sync.Cond // a line has come, or the last one has
	over bool
}

var listening = regexp.MustCompile(`msg="Listening on" address=(\S+)`)

// startExporter runs the binary on a free port with nothing in its environment but
// what is given, until the test ends.
func startExporter(t *testing.T, env []string, args ...string) *exporter {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"--web.listen-address=127.0.0.1:0", "--log.level=debug"}, args...)...)
	cmd.Env = append([]string{}, env...)
	return startCommand(t, cmd)
}

// startCommand runs a command that becomes the exporter, until the test ends.
func startCommand(t *testing.T, cmd *exec.Cmd) *exporter {
	t.Helper()
	stderr, logs := io.Pipe()
	cmd.Stderr = logs
	proc, err := influxtest.StartProcess(cmd)
	if err != nil {
		t.Fatal(err)
	}
	e := &exporter{proc: proc}
	e.more = sync.NewCond(&e.mu)
	address := make(chan string, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer func() {
			e.mu.Lock()
			e.over = true
			e.mu.Unlock()
			e.more.Broadcast()
		}()
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
	}()
	t.Cleanup(func() {
		if err := proc.Stop(); err != nil {
			t.Error(err)
		}
		logs.Close()
		<-read
		if err := proc.Err(); err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
		if t.Failed() {
			t.Logf("log of the exporter:\n%s", e.Logs())
		}
	})
	select {
	case a := <-address:
		e.URL = "http://" + a
	case <-proc.Done():
		t.Fatalf("the exporter ended: %v\n%s", proc.Err(), e.Logs())
	}
	return e
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

// scrape asks for /metrics as Prometheus does; any answer but a whole 200 fails.
func (e *exporter) scrape(t *testing.T, header ...string) families {
	t.Helper()
	body := get(t, e.URL+"/metrics", http.StatusOK, header...)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	found, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatalf("%v in\n%s", err, body)
	}
	return found
}

// get returns the whole body of an answer with the status; header is a list of names and values.
func get(t *testing.T, url string, status int, header ...string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != status {
		t.Fatalf("%s: HTTP %d, want %d\n%s", url, resp.StatusCode, status, body)
	}
	return string(body)
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
			values[series] = m.GetGauge().GetValue()
		}
	}
	return values
}

// failures are the reasons counted above 0, by query.
func (f families) failures() map[string]string {
	reasons := make(map[string]string)
	for _, m := range f["memdump_query_errors_total"].GetMetric() {
		if m.GetCounter().GetValue() > 0 {
			reasons[label(m, "query")] = label(m, "reason")
		}
	}
	return reasons
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}
