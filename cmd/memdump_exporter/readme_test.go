package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

var update = flag.Bool("update", false, "rewrite the README's tables of metrics and flags, and testdata/metrics.golden")

const readme = "../../README.md"

// TestREADME_metrics compares the table of metrics with /metrics, and /metrics with
// testdata/metrics.golden.
func TestREADME_metrics(t *testing.T) {
	server := influxdb.Server(t)
	server.MustStore(t, "vmstats", influxtest.Believable(2, time.Now()))
	scraped := startExporter(t, []string{"INFLUX_URL=" + server.URL}, "--collect.per-vm", "--dumps.max-age=48h").scrape(t)
	served := make(map[string]string) // metric → type and labels
	for name, family := range scraped {
		if !strings.HasPrefix(name, "memdump_") {
			continue
		}
		var labels []string
		for _, l := range family.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		served[name] = fmt.Sprintf("%s | %s", strings.ToLower(family.GetType().String()), strings.Join(labels, ", "))
	}
	stability := holdPromises(t, served)
	if t.Failed() {
		return
	}
	table := "| metric | type | labels | stability | meaning |\n| --- | --- | --- | --- | --- |\n"
	for _, name := range slices.Sorted(maps.Keys(served)) {
		table += fmt.Sprintf("| `%s` | %s | %s | %s |\n", name, served[name], stability[name], scraped[name].GetHelp())
	}
	holdTable(t, "metrics", table)
}

// holdPromises compares the metrics with testdata/metrics.golden and returns the stability
// that it gives to each. With -update a new metric becomes experimental; a stable one stays
// until CHANGELOG.md lists it as removed.
func holdPromises(t *testing.T, served map[string]string) map[string]string {
	t.Helper()
	const golden = "testdata/metrics.golden"
	text, err := os.ReadFile(golden)
	must(t, err)
	changes, err := os.ReadFile("../../CHANGELOG.md")
	must(t, err)
	stability := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		parts := strings.Split(strings.TrimSuffix(line, "\n"), " | ") // metric, type, labels, stability
		if len(parts) != 4 || parts[3] != "stable" && parts[3] != "experimental" {
			t.Fatalf("%s: neither stable nor experimental: %q", golden, line)
		}
		name, signature, level := parts[0], parts[1]+" | "+parts[2], parts[3]
		if served[name] == signature {
			stability[name] = level
		} else if level == "stable" && !saysRemoved(string(changes), name) {
			t.Errorf("%s is served with %q, and was promised with %q: a stable metric does not change, or CHANGELOG.md names it under Removed",
				name, served[name], signature)
		}
	}
	if t.Failed() {
		return stability
	}
	var want strings.Builder
	for _, name := range slices.Sorted(maps.Keys(served)) {
		if stability[name] == "" {
			stability[name] = "experimental"
		}
		fmt.Fprintf(&want, "%s | %s | %s\n", name, served[name], stability[name])
	}
	switch {
	case want.String() == string(text):
	case *update:
		must(t, os.WriteFile(golden, []byte(want.String()), 0o644))
	default:
		t.Errorf("%s is not what the exporter serves (go test ./cmd/memdump_exporter -update rewrites it)\n got:\n%s\nwant:\n%s",
			golden, text, want.String())
	}
	return stability
}

// saysRemoved reports whether a section "Removed" of the changelog names the metric.
func saysRemoved(changelog, name string) bool {
	for _, section := range strings.Split(changelog, "\n##")[1:] { // "## version" and "### Removed" alike
		if strings.HasPrefix(section, "# Removed\n") && strings.Contains(section, "`"+name+"`") {
			return true
		}
	}
	return false
}

// TestREADME_flags compares the table of flags with the flags of the program.
func TestREADME_flags(t *testing.T) {
	var o options
	table := "| flag | variable | default | meaning |\n| --- | --- | --- | --- |\n"
	for _, f := range newApplication(&o).Model().Flags {
		if f.Hidden {
			continue
		}
		variable, value := "", ""
		if f.Envar != "" {
			variable = "`" + f.Envar + "`"
		}
		if len(f.Default) > 0 && f.Default[0] != "" {
			value = "`" + strings.Join(f.Default, " ") + "`"
		}
		table += fmt.Sprintf("| `--%s` | %s | %s | %s |\n", f.Name, variable, value, strings.ReplaceAll(f.Help, "|", `\|`))
	}
	holdTable(t, "flags", table)
}

// holdTable compares the table between two comments of the README with the one that it should be.
func holdTable(t *testing.T, name, table string) {
	t.Helper()
	text, err := os.ReadFile(readme)
	must(t, err)
	begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->"
	before, rest, found := strings.Cut(string(text), begin)
	stands, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("README.md has no %q", begin)
	}
	if stands == table {
		return
	}
	if *update {
		must(t, os.WriteFile(readme, []byte(before+begin+table+end+after), 0o644))
		return
	}
	t.Errorf("README.md: the table of %s is not the code's (go test ./cmd/memdump_exporter -update rewrites it)\n got:\n%s\nwant:\n%s",
		name, stands, table)
}
