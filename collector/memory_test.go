package collector_test

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"memdump_exporter/collector"
	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx/influxtest"
)

// failed tells which queries of the last scrape failed, and why.
func failed(c *collector.Collector) (all []string) {
	for _, status := range c.Statuses() {
		if status.Err != nil {
			all = append(all, fmt.Sprintf("%s after %v: %v", status.Query, status.Took, status.Err))
		}
	}
	return all
}

// mebibytes is the live heap.
func mebibytes() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}

// TestKept_memory: a year of ranges with each VM in every one of them. TestCost has 10,000.
func TestKept_memory(t *testing.T) { t.Log(memory(t, 1000, 4)) }

// memory holds the cache of so many VMs against what is allowed for it, in MiB.
func memory(t *testing.T, vms int, allowed float64) string {
	t.Helper()
	answer := manyVMs(vms)
	url := newServer(t, answer)
	c := &clock{now: time.Now()}
	col := collectorAt(t, newClient(t, url, "db"), ranges.Cached, c)
	before := mebibytes()
	for range 3 { // time enough for ranges to close
		if up := gauges(scrape(t, col))["memdump_up"]; up != 1 {
			t.Fatal(failed(col))
		}
		c.now = c.now.Add(13 * time.Hour)
	}
	most := 0
	for _, status := range col.Statuses() {
		most = max(most, status.Ranges.Ranges)
	}
	after := mebibytes()
	if after-before > allowed {
		t.Errorf("%.1f MiB for the cache, allowed are %v", after-before, allowed)
	}
	runtime.KeepAlive(col)
	return fmt.Sprintf("The cache of a collector that knows %d VMs in each of up to %d ranges of a figure: %.1f MiB.", vms, most, after-before)
}

// manyVMs answers any question as if every VM had data in its range.
func manyVMs(vms int) func(string) string {
	series := func(measurement, tag string) string {
		var text strings.Builder
		text.WriteString(`{"results":[{"statement_id":0,"series":[`)
		for vm := range vms {
			if vm > 0 {
				text.WriteString(",")
			}
			fmt.Fprintf(&text, `{"name":%q,"tags":{%q:"vm-%05d-%08x"},"columns":["time","value","dumps","bytes"],"values":[[%d,"x",2,7]]}`, measurement, tag, vm, vm*7919, recordedNow.UnixNano()+int64(vm))
		}
		return text.String() + `]}]}`
	}
	answers := []struct{ part, body string }{ // the first whose part is in the question
		{`GROUP BY "vmid"`, series(influxtest.Dumps, "vmid")},
		{`GROUP BY "VMID"`, series(influxtest.Telemetry, "VMID")},
		{`SUM("duration`, `{"results":[{"series":[{"columns":["time","sum","count"],"values":[[0,5,2]]}]}]}`},
		{``, `{"results":[{"series":[{"columns":["time","value"],"values":[[5,5]]}]}]}`},
	}
	return func(statement string) string {
		for _, a := range answers {
			if strings.Contains(statement, a.part) {
				return a.body
			}
		}
		return ""
	}
}

// BenchmarkScrape is all of our part of a scrape over HTTP: six small questions, their
// answers, and the exposition.
func BenchmarkScrape(b *testing.B) {
	url := newServer(b, manyVMs(1))
	client := newClient(b, url, "db")
	col := collectorAt(b, client, ranges.Whole, &clock{recordedNow})
	front := influxtest.Handle(b, col.Handler(collector.HandlerConfig{Self: prometheus.NewRegistry(), Timeout: time.Minute}).ServeHTTP)
	b.ReportAllocs()
	for b.Loop() {
		resp, err := http.Get(front)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || n < 1000 {
			b.Fatal(n, err)
		}
		resp.Body.Close()
	}
}
