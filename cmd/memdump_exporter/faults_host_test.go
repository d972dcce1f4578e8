//go:build faults

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

// hostRows are faults of the process and its machine.
var hostRows = []row{
	{id: "G1", what: "SIGTERM with 100 scrapes in flight, 50 times; a second signal", run: terminated},
	{id: "G2", what: "SIGKILL, with the socket held by another process", run: socketActivation},
	{id: "G3", what: "a storm of SIGHUP", run: hangups},
	{id: "G4", what: "a limit of 64 MiB of memory", tested: "F3 and C1: peak memory is measured there"},
	{id: "G5", what: "no CPU to be had", run: starved},
	{id: "G6", what: "the wall clock jumps", why: "not tried, as the clock is the machine's; " +
		"deadlines are those of contexts and timers, which are monotonic"},
	{id: "G7", what: "stderr full, or closed (not read: TestLogWriter_stuck)", run: deaf},
	{id: "G8", what: "start with InfluxDB down", tested: "A1, TestRun_servesUntilItsContextEnds"},
}

// held starts n scrapes, which the exporter has read and which wait for InfluxDB until release.
func (m *matrix) held(t *testing.T, s *subject, n int) (replies <-chan reply, release func()) {
	t.Helper()
	waiting := make(chan struct{})
	var batches atomic.Int64 // whose query for the sum waits
	m.front.set(func(conn *countingConn, r *http.Request) {
		batches.Add(1)
		canceled := make(chan struct{})
		go func() {
			defer close(canceled)
			_, _ = io.Copy(io.Discard, conn.TCPConn)
		}()
		select {
		case <-waiting:
			ok(m.sum())(conn, r)
		case <-canceled:
			batches.Add(-1)
		}
	}, sumColumns)
	replies = atOnce(n, s.patiently(t))
	until(t, 20*time.Second, "all are read", func() error {
		// Each scrape joins a batch or starts one. This one starts one that is canceled when it ends.
		joined := s.parse(t, s.metrics(t, 0.6).body).value("memdump_scrapes_joined_total")
		if read := int64(joined) + batches.Load(); read < int64(n) {
			return fmt.Errorf("%d scrapes are", read)
		}
		return nil
	})
	return replies, func() { close(waiting); m.front.set(nil) }
}

func terminated(t *testing.T, m *matrix) {
	const times, scrapes = 50, 100
	longest, succeeded := time.Duration(0), 0
	for i := range times {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			s := &subject{exporter: startExporter(t, []string{"INFLUX_URL=" + m.front.URL})}
			replies, release := m.held(t, s, scrapes)
			began := time.Now()
			s.refusesAfter(t, syscall.SIGTERM)
			release()
			for got := range replies {
				switch {
				case got.whole():
					succeeded++
				case got.status != 0 || got.body != "":
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
	m.note("%d of %d scrapes succeeded, exit 0, the longest end %v", succeeded, times*scrapes, longest.Round(time.Millisecond))
	// A scrape that the process has not read when the signal comes is lost, and scraped again.
	if succeeded < times*scrapes*99/100 {
		t.Errorf("%d of %d scrapes succeeded", succeeded, times*scrapes)
	}

	s := &subject{exporter: startExporter(t, []string{"INFLUX_URL=" + m.front.URL})}
	s.ends = "signal: terminated"
	replies, release := m.held(t, s, 1)
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
	<-replies
}

// hangups: the exporter ignores SIGHUP.
func hangups(t *testing.T, m *matrix) {
	for range 50 {
		must(t, syscall.Kill(m.subject.proc.Pid(), syscall.SIGHUP))
		m.subject.sees(t, seen{})
	}
	m.subject.recovers(t)
}

// refusesAfter sends a signal, and waits until connections are refused.
func (s *subject) refusesAfter(t *testing.T, signal syscall.Signal) {
	t.Helper()
	must(t, syscall.Kill(s.proc.Pid(), signal))
	until(t, 2*time.Second, "connections are refused", func() error {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
		if err != nil {
			return nil
		}
		conn.Close()
		return errors.New("connections are still accepted")
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
	succeeded := 0
	for range 10 {
		got := s.metrics(t, announced)
		if got.status != http.StatusOK {
			t.Errorf("HTTP %d, %v", got.status, got.err)
			continue
		}
		s.trueOrAbsent(t, got)
		if got.took <= announced*time.Second {
			succeeded++
		}
	}
	m.note("%d of 10 in time", succeeded)
	if succeeded < 5 { // how many are possible depends on the machine
		t.Errorf("%d of 10 scrapes were in time", succeeded)
	}
}

// deaf runs an exporter that cannot write its log.
func deaf(t *testing.T, m *matrix) {
	for _, stderr := range []string{">/dev/full", ">&-"} {
		t.Run(stderr, func(t *testing.T) {
			s := &subject{exporter: newSocket(t).start(t, `exec "$@" 2`+stderr, nil, nil, "--influx.url="+m.front.URL), history: m.history}
			s.recount(t, s.metrics(t, patient))
			for range 50 {
				m.front.set(code("500 I\r\n\r\n"+strings.Repeat("x", 4000)), sumColumns)
				s.sees(t, serverError)
				m.front.set(nil)
				s.sees(t, seen{})
			}
		})
	}
}
