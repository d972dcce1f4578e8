//go:build prometheus

package main

import (
	"encoding/json"
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

// startPrometheus scrapes the exporters, each as the instance named, with our rules loaded.
// The samples, lines of OpenMetrics, are in its storage from the start.
func startPrometheus(t *testing.T, samples string, exporters map[string]*exporter) scraper {
	t.Helper()
	prometheus, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatalf("%v: make test-prometheus sees to it", err)
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	rules, err := filepath.Abs("../../dashboards/alerts.yaml")
	must(t, err)
	var targets []string
	for instance, e := range exporters {
		targets = append(targets, fmt.Sprintf("{targets: [%q], labels: {instance: %q}}", strings.TrimPrefix(e.URL, "http://"), instance))
	}
	config := write("prometheus.yml", fmt.Sprintf(`
global: {scrape_interval: 2s, scrape_timeout: 2s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
  - job_name: memdump
    static_configs: [%s]
`, rules, strings.Join(targets, ", ")))
	data := filepath.Join(dir, "data")
	promtool(t, nil, "tsdb", "create-blocks-from", "--max-block-duration=720h", "openmetrics", write("past.txt", samples+"# EOF\n"), data)
	cmd := exec.Command(prometheus, "--config.file="+config, "--storage.tsdb.path="+data, "--storage.tsdb.retention.time=10y",
		"--web.listen-address=127.0.0.1:0", "--enable-feature=extra-scrape-metrics")
	cmd.Env = []string{"GOMEMLIMIT=300MiB"}
	cmd.Dir = dir
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

// promtool fails on any complaint, and on any word where it need not say one.
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

// ask returns the data of an answer of Prometheus' API. An expression that does not parse,
// a warning and a notice fail.
func (p scraper) ask(t *testing.T, path string, parameters url.Values, data any) {
	t.Helper()
	resp, err := http.Get(p.URL + "/api/v1/" + path + "?" + parameters.Encode())
	must(t, err)
	defer resp.Body.Close()
	var answer struct {
		Status, Error   string
		Warnings, Infos []string
		Data            json.RawMessage
	}
	must(t, json.NewDecoder(resp.Body).Decode(&answer))
	if answer.Status != "success" || len(answer.Warnings)+len(answer.Infos) > 0 {
		t.Fatalf("%s %v: %s %s %q %q", path, parameters, answer.Status, answer.Error, answer.Warnings, answer.Infos)
	}
	must(t, json.Unmarshal(answer.Data, data))
}

// series is one series of an answer, with the last of its values.
type series struct {
	labels map[string]string
	value  float64
}

func (s series) String() string { return fmt.Sprintf("%v %v", s.labels, s.value) }

func (p scraper) query(t *testing.T, expr string, at time.Time) []series {
	t.Helper()
	return p.answer(t, "query", url.Values{"query": {expr}, "time": {stamp(at)}})
}

func (p scraper) queryRange(t *testing.T, expr string, end time.Time) []series {
	t.Helper()
	return p.answer(t, "query_range", url.Values{"query": {expr}, "start": {stamp(end.Add(-5 * time.Minute))}, "end": {stamp(end)}, "step": {"15"}})
}

func (p scraper) answer(t *testing.T, path string, parameters url.Values) []series {
	t.Helper()
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
			Values [][2]any
		}
	}
	p.ask(t, path, parameters, &data)
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

// grafana asks the queries of our dashboard as Grafana does.
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
		g.ask(t, "label/"+from[2]+"/values", url.Values{"match[]": {strings.NewReplacer(replaced...).Replace(from[1])}}, &values)
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

// show asks the queries of all panels and says how many series each returned.
func (g *grafana) show(t *testing.T, phase string, at time.Time) map[string][]series {
	t.Helper()
	all := make(map[string][]series)
	for _, panel := range g.Panels {
		for _, target := range panel.Targets {
			ask := g.queryRange
			if target.Instant {
				ask = g.query
			}
			name := panel.Title + " " + target.RefID
			all[name] = ask(t, g.interpolate(t, target.Expr), at)
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

// checkTargets: no scrape was refused or not understood.
func (p scraper) checkTargets(t *testing.T) {
	t.Helper()
	var data struct {
		ActiveTargets []struct{ ScrapeURL, Health, LastError string }
	}
	p.ask(t, "targets", nil, &data)
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
	p.ask(t, "rules", nil, &data)
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
			values[s.labels[label]] = "not known"
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

// past are samples from before the exporters began: an hour ago there were seven dumps
// fewer, and a week ago the mean of their durations was half as long.
func past(known map[string]float64, instances ...string) string {
	var text strings.Builder
	for _, p := range []struct {
		metric string
		value  float64
		ago    time.Duration
	}{
		{"memdump_dumps", known["dumps"] - 7, time.Hour},
		{"memdump_dump_duration_mean_seconds", known["duration_mean"] / 2, 7 * 24 * time.Hour},
	} {
		fmt.Fprintf(&text, "# TYPE %s gauge\n", p.metric)
		begin := time.Now().Add(-p.ago)
		for _, instance := range instances {
			for at := -10 * time.Minute; at < 10*time.Minute; at += 15 * time.Second {
				fmt.Fprintf(&text, "%s{job=\"memdump\",instance=%q} %v %s\n", p.metric, instance, p.value, stamp(begin.Add(at)))
			}
		}
	}
	return text.String()
}

// uncovered are the numbers of monitored VMs never dumped, and not for so long.
func uncovered(h *influxtest.History, maxAge time.Duration) (never, overdue string) {
	n, late := 0, 0
	now := time.Now().UnixNano()
	for _, vm := range h.Monitored(now, 24*time.Hour) {
		switch {
		case vm == nil:
			n++
		case now-vm.LastNs > int64(maxAge):
			late++
		}
	}
	return strconv.Itoa(n), strconv.Itoa(late)
}

// TestPrometheus: a real Prometheus takes our metrics, rules and dashboard as they are meant,
// with InfluxDB there and without it, with all exporters and with one of them down.
func TestPrometheus(t *testing.T) {
	server := influxtest.MustStart(t)
	h := influxtest.Believable(11, time.Now())
	server.MustStore(t, "vmstats", h)
	env, args := []string{"INFLUX_URL=" + server.URL}, []string{"--collect.per-vm", "--dumps.max-age=4h"}
	stays, leaves := startExporter(t, env, args...), startExporter(t, env, args...)
	const a, b = "hypervisors:10147", "[::1]:10147 (spare)+.*" // as a regular expression, the latter is another
	if said := promtool(t, strings.NewReader(get(t, stays.URL+"/metrics", http.StatusOK)), "check", "metrics"); said != "" {
		t.Errorf("promtool check metrics: %s", said)
	}
	known := truth(h).values
	p := startPrometheus(t, past(known, a, b), map[string]*exporter{a: stays, b: leaves})
	g := p.open(t, "../../dashboards/memdump.json")

	number := func(query string) string { return strconv.FormatFloat(known[query], 'g', -1, 64) }
	of := func(ofA, ofB string) map[string]string { return map[string]string{a: ofA, b: ofB} }
	both := func(value string) map[string]string { return of(value, value) }
	queries := func(value string) map[string]string {
		values := map[string]string{"vm_totals": value, "vm_places": value}
		for query := range gaugeOf {
			values[query] = value
		}
		return values
	}
	const unknown = "not known"
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
		"Figures A":          both("1"),
		"VMs A":              both(number("dumped_vms")),
		"VMs B":              both(number("monitored_vms")),
		"Dumps per hour A":   both("7"),
		"Dumps on record A":  both(number("dumps")),
		"Compressed size A":  both(number("compressed_bytes")),
		"Mean duration A":    both(number("duration_mean")),
		"VMs never dumped A": both(never),
		"VMs overdue A":      both(overdue),
	}.holds(t, "healthy", "instance", shown)
	view{"Queries A": queries("1")}.holds(t, "healthy", "query", shown)
	for _, s := range shown["Newest dump A"] {
		if want := float64(at.UnixMilli())/1e3 - known["last_dump"]; math.Abs(s.value-want) > 0.01 {
			t.Errorf("healthy: Newest dump shows %v, want %v", s, want)
		}
	}
	alerts := p.alerts(t, at)
	view{
		"MemdumpDumpsSlow":     both(number("duration_mean")),
		"MemdumpVMNeverDumped": both(never),
		"MemdumpVMDumpOverdue": both(overdue),
	}.holds(t, "healthy", "instance", alerts)
	if len(alerts) != 3 {
		t.Errorf("healthy: alerts on %v", alerts)
	}

	must(t, leaves.proc.Stop())
	p.until(t, "up", of("1", "0"))
	p.until(t, `ALERTS{alertname="MemdumpExporterDown",alertstate="pending"}`, map[string]string{b: "1"})
	shown = g.show(t, "one down", time.Now())
	view{
		"Figures A": of("1", unknown),
		"VMs A":     of(number("dumped_vms"), unknown),
		"VMs B":     of(number("monitored_vms"), unknown),
	}.holds(t, "one down", "instance", shown)
	if age := by("instance", shown["Newest dump A"]); len(age) != 2 || age[a] == unknown || age[b] != unknown {
		t.Errorf("one down: Newest dump shows %v", age)
	}
	answered := queries("1")
	answered[""] = unknown // of the one that is down
	view{"Queries A": answered}.holds(t, "one down", "query", shown)

	must(t, server.Kill())
	p.until(t, "count_over_time((memdump_up == 0)[1m:1s]) > bool 2", map[string]string{a: "1"})
	p.until(t, `ALERTS{alertname="MemdumpInfluxDBUnreadable",alertstate="pending"}`, map[string]string{a: "1"})
	for _, gauge := range gaugeOf {
		if s := p.query(t, gauge, time.Now()); len(s) > 0 {
			t.Errorf("away: %s is %v", gauge, s)
		}
	}
	shown = g.show(t, "away", time.Now())
	view{
		"Figures A":     of("0", unknown),
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
	view{"MemdumpInfluxDBUnreadable": {a: "0"}, "MemdumpExporterDown": {b: "0"}}.holds(t, "away", "instance", alerts)
	for _, alert := range []string{"MemdumpNoRecentDump", "MemdumpDumpsDisappeared", "MemdumpVMsNotDumped", "MemdumpLastDumpInFuture", "MemdumpScrapeNearTimeout"} {
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
		// Prometheus 3 would have it in the configuration, where 2 does not know it.
		if !strings.Contains(line, "option=extra-scrape-metrics") {
			t.Errorf("Prometheus complains: %s", line)
		}
	}
}

// TestPrometheus_backfill: promtool takes what backfill writes as it is, Prometheus has each
// value that was true at its time, and the live series go on with the same names and labels.
func TestPrometheus_backfill(t *testing.T) {
	server := influxtest.MustStart(t)
	now := time.Now().Truncate(time.Hour)
	h := influxtest.Believable(12, now)
	server.MustStore(t, "vmstats", h)
	from, file := now.Add(-1000*time.Hour), filepath.Join(t.TempDir(), "history")
	if err := run(t.Context(), []string{"--influx.url=" + server.URL, "backfill", fmt.Sprint("--from=", from.Unix()), fmt.Sprint("--to=", now.Unix()), "--output=" + file,
		"--label=job=memdump", "--label=instance=here:10147"}, io.Discard, io.Discard); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	must(t, err)
	p := startPrometheus(t, strings.TrimSuffix(string(text), "# EOF\n"), map[string]*exporter{"here:10147": startExporter(t, []string{"INFLUX_URL=" + server.URL})})
	p.until(t, "up", map[string]string{"here:10147": "1"})
	got := ""
	for _, metric := range []string{"memdump_dumps", "memdump_dumped_vms", "memdump_dumps_compressed_bytes", "memdump_last_dump_timestamp_seconds"} {
		var data struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
		p.ask(t, "query_range", url.Values{"query": {metric}, "start": {stamp(from)}, "end": {stamp(now)}, "step": {"1h"}}, &data)
		if len(data.Result) != 1 {
			t.Fatalf("%s: %d series, want one", metric, len(data.Result))
		}
		for _, v := range data.Result[0].Values {
			value, err := strconv.ParseFloat(fmt.Sprint(v[1]), 64)
			must(t, err)
			got += fmt.Sprintf("%s%s %v %.0f\n", metric, `{instance="here:10147",job="memdump"}`, value, v[0])
		}
		if live := p.query(t, metric, time.Now()); len(live) != 1 {
			t.Errorf("%s goes on as %v", metric, live)
		}
		if all := p.query(t, "count(count_over_time("+metric+"[2000h]))", time.Now()); len(all) != 1 || all[0].value != 1 {
			t.Errorf("%s: the past and the live values are %v series, want one", metric, all)
		}
	}
	if want := backfilled(h, from, now, time.Hour, `{instance="here:10147",job="memdump"}`); got != want {
		t.Errorf("Prometheus has\n%s\nwant\n%s", firstLines(got), firstLines(want))
	}
}
