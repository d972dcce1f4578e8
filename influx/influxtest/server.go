package influxtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	readyPoll   = 50 * time.Millisecond
	portTries   = 3
	adminUser   = "influxtest"
	adminSecret = "influxtest-secret" // of servers on loopback only
	adminToken  = "influxtest-token"
	adminOrg    = "influxtest"
)

// ErrRemote means that a remote server can't be started, ended or suspended.
var ErrRemote = errors.New("the server is remote")

// Server is an InfluxDB: a process on a loopback port, or a remote server that somebody else has started. It is safe for
// concurrent use.
type Server struct {
	Writer // URL, such as http://127.0.0.1:34567, does not change at Stop and Start

	Name    string // as in ServerSpec
	Version string

	program string // empty if the server is remote
	dir     string
	auth    bool // 1.x only: the server requires credentials

	mu   sync.Mutex
	proc *Process // nil before the first start
}

// Start starts the server with its data below dir, an empty folder. It returns when the server responds and, if it requires
// credentials, has a token with all permissions. The context limits the start only: the server runs until Stop, Kill, or the
// end of this process. The error contains the end of the server's log. Start only checks that a remote server responds.
func (spec ServerSpec) Start(ctx context.Context, dir string) (*Server, error) {
	s := &Server{Name: spec.Name, Version: spec.Version, program: spec.Path, dir: dir, auth: spec.Auth}
	s.Major, s.URL, s.Token = spec.Major, spec.url, spec.token
	s.HTTP = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	if spec.Remote() {
		if err := s.do(ctx, http.MethodGet, "/ping", "", nil, nil); err != nil {
			return nil, fmt.Errorf("InfluxDB %s does not respond: %w", spec.Name, err)
		}
		return s, nil
	}
	if err := s.Start(ctx); err != nil {
		return nil, err
	}
	if err := s.setUp(ctx); err != nil {
		return nil, fmt.Errorf("set up InfluxDB %s: %w", spec.Name, errors.Join(err, s.Kill()))
	}
	return s, nil
}

// MustStart is Start for tests: with a temporary directory, until the test ends.
func (spec ServerSpec) MustStart(tb testing.TB) *Server {
	tb.Helper()
	server, err := spec.Start(tb.Context(), tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := server.Stop(); err != nil && !errors.Is(err, ErrRemote) {
			tb.Error(err)
		}
	})
	return server
}

// MustStart starts the default server until the test ends.
func MustStart(tb testing.TB) *Server {
	tb.Helper()
	spec, err := Default(tb.Context(), os.Stderr)
	if err != nil {
		tb.Fatal(err)
	}
	return spec.MustStart(tb)
}

// setUp creates a token with all permissions. The data must be empty.
func (s *Server) setUp(ctx context.Context) error {
	switch {
	case s.Major == 1 && s.auth:
		s.Token = adminUser + ":" + adminSecret
		return s.Exec(ctx, fmt.Sprintf("CREATE USER %q WITH PASSWORD '%s' WITH ALL PRIVILEGES", adminUser, adminSecret))
	case s.Major == 2:
		s.Token = adminToken
		return s.doJSON(ctx, http.MethodPost, "/api/v2/setup", map[string]any{
			"username": adminUser, "password": adminSecret, "token": adminToken, "org": adminOrg, "bucket": adminOrg,
		}, nil)
	case s.Major == 3:
		output, err := exec.CommandContext(ctx, s.program, "create", "token", "--admin", "--host", s.URL).CombinedOutput()
		token := tokenOf3.Find(output)
		if err != nil || token == nil {
			return fmt.Errorf("create an admin token: %w: %s", err, s.clean(string(output)))
		}
		s.Token = string(token)
	}
	return nil
}

var tokenOf3 = regexp.MustCompile(`apiv3_[\w-]+`)

// Start starts the server again, on the same port and with the same data. It fails if the server is running, or if another
// process has taken the port.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.program == "":
		return ErrRemote
	case s.running():
		return errors.New("the server is already running")
	case s.URL != "":
		return s.startAt(ctx, strings.TrimPrefix(s.URL, "http://"))
	}
	// Another process may take the port before the server does.
	for try := 1; ; try++ {
		address, err := freeAddress(ctx)
		if err != nil {
			return err
		}
		s.URL = "http://" + address
		err = s.startAt(ctx, address)
		if err == nil {
			return nil
		}
		s.URL = ""
		if try == portTries || !strings.Contains(err.Error(), "address already in use") {
			return err
		}
	}
}

func freeAddress(ctx context.Context) (string, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

func (s *Server) startAt(ctx context.Context, address string) error {
	signals := make(chan struct{})
	log := &tail{line: func(line string) {
		// This is the last line of a start of 1.x. Before it, a SIGTERM would end influxd without closing its files.
		if s.Major == 1 && strings.Contains(line, `msg="Listening for signals"`) {
			close(signals)
		}
	}}
	if s.Major != 1 {
		close(signals)
	}
	cmd := s.command(address)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := StartProcess(cmd)
	if err != nil {
		return err
	}
	s.proc = p
	poll := time.NewTicker(readyPoll)
	defer poll.Stop()
	for {
		select {
		case <-p.Done():
			return fmt.Errorf("InfluxDB %s ended before it was ready: %w: %s", s.Name, errors.Join(p.Err(), ctx.Err()), log)
		case <-ctx.Done():
			return fmt.Errorf("InfluxDB %s was not ready in time: %w: %s", s.Name, errors.Join(ctx.Err(), p.Kill()), log)
		case <-poll.C:
		}
		select {
		case <-signals:
		default:
			continue
		}
		// 3.x rejects this without a token, which shows that it is ready.
		var rejected *statusError
		if err := s.do(ctx, http.MethodGet, "/ping", "", nil, nil); err == nil || errors.As(err, &rejected) && rejected.status < 500 {
			return nil
		}
	}
}

// command returns the command that starts the server, with no settings but these.
func (s *Server) command(address string) *exec.Cmd {
	env := []string{"HOME=" + s.dir, "PATH=" + os.Getenv("PATH")}
	switch s.Major {
	case 1:
		// Without -config, influxd reads /etc/influxdb and ~/.influxdb.
		cmd := exec.Command(s.program, "run", "-config", os.DevNull)
		cmd.Env = append(env,
			"GOGC=400", // the packages of 1.7 allocate 1 GB before main: a start takes 1.5 s instead of 2.5 s
			"INFLUXDB_BIND_ADDRESS=127.0.0.1:0",
			"INFLUXDB_CONTINUOUS_QUERIES_ENABLED=false",
			"INFLUXDB_DATA_DIR="+filepath.Join(s.dir, "data"),
			"INFLUXDB_DATA_QUERY_LOG_ENABLED=false",
			"INFLUXDB_DATA_WAL_DIR="+filepath.Join(s.dir, "wal"),
			fmt.Sprintf("INFLUXDB_HTTP_AUTH_ENABLED=%t", s.auth),
			"INFLUXDB_HTTP_BIND_ADDRESS="+address,
			"INFLUXDB_HTTP_LOG_ENABLED=false",
			"INFLUXDB_HTTP_PPROF_ENABLED=false",
			"INFLUXDB_LOGGING_FORMAT=logfmt",
			"INFLUXDB_META_DIR="+filepath.Join(s.dir, "meta"),
			"INFLUXDB_MONITOR_STORE_ENABLED=false",
			"INFLUXDB_REPORTING_DISABLED=true",
		)
		return cmd
	case 2:
		cmd := exec.Command(s.program)
		cmd.Env = append(env,
			"INFLUXD_BOLT_PATH="+filepath.Join(s.dir, "influxd.bolt"),
			"INFLUXD_CONFIG_PATH="+filepath.Join(s.dir, "none"),
			"INFLUXD_ENGINE_PATH="+filepath.Join(s.dir, "engine"),
			"INFLUXD_HTTP_BIND_ADDRESS="+address,
			"INFLUXD_LOG_LEVEL=error",
			"INFLUXD_REPORTING_DISABLED=true",
			"INFLUXD_SQLITE_PATH="+filepath.Join(s.dir, "influxd.sqlite"),
		)
		return cmd
	default:
		cmd := exec.Command(s.program, "serve", "--node-id", "n1", "--object-store", "file",
			"--data-dir", filepath.Join(s.dir, "data"), "--http-bind", address)
		cmd.Env = append(env, "INFLUXDB3_TELEMETRY_DISABLE_UPLOAD=true")
		return cmd
	}
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

// Remote reports whether the server is remote: Start, Stop, Kill, Halt and Resume then return ErrRemote.
func (s *Server) Remote() bool { return s.program == "" }

// Pid returns the process ID of the running server, and 0 if it is not running or remote.
func (s *Server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running() {
		return 0
	}
	return s.proc.Pid()
}

// Stop ends the server with SIGTERM, or with SIGKILL after 5 seconds, and waits for its end. A second Stop does nothing.
func (s *Server) Stop() error { return s.end((*Process).Stop) }

// Kill ends the server with SIGKILL, like a crash, and waits for its end. Acknowledged writes are on disk.
func (s *Server) Kill() error { return s.end((*Process).Kill) }

// Halt suspends the server, with its connections open, until Resume.
func (s *Server) Halt() error { return s.signal(halt) }

// Resume continues a server that Halt has suspended.
func (s *Server) Resume() error { return s.signal(resume) }

func (s *Server) end(how func(*Process) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.HTTP.CloseIdleConnections()
	switch {
	case s.program == "":
		return ErrRemote
	case s.proc == nil:
		return nil
	}
	return how(s.proc)
}

func (s *Server) signal(how func(*os.Process) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.program == "":
		return ErrRemote
	case !s.running():
		return errors.New("the server is not running")
	}
	return how(s.proc.cmd.Process)
}
