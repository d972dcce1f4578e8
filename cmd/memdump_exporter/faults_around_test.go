//go:build faults

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

// Every question goes by a toxiproxy to the real InfluxDB, or one of six does.
var networkRows = []row{
	{id: "A1", what: "InfluxDB not started", run: notStarted},
	{id: "A2", what: "stopped between scrapes", tested: "TestTruth_awayAndBack/stopped"},
	{id: "A3", what: "killed during the answer", run: killedDuringAnswer},
	{id: "A4", what: "SIGSTOP of influxd", tested: "TestTruth_awayAndBack/hangs"},
	{id: "A5", what: "latency of 300 ms, more or less", run: toxic("latency", `"latency":300,"jitter":200`, seen{})},
	{id: "A6", what: "latency beyond the scrape's time, on one of six", run: toxic("latency", `"latency":6000`, late)},
	{id: "A7", what: "nothing comes after the connection", run: toxic("timeout", `"timeout":0`, seen{reason: "timeout", records: true})},
	{id: "A8", what: "closed after 100 ms", run: toxic("timeout", `"timeout":100`, seen{reason: "unreachable", within: time.Second})},
	{id: "A9", what: "reset", run: toxic("reset_peer", `"timeout":0`, unreachable)},
	{id: "A10", what: "closed after 1, 17, 100 bytes, the header, all but the last byte", run: cutShort},
	// A question whose answer is long enough to take longer than a scrape.
	{id: "A11", what: "1 KB/s", run: toxic("bandwidth", `"rate":1`, fails("timeout", "monitored_vms"))},
	{id: "A12", what: "one byte at a time", run: toxic("slicer", `"average_size":1,"size_variation":0,"delay":100`, seen{})},
	{id: "A13", what: "closed slowly", run: toxic("slow_close", `"delay":1000`, seen{})},
	{id: "A14", what: "flapping", run: flapping(true)},
	{id: "A15", what: "a name that does not exist, or has another address now", run: names},
	{id: "A16", what: "kept connections closed while idle", run: flapping(false)},
	{id: "A17", what: "a port whose connections nobody accepts", run: notAccepted},
	{id: "A18", what: "our open files used up", run: func(t *testing.T, m *matrix) { halfOpen(t, m, 64, "32") }},
	{id: "A19", what: "ephemeral ports used up", run: noPorts},
}

// toxic is a row of one toxic on one question.
func toxic(kind, attributes string, want seen) func(*testing.T, *matrix) {
	want.repeats = true
	return func(t *testing.T, m *matrix) {
		answer := m.through
		if kind == "timeout" { // which InfluxDB must not end before
			answer = m.carry
		}
		m.poison(t, kind, attributes)
		cases(one(kind, answer, want))(t, m)
	}
}

func notStarted(t *testing.T, m *matrix) {
	must(t, m.server.Stop())
	s := m.start(t, nil, m.server.URL)
	s.sees(t, seen{reason: "unreachable", queries: all(), within: time.Second, records: true})
	must(t, m.server.Start(t.Context()))
	s.files, s.goroutines = s.files+8, s.goroutines+16 // as many connections as are kept, of which there was none
	s.recovers(t)
}

func killedDuringAnswer(t *testing.T, m *matrix) {
	m.front.set(func(conn *countingConn, r *http.Request) {
		for range 5 {
			<-m.front.passed
		}
		headed("Content-Length: 500")(conn, r)
		if err := m.server.Kill(); err != nil {
			t.Error(err)
		}
	}, sumColumns)
	m.subject.sees(t, truncated)
	m.front.set(nil)
	must(t, m.server.Start(t.Context()))
	m.subject.recovers(t)
}

func cutShort(t *testing.T, m *matrix) {
	// What InfluxDB sends to the question for the sum, byte for byte.
	conn, err := net.Dial("tcp", m.toxic.Listen)
	must(t, err)
	defer conn.Close()
	fmt.Fprintf(conn, "GET /query?db=vmstats&epoch=ns&q=%s HTTP/1.1\r\nHost: i\r\nConnection: close\r\n\r\n", url.QueryEscape(sumColumns+` "mem_dumps"`))
	whole, err := io.ReadAll(conn)
	if err != nil || !bytes.Contains(whole, []byte(`"values"`)) {
		t.Fatalf("%v: %s", err, whole)
	}
	header := bytes.Index(whole, []byte("\r\n\r\n")) + 4
	last := len(whole) - 1
	if bytes.Contains(whole, []byte("Transfer-Encoding: chunked")) {
		last -= len("\n") // of the last chunk's end
	}
	for n, want := range map[int]seen{1: unreachable, 17: unreachable, 100: unreachable, header - 1: unreachable, header: truncated, last: truncated} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			m.poison(t, "limit_data", fmt.Sprintf(`"bytes":%d`, n))
			want.repeats = true
			transport(one(want.reason, m.through, want))(t, m)
		})
	}
}

// flapping breaks the way to InfluxDB again and again, and lets scrapes see it broken or
// only the connections that were kept.
func flapping(seenDown bool) func(*testing.T, *matrix) {
	return func(t *testing.T, m *matrix) {
		s := m.start(t, nil, "http://"+m.toxic.Listen)
		for i := range 6 {
			m.toxic.Stop()
			if seenDown {
				s.sees(t, seen{reason: "unreachable", queries: all(), records: i == 0})
			}
			must(t, m.toxic.Start())
			s.sees(t, seen{})
		}
		s.recovers(t)
	}
}

// someQuery is a line of an answer in which one has succeeded.
var someQuery = regexp.MustCompile("(?m)^memdump_query_success.* 1$")

// names has a hosts file of its own where the machine allows that.
func names(t *testing.T, m *matrix) {
	hosts := filepath.Join(t.TempDir(), "hosts")
	empty := filepath.Join(t.TempDir(), "empty")
	write(t, hosts, "")
	write(t, empty, "")
	shell := m.own(t, "--mount", `mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/resolv.conf && shift 2`, hosts, empty)
	_, port, _ := net.SplitHostPort(m.toxic.Listen)
	s := m.start(t, shell, "http://influxdb.example:"+port)
	s.sees(t, seen{reason: "unreachable", queries: all(), records: true})
	// Nobody listens at the second address.
	for _, address := range []string{"127.0.0.1", "127.0.0.77", "127.0.0.1"} {
		write(t, hosts, address+" influxdb.example\n")
		want := seen{}
		if address != "127.0.0.1" {
			want = fails("unreachable", all()...)
		}
		// Go looks at the file again five seconds after it last has.
		until(t, 10*time.Second, address+" is used", func() error {
			m.toxic.Stop() // or kept connections would go on
			must(t, m.toxic.Start())
			got := s.metrics(t, announced)
			s.recount(t, got)
			if reached := want.reason == ""; reached && !got.whole() || !reached && someQuery.MatchString(got.body) {
				return errors.New("the last one is")
			}
			return nil
		})
		s.sees(t, want)
	}
}

func notAccepted(t *testing.T, m *matrix) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	must(t, err)
	defer syscall.Close(fd)
	must(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(t, syscall.Listen(fd, 0))
	name, err := syscall.Getsockname(fd)
	must(t, err)
	address := fmt.Sprint("127.0.0.1:", name.(*syscall.SockaddrInet4).Port)
	for { // until its queue is full
		conn, err := net.DialTimeout("tcp", address, 500*time.Millisecond)
		if err != nil {
			break
		}
		defer conn.Close()
	}
	s := m.start(t, nil, "http://"+address)
	s.sees(t, seen{reason: "timeout", queries: all(), within: 5 * time.Second, timeout: 9})
}

// noPorts runs again in a network of its own, with eight ports for connections.
func noPorts(t *testing.T, m *matrix) {
	const inside = "MEMDUMP_FAULTS_OWN_NETWORK"
	if os.Getenv(inside) == "" {
		command := append(m.own(t, "--net", "ip link set lo up"), os.Args[0], "-test.run=^TestFaults$/^A19$", "-test.v")
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Env = append(os.Environ(), inside+"=1")
		if output, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, output)
		}
		return
	}
	s := m.start(t, nil, m.front.URL)
	m.front.CloseClientConnections()
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("61000 61007"), 0))
	var held []net.Conn
	for {
		conn, err := net.Dial("tcp", strings.TrimPrefix(m.front.URL, "http://"))
		if err != nil {
			break
		}
		held = append(held, conn)
	}
	if len(held) == 0 || len(held) > 8 {
		t.Fatalf("%d connections held", len(held))
	}
	s.sees(t, fails("unreachable", all()...))
	for _, conn := range held {
		_ = conn.(*net.TCPConn).SetLinger(0) // no port waits
		conn.Close()
	}
	s.recovers(t)
}

// The process and its machine.
var hostRows = []row{
	{id: "G1", what: "SIGTERM with 100 scrapes in flight, 50 times; a second signal", run: terminated},
	{id: "G2", what: "SIGKILL, with the socket held by another process", run: socketActivation},
	{id: "G3", what: "a storm of SIGHUP", why: "nothing is loaded again at a signal: files are read when they are used, and SIGHUP ends the process"},
	{id: "G4", what: "a limit of 64 MiB of memory", tested: "F3 and C1: peak memory is measured there"},
	{id: "G5", what: "no CPU to be had", run: starved},
	{id: "G6", what: "the wall clock jumps", why: "not tried, as it is the machine's; deadlines are those of contexts and timers, which are monotonic"},
	{id: "G7", what: "stderr full, or closed (read by nobody: TestLogWriter_stuck)", run: deaf},
	{id: "G8", what: "start with InfluxDB down", tested: "A1, TestRun_servesUntilItsContextEnds"},
}

// held are scrapes that have been accepted by the exporter and wait for InfluxDB.
func (m *matrix) held(t *testing.T, s *subject, n int) (answers <-chan reply, release func()) {
	t.Helper()
	waiting := make(chan struct{})
	m.front.set(func(conn *countingConn, r *http.Request) {
		<-waiting
		ok(m.sum())(conn, r)
	}, sumColumns)
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
	longest, answered := time.Duration(0), 0
	for i := range times {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			s := &subject{exporter: startExporter(t, []string{"INFLUX_URL=" + m.front.URL})}
			answers, release := m.held(t, s, scrapes)
			began := time.Now()
			s.refusesAfter(t, syscall.SIGTERM)
			release()
			for got := range answers {
				switch {
				case got.whole():
					answered++
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
	m.note("%d of %d scrapes answered, exit 0, the longest end %v", answered, times*scrapes, longest.Round(time.Millisecond))
	// A request that the process has not read when the signal comes is lost, and scraped again.
	if answered < times*scrapes*99/100 {
		t.Errorf("%d of %d scrapes answered", answered, times*scrapes)
	}

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
	answered := 0
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
	}
	m.note("%d of 10 in time", answered)
	if answered < 5 { // how many there can be is the machine's business
		t.Errorf("%d of 10 scrapes answered in time", answered)
	}
}

// deaf is an exporter whose log can't be written.
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
