package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

// running are the metrics of the dumps up to a time, counted from the points that were written.
type running struct {
	dumps, last           int64
	vms, domains          map[string]bool
	compressed, raw       int64
	sized, rawSized       bool
	seconds, withDuration float64
}

func (r *running) add(p influxtest.Point) {
	number := func(field string) (value float64, ok bool) {
		switch v := p.Fields[field].(type) {
		case int64:
			return float64(v), true
		case float64:
			return v, true
		}
		return 0, false
	}
	if size, ok := number("gzip_size_bytes"); ok {
		r.compressed, r.sized = r.compressed+int64(size), true
	}
	if size, ok := number("raw_size_bytes"); ok {
		r.raw, r.rawSized = r.raw+int64(size), true
	}
	if seconds, ok := number("duration_sec"); ok {
		r.seconds, r.withDuration = r.seconds+seconds, r.withDuration+1
	}
	if p.Fields["sha256"] == nil {
		return
	}
	r.dumps++
	r.last = p.TimeNs
	r.vms[p.Tags["vmid"]] = true
	r.domains[cmp.Or(p.Tags["dom"], p.Tags["vmid"])] = true
	delete(r.vms, "")
	delete(r.domains, "")
}

// metrics are those that have a value.
func (r *running) metrics() map[string]float64 {
	m := map[string]float64{
		"memdump_dumps": float64(r.dumps), "memdump_dumped_vms": float64(len(r.vms)), "memdump_dumped_domains": float64(len(r.domains)),
	}
	if r.sized {
		m["memdump_dumps_compressed_bytes"] = float64(r.compressed)
	}
	if r.rawSized {
		m["memdump_dumps_raw_bytes"] = float64(r.raw)
	}
	if r.withDuration > 0 {
		m["memdump_dumps_duration_seconds"], m["memdump_dumps_with_duration"] = r.seconds, r.withDuration
		m["memdump_dump_duration_mean_seconds"] = r.seconds / r.withDuration
	}
	if r.dumps > 0 {
		m["memdump_last_dump_timestamp_seconds"], _ = big.NewRat(r.last, 1e9).Float64()
	}
	return m
}

// backfilled are the lines of each metric that a backfill must write.
func backfilled(h *influxtest.History, from, to time.Time, step time.Duration, labels string) map[string]string {
	points := h.Points(influxtest.Dumps)
	slices.Reverse(points) // oldest first
	r := running{vms: map[string]bool{}, domains: map[string]bool{}}
	lines := make(map[string]string)
	all := make(map[string]*strings.Builder)
	for at := from; !at.After(to); at = at.Add(step) {
		for len(points) > 0 && points[0].TimeNs <= at.UnixNano() {
			r.add(points[0])
			points = points[1:]
		}
		for metric, value := range r.metrics() {
			if all[metric] == nil {
				all[metric] = &strings.Builder{}
			}
			fmt.Fprintf(all[metric], "%s%s %s %d\n", metric, labels, strconv.FormatFloat(value, 'g', -1, 64), at.Unix())
		}
	}
	for metric, text := range all {
		lines[metric] = text.String()
	}
	return lines
}

// samples are the lines of each metric in a file.
func samples(t *testing.T, file string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	if !strings.HasSuffix(string(text), "\n# EOF\n") {
		t.Errorf("%s does not end with # EOF", file)
	}
	all := make(map[string]*strings.Builder)
	for line := range strings.Lines(string(text)) {
		if metric := line[:strings.IndexAny(line, "{ ")]; metric != "#" {
			if all[metric] == nil {
				all[metric] = &strings.Builder{}
			}
			all[metric].WriteString(line)
		}
	}
	lines := make(map[string]string)
	for metric, text := range all {
		lines[metric] = text.String()
	}
	return lines
}

// sameLines compares the lines of each metric.
func sameLines(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for _, wrong := range lineDifferences(got, want) {
		t.Errorf("%s: %s", what, wrong)
	}
}

// lineDifferences are the metrics whose lines differ from what was written.
func lineDifferences(got, want map[string]string) (wrong []string) {
	all := maps.Clone(want)
	maps.Copy(all, got)
	for metric := range all {
		if got[metric] != want[metric] {
			wrong = append(wrong, fmt.Sprintf("%s differs from what was written:\n%s\nwant:\n%s",
				metric, firstLines(got[metric]), firstLines(want[metric])))
		}
	}
	return wrong
}

func firstLines(text string) string { return text[:min(len(text), 600)] }

// TestBackfill: weeks in hours, and in steps that divide nothing, are what was written, also
// where InfluxDB rejects most time ranges, responds at length, or takes too long.
func TestBackfill(t *testing.T) {
	server := influxdb.Server(t)
	now := time.Now().Truncate(time.Hour)
	h := influxtest.Believable(9, now)
	for i := range 40 { // at the time of a step, and a nanosecond beside
		at := now.Add(-time.Duration(i*11) * time.Hour)
		for _, beside := range []time.Duration{-1, 0, 1} {
			h.Add(dump(fmt.Sprint("edge", i), at.Add(beside), map[string]any{"sha256": "e", "gzip_size_bytes": int64(i)}))
		}
	}
	server.MustStore(t, "vmstats", h)
	limited := influxtest.LimitFiles(t, server.URL, "influxdb-3.8.3", 20)
	limited.Holds(h)
	to := now.Add(-4 * time.Hour)
	dir := t.TempDir()
	const labels = `{instance="here:10147",job="mem\"dump\\"}`
	for i, tt := range []struct {
		url  string
		from time.Time
		step time.Duration
		args []string
	}{
		{server.URL, now.Add(-600 * time.Hour), time.Hour, nil},
		{server.URL, now.Add(-100 * time.Hour), 5 * time.Minute, nil},
		{limited.URL, now.Add(-500 * time.Hour), time.Hour, nil},
		{server.URL, now.Add(-500*time.Hour - 7*time.Second), 12345 * time.Second, nil},
		{limited.URL, now.Add(-700 * time.Hour), 100 * time.Hour, nil},
		{server.URL, to, time.Hour, nil},
		{longRanges(t, server.URL, 5*time.Hour, overflow), now.Add(-15 * time.Hour), time.Hour, nil},
		{longRanges(t, server.URL, 5*time.Hour, hang), now.Add(-15 * time.Hour), time.Hour, []string{"--scrape.timeout=1s"}},
	} {
		file := filepath.Join(dir, fmt.Sprint(i))
		args := append([]string{"--influx.url=" + tt.url, "--influx.db=vmstats", "backfill", "--from=" + tt.from.Format(time.RFC3339),
			fmt.Sprint("--to=", to.Unix()), "--step=" + tt.step.String(), "--output=" + file,
			"--label=instance=here:10147", `--label=job=mem"dump\`}, tt.args...)
		var stderr bytes.Buffer
		must(t, run(t.Context(), args, io.Discard, &stderr))
		sameLines(t, fmt.Sprint("run ", i), samples(t, file), backfilled(h, tt.from, to, tt.step, labels))
		log := stderr.String()
		if !strings.Contains(log, "promtool tsdb create-blocks-from openmetrics "+file) || strings.Contains(log, "warning") {
			t.Errorf("run %d ended with %q", i, log)
		}
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "--output") {
			t.Errorf("run %d: a file that exists was not refused: %v", i, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 8 {
		t.Errorf("files beside the outputs: %v, %v", entries, err)
	}
}

// TestBackfill_fails: a backfill that fails half-way leaves no file.
func TestBackfill_fails(t *testing.T) {
	server := influxdb.Server(t)
	now := time.Now().Truncate(time.Hour)
	server.MustStore(t, "vmstats", influxtest.Believable(9, now))
	var requests atomic.Int64
	proxy := influxtest.Forward(t, server.URL)
	front := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) > 6 {
			http.Error(w, "stopped", http.StatusInternalServerError)
			return
		}
		proxy.ServeHTTP(w, r)
	})
	dir := t.TempDir()
	err := run(t.Context(), []string{"--influx.url=" + front, "backfill", fmt.Sprint("--from=", now.Add(-600*time.Hour).Unix()),
		"--output=" + filepath.Join(dir, "history")}, io.Discard, io.Discard)
	if err == nil || !regexp.MustCompile(`^after [1-9]\d+ of \d+ steps: .*server_error`).MatchString(err.Error()) {
		t.Errorf("it ended with %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// longRanges is a front that responds itself to requests about records of more time than
// maxRange.
func longRanges(
	t *testing.T, server string, maxRange time.Duration, respond func(from int64, w http.ResponseWriter, r *http.Request),
) string {
	t.Helper()
	proxy := influxtest.Forward(t, server)
	bounds := regexp.MustCompile(`"gzip_size_bytes".*time >= (\d+) AND time < (\d+)`)
	return influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		if found := bounds.FindStringSubmatch(r.URL.Query().Get("q")); found != nil {
			from, errFrom := strconv.ParseInt(found[1], 10, 64)
			to, errTo := strconv.ParseInt(found[2], 10, 64)
			if errFrom == nil && errTo == nil && to-from > int64(maxRange) {
				respond(from, w, r)
				return
			}
		}
		proxy.ServeHTTP(w, r)
	})
}

// overflow responds with more records than the exporter reads, as where dumps are made every few
// seconds.
func overflow(from int64, w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, `{"results":[{"series":[{"name":"mem_dumps","columns":["time","sha256","dom","vmid","host",`+
		`"duration_sec","gzip_size_bytes","raw_size_bytes"],"values":[`)
	row := []byte(fmt.Sprintf(`[%d,"%s","a","1","h",1,1,1],`, from, strings.Repeat("0", 64<<10)))
	for range 97 << 20 / len(row) {
		if _, err := w.Write(row); err != nil {
			return
		}
	}
	_, _ = io.WriteString(w, `[0,null,null,null,null,null,null,null]]}]}]}`)
}

// hang does not respond until the client leaves.
func hang(_ int64, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// TestBackfill_live: the last step has the values of a scrape, and a history that ends now
// comes with a warning.
func TestBackfill_live(t *testing.T) {
	server := influxdb.Server(t)
	server.MustStore(t, "vmstats", influxtest.Believable(10, time.Now().Add(-time.Second)))
	file := filepath.Join(t.TempDir(), "history")
	now := time.Now().Truncate(time.Second)
	var stderr bytes.Buffer
	must(t, run(t.Context(), []string{"--influx.url=" + server.URL, "backfill", fmt.Sprint("--from=", now.Add(-time.Hour).Unix()),
		fmt.Sprint("--to=", now.Unix()), "--allow-recent", "--step=1s", "--output=" + file}, io.Discard, &stderr))
	if !strings.Contains(stderr.String(), "warning: the last step is less than 3h0m0s old") {
		t.Errorf("no warning in %q", &stderr)
	}
	for _, wrong := range lastDifferences(samples(t, file), startExporter(t, []string{"INFLUX_URL=" + server.URL}).scrape(t), now) {
		t.Error(wrong)
	}
}

// lastDifferences are the metrics about dumps whose last line, at a time, has not the value of a
// scrape.
func lastDifferences(lines map[string]string, scraped families, at time.Time) (wrong []string) {
	compared := 0
	for _, metric := range knownMetrics() {
		value, ok := scraped.gauges(metric)[metric]
		if !ok || strings.HasPrefix(metric, "memdump_monitored_") || strings.HasPrefix(metric, "memdump_vms_") {
			continue
		}
		compared++
		all := strings.Split(strings.TrimSpace(lines[metric]), "\n")
		if want := fmt.Sprint(metric, " ", value, " ", at.Unix()); all[len(all)-1] != want {
			wrong = append(wrong, fmt.Sprintf("the last line is %q, want %q", all[len(all)-1], want))
		}
	}
	if len(lines) != 9 || compared != 9 {
		wrong = append(wrong, fmt.Sprintf("%d metrics, %d of them in a scrape, want 9: %q",
			len(lines), compared, slices.Sorted(maps.Keys(lines))))
	}
	return wrong
}

// TestBackfill_defaults: a step of five minutes, up to three hours ago.
func TestBackfill_defaults(t *testing.T) {
	server := influxdb.Server(t)
	server.MustStore(t, "vmstats", influxtest.Believable(10, time.Now()))
	file := filepath.Join(t.TempDir(), "history")
	from := time.Now().Add(-5 * time.Hour).Truncate(time.Second)
	latest := time.Now().Add(-3 * time.Hour)
	args := []string{"--influx.url=" + server.URL, "backfill", fmt.Sprint("--from=", from.Unix()), "--output=" + file}
	must(t, run(t.Context(), args, io.Discard, io.Discard))
	lines := strings.Split(strings.TrimSpace(samples(t, file)["memdump_dumps"]), "\n")
	for i, line := range lines {
		at := from.Add(time.Duration(i) * 5 * time.Minute)
		if !strings.HasSuffix(line, fmt.Sprint(" ", at.Unix())) {
			t.Errorf("step %d is %q, want it at %d", i, line, at.Unix())
		}
	}
	if n := int(latest.Sub(from)/(5*time.Minute)) + 1; len(lines) != n {
		t.Errorf("%d steps, want %d", len(lines), n)
	}
}

// TestBackfill_refuses: nothing is written for what is invalid or unknown.
func TestBackfill_refuses(t *testing.T) {
	server := influxdb.Server(t)
	execute(t, server, "CREATE DATABASE nothing")
	dir := t.TempDir()
	recent := time.Now().Add(-3*time.Hour + time.Minute).Unix()
	for args, want := range map[string]string{
		"--from=yesterday":                                   "--from",
		"--from=1e9":                                         "--from",
		"--from=2026-01-01T00:00:00.5Z":                      "--from",
		"--from=1000 --to=999":                               "--to is before --from",
		"--from=1000 --to=2100000000":                        "--to is in the future",
		"--from=1000 --to=2100000000 --allow-recent":         "--to is in the future",
		fmt.Sprint("--from=", recent-1000, " --to=", recent): "--allow-recent",
		"--from=1000 --step=1500ms":                          "--step",
		"--from=1000 --step=0s":                              "--step",
		"--from=1000 --step=1s":                              "--step",
		"--from=1000 --to=2000 --label=a-b=c":                "--label",
		"--from=1000 --to=2000 --label=__name__=c":           "--label",
		"--from=1000 --to=2000 --output=/no/such/folder/f":   "--output",
		"--from=1000 --to=2000":                              "measurement_missing",
	} {
		all := append([]string{"--influx.url=" + server.URL, "--influx.db=nothing", "backfill"}, strings.Fields(args)...)
		if !strings.Contains(args, "--output") {
			all = append(all, "--output="+filepath.Join(dir, "out"))
		}
		if err := run(t.Context(), all, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
