package collector_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"

	"memdump_exporter/collector"
	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

var (
	monthDays = flag.Int("month.days", 1, "how many virtual days TestMonth goes on")
	monthSeed = flag.Uint64("month.seed", 1, "of its faults")
)

const (
	monthInterval = 30 * time.Second
	monthFaults   = 4 // of each kind a day
	dumpEvery     = 10 * time.Minute
)

// monthQueries are the queries, a part of each one's question, and its gauge.
var monthQueries = []monthQuery{
	{"dumps", `COUNT("sha256")`, "memdump_dumps"},
	{"dumped_vms", `GROUP BY "vmid"`, "memdump_dumped_vms"},
	{"compressed_bytes", `SUM("gzip`, "memdump_dumps_compressed_bytes"},
	{"duration_mean", `SUM("duration`, "memdump_dump_duration_mean_seconds"},
	{"last_dump", `"sha256" AS "value" FROM "d" ORDER`, "memdump_last_dump_timestamp_seconds"},
	{"monitored_vms", `GROUP BY "VMID"`, "memdump_monitored_vms"},
}

type monthQuery struct{ query, part, gauge string }

// fault is one kind of failure.
type fault struct {
	reason string // that must be counted for it; empty where nothing may fail
	// answer takes the place of a good one.
	answer func(good string, r *http.Request) (*http.Response, error)
	// fields are those that exist, which is asked after an empty answer; nil for all.
	fields []string
	leaves time.Duration                  // when the scraper leaves; 0 for never
	token  func() (string, error)         // nil for one that can be read
	hits   func(query string, i int) bool // the queries that it can be of; nil for any
}

func respond(r *http.Request, status int, body io.Reader) (*http.Response, error) {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(body), Request: r}, nil
}

// says answers with a status and a text.
func says(status int, text string) func(string, *http.Request) (*http.Response, error) {
	return func(_ string, r *http.Request) (*http.Response, error) {
		return respond(r, status, strings.NewReader(text))
	}
}

// changes answers with a good answer, changed.
func changes(change func(good string) string) func(string, *http.Request) (*http.Response, error) {
	return func(good string, r *http.Request) (*http.Response, error) {
		return respond(r, http.StatusOK, strings.NewReader(change(good)))
	}
}

func hangs(_ string, r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// body is a reader made of a function.
type body func(p []byte) (int, error)

func (b body) Read(p []byte) (int, error) { return b(p) }

func anyOf(queries ...string) func(string, int) bool {
	return func(query string, _ int) bool { return slices.Contains(queries, query) }
}

var monthKinds = map[string]fault{
	"connection refused": {reason: "unreachable", answer: func(string, *http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }},
	"reset on the way": {reason: "truncated", answer: func(good string, r *http.Request) (*http.Response, error) {
		reset := body(func([]byte) (int, error) { return 0, errors.New("connection reset") })
		return respond(r, http.StatusOK, io.MultiReader(strings.NewReader(good[:len(good)/2]), reset))
	}},
	"cut":            {reason: "truncated", answer: changes(func(good string) string { return good[:len(good)-1] })},
	"partial":        {reason: "truncated", answer: changes(func(good string) string { return strings.Replace(good, `{"series"`, `{"partial":true,"series"`, 1) })},
	"hangs":          {reason: "timeout", answer: hangs},
	"scraper leaves": {reason: "canceled", answer: hangs, leaves: time.Second},
	"slow": {answer: func(good string, r *http.Request) (*http.Response, error) {
		time.Sleep(2 * time.Second)
		return respond(r, http.StatusOK, strings.NewReader(good))
	}},
	"two documents": {reason: "malformed", answer: changes(func(good string) string { return good + good })},
	"two results":   {reason: "malformed", answer: says(http.StatusOK, `{"results":[{},{}]}`)},
	"null":          {reason: "malformed", answer: says(http.StatusOK, `null`)},
	"login page":    {reason: "malformed", answer: says(http.StatusOK, `<html>`)},
	"brackets":      {reason: "malformed", answer: says(http.StatusOK, strings.Repeat("[", 20_000))},
	"not UTF-8":     {reason: "malformed", answer: changes(func(good string) string { return strings.Replace(good, `"m"`, "\"\xff\"", 1) })},
	"no columns":    {reason: "malformed", answer: changes(func(good string) string { return strings.ReplaceAll(good, `"columns"`, `"other"`) })},
	"compressed": {reason: "malformed", answer: func(good string, r *http.Request) (*http.Response, error) {
		resp, err := respond(r, http.StatusOK, strings.NewReader(good))
		resp.Header.Set("Content-Encoding", "gzip")
		return resp, err
	}},
	"negative": {reason: "out_of_range", answer: changes(func(good string) string { return strings.Replace(good, `[[0,`, `[[0,-`, 1) }), hits: anyOf("dumps", "compressed_bytes")},
	"endless": {reason: "too_large", hits: anyOf("dumps", "last_dump"), answer: func(_ string, r *http.Request) (*http.Response, error) {
		return respond(r, http.StatusOK, body(func(p []byte) (int, error) { return copy(p, strings.Repeat(" ", len(p))), nil }))
	}},
	"error in 200":     {reason: "database_not_found", answer: says(http.StatusOK, `{"results":[{"error":"database not found: db"}]}`)},
	"error beside":     {reason: "refused", answer: changes(func(good string) string { return strings.TrimSuffix(good, "}") + `,"error":"unknown"}` })},
	"file limit":       {reason: "file_limit", answer: says(http.StatusBadRequest, `{"error":"query would exceed file limit of 432"}`)},
	"refused":          {reason: "refused", answer: says(http.StatusBadRequest, `{"error":"error parsing query"}`)},
	"unauthorized":     {reason: "unauthorized", answer: says(http.StatusUnauthorized, `{"error":"authorization failed"}`)},
	"not found":        {reason: "not_found", answer: says(http.StatusNotFound, "404 page not found")},
	"redirected":       {reason: "redirected", answer: says(http.StatusFound, "")},
	"overloaded":       {reason: "overloaded", answer: says(http.StatusServiceUnavailable, "")},
	"server error":     {reason: "server_error", answer: says(http.StatusInternalServerError, "<html>")},
	"panic":            {reason: "internal", answer: func(string, *http.Request) (*http.Response, error) { panic("own defect") }},
	"token unreadable": {reason: "credentials", token: func() (string, error) { return "", errors.New("the file is gone") }, hits: func(string, int) bool { return true }},
	"no measurement":   {reason: "measurement_missing", answer: says(http.StatusOK, `{"results":[{}]}`), fields: []string{}},
	"no field":         {reason: "field_missing", answer: says(http.StatusOK, `{"results":[{}]}`), fields: []string{"other"}, hits: func(query string, _ int) bool { return query != "monitored_vms" }},
}

// month is a database in memory that makes a dump every ten minutes, knows the truth at
// each time and fails as planned, a scraper of it, and what must have been counted.
type month struct {
	scraper
	begin    time.Time
	version  string
	fault    fault
	hit      map[string]bool // the queries that the fault is of
	failures map[string]int  // by labels

	scrapes, faults, values, absent, joined, panics int
}

// truth is what each figure is at a time.
func (m *month) truth(at time.Time) map[string]float64 {
	n := 1 + int64(at.Sub(m.begin)/dumpEvery)
	return map[string]float64{
		"dumps": float64(n), "dumped_vms": float64(1 + n%40), "compressed_bytes": float64(n<<30 + n%7), "duration_mean": float64(n%50) / 8,
		"last_dump": float64(m.begin.Add(time.Duration(n-1) * dumpEvery).Unix()), "monitored_vms": float64(3 + n%5),
	}
}

// good is the true answer to a query now.
func (m *month) good(query string) string {
	value := m.truth(time.Now())[query]
	series := func(tag string) string {
		var all []string
		for vm := range int(value) {
			all = append(all, fmt.Sprintf(`{"name":"m","tags":{%q:"vm-%d"},"columns":["time","value"],"values":[[%d,"x"]]}`, tag, vm, time.Now().Add(-time.Minute).UnixNano()))
		}
		return strings.Join(all, ",")
	}
	text := fmt.Sprintf(`{"name":"m","columns":["time","value"],"values":[[0,%.0f]]}`, value)
	switch query {
	case "dumped_vms":
		text = series("vmid")
	case "monitored_vms":
		text = series("VMID")
	case "duration_mean":
		text = fmt.Sprintf(`{"name":"m","columns":["time","sum","count"],"values":[[0,%v,4]]}`, 4*value)
	case "last_dump":
		text = fmt.Sprintf(`{"name":"m","columns":["time","value"],"values":[[%.0f000000000,"x"]]}`, value)
	}
	return `{"results":[{"series":[` + text + `]}]}`
}

func (m *month) RoundTrip(r *http.Request) (*http.Response, error) {
	statement := r.URL.Query().Get("q")
	if !strings.HasPrefix(statement, "SHOW") { // which queries wait for with a mutex, under which virtual time stands still
		time.Sleep(10 * time.Millisecond) // that scrapes at once overlap
	}
	answer := says(http.StatusNoContent, "")
	if strings.HasPrefix(statement, "SHOW") {
		fields := []string{"sha256", "gzip_size_bytes", "duration_sec"}
		if m.fault.fields != nil {
			fields = m.fault.fields
		}
		answer = says(http.StatusOK, fieldKeys(fields...))
	}
	good := ""
	for _, q := range monthQueries {
		if !strings.Contains(statement, q.part) {
			continue
		}
		good, answer = m.good(q.query), changes(func(good string) string { return good })
		if m.hit[q.query] {
			answer = m.fault.answer
		}
	}
	resp, err := answer(good, r)
	if resp != nil {
		resp.Header.Set("X-Influxdb-Version", m.version)
	}
	return resp, err
}

// TestMonth: through days of faults of every kind, each figure is true or absent, each
// failure is counted once and by its name, and nothing is left behind.
func TestMonth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &month{begin: time.Now(), version: "1.8.10", failures: map[string]int{}}
		client, err := influx.New(influx.Config{URL: "http://memory", Database: "db", Transport: m, Token: func() (string, error) {
			if m.fault.token != nil {
				return m.fault.token()
			}
			return "t0k3n", nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		m.col = collector.New(collector.Config{
			Database: client, DumpsMeasurement: "d", TelemetryMeasurement: "t", TelemetryLookback: time.Hour, Ranges: ranges.Whole,
			Logger: log.NewNopLogger(), Now: time.Now,
		})
		m.handler = m.col.Handler(collector.HandlerConfig{Self: prometheus.NewRegistry(), Timeout: 10 * time.Second, TimeoutOffset: 500 * time.Millisecond})
		rng := rand.New(rand.NewPCG(*monthSeed, 30))
		kinds := slices.Sorted(maps.Keys(monthKinds))
		heap, goroutines := 0.0, 0
		for day := range *monthDays {
			plan := make([]string, 24*time.Hour/monthInterval)
			for range monthFaults {
				for _, kind := range kinds {
					plan[1+rng.IntN(len(plan)-1)] = kind // a later one may take its place
				}
			}
			for i, kind := range plan {
				m.next(t, rng, kind, i%10 == 0)
				if day == 0 && i == 0 {
					goroutines = runtime.NumGoroutine()
				}
			}
			if day == 0 {
				heap = mebibytes()
			}
		}
		m.next(t, rng, "", false)
		grown, left := mebibytes()-heap, runtime.NumGoroutine()-goroutines
		if left > 0 || grown > 0.25 {
			t.Errorf("%d goroutines are left, and the heap has grown by %.2f MiB", left, grown)
		}
		t.Logf("%d scrapes, %d with a fault of one of %d kinds; %d values, all true; %d absent; %d failures, all counted; %d joined; %d goroutines left; heap %+.0f KiB",
			m.scrapes, m.faults, len(kinds), m.values, m.absent, m.absent, m.joined, left, grown*1024)
	})
}

// next is one scrape, or two at once, with a fault or none, and the rest of the interval.
func (m *month) next(t *testing.T, rng *rand.Rand, kind string, twice bool) {
	t.Helper()
	begin := time.Now()
	m.fault, m.hit = monthKinds[kind], map[string]bool{}
	if kind == "" && rng.IntN(500) == 0 {
		m.version = fmt.Sprintf("1.8.%d", rng.IntN(20)) // an upgrade
	}
	if kind != "" {
		m.faults++
		m.choose(rng)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	answers := []<-chan answered{m.scrape(ctx, "10")}
	if twice && m.fault.leaves == 0 && m.fault.token == nil {
		answers = append(answers, m.scrape(ctx, "10"))
		m.joined++
	}
	if m.fault.leaves > 0 {
		time.Sleep(m.fault.leaves)
		cancel()
	}
	for query := range m.hit {
		if m.fault.reason != "" {
			m.failures[fmt.Sprintf("{query=%q,reason=%q}", query, m.fault.reason)]++
			m.absent++
		}
	}
	if m.fault.reason == "internal" {
		m.panics += len(m.hit)
	}
	for _, one := range answers {
		m.scrapes++
		m.holds(t, kind, begin, <-one)
	}
	synctest.Wait()
	time.Sleep(time.Until(begin.Add(monthInterval)))
}

// choose chooses the queries that a fault is of: one, or all that it can be of.
func (m *month) choose(rng *rand.Rand) {
	var can []string
	for i, q := range monthQueries {
		if m.fault.hits == nil || m.fault.hits(q.query, i) {
			can = append(can, q.query)
		}
	}
	if m.fault.token == nil && rng.IntN(2) == 0 {
		can = can[rng.IntN(len(can)):][:1]
	}
	for _, query := range can {
		m.hit[query] = true
	}
}

// knows tells whether labels are of a query that is answered.
func (m *month) knows(labels string) bool {
	return slices.ContainsFunc(monthQueries, func(q monthQuery) bool { return strings.HasPrefix(labels, fmt.Sprintf("{query=%q,", q.query)) })
}

// holds compares one answer with what was true meanwhile, and every counter with what
// must have been counted.
func (m *month) holds(t *testing.T, kind string, begin time.Time, got answered) {
	t.Helper()
	if got.took > 9500*time.Millisecond || got.status != http.StatusOK {
		t.Fatalf("%s: HTTP %d after %v", kind, got.status, got.took)
	}
	if m.fault.leaves > 0 {
		return // nobody is there to read it
	}
	said := make(map[string]float64)
	for line := range strings.Lines(got.text) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		said[series], _ = strconv.ParseFloat(value, 64)
	}
	up := 1.0
	if len(m.col.Statuses()) > len(monthQueries) { // a row that is new to the table is not answered
		up = 0
	}
	then, now := m.truth(begin), m.truth(time.Now())
	for _, q := range monthQueries {
		value, there := said[q.gauge]
		fails := m.hit[q.query] && m.fault.reason != ""
		if fails {
			up = 0
		}
		if there {
			m.values++
		}
		if fails == there || there && value != then[q.query] && value != now[q.query] {
			t.Fatalf("%v, %s: %s is %v (there: %v), true is %v, fails: %v", begin, kind, q.gauge, value, there, now[q.query], fails)
		}
	}
	counted := 0
	for series, value := range said {
		if labels, ok := strings.CutPrefix(series, "memdump_query_errors_total"); ok && m.knows(labels) {
			if counted += int(value); int(value) != m.failures[labels] {
				t.Fatalf("%v, %s: %s is %v, %d failed", begin, kind, series, value, m.failures[labels])
			}
		}
	}
	if counted != m.absent || said["memdump_up"] != up || int(said["memdump_scrapes_joined_total"]) != m.joined || int(said["memdump_panics_total"]) != m.panics {
		t.Fatalf("%v, %s: %d failures (%d), up %v, joined %v (%d), panics %v (%d)", begin, kind, counted, m.absent,
			said["memdump_up"], said["memdump_scrapes_joined_total"], m.joined, said["memdump_panics_total"], m.panics)
	}
}
