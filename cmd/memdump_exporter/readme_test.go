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

var update = flag.Bool("update", false, "rewrite the README's tables of metrics and flags")

const readme = "../../README.md"

// TestREADME_metrics holds the table of metrics against what /metrics says.
func TestREADME_metrics(t *testing.T) {
	server := influxtest.MustStart(t)
	store(t, server, "vmstats", influxtest.Believable(2, time.Now()))
	scraped := startExporter(t, []string{"INFLUX_URL=" + server.URL}, "--collect.per-vm", "--dumps.max-age=48h").scrape(t)
	table := "| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n"
	for _, name := range slices.Sorted(maps.Keys(scraped)) {
		family := scraped[name]
		if !strings.HasPrefix(name, "memdump_") {
			continue
		}
		var labels []string
		for _, l := range family.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		table += fmt.Sprintf("| `%s` | %s | %s | %s |\n", name, strings.ToLower(family.GetType().String()), strings.Join(labels, ", "), family.GetHelp())
	}
	holdTable(t, "metrics", table)
}

// TestREADME_flags holds the table of flags against what --help is made of.
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

// holdTable compares what stands between two comments of the README with the table.
func holdTable(t *testing.T, name, table string) {
	t.Helper()
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
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
		if err := os.WriteFile(readme, []byte(before+begin+table+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("README.md: the table of %s is not the code's (go test ./cmd/memdump_exporter -update mends it)\n got:\n%s\nwant:\n%s", name, stands, table)
}
