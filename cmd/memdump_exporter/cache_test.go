package main

import (
	"net/http"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

// TestCache: behind a real nginx that stores every response for an hour, a scrape has InfluxDB's
// current values, and none while InfluxDB is stopped.
func TestCache(t *testing.T) {
	server := influxtest.MustStart(t)
	h := influxtest.Believable(5, time.Now())
	server.MustStore(t, "vmstats", h)
	url := influxtest.Nginx(t, influxtest.CacheZone, "location / { proxy_pass "+server.URL+";"+influxtest.Cache+"}")
	e := startExporter(t, []string{"INFLUX_URL=" + url})
	for range 2 {
		truth(h).shown(t, e.scrape(t))
	}
	server.MustAdd(t, "vmstats", h, dump("1", time.Now(), map[string]any{"sha256": "ab", "duration_sec": 2.5, "gzip_size_bytes": int64(5)}))
	truth(h).shown(t, e.scrape(t))
	get(t, e.URL+"/records?limit=1", http.StatusOK)
	must(t, server.Stop())
	checkAway(t, "stopped", e.scrape(t), "server_error")
	get(t, e.URL+"/records?limit=1", http.StatusBadGateway)
	must(t, server.Start(t.Context()))
	truth(h).shown(t, e.scrape(t))
}
