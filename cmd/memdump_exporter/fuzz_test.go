package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// FuzzRequest: whatever bytes come over a connection, each response has an intended
// status, nothing panics, and no series is added.
func FuzzRequest(f *testing.F) {
	for _, raw := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET /metrics HTTP/1.0\r\nX-Prometheus-Scrape-Timeout-Seconds: NaN\r\n\r\n",
		"GET /records?limit=1;DROP HTTP/1.1\r\nHost: x\r\n\r\nGET /-/ready HTTP/1.1\r\nHost: y\r\n\r\n",
		"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "GET /../..//metrics HTTP/1.1\r\nHost: x\r\n\r\n",
		"HEAD /openapi.json HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n",
		"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\nAccept-Encoding: gzip, zstd\r\nExpect: 100-continue\r\n\r\n",
		"X /!\"$%ff HTTP/1.1\r\nHost: x\r\nUser-Agent: /!\r\n\r\n", "TRACE /[`{ HTTP/1.1\r\nHost: x\r\n\r\n",
		strings.Repeat("\x00", 20_000) + "\r\n\r\n",
		"GET /api/memory-dumps/records?vmid=%00 HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /" + strings.Repeat("a", 17<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		f.Add([]byte(raw))
	}
	address := runHere(f, "--influx.url=http://127.0.0.1:1")
	var before string
	var inputs atomic.Int64
	intended := []int{200, 301, 307, 400, 404, 405, 408, 413, 414, 417, 431, 501, 502, 503, 505}
	f.Fuzz(func(t *testing.T, raw []byte) {
		conn, err := net.Dial("tcp", address)
		must(t, err)
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = conn.Write(raw) // fails where the server has seen enough
		_ = conn.(*net.TCPConn).CloseWrite()
		responses := bufio.NewReader(conn)
		for {
			resp, err := http.ReadResponse(responses, nil)
			if err != nil {
				break
			}
			if !slices.Contains(intended, resp.StatusCode) && resp.StatusCode != http.StatusContinue {
				t.Fatalf("HTTP %d for %q", resp.StatusCode, raw)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				break // of a HEAD, which http.ReadResponse takes for a GET
			}
		}
		if inputs.Add(1)%512 != 1 {
			return
		}
		series, panics := ownSeries(get(t, "http://"+address+"/metrics", http.StatusOK))
		if before == "" {
			before = series
		}
		if series != before || panics != "memdump_panics_total 0" {
			t.Fatalf("%s; series before:\n%s\nand now:\n%s", panics, before, series)
		}
	})
}

// ownSeries are the names and labels of all series but those of the Go runtime.
func ownSeries(text string) (series, panics string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "memdump_panics_total ") {
			panics = strings.TrimSpace(line)
		}
		if strings.HasPrefix(line, "memdump_") || strings.HasPrefix(line, "promhttp_") {
			series += line[:strings.LastIndexByte(line, ' ')] + "\n"
		}
	}
	return series, panics
}
