//go:build faults

package main

import (
	"strings"
	"testing"
)

const (
	openValue = head200 + "\r\n" + `{"results":[{"series":[{"columns":["compressed"],"values":[["`
	openSet   = head200 + "\r\n" + `{"results":[{"series":[{"name":"`
)

// bodyRows are whole HTTP responses with a body that InfluxDB does not write.
var bodyRows = []row{
	{id: "C1", what: "a string of 10 GiB", run: func(t *testing.T, m *matrix) {
		cases(
			one("error", endless(head200+"\r\n"+`{"error":"`, "a"), tooLarge), one("value", endless(openValue, "a"), allTooLarge),
			one("of the set", overAllTime(m, endless(openSet, "a")), ofSet),
		)(t, m)
	}},
	{id: "C2", what: "10 GiB of spaces, of line feeds, one at a time", run: func(t *testing.T, m *matrix) {
		cases(
			one("spaces", endless(head200+"\r\n", " "), allTooLarge), one("line feeds", endless(head200+"\r\n"+`{"results":[`, "\n"), allTooLarge),
			one("spaces of the set", overAllTime(m, endless(head200+"\r\n", " ")), ofSet),
			one("one byte in 200 ms", drip(head200+"\r\n", " "), seen{reason: "timeout", records: true}),
		)(t, m)
	}},
	{id: "C3", what: "five million brackets", run: cases(
		each(malformed, body, strings.Repeat("[", 5_000_000), `{"x":`+strings.Repeat("[", 5_000_000), strings.Repeat(`{"x":`, 1_000_000)),
	)},
	{id: "C4", what: "a million equal keys", run: func(t *testing.T, m *matrix) {
		keys := ok("{" + strings.Repeat(`"a":1,`, 1_000_000) + `"a":1}`)
		cases(one("keys", overAllTime(m, keys), inRanges))(t, m)
	}},
	{id: "C5", what: "cut after each byte", tested: "TestRows_cut"},
	{id: "C6", what: "more after the response", run: cases(each(malformed, ok, value("1")+"x", value("1")+value("2"), value("1")+"\x00"))},
	{id: "C7", what: "an empty body, null, [], {}, \"x\", 1", run: cases(
		each(truncated, ok, ""), each(malformed, ok, "null", "[]", "{}", `"x"`, "1"),
	)},
	{id: "C8", what: "a byte order mark, UTF-16, what is not UTF-8", run: cases(
		each(malformed, ok, "\xef\xbb\xbf"+value("1"), "\xff\xfe{\x00}\x00",
			changed("mem_dumps", "mem\xffdumps"), changed("statement_id", "statement\xc3id")),
	)},
	{id: "C9", what: "NaN, Infinity, 1e999, -0, 1e-400", run: cases(
		each(malformed, numeral, "NaN", "Infinity", "1e999"), each(sum(0), numeral, "-0", "1e-400"),
		each(fails("malformed", "duration_mean"), ok, table(`"time","sum","count"`, "0,1e999,1")),
	)},
	{id: "C10", what: "null, a column missing, one more, another order", run: cases(
		each(malformed, ok, table(`"time"`, "0"), table(`"time","other","compressed"`, `0,"x",5`)), each(sum(0), ok, value("null")),
		each(sum(7), ok, table(`"compressed","time"`, "7,0")),
	)},
	{id: "C11", what: "a string, a bool, an object where a number belongs", run: cases(each(malformed, numeral, `"5"`, "true", `{"a":1}`))},
	{id: "C12", what: "2^53+1, 2^63-1, 2^64-1, 2^64", run: cases(
		each(sum(1<<53), numeral, "9007199254740993"), each(sum(1<<63), numeral, "9223372036854775807"),
		each(sum(1<<64), numeral, "18446744073709551615", "18446744073709551616"),
	)},
	{id: "C13", what: "negative counts and sums; times far off", run: cases(each(fails("out_of_range"), numeral, "-1"),
		each(fails("malformed", "last_dump", "monitored_vms"), dated, "9999-12-31T00:00:00Z"),
		each(fails("malformed", "last_dump"), dated, "0000-01-01T00:00:00Z"),
	)},
	{id: "C14", what: "a hundred thousand VMs", run: cases(one("VMs", vms(100_000), dumped(100_000)))},
	{id: "C15", what: "a name of half a MiB; quotes, line feeds and worse in one", run: func(t *testing.T, m *matrix) {
		cases(each(dumped(1), ok, set(strings.Repeat("x", 1<<19)), set(`\"\n\\\u0000\u202e`)))(t, m)
		hostileVersion(t, m)
	}},
	{id: "C16", what: "one VM twice", run: cases(each(dumped(1), ok, set("a", "a", "a")))},
	{id: "C17", what: "a million rows", run: func(t *testing.T, m *matrix) {
		cases(
			one("of a sum", endless(head200+"\r\n"+
				`{"results":[{"series":[{"name":"mem_dumps","columns":["time","compressed"],"values":[[0,0]`, ",[0,0]"), tooLarge),
			one("of a set", overAllTime(m, vms(1_000_000)), ofSet),
		)(t, m)
	}},
}

// hostileVersion: the version in the last response of a scrape is a label of the next one.
func hostileVersion(t *testing.T, m *matrix) {
	const version = "X-Influxdb-Version: 1\"\\\x80\xff{a=\"\u202e\"} "
	m.front.set(m.front.last(code("401 U\r\n"+version+strings.Repeat("9", 60_000))), sumColumns)
	m.subject.sees(t, unauthorized)
	got := m.subject.sees(t, unauthorized)
	m.front.set(nil)
	info := m.subject.parse(t, got.body)["memdump_influxdb_info"].GetMetric()
	if len(info) != 1 || !strings.HasPrefix(label(info[0], "version"), "1\"\\{a=") || len(label(info[0], "version")) > 40 {
		t.Errorf("InfluxDB is %v", info)
	}
	m.subject.recovers(t)
}
