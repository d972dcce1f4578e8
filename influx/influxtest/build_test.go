package influxtest

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// fakeGo puts a go command first in PATH that leaves a mark and then executes the script.
func fakeGo(t *testing.T, script string) (mark string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("needs flock and a shell; CI runs on Linux")
	}
	dir := t.TempDir()
	mark = filepath.Join(dir, "mark")
	script = "#!/bin/sh\necho x >>" + mark + "\n" + script
	if err := os.WriteFile(filepath.Join(dir, "go"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	return mark
}

func TestDefault_builds_once(t *testing.T) {
	mark := fakeGo(t, `printf '#!/bin/sh\n' >"$GOBIN/influxd"; chmod 700 "$GOBIN/influxd"`)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			spec, err := Default(t.Context(), io.Discard)
			if err != nil || !isExecutable(spec.Path) {
				t.Errorf("got %q, %v", spec.Path, err)
			}
		})
	}
	wg.Wait()
	if marks, err := os.ReadFile(mark); string(marks) != "x\n" {
		t.Errorf("want one build, got %q, %v", marks, err)
	}
}

func TestDefault_tells_why_not(t *testing.T) {
	fakeGo(t, `echo no such module >&2; exit 3`)
	_, err := Default(t.Context(), io.Discard)
	if err == nil || !strings.Contains(err.Error(), "exit status 3: no such module") {
		t.Errorf("want the go command's words, got %v", err)
	}
}

// TestRecipe_flux builds with stand-ins for the tools: what they find is what the flux library needs.
func TestRecipe_flux(t *testing.T) {
	// Beside the go command, cargo's name and a copy of flux that a build has left when it was killed.
	mark := fakeGo(t, `
case "$*" in
"env CC") echo cargo; exit;;
"install github.com/influxdata/pkg-config") cp "$0" "$GOBIN/pkg-config"; exit;;
esac
[ -x "$PKG_CONFIG" ] || { echo "no pkg-config at $PKG_CONFIG"; exit 4; }
[ -e "$GOCACHE" ] && { echo "$GOCACHE is an old cache"; exit 5; }
[ "$("$RUSTC_WRAPPER" echo rustc -O)" = "rustc -O --cap-lints=allow" ] || { echo "$RUSTC_WRAPPER does not wrap"; exit 6; }
[ -f go.mod ] || { echo "not in a module"; exit 7; }
env >"$XDG_CACHE_HOME/env"
printf '#!/bin/sh\necho "$*"\n' >"$GOBIN/influxd"; chmod 700 "$GOBIN/influxd"
echo "$*" >"$XDG_CACHE_HOME/args"`)
	for _, tool := range []string{"cargo", "pkg-config"} {
		if err := os.Symlink("/bin/true", filepath.Join(filepath.Dir(mark), tool)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("CARGO_TARGET_DIR", "/elsewhere")
	r := recipes[2]
	path, err := r.path()
	if err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(filepath.Dir(path), "build-1", "cache", "pkgconfig")
	if err := os.MkdirAll(stale, 0o700); err != nil {
		t.Fatal(err)
	}

	spec, err := r.spec(t.Context(), io.Discard)
	if err != nil || spec.Name != "2.7.12" || spec.Major != 2 || spec.Path != path || !isExecutable(path) {
		t.Fatalf("got %+v, %v", spec, err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	if want := []string{path, filepath.Join(filepath.Dir(path), "lock")}; err != nil || !slices.Equal(left, want) {
		t.Errorf("left in the cache: want %q, got %q, %v", want, left, err)
	}
	env, err := os.ReadFile(filepath.Join(os.Getenv("XDG_CACHE_HOME"), "env"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"RUSTUP_TOOLCHAIN=stable", "CGO_ENABLED=1", "GOWORK=off"} {
		if !slices.Contains(strings.Split(string(env), "\n"), want) {
			t.Errorf("no %s in the environment of the build", want)
		}
	}
	if strings.Contains(string(env), "CARGO_TARGET_DIR") {
		t.Error("the library is built where pkg-config does not look")
	}
	args, err := os.ReadFile(filepath.Join(os.Getenv("XDG_CACHE_HOME"), "args"))
	want := "install -tags=sqlite_foreign_keys,sqlite_json -ldflags=-s -w -X main.version=2.7.12 " +
		"github.com/influxdata/influxdb/v2/cmd/influxd\n"
	if string(args) != want {
		t.Errorf("want %q, got %q, %v", want, args, err)
	}
}

// TestAvailable_missing: versions that can't be built are reported and omitted.
func TestAvailable_missing(t *testing.T) {
	mark := fakeGo(t, `
[ "$*" = "env CC" ] && { echo "no-such-cc -m64"; exit; }
printf '#!/bin/sh\n' >"$GOBIN/influxd"; /bin/chmod 700 "$GOBIN/influxd"`)
	t.Setenv("PATH", filepath.Dir(mark))
	for _, variable := range []string{"INFLUXD", "INFLUXDB3", "TEST_SERVERS"} {
		t.Setenv(variable, "")
	}
	for servers, why := range map[string]string{
		"":       "can't be built on this machine: no cargo, no no-such-cc, no pkg-config, no sh",
		"cached": "not in the cache: make servers builds it",
	} {
		t.Setenv("SERVERS", servers)
		specs, missing, err := Available(t.Context(), io.Discard)
		if err != nil || len(specs) != 1 || specs[0].Name != "1.7.11" {
			t.Errorf("SERVERS=%s: want 1.7.11 alone, got %+v, %v", servers, specs, err)
		}
		want := []string{"InfluxDB 1.13.2: ", "InfluxDB 2.7.12: ", "InfluxDB 3: the variable INFLUXDB3 is empty"}
		if len(missing) != len(want) {
			t.Fatalf("SERVERS=%s: want %d lines, got %q", servers, len(want), missing)
		}
		for i, line := range missing {
			if !strings.HasPrefix(line, want[i]) || i < 2 && !strings.HasSuffix(line, why) {
				t.Errorf("SERVERS=%s: want %s%s, got %s", servers, want[i], why, line)
			}
		}
	}
}

// TestModules: every version is the one that InfluxDB's own go.mod has, so that what runs here is what InfluxData
// releases. It is not when another module raises one.
func TestModules(t *testing.T) {
	for _, r := range recipes[1:] {
		t.Run(r.version, func(t *testing.T) {
			folder, err := moduleFolder(r.module)
			if err != nil {
				t.Fatal(err)
			}
			influxdb := strings.TrimSuffix(r.program, "/cmd/influxd")
			ours := requirements(t, filepath.Join(folder, "go.mod"))
			if got := ours[influxdb]; got != "v"+r.version {
				t.Errorf("go.mod requires %s %s", influxdb, got)
			}
			list := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.GoMod}}", influxdb)
			list.Dir = folder
			file, err := list.Output()
			if err != nil {
				t.Fatal(err)
			}
			theirs := requirements(t, strings.TrimSpace(string(file)))
			for module, version := range ours {
				if module != influxdb && theirs[module] != version {
					t.Errorf("%s: want %q, got %s", module, theirs[module], version)
				}
			}
		})
	}
}

// requirements reads the versions that a go.mod requires, and those that it replaces others with.
func requirements(t *testing.T, file string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	versions := map[string]string{}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(strings.TrimPrefix(line, "require "))
		if len(words) >= 2 && strings.Contains(words[0], ".") && strings.HasPrefix(words[1], "v") {
			versions[words[0]] = words[1]
		}
		if words := strings.Fields(line); len(words) > 0 && words[0] == "replace" {
			versions[line] = "replaced"
		}
	}
	if len(versions) < 100 {
		t.Fatalf("%s requires %d modules", file, len(versions))
	}
	return versions
}
