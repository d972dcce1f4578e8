package influxtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	lockPoll     = 200 * time.Millisecond
	tellInterval = 10 * time.Second
)

// errCannotBuild marks an InfluxDB that this machine lacks the tools to build.
var errCannotBuild = errors.New("cannot be built here")

// recipe is how an influxd is built from the module proxy alone.
type recipe struct {
	version string
	program string // package of the program
	module  string // folder below servers, whose go.mod has all versions; empty: program@version has them itself
	tags    string
	takes   string // on two cores, with a cold module cache
}

// The first is what tests and the demo use. 1.13 and 2.x need the flux library, which is written in Rust. Each has a
// module of its own, because one module for both would select the newer flux and influxql for both.
var recipes = []recipe{
	{version: "1.7.11", program: "github.com/influxdata/influxdb/cmd/influxd", takes: "about a minute"},
	{version: "1.13.2", program: "github.com/influxdata/influxdb/cmd/influxd", module: "influxdb1", takes: "about ten minutes"},
	{version: "2.7.12", program: "github.com/influxdata/influxdb/v2/cmd/influxd", module: "influxdb2",
		tags: "sqlite_foreign_keys,sqlite_json", takes: "about ten minutes"},
}

// Default returns the InfluxDB of tests and of the demo, 1.7.11. The first call on a machine builds it with the go command,
// which takes about a minute and, with a cold module cache, the module proxy; later calls find it in the user's cache
// directory. Several processes may call it at once: one builds, the others wait. What it does goes to progress, a line
// at a time, and nothing when there is nothing to build. The error carries the end of the go command's output, or is
// the context's.
func Default(ctx context.Context, progress io.Writer) (ServerSpec, error) {
	return recipes[0].spec(ctx, progress)
}

func (r recipe) spec(ctx context.Context, progress io.Writer) (ServerSpec, error) {
	path, err := r.install(ctx, progress)
	return ServerSpec{Name: r.version, Version: r.version, Major: majorOf(r.version), Path: path}, err
}

// install returns the path of the program, and builds it first where the cache does not hold it.
func (r recipe) install(ctx context.Context, progress io.Writer) (string, error) {
	path, err := r.path()
	if err != nil || isExecutable(path) {
		return path, err
	}
	lock, err := os.OpenFile(filepath.Join(filepath.Dir(path), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", fmt.Errorf("lock the build of influxd: %w", err)
	}
	defer lock.Close()
	if err := r.waitLock(ctx, lock, progress); err != nil {
		return "", fmt.Errorf("wait for the build of influxd: %w", err)
	}
	if isExecutable(path) {
		return path, nil
	}
	if err := r.build(ctx, path, progress); err != nil {
		return "", fmt.Errorf("build influxd %s: %w", r.version, err)
	}
	return path, nil
}

// path is where the program is, or will be, in the cache directory. Its folder exists.
func (r recipe) path() (string, error) {
	name := "influxd"
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	folder := "influxdb-" + r.version
	if base, err := os.UserCacheDir(); err == nil {
		dir := filepath.Join(base, "memdump_exporter", folder)
		if os.MkdirAll(dir, 0o700) == nil {
			return filepath.Join(dir, name), nil
		}
	}
	dir := filepath.Join(os.TempDir(), "memdump_exporter-"+strconv.Itoa(os.Getuid()))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("directory for influxd: %w", err)
	}
	// Anyone may make this name in a shared directory, and we are going to run what lies in it.
	fi, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("directory for influxd: %w", err)
	}
	if !fi.IsDir() || !ownedByUs(fi) || fi.Mode().Perm()&0o022 != 0 {
		return "", fmt.Errorf("directory for influxd: %s is not ours alone", dir)
	}
	dir = filepath.Join(dir, folder)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("directory for influxd: %w", err)
	}
	return filepath.Join(dir, name), nil
}

func isExecutable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && (fi.Mode().Perm()&0o100 != 0 || runtime.GOOS == "windows")
}

func (r recipe) waitLock(ctx context.Context, f *os.File, progress io.Writer) error {
	// Polled, because no context can end a flock that waits.
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for told := false; ; told = true {
		ok, err := tryLock(f)
		if ok || err != nil {
			return err
		}
		if !told {
			fmt.Fprintf(progress, "waiting for another process that builds InfluxDB %s…\n", r.version)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

func (r recipe) build(ctx context.Context, path string, progress io.Writer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if exclusive {
		// Left by a build that was killed, some gigabytes.
		stale, _ := filepath.Glob(filepath.Join(dir, "build-*"))
		for _, left := range stale {
			if err := os.RemoveAll(left); err != nil {
				return err
			}
		}
	}
	tmp, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)

	cmds, err := r.commands(ctx, tmp)
	if err != nil {
		return err
	}
	fmt.Fprintf(progress, "building InfluxDB %s (%s, once)…\n", r.version, r.takes)
	start := time.Now()
	for _, cmd := range cmds {
		if err := runTold(ctx, cmd, start, progress); err != nil {
			return err
		}
	}
	fmt.Fprintf(progress, "built in %.0f s: %s\n", time.Since(start).Seconds(), path)
	// Only a whole binary ever has the name that others look for.
	return os.Rename(filepath.Join(tmp, filepath.Base(path)), path)
}

// commands are what makes tmp/influxd, in their order.
func (r recipe) commands(ctx context.Context, tmp string) ([]*exec.Cmd, error) {
	// GOFLAGS gets a harmless value, because an empty one falls back to what `go env -w` has stored. Empty GOOS and
	// GOARCH are this machine's; a GOBIN refuses any other.
	env := append(os.Environ(), "GOBIN="+tmp, "GOFLAGS=-buildvcs=false", "GOWORK=off", "GOOS=", "GOARCH=")
	install := []string{"install", "-tags=" + r.tags, "-ldflags=-s -w -X main.version=" + r.version}
	if r.module == "" {
		cmd := exec.Command("go", append(install, r.program+"@v"+r.version)...)
		cmd.Dir = tmp // not in our module
		cmd.Env = append(env, "CGO_ENABLED=0")
		return []*exec.Cmd{cmd}, nil
	}

	if err := r.lacks(ctx); err != nil {
		return nil, err
	}
	module, err := moduleFolder(r.module)
	if err != nil {
		return nil, err
	}
	// The flux library denies warnings, and newer compilers have more of them.
	wrapper := filepath.Join(tmp, "rustc")
	if err := os.WriteFile(wrapper, []byte("#!/bin/sh\nexec \"$@\" --cap-lints=allow\n"), 0o700); err != nil {
		return nil, err
	}
	// pkg-config looks for the library where cargo puts it by default.
	env = slices.DeleteFunc(env, func(s string) bool { return strings.HasPrefix(s, "CARGO_TARGET_DIR=") })
	env = append(env, "CGO_ENABLED=1",
		// A cache of its own: a build that is cut short leaves half a copy of the flux library in it, which every later
		// build would take for whole.
		"GOCACHE="+filepath.Join(tmp, "cache"),
		"PKG_CONFIG="+filepath.Join(tmp, "pkg-config"),
		"RUSTC_WRAPPER="+wrapper,
		"RUSTUP_TOOLCHAIN=stable", // the library names an older one, which would have to be fetched
	)
	var cmds []*exec.Cmd
	for _, args := range [][]string{{"install", "github.com/influxdata/pkg-config"}, append(install, r.program)} {
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = module, env
		cmds = append(cmds, cmd)
	}
	return cmds, nil
}

// lacks is an errCannotBuild that names the tools for the flux library that are not there.
func (r recipe) lacks(ctx context.Context) error {
	cc, err := exec.CommandContext(ctx, "go", "env", "CC").Output()
	if err != nil {
		return fmt.Errorf("find the C compiler: %w", err)
	}
	compiler, _, _ := strings.Cut(strings.TrimSpace(string(cc)), " ")
	var lacking []string
	for _, tool := range []string{"cargo", compiler, "pkg-config", "sh"} {
		if _, err := exec.LookPath(tool); err != nil {
			lacking = append(lacking, tool)
		}
	}
	if len(lacking) > 0 {
		return fmt.Errorf("%w: no %s", errCannotBuild, strings.Join(lacking, ", no "))
	}
	return nil
}

// moduleFolder finds a folder below servers from anywhere in the source tree, where tests run.
func moduleFolder(name string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		folder := filepath.Join(dir, "influx", "influxtest", "servers", name)
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return folder, nil
		}
		above := filepath.Dir(dir)
		if above == dir {
			return "", fmt.Errorf("%w: not in the source tree", errCannotBuild)
		}
		dir = above
	}
}

// runTold runs the command and reports from time to time how long ago start was. The error carries the end of the
// command's output.
func runTold(ctx context.Context, cmd *exec.Cmd, start time.Time, progress io.Writer) error {
	var output tail
	cmd.Stdout, cmd.Stderr = &output, &output
	p, err := StartProcess(cmd)
	if err != nil {
		return err
	}
	ticker := time.NewTicker(tellInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), p.Kill())
		case <-ticker.C:
			fmt.Fprintf(progress, "  %.0f s\n", time.Since(start).Seconds())
		case <-p.Done():
			if err := p.Err(); err != nil {
				return fmt.Errorf("go %s: %w: %s", strings.Join(cmd.Args[1:], " "), err, output.String())
			}
			return nil
		}
	}
}
