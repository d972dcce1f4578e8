//go:build metric

package main

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestREADME_addingAMetric follows the README in a copy of the project: the change alone fails, the goldens mend that, no
// other file changes, and the other tests pass.
func TestREADME_addingAMetric(t *testing.T) {
	text, err := os.ReadFile(readme)
	must(t, err)
	_, section, _ := strings.Cut(string(text), "## Adding a metric\n")
	change := regexp.MustCompile("(?s)```diff\n(.*?)\n *```").FindStringSubmatch(section)
	commands := regexp.MustCompile("`(git apply [^`]*|go test [^`]*)`").FindAllStringSubmatch(section, -1)
	if change == nil || len(commands) != 5 {
		t.Fatalf("a diff and five commands were expected, the last to record, in\n%s", section)
	}
	dir, before := copied(t)
	in := func(command, input string) (string, bool) {
		cmd := exec.Command("sh", "-c", command)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(input)
		output, err := cmd.CombinedOutput()
		return string(output), err == nil
	}
	apply, fails, updates := commands[0][1], commands[1][1], []string{commands[2][1], commands[3][1]}
	if output, ok := in(apply, regexp.MustCompile("(?m)^   ").ReplaceAllString(change[1], "")+"\n"); !ok {
		t.Fatalf("%s: %s", apply, output)
	}
	if output, ok := in(fails, ""); ok || !strings.Contains(output, "writers.metrics differs") {
		t.Fatalf("%s: a metric that the goldens lack has to fail:\n%s", fails, output)
	}
	commandTests := "go test ./cmd/memdump_exporter -run 'README|Check|Truth|Page_[md]'"
	for _, command := range append(updates, "go vet ./...", "go test ./collector ./influx/influxtest", commandTests) {
		if output, ok := in(command, ""); !ok {
			t.Fatalf("%s\n%s", command, output)
		}
	}

	touched := []string{"README.md"}
	for _, file := range regexp.MustCompile(`(?m)^ *\+\+\+ b/(.*)$`).FindAllStringSubmatch(change[1], -1) {
		touched = append(touched, file[1])
	}
	var got []string
	for _, file := range slices.Sorted(maps.Keys(before)) {
		content, err := os.ReadFile(filepath.Join(dir, file))
		if err == nil && string(content) != before[file] && !strings.Contains(file, "/testdata/") {
			got = append(got, file)
		}
	}
	if slices.Sort(touched); !slices.Equal(got, touched) {
		t.Errorf("beside test data %q were touched, want %q", got, touched)
	}
	for file, want := range map[string]string{
		"README.md": "| `memdump_",
		"cmd/memdump_exporter/testdata/metrics.golden": "memdump_",
		"collector/testdata/writers.metrics":           "\nmemdump_",
	} {
		content, err := os.ReadFile(filepath.Join(dir, file))
		must(t, err)
		name := regexp.MustCompile(`name: +"memdump_(\w+)"`).FindStringSubmatch(change[1])[1]
		if !strings.Contains(string(content), want+name) {
			t.Errorf("%s does not have %s%s", file, want, name)
		}
	}
}

// copied returns a copy of the project's files, and their contents by name.
func copied(t *testing.T) (dir string, files map[string]string) {
	t.Helper()
	const root = "../.."
	dir, files = t.TempDir(), make(map[string]string)
	list, err := exec.Command("git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	must(t, err)
	for _, file := range strings.FieldsFunc(string(list), func(r rune) bool { return r == 0 }) {
		content, err := os.ReadFile(filepath.Join(root, file))
		if os.IsNotExist(err) { // deleted, and not yet committed
			continue
		}
		must(t, err)
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755))
		write(t, filepath.Join(dir, file), string(content))
		files[file] = string(content)
	}
	return dir, files
}
