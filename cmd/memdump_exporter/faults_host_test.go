//go:build faults

package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

// The process and its machine.
var hostRows = []row{
	{id: "G1", what: "SIGTERM with 100 scrapes in flight, 50 times; a second signal", run: terminated,
		off: []edit{{"cmd/memdump_exporter/serve.go", "\tconns.awaitRequests(silentGrace)\n", ""}}},
	{id: "G2", what: "SIGKILL, with the socket held by another process", run: socketActivation},
	{id: "G3", what: "a storm of SIGHUP", why: "nothing is loaded again at a signal: files are read when they are used, and SIGHUP ends the process"},
	{id: "G4", what: "a limit of 64 MiB of memory", tested: "F3 and C1: peak memory is measured there"},
	{id: "G5", what: "no CPU to be had", run: starved},
	{id: "G6", what: "the wall clock jumps", why: "not tried, as it is the machine's; deadlines are those of contexts and timers, which are monotonic"},
	{id: "G7", what: "stderr full, closed, or read by nobody", run: deaf},
	{id: "G8", what: "start with InfluxDB down", tested: "A1"},
}

// held are scrapes that have arrived at the exporter and wait for InfluxDB.
func (m *matrix) held(t *testing.T, s *subject, n int) (answers chan reply, release func()) {
	t.Helper()
	real := ok(value(fmt.Sprint(m.history.Truth(0, 0).CompressedBytes)))
	waiting := make(chan struct{})
	m.front.set(func(conn *countingConn, r *http.Request) {
		<-waiting
		real(conn, r)
	}, sumQuestion)
	idle := s.openFiles(t)
	answers = make(chan reply, n)
	for range n {
		go func() { answers <- s.fetch(t, "/metrics", "X-Prometheus-Scrape-Timeout-Seconds", "30") }()
	}
	for s.openFiles(t) < idle+n { // each is accepted
		time.Sleep(time.Millisecond)
	}
	return answers, func() { close(waiting) }
}

func terminated(t *testing.T, m *matrix) {
	const times, scrapes = 50, 100
	longest := time.Duration(0)
	for i := range times {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			s := &subject{exporter: startExporter(t, []string{"INFLUX_URL=" + m.front.URL}), m: m}
			answers, release := m.held(t, s, scrapes)
			began := time.Now()
			if err := syscall.Kill(s.proc.Pid(), syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			s.refuses(t)
			release()
			for range scrapes {
				if got := <-answers; got.status != http.StatusOK || !strings.Contains(got.body, "\nmemdump_up 1\n") {
					t.Errorf("HTTP %d, %v\n%s", got.status, got.err, got.body)
				}
			}
			if err := s.proc.Err(); err != nil {
				t.Errorf("the exporter ended with %v", err)
			}
			longest = max(longest, time.Since(began))
		})
		if t.Failed() {
			return
		}
	}
	m.front.set(nil)
	m.note("%d times %d scrapes answered whole, exit 0, the longest end %v", times, scrapes, longest.Round(time.Millisecond))

	cmd := exec.Command(binary, "--web.listen-address=127.0.0.1:0", "--influx.url="+m.front.URL)
	// As startCommand wants exit 0 at the end, and this one is ended by a signal.
	s := m.quiet(t, cmd)
	answers, release := m.held(t, s, 1)
	defer m.front.set(nil)
	defer release()
	if err := syscall.Kill(s.proc.Pid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.refuses(t)
	began := time.Now()
	for over := false; !over; {
		_ = syscall.Kill(s.proc.Pid(), syscall.SIGTERM)
		select {
		case <-s.proc.Done():
			over = true
		case <-time.After(10 * time.Millisecond):
			if time.Since(began) > 2*time.Second {
				t.Fatal("the second signal does not end it")
			}
		}
	}
	if exit := (*exec.ExitError)(nil); !errors.As(s.proc.Err(), &exit) || exit.ExitCode() != -1 {
		t.Errorf("after the second signal: %v", s.proc.Err())
	}
	<-answers
}

// refuses waits until nobody listens any more.
func (s *subject) refuses(t *testing.T) {
	t.Helper()
	for until := time.Now().Add(2 * time.Second); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
		if err != nil {
			return
		}
		conn.Close()
		if time.Now().After(until) {
			t.Fatal("connections are still taken")
		}
	}
}

// quiet starts a command on a port of its own, without its log, and waits until it is ready.
func (m *matrix) quiet(t *testing.T, cmd *exec.Cmd) *subject {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	cmd.Args = append(cmd.Args, "--web.listen-address="+address)
	for i, arg := range cmd.Args {
		if arg == "--web.listen-address=127.0.0.1:0" {
			cmd.Args[i] = "--log.level=info"
		}
	}
	proc, err := influxtest.StartProcess(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := proc.Stop(); err != nil {
			t.Error(err)
		}
	})
	s := &subject{exporter: &exporter{URL: "http://" + address, proc: proc}, m: m}
	for until := time.Now().Add(20 * time.Second); s.fetch(t, readyPath).status != http.StatusOK; {
		if time.Now().After(until) {
			t.Fatal("it is not ready")
		}
		time.Sleep(time.Millisecond)
	}
	return s
}

func socketActivation(t *testing.T, m *matrix) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	socket, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	s := &subject{exporter: &exporter{URL: "http://" + listener.Addr().String()}, m: m, counted: map[string]float64{}}
	start := func() *influxtest.Process {
		cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`, "sh", binary, "--web.systemd-socket", "--influx.url="+m.front.URL)
		cmd.ExtraFiles = []*os.File{socket}
		proc, err := influxtest.StartProcess(cmd)
		if err != nil {
			t.Fatal(err)
		}
		return proc
	}
	proc := start()
	defer func() { proc.Stop() }()
	for range 5 {
		s.holds(t, seen{within: 20 * time.Second}, s.fetch(t, "/metrics", "X-Prometheus-Scrape-Timeout-Seconds", "20"))
		if err := proc.Kill(); err != nil {
			t.Fatal(err)
		}
		early := make(chan reply, 1)
		go func() { early <- s.fetch(t, "/metrics", "X-Prometheus-Scrape-Timeout-Seconds", "20") }()
		proc = start()
		s.holds(t, seen{within: 20 * time.Second}, <-early)
	}
}

func starved(t *testing.T, m *matrix) {
	s := m.startAs(t, []string{"nice", "-n", "10"}, m.front.URL)
	for range 4 {
		proc, err := influxtest.StartProcess(exec.Command("sh", "-c", "while :; do :; done"))
		if err != nil {
			t.Fatal(err)
		}
		defer proc.Kill()
	}
	answered, green := 0, 0
	want := truth(m.history)
	for range 10 {
		got := s.fetch(t, "/metrics")
		if got.status != http.StatusOK {
			t.Errorf("HTTP %d, %v", got.status, got.err)
			continue
		}
		if got.took <= announced*time.Second {
			answered++
		}
		found := s.parse(t, got.body)
		for query, gauge := range gaugeOf {
			if value, ok := found.gauges(gauge)[gauge]; ok && value != want.values[query] {
				t.Errorf("%s is %v, want %v", gauge, value, want.values[query])
			}
		}
		if strings.Contains(got.body, "\nmemdump_up 1\n") {
			green++
		}
	}
	m.note("%d of 10 in time, %d whole", answered, green)
	if answered < 5 { // how many there can be is the machine's business
		t.Errorf("%d of 10 scrapes answered in time", answered)
	}
}

func deaf(t *testing.T, m *matrix) {
	for name, shell := range map[string]string{"full": `exec "$@" 2>/dev/full`, "closed": `exec "$@" 2>&-`, "unread": `exec "$@"`} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("sh", "-c", shell, "sh", binary, "--web.listen-address=127.0.0.1:0", "--influx.url="+m.front.URL)
			if name == "unread" {
				r, w, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				defer w.Close()
				cmd.Stderr = w
			}
			s := m.quiet(t, cmd)
			s.counted = s.parse(t, s.fetch(t, "/metrics").body).counts()
			for range 50 {
				m.front.set(status(500, strings.Repeat("x", 4000)), sumQuestion)
				s.sees(t, seen{reason: "server_error"})
				m.front.set(nil)
				s.sees(t, seen{})
			}
		})
	}
}
