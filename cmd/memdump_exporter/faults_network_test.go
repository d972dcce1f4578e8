//go:build faults

package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Every question goes by a toxiproxy to the real InfluxDB, or one of six does.
var networkRows = []row{
	{id: "A1", what: "InfluxDB not started", run: notStarted,
		off: []edit{{"cmd/memdump_exporter/main.go", "conns := newConnections(openFiles())", "client, err := newClient(o); if err != nil { return err }; if _, err := client.Identify(ctx); err != nil { return err }; conns := newConnections(openFiles())"}}},
	{id: "A2", what: "stopped between scrapes", tested: "TestTruth_awayAndBack/stopped"},
	{id: "A3", what: "killed during the answer", run: killedDuringAnswer},
	{id: "A4", what: "SIGSTOP of influxd", tested: "TestTruth_awayAndBack/hangs"},
	{id: "A5", what: "latency of 300 ms, more or less", run: toxic("latency", `"latency":300,"jitter":200`, seen{})},
	{id: "A6", what: "latency beyond the scrape's time, on one of six", run: toxic("latency", `"latency":6000`, seen{reason: "timeout"}),
		off: []edit{{"collector/flight.go", "case <-patience.C:\n\t\tlate = true\n", ""}}},
	{id: "A7", what: "nothing comes after the connection", run: blackhole},
	{id: "A8", what: "closed after 100 ms", run: toxic("timeout", `"timeout":100`, seen{reason: "unreachable", within: time.Second})},
	{id: "A9", what: "reset", run: toxic("reset_peer", `"timeout":0`, seen{reason: "unreachable"})},
	{id: "A10", what: "closed after 1, 17, 100 bytes, the header, all but the last byte", run: cutShort,
		off: []edit{{"influx/errors.go", "kind := ErrTruncated\n", "return nil\n\tkind := ErrTruncated\n"}}},
	{id: "A11", what: "1 KB/s", run: slow},
	{id: "A12", what: "one byte at a time", run: toxic("slicer", `"average_size":1,"size_variation":0,"delay":100`, seen{})},
	{id: "A13", what: "closed slowly", run: toxic("slow_close", `"delay":1000`, seen{})},
	{id: "A14", what: "flapping", run: flapping},
	{id: "A15", what: "a name that does not exist, or has another address now", run: names},
	{id: "A16", what: "kept connections closed while idle", run: closedWhileIdle},
	{id: "A17", what: "a port whose connections nobody accepts", run: notAccepted,
		off: []edit{{"influx/client.go", "Timeout: 2 * time.Second, ", ""}}},
	{id: "A18", what: "our open files used up", run: noFiles},
	{id: "A19", what: "ephemeral ports used up", run: noPorts},
}

// toxic is a row of one toxic on one question.
func toxic(kind, attributes string, want seen) func(*testing.T, *matrix) {
	return func(t *testing.T, m *matrix) {
		m.poison(t, kind, attributes)
		cases(oneCase{name: kind, answer: m.through, seen: want, asked: -1})(t, m)
	}
}

func blackhole(t *testing.T, m *matrix) {
	m.poison(t, "timeout", `"timeout":0`)
	transport(oneCase{name: "timeout", answer: m.carry, seen: seen{reason: "timeout"}, asked: -1})(t, m)
}

func notStarted(t *testing.T, m *matrix) {
	if err := m.server.Stop(); err != nil {
		t.Fatal(err)
	}
	s := m.start(t, m.server.URL)
	for _, path := range []string{healthyPath, readyPath, "/"} {
		if r := s.fetch(t, path); r.status != http.StatusOK {
			t.Errorf("%s: HTTP %d, %v", path, r.status, r.err)
		}
	}
	s.sees(t, seen{reason: "unreachable", queries: all(), within: time.Second, records: true})
	if err := m.server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.files, s.goroutines = s.files+6, s.goroutines+12 // connections to InfluxDB, of which there was none
	s.recovers(t)
}

func killedDuringAnswer(t *testing.T, m *matrix) {
	others := m.front.others.Load()
	m.front.set(func(conn *countingConn, _ *http.Request) {
		for m.front.others.Load() < others+5 {
			time.Sleep(time.Millisecond)
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"+value("0")[:60])
		if err := m.server.Kill(); err != nil {
			t.Error(err)
		}
	}, sumQuestion)
	m.subject.sees(t, seen{reason: "truncated"})
	m.front.set(nil)
	if err := m.server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.subject.recovers(t)
}

// answerOf is what InfluxDB sends to the question for the sum, byte for byte.
func (m *matrix) answerOf(t *testing.T) string {
	t.Helper()
	conn, err := net.Dial("tcp", m.toxic.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /query?db=vmstats&epoch=ns&q=SELECT+SUM(%%22gzip_size_bytes%%22)+AS+%%22value%%22+FROM+mem_dumps HTTP/1.1\r\nHost: i\r\nConnection: close\r\n\r\n")
	whole, err := io.ReadAll(conn)
	if err != nil || !strings.Contains(string(whole), `"values"`) {
		t.Fatalf("%v: %s", err, whole)
	}
	return string(whole)
}

func cutShort(t *testing.T, m *matrix) {
	whole := m.answerOf(t)
	header := strings.Index(whole, "\r\n\r\n") + 4
	body := len(whole)
	if strings.Contains(whole, "Transfer-Encoding: chunked") {
		body -= len("\n") // of the last chunk's end
	}
	for n, reason := range map[int]string{1: "unreachable", 17: "unreachable", 100: "unreachable", header - 1: "unreachable", header: "truncated", body - 1: "truncated"} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			m.poison(t, "limit_data", fmt.Sprintf(`"bytes":%d`, n))
			transport(oneCase{name: reason, answer: m.through, seen: seen{reason: reason}, asked: -1})(t, m)
		})
	}
}

// slow takes a question whose answer is long enough to take longer than a scrape.
func slow(t *testing.T, m *matrix) {
	m.poison(t, "bandwidth", `"rate":1`)
	cases(oneCase{name: "telemetry", answer: m.through, on: []string{`GROUP BY "VMID"`}, seen: seen{reason: "timeout", queries: []string{"monitored_vms"}}})(t, m)
}

func flapping(t *testing.T, m *matrix) {
	s := m.start(t, "http://"+m.toxic.Listen)
	for i := range 6 {
		m.toxic.Stop()
		s.sees(t, seen{reason: "unreachable", queries: all(), records: i == 0})
		if err := m.toxic.Start(); err != nil {
			t.Fatal(err)
		}
		s.sees(t, seen{})
	}
	s.recovers(t)
}

// names has a hosts file of its own where the machine allows that.
func names(t *testing.T, m *matrix) {
	own := []string{"unshare", "--map-root-user", "--mount"}
	if output, err := exec.Command(own[0], append(own[1:], "true")...).CombinedOutput(); err != nil {
		m.skip(t, "no file /etc/hosts of its own: %s", strings.TrimSpace(string(output)))
	}
	hosts := filepath.Join(t.TempDir(), "hosts")
	empty := filepath.Join(t.TempDir(), "empty")
	write(t, hosts, "")
	write(t, empty, "")
	shell := append(own, "sh", "-c", `mount --bind "$0" /etc/hosts && mount --bind "$1" /etc/resolv.conf && shift && exec "$@"`, hosts, empty)
	_, port, _ := net.SplitHostPort(m.toxic.Listen)
	s := m.startAs(t, shell, "http://influxdb.example:"+port)
	s.sees(t, seen{reason: "unreachable", queries: all(), records: true})
	// Nobody listens at the second address.
	for _, address := range []string{"127.0.0.1", "127.0.0.77", "127.0.0.1"} {
		write(t, hosts, address+" influxdb.example\n")
		want := seen{}
		if address != "127.0.0.1" {
			want = seen{reason: "unreachable", queries: all()}
		}
		// Go looks at the file again five seconds after it last has.
		for until := time.Now().Add(10 * time.Second); ; {
			m.toxic.Stop() // or kept connections would go on
			if err := m.toxic.Start(); err != nil {
				t.Fatal(err)
			}
			got := s.parse(t, s.fetch(t, "/metrics").body)
			s.counted = got.counts()
			if got.gauges("memdump_up")["memdump_up"] == 1 == (want.reason == "") {
				break
			}
			if time.Now().After(until) {
				t.Fatalf("%s is not used", address)
			}
			time.Sleep(100 * time.Millisecond)
		}
		s.sees(t, want)
	}
}

func closedWhileIdle(t *testing.T, m *matrix) {
	s := m.start(t, "http://"+m.toxic.Listen)
	for range 5 {
		m.toxic.Stop()
		if err := m.toxic.Start(); err != nil {
			t.Fatal(err)
		}
		s.sees(t, seen{})
	}
	s.recovers(t)
}

func notAccepted(t *testing.T, m *matrix) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(name.(*syscall.SockaddrInet4).Port))
	for { // until its queue is full
		conn, err := net.DialTimeout("tcp", address, 500*time.Millisecond)
		if err != nil {
			break
		}
		defer conn.Close()
	}
	s := m.start(t, "http://"+address)
	s.sees(t, seen{reason: "timeout", queries: all(), within: 5 * time.Second, timeout: 9})
}

func noFiles(t *testing.T, m *matrix) {
	s := m.startAs(t, []string{"sh", "-c", `ulimit -n 32; exec "$@"`, "sh"}, m.front.URL)
	var held []net.Conn
	for range 64 {
		conn, _ := s.dial(t)
		held = append(held, conn)
		fmt.Fprintf(conn, "GET /metrics HTTP/1.1\r\n")
	}
	for range 5 {
		got := s.fetch(t, "/metrics")
		if got.status != http.StatusOK || got.took > announced*time.Second {
			t.Fatalf("HTTP %d after %v, %v", got.status, got.took, got.err)
		}
		// Each figure is true, or it is not there.
		found, want := s.parse(t, got.body), truth(m.history)
		for query, gauge := range gaugeOf {
			if value, ok := found.gauges(gauge)[gauge]; ok && value != want.values[query] {
				t.Errorf("%s is %v, want %v", gauge, value, want.values[query])
			}
		}
	}
	for _, conn := range held {
		conn.Close()
	}
	s.counted = s.parse(t, s.fetch(t, "/metrics").body).counts()
	s.recovers(t)
}

// noPorts runs again in a network of its own, with eight ports for connections.
func noPorts(t *testing.T, m *matrix) {
	const inside = "MEMDUMP_FAULTS_OWN_NETWORK"
	if os.Getenv(inside) == "" {
		shell := []string{"--map-root-user", "--net", "sh", "-c", `ip link set lo up && exec "$@"`, "sh"}
		if output, err := exec.Command("unshare", append(shell, "true")...).CombinedOutput(); err != nil {
			m.skip(t, "no network of its own: %s", strings.TrimSpace(string(output)))
		}
		cmd := exec.Command("unshare", append(shell, os.Args[0], "-test.run=^TestFaults$/^A19$", "-test.v")...)
		cmd.Env = append(os.Environ(), inside+"=1")
		if output, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, output)
		}
		return
	}
	s := m.start(t, m.front.URL)
	m.front.CloseClientConnections()
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("61000 61007"), 0); err != nil {
		t.Fatal(err)
	}
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
	s.sees(t, seen{reason: "unreachable", queries: all()})
	for _, conn := range held {
		_ = conn.(*net.TCPConn).SetLinger(0) // no port waits
		conn.Close()
	}
	s.recovers(t)
}
