package main

import (
	"maps"
	"strings"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

// TestScrape_cost: a scrape makes one request for each query, over kept connections. The
// first one also fetches the fields and the version.
func TestScrape_cost(t *testing.T) {
	server := influxdb.Server(t)
	server.MustStore(t, "vmstats", influxtest.Believable(5, time.Now()))
	w := newFront(t, server.URL)
	// An existing deployment's environment and nothing else.
	e := startExporter(t, []string{"INFLUX_URL=" + w.URL, "INFLUX_DB=vmstats", "INFLUX_TOKEN=s3cr3t"})
	queries := 0
	for i := range 4 {
		got := e.scrape(t)
		if up := got.value("memdump_up"); up != 1 {
			t.Fatalf("memdump_up is %v", up)
		}
		queries = len(got["memdump_query_success"].GetMetric())
		requests := map[string]int{}
		for _, r := range w.taken() {
			verb, _, _ := strings.Cut(r.URL.Query().Get("q"), " ")
			requests[r.URL.Path+" "+verb]++
			// Every InfluxDB accepts Token (influxtest: recording auth).
			if got := r.Header.Get("Authorization"); got != "Token s3cr3t" {
				t.Errorf("%s %s with %q", r.Method, r.URL.Path, got)
			}
		}
		want := map[string]int{"/query SELECT": queries}
		if i == 0 {
			want["/query SHOW"], want["/ping "] = 1, 1
		}
		if !maps.Equal(requests, want) {
			t.Errorf("scrape %d: requests %v, want %v", i, requests, want)
		}
	}
	if n := int(w.connections.Load()); n > queries+1 || queries < len(metricsOf) {
		t.Errorf("%d connections for four scrapes of %d queries", n, queries)
	}
}

// TestScrape_oneHangs: a query without a response costs its own metrics alone.
func TestScrape_oneHangs(t *testing.T) {
	server := influxdb.Server(t)
	h := influxtest.Believable(5, time.Now())
	server.MustStore(t, "vmstats", h)
	w := newFront(t, server.URL)
	w.hold(sumColumns)
	e := startExporter(t, []string{"INFLUX_URL=" + w.URL})
	begin := time.Now()
	got := e.scrape(t, timeoutHeader, "2")
	if took := time.Since(begin); took >= 2*time.Second {
		t.Errorf("the response took %v, the scrape timeout is 2 s", took)
	}
	truth(h).but("timeout", "compressed_bytes").holds(t, got)
}
