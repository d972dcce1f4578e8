package main

import (
	"context"
	"fmt"
	"io"
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

// backfilled is what a backfill must say, counted from the points that were written.
func backfilled(h *influxtest.History, from, to time.Time, step time.Duration, labels string) string {
	points := h.Points(influxtest.Dumps)
	slices.Reverse(points) // oldest first
	lines := make([]strings.Builder, 4)
	var dumps, bytes, last int64
	vms := make(map[string]bool)
	for at := from; !at.After(to); at = at.Add(step) {
		for len(points) > 0 && points[0].TimeNs <= at.UnixNano() {
			p := points[0]
			points = points[1:]
			if size, ok := p.Fields["gzip_size_bytes"].(int64); ok {
				bytes += size
			}
			if p.Fields["sha256"] == nil {
				continue
			}
			dumps++
			last = p.TimeNs
			if p.Tags["vmid"] != "" {
				vms[p.Tags["vmid"]] = true
			}
		}
		newest, _ := big.NewRat(last, 1e9).Float64()
		for i, value := range []float64{float64(dumps), float64(len(vms)), float64(bytes), newest} {
			if i < 3 || dumps > 0 {
				fmt.Fprintf(&lines[i], "%s%s %v %d\n", []string{"memdump_dumps", "memdump_dumped_vms", "memdump_dumps_compressed_bytes", "memdump_last_dump_timestamp_seconds"}[i], labels, value, at.Unix())
			}
		}
	}
	return lines[0].String() + lines[1].String() + lines[2].String() + lines[3].String()
}

// samples leaves the lines that begin with # out.
func samples(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	if !strings.HasSuffix(string(text), "\n# EOF\n") {
		t.Errorf("%s does not end with # EOF", file)
	}
	var kept strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// TestBackfill: weeks in hours, and in steps that fit nothing, also where InfluxDB
// refuses most ranges, are what was written; and what was stopped half-way and taken up
// again is the same to the byte.
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
	crowded := crowdedFront(t, server.URL, 5*time.Hour)
	dir := t.TempDir()
	for i, tt := range []struct {
		url  string
		from time.Time
		step time.Duration
	}{
		{server.URL, now.Add(-600 * time.Hour), time.Hour},
		{limited.URL, now.Add(-500 * time.Hour), time.Hour},
		{server.URL, now.Add(-500*time.Hour - 7*time.Second), 12345 * time.Second},
		{limited.URL, now.Add(-700 * time.Hour), 100 * time.Hour},
		{server.URL, now, time.Hour},
		{crowded, now.Add(-11 * time.Hour), time.Hour},
	} {
		file := filepath.Join(dir, fmt.Sprint(i))
		args := []string{"--influx.url=" + tt.url, "--influx.db=vmstats", "backfill", "--from=" + tt.from.Format(time.RFC3339), fmt.Sprint("--to=", now.Unix()), "--step=" + tt.step.String(), "--output=" + file,
			"--label=instance=here:10147", `--label=job=mem"dump\`}
		must(t, run(t.Context(), args, io.Discard, io.Discard))
		if got, want := samples(t, file), backfilled(h, tt.from, now, tt.step, `{instance="here:10147",job="mem\"dump\\"}`); got != want {
			t.Errorf("run %d differs from what was written:\n%s\nwant:\n%s", i, firstLines(got), firstLines(want))
		}
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "--output") {
			t.Errorf("a file that is there was to be refused: %v", err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 6 {
		t.Errorf("left behind: %v, %v", entries, err)
	}

	// Stopped again and again, after ever so many questions.
	var asked, allowed atomic.Int64
	proxy := influxtest.Forward(t, server.URL)
	ctx, stop := context.WithCancel(t.Context())
	front := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) > allowed.Load() {
			stop()
			http.Error(w, "stopped", http.StatusInternalServerError)
			return
		}
		proxy.ServeHTTP(w, r)
	})
	file := filepath.Join(dir, "resumed")
	args := []string{"--influx.url=" + front, "--influx.db=vmstats", "backfill", fmt.Sprint("--from=", now.Add(-600*time.Hour).Unix()), fmt.Sprint("--to=", now.Unix()), "--output=" + file,
		"--label=instance=here:10147", `--label=job=mem"dump\`}
	stops := 0
	for allowed.Store(5); ; stops++ {
		asked.Store(0)
		err := run(ctx, args, io.Discard, io.Discard)
		if err == nil {
			break
		}
		if stops > 60 {
			t.Fatal(err)
		}
		// What was being written when the process was killed.
		if part, err := os.OpenFile(file+".part", os.O_APPEND|os.O_WRONLY, 0); err == nil {
			fmt.Fprint(part, "1790000000 12 3")
			part.Close()
		}
		ctx, stop = context.WithCancel(t.Context())
		allowed.Add(1)
	}
	stop()
	whole, err := os.ReadFile(filepath.Join(dir, "0"))
	must(t, err)
	resumed, err := os.ReadFile(file)
	if err != nil || string(resumed) != string(whole) || stops < 3 {
		t.Errorf("after %d stops: %v\n%s\nwant:\n%s", stops, err, firstLines(string(resumed)), firstLines(string(whole)))
	}
}

// crowdedFront answers at length about records of more time than so much, as of a site
// that dumps every few seconds; the rest the server answers.
func crowdedFront(t *testing.T, server string, most time.Duration) string {
	t.Helper()
	proxy := influxtest.Forward(t, server)
	bounds := regexp.MustCompile(`"vmid","gzip_size_bytes" .*time >= (\d+) AND time < (\d+)`)
	return influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		found := bounds.FindStringSubmatch(r.URL.Query().Get("q"))
		if found == nil {
			proxy.ServeHTTP(w, r)
			return
		}
		from, errFrom := strconv.ParseInt(found[1], 10, 64)
		to, errTo := strconv.ParseInt(found[2], 10, 64)
		if errFrom != nil || errTo != nil || to-from <= int64(most) {
			proxy.ServeHTTP(w, r)
			return
		}
		_, _ = io.WriteString(w, `{"results":[{"series":[{"name":"mem_dumps","columns":["time","sha256","vmid","gzip_size_bytes"],"values":[`)
		row := []byte(fmt.Sprintf(`[%d,"%064d","crowd",1],`, from, 0))
		for range 17 << 20 / len(row) {
			if _, err := w.Write(row); err != nil {
				return
			}
		}
		_, _ = io.WriteString(w, `[0,null,null,null]]}]}]}`)
	})
}

func firstLines(text string) string { return text[:min(len(text), 600)] }

// TestBackfill_live: the last step is what a scrape says.
func TestBackfill_live(t *testing.T) {
	server := influxdb.Server(t)
	h := influxtest.Believable(10, time.Now().Add(-time.Second))
	server.MustStore(t, "vmstats", h)
	file := filepath.Join(t.TempDir(), "history")
	must(t, run(t.Context(), []string{"--influx.url=" + server.URL, "backfill", fmt.Sprint("--from=", time.Now().Add(-time.Hour).Truncate(time.Second).Unix()), "--step=1s", "--output=" + file}, io.Discard, io.Discard))
	got := samples(t, file)
	for series, value := range startExporter(t, []string{"INFLUX_URL=" + server.URL}).scrape(t).gauges("memdump_dumps", "memdump_dumped_vms", "memdump_dumps_compressed_bytes", "memdump_last_dump_timestamp_seconds") {
		if line := fmt.Sprint(series, " ", value, " "); !strings.Contains(got, line) || strings.LastIndex(got, "\n"+line) < strings.LastIndex(got, "\n"+series+" ") {
			t.Errorf("the last of %s is not %v", series, value)
		}
	}
}

// TestBackfill_refuses: nothing is written for what can't be meant or can't be known.
func TestBackfill_refuses(t *testing.T) {
	server := influxdb.Server(t)
	execute(t, server, "CREATE DATABASE nothing")
	file := filepath.Join(t.TempDir(), "out")
	must(t, os.WriteFile(file+".part", []byte("another run\n1 2 3 4 5\n"), 0o600))
	for args, want := range map[string]string{
		"--from=yesterday":                             "--from",
		"--from=1e9":                                   "--from",
		"--from=2026-01-01T00:00:00.5Z":                "--from",
		"--from=1000 --to=999":                         "--to is before --from",
		"--from=1000 --to=2100000000":                  "--to is in the future",
		"--from=1000 --step=1500ms":                    "--step",
		"--from=1000 --step=0s":                        "--step",
		"--from=1000 --step=1s":                        "--step",
		"--from=1000 --to=2000 --label=a-b=c":          "--label",
		"--from=1000 --to=2000 --label=__name__=c":     "--label",
		"--from=1000 --to=2000":                        "another run",
		"--from=1000 --to=2000 --output=" + file + "2": "there is no measurement",
	} {
		all := append([]string{"--influx.url=" + server.URL, "--influx.db=nothing", "backfill"}, strings.Fields(args)...)
		if !strings.Contains(args, "--output") {
			all = append(all, "--output="+file)
		}
		if err := run(t.Context(), all, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
	if left, err := os.ReadFile(file + ".part"); err != nil || string(left) != "another run\n1 2 3 4 5\n" {
		t.Errorf("the work of another run: %q, %v", left, err)
	}
}
