//go:build faults

package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

func refusal(text string) script { return ok(`{"results":[{"error":"` + text + `"}]}`) }

// influxdbRows are errors and partial results of InfluxDB: from a real one, or with the texts of real ones.
var influxdbRows = []row{
	{id: "D1", what: "200 with an error in the result", run: cases(each(refused, refusal, "undefined function nosuch()"))},
	{id: "D2", what: "a second result that is an error", run: cases(
		each(refused, ok, changed(`}]}]}`, `}],"error":"no"}]}`), changed(`}]}]}`, `}]},{"error":"no"}]}`)),
	)},
	{id: "D3", what: "a response that is marked as partial", run: cases(
		each(truncated, ok, changed(`"statement_id":0`, `"partial":true`), changed(`"name"`, `"partial":true,"name"`)),
	)},
	{id: "D4", what: "an error table of Flux after data", why: "InfluxQL is the only dialect"},
	{id: "D5", what: "the stream of a 3.x cut in a record", tested: "B11 and TestRows_cut: 3.x responds to InfluxQL in the same JSON"},
	{id: "D6", what: "no database, no measurement, no field", tested: "TestTruth"},
	{id: "D7", what: "a measurement without rows in range", tested: "TestTruth/measurement_without_rows"},
	{id: "D8", what: "limits of rows, points, time, queries at once", run: cases(
		each(overloaded, refusal, "max-select-point limit exceeded: (1/1)", "max-concurrent-queries limit exceeded(1, 1)"),
		each(late, refusal, "query-timeout limit exceeded"), each(truncated, ok, changed(`"columns"`, `"partial":true,"columns"`)),
	)},
	{id: "D9", what: "InfluxDB's clock an hour off", why: "nothing is computed from InfluxDB's clock; " +
		"the look-back is by ours (TestTruth/in_the_future)"},
	{id: "D10", what: "a field with another type in another shard", run: otherType},
	{id: "D11", what: "x/0 and sums that wrap", tested: "TestTruth/sum_beyond_2^63; no statement divides"},
	{id: "D12", what: "a query after our timeout", run: afterTimeout},
	{id: "D13", what: "another version under us", tested: "TestIdentify_changes"},
}

// otherType: where a field is a whole number in one shard and text in another, InfluxDB adds up
// the numbers only, which is not the true sum.
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

// afterTimeout: InfluxDB stops a query whose scrape is over. The exporter continues to load the
// history.
func afterTimeout(t *testing.T, m *matrix) {
	s := m.slow(t)
	if got := s.metrics(t, 0.1); !strings.Contains(got.body, "\nmemdump_query_success{query=\"dumped_vms\"} 0") {
		t.Fatalf("it did not take too long:\n%s", got.body)
	}
	m.becomesIdle(t, "last(")
}

// slow starts an exporter on a database with so many dumped VMs that the real InfluxDB takes a
// while for a query.
func (m *matrix) slow(t *testing.T) *subject {
	t.Helper()
	const database = "slow"
	h := &influxtest.History{}
	now := time.Now()
	h.Add(sample("1", now.Add(-time.Minute), map[string]any{"cpu": 1.0}))
	for i := range 30_000 {
		h.Add(dump(fmt.Sprint("vm-", i), now.Add(-time.Duration(i)*time.Minute), first(int64(i))))
	}
	m.server.MustStore(t, database, h)
	return &subject{exporter: startExporter(t, nil, "--influx.url="+m.server.URL, "--influx.db="+database), history: h}
}

// becomesIdle waits until SHOW QUERIES lists no query that contains part.
func (m *matrix) becomesIdle(t *testing.T, part string) {
	t.Helper()
	took := until(t, time.Second, "InfluxDB is idle", func() error {
		got := send(nil, http.MethodGet, m.server.URL+"/query?q=SHOW+QUERIES")
		if !strings.Contains(got.body, "SHOW QUERIES") || strings.Contains(strings.ToLower(got.body), part) {
			return fmt.Errorf("it runs %.300s", got.body)
		}
		return nil
	})
	m.note("idle after %v", took.Round(time.Millisecond))
}
