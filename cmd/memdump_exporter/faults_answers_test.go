//go:build faults

package main

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

const head200 = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

var (
	malformed   = seen{reason: "malformed"}
	truncated   = seen{reason: "truncated"}
	unreachable = seen{reason: "unreachable"}
	tooLarge    = seen{reason: "too_large"}
	refused     = seen{reason: "refused"}
)

// Answers to one of the six questions, byte for byte, that are not as HTTP wants them.
var protocolRows = []row{
	{id: "B1", what: "400, 401, 403, 404, 405, 413, 422", run: transport(
		oneCase{name: "400", answer: status(400, `{"error":"no"}`), seen: refused},
		oneCase{name: "401", answer: status(401, ""), seen: seen{reason: "unauthorized"}},
		oneCase{name: "403", answer: status(403, `{"error":"no"}`), seen: seen{reason: "unauthorized"}},
		oneCase{name: "404", answer: status(404, "Not found"), seen: seen{reason: "not_found"}},
		oneCase{name: "405", answer: status(405, ""), seen: refused},
		oneCase{name: "413", answer: status(413, ""), seen: malformed},
		oneCase{name: "422", answer: status(422, ""), seen: refused},
	), off: []edit{{"influx/errors.go", "http.StatusUnauthorized, status == http.StatusForbidden,", "http.StatusUnauthorized,"}}},
	{id: "B2", what: "429 and 503 with Retry-After 3600", run: transport(
		oneCase{name: "429", answer: status(429, "", "Retry-After: 3600"), seen: seen{reason: "overloaded", within: time.Second}},
		oneCase{name: "503", answer: status(503, "", "Retry-After: 3600"), seen: seen{reason: "overloaded", within: time.Second}},
	), off: []edit{{"influx/client.go", "resp, err := c.http.Do(req)\n", "resp, err := c.http.Do(req)\n\tif err == nil && resp.Header.Get(\"Retry-After\") != \"\" {\n\t\tresp.Body.Close()\n\t\tresp, err = c.http.Do(req)\n\t}\n"}}},
	{id: "B3", what: "500, 502, 504 with an endless page", run: transport(
		oneCase{name: "500", answer: endless("HTTP/1.1 500 I\r\n\r\n", "<p>no</p>"), seen: seen{reason: "server_error"}},
		oneCase{name: "502", answer: endless("HTTP/1.1 502 B\r\n\r\n", "<p>no</p>"), seen: seen{reason: "server_error"}},
		oneCase{name: "504", answer: endless("HTTP/1.1 504 G\r\n\r\n", "<p>no</p>"), seen: seen{reason: "timeout"}},
	), off: []edit{{"influx/client.go", "io.ReadAll(io.LimitReader(resp.Body, maxRefusalBytes))\n\tif err != nil && len", "io.ReadAll(resp.Body)\n\tif err != nil && len"}}},
	{id: "B4", what: "redirects to another port", run: redirects(301, 302, 307, 308), off: followRedirects},
	{id: "B5", what: "a redirect from https to http", run: redirectToHTTP, off: followRedirects},
	{id: "B6", what: "a redirect to itself", run: func(t *testing.T, m *matrix) {
		transport(oneCase{name: "loop", answer: status(307, "", "Location: /query?"+"q=SUM(%22gzip_size_bytes%22)"), seen: seen{reason: "redirected"}})(t, m)
	}, off: followRedirects},
	{id: "B7", what: "204, 206, 304", run: transport(
		oneCase{name: "204", answer: raw("HTTP/1.1 204 N\r\n\r\n"), seen: malformed},
		oneCase{name: "206", answer: status(206, value("1")), seen: malformed},
		oneCase{name: "304", answer: raw("HTTP/1.1 304 N\r\n\r\n"), seen: seen{reason: "redirected"}},
	), off: []edit{{"influx/client.go", "if resp.StatusCode != http.StatusOK {\n\t\t\treturn refusal", "if resp.StatusCode/100 != 2 {\n\t\t\treturn refusal"}}},
	{id: "B8", what: "a hundred thousand informational answers first", run: transport(
		oneCase{name: "103", answer: raw(strings.Repeat("HTTP/1.1 103 E\r\n\r\n", 100_000) + head200 + "\r\n" + value("1")), seen: unreachable, asked: -1},
	), off: headerBound},
	{id: "B9", what: "64 MiB of headers; one of 64 MiB", run: transport(
		oneCase{name: "many", answer: endless("HTTP/1.1 200 OK\r\n", "X-Some: some\r\n"), seen: unreachable, asked: -1},
		oneCase{name: "one", answer: endless("HTTP/1.1 200 OK\r\nX-Some: ", "some"), seen: unreachable, asked: -1},
	), off: headerBound},
	{id: "B10", what: "Content-Length too long, too short, twice, negative", run: transport(
		oneCase{name: "too long", answer: raw(head200 + "Content-Length: 9999\r\n\r\n" + value("1")), seen: truncated},
		oneCase{name: "too short", answer: raw(head200 + "Content-Length: 40\r\n\r\n" + value("1")), seen: truncated},
		oneCase{name: "twice", answer: raw(head200 + "Content-Length: 40\r\nContent-Length: 41\r\n\r\n" + value("1")), seen: unreachable, asked: -1},
		oneCase{name: "negative", answer: raw(head200 + "Content-Length: -1\r\n\r\n" + value("1")), seen: unreachable, asked: -1},
	), off: takeShort},
	{id: "B11", what: "chunks: a bad size, a huge extension, a bare line feed, no last one", run: transport(
		oneCase{name: "bad size", answer: chunked("zz\r\n" + value("1") + "\r\n0\r\n\r\n"), seen: truncated},
		oneCase{name: "huge extension", answer: chunked("5;" + strings.Repeat("x", 1<<20) + "\r\n"), seen: truncated},
		oneCase{name: "bare line feed", answer: chunked("5\n{\"res\n0\n\n"), seen: truncated},
		oneCase{name: "no last one", answer: chunked(fmt.Sprintf("%x\r\n%s\r\n", len(value("1")), value("1"))), seen: truncated},
	), off: []edit{{"influx/answer.go", "if _, err := d.json.Token(); !errors.Is(err, io.EOF) {", "if _, err := d.json.Token(); err == nil {"}}},
	{id: "B12", what: "gzip (of 10 GiB), br, zstd, unknown, not asked for", run: func(t *testing.T, m *matrix) {
		transport(
			oneCase{name: "gzip", answer: raw(head200 + "Content-Encoding: gzip\r\n\r\n" + bomb()), seen: malformed},
			oneCase{name: "gzip as 500", answer: raw("HTTP/1.1 500 I\r\nContent-Encoding: gzip\r\n\r\n" + bomb()), seen: malformed},
			oneCase{name: "br", answer: status(200, value("1"), "Content-Encoding: br"), seen: malformed},
			oneCase{name: "zstd", answer: status(200, value("1"), "Content-Encoding: zstd"), seen: malformed},
			oneCase{name: "unknown", answer: status(200, value("1"), "Content-Encoding: x"), seen: malformed},
		)(t, m)
	}, off: []edit{{"influx/client.go", `encoding != "" && encoding != "identity"`, `encoding == "never"`}}},
	{id: "B13", what: "a page to log in, with 200", run: transport(
		oneCase{name: "page", answer: status(200, "<html>log in</html>", "Content-Type: text/html"), seen: malformed},
	)},
	{id: "B14", what: "two answers to one question", run: func(t *testing.T, m *matrix) {
		real := value(fmt.Sprint(m.history.Truth(0, 0).CompressedBytes))
		forged := fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head200, len(value("666")), value("666"))
		transport(oneCase{name: "kept", answer: func(conn *countingConn, r *http.Request) {
			ok(real)(conn, r)
			_, _ = io.WriteString(conn, strings.Repeat(forged, 8))
			_, _ = io.Copy(io.Discard, conn)
		}})(t, m)
	}},
	{id: "B15", what: "HTTP/0.9, HTTP/1.0, no HTTP", run: func(t *testing.T, m *matrix) {
		real := value(fmt.Sprint(m.history.Truth(0, 0).CompressedBytes))
		transport(
			oneCase{name: "0.9", answer: raw(value("1")), seen: unreachable, asked: -1},
			oneCase{name: "1.0", answer: raw("HTTP/1.0 200 OK\r\n\r\n" + real)},
			oneCase{name: "none", answer: raw("SSH-2.0-x\r\n\r\n"), seen: unreachable, asked: -1},
			oneCase{name: "status 2000", answer: raw("HTTP/1.1 2000 OK\r\n\r\n" + value("1")), seen: unreachable, asked: -1},
		)(t, m)
	}},
	{id: "B16", what: "TLS: expired, 1.0 only, a handshake that stalls (unknown CA, wrong name: TestTLS)", run: brokenTLS,
		off: []edit{{"influx/client.go", "TLSHandshakeTimeout:    2 * time.Second,", ""}}},
	{id: "B17", what: "the answer to another question, with other columns", run: cases(
		oneCase{name: "mean's", answer: ok(strings.Replace(value("1,2"), `"value"`, `"sum","count"`, 1)), seen: malformed},
		oneCase{name: "telemetry's", answer: ok(strings.Replace(value("1"), `"value"`, `"cpu"`, 1)), seen: malformed},
	), off: []edit{{"influx/answer.go", "if !ok {\n\t\treturn \"\", malformed(\"no column %q in the answer\", column)\n\t}", "if !ok {\n\t\treturn \"0\", nil\n\t}"}}},
}

var (
	followRedirects = []edit{{"influx/client.go", "CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },", ""}}
	headerBound     = []edit{{"influx/client.go", "MaxResponseHeaderBytes: 64 << 10,", "MaxResponseHeaderBytes: 1 << 30,"}}
	// takeShort believes what came before a connection broke.
	takeShort = []edit{{"influx/errors.go", "kind := ErrTruncated\n", "return nil\n\tkind := ErrTruncated\n"}}
	bodyBound = []edit{{"influx/answer.go", "most := min(b.left, b.hold)", "most := int64(1 << 62)"}}
)

// Answers whose body is not as InfluxDB writes it.
var bodyRows = []row{
	{id: "C1", what: "a string of 10 GiB", run: cases(
		oneCase{name: "value", answer: endless(head200+"\r\n"+`{"results":[{"series":[{"columns":["value"],"values":[["`, "a"), seen: tooLarge},
		oneCase{name: "error", answer: endless(head200+"\r\n"+`{"error":"`, "a"), seen: tooLarge},
		oneCase{name: "of the set", answer: endless(head200+"\r\n"+`{"results":[{"series":[{"name":"`, "a"), on: []string{`LAST("sha256")`}, seen: seen{reason: "too_large", queries: []string{"dumped_vms"}}},
		oneCase{name: "records", answer: endless(head200+"\r\n"+`{"results":[{"series":[{"columns":["value"],"values":[["`, "a"), seen: seen{reason: "too_large", records: true}},
	), off: bodyBound},
	{id: "C2", what: "10 GiB of spaces, of line feeds, one at a time", run: cases(
		oneCase{name: "spaces", answer: endless(head200+"\r\n", " "), seen: seen{reason: "too_large", records: true}},
		oneCase{name: "line feeds", answer: endless(head200+"\r\n"+`{"results":[`, "\n"), seen: seen{reason: "too_large", records: true}},
		oneCase{name: "spaces of the set", answer: endless(head200+"\r\n", " "), on: []string{`LAST("sha256")`}, seen: seen{reason: "too_large", queries: []string{"dumped_vms"}}},
		oneCase{name: "one byte in 200 ms", answer: drip(head200+"\r\n", " "), seen: seen{reason: "timeout", records: true}},
	), off: bodyBound},
	{id: "C3", what: "five million brackets", run: cases(
		oneCase{name: "first", answer: raw(head200 + "\r\n" + strings.Repeat("[", 5_000_000)), seen: malformed},
		oneCase{name: "within", answer: raw(head200 + "\r\n" + `{"x":` + strings.Repeat("[", 5_000_000)), seen: malformed},
		oneCase{name: "as objects", answer: raw(head200 + "\r\n" + strings.Repeat(`{"x":`, 1_000_000)), seen: malformed},
	)},
	{id: "C4", what: "a million equal keys", run: cases(
		oneCase{name: "keys", answer: ok("{" + strings.Repeat(`"a":1,`, 1_000_000) + `"a":1}`), seen: tooLarge},
	), off: bodyBound},
	{id: "C5", what: "cut after each byte", tested: "TestQuery_cut"},
	{id: "C6", what: "something behind the answer", run: cases(
		oneCase{name: "garbage", answer: ok(value("1") + "x"), seen: malformed},
		oneCase{name: "another answer", answer: ok(value("1") + value("2")), seen: malformed},
		oneCase{name: "NUL", answer: ok(value("1") + "\x00"), seen: malformed},
	), off: []edit{{"influx/answer.go", "if _, err := d.json.Token(); !errors.Is(err, io.EOF) {", "if false {\n\t\tvar err error"}}},
	{id: "C7", what: "an empty body, null, [], {}, \"x\", 1", run: cases(
		oneCase{name: "empty", answer: ok(""), seen: truncated},
		oneCase{name: "null", answer: ok("null"), seen: malformed},
		oneCase{name: "[]", answer: ok("[]"), seen: malformed},
		oneCase{name: "{}", answer: ok("{}"), seen: malformed},
		oneCase{name: "string", answer: ok(`"x"`), seen: malformed},
		oneCase{name: "1", answer: ok("1"), seen: malformed},
	), off: []edit{{"influx/answer.go", "if results != 1 {", "if results > 1 {"}}},
	{id: "C8", what: "a byte order mark, UTF-16, what is not UTF-8", run: cases(
		oneCase{name: "mark", answer: ok("\xef\xbb\xbf" + value("1")), seen: malformed},
		oneCase{name: "UTF-16", answer: ok("\xff\xfe{\x00}\x00"), seen: malformed},
		oneCase{name: "in a value", answer: ok(strings.Replace(value("1"), "mem_dumps", "mem\xffdumps", 1)), seen: malformed},
		oneCase{name: "in a key", answer: ok(strings.Replace(value("1"), "statement_id", "statement\xc3id", 1)), seen: malformed},
	), off: []edit{{"influx/answer.go", "if !b.text.valid(p[:n]) {", "if false {"}}},
	{id: "C9", what: "NaN, Infinity, 1e999, -0, 1e-400", run: cases(
		oneCase{name: "NaN", answer: ok(value("NaN")), seen: malformed},
		oneCase{name: "Infinity", answer: ok(value("Infinity")), seen: malformed},
		oneCase{name: "1e999", answer: ok(value("1e999")), seen: malformed},
		oneCase{name: "-0", answer: ok(value("-0")), values: sum(0)},
		oneCase{name: "1e-400", answer: ok(value("1e-400")), seen: malformed},
		oneCase{name: "a mean of 1e308", answer: ok(strings.Replace(value("1e999,1"), `"value"`, `"sum","count"`, 1)), on: []string{`SUM("duration_sec")`}, seen: seen{reason: "malformed", queries: []string{"duration_mean"}}},
	)},
	{id: "C10", what: "null, a column missing, one more, another order", run: cases(
		oneCase{name: "null", answer: ok(value("null")), seen: malformed},
		oneCase{name: "missing", answer: ok(`{"results":[{"series":[{"columns":["time"],"values":[[0]]}]}]}`), seen: malformed},
		oneCase{name: "more", answer: ok(strings.Replace(value(`"x",5`), `"value"`, `"other","value"`, 1)), values: sum(5)},
		oneCase{name: "order", answer: ok(`{"results":[{"series":[{"columns":["value","time"],"values":[[7,0]]}]}]}`), values: sum(7)},
	), off: []edit{{"influx/answer.go", "if name == column {\n\t\t\treturn r.values[i], true", "if name == column {\n\t\t\treturn r.values[max(i, len(r.values)-1)], true"}}},
	{id: "C11", what: "a string, a bool, an object where a number belongs", run: cases(
		oneCase{name: "string", answer: ok(value(`"5"`)), seen: malformed},
		oneCase{name: "bool", answer: ok(value("true")), seen: malformed},
		oneCase{name: "object", answer: ok(value(`{"a":1}`)), seen: malformed},
	), off: []edit{{"influx/answer.go", "if !ok {\n\t\treturn \"\", malformed(\"column %q holds a %T", "if !ok {\n\t\treturn \"0\", nil\n\t\treturn \"\", malformed(\"column %q holds a %T"}}},
	{id: "C12", what: "2^53+1, 2^63-1, 2^64-1, 2^64", run: cases(
		oneCase{name: "2^53+1", answer: ok(value("9007199254740993")), values: sum(1 << 53)},
		oneCase{name: "2^63-1", answer: ok(value("9223372036854775807")), values: sum(1 << 63)},
		oneCase{name: "2^64-1", answer: ok(value("18446744073709551615")), seen: malformed},
		oneCase{name: "2^64", answer: ok(value("18446744073709551616")), seen: malformed},
	), off: []edit{{"influx/answer.go", "|| math.Abs(f) >= exact {", "{"}}},
	{id: "C13", what: "negative counts and sums; times far off", run: cases(
		oneCase{name: "negative", answer: ok(value("-1")), seen: seen{reason: "out_of_range"}},
		oneCase{name: "year 9999", answer: ok(`{"results":[{"series":[{"columns":["time","value"],"values":[["9999-12-31T00:00:00Z","x"]]}]}]}`), on: []string{"LIMIT 1"}, asked: -1, seen: seen{reason: "malformed", queries: []string{"last_dump", "monitored_vms"}}},
		oneCase{name: "year 0", answer: ok(`{"results":[{"series":[{"columns":["time","value"],"values":[["0000-01-01T00:00:00Z","x"]]}]}]}`), on: []string{`"sha256" AS "value" FROM "mem_dumps" ORDER`}, seen: seen{reason: "malformed", queries: []string{"last_dump"}}},
	), off: []edit{{"collector/stats.go", "if n < 0 {", "if false {"}}},
	{id: "C14", what: "a hundred thousand VMs", run: cases(
		oneCase{name: "VMs", answer: vms(100_000, false), on: []string{`LAST("sha256")`}, seen: seen{timeout: 20}, values: func(e expected) { e.values["dumped_vms"] = 100_000 }},
	)},
	{id: "C15", what: "a name of half a MiB; quotes, line feeds and worse in one", run: both(cases(
		oneCase{name: "long", answer: ok(set(strings.Repeat("x", 1<<19))), on: []string{`LAST("sha256")`}, values: func(e expected) { e.values["dumped_vms"] = 1 }},
		oneCase{name: "worse", answer: ok(set(`\"\n\\\u0000\u202e`)), on: []string{`LAST("sha256")`}, values: func(e expected) { e.values["dumped_vms"] = 1 }},
	), hostileVersion), off: []edit{{"influx/server.go", "if unicode.IsControl(r) || r == utf8.RuneError {", "if unicode.IsControl(r) && r == utf8.RuneError {"}}},
	{id: "C16", what: "one VM twice", run: cases(
		oneCase{name: "twice", answer: vms(3, true), on: []string{`LAST("sha256")`}, values: func(e expected) { e.values["dumped_vms"] = 1 }},
	)},
	{id: "C17", what: "a million rows", run: cases(
		oneCase{name: "of a sum", answer: endless(head200+"\r\n"+`{"results":[{"series":[{"columns":["time","value"],"values":[[0,0]`, ",[0,0]"), seen: tooLarge},
		oneCase{name: "of a set", answer: vms(1_000_000, false), on: []string{`LAST("sha256")`}, seen: seen{timeout: 20, reason: "too_large", queries: []string{"dumped_vms"}}},
	), off: bodyBound},
}

// What InfluxDB means: of the real one, or in the words of real ones.
var influxdbRows = []row{
	{id: "D1", what: "200 with an error in the result", run: cases(
		oneCase{name: "error", answer: ok(`{"results":[{"statement_id":0,"error":"undefined function nosuch()"}]}`), seen: refused},
	), off: []edit{{"influx/answer.go", "case refusal != \"\":\n\t\treturn serverError", "case false:\n\t\treturn serverError"}}},
	{id: "D2", what: "a second result that is an error", run: cases(
		oneCase{name: "after rows", answer: ok(strings.Replace(value("1"), `}]}]}`, `}],"error":"no"}]}`, 1)), seen: refused},
		oneCase{name: "second", answer: ok(strings.Replace(value("1"), `}]}]}`, `}]},{"error":"no"}]}`, 1)), seen: refused},
	), off: []edit{{"influx/answer.go", "case refusal != \"\":\n\t\treturn serverError", "case false:\n\t\treturn serverError"}}},
	{id: "D3", what: "an answer that says that it is partial", run: cases(
		oneCase{name: "result", answer: ok(strings.Replace(value("1"), `"statement_id":0`, `"partial":true`, 1)), seen: truncated},
		oneCase{name: "series", answer: ok(strings.Replace(value("1"), `"name"`, `"partial":true,"name"`, 1)), seen: truncated},
	), off: []edit{{"influx/answer.go", "case partial:", "case false && partial:"}}},
	{id: "D4", what: "an error table of Flux after data", why: "InfluxQL is the only dialect"},
	{id: "D5", what: "the stream of a 3.x cut in a record", tested: "B11 and TestQuery_cut: 3.x answers InfluxQL in the same JSON"},
	{id: "D6", what: "no database, no measurement, no field", tested: "TestTruth"},
	{id: "D7", what: "a measurement without rows in range", tested: "TestTruth/measurement_without_rows"},
	{id: "D8", what: "limits of rows, points, time, queries at once", run: cases(
		oneCase{name: "points", answer: ok(`{"results":[{"error":"max-select-point limit exceeded: (1/1)"}]}`), seen: seen{reason: "overloaded"}},
		oneCase{name: "time", answer: ok(`{"results":[{"error":"query-timeout limit exceeded"}]}`), seen: seen{reason: "timeout"}},
		oneCase{name: "at once", answer: ok(`{"results":[{"error":"max-concurrent-queries limit exceeded(1, 1)"}]}`), seen: seen{reason: "overloaded"}},
		oneCase{name: "rows", answer: ok(strings.Replace(value("1"), `"columns"`, `"partial":true,"columns"`, 1)), seen: truncated},
	)},
	{id: "D9", what: "InfluxDB's clock an hour off", why: "no age is computed and no figure comes from InfluxDB's clock; the look-back is by ours (TestTruth/in_the_future)"},
	{id: "D10", what: "a field with another type in another shard", run: otherType},
	{id: "D11", what: "x/0 and sums that wrap", tested: "TestTruth/sum_beyond_2^63; no question divides"},
	{id: "D12", what: "a question after our timeout", run: afterTimeout},
	{id: "D13", what: "another version under us", tested: "TestIdentify_changes"},
}

// sum changes what is expected of the sum.
func sum(v float64) func(expected) {
	return func(e expected) { e.values["compressed_bytes"] = v }
}

// set is an answer of one VM, whose name is already as JSON wants it.
func set(name string) string {
	return `{"results":[{"series":[{"name":"m","tags":{"vmid":"` + name + `"},"columns":["time","value"],"values":[[1,"x"]]}]}]}`
}

// vms answers with a row for each of many VMs.
func vms(n int, same bool) script {
	return func(conn *countingConn, _ *http.Request) {
		var b bytes.Buffer
		b.WriteString(head200 + "\r\n" + `{"results":[{"series":[`)
		for i := range n {
			if same {
				i = 0
			}
			fmt.Fprintf(&b, `{"name":"mem_dumps","tags":{"vmid":"vm-%d"},"columns":["time","value"],"values":[[1,"x"]]},`, i)
			if b.Len() > 1<<20 {
				if _, err := b.WriteTo(conn); err != nil {
					return
				}
			}
		}
		b.Truncate(b.Len() - 1)
		b.WriteString(`]}]}`)
		_, _ = b.WriteTo(conn)
	}
}

func both(first, second func(*testing.T, *matrix)) func(*testing.T, *matrix) {
	return func(t *testing.T, m *matrix) { first(t, m); second(t, m) }
}

// hostileVersion: what a server says of itself, asked again after 401, becomes a label.
func hostileVersion(t *testing.T, m *matrix) {
	m.front.set(func(conn *countingConn, r *http.Request) {
		if r.URL.Path == "/ping" {
			_, _ = io.WriteString(conn, "HTTP/1.1 204 N\r\nX-Influxdb-Version: 1\"\\\x80\xff{a=\"\u202e\"} "+strings.Repeat("9", 60_000)+"\r\n\r\n")
			return
		}
		status(401, "")(conn, r)
	}, sumQuestion, "/ping")
	m.subject.sees(t, seen{reason: "unauthorized"})
	got := m.subject.fetch(t, "/metrics")
	m.front.set(nil)
	m.subject.holds(t, seen{reason: "unauthorized"}, got)
	info := m.subject.parse(t, got.body)["memdump_influxdb_info"].GetMetric()
	if len(info) != 1 || !strings.HasPrefix(label(info[0], "version"), "1\"\\{a=") || len(label(info[0], "version")) > 40 {
		t.Errorf("InfluxDB is %v", info)
	}
	m.subject.recovers(t)
}

func chunked(chunks string) script {
	return raw(head200 + "Transfer-Encoding: chunked\r\n\r\n" + chunks)
}

// bomb is 10 GiB of spaces in ten MiB.
func bomb() string {
	var one bytes.Buffer
	w := gzip.NewWriter(&one)
	_, _ = w.Write(bytes.Repeat([]byte(" "), 16<<20))
	_ = w.Close()
	return strings.Repeat(one.String(), 640)
}

// redirects makes sure that nothing arrives where a redirect points.
func redirects(codes ...int) func(*testing.T, *matrix) {
	return func(t *testing.T, m *matrix) {
		var arrived atomic.Int64
		elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Add(1) }))
		defer elsewhere.Close()
		for _, code := range codes {
			transport(oneCase{name: fmt.Sprint(code), answer: status(code, "", "Location: "+elsewhere.URL+"/query"), seen: seen{reason: "redirected"}})(t, m)
		}
		if n := arrived.Load(); n > 0 {
			t.Errorf("%d requests arrived", n)
		}
	}
}

// overTLS starts an exporter that asks a listener whose handshakes a configuration rules.
func (m *matrix) overTLS(t *testing.T, config func(*authority) *tls.Config, serve http.Handler) *subject {
	t.Helper()
	ca := newAuthority(t)
	file := filepath.Join(t.TempDir(), "ca")
	write(t, file, ca.PEM)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: serve, ErrorLog: errorLog(discard{})}
	go func() { _ = server.Serve(tls.NewListener(listener, config(ca))) }()
	t.Cleanup(func() { server.Close() })
	return m.start(t, "https://"+listener.Addr().String(), "--influx.tls.ca-file="+file, "--influx.tls.server-name=influx.example")
}

type discard struct{}

func (discard) Log(...any) error { return nil }

func (a *authority) pair(t *testing.T, name string) tls.Certificate {
	t.Helper()
	cert, key := a.issue(t, name)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func redirectToHTTP(t *testing.T, m *matrix) {
	var arrived atomic.Int64
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Add(1) }))
	defer plain.Close()
	s := m.overTLS(t, func(ca *authority) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{ca.pair(t, "influx.example")}}
	}, http.RedirectHandler(plain.URL+"/query", http.StatusPermanentRedirect))
	s.sees(t, seen{reason: "redirected", queries: all(), records: true})
	if n := arrived.Load(); n > 0 {
		t.Errorf("%d requests arrived", n)
	}
}

func brokenTLS(t *testing.T, m *matrix) {
	for name, tt := range map[string]struct {
		config func(*authority) *tls.Config
		reason string
	}{
		"expired": {func(ca *authority) *tls.Config {
			ca.until = time.Now().Add(-time.Minute)
			return &tls.Config{Certificates: []tls.Certificate{ca.pair(t, "influx.example")}}
		}, "unreachable"},
		"1.0 only": {func(ca *authority) *tls.Config {
			return &tls.Config{Certificates: []tls.Certificate{ca.pair(t, "influx.example")}, MaxVersion: tls.VersionTLS10}
		}, "unreachable"},
		"stalls": {func(*authority) *tls.Config {
			return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
				<-t.Context().Done()
				return nil, net.ErrClosed
			}}
		}, "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			s := m.overTLS(t, tt.config, http.NotFoundHandler())
			s.sees(t, seen{reason: tt.reason, queries: all(), within: 5 * time.Second, timeout: 9})
		})
	}
}

// otherType: of a field that is a whole number in one shard and text in another, the
// real InfluxDB adds up the numbers.
func otherType(t *testing.T, m *matrix) {
	const database = "other type"
	now := time.Now()
	h := &influxtest.History{}
	h.Add(dump("1", now.Add(-50*24*time.Hour), first(5)), dump("2", now, first(7)), sample("1", now.Add(-time.Minute), map[string]any{"cpu": 1.0}))
	store(t, m.server, database, h)
	text := dump("3", now.Add(-100*24*time.Hour), map[string]any{"gzip_size_bytes": "eleven"})
	if err := m.server.Write(t.Context(), database, []string{text.Line()}); err != nil {
		t.Fatal(err)
	}
	s := m.start(t, m.server.URL, "--influx.db="+database)
	s.sees(t, seen{values: truth(h)})
}

func afterTimeout(t *testing.T, m *matrix) {
	s := m.slow(t)
	got := s.fetch(t, "/metrics", "X-Prometheus-Scrape-Timeout-Seconds", "0.1")
	if !strings.Contains(got.body, "\nmemdump_query_success{query=\"dumped_vms\"} 0") {
		t.Fatalf("it did not take too long:\n%s", got.body)
	}
	m.noQueries(t, time.Second)
}
