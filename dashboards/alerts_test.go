// Package dashboards holds what reads our metrics. Its rules are tested by promtool
// (make rules); this test holds them against the code and the runbooks.
package dashboards

import (
	"os"
	"regexp"
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

// TestAlerts: each alert has a severity, words, a test that it fires and one that it does
// not, and a runbook; and names no metric that the exporter does not have.
func TestAlerts(t *testing.T) {
	alerts, tests := read(t, "alerts.yaml"), read(t, "alerts_test.yaml")
	readme, runbooks := read(t, "../README.md"), read(t, "../docs/runbooks.md")
	blocks := strings.Split(alerts, "- alert: ")[1:]
	if len(blocks) == 0 {
		t.Fatal("no alerts")
	}
	for _, block := range blocks {
		name, _, _ := strings.Cut(block, "\n")
		if !regexp.MustCompile(`^Memdump[A-Za-z]+$`).MatchString(name) {
			t.Errorf("%s: expected a name such as MemdumpNoRecentDump", name)
		}
		for _, part := range []string{"severity: ", "summary: ", "description: ", "runbook_url: docs/runbooks.md#" + strings.ToLower(name) + "\n"} {
			if !strings.Contains(block+"\n", part) {
				t.Errorf("%s has no %q", name, part)
			}
		}
		if !strings.Contains(runbooks, "\n## "+name+"\n**Means**: ") {
			t.Errorf("docs/runbooks.md has no heading %s with what it means", name)
		}
		if !strings.Contains(tests, "alertname: "+name+", exp_alerts: []") || !regexp.MustCompile("alertname: "+name+"\n +exp_alerts:( &\\w+)?\n").MatchString(tests) {
			t.Errorf("alerts_test.yaml does not show %s both silent and firing", name)
		}
	}
	if headings := strings.Count(runbooks, "\n## Memdump"); headings != len(blocks) {
		t.Errorf("%d runbooks for %d alerts", headings, len(blocks))
	}
	for _, text := range []string{alerts, tests} {
		for _, metric := range regexp.MustCompile(`\bmemdump_[a-z_]+`).FindAllString(text, -1) {
			if metric != "memdump_exporter" && !strings.Contains(readme, "| `"+metric+"` |") {
				t.Errorf("%s is no metric of the exporter", metric)
			}
		}
	}
}
