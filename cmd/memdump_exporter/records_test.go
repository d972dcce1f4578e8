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

// TestRecords: both paths and all methods; a hundred thousand records in ten pages need no more
// memory than one page.
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
	e := startExporter(t, []string{"INFLUX_URL=" + server.URL}, "--scrape.timeout=1m")
	for range 3 {
		e.scrape(t)
	}
	get(t, e.URL+"/records?limit=10", http.StatusOK)
	idle := e.peakMiB(t)
	seen, last := 0, ""
	for target := e.URL + "/records?limit=10000"; target != ""; {
		r := send(nil, http.MethodGet, target)
		var page struct {
			Records []struct {
				Bytes int64 `json:"gzip_size_bytes"`
			}
		}
		if err := json.Unmarshal([]byte(r.body), &page); err != nil || r.status != http.StatusOK {
			t.Fatalf("%s: HTTP %d, %v", target, r.status, err)
		}
		for _, r := range page.Records {
			if want := int64(all - 1 - seen); r.Bytes != want {
				t.Fatalf("record %d is dump %d, want %d", seen, r.Bytes, want)
			}
			seen++
		}
		if seen == all && last == "" {
			last = r.body
		}
		next, ok := strings.CutSuffix(r.header.Get("Link"), `>; rel="next"`)
		if target = ""; ok {
			target = e.URL + "/records" + strings.TrimPrefix(next, "<")
		}
	}
	if seen != all {
		t.Errorf("%d records, want %d", seen, all)
	}
	byOffset := get(t, e.URL+"/records?limit=10000&offset=90000", http.StatusOK)
	if want := strings.Replace(last, `"offset":1}`, `"offset":90000}`, 1); byOffset != want {
		t.Errorf("the last page by links and by offset differ, in %d and %d bytes", len(last), len(byOffset))
	}
	peak := e.peakMiB(t)
	t.Logf("peak memory: %.1f MiB before, %.1f MiB after eleven pages of 10,000", idle, peak)
	if peak-idle > 16 {
		t.Errorf("%.1f MiB more memory for eleven pages", peak-idle)
	}
	now := get(t, e.URL+"/records?limit=3", http.StatusOK)
	if old := get(t, e.URL+oldRecordsPath+"?limit=3", http.StatusOK); old != now {
		t.Errorf("the response at the old path is\n%s\nat the new path\n%s", old, now)
	}
	for method, want := range map[string]int{"HEAD": 200, "POST": 405, "PUT": 405, "DELETE": 405} {
		if got := send(nil, method, e.URL+"/records?limit=3"); got.status != want {
			t.Errorf("%s: HTTP %d, want %d", method, got.status, want)
		}
	}
	if body := get(t, e.URL+"/openapi.json", http.StatusOK); !json.Valid([]byte(body)) {
		t.Errorf("invalid JSON: %s", body)
	}
}
