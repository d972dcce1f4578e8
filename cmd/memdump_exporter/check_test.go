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
	"strings"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

// differing is what is another in each run.
var differing = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "HOST:PORT"},
	{regexp.MustCompile(`port \d+`), "port PORT"},
	{regexp.MustCompile(`, in [0-9.]+(µs|ms|s)`), ", in TIME"},
	{regexp.MustCompile(`\b\d{19}\b`), "NANOSECONDS"},
	{regexp.MustCompile(`'\d{4}-\d\d-\d\dT[0-9:.]+Z'`), "'TIME'"},
}

// TestCheck: for each thing that can be wrong, the first line that says so names the
// cause and what to change.
func TestCheck(t *testing.T) {
	server := influxdb.Server(t)
	now := time.Now()
	h := &influxtest.History{}
	h.Add(dump("1", time.Unix(1.7e9, 0), first(5)), dump("2", time.Unix(1.7e9+1, 0), first(6)), sample("1", now, map[string]any{"cpu": 1.0}))
	server.MustStore(t, "right", h)
	poor := &influxtest.History{}
	poor.Add(dump("1", time.Unix(1.7e9, 0), map[string]any{"sha256": "ab", "duration_sec": 2.5}), sample("1", now, map[string]any{"cpu": 1.0}))
	server.MustStore(t, "poor", poor)
	nobody := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) })
	guarded := influxtest.Serve(t, influxtest.MustLoad(t, "influxdb-3.8.3", "auth"))
	gateway := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v3/query" {
			http.NotFound(w, r)
			return
		}
		answer := `{"results":[{"series":[{"columns":["figure"],"values":[[7]]}]}]}`
		if strings.Contains(r.URL.Query().Get("q"), "SELECT time") {
			answer = `{"results":[{"series":[{"columns":["time"],"values":[["2025-11-11T10:30:00Z"]]}]}]}`
		}
		_, _ = io.WriteString(w, answer)
	})
	for _, tt := range []struct {
		name string
		args []string
		code int
		says string // in the first line that says what is wrong, or in the hint behind it
	}{
		{"right", []string{"--influx.url=" + server.URL, "--influx.db=right"}, 0, ""},
		{"no-server", []string{"--influx.url=http://127.0.0.1:1"}, 1, "--influx.url"},
		{"wrong-port", []string{"--influx.url=" + nobody}, 1, "no InfluxDB"},
		{"wrong-token", []string{"--influx.url=" + guarded.URL, "--influx.db=a", "--influx.token=<wrong>"}, 1, "--influx.token"},
		{"wrong-database", []string{"--influx.url=" + server.URL, "--influx.db=nope"}, 1, "--influx.db"},
		{"wrong-measurement", []string{"--influx.url=" + server.URL, "--influx.db=right", "--dumps.measurement=nope"}, 1, "--dumps.measurement"},
		{"field-missing", []string{"--influx.url=" + server.URL, "--influx.db=poor"}, 1, "gzip_size_bytes"},
		{"gateway", []string{"--influx.url=" + gateway}, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out, errors bytes.Buffer
			code := exitCode(run(t.Context(), append([]string{"check"}, tt.args...), &out, &errors), &errors)
			if code != tt.code || errors.Len() > 0 {
				t.Errorf("exit %d, want %d; %s", code, tt.code, &errors)
			}
			text := out.String()
			for _, d := range differing {
				text = d.pattern.ReplaceAllString(text, d.instead)
			}
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
			if _, wrong, _ := strings.Cut(text, "\nWRONG"); tt.says != "" {
				lines := strings.SplitN(wrong, "\n", 3)
				if len(lines) < 2 || !strings.Contains(lines[0]+lines[1], tt.says) {
					t.Errorf("the first thing wrong does not name %q:\n%s", tt.says, text)
				}
			}
			if strings.Contains(text, "<wrong>") || strings.Contains(text, "\033") {
				t.Errorf("a secret, or colour outside of a terminal:\n%s", text)
			}

			out.Reset()
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

// TestCheck_terminal: a name in the database can't tell the terminal what to do.
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
