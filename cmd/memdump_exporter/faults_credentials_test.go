//go:build faults

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// credentialsRows are faults of tokens, certificates and passwords.
var credentialsRows = []row{
	{id: "E1", what: "a token revoked, and a new one written", tested: "TestTokenFile"},
	{id: "E2", what: "a token file that is a pipe, or 1 GiB (empty, gone, a directory: TestTokenFile)", run: tokens(
		tokenFile, "pipe", "1 GiB",
	)},
	{id: "E3", what: "a token with NUL or a line's end in it", run: tokens(
		tokenText, canary+"\x00"+canary, canary+"\n"+canary, canary+"\x7f",
	)},
	{id: "E4", what: "a token with the right to write", why: "the exporter writes nothing, so no check needs the right"},
	{id: "E5", what: "a broken configuration read again", why: "there is no configuration file; the web configuration: E6"},
	{id: "E6", what: "certificates, authority and passwords replaced during scrapes", run: webConfig},
	{id: "E7", what: "quotes and worse in the names of database and measurements", tested: "TestTruth_otherNames, TestTruth"},
	{id: "E8", what: "errors that hold the token", run: repeatsToken},
}

// tokens replaces the token file of an exporter.
func tokens(put func(file, what string) error, whats ...string) func(*testing.T, *matrix) {
	return func(t *testing.T, m *matrix) {
		s := m.subject
		for _, what := range whats {
			t.Run(fmt.Sprintf("%q", what), func(t *testing.T) {
				must(t, os.Remove(s.token))
				must(t, put(s.token, what))
				m.front.set(raw(""), "/query", "/ping")
				s.forgetPeak()
				s.sees(t, seen{reason: "credentials", queries: all(), records: true, within: 2 * time.Second})
				if requests, _ := m.front.set(nil); requests > 0 {
					t.Errorf("%d requests were sent", requests)
				}
				putInPlace(t, s.token, canary)
				s.recovers(t)
			})
		}
	}
}

func tokenText(file, text string) error { return os.WriteFile(file, []byte(text), 0o600) }

func tokenFile(file, what string) error {
	if what == "pipe" {
		return syscall.Mkfifo(file, 0o600)
	}
	return errors.Join(tokenText(file, canary), os.Truncate(file, 1<<30))
}

// repeatsToken puts the token that was sent into each part of a response.
func repeatsToken(t *testing.T, m *matrix) {
	anywhere := func(format string) script {
		return func(conn *countingConn, r *http.Request) {
			if strings.HasSuffix(r.Header.Get("Authorization"), canary) {
				_, _ = io.WriteString(conn, strings.ReplaceAll(format, "TOKEN", canary))
			}
		}
	}
	start := func(text string) script { return anywhere("HTTP/1.1 " + text + "\r\n\r\n") }
	body := func(text string) script { return anywhere(head200 + "\r\n" + text) }
	transports := slices.Concat(
		each(unauthorized, start, "401 TOKEN\r\n\r\nBearer TOKEN"), each(refused, start, "400 B\r\n\r\n"+`{"error":"TOKEN"}`),
		each(serverError, start, "500 B\r\n\r\n"+`{"code":"x","message":"TOKEN"}`), each(redirected, start, "302 F\r\nLocation: http://TOKEN/"),
		each(refused, body, `{"results":[{"error":"TOKEN"}]}`),
		each(malformed, body, "<html>TOKEN"), each(malformed, start, "200 OK\r\nContent-Encoding: TOKEN"),
		each(unreachable, start, "TOKEN", "200 OK\r\nTOKEN", "200 OK\r\nContent-Length: TOKEN", "200 OK\r\nTransfer-Encoding: TOKEN"),
		each(unreachable, anywhere, "TOKEN\r\n\r\n"),
	)
	transport(transports)(t, m)
	values := each(malformed, body, value(`"TOKEN"`), table(`"time","TOKEN"`, "0,1"))
	cases(values, each(fails("malformed", "last_dump"), body, table(`"time","last"`, `"TOKEN","x"`)))(t, m)
	version := each(unauthorized, start, "401 U\r\nX-Influxdb-Version: 2.TOKEN")
	version[0].respond = m.front.last(version[0].respond)
	cases(version)(t, m)
	t.Run("unrequested", func(t *testing.T) { unrequested(t, m) })
	ping := each(seen{}, start, "204 N\r\nX-Influxdb-Version: 2.TOKEN")
	for _, c := range slices.Concat(transports, values, ping) { // the output of check
		m.front.set(c.respond, sumColumns)
		if c.name == ping[0].name {
			m.front.set(c.respond, statementOf["ping"])
		}
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

// unrequested sends the token behind a whole response. No query may use that connection any more, as it would take this for
// its response: all queries of the scrape have their responses, and the next scrape begins when the exporter has closed it.
func unrequested(t *testing.T, m *matrix) {
	s := m.subject
	over, closed := make(chan struct{}), make(chan struct{})
	m.front.set(m.front.last(func(conn *countingConn, r *http.Request) {
		defer close(closed)
		ok(value("5"))(conn, r)
		<-over
		_ = conn.SetDeadline(time.Now().Add(patient * time.Second))
		_, _ = io.WriteString(conn, "HTTP/1.1 200 "+canary+"\r\n\r\n")
		if _, err := io.Copy(io.Discard, conn.TCPConn); err != nil {
			t.Errorf("the exporter does not close the connection: %v", err)
		}
	}), sumColumns)
	s.forgetPeak()
	s.sees(t, sum(5))
	close(over)
	<-closed
	m.front.set(nil)
	s.recovers(t)
}

// The bcrypt hashes of "first" and "second", of the lowest cost.
const (
	firstHash  = "$2a$04$dgr0F72/PLH3cK9GPgKeHOZ/a3fUh2fMCJZqSim17opohxKPYRYAi"
	secondHash = "$2a$04$gq1noO1KZkiBaln4kPSf0O07k832BeGZwNnEqc1b9cA5FUzVs7/pa"
)

// guarded starts an exporter with a --web.config.file.
func (m *matrix) guarded(t *testing.T, config string) (e *exporter, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "web.yml")
	write(t, file, config)
	return startExporter(t, nil, "--influx.url="+m.front.URL, "--web.config.file="+file), file
}

// as returns the URL of the metrics with a user and a password.
func (e *exporter) as(scheme, password string) string {
	return strings.Replace(e.URL, "http://", scheme+"://u:"+password+"@", 1) + "/metrics"
}

// webConfig: exporter-toolkit's TLS, client certificates and passwords are in force, and
// read again while scrapes go on.
func webConfig(t *testing.T, m *matrix) {
	dir := t.TempDir()
	pair, clients := filepath.Join(dir, "pair"), filepath.Join(dir, "clients")
	config := fmt.Sprintf("tls_server_config: {cert_file: %s, key_file: %s, client_auth_type: RequireAndVerifyClientCert, "+
		"client_ca_file: %s}\nbasic_auth_users: {u: %%q}\n", pair, pair, clients)
	ca, others := newAuthority(t), newAuthority(t)
	// exporter-toolkit reads certificate and key one after the other: with another key, a
	// handshake in between would fail.
	ca.leaf = newKey(t)
	certify := func(name string) {
		cert, key := ca.issue(t, name)
		putInPlace(t, pair, cert+key)
	}
	certify("first.example")
	write(t, clients, ca.PEM)
	e, file := m.guarded(t, fmt.Sprintf(config, firstHash))
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	// name is the certificate's, empty for any.
	scrape := func(name, password string, certs ...tls.Certificate) reply {
		config := &tls.Config{Certificates: certs, RootCAs: pool, ServerName: name, InsecureSkipVerify: name == ""}
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}}
		return send(client, http.MethodGet, e.as("https", password))
	}
	good, foreign := ca.pair(t, "prometheus"), others.pair(t, "prometheus")
	expect := func(what string, want int, password string, certs ...tls.Certificate) {
		t.Helper()
		if got := scrape("", password, certs...); got.status != want || got.whole() != (want == 200) {
			t.Errorf("%s: HTTP %d, want %d; %v", what, got.status, want, got.err)
		}
	}
	expect("no certificate", 0, "first")
	expect("a certificate of others", 0, "first", foreign)
	if r := get(t, e.URL+"/metrics", http.StatusBadRequest); !strings.Contains(r, "HTTPS server") {
		t.Errorf("plain HTTP: %s", r)
	}

	ctx, stop := context.WithCancel(t.Context())
	var scrapers sync.WaitGroup
	for range 4 {
		scrapers.Go(func() {
			for ctx.Err() == nil {
				expect("a scrape in between", 200, "first", good)
			}
		})
	}
	for i := range 20 {
		name := fmt.Sprintf("cert-%d.example", i)
		certify(name)
		if got := scrape(name, "first", good); !got.whole() {
			t.Errorf("HTTP %d from %s, %v", got.status, name, got.err)
		}
	}
	stop()
	scrapers.Wait()
	putInPlace(t, file, fmt.Sprintf(config, secondHash))
	expect("the old password", 401, "first", good)
	expect("the new password", 200, "second", good)
	putInPlace(t, clients, others.PEM)
	expect("the old authority's", 0, "second", good)
	expect("the new authority's", 200, "second", foreign)
	putInPlace(t, file, "basic_auth_users: [")
	if got := scrape("", "second", foreign); got.status == http.StatusOK {
		t.Error("a broken configuration lets in")
	}
	putInPlace(t, file, fmt.Sprintf(config, secondHash))
	expect("the configuration back", 200, "second", foreign)
}
