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
)

// networkRows are faults between the exporter and InfluxDB. Toxiproxy is before all requests, or before those of one query.
var networkRows = []row{
	{id: "A1", what: "InfluxDB not started", run: notStarted},
	{id: "A2", what: "stopped between scrapes", tested: "TestTruth_awayAndBack/stopped"},
	{id: "A3", what: "killed during the response", run: killedDuringResponse},
	{id: "A4", what: "SIGSTOP of influxd", tested: "TestTruth_awayAndBack/halted"},
	{id: "A5", what: "latency of 300 ms, more or less", run: toxic("latency", `"latency":300,"jitter":200`, seen{})},
	{id: "A6", what: "latency beyond the scrape's time, on one query", run: toxic("latency", `"latency":6000`, late)},
	{id: "A7", what: "nothing comes after the connection", run: toxic("timeout", `"timeout":0`, seen{reason: "timeout", records: true})},
	{id: "A8", what: "closed after 100 ms", run: toxic("timeout", `"timeout":100`, seen{reason: "unreachable", within: time.Second})},
	{id: "A9", what: "reset", run: toxic("reset_peer", `"timeout":0`, unreachable)},
	{id: "A10", what: "closed after 1, 17, 100 bytes, the header, all but the last byte", run: cutShort},
	// Of a query whose response is long enough to take longer than a scrape.
	{id: "A11", what: "1 KB/s", run: toxic("bandwidth", `"rate":1`, fails("timeout", "monitored_vms"))},
	{id: "A12", what: "one byte at a time", run: toxic("slicer", `"average_size":1,"size_variation":0,"delay":100`, seen{})},
	{id: "A13", what: "closed slowly", run: toxic("slow_close", `"delay":1000`, seen{})},
	{id: "A14", what: "flapping", run: flapping(true)},
	{id: "A15", what: "a name that does not exist, or has another address now", run: names},
	{id: "A16", what: "kept connections closed while idle", run: flapping(false)},
	{id: "A17", what: "a port where nothing accepts connections", run: notAccepted},
	{id: "A18", what: "our open files used up", run: func(t *testing.T, m *matrix) { halfOpen(t, m, 64, "32") }},
	{id: "A19", what: "ephemeral ports used up", run: noPorts},
}

// toxic is a row of one toxic on one query.
func toxic(kind, attributes string, want seen) func(*testing.T, *matrix) {
	want.repeats = true
	return func(t *testing.T, m *matrix) {
		respond := m.through
		if kind == "timeout" { // which InfluxDB must not end before
			respond = m.carry
		}
		m.poison(t, kind, attributes)
		cases(one(kind, respond, want))(t, m)
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

func killedDuringResponse(t *testing.T, m *matrix) {
	m.front.set(m.front.last(func(conn *countingConn, r *http.Request) {
		headed("Content-Length: 500")(conn, r)
		if err := m.server.Kill(); err != nil {
			t.Error(err)
		}
	}), sumColumns)
	m.subject.sees(t, truncated)
	m.front.set(nil)
	must(t, m.server.Start(t.Context()))
	m.subject.recovers(t)
}

func cutShort(t *testing.T, m *matrix) {
	// InfluxDB's response to the statement of the sum, byte for byte.
	conn, err := net.Dial("tcp", m.toxic.Listen)
	must(t, err)
	defer conn.Close()
	fmt.Fprintf(conn, "GET /query?db=vmstats&epoch=ns&q=%s HTTP/1.1\r\nHost: i\r\nConnection: close\r\n\r\n",
		url.QueryEscape(sumColumns+` "mem_dumps"`))
	whole, err := io.ReadAll(conn)
	if err != nil || !bytes.Contains(whole, []byte(`"values"`)) {
		t.Fatalf("%v: %s", err, whole)
	}
	header := bytes.Index(whole, []byte("\r\n\r\n")) + 4
	last := len(whole) - 1
	if bytes.Contains(whole, []byte("Transfer-Encoding: chunked")) {
		last -= len("\n") // of the last chunk's end
	}
	for n, want := range map[int]seen{
		1: unreachable, 17: unreachable, 100: unreachable, header - 1: unreachable, header: truncated, last: truncated,
	} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			m.poison(t, "limit_data", fmt.Sprintf(`"bytes":%d`, n))
			want.repeats = true
			transport(one(want.reason, m.through, want))(t, m)
		})
	}
}

// flapping closes and reopens the proxy before InfluxDB. Scrapes meet it closed, or only connections that were closed.
func flapping(seenDown bool) func(*testing.T, *matrix) {
	return func(t *testing.T, m *matrix) {
		s := m.start(t, nil, "http://"+m.toxic.Listen)
		for i := range 6 {
			must(t, m.toxic.Stop())
			if seenDown {
				s.sees(t, seen{reason: "unreachable", queries: all(), records: i == 0})
			}
			must(t, m.toxic.Start())
			s.sees(t, seen{})
		}
		s.recovers(t)
	}
}

// someQuery matches a response in which a query has succeeded.
var someQuery = regexp.MustCompile("(?m)^memdump_query_success.* 1$")

// names uses a hosts file of its own where the machine allows that.
func names(t *testing.T, m *matrix) {
	hosts := filepath.Join(t.TempDir(), "hosts")
	empty := filepath.Join(t.TempDir(), "empty")
	write(t, hosts, "")
	write(t, empty, "")
	shell := m.own(t, "--mount", `mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/resolv.conf && shift 2`, hosts, empty)
	_, port, _ := net.SplitHostPort(m.toxic.Listen)
	s := m.start(t, shell, "http://influxdb.example:"+port)
	s.sees(t, seen{reason: "unreachable", queries: all(), records: true})
	// Nothing listens at the second address.
	for _, address := range []string{"127.0.0.1", "127.0.0.77", "127.0.0.1"} {
		write(t, hosts, address+" influxdb.example\n")
		want := seen{}
		if address != "127.0.0.1" {
			want = fails("unreachable", all()...)
		}
		// Go reads the file again after five seconds.
		until(t, 10*time.Second, address+" is used", func() error {
			must(t, m.toxic.Stop()) // or kept connections would go on
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
	// By default, a port of a closed connection can be used again after a second.
	must(t, os.WriteFile("/proc/sys/net/ipv4/tcp_tw_reuse", []byte("0"), 0))
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
