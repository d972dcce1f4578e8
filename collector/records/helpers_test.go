package records_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"memdump_exporter/collector/records"
	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// influxdb is a real InfluxDB.
var influxdb influxtest.Shared

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(influxtest.Tests{M: m, Server: &influxdb})
}

// recordedNow is the time at which the recordings were made.
var recordedNow = time.Unix(0, 1762857000000000000)

// errMissing is what the sources of tests return where there is no measurement.
var errMissing = errors.New("no such measurement")

func newClient(tb testing.TB, url, database string) *influx.Client {
	tb.Helper()
	transport := influx.NewTransport(nil)
	tb.Cleanup(transport.CloseIdleConnections)
	client, err := influx.New(influx.Config{URL: url, Database: database, Transport: transport})
	if err != nil {
		tb.Fatal(err)
	}
	return client
}

// newSource returns the source of the measurement that the tests write to.
func newSource(db records.Database, now time.Time) records.Source {
	return records.Source{
		Database: db, Measurement: influxtest.Dumps, Now: func() time.Time { return now },
		Accepted: func() []influx.TimeRange { return nil },
		Verify: func(ctx context.Context) error {
			for _, err := range db.Rows(ctx, influx.Request{Statement: influx.ShowFieldKeys("", influxtest.Dumps)}) {
				return err
			}
			return errMissing
		},
	}
}

// newHandler returns a handler with the limits of the tests.
func newHandler(s records.Source) http.Handler {
	return records.Handler(s, records.Config{MaxOffset: 100_000, MaxConcurrent: 2, Timeout: timeout, Failed: func(error) {}})
}

// timeout is the timeout of the requests, in seconds.
func timeout(h http.Header) time.Duration {
	if announced, err := time.ParseDuration(h.Get("X-Prometheus-Scrape-Timeout-Seconds") + "s"); err == nil {
		return announced
	}
	return time.Minute
}

// serve serves the records of a source until the test ends.
func serve(tb testing.TB, s records.Source) (url string) {
	tb.Helper()
	return influxtest.Handle(tb, newHandler(s).ServeHTTP)
}

// fake is a database in memory that responds with the result of the function.
type fake func(path, statement string) (status int, version, body string)

// RoundTrip makes fake the transport of a client.
func (f fake) RoundTrip(r *http.Request) (*http.Response, error) {
	status, version, body := f(r.URL.Path, r.URL.Query().Get("q"))
	header := http.Header{}
	if version != "" {
		header.Set("X-Influxdb-Version", version)
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

func (f fake) client(tb testing.TB, api influx.API) *influx.Client {
	tb.Helper()
	client, err := influx.New(influx.Config{
		URL: "http://memory", Database: "db", API: api, Transport: f, Token: func() (string, error) { return canary, nil },
	})
	if err != nil {
		tb.Fatal(err)
	}
	return client
}

// canary is a token that must be in no response.
const canary = "t0p-s3cr3t-c4n4ry"

// response returns InfluxDB's response to the query for records: rows of time and these columns.
func response(columns, rows string) string {
	if !strings.Contains(columns, "dump_path") {
		columns += `,"dump_path"`
		rows = strings.ReplaceAll(rows, "]", ",null]")
	}
	return `{"results":[{"series":[{"name":"mem_dumps","columns":["time",` + columns + `],"values":[` + rows + `]}]}]}`
}

// nthResponse returns InfluxDB's response to the query for the n-th newest record.
func nthResponse(row string) string {
	return `{"results":[{"series":[{"name":"mem_dumps","columns":["time","nth"],"values":[` + row + `]}]}]}`
}

// noRows is InfluxDB's response if there is no row, no field or no measurement.
const noRows = `{"results":[{"statement_id":0}]}`

const fieldKeys = `{"results":[{"series":[{"name":"mem_dumps","columns":["fieldKey","fieldType"],"values":[["sha256","string"]]}]}]}`

// page is a response of /records.
type page struct {
	Records              []map[string]any
	Count, Limit, Offset json.Number
	Error                string
}

// twoWriters returns n dumps of the two writers over a number of days up to now: some have the same
// time because they are scheduled, one is in the future, one in 1970, and some points have no hash
// or few other fields.
func twoWriters(rng *rand.Rand, now time.Time, n, days int) *influxtest.History {
	h := &influxtest.History{}
	burst := now.Add(-time.Duration(days) * 8 * time.Hour)
	for i := 0; len(h.Points(influxtest.Dumps)) < n; i++ { // some add to a point that is there
		at := now.Add(-time.Duration(rng.Int64N(int64(days)*24*3600*1000)) * time.Millisecond)
		switch rng.IntN(4) {
		case 0:
			at = at.Truncate(6 * time.Hour)
		case 1:
			at = at.Truncate(10 * time.Minute)
		case 2:
			if i%4 == 0 {
				at = burst
			}
		}
		switch i {
		case 0:
			at = now.Add(40 * 24 * time.Hour)
		case 1:
			at = time.Unix(0, 0)
		}
		h.Add(dump(rng, fmt.Sprint("vm", rng.IntN(40)), fmt.Sprint(i), at))
	}
	return h
}

// dump returns a point of one of the two writers.
func dump(rng *rand.Rand, dom, name string, at time.Time) influxtest.Point {
	p := influxtest.Point{
		Measurement: influxtest.Dumps, TimeNs: at.UnixNano(), Tags: map[string]string{"dom": dom, "vmid": fmt.Sprint(rng.IntN(30))},
		Fields: map[string]any{
			"sha256": "hash" + name, "dump_path": "/var/dumps/" + name, "duration_sec": float64(rng.IntN(800)) / 8,
			"ctime": at.Unix(), "mtime": at.Unix(), "atime": at.Unix(),
		},
	}
	if rng.IntN(3) == 0 { // the program
		p.Fields["gzip_size_bytes"] = rng.Int64N(1 << 40)
	} else { // the service
		p.Tags["host"] = fmt.Sprint("hv", rng.IntN(3))
		p.Fields["ok"], p.Fields["raw_size_bytes"], p.Fields["dump_duration_sec"] = true, rng.Int64N(1<<40), p.Fields["duration_sec"]
	}
	switch rng.IntN(40) {
	case 0:
		delete(p.Fields, "sha256")
	case 1:
		p.Fields = map[string]any{"duration_sec": 1.5}
	case 2:
		p.Fields = map[string]any{"sha256": "hash" + name}
	case 3:
		delete(p.Tags, "dom")
	}
	return p
}

// get returns the status, the page, and the URL of the next one.
func get(t testing.TB, target string) (status int, p page, next string) {
	t.Helper()
	resp, err := http.Get(target)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if form := resp.Header.Get("Content-Type"); form != "application/json" {
		t.Errorf("%s: HTTP %d has the type %q", target, resp.StatusCode, form)
	}
	decoder := json.NewDecoder(resp.Body)
	decoder.UseNumber()
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	if link, ok := strings.CutSuffix(resp.Header.Get("Link"), `>; rel="next"`); ok {
		relative, err := url.Parse(strings.TrimPrefix(link, "<"))
		if err != nil || relative.IsAbs() || relative.Path != "" {
			t.Fatalf("%s: the link %q is not relative to the page", target, link)
		}
		next = resp.Request.URL.ResolveReference(relative).String()
	}
	return resp.StatusCode, p, next
}

func newServer(t testing.TB, respond func(statement string) string) string {
	t.Helper()
	return influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/query" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, respond(r.URL.Query().Get("q")))
	})
}

// sameRecords compares records in any order of those with the same time.
func sameRecords(t *testing.T, what string, got, want []map[string]any) {
	t.Helper()
	for _, difference := range influxtest.RecordDifferences(got, want) {
		t.Errorf("%s: %s", what, difference)
	}
}
