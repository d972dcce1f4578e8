//go:build faults

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

// Tokens and files.
var credentialsRows = []row{
	{id: "E1", what: "a token revoked, and a new one written", tested: "TestTokenFile"},
	{id: "E2", what: "a token file that is a pipe, or 1 GiB (empty, gone, a directory: TestTokenFile)", run: tokenFiles,
		off: []edit{{"cmd/memdump_exporter/database.go", "if !info.Mode().IsRegular() {", "if info == nil {"}}},
	{id: "E3", what: "a token with NUL or a line's end in it", run: tokenTexts,
		off: []edit{{"influx/credentials.go", "return r < ' ' || r == 0x7f", "return false"}, {"cmd/memdump_exporter/database.go", "text = strings.TrimSpace(text)\n", "text = strings.ReplaceAll(text, \"\\x00\", \"\")\n"}}},
	{id: "E4", what: "a token with the right to write", why: "nothing is ever written, so it is not known"},
	{id: "E5", what: "a broken configuration read again", why: "there is no configuration file; the web configuration: E6"},
	{id: "E6", what: "certificates, authority and passwords replaced during scrapes", run: webConfig},
	{id: "E7", what: "quotes and worse in the names of database and measurements", tested: "TestTruth_otherNames, TestTruth"},
	{id: "E8", what: "errors that hold the token", run: repeatsToken,
		off: []edit{{"influx/credentials.go", "if text == err.Error() {", "if true {"}}},
}

// Who asks us.
var clientRows = []row{
	{id: "F1", what: "400 and 5000 connections that never finish their header", run: func(t *testing.T, m *matrix) {
		t.Run("400, 256 files", func(t *testing.T) { halfOpen(t, m, 400, "256") })
		t.Run("5000", func(t *testing.T) { halfOpen(t, m, 5000, "$(ulimit -n)") })
	}, off: []edit{{"cmd/memdump_exporter/serve.go", "ConnState:      conns.note,", ""}, {"cmd/memdump_exporter/serve.go", "ReadHeaderTimeout: 3 * time.Second,", ""}, {"cmd/memdump_exporter/serve.go", "ReadTimeout:       5 * time.Second,", ""}}},
	{id: "F2", what: "a body that never ends; an answer that nobody reads", run: slowClients,
		off: []edit{{"collector/records_handler.go", "_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(budget + writeGrace))", "_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})"}}},
	{id: "F3", what: "1000 scrapers at once, three times", run: atOnce,
		off: []edit{{"collector/flight.go", "if r == nil || time.Since(r.began) >= joinWithin {", "if true {"}}},
	{id: "F4", what: "1000 scrapers that leave after 50 ms", run: leaving,
		off: []edit{{"collector/flight.go", "\tr.cancel(cause)\n}", "\t_ = cause\n}"}}},
	{id: "F5", what: "timeouts that are none", run: timeouts,
		off: []edit{{"collector/handler.go", "err == nil && seconds > 0 && !math.IsInf(seconds, 0)", "err == nil"}}},
	{id: "F6", what: "methods, paths, long URLs, many parameters, smuggling", run: strangeRequests,
		off: []edit{{"cmd/memdump_exporter/serve.go", "MaxHeaderBytes: 16 << 10,", ""}}},
	{id: "F7", what: "50 wrong passwords a second", run: wrongPasswords},
	{id: "F8", what: "TLS and HTTP/2 on the plain port; 10,000 streams begun and reset", run: otherProtocols},
	{id: "F9", what: "/records with parameters that are none", tested: "TestRecords_refuses"},
	{id: "F10", what: "100 at once for records far back", run: manyRecords,
		off: []edit{{"cmd/memdump_exporter/routes.go", "recordsAtOnce = 4", "recordsAtOnce = 400"}}},
	{id: "F11", what: "scrapers of 1 s and 10 s in one run", tested: "TestFlight_lessTime"},
	{id: "F12", what: "a panic in a query, the encoder, the records, the page", run: panics,
		off: []edit{{"cmd/memdump_exporter/routes.go", "return metrics.Contain(headers(mux)), nil", "return headers(mux), nil"}}},
}

// tokens puts other things where the token of an exporter is read.
func (s *subject) tokens(t *testing.T, put map[string]func(file string)) {
	t.Helper()
	for name, change := range put {
		t.Run(name, func(t *testing.T) {
			if err := os.Remove(s.token); err != nil {
				t.Fatal(err)
			}
			change(s.token)
			s.m.front.set(raw(""), "/query", "/ping")
			s.forgetPeak()
			s.sees(t, seen{reason: "credentials", queries: all(), records: true, within: 2 * time.Second})
			if asked, _ := s.m.front.set(nil); asked > 0 {
				t.Errorf("%d requests were sent", asked)
			}
			putInPlace(t, s.token, canary)
			s.recovers(t)
		})
	}
}

func tokenFiles(t *testing.T, m *matrix) {
	m.subject.tokens(t, map[string]func(string){
		"pipe": func(file string) {
			if err := syscall.Mkfifo(file, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"1 GiB": func(file string) {
			write(t, file, canary)
			if err := os.Truncate(file, 1<<30); err != nil {
				t.Fatal(err)
			}
		},
	})
}

func tokenTexts(t *testing.T, m *matrix) {
	m.subject.tokens(t, map[string]func(string){
		"NUL":       func(file string) { write(t, file, canary+"\x00"+canary) },
		"line feed": func(file string) { write(t, file, canary+"\n"+canary) },
		"delete":    func(file string) { write(t, file, canary+"\x7f") },
	})
}

// repeatsToken puts the token that was sent into everything that an answer has.
func repeatsToken(t *testing.T, m *matrix) {
	anywhere := func(format string) script {
		return func(conn *countingConn, r *http.Request) {
			if !strings.HasSuffix(r.Header.Get("Authorization"), canary) {
				return
			}
			_, _ = io.WriteString(conn, strings.ReplaceAll(format, "TOKEN", canary))
		}
	}
	body := func(text string) script {
		return anywhere(fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head200, len(strings.ReplaceAll(text, "TOKEN", canary)), text))
	}
	list := []oneCase{
		{name: "text", answer: anywhere("HTTP/1.1 401 TOKEN\r\n\r\nBearer TOKEN"), seen: seen{reason: "unauthorized"}},
		{name: "error", answer: anywhere("HTTP/1.1 400 B\r\n\r\n" + `{"error":"TOKEN"}`), seen: refused},
		{name: "message", answer: anywhere("HTTP/1.1 500 B\r\n\r\n" + `{"code":"x","message":"TOKEN"}`), seen: seen{reason: "server_error"}},
		{name: "result", answer: body(`{"results":[{"error":"TOKEN"}]}`), seen: refused},
		{name: "page", answer: body(`<html>TOKEN`), seen: malformed},
		{name: "value", answer: body(value(`"TOKEN"`)), seen: malformed},
		{name: "column", answer: body(strings.Replace(value("1"), `"value"`, `"TOKEN"`, 1)), seen: malformed},
		{name: "status", answer: anywhere("HTTP/1.1 TOKEN\r\n\r\n"), seen: unreachable, asked: -1},
		{name: "protocol", answer: anywhere("TOKEN\r\n\r\n"), seen: unreachable, asked: -1},
		{name: "header", answer: anywhere("HTTP/1.1 200 OK\r\nTOKEN\r\n\r\n"), seen: unreachable, asked: -1},
		{name: "length", answer: anywhere("HTTP/1.1 200 OK\r\nContent-Length: TOKEN\r\n\r\n"), seen: unreachable, asked: -1},
		{name: "coding", answer: anywhere("HTTP/1.1 200 OK\r\nTransfer-Encoding: TOKEN\r\n\r\n"), seen: unreachable, asked: -1},
		{name: "encoding", answer: anywhere("HTTP/1.1 200 OK\r\nContent-Encoding: TOKEN\r\n\r\n"), seen: malformed},
		{name: "location", answer: anywhere("HTTP/1.1 302 F\r\nLocation: http://TOKEN/\r\n\r\n"), seen: seen{reason: "redirected"}},
		{name: "time", answer: body(`{"results":[{"series":[{"columns":["time","value"],"values":[["TOKEN","x"]]}]}]}`),
			on: []string{`"sha256" AS "value" FROM "mem_dumps" ORDER`}, seen: seen{reason: "malformed", queries: []string{"last_dump"}}},
		{name: "unasked", answer: func(conn *countingConn, r *http.Request) {
			ok(value("5"))(conn, r)
			time.Sleep(10 * time.Millisecond) // so that it is behind the answer
			_, _ = io.WriteString(conn, "HTTP/1.1 200 "+canary+"\r\n\r\n")
			_, _ = io.Copy(io.Discard, conn.TCPConn)
		}, values: sum(5)},
		{name: "version", answer: anywhere("HTTP/1.1 204 N\r\nX-Influxdb-Version: 2.TOKEN\r\n\r\n"), on: []string{"/ping"}, asked: -1},
	}
	for i, c := range list {
		list[i].records = c.reason != "" && c.on == nil && c.name != "value" && c.name != "column"
	}
	cases(list...)(t, m)
	for _, c := range list { // what `check` prints
		if c.on != nil {
			continue
		}
		m.front.set(c.answer, sumQuestion)
		cmd := exec.Command(binary, "check", "--influx.url="+m.front.URL, "--influx.token-file="+m.subject.token)
		cmd.Env = []string{}
		output, _ := cmd.CombinedOutput()
		if len(output) == 0 || strings.Contains(string(output), canary) {
			t.Errorf("check, %s:\n%s", c.name, output)
		}
	}
	m.front.set(nil)
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", m.subject.proc.Pid()))
	if err != nil || strings.Contains(string(cmdline), canary) {
		t.Errorf("%v: %q", err, cmdline)
	}
}

// webFiles are a --web.config.file and what it names.
type webFiles struct{ config, pair, clients string }

// The hashes of "first" and "second", of the least cost.
const (
	firstHash  = "$2a$04$dgr0F72/PLH3cK9GPgKeHOZ/a3fUh2fMCJZqSim17opohxKPYRYAi"
	secondHash = "$2a$04$gq1noO1KZkiBaln4kPSf0O07k832BeGZwNnEqc1b9cA5FUzVs7/pa"
)

func (w webFiles) text(hash string) string {
	return fmt.Sprintf("tls_server_config: {cert_file: %s, key_file: %s, client_auth_type: RequireAndVerifyClientCert, client_ca_file: %s}\nbasic_auth_users: {u: %q}\n", w.pair, w.pair, w.clients, hash)
}

// webConfig: exporter-toolkit's TLS, client certificates and passwords are in force, and
// read again while scrapes go on.
func webConfig(t *testing.T, m *matrix) {
	dir := t.TempDir()
	w := webFiles{filepath.Join(dir, "web.yml"), filepath.Join(dir, "pair"), filepath.Join(dir, "clients")}
	ca, others := newAuthority(t), newAuthority(t)
	// exporter-toolkit reads certificate and key one after the other: with another key, a
	// handshake in between would fail.
	ca.leaf = newKey(t)
	pem := func(a *authority, name string) string { cert, key := a.issue(t, name); return cert + key }
	write(t, w.pair, pem(ca, "first.example"))
	write(t, w.clients, ca.PEM)
	write(t, w.config, w.text(firstHash))
	e := startExporter(t, nil, "--influx.url="+m.front.URL, "--web.config.file="+w.config)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	client := func(password string, certs ...tls.Certificate) (status int, served string) {
		served = "no handshake"
		c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
			Certificates: certs, InsecureSkipVerify: true, // both names are right; who signed is looked at here:
			VerifyConnection: func(c tls.ConnectionState) error {
				served = c.PeerCertificates[0].DNSNames[0]
				_, err := c.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool})
				return err
			},
		}}}
		req, err := http.NewRequest(http.MethodGet, strings.Replace(e.URL, "http:", "https:", 1)+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("u", password)
		resp, err := c.Do(req)
		if err != nil {
			return 0, served
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode == http.StatusOK && !strings.Contains(string(body), "\nmemdump_up 1\n") {
			return -1, served
		}
		return resp.StatusCode, served
	}
	good := ca.pair(t, "prometheus")
	expect := func(what string, want int, password string, certs ...tls.Certificate) {
		t.Helper()
		if got, _ := client(password, certs...); got != want {
			t.Errorf("%s: HTTP %d, want %d", what, got, want)
		}
	}
	expect("right", 200, "first", good)
	expect("wrong password", 401, "second", good)
	expect("no certificate", 0, "first")
	expect("a certificate of others", 0, "first", others.pair(t, "prometheus"))
	if r := get(t, e.URL+"/metrics", http.StatusBadRequest); !strings.Contains(r, "HTTPS server") {
		t.Errorf("plain HTTP: %s", r)
	}

	stop, failed := make(chan struct{}), make(chan int, 1000)
	var scrapers sync.WaitGroup
	for range 4 {
		scrapers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if status, _ := client("first", good); status != http.StatusOK {
					failed <- status
				}
			}
		})
	}
	for i := range 20 {
		name := fmt.Sprintf("cert-%d.example", i)
		putInPlace(t, w.pair, pem(ca, name))
		if status, served := client("first", good); status != http.StatusOK || served != name {
			t.Errorf("HTTP %d from %s, want 200 from %s", status, served, name)
		}
	}
	close(stop)
	scrapers.Wait()
	close(failed)
	for status := range failed {
		t.Errorf("a scrape in between: HTTP %d", status)
	}
	putInPlace(t, w.config, w.text(secondHash))
	expect("the old password", 401, "first", good)
	expect("the new password", 200, "second", good)
	putInPlace(t, w.clients, others.PEM)
	expect("the old authority's", 0, "second", good)
	expect("the new authority's", 200, "second", others.pair(t, "prometheus"))
	putInPlace(t, w.config, "basic_auth_users: [")
	if status, _ := client("second", others.pair(t, "prometheus")); status == http.StatusOK {
		t.Error("a broken configuration lets in")
	}
	putInPlace(t, w.config, w.text(secondHash))
	expect("the configuration back", 200, "second", others.pair(t, "prometheus"))
}

// halfOpen holds so many connections on which a header has begun, each made anew when it
// is closed, and scrapes a hundred times meanwhile.
func halfOpen(t *testing.T, m *matrix, n int, files string) {
	s := m.startAs(t, []string{"sh", "-c", "ulimit -n " + files + `; exec "$@"`, "sh"}, m.front.URL)
	ctx, stop := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	var opened atomic.Int64
	for range n {
		flood.Go(func() {
			for ctx.Err() == nil {
				conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(s.URL, "http://"))
				if err == nil {
					opened.Add(1)
					leave := context.AfterFunc(ctx, func() { conn.Close() })
					_, _ = io.WriteString(conn, "GET /metrics HTTP/1.1\r\nX-Never:")
					_, _ = io.Copy(io.Discard, conn)
					leave()
					conn.Close()
				}
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
			}
		})
	}
	for opened.Load() < int64(n) {
		time.Sleep(time.Millisecond)
	}
	const scrapes = 100
	answered, slowest := 0, time.Duration(0)
	for i := range scrapes {
		if answered < i-1 { // it is lost
			break
		}
		got := s.fetch(t, "/metrics", "X-Prometheus-Scrape-Timeout-Seconds", "10")
		if got.status == http.StatusOK && strings.Contains(got.body, "\nmemdump_up 1\n") {
			answered++
		}
		slowest = max(slowest, got.took)
	}
	m.note("%d half-open (%d made): %d of %d scrapes answered, the slowest in %v", n, opened.Load(), answered, scrapes, slowest.Round(time.Millisecond))
	if answered < scrapes*99/100 {
		t.Errorf("%d of %d scrapes answered", answered, scrapes)
	}
	stop()
	flood.Wait()
	s.settles(t)
}

func slowClients(t *testing.T, m *matrix) {
	s := m.subject
	conn, in := s.dial(t)
	fmt.Fprintf(conn, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %v, %v", resp, err)
	}
	drip := time.NewTicker(100 * time.Millisecond)
	defer drip.Stop()
	began := time.Now()
	for err == nil && time.Since(began) < 20*time.Second {
		_, err = conn.Write([]byte("x"))
		<-drip.C
	}
	if err == nil {
		t.Error("the body is still taken after 20 s")
	}
	// As long an answer as there can be, in small windows, of which nothing is read.
	conn, _ = s.dial(t)
	_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	request := "GET /records?limit=10000 HTTP/1.1\r\nHost: x\r\nX-Prometheus-Scrape-Timeout-Seconds: 2\r\n\r\n"
	_, _ = io.WriteString(conn, strings.Repeat(request, 20)) // more than the kernel holds
	for began, err = time.Now(), nil; err == nil; {          // until the connection is closed on the other side
		if time.Since(began) > 15*time.Second {
			t.Fatal("who does not read is still waited for after 15 s")
		}
		<-drip.C
		_, err = conn.Write([]byte("\n"))
	}
	m.note("who does not read was cut off after %v", time.Since(began).Round(time.Second/10))
	s.recovers(t)
}

func atOnce(t *testing.T, m *matrix) {
	s := m.start(t, m.front.URL)
	real := ok(value(fmt.Sprint(m.history.Truth(0, 0).CompressedBytes)))
	m.front.set(func(conn *countingConn, r *http.Request) {
		time.Sleep(200 * time.Millisecond) // what a collection takes
		real(conn, r)
	}, sumQuestion)
	const scrapers = 1000
	whole := 0
	for range 3 {
		answers := make(chan reply, scrapers)
		for range scrapers {
			go func() { answers <- s.fetch(t, "/metrics", "X-Prometheus-Scrape-Timeout-Seconds", "30") }()
		}
		for range scrapers {
			if got := <-answers; got.status == http.StatusOK && strings.Contains(got.body, "\nmemdump_up 1\n") {
				whole++
			}
		}
	}
	asked, _ := m.front.set(nil)
	peak := s.peakMiB(t)
	m.note("%d of %d whole, %d sets of queries, peak %.1f MiB, idle %.1f", whole, 3*scrapers, asked, peak, s.idle)
	if whole < 3*scrapers || asked > 10 || peak > 64 {
		t.Errorf("%d whole, %d sets of queries, peak %.1f MiB", whole, asked, peak)
	}
	s.settles(t)
}

func leaving(t *testing.T, m *matrix) {
	s := m.slow(t)
	ctx, stop := context.WithCancel(t.Context())
	busy := make(chan int, 1)
	go func() {
		most := 0
		for ctx.Err() == nil {
			most = max(most, m.queries(t))
		}
		busy <- most
	}()
	var scrapers sync.WaitGroup
	for range 1000 {
		scrapers.Go(func() {
			conn, _ := s.dial(t)
			fmt.Fprintf(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\nX-Prometheus-Scrape-Timeout-Seconds: 30\r\n\r\n")
			time.Sleep(50 * time.Millisecond) // its patience
			conn.Close()
		})
	}
	scrapers.Wait()
	m.noQueries(t, time.Second)
	stop()
	if most := <-busy; most == 0 {
		t.Error("no query ever ran")
	} else {
		m.note("%d ran at most", most)
	}
	got := s.parse(t, s.fetch(t, "/metrics", "X-Prometheus-Scrape-Timeout-Seconds", "30").body)
	truth(m.many).shown(t, got)
	s.settles(t)
}

func timeouts(t *testing.T, m *matrix) {
	for _, text := range []string{"NaN", "-1", "0", "1e-300", "Inf", "-Inf", "1e300", "0x10", "", "3 s", "\u0663"} {
		if got := m.subject.fetch(t, "/metrics", "X-Prometheus-Scrape-Timeout-Seconds", text); got.status != http.StatusOK || got.took > 10*time.Second {
			t.Errorf("%q: HTTP %d after %v", text, got.status, got.took)
		} else if up := strings.Contains(got.body, "\nmemdump_up 1\n"); up != (text != "1e-300") {
			t.Errorf("%q: memdump_up 1 is %v", text, up)
		}
	}
	conn, in := m.subject.dial(t)
	fmt.Fprintf(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\n%s\r\n", strings.Repeat("X-Prometheus-Scrape-Timeout-Seconds: 2\r\n", 100))
	if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("a hundred: %v, %v", resp, err)
	}
	conn.Close()
	m.subject.counted = m.subject.parse(t, m.subject.fetch(t, "/metrics").body).counts()
	m.subject.recovers(t)
}

func strangeRequests(t *testing.T, m *matrix) {
	s := m.subject
	series := func() []string {
		var names []string
		for name, family := range s.parse(t, s.fetch(t, "/metrics").body) {
			names = append(names, fmt.Sprint(name, len(family.GetMetric())))
		}
		slices.Sort(names)
		return names
	}
	before := series()
	send := func(what, request string, want ...int) {
		t.Helper()
		conn, in := s.dial(t)
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		go io.WriteString(conn, request)
		if resp, err := http.ReadResponse(in, nil); err != nil || !slices.Contains(want, resp.StatusCode) {
			t.Errorf("%s: %+v, %v, want %d", what, resp, err, want)
		}
	}
	end := " HTTP/1.1\r\nHost: x\r\n"
	send("a long URL", "GET /metrics?"+strings.Repeat("x", 64<<10)+end+"\r\n", 431)
	send("10,000 parameters", "GET /records?"+strings.Repeat("a&", 10_000)+end+"\r\n", 400, 431)
	send("some parameters", "GET /records?"+strings.Repeat("a=1&", 1000)+end+"\r\n", 400)
	send("both lengths", "POST /metrics"+end+"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, 405)
	send("two lengths", "GET /metrics"+end+"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400)
	send("a space before the colon", "GET /metrics"+end+"Content-Length : 5\r\n\r\n", 400)
	send("no host", "GET /metrics HTTP/1.1\r\n\r\n", 400)
	send("another scheme", "GET http://127.0.0.1:1/query"+end+"\r\n", 404)
	send("CONNECT", "CONNECT 127.0.0.1:1"+end+"\r\n", 404, 405)
	rng := rand.New(rand.NewPCG(1, 2))
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	methods := []string{"GET", "POST", "PUT", "DELETE", "TRACE", "OPTIONS", "PATCH", "X", "HEAD"}
	const requests = 5000
	for range requests {
		path := "/"
		for range 1 + rng.IntN(8) {
			path += string(rune('!' + rng.IntN(90)))
		}
		req, err := http.NewRequest(methods[rng.IntN(len(methods))], s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Path = path
		req.Header.Set("User-Agent", path)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if code := resp.StatusCode; code != 404 && code != 405 && code != 400 && code/100 != 3 {
			t.Errorf("%s %q: HTTP %d", req.Method, path, code)
		}
	}
	client.CloseIdleConnections()
	if after := series(); !slices.Equal(before, after) {
		t.Errorf("%q\nbecame\n%q", before, after)
	}
	m.note("%d requests", requests)
	s.recovers(t)
}

func wrongPasswords(t *testing.T, m *matrix) {
	config := filepath.Join(t.TempDir(), "web.yml")
	write(t, config, fmt.Sprintf("basic_auth_users: {u: %q}\n", firstHash))
	e := startExporter(t, nil, "--influx.url="+m.front.URL, "--web.config.file="+config)
	ask := func(password string) (int, time.Duration) {
		began := time.Now()
		req, err := http.NewRequest(http.MethodGet, e.URL+"/metrics", nil)
		if err != nil {
			return 0, 0
		}
		req.SetBasicAuth("u", password)
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err != nil {
			return 0, 0
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, time.Since(began)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wrong sync.WaitGroup
	var refusedOnes atomic.Int64
	wrong.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			<-tick.C
			wrong.Go(func() {
				if status, _ := ask(fmt.Sprint("wrong-", i)); status == http.StatusUnauthorized {
					refusedOnes.Add(1)
				} else {
					t.Errorf("a wrong password: HTTP %d", status)
				}
			})
		}
	})
	slowest := time.Duration(0)
	for range 50 {
		status, took := ask("first")
		if status != http.StatusOK {
			t.Errorf("the right password: HTTP %d", status)
		}
		slowest = max(slowest, took)
	}
	stop()
	wrong.Wait()
	m.note("%d refused, the slowest of 50 scrapes %v; bcrypt of cost 4", refusedOnes.Load(), slowest.Round(time.Millisecond))
	if slowest > 3*time.Second {
		t.Errorf("the slowest scrape took %v", slowest)
	}
}

func otherProtocols(t *testing.T, m *matrix) {
	s := m.subject
	for _, said := range []string{"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", strings.Repeat("\x00", 20_000)} {
		conn, in := s.dial(t)
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		go io.WriteString(conn, said+"\r\n\r\n")
		if resp, err := http.ReadResponse(in, nil); err == nil && resp.StatusCode/100 == 2 {
			t.Errorf("%.20q: HTTP %d", said, resp.StatusCode)
		}
		conn.Close()
	}
	s.recovers(t)

	dir := t.TempDir()
	w := webFiles{config: filepath.Join(dir, "web.yml"), pair: filepath.Join(dir, "pair")}
	cert, key := newAuthority(t).issue(t, "exporter")
	write(t, w.pair, cert+key)
	write(t, w.config, fmt.Sprintf("tls_server_config: {cert_file: %s, key_file: %s}\n", w.pair, w.pair))
	e := startExporter(t, nil, "--influx.url="+m.front.URL, "--web.config.file="+w.config)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(e.URL, "http://"), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil || conn.ConnectionState().NegotiatedProtocol != "h2" {
		t.Fatalf("no HTTP/2: %v", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	drained := make(chan struct{})
	go func() { defer close(drained); _, _ = io.Copy(io.Discard, conn) }()
	var frames bytes.Buffer
	frames.WriteString("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	for i := range 10_000 {
		id := uint32(2*i + 1)
		stream := []byte{byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}
		header := append([]byte("\x82\x87\x04\x08/metrics"), "\x41\x01x"...) // GET https /metrics at x
		frames.Write(append([]byte{0, 0, byte(len(header)), 1, 5}, stream...))
		frames.Write(header)
		frames.Write(append([]byte{0, 0, 4, 3, 0}, stream...))
		frames.Write([]byte{0, 0, 0, 8})
	}
	_, err = frames.WriteTo(conn)
	conn.Close()
	<-drained
	m.note("10,000 streams: %v", err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := client.Get(strings.Replace(e.URL, "http:", "https:", 1) + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), "\nmemdump_up 1\n") {
		t.Errorf("the scrape after them: %v\n%s", err, body)
	}
}

func manyRecords(t *testing.T, m *matrix) {
	s := m.start(t, m.front.URL)
	arrived, release := make(chan struct{}, 100), make(chan struct{})
	m.front.set(func(conn *countingConn, r *http.Request) {
		arrived <- struct{}{}
		<-release
		m.through(conn, r)
	}, recordsQuestion)
	answers := make(chan reply, 100)
	for range 100 {
		go func() {
			answers <- s.fetch(t, "/records?limit=10&offset=2000", "X-Prometheus-Scrape-Timeout-Seconds", "30")
		}()
	}
	for range 4 {
		<-arrived
	}
	for range 96 {
		if r := <-answers; r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" {
			t.Errorf("HTTP %d, %v", r.status, r.err)
		}
	}
	for range 5 {
		s.sees(t, seen{})
	}
	close(release)
	for range 4 {
		if r := <-answers; r.status != http.StatusOK || !strings.Contains(r.body, `"count":10,`) {
			t.Errorf("HTTP %d, %v", r.status, r.err)
		}
	}
	m.front.set(nil)
	s.recovers(t)
}

// panics asks an exporter with a defect in each place where a request can meet one.
func panics(t *testing.T, m *matrix) {
	defect := `if r.Header.Get("X-Defect") != "" { panic("own defect") };`
	bad := filepath.Join(t.TempDir(), name)
	cmd := exec.Command("go", "build", "-o", bad, ".")
	cmd.Env = append(os.Environ(), "GOFLAGS=-overlay="+overlay(t,
		edit{"collector/flight.go", "s.handler.ServeHTTP(f, r)", defect + "s.handler.ServeHTTP(f, r)"},
		edit{"collector/records_handler.go", "return c.list(ctx, q, page.add)", defect + "return c.list(ctx, q, page.add)"},
		edit{"cmd/memdump_exporter/page.go", "o, err := p.overview(r.Context())", defect + "o, err := p.overview(r.Context())"},
		edit{"collector/stats.go", "func addMean(m mean, row influx.Row) (mean, error) {", "func addMean(m mean, row influx.Row) (mean, error) {\nif n, _ := row.Int64(\"count\"); n == 13 { panic(\"own defect\") }"},
	))
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	good := binary
	binary = bad
	defer func() { binary = good }()
	s := m.start(t, m.front.URL)
	for path, want := range map[string]int{"/metrics": 500, "/": 500, "/records": 502} {
		got := s.fetch(t, path, "X-Defect", "1")
		if got.status != want || strings.Contains(got.body, ".go:") || strings.Contains(got.body, "goroutine") {
			t.Errorf("%s: HTTP %d, want %d\n%s", path, got.status, want, got.body)
		}
	}
	m.front.set(ok(strings.Replace(value("1,13"), `"value"`, `"sum","count"`, 1)), `SUM("duration_sec")`)
	s.sees(t, seen{reason: "internal", queries: []string{"duration_mean"}})
	m.front.set(nil)
	s.recovers(t)
	if n := s.parse(t, s.fetch(t, "/metrics").body)["memdump_panics_total"].GetMetric()[0].GetCounter().GetValue(); n != 4 {
		t.Errorf("%v panics were counted, want 4", n)
	}
	if n := strings.Count(s.Logs(), "stack="); n != 4 {
		t.Errorf("%d stacks in the log, want 4:\n%s", n, s.Logs())
	}
}

// slowDatabase holds so many VMs that a scrape of the real InfluxDB takes a while.
const slowDatabase = "slow"

// slow starts an exporter that asks for thirty thousand VMs.
func (m *matrix) slow(t *testing.T) *subject {
	t.Helper()
	m.storeSlow.Do(func() {
		m.many = &influxtest.History{}
		now := time.Now()
		m.many.Add(sample("1", now.Add(-time.Minute), map[string]any{"cpu": 1.0}))
		for i := range 30_000 {
			m.many.Add(dump(fmt.Sprint("vm-", i), now.Add(-time.Duration(i)*time.Minute), first(int64(i))))
		}
		store(t, m.server, slowDatabase, m.many)
	})
	s := m.run(t, nil, m.server.URL, "--influx.db="+slowDatabase)
	s.fetch(t, "/metrics", patient...)
	s.measure(t)
	return s
}

// queries is how many questions InfluxDB is busy with, by its own word.
func (m *matrix) queries(t *testing.T) int {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(m.server.URL + "/query?" + url.Values{"q": {"SHOW QUERIES"}}.Encode())
	if err != nil {
		t.Error(err)
		return 0
	}
	defer resp.Body.Close()
	var said struct {
		Results []struct{ Series []struct{ Values [][]any } }
	}
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil {
		t.Error(err)
		return 0
	}
	n := 0
	for _, running := range said.Results[0].Series[0].Values {
		if text := fmt.Sprint(running); !strings.Contains(text, "SHOW QUERIES") {
			n++
		}
	}
	return n
}

// noQueries waits until InfluxDB is idle.
func (m *matrix) noQueries(t *testing.T, within time.Duration) {
	t.Helper()
	began := time.Now()
	for m.queries(t) > 0 {
		if time.Since(began) > within {
			t.Errorf("%d queries still run after %v", m.queries(t), within)
			return
		}
	}
	m.note("queries gone after %v", time.Since(began).Round(time.Millisecond))
}
