package influx

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"memdump_exporter/influx/influxtest"
)

// recordedBodies are the responses of real servers.
func recordedBodies(f *testing.F) (bodies []influxtest.Exchange) {
	f.Helper()
	for _, server := range influxtest.Servers() {
		scenarios, err := influxtest.Scenarios(server)
		if err != nil {
			f.Fatal(err)
		}
		for _, scenario := range scenarios {
			bodies = append(bodies, influxtest.MustLoad(f, server, scenario).Exchanges...)
		}
	}
	return bodies
}

// pieces reads at most max bytes at once.
type pieces struct {
	r   io.Reader
	max int
}

func (p pieces) Read(b []byte) (int, error) { return p.r.Read(b[:min(len(b), p.max)]) }

// checkError fails the test unless an error has the promised kind and text.
func checkError(t *testing.T, err error) {
	t.Helper()
	var own *Error
	if !errors.As(err, &own) || !slices.Contains(Kinds(), own.Kind) {
		t.Fatalf("%v is not an *Error of a listed kind", err)
	}
	text := err.Error()
	if len(text) > 2048 || strings.Contains(text, canary) || strings.ContainsFunc(text, unicode.IsControl) {
		t.Fatalf("not fit for a log, in %d bytes: %.300q", len(text), text)
	}
}

// sameRows compares accepted rows with another decoder of the same bytes.
func sameRows(t *testing.T, body []byte, rows []influxtest.ResponseRow) {
	t.Helper()
	want, err := influxtest.ReadResponse(body)
	if errors.Is(err, influxtest.ErrDuplicateKey) {
		return
	}
	if err != nil {
		t.Fatalf("accepted: %v", err)
	}
	if !slices.EqualFunc(rows, want, func(a, b influxtest.ResponseRow) bool {
		return a.Name == b.Name && maps.Equal(a.Tags, b.Tags) && slices.Equal(a.Columns, b.Columns) && slices.Equal(a.Values, b.Values)
	}) {
		t.Fatalf("read %v, there is %v", rows, want)
	}
}

// copyRow copies a row, which is valid until the next one.
func copyRow(r Row) influxtest.ResponseRow {
	return influxtest.ResponseRow{Name: r.Measurement, Tags: maps.Clone(r.Tags), Columns: slices.Clone(r.columns), Values: decoded(r.values)}
}

// FuzzDecode: an accepted response is complete, within its limit, and decoded without change,
// in pieces of any size.
func FuzzDecode(f *testing.F) {
	for i, e := range recordedBodies(f) {
		if len(e.Response.Body) < 4096 {
			f.Add([]byte(e.Response.Body), uint16(4096), byte(i))
			f.Add([]byte(e.Response.Body), uint16(max(len(e.Response.Body), 1)-1), byte(i))
		}
	}
	for _, series := range []string{
		`{"columns":["a","b"],"values":[[1]]}`, `{"columns":["a"],"values":[[1,2]]}`, `{"values":[[1]],"columns":["a"]}`,
		`{"columns":["a"],"values":[[[1]]]}`, `{"columns":["a"],"values":[{}]}`, `{"columns":["a"],"values":[null]}`,
		`{"columns":["a","b"],"values":[[1,2]]},{"columns":["c",null],"values":[[1,2]]}`,
		`{"tags":{"a":"b"},"columns":["a"],"values":[[1]]},{"columns":["a"],"values":[[1]]}`,
		`{"name":"m","columns":["a"],"values":[[1]]},{"columns":["a"],"values":[[1]]}`, `{"columns":["a"],"values":[[1]]},{"values":[[1]]}`,
		`{"columns":["a","b"],"values":[[1,2]]},{"columns":["c"],"values":[[1]]},{"columns":["d",null],"values":[[1,2]]}`,
		`{"partial":true}`, `{}],"error":"x","series":[`, `{}],"partial":true,"series":[`, `{}]},{"series":[`,
		`{}`, `{"name":1}`, `{"name":"\ud800"}`,
	} {
		f.Add([]byte(`{"results":[{"series":[`+series+`]}]}`), uint16(4096), byte(7))
	}
	f.Fuzz(func(t *testing.T, body []byte, limit uint16, piece byte) {
		var rows []influxtest.ResponseRow
		r := &limitedReader{r: pieces{bytes.NewReader(body), 1 + int(piece)}, left: int64(limit)}
		add := func(r Row) error { rows = append(rows, copyRow(r)); return nil }
		if err := decodeResponse(r, http.StatusOK, secrets{canary}, add); err != nil {
			checkError(t, err)
			return
		}
		if len(body) > int(limit) {
			t.Fatalf("accepted %d bytes, allowed are %d", len(body), limit)
		}
		sameRows(t, body, rows)
	})
}

func decoded(values []json.RawMessage) []any {
	var all []any
	for _, value := range values {
		all = append(all, scalar(value))
	}
	return all
}

// FuzzNumber: a number is exact, or an error.
func FuzzNumber(f *testing.F) {
	for _, text := range []string{
		"0", "-0", "10.0", "1e3", "9007199254740993", "9.007199254740993e15", "9223372036854775807", "9223372036854775808",
		"-9223372036854775808", "1e-400", "1e400", "1.5", "0.1",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 100 || !json.Valid([]byte(text)) || !strings.ContainsRune("-0123456789", rune(text[0])) {
			return
		}
		row := Row{columns: []string{"time"}, values: []json.RawMessage{json.RawMessage(text)}}
		float, errF := row.Float64("time")
		nearest, _, err := big.ParseFloat(text, 10, 53, big.ToNearestEven)
		if err != nil { // an exponent beyond all measure
			return
		}
		if want, _ := nearest.Float64(); errF == nil && math.Abs(want) >= 1e-300 && float != want || math.IsInf(float, 0) {
			t.Fatalf("%s is %v as a float, want %v", text, float, want)
		}
		n, errN := row.Int64("time")
		number, err := row.Number("time")
		if number.Float != float || (err == nil) != (errF == nil) {
			t.Fatalf("%s is %+v, %v; as a float %v, %v", text, number, err, float, errF)
		}
		if number.Whole != (errN == nil) || number.Int != n {
			t.Fatalf("%s is %+v; as a whole number %d, %v", text, number, n, errN)
		}
		if ns, err := row.Time(); ns != n || (err == nil) != (errN == nil) {
			t.Fatalf("%s is %d, and %d as a time", text, n, ns)
		}
		if errN != nil || math.Abs(float) < 1e-300 {
			return
		}
		// What is not whole can only be the text of no float64, as no server writes it.
		exact, ok := new(big.Rat).SetString(text)
		if !ok || exact.IsInt() && exact.Cmp(new(big.Rat).SetInt64(n)) != 0 || !exact.IsInt() && float != float64(n) {
			t.Fatalf("%s is %d as a whole number", text, n)
		}
	})
}

// FuzzQuote: a quoted text is one token, and unquotes to itself.
func FuzzQuote(f *testing.F) {
	for _, name := range []string{"mem_dumps", `a"b`, `a'b`, `\`, `\"`, "a\nb", `"; DROP MEASUREMENT x --`, "日本"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		for _, quoted := range []string{Ident(name), String(name)} {
			if back, ok := unquote(quoted); !ok || back != name {
				t.Fatalf("%q is quoted as %s, which reads as %q (%v)", name, quoted, back, ok)
			}
		}
	})
}

// unquote reads a quoted token like the scanner of InfluxQL: a quote ends it, a line feed
// is an error, and a backslash precedes n, itself and quotes only.
// https://github.com/influxdata/influxql/blob/master/scanner.go
func unquote(token string) (text string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(token); i++ {
		switch c := token[i]; c {
		case token[0]:
			return b.String(), i == len(token)-1
		case '\n':
			return "", false
		case '\\':
			if i++; i == len(token) {
				return "", false
			}
			switch token[i] {
			case 'n':
				b.WriteByte('\n')
			case '\\', '"', '\'':
				b.WriteByte(token[i])
			default:
				return "", false
			}
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

// FuzzResponse: whatever bytes a connection returns, the request and its connection end in
// time; an accepted response is one complete HTTP response.
func FuzzResponse(f *testing.F) {
	const body = `{"results":[{"statement_id":0,"series":[{"name":"m","columns":["time","value"],"values":[[0,25]]}]}]}`
	for i, head := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: %[1]d\r\n\r\n%[2]s", "HTTP/1.0 200 OK\r\n\r\n%[2]s",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%[1]x\r\n%[2]s\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%[1]x;ext=1\n%[2]s\n0\r\n",
		"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: %[1]d\r\n\r\n%[2]s",
		"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n%[2]s", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: %[1]d\r\n\r\n%[2]s",
		"HTTP/1.1 401 Unauthorized\r\n\r\n{\"error\":\"%[3]s\"}",
		"HTTP/1.1 401 Unauthorized\r\n\r\n" + canary[:5] + "\xff" + canary[5:] + strings.Repeat("x", 300),
		"HTTP/1.1 %[3]s\r\n\r\n", "%[3]s\r\n\r\n", "HTTP/1.1 200 OK\r\n%[3]s\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: http://[%[3]s\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: %[3]s\r\n\r\n",
		"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: %[3]s\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%[3]s\r\n",
	} {
		f.Add([]byte(fmt.Sprintf(head+"%.0[1]d%.0[2]s%.0[3]s", len(body), body, canary)), i == 1)
	}
	f.Add([]byte("HTTP/1.1 500 X\r\n\r\n"+strings.Repeat("x", 64<<10)), false) // the beginning of which is read
	for _, e := range recordedBodies(f) {
		if r := e.Response; len(r.Body) < 1024 {
			f.Add([]byte(fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s", r.Status, len(r.Body), r.Body)), false)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, hold bool) {
		s := &server{raw: raw, hold: hold}
		client, closeIdle := s.client(t)
		wait := 10 * time.Second
		if hold {
			wait = 5 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		var rows []influxtest.ResponseRow
		begin := time.Now()
		var err error
		for row, wrong := range client.Rows(ctx, Request{Statement: "SELECT 1"}) {
			if err = wrong; err == nil {
				rows = append(rows, copyRow(row))
			}
		}
		closeIdle()
		s.open.Wait() // an open connection lasts until the context ends
		if took := time.Since(begin); took > 5*time.Second {
			t.Fatalf("ended after %v", took)
		}
		if err != nil {
			checkError(t, err)
			return
		}
		response := bufio.NewReader(bytes.NewReader(raw))
		resp, err := http.ReadResponse(response, nil)
		for err == nil && resp.StatusCode/100 == 1 {
			resp, err = http.ReadResponse(response, nil)
		}
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("accepted: %v, %v", resp, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil && !hold {
			t.Fatalf("accepted half of it: %v", err)
		}
		sameRows(t, body, rows)
	})
}

// FuzzRedirect: no redirect causes a request.
func FuzzRedirect(f *testing.F) {
	for _, location := range []string{
		"http://other.test/query", "https://influxdb.test/", "//other.test", "/query", "", "http://[" + canary,
		"http://influxdb.test:81/", "\x7f", "http://%zz/", "http://[" + strings.Repeat("x", 30<<10),
	} {
		f.Add(uint8(2), location)
	}
	f.Fuzz(func(t *testing.T, status uint8, location string) {
		if strings.ContainsAny(location, "\r\n") {
			return
		}
		s := &server{raw: fmt.Appendf(nil, "HTTP/1.1 %d X\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", 300+int(status)%10, location)}
		client, closeIdle := s.client(t)
		var err error
		for _, err = range client.Rows(t.Context(), Request{Statement: "SELECT 1"}) {
		}
		closeIdle()
		s.open.Wait()
		if err == nil || s.requests != 1 || len(s.hosts) != 1 || s.hosts[0] != "influxdb.test:80" {
			t.Fatalf("%v after %d requests to %q", err, s.requests, s.hosts)
		}
		checkError(t, err)
	})
}
