package test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// oldestSystemd has LoadCredential= and ProtectProc=. make test-systemd runs the unit on it.
const oldestSystemd = "247"

// TestPackages checks that the packages and the installation page name the oldest systemd that runs the unit as it is meant:
// an older one would ignore LoadCredential=, and the exporter would query InfluxDB without a token.
func TestPackages(t *testing.T) {
	var config struct {
		NFPMs []struct {
			Formats   []string
			Overrides map[string]struct{ Dependencies []string }
		}
	}
	must(t, yaml.Unmarshal([]byte(read(t, "../../.goreleaser.yaml")), &config))
	for format, want := range map[string]string{"deb": "systemd (>= " + oldestSystemd + ")", "rpm": "systemd >= " + oldestSystemd} {
		if got := config.NFPMs[0].Overrides[format].Dependencies; !slices.Equal(got, []string{want}) {
			t.Errorf("the %s depends on %q, want %q", format, got, want)
		}
	}
	if got := config.NFPMs[0].Formats; !slices.Equal(got, []string{"deb", "rpm"}) {
		t.Errorf("formats %q", got)
	}
	if install := read(t, "../../docs/install.md"); !strings.Contains(install, "systemd "+oldestSystemd+" or newer") {
		t.Errorf("docs/install.md does not name systemd %s", oldestSystemd)
	}
}

// TestUnit_specifiers: systemd omits a variable whose specifier it does not have, with no more than a line in its log.
func TestUnit_specifiers(t *testing.T) {
	unit := read(t, "../systemd/memdump_exporter.service")
	for _, specifier := range regexp.MustCompile(`(?m)^[^#\n]*(%.)`).FindAllStringSubmatch(unit, -1) {
		if specifier[1] != "%n" { // the unit's name, in every systemd
			t.Errorf("the unit has the specifier %s", specifier[1])
		}
	}
}

// TestInstall_check checks that the check of docs/install.md has what the unit has: user, environment, credential and program.
func TestInstall_check(t *testing.T) {
	unit := read(t, "../systemd/memdump_exporter.service")
	setting := func(name string) string {
		line := regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindStringSubmatch(unit)
		if line == nil {
			t.Fatalf("the unit has no %s", name)
		}
		return line[1]
	}
	const name = "memdump_exporter_check"
	variable, _, _ := strings.Cut(setting("Environment"), " ")
	want := []string{"systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--unit=" + name}
	for _, property := range []string{
		"DynamicUser=" + setting("DynamicUser"),
		"LoadCredential=" + setting("LoadCredential"),
		"Environment=" + strings.ReplaceAll(variable, "%n", name+".service"),
		"EnvironmentFile=" + setting("EnvironmentFile"),
	} {
		want = append(want, "--property="+property)
	}
	program, args, _ := strings.Cut(setting("ExecStart"), " ")
	want = append(want, program, "'"+args+"'", "check")

	command := regexp.MustCompile(`(?m)^systemd-run (.*\\\n)*.*$`).FindString(read(t, "../../docs/install.md"))
	got := strings.Fields(strings.ReplaceAll(command, "\\\n", " "))
	if !slices.Equal(got, want) {
		t.Errorf("docs/install.md has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestDefaults: flags with blanks between them need quotes in a shell, and may have them in systemd's environment file.
func TestDefaults(t *testing.T) {
	if text := read(t, "../systemd/memdump_exporter.default"); !strings.Contains(text, fmt.Sprintf("\nARGS=%q\n", "")) {
		t.Errorf("no ARGS=\"\" in:\n%s", text)
	}
}
