package dashboards

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

// dashboard is what the tests here need; deploy/test holds the whole with Grafana's own types.
type dashboard struct {
	Panels []struct {
		Type, Title string
		Targets     []struct{ Expr, LegendFormat, Interval string }
	}
}

func load(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal([]byte(read(t, "memdump.json")), &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Panels) == 0 {
		t.Fatal("no panels")
	}
	return d
}

// divided is a mean of dumps in a time range: absent where there is none.
var divided = regexp.MustCompile(strings.ReplaceAll(` / \(X\)? - X offset \w+\)? > 0\)`,
	"X", `(?:min without \([^)]*\) \()?memdump_dumps_with_duration\{[^}]*\}`))

// inventing are the functions and the operator that hide, or make up, what is unknown.
var inventing = regexp.MustCompile(`\b(vector|avg|avg_over_time|last_over_time|absent|clamp_min|clamp)\b|/`)

// TestDashboard_expressions: every metric and label exists, every selector is bound to the
// variables, and nothing makes a number of what is unknown.
func TestDashboard_expressions(t *testing.T) {
	labels := metrics(t)
	// Prometheus' own, and those of every Go exporter.
	for _, name := range []string{
		"up", "scrape_duration_seconds", "scrape_timeout_seconds", "process_resident_memory_bytes", "go_memstats_heap_alloc_bytes",
	} {
		labels[name] = nil
	}
	for _, p := range load(t).Panels {
		for _, target := range p.Targets {
			where := p.Title + ": " + target.Expr
			if found := inventing.FindString(divided.ReplaceAllString(target.Expr, "")); found != "" {
				t.Errorf("%s has %s: it hides, or makes up, what is unknown", where, found)
			}
			// Grafana takes the data source's 15 s otherwise, and a minute's range of two
			// scrapes a minute apart holds one.
			if strings.Contains(target.Expr, "$__rate_interval") && target.Interval != "1m" {
				t.Errorf("%s with a minimal step of %q, want 1m, the README's scrape_interval", where, target.Interval)
			}
			var known []string
			bare := target.Expr
			for _, found := range regexp.MustCompile(`([a-z_]+)\{([^}]*)\}`).FindAllStringSubmatch(target.Expr, -1) {
				bare = strings.Replace(bare, found[0], "", 1)
				of, ok := labels[found[1]]
				if !ok {
					t.Errorf("%s: %s is no metric of the exporter", where, found[1])
				}
				if !strings.HasPrefix(found[2], `job=~"$job",instance=~"$instance"`) {
					t.Errorf("%s: %s is not bound to the variables", where, found[0])
				}
				checkLabels(t, where, labelsOf(found[0]), of)
				known = append(known, of...)
			}
			if found := regexp.MustCompile(`\b(memdump|go|process|scrape)_[a-z_]+`).FindString(bare); found != "" {
				t.Errorf("%s: %s is not bound to the variables", where, found)
			}
			for _, found := range regexp.MustCompile(`label_replace\(.*?, "(\w+)"`).FindAllStringSubmatch(target.Expr, -1) {
				known = append(known, found[1])
			}
			for _, found := range regexp.MustCompile(`\b(?:by|on|without|ignoring)\s*\(([^)]*)\)`).FindAllStringSubmatch(target.Expr, -1) {
				checkLabels(t, where, strings.Split(strings.ReplaceAll(found[1], " ", ""), ","), known)
			}
			for _, found := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(target.LegendFormat, -1) {
				checkLabels(t, where, found[1:], known)
			}
			if p.Type != "table" && !strings.Contains(target.LegendFormat, "{{instance}}") {
				t.Errorf("%s: the legend %q does not tell instances apart", where, target.LegendFormat)
			}
		}
	}
}

// TestDashboard_replacedPod: promtool tests the expressions of the panels that compare with the
// past, where a replaced pod would leave a gap.
func TestDashboard_replacedPod(t *testing.T) {
	tested := read(t, ruleTests[1])
	for _, p := range load(t).Panels {
		for _, target := range p.Targets {
			expr := strings.NewReplacer("$job", ".*", "$instance", ".*").Replace(target.Expr)
			if strings.Contains(expr, " offset ") && !strings.Contains(tested, "- expr: '"+expr+"'\n") {
				t.Errorf("%s: %s does not test %s", p.Title, ruleTests[1], expr)
			}
		}
	}
}
