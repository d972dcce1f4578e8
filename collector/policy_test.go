package collector

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// TestPolicy: a new default retention policy hides the points of the other one, unless the flag names
// that: in the queries, the history and the schema.
func TestPolicy(t *testing.T) {
	server := influxdb.Server(t)
	for _, statement := range []string{
		`CREATE DATABASE "policies"`,
		`CREATE RETENTION POLICY "long" ON "policies" DURATION INF REPLICATION 1`,
		`CREATE RETENTION POLICY "fresh" ON "policies" DURATION INF REPLICATION 1 DEFAULT`,
	} {
		if err := server.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	writeTo(t, server, url.Values{"db": {"policies"}, "rp": {"long"}},
		influxtest.Point{Measurement: influxtest.Dumps, Tags: map[string]string{"dom": "a", "vmid": "1"},
			Fields: map[string]any{"sha256": "s"}, TimeNs: now.Add(-time.Hour).UnixNano()},
		influxtest.Point{Measurement: influxtest.Dumps, Tags: map[string]string{"dom": "b", "vmid": "2"},
			Fields: map[string]any{"sha256": "s"}, TimeNs: now.Add(-40 * day).UnixNano()},
		influxtest.Point{Measurement: influxtest.Telemetry, Tags: map[string]string{"VMID": "1", "name": "a"},
			Fields: map[string]any{"cpus": 1}, TimeNs: now.Add(-time.Minute).UnixNano()})
	for policy, visible := range map[string]bool{"": false, "fresh": false, "long": true} {
		for _, full := range []bool{true, false} {
			t.Run(map[bool]string{true: "full, ", false: "history, "}[full]+"policy "+policy, func(t *testing.T) {
				e := newExporter(t, newClient(t, server.URL, "policies"), at(newClock(now)), func(c *Config) {
					c.DumpsPolicy, c.TelemetryPolicy = policy, policy
				})
				if !full {
					e.histories[dumps].leaveFull(influx.ErrFileLimit) // which lasts for a day
				}
				got := scrape(t, e)
				if e.Histories()[dumps].Full != full {
					t.Errorf("full queries: %v", !full)
				}
				if !visible {
					got.wantAbsent(t, "memdump_dumps", "memdump_monitored_domains")
					got.wantValue(t, 0, "memdump_up")
					return
				}
				for _, s := range e.Statuses() {
					if s.Err != nil {
						t.Errorf("%s: %v", s.Query, s.Err)
					}
				}
				got.wantValue(t, 1, "memdump_up")
				got.wantValue(t, 2, "memdump_dumps")
				got.wantValue(t, 2, "memdump_dumped_domains")
				got.wantValue(t, 1, "memdump_monitored_domains")
				got.wantValue(t, 0, "memdump_vms_never_dumped")
				got.wantAbsent(t, "memdump_dumps_compressed_bytes")
			})
		}
	}
}

// writeTo writes points with parameters that Writer does not support.
func writeTo(t *testing.T, server *influxtest.Server, query url.Values, points ...influxtest.Point) {
	t.Helper()
	var lines strings.Builder
	for _, p := range points {
		lines.WriteString(p.Line() + "\n")
	}
	url := server.URL + "/write?" + query.Encode()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(lines.String()))
	if err != nil {
		t.Fatal(err)
	}
	response, err := server.HTTP.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusNoContent {
		t.Fatalf("write: HTTP status %d", response.StatusCode)
	}
}
