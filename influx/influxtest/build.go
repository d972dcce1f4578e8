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
	lockPoll         = 200 * time.Millisecond
	progressInterval = 10 * time.Second
)

// errCannotBuild means that a tool for the build is missing.
var errCannotBuild = errors.New("can't be built on this machine")

// recipe describes how to build an influxd from the Go module proxy.
type recipe struct {
	version string
	program string // package of the program
	module  string // folder below servers whose go.mod selects the versions; empty to use those of program@version
	tags    string
	takes   string // duration of the build on two cores with a cold module cache
}

// recipes are the versions that can be built. Tests and the demo use the first one. 1.13 and 2.x need the flux library,
// which is written in Rust. Each has its own module, because one module would select the newer flux and influxql for both.
var recipes = []recipe{
	{version: "1.7.11", program: "github.com/influxdata/influxdb/cmd/influxd", takes: "about a minute"},
	{version: "1.13.2", program: "github.com/influxdata/influxdb/cmd/influxd", module: "influxdb1", takes: "about ten minutes"},
	{version: "2.7.12", program: "github.com/influxdata/influxdb/v2/cmd/influxd", module: "influxdb2",
		tags: "sqlite_foreign_keys,sqlite_json", takes: "about ten minutes"},
}

// Default returns InfluxDB 1.7.11, which tests and the demo use. The first call on a machine builds it with the go command.
// That takes about a minute and, with a cold module cache, needs the module proxy. Later calls find it in the user's cache
// directory. Several processes may call Default at once: one builds, the others wait. Default writes lines to progress only
// if there is something to build. The error contains the end of the output of the go command, or is that of the context.
func Default(ctx context.Context, progress io.Writer) (ServerSpec, error) {
	return recipes[0].spec(ctx, progress)
}

func (r recipe) spec(ctx context.Context, progress io.Writer) (ServerSpec, error) {
	path, err := r.install(ctx, progress)
	return ServerSpec{Name: r.version, Version: r.version, Major: majorOf(r.version), Path: path}, err
}

// install returns the path of the program, and builds it first if the cache does not contain it.
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

// path returns the path of the program in the cache directory, and creates the folder. The program may not exist yet.
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
	// Anyone may create this folder in a shared directory, and the program in it will be executed.
	fi, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("directory for influxd: %w", err)
	}
	if !fi.IsDir() || !ownedByUs(fi) || fi.Mode().Perm()&0o022 != 0 {
		return "", fmt.Errorf("directory for influxd: other users may write to %s", dir)
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
	// A context can't interrupt a flock that waits.
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for reported := false; ; reported = true {
		ok, err := tryLock(f)
		if ok || err != nil {
			return err
		}
		if !reported {
			fmt.Fprintf(progress, "waiting for another process that is building InfluxDB %s…\n", r.version)
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
		// A build that was killed leaves gigabytes.
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
		if err := runWithProgress(ctx, cmd, start, progress); err != nil {
			return err
		}
	}
	fmt.Fprintf(progress, "built in %.0f s: %s\n", time.Since(start).Seconds(), path)
	// Renamed when complete: others look for this name.
	return os.Rename(filepath.Join(tmp, filepath.Base(path)), path)
}

// commands returns the commands that build tmp/influxd, in order.
func (r recipe) commands(ctx context.Context, tmp string) ([]*exec.Cmd, error) {
	// GOFLAGS has a harmless value, because an empty one falls back to that of `go env -w`. Empty GOOS and GOARCH mean those
	// of this machine; with GOBIN, go install accepts no others.
	env := append(os.Environ(), "GOBIN="+tmp, "GOFLAGS=-buildvcs=false", "GOWORK=off", "GOOS=", "GOARCH=")
	install := []string{"install", "-tags=" + r.tags, "-ldflags=-s -w -X main.version=" + r.version}
	if r.module == "" {
		cmd := exec.Command("go", append(install, r.program+"@v"+r.version)...)
		cmd.Dir = tmp // outside this module
		cmd.Env = append(env, "CGO_ENABLED=0")
		return []*exec.Cmd{cmd}, nil
	}

	if err := r.checkTools(ctx); err != nil {
		return nil, err
	}
	module, err := moduleFolder(r.module)
	if err != nil {
		return nil, err
	}
	// The flux library turns warnings into errors, and newer compilers have more warnings.
	wrapper := filepath.Join(tmp, "rustc")
	if err := os.WriteFile(wrapper, []byte("#!/bin/sh\nexec \"$@\" --cap-lints=allow\n"), 0o700); err != nil {
		return nil, err
	}
	// pkg-config looks for the library where cargo puts it by default.
	env = slices.DeleteFunc(env, func(s string) bool { return strings.HasPrefix(s, "CARGO_TARGET_DIR=") })
	env = append(env, "CGO_ENABLED=1",
		// Not the user's cache: an interrupted build leaves an incomplete copy of the flux library, which every later build
		// would use.
		"GOCACHE="+filepath.Join(tmp, "cache"),
		"PKG_CONFIG="+filepath.Join(tmp, "pkg-config"),
		"RUSTC_WRAPPER="+wrapper,
		"RUSTUP_TOOLCHAIN=stable", // the library selects an older one, which would have to be downloaded
	)
	var cmds []*exec.Cmd
	for _, args := range [][]string{{"install", "github.com/influxdata/pkg-config"}, append(install, r.program)} {
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = module, env
		cmds = append(cmds, cmd)
	}
	return cmds, nil
}

// checkTools returns an errCannotBuild with the missing tools for the flux library.
func (r recipe) checkTools(ctx context.Context) error {
	cc, err := exec.CommandContext(ctx, "go", "env", "CC").Output()
	if err != nil {
		return fmt.Errorf("find the C compiler: %w", err)
	}
	compiler, _, _ := strings.Cut(strings.TrimSpace(string(cc)), " ")
	var missing []string
	for _, tool := range []string{"cargo", compiler, "pkg-config", "sh"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: no %s", errCannotBuild, strings.Join(missing, ", no "))
	}
	return nil
}

// moduleFolder returns the path of a folder below servers. The working directory may be any folder of the source tree.
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

// runWithProgress executes a command, and writes the time since start to progress from time to time. The error contains the
// end of the output of the command.
func runWithProgress(ctx context.Context, cmd *exec.Cmd, start time.Time, progress io.Writer) error {
	var output tail
	cmd.Stdout, cmd.Stderr = &output, &output
	p, err := StartProcess(cmd)
	if err != nil {
		return err
	}
	ticker := time.NewTicker(progressInterval)
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
