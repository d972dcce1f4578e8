//go:build faults

package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clientRows are faults of the clients of the exporter.
var clientRows = []row{
	{id: "F1", what: "400 and 5000 connections that never finish their header", run: func(t *testing.T, m *matrix) {
		t.Run("400, 256 files", func(t *testing.T) { halfOpen(t, m, 400, "256") })
		t.Run("5000", func(t *testing.T) { halfOpen(t, m, 5000, "$(ulimit -n)") })
	}},
	{id: "F2", what: "a body that never ends; a response that no client reads", run: slowClients},
	{id: "F3", what: "1000 scrapers at once, three times", run: burst},
	{id: "F4", what: "1000 scrapers that leave after 50 ms", run: leaving},
	{id: "F5", what: "invalid scrape timeouts", run: timeouts},
	{id: "F6", what: "long URLs, many parameters, smuggling (methods, paths: TestRoutes, FuzzRequest)", run: strangeRequests},
	{id: "F7", what: "50 wrong passwords a second", run: wrongPasswords},
	{id: "F8", what: "10,000 streams of HTTP/2 begun and reset (TLS and HTTP/2 on the plain port: FuzzRequest)", run: resetStreams},
	{id: "F9", what: "/records with invalid parameters", tested: "TestRecords_refuses"},
	{id: "F10", what: "100 at once for records far back", run: manyRecords},
	{id: "F11", what: "scrapers of 1 s and 10 s at once", tested: "TestBatch_joinable, TestHandler_otherDeadline"},
	{id: "F12", what: "a panic in a query, the encoder, the records, the page", run: panics},
}

// halfOpen holds n connections with an unfinished header, reopens each that is closed, and scrapes a hundred times
// meanwhile.
func halfOpen(t *testing.T, m *matrix, n int, files string) {
	s := m.start(t, []string{"sh", "-c", "ulimit -n " + files + `; exec "$@"`, "sh"}, m.front.URL)
	ctx, stop := context.WithCancel(t.Context())
	var flood, first sync.WaitGroup
	var opened atomic.Int64
	first.Add(n)
	for range n {
		flood.Go(func() {
			once := sync.OnceFunc(first.Done)
			for ctx.Err() == nil {
				conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(s.URL, "http://"))
				if err == nil {
					opened.Add(1)
					once()
					leave := context.AfterFunc(ctx, func() { conn.Close() })
					_, _ = io.WriteString(conn, "GET /metrics HTTP/1.1\r\nX-Never:")
					_, _ = io.Copy(io.Discard, conn)
					leave()
					conn.Close()
				}
				pause(ctx, time.Second)
			}
		})
	}
	first.Wait()
	const scrapes = 100
	succeeded, slowest := 0, time.Duration(0)
	for i := 0; i < scrapes && succeeded >= i-1; i++ { // or it is lost
		got := s.metrics(t, 10)
		if got.whole() {
			succeeded++
		}
		slowest = max(slowest, got.took)
	}
	m.note("%d half-open (%d made): %d of %d scrapes succeeded, the slowest in %v",
		n, opened.Load(), succeeded, scrapes, slowest.Round(time.Millisecond))
	if succeeded < scrapes*99/100 {
		t.Errorf("%d of %d scrapes succeeded", succeeded, scrapes)
	}
	stop()
	flood.Wait()
	s.settles(t)
	s.recount(t, s.metrics(t, announced))
	s.sees(t, seen{})
}

// dripped writes a text each tenth of a second until the other side has closed the connection.
func dripped(t *testing.T, conn net.Conn, one string) time.Duration {
	t.Helper()
	drip := time.NewTicker(100 * time.Millisecond)
	defer drip.Stop()
	began := time.Now()
	for {
		if _, err := conn.Write([]byte(one)); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("it is still waited for after %v", time.Since(began))
		} else if err != nil {
			return time.Since(began)
		}
		<-drip.C
	}
}

func slowClients(t *testing.T, m *matrix) {
	s := m.subject
	conn, in := s.dial(t, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
	if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %v, %v", resp, err)
	}
	dripped(t, conn, "x")
	// The longest responses, into a small receive buffer that is not read.
	request := "GET /records?limit=10000 HTTP/1.1\r\nHost: x\r\nX-Prometheus-Scrape-Timeout-Seconds: 2\r\n\r\n"
	conn, _ = s.dial(t, "")
	_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	_, _ = io.WriteString(conn, strings.Repeat(request, 20)) // more than the kernel holds
	_ = conn.SetDeadline(time.Now().Add(15 * time.Second))
	m.note("a client that does not read was disconnected after %v", dripped(t, conn, "\n").Round(time.Second/10))
	s.recovers(t)
}

func burst(t *testing.T, m *matrix) {
	s := m.start(t, nil, m.front.URL)
	m.front.set(func(conn *countingConn, r *http.Request) {
		pause(t.Context(), 200*time.Millisecond) // how long a batch takes
		ok(m.sum())(conn, r)
	}, sumColumns)
	const scrapers = 1000
	whole := 0
	for range 3 {
		for got := range atOnce(scrapers, s.patiently(t)) {
			if got.whole() {
				whole++
			}
		}
	}
	sets, _ := m.front.set(nil)
	peak := s.peakMiB(t)
	m.note("%d of %d whole, %d sets of queries, peak %.1f MiB, idle %.1f", whole, 3*scrapers, sets, peak, s.idle)
	if whole < 3*scrapers || sets > 10 || peak > 64 {
		t.Errorf("%d whole, %d sets of queries, peak %.1f MiB", whole, sets, peak)
	}
	s.settles(t)
}

// leaving: scrapers that leave start no more batches than others, and their queries end.
func leaving(t *testing.T, m *matrix) {
	s := m.start(t, nil, m.front.URL)
	waiting := make(chan struct{})
	m.front.set(func(conn *countingConn, r *http.Request) {
		<-waiting
		ok(m.sum())(conn, r)
	}, sumColumns)
	var scrapers sync.WaitGroup
	for range 1000 {
		scrapers.Go(func() {
			conn, _ := s.dial(t, "GET /metrics HTTP/1.1\r\nHost: x\r\nX-Prometheus-Scrape-Timeout-Seconds: 30\r\n\r\n")
			pause(t.Context(), 50*time.Millisecond) // the scraper's own timeout
			conn.Close()
		})
	}
	scrapers.Wait()
	close(waiting)
	sets, _ := m.front.set(nil)
	m.note("%d sets of queries", sets)
	if sets < 1 || sets > 10 {
		t.Errorf("%d sets of queries, want 1 to 10", sets)
	}
	s.recount(t, s.metrics(t, patient))
	s.sees(t, seen{timeout: patient})
	s.settles(t)
}

func timeouts(t *testing.T, m *matrix) {
	s := m.subject
	for _, text := range []string{"NaN", "-1", "0", "1e-300", "Inf", "-Inf", "1e300", "0x10", "", "3 s", "\u0663"} {
		if got := s.metrics(t, text); got.status != http.StatusOK || got.took > 10*time.Second || got.whole() != (text != "1e-300") {
			t.Errorf("%q: HTTP %d after %v, whole: %v", text, got.status, got.took, got.whole())
		}
	}
	hundred := strings.Repeat(timeoutHeader+": 2\r\n", 100)
	s.send(t, "a hundred", "GET /metrics HTTP/1.1\r\nHost: x\r\n"+hundred+"\r\n", 200)
	s.recount(t, s.metrics(t, announced))
	s.recovers(t)
}

// send sends a request on a connection of its own, and checks that the status is one of those.
func (s *subject) send(t *testing.T, what, request string, want ...int) {
	t.Helper()
	conn, in := s.dial(t, request)
	defer conn.Close()
	if resp, err := http.ReadResponse(in, nil); err != nil || !slices.Contains(want, resp.StatusCode) {
		t.Errorf("%s: %+v, %v, want %d", what, resp, err, want)
	}
}

func strangeRequests(t *testing.T, m *matrix) {
	s := m.subject
	end := " HTTP/1.1\r\nHost: x\r\n"
	s.send(t, "a long URL", "GET /metrics?"+strings.Repeat("x", 64<<10)+end+"\r\n", 431)
	s.send(t, "10,000 parameters", "GET /records?"+strings.Repeat("a&", 10_000)+end+"\r\n", 400, 431)
	s.send(t, "some parameters", "GET /records?"+strings.Repeat("a=1&", 1000)+end+"\r\n", 400)
	s.send(t, "both lengths", "POST /metrics"+end+"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, 405)
	s.send(t, "two lengths", "GET /metrics"+end+"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400)
	s.send(t, "a space before the colon", "GET /metrics"+end+"Content-Length : 5\r\n\r\n", 400)
	s.send(t, "no host", "GET /metrics HTTP/1.1\r\n\r\n", 400)
	s.send(t, "another scheme", "GET http://127.0.0.1:1/query"+end+"\r\n", 404)
	s.send(t, "CONNECT", "CONNECT 127.0.0.1:1"+end+"\r\n", 404, 405)
	s.recovers(t)
}

func wrongPasswords(t *testing.T, m *matrix) {
	e, _ := m.guarded(t, fmt.Sprintf("basic_auth_users: {u: %q}\n", firstHash))
	const scrapes = 50
	replies := make(chan reply, scrapes)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var wrong sync.WaitGroup
	for i := range 3 * scrapes {
		wrong.Go(func() {
			if got := send(nil, http.MethodGet, e.as("http", fmt.Sprint("wrong-", i))); got.status != http.StatusUnauthorized {
				t.Errorf("a wrong password: HTTP %d, %v", got.status, got.err)
			}
		})
		if i%3 == 0 {
			go func() { replies <- send(nil, http.MethodGet, e.as("http", "first")) }()
		}
		<-tick.C
	}
	wrong.Wait()
	slowest := time.Duration(0)
	for range scrapes {
		got := <-replies
		slowest = max(slowest, got.took)
		if !got.whole() || got.took > 3*time.Second {
			t.Errorf("the right password: HTTP %d after %v, %v", got.status, got.took, got.err)
		}
	}
	m.note("%d refused, the slowest of %d scrapes %v; bcrypt of cost 4", 3*scrapes, scrapes, slowest.Round(time.Millisecond))
}

func resetStreams(t *testing.T, m *matrix) {
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	pair := filepath.Join(t.TempDir(), "pair")
	cert, key := newAuthority(t).issue(t, "exporter")
	write(t, pair, cert+key)
	e, _ := m.guarded(t, fmt.Sprintf("tls_server_config: {cert_file: %s, key_file: %s}\n", pair, pair))
	conn, err := tls.Dial("tcp", strings.TrimPrefix(e.URL, "http://"), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil || conn.ConnectionState().NegotiatedProtocol != "h2" {
		t.Fatalf("no HTTP/2: %v", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	drained := make(chan struct{})
	go func() { defer close(drained); _, _ = io.Copy(io.Discard, conn) }()
	frames := []byte(preface)
	for i := range 10_000 {
		id := []byte{byte((2*i + 1) >> 24), byte((2*i + 1) >> 16), byte((2*i + 1) >> 8), byte(2*i + 1)}
		const header = "\x82\x87\x04\x08/metrics\x41\x01x" // GET https /metrics at x
		frames = slices.Concat(frames, []byte{0, 0, byte(len(header)), 1, 5}, id, []byte(header), []byte{0, 0, 4, 3, 0}, id, []byte{0, 0, 0, 8})
	}
	_, err = conn.Write(frames)
	conn.Close()
	<-drained
	m.note("10,000 streams: %v", err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	if got := send(client, http.MethodGet, e.as("https", "")); !got.whole() {
		t.Errorf("the scrape after them: HTTP %d, %v\n%s", got.status, got.err, got.body)
	}
}

func manyRecords(t *testing.T, m *matrix) {
	s := m.start(t, nil, m.front.URL)
	arrived, release := make(chan struct{}, 10_000), make(chan struct{})
	m.front.set(func(conn *countingConn, r *http.Request) {
		arrived <- struct{}{}
		<-release
		m.through(conn, r)
	}, statementOf["records"])
	replies := atOnce(100, func() reply { return s.fetch(t, "/records?limit=10&offset=2000", timeoutHeader, fmt.Sprint(patient)) })
	for range maxConcurrentRecords {
		<-arrived
	}
	for range 100 - maxConcurrentRecords {
		if r := <-replies; r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" {
			t.Errorf("HTTP %d, %v", r.status, r.err)
		}
	}
	for range 5 {
		s.sees(t, seen{})
	}
	close(release)
	for range maxConcurrentRecords {
		if r := <-replies; r.status != http.StatusOK || !strings.Contains(r.body, `"count":10,`) {
			t.Errorf("HTTP %d, %v", r.status, r.err)
		}
	}
	m.front.set(nil)
	s.recovers(t)
}

// panics: a panic fails the request that meets it, and no other.
func panics(t *testing.T, m *matrix) {
	const panicIf = "if %s { panic(`own defect`) };"
	header := fmt.Sprintf(panicIf, `r.Header.Get("X-Defect") != ""`)
	bad := filepath.Join(t.TempDir(), name)
	cmd := exec.Command("go", "build", "-overlay="+overlay(t, map[string][2]string{
		"../../collector/handler.go": {
			"registry := prometheus.NewRegistry()\n", fmt.Sprintf(panicIf, `strings.Contains(key.names, "defect")`),
		},
		"../../collector/records/handler.go": {"timeout := c.Timeout(r.Header)\n", header},
		"page/page.go":                       {"data := h.fetch(r.Context())\n", header},
		"../../collector/metrics.go":         {"n, err := count(row, \"count\")\n", fmt.Sprintf(panicIf, `n, _ := row.Int64("count"); n == 13`)},
	}), "-o", bad, ".")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	good := binary
	binary = bad
	defer func() { binary = good }()
	s := m.start(t, nil, m.front.URL)
	for _, path := range []string{"/metrics?name[]=defect", "/", "/records"} {
		got := s.fetch(t, path, "X-Defect", "1")
		if got.status != http.StatusInternalServerError || strings.Contains(got.body, ".go:") || strings.Contains(got.body, "goroutine") {
			t.Errorf("%s: HTTP %d, want 500\n%s", path, got.status, got.body)
		}
	}
	m.front.set(ok(table(`"time","sum","count","mean"`, "0,1,13,1")), statementOf["duration_mean"])
	s.sees(t, fails("internal", "duration_mean"))
	m.front.set(nil)
	s.recovers(t)
	if n := s.parse(t, s.metrics(t, announced).body).value("memdump_panics_total"); n != 4 || strings.Count(s.Logs(), "stack=") != 4 {
		t.Errorf("%v panics were counted, want 4, each with its stack in the log:\n%s", n, s.Logs())
	}
}

// overlay returns the file with which the go command builds files of the source with code
// inserted before a text.
func overlay(t *testing.T, inserts map[string][2]string) (file string) {
	t.Helper()
	dir := t.TempDir()
	replace := make(map[string]string)
	for path, insert := range inserts {
		path, err := filepath.Abs(path)
		must(t, err)
		source, err := os.ReadFile(path)
		must(t, err)
		if n := strings.Count(string(source), insert[0]); n != 1 {
			t.Fatalf("%s has %d times %q, want 1", path, n, insert[0])
		}
		replace[path] = filepath.Join(dir, fmt.Sprint(len(replace), ".go"))
		write(t, replace[path], strings.Replace(string(source), insert[0], insert[1]+insert[0], 1))
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	must(t, err)
	file = filepath.Join(dir, "overlay.json")
	write(t, file, string(text))
	return file
}
