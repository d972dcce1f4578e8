//go:build faults

package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

// protocolRows are responses to one query that break HTTP, byte for byte.
var protocolRows = []row{
	{id: "B1", what: "400, 401, 403, 404, 405, 413, 422", run: transport(
		each(refused, code, "400 B", "405 M", "422 U"), each(unauthorized, code, "401 U", "403 F"),
		each(fails("not_found"), code, "404 N"), each(malformed, code, "413 L"),
	)},
	{id: "B2", what: "429 and 503 with Retry-After 3600", run: transport(
		each(atOnceBusy, code, "429 T\r\nRetry-After: 3600", "503 S\r\nRetry-After: 3600"),
	)},
	{id: "B3", what: "500, 502, 504 with an endless page", run: transport(
		each(serverError, pages, "500 I", "502 B"), each(late, pages, "504 G"),
	)},
	{id: "B4", what: "redirects to another port", run: redirects},
	{id: "B5", what: "a redirect from https to http", run: redirectToHTTP},
	{id: "B6", what: "a redirect to itself", run: transport(
		each(redirected, code, "307 T\r\nLocation: /query?q="+url.QueryEscape(sumColumns)),
	)},
	{id: "B7", what: "204, 206, 304", run: transport(
		each(malformed, code, "204 N", "206 P\r\n\r\n"+value("1")), each(redirected, code, "304 N"),
	)},
	{id: "B8", what: "a hundred thousand informational responses first", run: transport(
		one("103", raw(strings.Repeat("HTTP/1.1 103 E\r\n\r\n", 100_000)+head200+"\r\n"+value("1")), unreachable),
	)},
	{id: "B9", what: "64 MiB of headers; one of 64 MiB", run: transport(
		one("many", endless("HTTP/1.1 200 OK\r\n", "X-Some: some\r\n"), unreachable),
		one("one", endless("HTTP/1.1 200 OK\r\nX-Some: ", "some"), unreachable),
	)},
	{id: "B10", what: "Content-Length too long, too short, twice, negative", run: transport(
		each(truncated, headed, "Content-Length: 9999", "Content-Length: 40"),
		each(unreachable, headed, "Content-Length: 40\r\nContent-Length: 41", "Content-Length: -1"),
	)},
	{id: "B11", what: "chunks: a bad size, a huge extension, a bare line feed, no last one", run: transport(each(truncated, chunked,
		"zz\r\n"+value("1")+"\r\n0\r\n\r\n", "5;"+strings.Repeat("x", 1<<20)+"\r\n", "5\n{\"res\n0\n\n",
		fmt.Sprintf("%x\r\n%s\r\n", len(value("1")), value("1")),
	))},
	{id: "B12", what: "gzip (of 10 GiB), br, zstd, unknown, not requested", run: transport(
		each(malformed, zipped, "200 OK", "500 I"),
		each(malformed, headed, "Content-Encoding: br", "Content-Encoding: zstd", "Content-Encoding: x"),
	)},
	{id: "B13", what: "a page to log in, with 200", run: transport(
		each(malformed, code, "200 OK\r\nContent-Type: text/html\r\n\r\n<html>log in</html>"),
	)},
	{id: "B14", what: "several responses to one request", run: func(t *testing.T, m *matrix) {
		transport(one("kept", func(conn *countingConn, _ *http.Request) {
			_, _ = io.WriteString(conn, whole(m.sum())+strings.Repeat(whole(value("666")), 8))
			_, _ = io.Copy(io.Discard, conn)
		}, seen{}))(t, m)
	}},
	{id: "B15", what: "HTTP/0.9, HTTP/1.0, no HTTP", run: func(t *testing.T, m *matrix) {
		transport(
			each(unreachable, raw, value("1"), "SSH-2.0-x\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n"+value("1")),
			each(seen{}, raw, "HTTP/1.0 200 OK\r\n\r\n"+m.sum()),
		)(t, m)
	}},
	{id: "B16", what: "TLS: expired, 1.0 only, a handshake that stalls (unknown CA, wrong name: TestTLS)", run: brokenTLS},
	{id: "B17", what: "the response to another query, with other columns", run: cases(
		each(malformed, ok, table(`"time","sum","count"`, "0,1,2"), table(`"time","cpu"`, "0,1")),
	)},
}

// nothingArrives starts a server that must not receive a request.
func nothingArrives(t *testing.T) (address string) {
	var arrived atomic.Int64
	t.Cleanup(func() {
		if n := arrived.Load(); n > 0 {
			t.Errorf("%d requests arrived", n)
		}
	})
	return influxtest.Handle(t, func(http.ResponseWriter, *http.Request) { arrived.Add(1) }) + "/query"
}

func redirects(t *testing.T, m *matrix) {
	elsewhere := nothingArrives(t)
	to := func(text string) script { return code(text + "\r\nLocation: " + elsewhere) }
	transport(each(redirected, to, "301 M", "302 F", "307 T", "308 P"))(t, m)
}

func redirectToHTTP(t *testing.T, m *matrix) {
	s := m.overTLS(t, func(*tls.Config, *authority) {}, http.RedirectHandler(nothingArrives(t), http.StatusPermanentRedirect))
	s.sees(t, seen{reason: "redirected", queries: all(), records: true})
}

// overTLS starts an exporter with a TLS server as its InfluxDB; change sets up the handshake.
func (m *matrix) overTLS(t *testing.T, change func(*tls.Config, *authority), serve http.Handler) *subject {
	t.Helper()
	ca := newAuthority(t)
	config := &tls.Config{}
	change(config, ca)
	config.Certificates = []tls.Certificate{ca.pair(t, "influx.example")}
	file := filepath.Join(t.TempDir(), "ca")
	write(t, file, ca.PEM)
	server := httptest.NewUnstartedServer(serve)
	server.TLS, server.Config.ErrorLog = config, log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return m.start(t, nil, server.URL, "--influx.tls.ca-file="+file, "--influx.tls.server-name=influx.example")
}

func brokenTLS(t *testing.T, m *matrix) {
	for name, reason := range map[string]string{"expired": "unreachable", "1.0 only": "unreachable", "stalls": "timeout"} {
		t.Run(name, func(t *testing.T) {
			s := m.overTLS(t, func(c *tls.Config, ca *authority) {
				switch name {
				case "expired":
					ca.until = time.Now().Add(-time.Minute)
				case "1.0 only":
					c.MaxVersion = tls.VersionTLS10
				case "stalls":
					c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
						<-t.Context().Done()
						return nil, net.ErrClosed
					}
				}
			}, http.NotFoundHandler())
			s.sees(t, seen{reason: reason, queries: all(), within: 5 * time.Second, timeout: 9})
		})
	}
}
