//go:build faults

package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

const head200 = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

var (
	malformed    = fails("malformed")
	truncated    = fails("truncated")
	unreachable  = seen{reason: "unreachable", repeats: true}
	redirected   = fails("redirected")
	refused      = fails("refused")
	unauthorized = fails("unauthorized")
	serverError  = fails("server_error")
	overloaded   = fails("overloaded")
	late         = fails("timeout")
	tooLarge     = fails("too_large")
	ofSet        = seen{queries: []string{"dumped_vms"}, timeout: 20, repeats: true} // shorter time ranges are right
	allTooLarge  = seen{reason: "too_large", records: true}
	atOnceBusy   = seen{reason: "overloaded", within: time.Second}
)

// one is a case, each a case for each text, by which it is named.
func one(name string, answer script, want seen) []oneCase { return []oneCase{{name, answer, want}} }

func each(want seen, answer func(string) script, texts ...string) (list []oneCase) {
	for _, text := range texts {
		list = append(list, oneCase{fmt.Sprintf("%.24q", text), answer(text), want})
	}
	return list
}

// What an answer is made of, by one text.
func code(text string) script    { return raw("HTTP/1.1 " + text + "\r\n\r\n") }
func pages(text string) script   { return endless("HTTP/1.1 "+text+"\r\n\r\n", "<p>no</p>") }
func headed(line string) script  { return raw(head200 + line + "\r\n\r\n" + value("1")) }
func body(text string) script    { return raw(head200 + "\r\n" + text) }
func chunked(text string) script { return raw(head200 + "Transfer-Encoding: chunked\r\n\r\n" + text) }
func numeral(text string) script { return ok(value(text)) }
func zipped(code string) script {
	return raw("HTTP/1.1 " + code + "\r\nContent-Encoding: gzip\r\n\r\n" + bomb())
}
func dated(text string) script { return ok(table(`"time","last"`, `"`+text+`","x"`)) }

// changed is the response with the sum, with something else in one place.
func changed(old, new string) string { return strings.Replace(value("1"), old, new, 1) }

// Answers to one of the six questions, byte for byte, that are not as HTTP wants them.
var protocolRows = []row{
	{id: "B1", what: "400, 401, 403, 404, 405, 413, 422", run: transport(
		each(refused, code, "400 B", "405 M", "422 U"), each(unauthorized, code, "401 U", "403 F"), each(fails("not_found"), code, "404 N"), each(malformed, code, "413 L"),
	)},
	{id: "B2", what: "429 and 503 with Retry-After 3600", run: transport(each(atOnceBusy, code, "429 T\r\nRetry-After: 3600", "503 S\r\nRetry-After: 3600"))},
	{id: "B3", what: "500, 502, 504 with an endless page", run: transport(each(serverError, pages, "500 I", "502 B"), each(late, pages, "504 G"))},
	{id: "B4", what: "redirects to another port", run: redirects},
	{id: "B5", what: "a redirect from https to http", run: redirectToHTTP},
	{id: "B6", what: "a redirect to itself", run: transport(each(redirected, code, "307 T\r\nLocation: /query?q="+url.QueryEscape(sumColumns)))},
	{id: "B7", what: "204, 206, 304", run: transport(each(malformed, code, "204 N", "206 P\r\n\r\n"+value("1")), each(redirected, code, "304 N"))},
	{id: "B8", what: "a hundred thousand informational answers first", run: transport(one("103", raw(strings.Repeat("HTTP/1.1 103 E\r\n\r\n", 100_000)+head200+"\r\n"+value("1")), unreachable))},
	{id: "B9", what: "64 MiB of headers; one of 64 MiB", run: transport(
		one("many", endless("HTTP/1.1 200 OK\r\n", "X-Some: some\r\n"), unreachable),
		one("one", endless("HTTP/1.1 200 OK\r\nX-Some: ", "some"), unreachable),
	)},
	{id: "B10", what: "Content-Length too long, too short, twice, negative", run: transport(
		each(truncated, headed, "Content-Length: 9999", "Content-Length: 40"), each(unreachable, headed, "Content-Length: 40\r\nContent-Length: 41", "Content-Length: -1"),
	)},
	{id: "B11", what: "chunks: a bad size, a huge extension, a bare line feed, no last one", run: transport(each(truncated, chunked,
		"zz\r\n"+value("1")+"\r\n0\r\n\r\n", "5;"+strings.Repeat("x", 1<<20)+"\r\n", "5\n{\"res\n0\n\n", fmt.Sprintf("%x\r\n%s\r\n", len(value("1")), value("1")),
	))},
	{id: "B12", what: "gzip (of 10 GiB), br, zstd, unknown, not asked for", run: transport(
		each(malformed, zipped, "200 OK", "500 I"), each(malformed, headed, "Content-Encoding: br", "Content-Encoding: zstd", "Content-Encoding: x"),
	)},
	{id: "B13", what: "a page to log in, with 200", run: transport(each(malformed, code, "200 OK\r\nContent-Type: text/html\r\n\r\n<html>log in</html>"))},
	{id: "B14", what: "two answers to one question", run: func(t *testing.T, m *matrix) {
		transport(one("kept", func(conn *countingConn, _ *http.Request) {
			_, _ = io.WriteString(conn, whole(m.sum())+strings.Repeat(whole(value("666")), 8))
			_, _ = io.Copy(io.Discard, conn)
		}, seen{}))(t, m)
	}},
	{id: "B15", what: "HTTP/0.9, HTTP/1.0, no HTTP", run: func(t *testing.T, m *matrix) {
		transport(each(unreachable, raw, value("1"), "SSH-2.0-x\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n"+value("1")), each(seen{}, raw, "HTTP/1.0 200 OK\r\n\r\n"+m.sum()))(t, m)
	}},
	{id: "B16", what: "TLS: expired, 1.0 only, a handshake that stalls (unknown CA, wrong name: TestTLS)", run: brokenTLS},
	{id: "B17", what: "the answer to another question, with other columns", run: cases(
		each(malformed, ok, table(`"time","sum","count"`, "0,1,2"), table(`"time","cpu"`, "0,1")),
	)},
}

const (
	openValue = head200 + "\r\n" + `{"results":[{"series":[{"columns":["compressed"],"values":[["`
	openSet   = head200 + "\r\n" + `{"results":[{"series":[{"name":"`
)

// Answers whose body is not as InfluxDB writes it.
var bodyRows = []row{
	{id: "C1", what: "a string of 10 GiB", run: func(t *testing.T, m *matrix) {
		cases(
			one("error", endless(head200+"\r\n"+`{"error":"`, "a"), tooLarge), one("value", endless(openValue, "a"), allTooLarge), one("of the set", overAllTime(m, endless(openSet, "a")), ofSet),
		)(t, m)
	}},
	{id: "C2", what: "10 GiB of spaces, of line feeds, one at a time", run: func(t *testing.T, m *matrix) {
		cases(
			one("spaces", endless(head200+"\r\n", " "), allTooLarge), one("line feeds", endless(head200+"\r\n"+`{"results":[`, "\n"), allTooLarge),
			one("spaces of the set", overAllTime(m, endless(head200+"\r\n", " ")), ofSet), one("one byte in 200 ms", drip(head200+"\r\n", " "), seen{reason: "timeout", records: true}),
		)(t, m)
	}},
	{id: "C3", what: "five million brackets", run: cases(each(malformed, body, strings.Repeat("[", 5_000_000), `{"x":`+strings.Repeat("[", 5_000_000), strings.Repeat(`{"x":`, 1_000_000)))},
	{id: "C4", what: "a million equal keys", run: cases(each(tooLarge, ok, "{"+strings.Repeat(`"a":1,`, 1_000_000)+`"a":1}`))},
	{id: "C5", what: "cut after each byte", tested: "TestRows_cut"},
	{id: "C6", what: "something behind the answer", run: cases(each(malformed, ok, value("1")+"x", value("1")+value("2"), value("1")+"\x00"))},
	{id: "C7", what: "an empty body, null, [], {}, \"x\", 1", run: cases(each(truncated, ok, ""), each(malformed, ok, "null", "[]", "{}", `"x"`, "1"))},
	{id: "C8", what: "a byte order mark, UTF-16, what is not UTF-8", run: cases(
		each(malformed, ok, "\xef\xbb\xbf"+value("1"), "\xff\xfe{\x00}\x00", changed("mem_dumps", "mem\xffdumps"), changed("statement_id", "statement\xc3id")),
	)},
	{id: "C9", what: "NaN, Infinity, 1e999, -0, 1e-400", run: cases(each(malformed, numeral, "NaN", "Infinity", "1e999"), each(sum(0), numeral, "-0", "1e-400"),
		each(fails("malformed", "duration_mean"), ok, table(`"time","sum","count"`, "0,1e999,1")),
	)},
	{id: "C10", what: "null, a column missing, one more, another order", run: cases(each(malformed, ok, table(`"time"`, "0")), each(sum(0), ok, value("null")),
		each(sum(5), ok, table(`"time","other","compressed"`, `0,"x",5`)), each(sum(7), ok, table(`"compressed","time"`, "7,0")),
	)},
	{id: "C11", what: "a string, a bool, an object where a number belongs", run: cases(each(malformed, numeral, `"5"`, "true", `{"a":1}`))},
	{id: "C12", what: "2^53+1, 2^63-1, 2^64-1, 2^64", run: cases(each(sum(1<<53), numeral, "9007199254740993"), each(sum(1<<63), numeral, "9223372036854775807"),
		each(sum(1<<64), numeral, "18446744073709551615", "18446744073709551616"),
	)},
	{id: "C13", what: "negative counts and sums; times far off", run: cases(each(fails("out_of_range"), numeral, "-1"),
		each(fails("malformed", "last_dump", "monitored_vms"), dated, "9999-12-31T00:00:00Z"), each(fails("malformed", "last_dump"), dated, "0000-01-01T00:00:00Z"),
	)},
	{id: "C14", what: "a hundred thousand VMs", run: cases(one("VMs", vms(100_000), dumped(100_000)))},
	{id: "C15", what: "a name of half a MiB; quotes, line feeds and worse in one", run: func(t *testing.T, m *matrix) {
		cases(each(dumped(1), ok, set(strings.Repeat("x", 1<<19)), set(`\"\n\\\u0000\u202e`)))(t, m)
		hostileVersion(t, m)
	}},
	{id: "C16", what: "one VM twice", run: cases(each(dumped(1), ok, set("a", "a", "a")))},
	{id: "C17", what: "a million rows", run: func(t *testing.T, m *matrix) {
		cases(
			one("of a sum", endless(head200+"\r\n"+`{"results":[{"series":[{"columns":["time","compressed"],"values":[[0,0]`, ",[0,0]"), tooLarge),
			one("of a set", overAllTime(m, vms(1_000_000)), ofSet),
		)(t, m)
	}},
}

func refusal(text string) script { return ok(`{"results":[{"error":"` + text + `"}]}`) }

// What InfluxDB means: of the real one, or in the words of real ones.
var influxdbRows = []row{
	{id: "D1", what: "200 with an error in the result", run: cases(each(refused, refusal, "undefined function nosuch()"))},
	{id: "D2", what: "a second result that is an error", run: cases(each(refused, ok, changed(`}]}]}`, `}],"error":"no"}]}`), changed(`}]}]}`, `}]},{"error":"no"}]}`)))},
	{id: "D3", what: "an answer that says that it is partial", run: cases(
		each(truncated, ok, changed(`"statement_id":0`, `"partial":true`), changed(`"name"`, `"partial":true,"name"`)),
	)},
	{id: "D4", what: "an error table of Flux after data", why: "InfluxQL is the only dialect"},
	{id: "D5", what: "the stream of a 3.x cut in a record", tested: "B11 and TestRows_cut: 3.x answers InfluxQL in the same JSON"},
	{id: "D6", what: "no database, no measurement, no field", tested: "TestTruth"},
	{id: "D7", what: "a measurement without rows in range", tested: "TestTruth/measurement_without_rows"},
	{id: "D8", what: "limits of rows, points, time, queries at once", run: cases(
		each(overloaded, refusal, "max-select-point limit exceeded: (1/1)", "max-concurrent-queries limit exceeded(1, 1)"),
		each(late, refusal, "query-timeout limit exceeded"), each(truncated, ok, changed(`"columns"`, `"partial":true,"columns"`)),
	)},
	{id: "D9", what: "InfluxDB's clock an hour off", why: "nothing is computed from InfluxDB's clock; the look-back is by ours (TestTruth/in_the_future)"},
	{id: "D10", what: "a field with another type in another shard", run: otherType},
	{id: "D11", what: "x/0 and sums that wrap", tested: "TestTruth/sum_beyond_2^63; no statement divides"},
	{id: "D12", what: "a question after our timeout", run: afterTimeout},
	{id: "D13", what: "another version under us", tested: "TestIdentify_changes"},
}

// sum is another sum than the true one, dumped another number of VMs, none of which is
// monitored.
func sum(v float64) seen {
	return seen{change: func(e expected) { e.values["memdump_dumps_compressed_bytes"] = v }}
}

func dumped(n float64) seen {
	return seen{queries: []string{"dumped_vms"}, timeout: 20, change: func(e expected) {
		e.values["memdump_dumped_vms"], e.values["memdump_dumped_domains"] = n, n
		e.values["memdump_vms_never_dumped"] = e.values["memdump_monitored_domains"]
	}}
}

// overAllTime responds to statements over all time as told, and truly to others.
func overAllTime(m *matrix, respond script) script {
	return func(conn *countingConn, r *http.Request) {
		if strings.Contains(r.URL.Query().Get("q"), "time >= ") {
			m.through(conn, r)
			return
		}
		respond(conn, r)
	}
}

// set is an answer of VMs, whose names are already as JSON wants them.
func set(names ...string) string {
	var b bytes.Buffer
	writeSet(&b, len(names), func(i int) string { return names[i] })
	return b.String()
}

// vms answers with many.
func vms(n int) script {
	return func(conn *countingConn, _ *http.Request) {
		_, _ = io.WriteString(conn, head200+"\r\n")
		writeSet(conn, n, func(i int) string { return fmt.Sprint("vm-", i) })
	}
}

func writeSet(to io.Writer, n int, name func(int) string) {
	w := bufio.NewWriterSize(to, 1<<20)
	comma := `{"results":[{"series":[`
	for i := range n {
		if _, err := fmt.Fprintf(w, `%s{"name":"mem_dumps","tags":{"vmid":"%s"},"columns":["time","newest"],"values":[[1,"x"]]}`, comma, name(i)); err != nil {
			return
		}
		comma = ","
	}
	_, _ = w.WriteString(`]}]}`)
	_ = w.Flush()
}

// bomb is 10 GiB of spaces in ten MiB.
var bomb = sync.OnceValue(func() string {
	var once bytes.Buffer
	w := gzip.NewWriter(&once)
	_, _ = w.Write(bytes.Repeat([]byte(" "), 16<<20))
	_ = w.Close()
	return strings.Repeat(once.String(), 640)
})

// hostileVersion: what a server says of itself, asked again after 401, becomes a label.
func hostileVersion(t *testing.T, m *matrix) {
	m.front.set(func(conn *countingConn, r *http.Request) {
		answer := code("401 U")
		if r.URL.Path == "/ping" {
			answer = code("204 N\r\nX-Influxdb-Version: 1\"\\\x80\xff{a=\"\u202e\"} " + strings.Repeat("9", 60_000))
		}
		answer(conn, r)
	}, sumColumns, "/ping")
	m.subject.sees(t, unauthorized)
	got := m.subject.sees(t, unauthorized)
	m.front.set(nil)
	info := m.subject.parse(t, got.body)["memdump_influxdb_info"].GetMetric()
	if len(info) != 1 || !strings.HasPrefix(label(info[0], "version"), "1\"\\{a=") || len(label(info[0], "version")) > 40 {
		t.Errorf("InfluxDB is %v", info)
	}
	m.subject.recovers(t)
}

// nothingArrives is a server that no request must come to.
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
	transport(each(redirected, func(text string) script { return code(text + "\r\nLocation: " + elsewhere) }, "301 M", "302 F", "307 T", "308 P"))(t, m)
}

func redirectToHTTP(t *testing.T, m *matrix) {
	s := m.overTLS(t, func(*tls.Config, *authority) {}, http.RedirectHandler(nothingArrives(t), http.StatusPermanentRedirect))
	s.sees(t, seen{reason: "redirected", queries: all(), records: true})
}

// overTLS starts an exporter that asks a server whose handshakes a configuration rules.
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

// otherType: of a field that is a whole number in one shard and text in another, InfluxDB
// adds up the numbers alone, which is not the sum.
func otherType(t *testing.T, m *matrix) {
	const database = "other type"
	now := time.Now()
	points := []influxtest.Point{
		dump("1", now.Add(-50*24*time.Hour), first(5)), dump("2", now, first(7)), sample("1", now.Add(-time.Minute), map[string]any{"cpu": 1.0}),
	}
	h, withText := &influxtest.History{}, &influxtest.History{}
	h.Add(points...)
	withText.Add(append(points, dump("3", now.Add(-100*24*time.Hour), map[string]any{"gzip_size_bytes": "eleven"}))...)
	m.server.MustStore(t, database, withText)
	s := m.start(t, nil, m.server.URL, "--influx.db="+database)
	s.history = h
	s.sees(t, fails("type_conflict"))
}

// afterTimeout: InfluxDB does not go on with a query whose scrape is over. The history goes on
// loading.
func afterTimeout(t *testing.T, m *matrix) {
	s := m.slow(t)
	if got := s.metrics(t, 0.1); !strings.Contains(got.body, "\nmemdump_query_success{query=\"dumped_vms\"} 0") {
		t.Fatalf("it did not take too long:\n%s", got.body)
	}
	m.becomesIdle(t, "last(")
}
