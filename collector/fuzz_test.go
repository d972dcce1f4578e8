package collector

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// canary is a token that must not be in anything that leaves the exporter.
const canary = "t0p-s3cr3t-c4n4ry"

// scripted is a database in memory that responds with the result of a function.
type scripted func(path, statement string) (status int, version, body string)

func (d scripted) RoundTrip(r *http.Request) (*http.Response, error) {
	status, version, body := d(r.URL.Path, r.URL.Query().Get("q"))
	header := http.Header{}
	if version != "" {
		header.Set("X-Influxdb-Version", version)
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// check reports an error unless each event is one line of printable text.
func (l *lines) check(t *testing.T) {
	t.Helper()
	text := l.String()
	if n := strings.Count(text, "\n"); n != l.n {
		t.Fatalf("%d lines for %d events:\n%s", n, l.n, text)
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if len(line) > 2048 || !utf8.ValidString(line) || strings.ContainsFunc(line, unicode.IsControl) || strings.Contains(line, canary) {
			t.Fatalf("not fit for a log, in %d bytes: %.3000q", len(line), line)
		}
	}
}

// judged is a query, a valid response to it, and a function that computes its metrics from the
// rows in the simplest way; false if it can't.
type judged struct {
	query, good string
	values      func([]influxtest.ResponseRow) (map[string]float64, bool)
}

var judgedQueries = []judged{
	{"dumps", rowsOf(`"time","dumps"`, `[0,41]`), countRead("dumps", "memdump_dumps")},
	{"compressed_bytes", rowsOf(`"time","compressed"`, `[0,9007199254740993]`), sumRead("compressed", "memdump_dumps_compressed_bytes")},
	{"raw_bytes", rowsOf(`"time","raw"`, `[0,1e20]`), sumRead("raw", "memdump_dumps_raw_bytes")},
	{"duration_mean", rowsOf(`"time","sum","count","mean"`, `[0,10.5,4,2.625]`), durationsRead},
	{"last_dump", rowsOf(`"time","last"`, `[1762857000000000001,"x"]`), newestRead},
	{dumpedVMs, seriesOf(taggedSeries("mem_dumps", "1", "a", 1), taggedSeries("mem_dumps", "2", "", 2),
		taggedSeries("mem_dumps", "", "a", 3)), runsRead},
	{monitoredVMs, seriesOf(taggedSeries("vm_info", "1", "a", recordedNow.UnixNano()),
		taggedSeries("vm_info", "2", "b", recordedNow.UnixNano()-1)), telemetryRead},
}

// taggedSeries returns a series with one row.
func taggedSeries(measurement, id, name string, ns int64) string {
	const format = `{"name":%q,"tags":{"vmid":%q,"dom":%q,"VMID":%[2]q,"name":%[3]q},"columns":["time","newest"],"values":[[%[4]d,"x"]]}`
	return fmt.Sprintf(format, measurement, id, name, ns)
}

// seriesOf returns a response.
func seriesOf(series ...string) string {
	return `{"results":[{"series":[` + strings.Join(series, ",") + `]}]}`
}

func columnOf(row influxtest.ResponseRow, name string) (any, bool) {
	if i := slices.Index(row.Columns, name); i >= 0 {
		return row.Values[i], true
	}
	return nil, false
}

// numberRead returns a number as an integer if it is one, otherwise as a float.
func numberRead(value any) (whole int64, other float64, ok bool) {
	number, isNumber := value.(json.Number)
	if !isNumber {
		return 0, 0, false
	}
	if n, err := strconv.ParseInt(number.String(), 10, 64); err == nil {
		return n, 0, true
	}
	f, err := strconv.ParseFloat(number.String(), 64)
	if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return int64(f), 0, err == nil
	}
	return 0, f, err == nil
}

// wholeRead returns an integer; null is not one, but counts as 0.
func wholeRead(value any, there bool) (int64, bool) {
	if value == nil {
		return 0, there
	}
	whole, other, ok := numberRead(value)
	return whole, ok && other == 0
}

func timeRead(row influxtest.ResponseRow) (int64, bool) {
	value, there := columnOf(row, "time")
	text, isText := value.(string)
	if !isText {
		ns, ok := wholeRead(value, there)
		return ns, ok && value != nil
	}
	if !strings.ContainsAny(text[min(len(text), 10):], "Zz+-") {
		text += "Z"
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	return t.UnixNano(), err == nil && t.Year() >= 1678 && t.Year() <= 2261
}

func countRead(column, metric string) func([]influxtest.ResponseRow) (map[string]float64, bool) {
	return func(rows []influxtest.ResponseRow) (map[string]float64, bool) {
		var total uint64
		for _, row := range rows {
			n, ok := wholeRead(columnOf(row, column))
			if total += uint64(n); !ok || n < 0 || total > math.MaxInt64 {
				return nil, false
			}
		}
		return map[string]float64{metric: float64(total)}, true
	}
}

func sumRead(column, metric string) func([]influxtest.ResponseRow) (map[string]float64, bool) {
	return func(rows []influxtest.ResponseRow) (map[string]float64, bool) {
		sum, ok := sumOfRows(rows, column)
		return map[string]float64{metric: sum}, ok
	}
}

func sumOfRows(rows []influxtest.ResponseRow, column string) (float64, bool) {
	var total uint64
	rest := 0.0
	for _, row := range rows {
		value, there := columnOf(row, column)
		if value == nil && there {
			continue
		}
		whole, other, ok := numberRead(value)
		rest += other
		if total += uint64(whole); !ok || whole < 0 || other < 0 || total > math.MaxInt64 {
			return 0, false
		}
	}
	sum := float64(total) + rest
	return sum, !math.IsInf(sum, 0)
}

func durationsRead(rows []influxtest.ResponseRow) (map[string]float64, bool) {
	var timed []influxtest.ResponseRow
	count := int64(0)
	for _, row := range rows {
		n, ok := wholeRead(columnOf(row, "count"))
		if !ok || n < 0 {
			return nil, false
		}
		if n == 0 {
			continue
		}
		if sum, _ := columnOf(row, "sum"); sum == nil {
			return nil, false
		}
		timed = append(timed, row)
		count += n
	}
	sum, ok := sumOfRows(timed, "sum")
	values := map[string]float64{"memdump_dumps_duration_seconds": sum, "memdump_dumps_with_duration": float64(count)}
	if count > 0 {
		values["memdump_dump_duration_mean_seconds"] = sum / float64(count)
	}
	return values, ok
}

func newestRead(rows []influxtest.ResponseRow) (map[string]float64, bool) {
	newest := int64(math.MinInt64)
	for _, row := range rows {
		ns, ok := timeRead(row)
		if !ok {
			return nil, false
		}
		newest = max(newest, ns)
	}
	if len(rows) == 0 {
		return nil, true
	}
	return map[string]float64{"memdump_last_dump_timestamp_seconds": float64(newest/1e9) + float64(newest%1e9)/1e9}, true
}

func runsRead(rows []influxtest.ResponseRow) (map[string]float64, bool) {
	ids, domains := make(map[string]bool), make(map[string]bool)
	for _, row := range rows {
		if _, ok := timeRead(row); !ok {
			return nil, false
		}
		ids[row.Tags["vmid"]] = true
		if dom := row.Tags["dom"]; dom != "" {
			domains[dom] = true
		} else {
			domains[row.Tags["vmid"]] = true
		}
	}
	delete(ids, "")
	delete(domains, "")
	return map[string]float64{"memdump_dumped_vms": float64(len(ids)), "memdump_dumped_domains": float64(len(domains))}, true
}

func telemetryRead(rows []influxtest.ResponseRow) (map[string]float64, bool) {
	ids := make(map[string]bool)
	for _, row := range rows {
		ns, ok := timeRead(row)
		if !ok {
			return nil, false
		}
		if age := recordedNow.UnixNano() - ns; ns <= recordedNow.UnixNano() && age >= 0 && age <= int64(24*time.Hour) {
			ids[row.Tags["VMID"]] = true
		}
	}
	delete(ids, "")
	return map[string]float64{"memdump_monitored_vms": float64(len(ids))}, true
}

// judges reports whether a metric's value is verified here, and not by the recordings only.
func (j judged) judges(metric string) bool {
	rows, err := influxtest.ReadResponse([]byte(j.good))
	values, _ := j.values(rows)
	_, ok := values[metric]
	return ok && err == nil
}

// FuzzScrape: whatever a server responds to one query, and whatever version it reports, /metrics is
// valid, the metrics of the other queries are present, and those of that query are true or absent.
// No output contains the token, and each log event is one line.
func FuzzScrape(f *testing.F) {
	for i, j := range judgedQueries {
		servers := influxtest.Servers("edges", "traps")
		for _, e := range influxtest.MustLoad(f, servers[i%len(servers)], "edges").Exchanges {
			if len(e.Response.Body) < 1024 {
				f.Add(byte(i), uint16(e.Response.Status), []byte(e.Response.Body), "1.8.10")
			}
		}
		f.Add(byte(i), uint16(200), []byte(j.good), "v3.6.0")
		f.Add(byte(i), uint16(401), []byte(`{"error":"`+canary+`"}`), canary)
		f.Add(byte(i), uint16(404), []byte("a\nlevel=info msg=forged"), "")
		f.Add(byte(i), uint16(200), []byte(rowsOf(`"time","dumps"`, `["`+canary+`",1]`)), "a\"\n\\\x1b\u202e{}\xff")
	}
	f.Add(byte(3), uint16(200), []byte(rowsOf(`"time","sum","count"`, `[0,10,4],[0,1,-2]`)), "2.7.12")
	f.Add(byte(1), uint16(200), []byte(rowsOf(`"time","compressed"`, `[0,9223372036854775807],[0,1]`)), strings.Repeat("é", 40))
	f.Add(byte(2), uint16(200), []byte(rowsOf(`"time","raw"`, `[0,1e-400],[0,0.5]`)), "1.8.10")
	f.Fuzz(func(t *testing.T, which byte, status uint16, body []byte, version string) {
		target := judgedQueries[int(which)%len(judgedQueries)]
		if status < 200 || status > 599 {
			status = 200
		}
		var logged lines
		got := fuzzedScrape(t, &logged, which, target.query, int(status), string(body), version)
		logged.check(t)
		for _, j := range judgedQueries {
			response := []byte(j.good)
			if j.query == target.query {
				response = body
			}
			rows, err := influxtest.ReadResponse(response)
			if errors.Is(err, influxtest.ErrDuplicateKey) {
				continue
			}
			want, known := j.values(rows)
			known = known && err == nil && (j.query != target.query || status == http.StatusOK)
			for _, q := range queries {
				for _, m := range q.metrics {
					if q.name == j.query && j.judges(m.name) {
						wantJudged(t, got, m.name, want, known, j.query == target.query)
					}
				}
			}
		}
	})
}

func wantJudged(t *testing.T, got exposition, metric string, want map[string]float64, known, mayFail bool) {
	t.Helper()
	value, there := got.value(metric)
	wanted, judged := want[metric]
	if !judged && known && !there || strings.HasSuffix(metric, "_monitored_domains") {
		return
	}
	if there && (!known || !judged || value != wanted) || !there && !mayFail {
		t.Errorf("%s: there %v, %v; to be known %v, %v", metric, there, value, known, wanted)
	}
}

// fuzzedScrape scrapes a database that responds to one query with a body, and well to the others.
func fuzzedScrape(t *testing.T, logged *lines, which byte, query string, status int, body, version string) exposition {
	t.Helper()
	reported, err := json.Marshal(map[string]string{"version": version})
	if err != nil {
		t.Fatal(err)
	}
	d := scripted(func(path, statement string) (int, string, string) {
		switch {
		case path == "/ping" && which < 128:
			return http.StatusNoContent, version, ""
		case path == "/ping":
			return http.StatusOK, "", string(reported)
		case strings.HasPrefix(statement, "SHOW FIELD"):
			return http.StatusOK, version, fieldKeys("sha256", "string", "gzip_size_bytes", "integer", "raw_size_bytes", "float",
				"duration_sec", "float")
		case strings.HasPrefix(statement, "SHOW TAG"):
			return http.StatusOK, version, rowsOf(`"tagKey"`, `["vmid"],["VMID"]`)
		}
		for _, j := range judgedQueries {
			if q := queryNamed(j.query); strings.HasPrefix(statement, "SELECT "+q.columns+" FROM") {
				if j.query == query {
					return status, version, body
				}
				return http.StatusOK, version, j.good
			}
		}
		return http.StatusOK, version, rejected // a history, where the response is too large
	})
	token := func() (string, error) { return canary, nil }
	e := newExporter(t, newClientOver(t, d, influx.Config{Token: token}), func(c *Config) { c.PerVM, c.Logger = 0, logged })
	got := scrape(t, e)
	if strings.Contains(got.text, canary) {
		t.Fatalf("the token is in\n%s", got.text)
	}
	for name, family := range got.families {
		for _, m := range family.GetMetric() {
			if math.IsNaN(m.GetGauge().GetValue()) {
				t.Errorf("%s is NaN", name)
			}
			for _, label := range m.GetLabel() {
				if value := label.GetValue(); len(value) > 40 || strings.ContainsFunc(value, unicode.IsControl) {
					t.Errorf("%s has the label %q", name, value)
				}
			}
		}
	}
	return got
}

func queryNamed(name string) query {
	return queries[slices.IndexFunc(queries, func(q query) bool { return q.name == name })]
}
