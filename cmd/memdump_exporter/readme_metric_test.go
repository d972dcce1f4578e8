//go:build metric

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"memdump_exporter/influx/influxtest"
)

// TestREADME_addingAMetric does what the README says, to the letter, in a copy: the row
// alone fails, its recording mends that, and nothing else has to be touched.
func TestREADME_addingAMetric(t *testing.T) {
	const root = "../.."
	text, err := os.ReadFile(readme)
	must(t, err)
	_, section, _ := strings.Cut(string(text), "## Adding a metric\n")
	row := regexp.MustCompile("(?s)```go\n(.*?)\n *```").FindStringSubmatch(section)
	commands := regexp.MustCompile("`(go test [^`]*)`").FindAllStringSubmatch(section, -1)
	if row == nil || len(commands) != 3 {
		t.Fatalf("a row and three commands were expected in\n%s", section)
	}

	dir := t.TempDir()
	list, err := exec.Command("git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	must(t, err)
	files := strings.FieldsFunc(string(list), func(r rune) bool { return r == 0 })
	before := make(map[string]string)
	for _, file := range files {
		content, err := os.ReadFile(filepath.Join(root, file))
		if os.IsNotExist(err) { // deleted, and not yet committed
			continue
		}
		must(t, err)
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755))
		write(t, filepath.Join(dir, file), string(content))
		before[file] = string(content)
	}
	const stats, begin, end = "collector/stats.go", "\nvar stats = ", "\n}\n"
	head, table, found := strings.Cut(before[stats], begin)
	rows, rest, closed := strings.Cut(table, end)
	if !found || !closed {
		t.Fatalf("no table in %s", stats)
	}
	write(t, filepath.Join(dir, stats), head+begin+rows+"\n"+row[1]+end+rest)

	said := func(command string) (string, bool) {
		cmd := exec.Command("sh", "-c", command)
		cmd.Dir = dir
		output, err := cmd.CombinedOutput()
		return string(output), err == nil
	}
	if output, ok := said(commands[0][1]); ok || !strings.Contains(output, "no recording answers") || !strings.Contains(output, "-record -update") {
		t.Fatalf("%s: a row without a recording has to fail and say what to do:\n%s", commands[0][1], output)
	}
	for _, command := range []string{commands[1][1], commands[2][1], "go test ./collector ./cmd/memdump_exporter"} {
		if output, ok := said(command); !ok {
			t.Fatalf("%s\n%s", command, output)
		}
	}

	// By the lines that were written.
	ofDuration := regexp.MustCompile(`^mem_dumps,.*[ ,]duration_sec=`)
	timed := 0
	for _, line := range influxtest.MustLoad(t, "influxdb-1.7.11", "traps").Written {
		if ofDuration.MatchString(line) {
			timed++
		}
	}
	golden, err := os.ReadFile(filepath.Join(dir, "collector/testdata/traps.metrics"))
	if want := fmt.Sprintf("\nmemdump_timed_dumps %d\n", timed); err != nil || timed == 0 || !strings.Contains(string(golden), want) {
		t.Errorf("%v, no %q in\n%s", err, want, golden)
	}

	var touched []string
	for _, file := range files {
		content, err := os.ReadFile(filepath.Join(dir, file))
		if err == nil && string(content) != before[file] && !strings.Contains(file, "/testdata/") {
			touched = append(touched, file)
		}
	}
	if want := []string{"README.md", stats}; !slices.Equal(touched, want) {
		t.Errorf("beside test data %q were touched, want %q", touched, want)
	}
}
