//go:build faults

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// seen is what a fault must change in one scrape.
type seen struct {
	reason  string         // for which the queries fail; empty: none may
	queries []string       // that meet the fault; nil: compressed_bytes
	change  func(expected) // of the truth
	within  time.Duration  // 0: the scraper's timeout
	timeout int            // that, in seconds; 0: announced
	mib     float64        // how much more memory than idle it may cost, in MiB; 0: moreMiB
	records bool           // /records must fail, too
	repeats bool           // net/http may send the request again, on another connection, where nothing came
}

// splits reports whether the fault makes the exporter try shorter time ranges.
func (want seen) splits() bool { return want.reason == "timeout" || want.reason == "too_large" }

func (want seen) of() []string {
	if want.queries == nil {
		return []string{"compressed_bytes"}
	}
	return want.queries
}

func fails(reason string, queries ...string) seen { return seen{reason: reason, queries: queries} }

func all() []string { return slices.Sorted(maps.Keys(metricsOf)) }

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
	tooLarge     = seen{reason: "too_large", timeout: patient} // after all splits of the range
	// The metrics come from shorter time ranges. In ofSet, the rejected response is held up to its limit of 16 MiB.
	inRanges    = seen{timeout: 20, repeats: true}
	ofSet       = seen{queries: []string{"dumped_vms"}, timeout: 20, repeats: true, mib: 2 * moreMiB}
	allTooLarge = seen{reason: "too_large", timeout: patient, records: true}
	atOnceBusy  = seen{reason: "overloaded", within: time.Second}
)

// oneCase is one variant of a row's fault.
type oneCase struct {
	name    string
	respond script
	seen
}

// one returns one case; each returns a case for each text, named by it.
func one(name string, respond script, want seen) []oneCase { return []oneCase{{name, respond, want}} }

func each(want seen, respond func(string) script, texts ...string) (list []oneCase) {
	for _, text := range texts {
		list = append(list, oneCase{fmt.Sprintf("%.24q", text), respond(text), want})
	}
	return list
}

// statementOf is a part of each query's statement that no other statement contains.
var statementOf = map[string]string{
	"compressed_bytes": sumColumns, "dumped_vms": `AS "newest" FROM`, "duration_mean": `SUM("duration_sec"::field) AS "sum"`,
	"last_dump": `AS "last" FROM`, "monitored_vms": `SELECT *::field FROM`,
	"records": `"dump_path"`, "ping": "/ping",
}

// cases runs each case: its script responds to one statement of a scrape, InfluxDB to the others.
func cases(groups ...[]oneCase) func(*testing.T, *matrix) {
	return func(t *testing.T, m *matrix) {
		for _, c := range slices.Concat(groups...) {
			t.Run(c.name, func(t *testing.T) {
				var on []string
				for _, query := range c.of() {
					on = append(on, statementOf[query])
				}
				if c.records {
					on = append(on, statementOf["records"])
				}
				m.subject.forgetPeak()
				m.front.set(c.respond, on...)
				if c.change == nil {
					m.subject.sees(t, c.seen)
				} else {
					m.subject.holds(t, c.seen, m.fullScrape(t, c, on))
				}
				requests, sent := m.front.set(nil)
				if again := c.repeats || c.records || c.splits(); requests < len(on) || !again && requests > len(on) {
					t.Errorf("%d requests, want %d", requests, len(on))
				}
				if sent > maxTaken {
					t.Errorf("%d bytes of the response were read", sent)
				}
				m.subject.recoversWithin(t, cmp.Or(c.mib, moreMiB))
				m.renew()
			})
		}
	}
}

// fullScrape scrapes while a script changes the value of full queries. Where this machine is so slow that the exporter
// replaced them by its history, another exporter scrapes.
func (m *matrix) fullScrape(t *testing.T, c oneCase, on []string) reply {
	t.Helper()
	for try := 1; ; try++ {
		got := m.subject.metrics(t, cmp.Or(c.timeout, announced))
		ranges := m.subject.parse(t, got.body).gauges("memdump_query_ranges")
		if !slices.ContainsFunc(c.of(), func(query string) bool { return ranges[`memdump_query_ranges{query="`+query+`"}`] > 1 }) {
			return got
		}
		if try == 10 {
			t.Fatalf("%d exporters have replaced the full queries", try)
		}
		m.front.set(nil)
		m.replace()
		m.front.set(c.respond, on...)
	}
}

// transport runs cases of faults below the response, which /records meets, too.
func transport(groups ...[]oneCase) func(*testing.T, *matrix) {
	list := slices.Concat(groups...)
	for i := range list {
		list[i].records = list[i].reason != ""
	}
	return cases(list)
}

const head200 = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

// raw responds with bytes.
func raw(bytes string) script {
	return func(conn *countingConn, _ *http.Request) { _, _ = io.WriteString(conn, bytes) }
}

// whole returns a valid HTTP response with a body.
func whole(body string) string {
	return fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head200, len(body), body)
}

func ok(body string) script { return raw(whole(body)) }

// table is a response of one row; value is one with the sum of compressed bytes.
func table(columns, row string) string {
	return `{"results":[{"statement_id":0,"series":[{"name":"mem_dumps","columns":[` + columns + `],"values":[[` + row + `]]}]}]}`
}

func value(v string) string { return table(`"time","compressed"`, "0,"+v) }

// changed returns the response with the sum, with one text replaced.
func changed(old, new string) string { return strings.Replace(value("1"), old, new, 1) }

// Scripts of one text: a status line and what follows it, a header line, a body, chunks, a value, an encoding, a time.
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

// endless writes a head and then the same again and again, up to 10 GiB.
func endless(head, again string) script {
	const whole = 10 << 30
	again = strings.Repeat(again, 1+(64<<10)/len(again))
	return func(conn *countingConn, _ *http.Request) {
		_, err := io.WriteString(conn, head)
		for err == nil && conn.sent < whole {
			_, err = io.WriteString(conn, again)
		}
	}
}

// drip writes a text each fifth of a second, until the exporter closes the connection.
func drip(head, one string) script {
	return func(conn *countingConn, _ *http.Request) {
		_, err := io.WriteString(conn, head)
		for tick := time.NewTicker(200 * time.Millisecond); err == nil; <-tick.C {
			_, err = io.WriteString(conn, one)
		}
	}
}

// bomb is 10 GiB of spaces in ten MiB.
var bomb = sync.OnceValue(func() string {
	var once bytes.Buffer
	w := gzip.NewWriter(&once)
	_, _ = w.Write(bytes.Repeat([]byte(" "), 16<<20))
	_ = w.Close()
	return strings.Repeat(once.String(), 640)
})

// set returns a response with VMs, whose names are already escaped for JSON.
func set(names ...string) string {
	var b bytes.Buffer
	writeSet(&b, len(names), func(i int) string { return names[i] })
	return b.String()
}

// vms responds with n VMs.
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
		const series = `%s{"name":"mem_dumps","tags":{"vmid":"%s"},"columns":["time","newest"],"values":[[1,"x"]]}`
		if _, err := fmt.Fprintf(w, series, comma, name(i)); err != nil {
			return
		}
		comma = ","
	}
	_, _ = w.WriteString(`]}]}`)
	_ = w.Flush()
}

// sum expects another sum than the true one, dumped another number of VMs, none of which is monitored.
func sum(v float64) seen {
	return seen{change: func(e expected) { e.values["memdump_dumps_compressed_bytes"] = v }}
}

func dumped(n float64) seen {
	return seen{queries: []string{"dumped_vms"}, timeout: 20, mib: moreMiB + n*maxBytesPerVM/(1<<20), change: func(e expected) {
		e.values["memdump_dumped_vms"], e.values["memdump_dumped_domains"] = n, n
		e.values["memdump_vms_never_dumped"] = e.values["memdump_monitored_domains"]
	}}
}

// overAllTime scripts the responses to statements over all time; those to others come from InfluxDB.
func overAllTime(m *matrix, respond script) script {
	return func(conn *countingConn, r *http.Request) {
		if strings.Contains(r.URL.Query().Get("q"), "time >= ") {
			m.through(conn, r)
			return
		}
		respond(conn, r)
	}
}

// sum returns the true sum in a response.
func (m *matrix) sum() string { return value(fmt.Sprint(m.history.Truth(0, 0).CompressedBytes)) }

// through sends one request to InfluxDB through the proxy with toxics, and the response back.
func (m *matrix) through(conn *countingConn, r *http.Request) {
	r.Close = true
	m.carry(conn, r)
}

// carry does the same, until either side closes its connection.
func (m *matrix) carry(conn *countingConn, r *http.Request) {
	up, err := net.Dial("tcp", m.toxic.Listen)
	if err != nil {
		return
	}
	defer up.Close()
	if r.Write(up) != nil {
		return
	}
	go func() {
		_, _ = io.Copy(io.Discard, conn.TCPConn)
		up.Close()
	}()
	if _, err := io.Copy(conn.TCPConn, up); err != nil {
		_ = conn.SetLinger(0) // passes the reset on
	}
}

// poison adds a toxic until the test ends.
func (m *matrix) poison(t *testing.T, kind, attributes string) {
	t.Helper()
	remove, err := m.toxic.poison(kind, attributes)
	must(t, err)
	t.Cleanup(func() {
		if err := remove(); err != nil {
			t.Error(err)
		}
	})
}
