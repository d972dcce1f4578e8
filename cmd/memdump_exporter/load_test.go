//go:build load

package main

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

const (
	loadScrapers = 1000
	loadBursts   = 3
	// collection is how long the upstream takes for each question.
	collection = 200 * time.Millisecond
)

// upstream answers each question after a while, with so many VMs.
type upstream struct {
	URL  string
	sets atomic.Int64 // of the six questions
}

func newUpstream(t *testing.T, vms int) *upstream {
	t.Helper()
	u := &upstream{}
	series := func(tag string) string {
		var text strings.Builder
		for vm := range vms {
			fmt.Fprintf(&text, `,{"name":"m","tags":{%q:"vm-%05d"},"columns":["time","value"],"values":[[%d,41]]}`, tag, vm, time.Now().UnixNano())
		}
		return `{"results":[{"series":[` + text.String()[1:] + `]}]}`
	}
	dumped, monitored := series("vmid"), series("VMID")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Influxdb-Version", "1.8.10")
		statement := r.URL.Query().Get("q")
		answer := `{"results":[{"series":[{"columns":["time","value","sum","count"],"values":[[0,41,41,1]]}]}]}`
		switch {
		case statement == "":
			w.WriteHeader(http.StatusNoContent)
			return
		case strings.Contains(statement, `COUNT("sha256")`):
			u.sets.Add(1)
		case strings.Contains(statement, `GROUP BY "vmid"`):
			answer = dumped
		case strings.Contains(statement, `GROUP BY "VMID"`):
			answer = monitored
		}
		select {
		case <-time.After(collection):
			_, _ = io.WriteString(w, answer)
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	u.URL = server.URL
	return u
}

// crowd is many scrapers of one exporter, each with a connection of its own.
type crowd struct {
	url    string
	client *http.Client

	mu       sync.Mutex
	took     []time.Duration
	answered int
	failures map[string]int
}

func newCrowd(t *testing.T, url string) *crowd {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: loadScrapers, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &crowd{url: url, client: &http.Client{Transport: transport, Timeout: 10 * time.Second}, failures: map[string]int{}}
}

// burst scrapes with all of them at once.
func (c *crowd) burst(scrapers int) {
	var all sync.WaitGroup
	begin := make(chan struct{})
	for range scrapers {
		all.Go(func() {
			<-begin
			c.scrape()
		})
	}
	close(begin)
	all.Wait()
}

// scrape asks as Prometheus does. An answer counts that is whole and holds the figure.
func (c *crowd) scrape() {
	begin := time.Now()
	err := func() error {
		req, err := http.NewRequest(http.MethodGet, c.url+"/metrics", nil)
		if err != nil {
			return err
		}
		req.Header.Set("Accept", "text/plain;version=0.0.4;q=1,*/*;q=0.1")
		req.Header.Set("Accept-Encoding", "gzip")
		req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "10")
		resp, err := c.client.Do(req)
		if err != nil {
			return fmt.Errorf("no answer") // in words of many kinds
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			_, _ = io.Copy(io.Discard, resp.Body)
			return fmt.Errorf("HTTP %d", resp.StatusCode)
		}
		text, err := gzip.NewReader(resp.Body)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(text)
		if err == nil && !strings.Contains(string(body), "\nmemdump_dumps 41\n") {
			err = fmt.Errorf("without the figure")
		}
		return err
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.took = append(c.took, time.Since(begin))
	if err != nil {
		c.failures[err.Error()]++
		return
	}
	c.answered++
}

func (c *crowd) percentile(p int) time.Duration {
	slices.Sort(c.took)
	return c.took[(len(c.took)-1)*p/100].Round(time.Millisecond)
}

// startPlain runs the exporter with promhttp's default handler until the test ends.
func startPlain(t *testing.T, binary, influxdb string, inFlight int) *exporter {
	t.Helper()
	stderr, logs := io.Pipe()
	cmd := exec.Command(binary, "-influx.url="+influxdb, fmt.Sprint("-in-flight=", inFlight))
	cmd.Stderr = logs
	proc, err := influxtest.StartProcess(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proc.Kill(); logs.Close() })
	line := make([]byte, 200)
	n, err := stderr.Read(line)
	found := listening.FindSubmatch(line[:n])
	if err != nil || found == nil {
		t.Fatalf("%v: %q", err, line[:n])
	}
	go func() { _, _ = io.Copy(io.Discard, stderr) }()
	return &exporter{proc: proc, URL: "http://" + string(found[1])}
}

// TestLoad: a thousand scrapers at once, thrice, are all answered, from a few sets of
// questions and in little memory; beside it, what promhttp's default handler does.
func TestLoad(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if output, err := exec.Command("go", "build", "-o", plain, "./testdata/plain").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	t.Logf("%d scrapers at once, %d times, a collection of %v", loadScrapers, loadBursts, collection)
	t.Logf("%-36s %10s %6s %10s %10s %10s  %s", "", "answered", "sets", "peak RSS", "p50", "p99", "not answered")
	for _, tt := range []struct {
		name  string
		start func(influxdb string) *exporter
	}{
		{"memdump_exporter", func(influxdb string) *exporter { return startExporter(t, []string{"INFLUX_URL=" + influxdb}) }},
		{"promhttp, default", func(influxdb string) *exporter { return startPlain(t, plain, influxdb, 0) }},
		{"promhttp, MaxRequestsInFlight 40", func(influxdb string) *exporter { return startPlain(t, plain, influxdb, 40) }},
	} {
		u := newUpstream(t, 40)
		e := tt.start(u.URL)
		c := newCrowd(t, e.URL)
		for range loadBursts {
			c.burst(loadScrapers)
		}
		share, sets, peak := 100*float64(c.answered)/float64(len(c.took)), u.sets.Load(), e.peakMiB(t)
		t.Logf("%-36s %8.1f %% %6d %6.1f MiB %10v %10v  %v", tt.name, share, sets, peak, c.percentile(50), c.percentile(99), c.failures)
		if tt.name == "memdump_exporter" && (c.answered != loadScrapers*loadBursts || sets > 10 || peak > 64) {
			t.Errorf("want all answered, at most 10 sets, at most 64 MiB")
		}
		c.client.CloseIdleConnections()
	}
}

// TestLoad_vms: what memory a burst takes, by the number of VMs.
func TestLoad_vms(t *testing.T) {
	for vms, allowed := range map[int]float64{10: 64, 1000: 64, 10_000: 96} {
		u := newUpstream(t, vms)
		e := startExporter(t, []string{"INFLUX_URL=" + u.URL})
		idle := e.peakMiB(t)
		c := newCrowd(t, e.URL)
		c.burst(1)
		one := e.peakMiB(t)
		c.burst(100)
		t.Logf("%6d VMs: idle %.1f MiB, after a scrape %.1f MiB, after a hundred at once %.1f MiB; %d of 101 answered", vms, idle, one, e.peakMiB(t), c.answered)
		if c.answered != 101 || e.peakMiB(t) > allowed {
			t.Errorf("want all answered, at most %.0f MiB", allowed)
		}
		c.client.CloseIdleConnections()
	}
}

// TestLoad_steady: forty scrapers that never rest.
func TestLoad_steady(t *testing.T) {
	u := newUpstream(t, 40)
	e := startExporter(t, []string{"INFLUX_URL=" + u.URL})
	c := newCrowd(t, e.URL)
	goroutines := func() float64 { return e.scrape(t).gauges("go_goroutines")["go_goroutines"] }
	before := goroutines()
	var all sync.WaitGroup
	end := time.Now().Add(20 * time.Second)
	for range 40 {
		all.Go(func() {
			for time.Now().Before(end) {
				c.scrape()
			}
		})
	}
	all.Wait()
	c.client.CloseIdleConnections()
	after := goroutines()
	for deadline := time.Now().Add(10 * time.Second); after > before+2 && time.Now().Before(deadline); after = goroutines() {
	}
	t.Logf("%d scrapes in 20 s, %d answered, %d sets, peak RSS %.1f MiB, p50 %v, p99 %v, goroutines %v before and %v after",
		len(c.took), c.answered, u.sets.Load(), e.peakMiB(t), c.percentile(50), c.percentile(99), before, after)
	if c.answered != len(c.took) || e.peakMiB(t) > 48 || after > before+2 {
		t.Errorf("want all answered, at most 48 MiB, and no goroutine left: %v", c.failures)
	}
}
