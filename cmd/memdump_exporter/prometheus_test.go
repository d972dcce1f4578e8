//go:build prometheus

package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

// scraper is a real Prometheus.
type scraper struct{ *exporter }

// storage is where a Prometheus has its configuration and its samples, also when it is started
// again.
type storage struct{ config, data string }

// newStorage writes a configuration with the rules of dashboards/ and the configurations of scrapes. The
// samples, lines of OpenMetrics, are in the storage from the start.
func newStorage(t *testing.T, samples, scrapeConfigs string) storage {
	t.Helper()
	dir := t.TempDir()
	rules, err := filepath.Abs("../../dashboards/alerts.yaml")
	must(t, err)
	s := storage{config: filepath.Join(dir, "prometheus.yml"), data: filepath.Join(dir, "data")}
	const config = "global: {scrape_interval: 2s, scrape_timeout: 2s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs:\n%s"
	write(t, s.config, fmt.Sprintf(config, rules, scrapeConfigs))
	past := filepath.Join(dir, "past.txt")
	write(t, past, samples+"# EOF\n")
	s.add(t, past)
	return s
}

// add makes blocks of a file of OpenMetrics.
func (s storage) add(t *testing.T, file string) {
	t.Helper()
	promtool(t, nil, "tsdb", "create-blocks-from", "--max-block-duration=720h", "openmetrics", file, s.data)
}

// scrapes is the configuration of a job that scrapes exporters, each as the instance named.
func scrapes(job string, exporters map[string]*exporter, more string) string {
	var targets []string
	for instance, e := range exporters {
		targets = append(targets, fmt.Sprintf("{targets: [%q], labels: {instance: %q}}", strings.TrimPrefix(e.URL, "http://"), instance))
	}
	return fmt.Sprintf("  - {job_name: %s, static_configs: [%s]%s}\n", job, strings.Join(targets, ", "), more)
}

// startPrometheus scrapes the exporters, each as the instance named, with the samples in its
// storage.
func startPrometheus(t *testing.T, samples string, exporters map[string]*exporter) scraper {
	t.Helper()
	return newStorage(t, samples, scrapes("memdump", exporters, "")).start(t)
}

// start runs a Prometheus until the test ends, and waits until it is ready.
func (s storage) start(t *testing.T) scraper {
	t.Helper()
	prometheus, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatalf("%v: make test-prometheus installs it", err)
	}
	cmd := exec.Command(prometheus, "--config.file="+s.config, "--storage.tsdb.path="+s.data, "--storage.tsdb.retention.time=10y",
		"--web.listen-address=127.0.0.1:0", "--enable-feature=extra-scrape-metrics")
	cmd.Env = []string{"GOMEMLIMIT=300MiB"}
	cmd.Dir = filepath.Dir(s.config)
	p := scraper{start(t, cmd)}
	until(t, time.Minute, "Prometheus is ready", func() error {
		select {
		case <-p.proc.Done():
			t.Fatalf("Prometheus ended: %v", p.proc.Err())
		default:
		}
		resp, err := http.Get(p.URL + "/-/ready")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("HTTP %d", resp.StatusCode)
		}
		return nil
	})
	return p
}

// promtool runs promtool, whose exit code must be 0, and returns its output.
func promtool(t *testing.T, input io.Reader, args ...string) string {
	t.Helper()
	cmd := exec.Command("promtool", args...)
	cmd.Stdin = input
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("promtool %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return string(output)
}

// fetch decodes the data of a response of Prometheus' API. An expression that does not parse, a warning
// and a notice fail.
func (p scraper) fetch(t *testing.T, path string, parameters url.Values, data any) {
	t.Helper()
	resp, err := http.Get(p.URL + "/api/v1/" + path + "?" + parameters.Encode())
	must(t, err)
	defer resp.Body.Close()
	var response struct {
		Status, Error   string
		Warnings, Infos []string
		Data            json.RawMessage
	}
	must(t, json.NewDecoder(resp.Body).Decode(&response))
	if response.Status != "success" || len(response.Warnings)+len(response.Infos) > 0 {
		t.Fatalf("%s %v: %s %s %q %q", path, parameters, response.Status, response.Error, response.Warnings, response.Infos)
	}
	must(t, json.Unmarshal(response.Data, data))
}

// series is one series of a response, with the last of its values.
type series struct {
	labels map[string]string
	value  float64
}

func (s series) String() string { return fmt.Sprintf("%v %v", s.labels, s.value) }

func (p scraper) query(t *testing.T, expr string, at time.Time) []series {
	t.Helper()
	return p.result(t, "query", url.Values{"query": {expr}, "time": {stamp(at)}})
}

func (p scraper) queryRange(t *testing.T, expr string, end time.Time) []series {
	t.Helper()
	start := end.Add(-5 * time.Minute)
	return p.result(t, "query_range", url.Values{"query": {expr}, "start": {stamp(start)}, "end": {stamp(end)}, "step": {"15"}})
}

func (p scraper) result(t *testing.T, path string, parameters url.Values) []series {
	t.Helper()
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
			Values [][2]any
		}
	}
	p.fetch(t, path, parameters, &data)
	var all []series
	for _, r := range data.Result {
		last := r.Value
		if len(r.Values) > 0 {
			last = r.Values[len(r.Values)-1]
		}
		value, err := strconv.ParseFloat(fmt.Sprint(last[1]), 64)
		must(t, err)
		all = append(all, series{r.Metric, value})
	}
	return all
}

func stamp(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1e3, 'f', 3, 64) }

// grafana sends the queries of our dashboard as Grafana does.
type grafana struct {
	scraper
	Annotations struct{ List []struct{ Name, Expr string } }
	Templating  struct {
		List []struct{ Name, Type, Definition string }
	}
	Panels []struct {
		Title   string
		Targets []struct {
			RefID, Expr string
			Instant     bool
		}
	}
}

func (p scraper) open(t *testing.T, file string) *grafana {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	g := &grafana{scraper: p}
	must(t, json.Unmarshal(text, g))
	return g
}

var (
	labelValues = regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)
	// special is what Grafana escapes in a value: prometheusSpecialRegexEscape.
	special = regexp.MustCompile(`[$^*{}\[\]'+?.()|]`)
)

// interpolate replaces the variables, each with all of its values, as All does.
func (g *grafana) interpolate(t *testing.T, expr string) string {
	t.Helper()
	replaced := []string{"$__rate_interval", "4m0s", "$__interval", "15s", "$__range", "300s"}
	for _, v := range g.Templating.List {
		if v.Type != "query" {
			continue
		}
		from := labelValues.FindStringSubmatch(v.Definition)
		if from == nil {
			t.Fatalf("variable %s: %s", v.Name, v.Definition)
		}
		var values []string
		g.fetch(t, "label/"+from[2]+"/values", url.Values{"match[]": {strings.NewReplacer(replaced...).Replace(from[1])}}, &values)
		for i, value := range values {
			values[i] = special.ReplaceAllString(value, `\\$0`)
		}
		all := strings.Join(values, "|")
		if len(values) > 1 {
			all = "(" + all + ")"
		}
		if all == "" {
			t.Fatalf("variable %s has no values", v.Name)
		}
		replaced = append(replaced, "$"+v.Name, all)
	}
	expr = strings.NewReplacer(replaced...).Replace(expr)
	if strings.Contains(expr, "$") {
		t.Fatalf("a variable that the dashboard does not have: %s", expr)
	}
	return expr
}

// show sends the queries of all panels, and logs how many series each returned.
func (g *grafana) show(t *testing.T, phase string, at time.Time) map[string][]series {
	t.Helper()
	all := make(map[string][]series)
	for _, panel := range g.Panels {
		for _, target := range panel.Targets {
			run := g.queryRange
			if target.Instant {
				run = g.query
			}
			name := panel.Title + " " + target.RefID
			all[name] = run(t, g.interpolate(t, target.Expr), at)
			t.Logf("%-8s %-32s %3d series", phase, name, len(all[name]))
		}
	}
	return all
}

// alerts are the series that each alert's expression returns now.
func (p scraper) alerts(t *testing.T, at time.Time) map[string][]series {
	t.Helper()
	found := make(map[string][]series)
	for _, rule := range p.rules(t) {
		if rule.Health != "ok" || rule.LastError != "" {
			t.Errorf("%s: %s %s", rule.Name, rule.Health, rule.LastError)
		}
		if s := p.query(t, rule.Query, at); len(s) > 0 {
			found[rule.Name] = s
		}
	}
	return found
}

// until waits for a query to return these values by instance.
func (p scraper) until(t *testing.T, expr string, want map[string]string) {
	t.Helper()
	until(t, time.Minute, expr, func() error {
		if got := by("instance", p.query(t, expr, time.Now())); !maps.Equal(got, want) {
			return fmt.Errorf("it is %v, want %v", got, want)
		}
		return nil
	})
}

// checkTargets checks that every target is up.
func (p scraper) checkTargets(t *testing.T) {
	t.Helper()
	var data struct {
		ActiveTargets []struct{ ScrapeURL, Health, LastError string }
	}
	p.fetch(t, "targets", nil, &data)
	for _, target := range data.ActiveTargets {
		if target.Health != "up" || target.LastError != "" {
			t.Errorf("%s is %s: %s", target.ScrapeURL, target.Health, target.LastError)
		}
	}
}

type rule struct{ Name, Query, Health, LastError string }

func (p scraper) rules(t *testing.T) []rule {
	t.Helper()
	var data struct{ Groups []struct{ Rules []rule } }
	p.fetch(t, "rules", nil, &data)
	var all []rule
	for _, group := range data.Groups {
		all = append(all, group.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("no rules are loaded")
	}
	return all
}

// by are the values of a panel by a label, NaN as the text that the dashboard shows for it.
func by(label string, all []series) map[string]string {
	values := make(map[string]string)
	for _, s := range all {
		values[s.labels[label]] = strconv.FormatFloat(s.value, 'g', -1, 64)
		if math.IsNaN(s.value) {
			values[s.labels[label]] = "unknown"
		}
	}
	return values
}

// view is what queries of the dashboard show: by panel and query, then by a label.
type view map[string]map[string]string

// holds compares with what is shown.
func (v view) holds(t *testing.T, phase, label string, shown map[string][]series) {
	t.Helper()
	for _, panel := range slices.Sorted(maps.Keys(v)) {
		if got := by(label, shown[panel]); !maps.Equal(got, v[panel]) {
			t.Errorf("%s: %s shows %v, want %v", phase, panel, got, v[panel])
		}
	}
}

// past are samples from before the exporters began: an hour ago there were seven dumps fewer;
// the ten dumps of the last day took 100 s each, and the ten before 50 s each.
func past(known map[string]float64, instances ...string) string {
	type value struct {
		less float64
		ago  time.Duration
	}
	const day = 24 * time.Hour
	var text strings.Builder
	for metric, values := range map[string][]value{
		"memdump_dumps":                  {{7, time.Hour}},
		"memdump_dumps_duration_seconds": {{1500, 30 * day}, {1000, day}},
		"memdump_dumps_with_duration":    {{20, 30 * day}, {10, day}},
	} {
		fmt.Fprintf(&text, "# TYPE %s gauge\n", metric)
		for _, instance := range instances {
			for _, v := range values {
				begin := time.Now().Add(-v.ago)
				for at := -10 * time.Minute; at < 10*time.Minute; at += 15 * time.Second {
					fmt.Fprintf(&text, "%s{job=\"memdump\",instance=%q} %v %s\n", metric, instance, known[metric]-v.less, stamp(begin.Add(at)))
				}
			}
		}
	}
	return text.String()
}

// uncovered are the numbers of monitored VMs that were never dumped, and that were last dumped too long ago.
func uncovered(h *influxtest.History, maxAge time.Duration) (never, overdue string) {
	now := time.Now().UnixNano()
	vms := h.MonitoredDomains(now, 24*time.Hour)
	return strconv.Itoa(vms.NeverDumped()), strconv.Itoa(vms.Overdue(now, maxAge))
}

// TestPrometheus runs a real Prometheus with the metrics, the rules and the dashboard: with InfluxDB and
// without it, with all exporters and with one of them down.
func TestPrometheus(t *testing.T) {
	server := influxtest.MustStart(t)
	h := influxtest.Believable(11, time.Now())
	server.MustStore(t, "vmstats", h)
	env, args := []string{"INFLUX_URL=" + server.URL}, []string{"--collect.per-vm", "--dumps.max-age=4h"}
	stays, leaves := startExporter(t, env, args...), startExporter(t, env, args...)
	const a, b = "hypervisors:10147", "[::1]:10147 (spare)+.*" // as a regular expression, the latter is another
	if output := promtool(t, strings.NewReader(get(t, stays.URL+"/metrics", http.StatusOK)), "check", "metrics"); output != "" {
		t.Errorf("promtool check metrics: %s", output)
	}
	known := h.Truth(time.Now().UnixNano(), 24*time.Hour).Metrics()
	p := startPrometheus(t, past(known, a, b), map[string]*exporter{a: stays, b: leaves})
	g := p.open(t, "../../dashboards/memdump.json")

	number := func(metric string) string { return strconv.FormatFloat(known[metric], 'g', -1, 64) }
	of := func(ofA, ofB string) map[string]string { return map[string]string{a: ofA, b: ofB} }
	both := func(value string) map[string]string { return of(value, value) }
	queries := func(value string) map[string]string {
		values := map[string]string{"vm_totals": value, "vm_places": value}
		for query := range metricsOf {
			values[query] = value
		}
		return values
	}
	const unknown = "unknown"
	never, overdue := uncovered(h, 4*time.Hour)

	// A rate needs two scrapes, and a rule has been evaluated before its health is known.
	p.until(t, "count_over_time(memdump_up[1m]) > bool 2", both("1"))
	until(t, time.Minute, "the rules are evaluated", func() error {
		for _, rule := range p.rules(t) {
			if rule.Health == "unknown" {
				return fmt.Errorf("%s is not", rule.Name)
			}
		}
		return nil
	})
	p.checkTargets(t)
	at := time.Now()
	shown := g.show(t, "healthy", at)
	for panel, s := range shown {
		if panel == "Failures by reason A" {
			if len(s) > 0 {
				t.Errorf("healthy: %s shows %v", panel, s)
			}
		} else if there := by("instance", s); len(there) != 2 {
			t.Errorf("healthy: %s shows %v, want both instances", panel, s)
		}
	}
	view{
		"Metrics A":            both("1"),
		"VMs A":                both(number("memdump_dumped_domains")),
		"VMs B":                both(number("memdump_monitored_domains")),
		"Dumps per hour A":     both("7"),
		"Dumps A":              both(number("memdump_dumps")),
		"Compressed size A":    both(number("memdump_dumps_compressed_bytes")),
		"Raw size A":           both(number("memdump_dumps_raw_bytes")),
		"Duration of a dump A": both("100"),
		"Duration of a dump B": both("75"),
		"VMs never dumped A":   both(never),
		"VMs overdue A":        both(overdue),
		"History loaded A":     both("1"),
	}.holds(t, "healthy", "instance", shown)
	view{"Queries A": queries("1")}.holds(t, "healthy", "query", shown)
	for _, s := range shown["Newest dump A"] {
		if want := float64(at.UnixMilli())/1e3 - known["memdump_last_dump_timestamp_seconds"]; math.Abs(s.value-want) > 0.01 {
			t.Errorf("healthy: Newest dump shows %v, want %v", s, want)
		}
	}
	alerts := p.alerts(t, at)
	// Both exporters read one database, so an alert about it is one.
	once := func(value string) map[string]string { return map[string]string{"": value} }
	view{
		"MemdumpDumpsSlow":     once("100"),
		"MemdumpVMNeverDumped": once(never),
		"MemdumpVMDumpOverdue": once(overdue),
	}.holds(t, "healthy", "instance", alerts)
	if len(alerts) != 3 {
		t.Errorf("healthy: alerts on %v", alerts)
	}

	must(t, leaves.proc.Stop())
	p.until(t, "up", of("1", "0"))
	p.until(t, `ALERTS{alertname="MemdumpExporterDown",alertstate="pending"}`, map[string]string{b: "1"})
	shown = g.show(t, "one down", time.Now())
	view{
		"Metrics A": of("1", unknown),
		"VMs A":     of(number("memdump_dumped_domains"), unknown),
		"VMs B":     of(number("memdump_monitored_domains"), unknown),
	}.holds(t, "one down", "instance", shown)
	if age := by("instance", shown["Newest dump A"]); len(age) != 2 || age[a] == unknown || age[b] != unknown {
		t.Errorf("one down: Newest dump shows %v", age)
	}
	succeeded := queries("1")
	succeeded[""] = unknown // of the one that is down
	view{"Queries A": succeeded}.holds(t, "one down", "query", shown)

	must(t, server.Kill())
	p.until(t, "count_over_time((memdump_up == 0)[1m:1s]) > bool 2", map[string]string{a: "1"})
	p.until(t, `ALERTS{alertname="MemdumpInfluxDBUnreadable",alertstate="pending"}`, once("1"))
	for _, metric := range knownMetrics() {
		if s := p.query(t, metric, time.Now()); len(s) > 0 {
			t.Errorf("away: %s is %v", metric, s)
		}
	}
	shown = g.show(t, "away", time.Now())
	view{
		"Metrics A":     of("0", unknown),
		"VMs A":         both(unknown),
		"VMs B":         both(unknown),
		"Newest dump A": both(unknown),
	}.holds(t, "away", "instance", shown)
	failed := queries("0")
	failed[""] = unknown
	view{"Queries A": failed}.holds(t, "away", "query", shown)
	failures := shown["Failures by reason A"]
	if got := by("reason", failures); len(failures) != len(queries("")) || len(got) != 1 || got["unreachable"] == "" {
		t.Errorf("away: Failures by reason shows %v", failures)
	}
	alerts = p.alerts(t, time.Now())
	view{"MemdumpInfluxDBUnreadable": once("0"), "MemdumpExporterDown": {b: "0"}}.holds(t, "away", "instance", alerts)
	for _, alert := range []string{
		"MemdumpNoRecentDump", "MemdumpDumpsDisappeared", "MemdumpVMsNotDumped", "MemdumpLastDumpInFuture", "MemdumpScrapeNearTimeout",
	} {
		if s := alerts[alert]; len(s) > 0 {
			t.Errorf("away: %s: %v", alert, s)
		}
	}
	// Nothing fires so soon: what is pending shows that the rest of the query is right.
	for _, annotation := range g.Annotations.List {
		if annotation.Expr == "" {
			continue
		}
		s := g.queryRange(t, g.interpolate(t, strings.Replace(annotation.Expr, `"firing"`, `"pending"`, 1)), time.Now())
		t.Logf("%-8s %-32s %3d series", "away", "annotation "+annotation.Name, len(s))
		if len(s) == 0 {
			t.Errorf("away: the annotation %s shows nothing", annotation.Name)
		}
	}

	for _, line := range regexp.MustCompile(`(?im)^.*\blevel=(warn|error)\b.*$`).FindAllString(p.Logs(), -1) {
		// Prometheus 3 sets it in the configuration, where 2 rejects it.
		if !strings.Contains(line, "option=extra-scrape-metrics") {
			t.Errorf("Prometheus logs: %s", line)
		}
	}
}

// TestPrometheus_backfill: promtool accepts what backfill writes, Prometheus has each value that
// was true at its time, the live series go on with the same names and labels, and the samples
// of other jobs survive the next start of Prometheus.
func TestPrometheus_backfill(t *testing.T) {
	server := influxtest.MustStart(t)
	now := time.Now()
	h := influxtest.Believable(12, now)
	server.MustStore(t, "vmstats", h)
	e := startExporter(t, []string{"INFLUX_URL=" + server.URL})
	here := map[string]*exporter{"here:10147": e}
	// The samples of the other job are in memory and in the write-ahead log alone, as all those
	// of the last hours are.
	s := newStorage(t, "", scrapes("memdump", here, "")+scrapes("other", here, ""))
	p := s.start(t)
	p.until(t, `count_over_time(up{job="other"}[5m]) > bool 5`, map[string]string{"here:10147": "1"})
	at := time.Now()
	p.until(t, fmt.Sprintf(`timestamp(up{job="other"}) > bool %d`, at.Unix()+1), map[string]string{"here:10147": "1"})
	before := p.samples(t, `{job="other"}`, at)
	must(t, p.proc.Stop())

	from := now.Add(-400 * time.Hour).Truncate(5 * time.Minute)
	to := now.Add(-3*time.Hour - 5*time.Minute).Truncate(5 * time.Minute)
	file := filepath.Join(t.TempDir(), "history")
	must(t, run(t.Context(), []string{"--influx.url=" + server.URL, "backfill", fmt.Sprint("--from=", from.Unix()),
		"--label=job=memdump", "--label=instance=here:10147",
		"--output=" + file}, io.Discard, io.Discard))
	s.add(t, file)
	p = s.start(t)
	if after := p.samples(t, `{job="other"}`, at); !maps.Equal(after, before) || len(before) < 10 {
		t.Errorf("the other job has %d series with other samples than the %d before", len(after), len(before))
	}

	p.until(t, `up{job="memdump"}`, map[string]string{"here:10147": "1"})
	want := backfilled(h, from, to, 5*time.Minute, `{instance="here:10147",job="memdump"}`)
	if len(want) != 9 {
		t.Errorf("%d metrics were written, want 9", len(want))
	}
	got := make(map[string]string)
	for metric := range want {
		got[metric] = p.lines(t, metric, from, to)
		if live := p.query(t, metric+`{job="memdump"}`, time.Now()); len(live) != 1 {
			t.Errorf("%s goes on as %v", metric, live)
		}
		if all := p.query(t, "count(count_over_time("+metric+`{job="memdump"}[2000h]))`, time.Now()); len(all) != 1 || all[0].value != 1 {
			t.Errorf("%s: the past and the live values are %v series, want one", metric, all)
		}
	}
	sameLines(t, "Prometheus", got, want)

	// A backfill ends three hours ago by default, because a later one deletes samples of other jobs.
	must(t, p.proc.Stop())
	recent := time.Now().Unix()
	must(t, run(t.Context(), []string{"--influx.url=" + server.URL, "backfill",
		fmt.Sprint("--from=", recent-3600), fmt.Sprint("--to=", recent), "--allow-recent",
		"--output=" + file + "2"}, io.Discard, io.Discard))
	s.add(t, file+"2")
	p = s.start(t)
	if after := p.samples(t, `{job="other"}`, at); len(after) != 0 {
		t.Errorf("after a backfill up to now, the other job still has samples of %d series: this test proves nothing", len(after))
	}
}

// samples are the samples of each series in the five minutes up to a time.
func (p scraper) samples(t *testing.T, selector string, at time.Time) map[string]string {
	t.Helper()
	var data struct {
		Result []struct {
			Metric map[string]string
			Values [][2]any
		}
	}
	p.fetch(t, "query", url.Values{"query": {selector + "[5m]"}, "time": {stamp(at)}}, &data)
	all := make(map[string]string)
	for _, r := range data.Result {
		all[fmt.Sprint(r.Metric)] = fmt.Sprint(r.Values)
	}
	return all
}

// lines are the values of a metric's one series, five minutes apart, as backfill writes them.
func (p scraper) lines(t *testing.T, metric string, from, to time.Time) string {
	t.Helper()
	var data struct {
		Result []struct {
			Metric map[string]string
			Values [][2]any
		}
	}
	query := metric + `{job="memdump"}`
	p.fetch(t, "query_range", url.Values{"query": {query}, "start": {stamp(from)}, "end": {stamp(to)}, "step": {"5m"}}, &data)
	if len(data.Result) != 1 {
		t.Fatalf("%s: %d series, want one", metric, len(data.Result))
	}
	var text strings.Builder
	for _, v := range data.Result[0].Values {
		value, err := strconv.ParseFloat(fmt.Sprint(v[1]), 64)
		must(t, err)
		fmt.Fprintf(&text, "%s{instance=\"here:10147\",job=\"memdump\"} %s %.0f\n", metric, strconv.FormatFloat(value, 'g', -1, 64), v[0])
	}
	return text.String()
}

var filteredDuration = flag.Duration("filtered.duration", 30*time.Second, "how long TestPrometheus_filtered goes on")

// TestPrometheus_filtered: while six jobs scrape one metric each, with name[], every scrape of a
// plain job has all metrics, also where it shares the queries of another.
func TestPrometheus_filtered(t *testing.T) {
	server := influxtest.MustStart(t)
	server.MustStore(t, "vmstats", influxtest.Believable(13, time.Now()))
	proxy := influxtest.Forward(t, server.URL)
	slow := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		pause(r.Context(), 100*time.Millisecond) // so that scrapes overlap
		proxy.ServeHTTP(w, r)
	})
	e := startExporter(t, []string{"INFLUX_URL=" + slow})
	here := map[string]*exporter{"here": e}
	const interval = ", scrape_interval: 2s, scrape_timeout: 2s"
	configs := scrapes("memdump", here, interval)
	names := []string{
		"memdump_up", "memdump_dumps", "memdump_dumped_domains", "memdump_last_dump_timestamp_seconds", "go_goroutines", "memdump_panics_total",
	}
	for i, name := range names {
		configs += scrapes(fmt.Sprint("filtered", i), here, fmt.Sprintf(`, params: {"name[]": [%s]}%s`, name, interval))
	}
	e.scrape(t)
	p := newStorage(t, "", configs).start(t)
	pause(t.Context(), *filteredDuration)
	at := time.Now()
	over := fmt.Sprintf("[%ds]", int(filteredDuration.Seconds())+60)
	one := func(expr string) float64 {
		t.Helper()
		found := p.query(t, expr, at)
		if len(found) != 1 {
			t.Fatalf("%s is %v, want one value", expr, found)
		}
		return found[0].value
	}
	plain := one(`count_over_time(up{job="memdump"}` + over + `)`)
	whole := one(`sum_over_time(memdump_up{job="memdump"}` + over + `)`)
	samples := `scrape_samples_scraped{job="memdump"}` + over
	minSamples, maxSamples := one("min_over_time("+samples+")"), one("max_over_time("+samples+")")
	joined := one(`max_over_time(memdump_scrapes_joined_total{job="memdump"}` + over + `)`)
	t.Logf("%v plain scrapes, %v whole, of %v to %v samples; %v scrapes shared the queries of another",
		plain, whole, minSamples, maxSamples, joined)
	if whole != plain || plain < filteredDuration.Seconds()/4 {
		t.Errorf("%v of %v plain scrapes were whole", whole, plain)
	}
	if minSamples != maxSamples {
		t.Errorf("a plain scrape had %v samples, another %v", minSamples, maxSamples)
	}
	if joined == 0 {
		t.Error("no scrape shared the queries of another: this test proves nothing")
	}
	for i, name := range names {
		job := fmt.Sprint("filtered", i)
		var all []map[string]string
		p.fetch(t, "series", url.Values{"match[]": {fmt.Sprintf("{job=%q}", job)}}, &all)
		var other []string
		for _, series := range all {
			if got := series["__name__"]; got != name && got != "up" && !strings.HasPrefix(got, "scrape_") && !strings.HasPrefix(got, "ALERTS") {
				other = append(other, got)
			}
		}
		if len(other) > 0 {
			t.Errorf("the job of %s alone has %q", name, other)
		}
		if got := one(fmt.Sprintf(`min_over_time(scrape_samples_scraped{job=%q}%s)`, job, over)); got != 1 {
			t.Errorf("the job of %s had %v samples in a scrape, want 1", name, got)
		}
	}
}
