package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

// differing is what differs from run to run.
var differing = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "HOST:PORT"},
	{regexp.MustCompile(`port \d+`), "port PORT"},
	{regexp.MustCompile(`\bin [0-9.]+(µs|ms|s)`), "in TIME"},
	{regexp.MustCompile(`\b\d{19}\b`), "NANOSECONDS"},
	{regexp.MustCompile(`'\d{4}-\d\d-\d\dT[0-9:.]+Z'`), "'TIME'"},
}

// checkDatabases stores a database for each thing that can be wrong with the data.
func checkDatabases(t *testing.T, server *influxtest.Server) {
	t.Helper()
	old, now := time.Unix(1.7e9, 0), time.Now()
	cpu := map[string]any{"cpu": 1.0}
	conflicting := dump("3", old.Add(-100*24*time.Hour), map[string]any{"sha256": 0})
	twin := sample("2", now, cpu)
	twin.Tags["name"] = "dom-1"
	untagged := point(influxtest.Telemetry, now, map[string]any{"VMID": "1", "cpu": 1.0}, map[string]string{"vmid": "1"})
	for database, points := range map[string][]influxtest.Point{
		"right":         {dump("1", old, first(5)), dump("2", old.Add(time.Second), first(6)), sample("1", now, cpu)},
		"unwritten":     {dump("1", old, map[string]any{"sha256": "ab", "duration_sec": 2.5}), sample("1", now, cpu)},
		"field missing": {dump("1", old, map[string]any{"hash": "ab", "duration_sec": 2.5}), sample("1", now, cpu)},
		"tag missing":   {dump("1", old, first(5)), untagged},
		"types":         {dump("1", old, first(5)), dump("2", old.Add(time.Second), first(6)), sample("1", now, cpu), conflicting},
		"elsewhere":     {dump("1", old, first(5)), point("vm_stats", now, cpu, map[string]string{"VMID": "1"})},
		"never dumped":  {dump("1", old, first(5)), sample("1", now, cpu), sample("3", now, cpu), twin},
	} {
		h := &influxtest.History{}
		h.Add(points...)
		server.MustStore(t, database, h)
	}
}

// TestCheck: for each thing that can be wrong, the first line that is WRONG names the cause
// and what to change.
func TestCheck(t *testing.T) {
	server := influxdb.Server(t)
	checkDatabases(t, server)
	other := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) })
	exchanges := influxtest.MustLoad(t, "influxdb-3.8.3", "auth").Exchanges
	wrongToken := exchanges[slices.IndexFunc(exchanges, func(e influxtest.Exchange) bool { return e.Label == "bearer_wrong_query" })].Response
	guarded := influxtest.Handle(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(wrongToken.Status)
		_, _ = io.WriteString(w, wrongToken.Body)
	})
	gateway := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v3/query" {
			http.NotFound(w, r)
			return
		}
		response := `{"results":[{"series":[{"columns":["value"],"values":[[7]]}]}]}`
		if strings.Contains(r.URL.Query().Get("q"), "SELECT time") {
			response = `{"results":[{"series":[{"columns":["time"],"values":[["2025-11-11T10:30:00Z"]]}]}]}`
		}
		_, _ = io.WriteString(w, response)
	})
	on := func(database string) []string {
		return []string{"--influx.url=" + server.URL, "--influx.db=" + database}
	}
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string // in the first line that is WRONG, or in the hint below it; without one, anywhere
	}{
		{"right", on("right"), 0, "memdump_up 1"},
		{"no-server", []string{"--influx.url=http://127.0.0.1:1"}, 1, "--influx.url"},
		{"wrong-port", []string{"--influx.url=" + other}, 1, "not an InfluxDB"},
		{"wrong-token", []string{"--influx.url=" + guarded, "--influx.db=a", "--influx.token=<wrong>"}, 1, "--influx.token"},
		{"wrong-database", on("nope"), 1, "--influx.db"},
		{"wrong-measurement", append(on("right"), "--dumps.measurement=nope"), 1, "--dumps.measurement"},
		{"wrong-policy", append(on("right"), "--dumps.retention-policy=nope"), 1, "--dumps.retention-policy"},
		{"other-telemetry", on("elsewhere"), 1, "--telemetry.measurement=vm_stats"},
		{"unwritten", on("unwritten"), 0, `no writer has recorded "gzip_size_bytes", "raw_size_bytes" yet`},
		{"field-missing", on("field missing"), 1, `"mem_dumps" has no field "sha256"`},
		{"tag-missing", on("tag missing"), 1, `has no tag "VMID"`},
		{"type-conflict", on("types"), 1, `the field "sha256" has the types integer, string`},
		{"never-dumped", on("never dumped"), 0, "1 of 3 monitored VMs have never been dumped: dom-3 (u-3)"},
		{"gateway", []string{"--influx.url=" + gateway}, 0, "memdump_up 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := checked(t, tt.code, tt.args...)
			golden := filepath.Join("testdata", "check", tt.name+".txt")
			if *update {
				must(t, os.MkdirAll(filepath.Dir(golden), 0o755))
				write(t, golden, text)
			}
			want, err := os.ReadFile(golden)
			must(t, err)
			if text != string(want) {
				t.Errorf("%s differs (after reading the difference: go test ./cmd/memdump_exporter -update)\n%s", golden, text)
			}
			where := text
			if _, wrong, found := strings.Cut(text, "\nWRONG"); found {
				lines := strings.SplitN(wrong, "\n", 3)
				where = strings.Join(lines[:min(2, len(lines))], "\n")
			}
			if !strings.Contains(where, tt.want) {
				t.Errorf("no %q in\n%s\nof\n%s", tt.want, where, text)
			}
			if strings.Contains(text, "<wrong>") || strings.Contains(text, "\033") {
				t.Errorf("a secret, or colour outside of a terminal:\n%s", text)
			}

			var out, errors bytes.Buffer
			_ = run(t.Context(), append([]string{"check", "--output=json"}, tt.args...), &out, &errors)
			var result struct {
				OK    bool
				Steps []step
			}
			if err := json.Unmarshal(out.Bytes(), &result); err != nil || result.OK != (tt.code == 0) || len(result.Steps) < 5 {
				t.Errorf("%v: %s", err, &out)
			}
		})
	}
}

// checked is the text of a check that must end with an exit code, without what differs from run to
// run.
func checked(t *testing.T, want int, args ...string) string {
	t.Helper()
	var out, errors bytes.Buffer
	code := exitCode(run(t.Context(), append([]string{"check"}, args...), &out, &errors), &errors)
	if code != want || errors.Len() > 0 {
		t.Errorf("exit %d, want %d; %s", code, want, &errors)
	}
	text := out.String()
	for _, d := range differing {
		text = d.pattern.ReplaceAllString(text, d.instead)
	}
	return text
}

// TestCheck_terminal: a name in the database cannot control the terminal.
func TestCheck_terminal(t *testing.T) {
	var out bytes.Buffer
	c := &check{options: options{checkOutput: "text"}, out: &out}
	c.ok("dumps_measurement", "%s has the fields a\x1b[2J\u009b\rb", "m")
	if got := out.String(); strings.ContainsAny(got, "\x1b\u009b\r") || !strings.Contains(got, "m has the fields a[2Jb\n") {
		t.Errorf("%q", got)
	}
}

func TestExitCode(t *testing.T) {
	var stderr bytes.Buffer
	for want, err := range []error{nil, errCheck, usageError{fmt.Errorf("a flag")}} {
		if got := exitCode(err, &stderr); got != want {
			t.Errorf("%v: %d, want %d", err, got, want)
		}
	}
	if stderr.String() != "memdump_exporter: a flag\n" {
		t.Errorf("%q", stderr.String())
	}
}
