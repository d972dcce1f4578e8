//go:build load

package main

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
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
	// collection is how long the upstream takes for each request.
	collection = 200 * time.Millisecond
)

// upstream starts an InfluxDB with that many VMs, which delays each response by collection and counts the sets of queries.
func upstream(t *testing.T, vms int) (url string, sets *atomic.Int64) {
	t.Helper()
	sets = new(atomic.Int64)
	series := func(measurement, tags string) string {
		var text strings.Builder
		for vm := range vms {
			fmt.Fprintf(&text, `,{"name":%q,"tags":{%s},"columns":["time","newest"],"values":[[%d,41]]}`, measurement,
				strings.ReplaceAll(tags, "N", fmt.Sprintf("%05d", vm)), time.Now().UnixNano())
		}
		return `{"results":[{"series":[` + text.String()[1:] + `]}]}`
	}
	single := func(columns, values string) string {
		return `{"results":[{"series":[{"name":"mem_dumps","columns":["time",` + columns + `],"values":[[0,` + values + `]]}]}]}`
	}
	responses := []struct{ part, response string }{
		{"SHOW FIELD KEYS", `{"results":[{"series":[{"columns":["fieldKey","fieldType"],` +
			`"values":[["sha256","string"],["gzip_size_bytes","integer"],["raw_size_bytes","float"],["duration_sec","float"]]}]}]}`},
		{`GROUP BY "vmid","dom"`, series("mem_dumps", `"vmid":"N","dom":"vm-N"`)},
		{`GROUP BY *`, series("vm_info", `"VMID":"N","name":"vm-N","uuid":"u-N"`)},
		{`AS "host"`, `{"results":[{}]}`}, // of settled time
		{`AS "count"`, single(`"sum","count","mean"`, "41,1,41")},
		{`AS "dumps"`, single(`"dumps"`, "41")},
		{`AS "compressed"`, single(`"compressed"`, "41")},
		{`AS "raw"`, single(`"raw"`, "41")},
		{`AS "mean"`, single(`"mean"`, "41")},
		{`AS "last"`, single(`"last"`, "41")},
	}
	return influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Influxdb-Version", "1.8.10")
		statement := r.URL.Query().Get("q")
		if statement == "" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if strings.Contains(statement, `COUNT("sha256"`) {
			sets.Add(1)
		}
		i := slices.IndexFunc(responses, func(one struct{ part, response string }) bool { return strings.Contains(statement, one.part) })
		select {
		case <-time.After(collection):
			_, _ = io.WriteString(w, responses[i].response)
		case <-r.Context().Done():
		}
	}), sets
}

// crowd is many scrapers of one exporter, each with a connection of its own.
type crowd struct {
	e         *exporter
	client    *http.Client
	took      []time.Duration
	succeeded int
	failures  map[string]int
}

func newCrowd(e *exporter) *crowd {
	transport := &http.Transport{MaxIdleConnsPerHost: loadScrapers, DisableCompression: true}
	return &crowd{e: e, client: &http.Client{Transport: transport, Timeout: 10 * time.Second}, failures: map[string]int{}}
}

// scrape scrapes as Prometheus does.
func (c *crowd) scrape() reply {
	return send(c.client, http.MethodGet, c.e.URL+"/metrics",
		"Accept", "text/plain;version=0.0.4;q=1,*/*;q=0.1", "Accept-Encoding", "gzip", timeoutHeader, "10")
}

// count counts the responses that are whole and hold the metric.
func (c *crowd) count(replies <-chan reply) {
	for got := range replies {
		c.took = append(c.took, got.took)
		switch text, err := unzip(got.body); {
		case got.err != nil:
			c.failures["no response"]++ // for many reasons
		case got.status != http.StatusOK:
			c.failures[fmt.Sprint("HTTP ", got.status)]++
		case err != nil || !strings.Contains(text, "\nmemdump_dumps 41\n"):
			c.failures[fmt.Sprint("without the metric: ", err)]++
		default:
			c.succeeded++
		}
	}
}

// burst scrapes with that many scrapers at once.
func (c *crowd) burst(scrapers int) { c.count(atOnce(scrapers, c.scrape)) }

func unzip(text string) (string, error) {
	r, err := gzip.NewReader(strings.NewReader(text))
	if err != nil {
		return "", err
	}
	plain, err := io.ReadAll(r)
	return string(plain), err
}

func (c *crowd) percentile(p int) time.Duration {
	slices.Sort(c.took)
	return c.took[(len(c.took)-1)*p/100].Round(time.Millisecond)
}

// startPlain runs the exporter that uses promhttp's default handler until the test ends.
func startPlain(t *testing.T, binary, influxdb string, inFlight int) *exporter {
	t.Helper()
	e := start(t, exec.Command(binary, "-influx.url="+influxdb, fmt.Sprint("-in-flight=", inFlight)))
	e.ends = "signal: terminated" // it does not handle the signal
	return e
}

// TestLoad: a thousand scrapers at once, three times, all get a response, from a few sets of
// queries and in little memory; beside it, what promhttp's default handler does.
func TestLoad(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if output, err := exec.Command("go", "build", "-o", plain, "./testdata/plain").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	t.Logf("%d scrapers at once, %d times, a collection of %v", loadScrapers, loadBursts, collection)
	t.Logf("%-36s %10s %6s %10s %10s %10s  %s", "", "succeeded", "sets", "peak RSS", "p50", "p99", "failed")
	for _, tt := range []struct {
		name  string
		start func(influxdb string) *exporter
	}{
		{"memdump_exporter", func(influxdb string) *exporter { return startExporter(t, []string{"INFLUX_URL=" + influxdb}) }},
		{"promhttp, default", func(influxdb string) *exporter { return startPlain(t, plain, influxdb, 0) }},
		{"promhttp, MaxRequestsInFlight 40", func(influxdb string) *exporter { return startPlain(t, plain, influxdb, 40) }},
	} {
		url, sets := upstream(t, 40)
		c := newCrowd(tt.start(url))
		for range loadBursts {
			c.burst(loadScrapers)
		}
		share, peak := 100*float64(c.succeeded)/float64(len(c.took)), c.e.peakMiB(t)
		t.Logf("%-36s %8.1f %% %6d %6.1f MiB %10v %10v  %v", tt.name, share, sets.Load(), peak, c.percentile(50), c.percentile(99), c.failures)
		c.client.CloseIdleConnections()
		if tt.name != "memdump_exporter" {
			continue
		}
		if c.succeeded != loadScrapers*loadBursts {
			t.Errorf("%d of %d scrapes succeeded", c.succeeded, loadScrapers*loadBursts)
		}
		if n := sets.Load(); n > 10 {
			t.Errorf("%d sets of queries, want at most 10", n)
		}
		if peak > 64 {
			t.Errorf("peak memory %.1f MiB, want at most 64", peak)
		}
	}
}

// TestLoad_vms: the memory that a burst takes, by the number of VMs.
func TestLoad_vms(t *testing.T) {
	for vms, allowed := range map[int]float64{10: 64, 1000: 64, 10_000: 96} {
		url, _ := upstream(t, vms)
		c := newCrowd(startExporter(t, []string{"INFLUX_URL=" + url}))
		idle := c.e.peakMiB(t)
		c.burst(1)
		once := c.e.peakMiB(t)
		c.burst(100)
		peak := c.e.peakMiB(t)
		t.Logf("%6d VMs: idle %.1f MiB, after a scrape %.1f MiB, after a hundred at once %.1f MiB; %d of 101 succeeded",
			vms, idle, once, peak, c.succeeded)
		if c.succeeded != 101 {
			t.Errorf("%d VMs: %d of 101 scrapes succeeded: %v", vms, c.succeeded, c.failures)
		}
		if peak > allowed {
			t.Errorf("%d VMs: peak memory %.1f MiB, want at most %.0f", vms, peak, allowed)
		}
		c.client.CloseIdleConnections()
	}
}

// TestLoad_steady: forty scrapers without a pause.
func TestLoad_steady(t *testing.T) {
	url, sets := upstream(t, 40)
	c := newCrowd(startExporter(t, []string{"INFLUX_URL=" + url}))
	before := c.e.scrape(t).value("go_goroutines")
	replies := make(chan reply)
	end := time.Now().Add(20 * time.Second)
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			for time.Now().Before(end) {
				replies <- c.scrape()
			}
		})
	}
	go func() { all.Wait(); close(replies) }()
	c.count(replies)
	c.client.CloseIdleConnections()
	t.Logf("%d scrapes in 20 s, %d succeeded, %d sets, peak RSS %.1f MiB, p50 %v, p99 %v, %v goroutines before",
		len(c.took), c.succeeded, sets.Load(), c.e.peakMiB(t), c.percentile(50), c.percentile(99), before)
	if c.succeeded != len(c.took) {
		t.Errorf("%d of %d scrapes succeeded: %v", c.succeeded, len(c.took), c.failures)
	}
	if peak := c.e.peakMiB(t); peak > 48 {
		t.Errorf("peak memory %.1f MiB, want at most 48", peak)
	}
	until(t, 10*time.Second, "no goroutine is left", func() error {
		if n := c.e.scrape(t).value("go_goroutines"); n > before+2 {
			return fmt.Errorf("%v goroutines", n)
		}
		return nil
	})
}
