package influxtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	influxdVersion = "1.7.11"
	influxdPackage = "github.com/influxdata/influxdb/cmd/influxd@v" + influxdVersion

	lockPoll     = 200 * time.Millisecond
	tellInterval = 10 * time.Second
)

// Influxd returns the path of a real influxd 1.7.11. The first call on a machine builds it with the go command, which
// takes about a minute and, with a cold module cache, the module proxy; later calls find it in the user's cache
// directory. Several processes may call it at once: one builds, the others wait. What it does goes to progress, a line
// at a time, and nothing when there is nothing to build. The error carries the end of the go command's output, or is
// the context's.
func Influxd(ctx context.Context, progress io.Writer) (string, error) {
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "influxd")
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	if isExecutable(path) {
		return path, nil
	}

	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", fmt.Errorf("lock the build of influxd: %w", err)
	}
	defer lock.Close()
	if err := waitLock(ctx, lock, progress); err != nil {
		return "", fmt.Errorf("wait for the build of influxd: %w", err)
	}
	if isExecutable(path) {
		return path, nil
	}
	if err := build(ctx, dir, path, progress); err != nil {
		return "", fmt.Errorf("build influxd %s: %w", influxdVersion, err)
	}
	return path, nil
}

func cacheDir() (string, error) {
	if base, err := os.UserCacheDir(); err == nil {
		dir := filepath.Join(base, "memdump_exporter", "influxd-"+influxdVersion)
		if os.MkdirAll(dir, 0o700) == nil {
			return dir, nil
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
	return dir, nil
}

func isExecutable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && (fi.Mode().Perm()&0o100 != 0 || runtime.GOOS == "windows")
}

func waitLock(ctx context.Context, f *os.File, progress io.Writer) error {
	// Asking again and again, because no context can end a flock that waits.
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for told := false; ; told = true {
		ok, err := tryLock(f)
		if ok || err != nil {
			return err
		}
		if !told {
			fmt.Fprintf(progress, "waiting for another process that builds InfluxDB %s…\n", influxdVersion)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

func build(ctx context.Context, dir, path string, progress io.Writer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)

	fmt.Fprintf(progress, "building InfluxDB %s with the Go toolchain (about a minute, once)…\n", influxdVersion)
	var output tail
	cmd := exec.Command("go", "install", influxdPackage)
	cmd.Dir = tmp // not in our module, nor under somebody's go.work
	// GOFLAGS gets a harmless value, because an empty one falls back to what `go env -w` has stored. Empty GOOS and
	// GOARCH are this machine's; a GOBIN refuses any other.
	cmd.Env = append(os.Environ(), "GOBIN="+tmp, "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off", "GOOS=", "GOARCH=")
	cmd.Stdout, cmd.Stderr = &output, &output

	start := time.Now()
	p, err := StartProcess(cmd)
	if err != nil {
		return err
	}
	ticker := time.NewTicker(tellInterval)
	defer ticker.Stop()
	for running := true; running; {
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), p.Kill())
		case <-ticker.C:
			fmt.Fprintf(progress, "  %.0f s\n", time.Since(start).Seconds())
		case <-p.Done():
			running = false
		}
	}
	if err := p.Err(); err != nil {
		return fmt.Errorf("go install %s: %w: %s", influxdPackage, err, output.String())
	}
	fmt.Fprintf(progress, "built in %.0f s: %s\n", time.Since(start).Seconds(), path)
	// Only a whole binary ever has the name that others look for.
	return os.Rename(filepath.Join(tmp, filepath.Base(path)), path)
}

// Server is a running influxd on a loopback port, without authentication. It is safe for concurrent use.
type Server struct {
	Writer // to this server; URL, such as http://127.0.0.1:34567, stays the same over Stop and Start

	influxd, dir string

	mu   sync.Mutex
	proc *Process // nil before the first start
}

// Start starts influxd, a path that Influxd returned, with its data under dir, and returns when it answers. The context
// bounds the start alone; the server runs until Stop, Kill, or the end of this process. The error carries the end of
// influxd's log.
func Start(ctx context.Context, influxd, dir string) (*Server, error) {
	s := &Server{influxd: influxd, dir: dir}
	s.HTTP = &http.Client{Transport: &http.Transport{}}
	if err := s.Start(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// MustStart is Start for tests: with a directory of the test's, until the test ends.
func MustStart(tb testing.TB) *Server {
	tb.Helper()
	path, err := Influxd(tb.Context(), os.Stderr)
	if err != nil {
		tb.Fatal(err)
	}
	server, err := Start(tb.Context(), path, tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := server.Stop(); err != nil {
			tb.Error(err)
		}
	})
	return server
}

// Start starts the server again, on the same port and with the same data. It is an error when it runs, or when
// something else has taken the port.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running() {
		return errors.New("influxd is running already")
	}

	bindAddress := "127.0.0.1:0"
	if s.URL != "" {
		bindAddress = strings.TrimPrefix(s.URL, "http://")
	}
	var addr string // read after ready is closed
	ready := make(chan struct{})
	log := &tail{line: func(line string) {
		if strings.Contains(line, `msg="Listening on HTTP"`) {
			_, rest, _ := strings.Cut(line, " addr=")
			addr, _, _ = strings.Cut(rest, " ")
		}
		// The last line of a start. Before it a SIGTERM would end influxd without closing its files.
		if strings.Contains(line, `msg="Listening for signals"`) {
			close(ready)
		}
	}}
	// Nothing but our own settings: without -config it would read /etc/influxdb and ~/.influxdb.
	cmd := exec.Command(s.influxd, "run", "-config", os.DevNull)
	cmd.Stderr = log
	cmd.Env = []string{
		"HOME=" + s.dir,
		"GOGC=400", // its packages allocate 1 GB before main: a start takes 1.5 s instead of 2.5 s
		"INFLUXDB_BIND_ADDRESS=127.0.0.1:0",
		"INFLUXDB_CONTINUOUS_QUERIES_ENABLED=false",
		"INFLUXDB_DATA_DIR=" + filepath.Join(s.dir, "data"),
		"INFLUXDB_DATA_QUERY_LOG_ENABLED=false",
		"INFLUXDB_DATA_WAL_DIR=" + filepath.Join(s.dir, "wal"),
		"INFLUXDB_HTTP_BIND_ADDRESS=" + bindAddress,
		"INFLUXDB_HTTP_LOG_ENABLED=false",
		"INFLUXDB_HTTP_PPROF_ENABLED=false",
		"INFLUXDB_LOGGING_FORMAT=logfmt",
		"INFLUXDB_META_DIR=" + filepath.Join(s.dir, "meta"),
		"INFLUXDB_MONITOR_STORE_ENABLED=false",
		"INFLUXDB_REPORTING_DISABLED=true",
	}
	p, err := StartProcess(cmd)
	if err != nil {
		return err
	}
	s.proc = p
	select {
	case <-ready:
	case <-p.Done():
		return fmt.Errorf("influxd ended before it was ready: %w: %s", errors.Join(p.Err(), ctx.Err()), log)
	case <-ctx.Done():
		return fmt.Errorf("influxd was not ready in time: %w: %s", errors.Join(ctx.Err(), p.Kill()), log)
	}
	if s.URL == "" {
		s.URL = "http://" + addr
	}
	if err := s.do(ctx, http.MethodGet, "/ping", "", nil, nil); err != nil {
		return fmt.Errorf("influxd does not answer: %w", errors.Join(err, p.Kill()))
	}
	return nil
}

func (s *Server) running() bool {
	if s.proc == nil {
		return false
	}
	select {
	case <-s.proc.Done():
		return false
	default:
		return true
	}
}

// Pid is the process id of the running influxd, and 0 when it does not run.
func (s *Server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running() {
		return 0
	}
	return s.proc.Pid()
}

// Stop ends influxd with SIGTERM, after 5 seconds with SIGKILL, and waits until it is gone. A second Stop does nothing.
func (s *Server) Stop() error { return s.end((*Process).Stop) }

// Kill ends influxd with SIGKILL, as a crash would, and waits until it is gone. What it has acknowledged is on disk.
func (s *Server) Kill() error { return s.end((*Process).Kill) }

func (s *Server) end(how func(*Process) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return nil
	}
	defer s.HTTP.CloseIdleConnections()
	return how(s.proc)
}
