// Package dashboards holds what reads our metrics: rules for Prometheus and a dashboard for
// Grafana. Promtool tests the rules (make rules), a real Prometheus evaluates the expressions
// of both (make test-prometheus); the tests here compare both with the README's table of
// metrics and with the runbooks. It must not depend on how a metric is made.
package dashboards

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// uncommented is a YAML file without its comments, in which names prove nothing.
func uncommented(t *testing.T, file string) string {
	t.Helper()
	return regexp.MustCompile(`(?m)^ *#.*\n`).ReplaceAllString(read(t, file), "")
}

var (
	silentAt = regexp.MustCompile(`\{eval_time: (\d+)m, alertname: (\w+), exp_alerts: \[\]\}`)
	firesAt  = regexp.MustCompile(`eval_time: (\d+)m\n +alertname: (\w+)\n +exp_alerts:(?: &\w+)?\n +- exp_labels: \{severity: (\w+)[,}]`)
)

// ruleTests are promtool's tests of the rules.
var ruleTests = []string{"alerts_test.yaml", "alerts_days_test.yaml"}

// TestAlerts: each alert has a severity, descriptions, a runbook, and in ruleTests a place where
// it fires first and is still silent just before.
func TestAlerts(t *testing.T) {
	alerts, runbooks := uncommented(t, "alerts.yaml"), read(t, "../docs/runbooks.md")
	blocks := strings.Split(alerts, "- alert: ")[1:]
	if len(blocks) == 0 {
		t.Fatal("no alerts")
	}
	severity := make(map[string]string)
	for _, block := range blocks {
		name, _, _ := strings.Cut(block, "\n")
		if !regexp.MustCompile(`^Memdump[A-Za-z]+$`).MatchString(name) {
			t.Errorf("%s: expected a name such as MemdumpNoRecentDump", name)
		}
		for _, part := range []string{"expr: ", "summary: ", "description: ", "runbook_url: docs/runbooks.md#" + strings.ToLower(name) + "\n"} {
			if !strings.Contains(block+"\n", part) {
				t.Errorf("%s has no %q", name, part)
			}
		}
		if found := regexp.MustCompile(`\n +severity: (critical|warning)\n`).FindStringSubmatch(block); found != nil {
			severity[name] = found[1]
		} else {
			t.Errorf("%s has no severity critical or warning", name)
		}
		if !strings.Contains(runbooks, "\n## "+name+"\n**Means**: ") {
			t.Errorf("docs/runbooks.md has no heading %s with its meaning", name)
		}
	}
	if headings := strings.Count(runbooks, "\n## Memdump"); headings != len(blocks) {
		t.Errorf("%d runbooks for %d alerts", headings, len(blocks))
	}

	fires := make(map[string]bool)
	for _, group := range strings.Split(uncommented(t, ruleTests[0])+uncommented(t, ruleTests[1]), "  - name: ")[1:] {
		title, _, _ := strings.Cut(group, "\n")
		silent, fired := make(map[string]bool), make(map[string]bool)
		for _, found := range silentAt.FindAllStringSubmatch(group, -1) {
			silent[found[2]+" "+found[1]] = true
		}
		for _, found := range firesAt.FindAllStringSubmatch(group, -1) {
			name, minute := found[2], mustAtoi(t, found[1])
			if severity[name] != found[3] {
				t.Errorf("%q: %s fires as %s, alerts.yaml has %q", title, name, found[3], severity[name])
			}
			if !fired[name] && !silent[name+" "+strconv.Itoa(minute-1)] && !silent[name+" "+strconv.Itoa(minute-2)] {
				t.Errorf("%q does not show that %s is silent just before it fires in minute %d", title, name, minute)
			}
			fires[name], fired[name] = true, true
		}
		if strings.HasPrefix(title, "the database is away") {
			for name := range severity {
				// The exporter's metrics about itself are there, too.
				if name != "MemdumpInfluxDBUnreadable" && name != "MemdumpScrapeNearTimeout" && !silent[name+" 3900"] {
					t.Errorf("%q does not show what becomes of %s", title, name)
				}
			}
		}
	}
	for name := range severity {
		if !fires[name] {
			t.Errorf("%q do not show %s firing", ruleTests, name)
		}
	}
}

func mustAtoi(t *testing.T, digits string) int {
	t.Helper()
	n, err := strconv.Atoi(digits)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestAlerts_replacedPod: each alert outlives the pod, but for those on the target itself.
func TestAlerts_replacedPod(t *testing.T) {
	const target = "instance, pod, container, endpoint, node"
	for _, block := range strings.Split(uncommented(t, "alerts.yaml"), "- alert: ")[1:] {
		name, rest, _ := strings.Cut(block, "\n")
		expr, _, _ := strings.Cut(rest, "labels:")
		if name == "MemdumpExporterDown" || name == "MemdumpMetricsMissing" {
			continue
		}
		left := regexp.MustCompile(`\bwithout \(([^)]*)\)`).FindAllStringSubmatch(expr, -1)
		if len(left) == 0 {
			t.Errorf("%s ends with the pod: it has no without (%s)", name, target)
		}
		for _, labels := range left {
			if !strings.HasSuffix(labels[1], target) {
				t.Errorf("%s leaves out %s, want %s", name, labels[1], target)
			}
		}
	}
	if !strings.Contains(read(t, "../docs/dashboards.md"), "`"+strings.ReplaceAll(target, ", ", "`, `")+"`") {
		t.Errorf("docs/dashboards.md does not list the labels of a target: %s", target)
	}
}

// TestAlerts_metrics: the rules and their tests name no metric that the exporter does not
// have, and no label that this one does not have.
func TestAlerts_metrics(t *testing.T) {
	labels := metrics(t)
	for _, file := range append([]string{"alerts.yaml"}, ruleTests...) {
		named := regexp.MustCompile(`\b(memdump_[a-z_]+)(\{[^}]*\})?`).FindAllStringSubmatch(uncommented(t, file), -1)
		if len(named) == 0 {
			t.Errorf("%s names no metric", file)
		}
		for _, found := range named {
			if found[1] == "memdump_exporter" {
				continue
			}
			known, ok := labels[found[1]]
			if !ok {
				t.Errorf("%s: %s is no metric of the exporter", file, found[1])
			}
			checkLabels(t, file+": "+found[0], labelsOf(found[2]), known)
		}
	}
}

// metrics are the labels of each of the exporter's own metrics, from the README.
func metrics(t *testing.T) map[string][]string {
	t.Helper()
	labels := make(map[string][]string)
	rows := regexp.MustCompile("(?m)^\\| `(memdump_\\w+)` \\| \\w+ \\| ([^|]*) \\|")
	for _, row := range rows.FindAllStringSubmatch(read(t, "../README.md"), -1) {
		labels[row[1]] = regexp.MustCompile(`\w+`).FindAllString(row[2], -1)
	}
	if len(labels) == 0 {
		t.Fatal("README.md has no table of metrics")
	}
	return labels
}

// labelsOf are the labels that a selector such as up{job=~"a",instance="b"} names.
func labelsOf(selector string) []string {
	var names []string
	for _, found := range regexp.MustCompile(`(\w+)(?:=~|!~|!=|=)["%]`).FindAllStringSubmatch(selector, -1) {
		names = append(names, found[1])
	}
	return names
}

// targetLabels are what Prometheus and its operator add to each series of a target, and the label
// of one's own that docs/dashboards.md has as the example.
var targetLabels = []string{"job", "instance", "pod", "container", "endpoint", "node", "service", "database"}

func checkLabels(t *testing.T, where string, names, known []string) {
	t.Helper()
	for _, name := range names {
		if !slices.Contains(targetLabels, name) && !slices.Contains(known, name) {
			t.Errorf("%s: there is no label %s", where, name)
		}
	}
}
