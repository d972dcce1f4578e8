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
		off: []edit{{"\tconns.awaitRequests(silentGrace)\n", ""}}},
	{id: "G2", what: "SIGKILL, with the socket held by another process", run: socketActivation},
	{id: "G3", what: "a storm of SIGHUP", why: "nothing is loaded again at a signal: files are read when they are used, and SIGHUP ends the process"},
	{id: "G4", what: "a limit of 64 MiB of memory", tested: "F3 and C1: peak memory is measured there"},
	{id: "G5", what: "no CPU to be had", run: starved},
	{id: "G6", what: "the wall clock jumps", why: "not tried, as it is the machine's; deadlines are those of contexts and timers, which are monotonic"},
	{id: "G7", what: "stderr full, closed, or read by nobody", run: deaf},
	{id: "G8", what: "start with InfluxDB down", tested: "A1"},
}

// held are scrapes that have been accepted by the exporter and wait for InfluxDB.
func (m *matrix) held(t *testing.T, s *subject, n int) (answers <-chan reply, release func()) {
	t.Helper()
	waiting := make(chan struct{})
	m.front.set(func(conn *countingConn, r *http.Request) {
		<-waiting
		ok(m.sum())(conn, r)
	}, sumQuestion)
	idle := s.openFiles(t)
	answers = atOnce(n, s.patiently(t))
	until(t, 20*time.Second, "all are accepted", func() error {
		if files := s.openFiles(t); files < idle+n {
			return fmt.Errorf("%d open files, %d when idle", files, idle)
		}
		return nil
	})
	return answers, func() { close(waiting); m.front.set(nil) }
}

func terminated(t *testing.T, m *matrix) {
	const times, scrapes = 50, 100
	longest := time.Duration(0)
	for i := range times {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			s := &subject{exporter: startExporter(t, []string{"INFLUX_URL=" + m.front.URL})}
			answers, release := m.held(t, s, scrapes)
			began := time.Now()
			s.refusesAfter(t, syscall.SIGTERM)
			release()
			for range scrapes {
				if got := <-answers; !got.whole() {
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
	m.note("%d times %d scrapes answered whole, exit 0, the longest end %v", times, scrapes, longest.Round(time.Millisecond))

	s := &subject{exporter: startExporter(t, []string{"INFLUX_URL=" + m.front.URL})}
	s.ends = "signal: terminated"
	answers, release := m.held(t, s, 1)
	defer release()
	s.refusesAfter(t, syscall.SIGTERM)
	until(t, 2*time.Second, "the second signal ends it", func() error {
		_ = syscall.Kill(s.proc.Pid(), syscall.SIGTERM)
		select {
		case <-s.proc.Done():
			return nil
		case <-time.After(10 * time.Millisecond):
			return errors.New("it goes on")
		}
	})
	<-answers
}

// refusesAfter waits until nobody listens any more, after a signal.
func (s *subject) refusesAfter(t *testing.T, signal syscall.Signal) {
	t.Helper()
	must(t, syscall.Kill(s.proc.Pid(), signal))
	until(t, 2*time.Second, "nobody listens", func() error {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
		if err != nil {
			return nil
		}
		conn.Close()
		return errors.New("connections are still taken")
	})
}

func socketActivation(t *testing.T, m *matrix) {
	socket := newSocket(t)
	start := func() *subject {
		return &subject{exporter: socket.start(t, `exec "$@"`, nil, nil, "--influx.url="+m.front.URL), history: m.history}
	}
	s := start()
	for range 5 {
		s.sees(t, seen{timeout: patient})
		s.ends = "signal: killed"
		must(t, s.proc.Kill())
		early := atOnce(1, s.patiently(t))
		s = start()
		s.holds(t, seen{timeout: patient}, <-early)
	}
}

func starved(t *testing.T, m *matrix) {
	s := m.start(t, []string{"nice", "-n", "10"}, m.front.URL)
	for range 4 {
		proc, err := influxtest.StartProcess(exec.Command("sh", "-c", "while :; do :; done"))
		must(t, err)
		defer proc.Kill()
	}
	answered, whole := 0, 0
	for range 10 {
		got := s.metrics(t, announced)
		if got.status != http.StatusOK {
			t.Errorf("HTTP %d, %v", got.status, got.err)
			continue
		}
		s.trueOrAbsent(t, got)
		if got.took <= announced*time.Second {
			answered++
		}
		if got.whole() {
			whole++
		}
	}
	m.note("%d of 10 in time, %d whole", answered, whole)
	if answered < 5 { // how many there can be is the machine's business
		t.Errorf("%d of 10 scrapes answered in time", answered)
	}
}

// deaf is an exporter whose log is full, or closed, or read by nobody.
func deaf(t *testing.T, m *matrix) {
	unread, stderr, err := os.Pipe()
	must(t, err)
	defer unread.Close()
	defer stderr.Close()
	for name, script := range map[string]string{"full": `exec "$@" 2>/dev/full`, "closed": `exec "$@" 2>&-`, "unread": `exec "$@"`} {
		t.Run(name, func(t *testing.T) {
			s := &subject{exporter: newSocket(t).start(t, script, nil, stderr, "--influx.url="+m.front.URL), history: m.history}
			s.recount(t, s.metrics(t, patient))
			for range 50 {
				m.front.set(status(500, strings.Repeat("x", 4000)), sumQuestion)
				s.sees(t, serverError)
				m.front.set(nil)
				s.sees(t, seen{})
			}
		})
	}
}
