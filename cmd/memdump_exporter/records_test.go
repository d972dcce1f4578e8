package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

// TestRecords: both paths, HEAD, other methods, and a hundred thousand records in ten
// pages, whose memory does not grow with the page.
func TestRecords(t *testing.T) {
	server := influxdb.Server(t)
	const all = 100_000
	h := &influxtest.History{}
	for i := range all {
		p := dump(fmt.Sprint("vm", i%100), time.Unix(1.7e9+int64(i), 0), first(int64(i)))
		p.Fields["sha256"] = strings.Repeat("0123456789abcdef", 4)
		h.Add(p)
	}
	server.MustStore(t, "vmstats", h)
	e := startExporter(t, []string{"INFLUX_URL=" + server.URL})
	for range 3 {
		e.scrape(t)
	}
	get(t, e.URL+"/records?limit=10", http.StatusOK)
	idle := e.peakMiB(t)
	seen := 0
	for offset := 0; offset < all; offset += 10_000 {
		var page struct {
			Records []struct {
				Timestamp string
				Bytes     int64 `json:"gzip_size_bytes"`
			}
			Count int
		}
		body := get(t, fmt.Sprintf("%s/records?limit=10000&offset=%d", e.URL, offset), http.StatusOK)
		must(t, json.Unmarshal([]byte(body), &page))
		for _, r := range page.Records {
			if want := int64(all - 1 - seen); r.Bytes != want {
				t.Fatalf("record %d is dump %d, want %d", seen, r.Bytes, want)
			}
			seen++
		}
	}
	if seen != all {
		t.Errorf("%d records, want %d", seen, all)
	}
	peak := e.peakMiB(t)
	t.Logf("peak memory: %.1f MiB before, %.1f MiB after ten pages of 10,000", idle, peak)
	if peak-idle > 16 {
		t.Errorf("%.1f MiB more memory for ten pages", peak-idle)
	}
	if old, now := get(t, e.URL+"/api/memory-dumps/records?limit=3", http.StatusOK), get(t, e.URL+"/records?limit=3", http.StatusOK); old != now {
		t.Errorf("the old path answers\n%s\nthe new\n%s", old, now)
	}
	for method, want := range map[string]int{"HEAD": 200, "POST": 405, "PUT": 405, "DELETE": 405} {
		if got := ask(nil, method, e.URL+"/records?limit=3"); got.status != want {
			t.Errorf("%s: HTTP %d, want %d", method, got.status, want)
		}
	}
	if body := get(t, e.URL+"/openapi.json", http.StatusOK); !json.Valid([]byte(body)) {
		t.Errorf("no JSON: %s", body)
	}
}
