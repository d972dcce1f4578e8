package collector_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"memdump_exporter/collector"
	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// canary is a token that must not come back in anything that leaves.
const canary = "t0p-s3cr3t-c4n4ry"

// told is a database in memory that answers as told.
type told func(path, statement string) (status int, version, body string)

func (d told) RoundTrip(r *http.Request) (*http.Response, error) {
	status, version, body := d(r.URL.Path, r.URL.Query().Get("q"))
	header := http.Header{}
	if version != "" {
		header.Set("X-Influxdb-Version", version)
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

func (d told) collector(tb testing.TB, logger log.Logger) *collector.Collector {
	tb.Helper()
	client, err := influx.New(influx.Config{URL: "http://memory", Database: "db", Transport: d, Token: func() (string, error) { return canary, nil }})
	if err != nil {
		tb.Fatal(err)
	}
	col := collector.New(collector.Config{
		Database: client, DumpsMeasurement: "d", TelemetryMeasurement: "t", TelemetryLookback: time.Hour, Ranges: ranges.Whole,
		Logger: logger, Now: func() time.Time { return recordedNow },
	})
	return col
}

// lines takes log lines, and says how many there should be.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
	n    int
}

func (l *lines) Log(fields ...any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
	return log.NewLogfmtLogger(&l.text).Log(fields...)
}

func (l *lines) check(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := strings.Count(l.text.String(), "\n"); n != l.n {
		t.Fatalf("%d lines for %d events:\n%s", n, l.n, l.text.String())
	}
	for line := range strings.Lines(l.text.String()) {
		line = strings.TrimSuffix(line, "\n")
		if len(line) > 2048 || !utf8.ValidString(line) || strings.ContainsFunc(line, unicode.IsControl) || strings.Contains(line, canary) {
			t.Fatalf("not fit for a log, in %d bytes: %.3000q", len(line), line)
		}
	}
}

// judged is a figure, a part of its question, a good answer, and what it is by plain
// reading of the rows; false when there is nothing to say.
type judged struct {
	gauge, part, good string
	value             func([]influxtest.AnswerRow) (float64, bool)
}

var figures = []judged{
	{"memdump_dumps", `COUNT("sha256")`, answerOf(`"value"`, `[0,41]`), totalOf},
	{"memdump_dumped_vms", `GROUP BY "vmid"`, `{"results":[{"series":[{"tags":{"vmid":"a"},"columns":["time"],"values":[[1]]},{"tags":{"vmid":"b"},"columns":["time"],"values":[[2],[3]]}]}]}`,
		membersOf("vmid", math.MinInt64, math.MaxInt64)},
	{"memdump_dumps_compressed_bytes", `SUM("gzip`, answerOf(`"value"`, `[0,9007199254740993]`), totalOf},
	{"memdump_dump_duration_mean_seconds", `SUM("duration`, answerOf(`"sum","count"`, `[0,10.5,4]`), meanOf},
	{"memdump_last_dump_timestamp_seconds", `"sha256" AS "value" FROM "d" ORDER`, answerOf(`"value"`, `[1762857000000000001,"x"]`), newestOf},
	{"memdump_monitored_vms", `GROUP BY "VMID"`, fmt.Sprintf(`{"results":[{"series":[{"tags":{"VMID":"a"},"columns":["time"],"values":[[%d]]}]}]}`, recordedNow.UnixNano()),
		membersOf("VMID", recordedNow.Add(-time.Hour).UnixNano(), recordedNow.UnixNano())},
}

func answerOf(columns, row string) string {
	return `{"results":[{"series":[{"name":"d","columns":["time",` + columns + `],"values":[` + row + `]}]}]}`
}

func columnOf(row influxtest.AnswerRow, name string) any {
	if i := slices.Index(row.Columns, name); i >= 0 {
		return row.Values[i]
	}
	return nil
}

// wholeOf is exact, or false.
func wholeOf(value any) (int64, bool) {
	number, ok := value.(json.Number)
	if n, err := strconv.ParseInt(number.String(), 10, 64); ok && err == nil {
		return n, true
	}
	f, err := strconv.ParseFloat(number.String(), 64)
	return int64(f), ok && err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53
}

func timeOf(row influxtest.AnswerRow) (int64, bool) {
	value := columnOf(row, "time")
	text, ok := value.(string)
	if !ok {
		return wholeOf(value)
	}
	if !strings.ContainsAny(text[min(len(text), 10):], "Zz+-") {
		text += "Z"
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	return t.UnixNano(), err == nil && t.Year() >= 1678 && t.Year() <= 2261
}

func totalOf(rows []influxtest.AnswerRow) (float64, bool) {
	var total uint64
	for _, row := range rows {
		n, ok := wholeOf(columnOf(row, "value"))
		if total += uint64(n); !ok || n < 0 || total > math.MaxInt64 {
			return 0, false
		}
	}
	return float64(total), true
}

func meanOf(rows []influxtest.AnswerRow) (float64, bool) {
	sum, count := 0.0, int64(0)
	for _, row := range rows {
		n, ok := wholeOf(columnOf(row, "count"))
		if !ok || n < 0 {
			return 0, false
		}
		if n == 0 {
			continue
		}
		number, _ := columnOf(row, "sum").(json.Number)
		f, err := number.Float64()
		if err != nil {
			return 0, false
		}
		sum, count = sum+f, count+n
	}
	return sum / float64(count), count > 0
}

func newestOf(rows []influxtest.AnswerRow) (float64, bool) {
	newest := int64(math.MinInt64)
	for _, row := range rows {
		ns, ok := timeOf(row)
		if !ok {
			return 0, false
		}
		newest = max(newest, ns)
	}
	return float64(newest/1e9) + float64(newest%1e9)/1e9, len(rows) > 0
}

func membersOf(tag string, from, to int64) func([]influxtest.AnswerRow) (float64, bool) {
	return func(rows []influxtest.AnswerRow) (float64, bool) {
		members := map[string]bool{}
		for _, row := range rows {
			ns, ok := timeOf(row)
			if !ok || row.Tags[tag] == "" {
				return 0, false
			}
			members[row.Tags[tag]] = members[row.Tags[tag]] || from <= ns && ns <= to
		}
		n := 0.0
		for _, within := range members {
			if within {
				n++
			}
		}
		return n, true
	}
}

// FuzzScrape: whatever a server answers to one question, and says of itself, /metrics is
// valid, the other figures are there, that one is true or absent, and nothing that
// leaves holds the token or is more than a line of a log.
func FuzzScrape(f *testing.F) {
	for i := range figures {
		for _, e := range influxtest.MustLoad(f, influxtest.Servers("edges")[i%4], "edges").Exchanges {
			if len(e.Response.Body) < 1024 {
				f.Add(byte(i), uint16(e.Response.Status), []byte(e.Response.Body), "1.8.10")
			}
		}
		f.Add(byte(i), uint16(200), []byte(figures[i].good), "v3.6.0")
		f.Add(byte(i), uint16(401), []byte(`{"error":"`+canary+`"}`), canary)
		f.Add(byte(i), uint16(404), []byte("a\nlevel=info msg=forged"), "")
		f.Add(byte(i), uint16(200), []byte(answerOf(`"value"`, `["`+canary+`",1]`)), "a\"\n\\\x1b\u202e{}\xff")
	}
	f.Add(byte(3), uint16(200), []byte(answerOf(`"sum","count"`, `[0,10,4],[0,1,-2]`)), "2.7.12")
	f.Add(byte(2), uint16(200), []byte(answerOf(`"value"`, `[0,9223372036854775807],[0,1]`)), strings.Repeat("é", 40))
	f.Fuzz(func(t *testing.T, which byte, status uint16, body []byte, version string) {
		judged := figures[int(which)%len(figures)]
		if status < 200 || status > 599 {
			status = 200
		}
		d := told(func(path, statement string) (int, string, string) {
			said, err := json.Marshal(map[string]string{"version": version})
			switch {
			case err != nil:
				t.Fatal(err)
			case path == "/ping" && which < 128:
				return http.StatusNoContent, version, ""
			case path == "/ping":
				return http.StatusOK, "", string(said)
			case strings.Contains(statement, judged.part):
				return int(status), version, string(body)
			case strings.HasPrefix(statement, "SHOW"):
				return http.StatusOK, version, fieldKeys("sha256", "gzip_size_bytes", "duration_sec")
			}
			for _, other := range figures {
				if strings.Contains(statement, other.part) {
					return http.StatusOK, version, other.good
				}
			}
			return http.StatusNotFound, version, ""
		})
		var logged lines
		col := d.collector(t, &logged)
		w := httptest.NewRecorder()
		handler := col.Handler(collector.HandlerConfig{Self: prometheus.NewRegistry(), Timeout: time.Minute})
		handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
		logged.check(t)

		text := w.Body.String()
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(strings.NewReader(text))
		// But for the many series that are always the same.
		problems, lintErr := promlint.New(strings.NewReader(remove(text, "memdump_query_errors_total"))).Lint()
		if err != nil || lintErr != nil || len(problems) > 0 || w.Code != http.StatusOK || strings.Contains(text, canary) {
			t.Fatalf("HTTP %d, %v, %v, %v\n%s", w.Code, err, lintErr, problems, text)
		}
		series := 0
		for name, family := range families {
			series += len(family.Metric)
			if family.GetMetric()[0].Gauge != nil && math.IsNaN(family.GetMetric()[0].GetGauge().GetValue()) {
				t.Errorf("%s is NaN", name)
			}
		}
		if series > 30*len(col.Statuses()) {
			t.Errorf("%d series", series)
		}
		for _, m := range families["memdump_influxdb_info"].GetMetric() {
			for _, label := range m.GetLabel() {
				plain := !strings.ContainsFunc(version, func(r rune) bool { return r <= ' ' || r > '~' }) && len(version) <= 40
				value := label.GetValue()
				if label.GetName() == "version" && (plain && !strings.Contains(version, canary) && value != strings.TrimPrefix(version, "v") || len(value) > 40 || strings.ContainsFunc(value, unicode.IsControl)) {
					t.Errorf("version %q as the label %q", version, value)
				}
			}
		}
		for _, one := range figures {
			answer := []byte(one.good)
			if one.gauge == judged.gauge {
				answer = body
			}
			rows, err := influxtest.ReadAnswer(answer)
			if errors.Is(err, influxtest.ErrTwice) {
				continue
			}
			want, known := one.value(rows)
			known = known && err == nil && (one.gauge != judged.gauge || status == http.StatusOK)
			got, there := 0.0, false
			if family := families[one.gauge]; family != nil {
				got, there = family.GetMetric()[0].GetGauge().GetValue(), true
			}
			if there && (!known || got != want) || !there && one.gauge != judged.gauge {
				t.Errorf("%s: there %v, %v; to be known %v, %v (%v)", one.gauge, there, got, known, want, err)
			}
		}
	})
}

var (
	quoted      = `'(?:[^'\\\n]|\\['"\\n])*'`
	condition   = `(?:"(?:vmid|dom)" = ` + quoted + `|time (?:>=|<) -?[0-9]{1,19})`
	ofRecords   = regexp.MustCompile(`^SELECT ("[a-z0-9_]+",?)+ FROM "d"(?: WHERE ` + condition + `(?: AND ` + condition + `){0,3})? ORDER BY time DESC LIMIT ([0-9]+) OFFSET ([0-9]+)$`)
	quotedValue = regexp.MustCompile(`= (` + quoted + `)`)
)

// FuzzRecords: a query string is refused, and InfluxDB not asked, or is one statement
// of the known form, with its names as quoted text and the rest as integers; and
// whatever is answered to that, /records is JSON or a failure.
func FuzzRecords(f *testing.F) {
	row := `{"results":[{"series":[{"columns":["time","dom","vmid","duration_sec"],"values":[[5,"a","1",1.50],[5,"b",null,1e3]]}]}]}`
	for _, raw := range []string{"", "limit=1&offset=2", "limit=0", "limit=10001", "offset=1001", "vmid=it%27s&dom=a%5Cb&from=1&to=2", "from=2025-11-11T10:30:00Z", "limit=1;DROP", "limit=%00", "vmid=%0a", "a=b", "limit=1&limit=1", "offset=99999999999999999999", "dom=%22", "%zz", "to=9999999999.999999999"} {
		f.Add(raw, []byte(row))
	}
	for _, value := range hostile {
		f.Add("offset="+value, []byte(`{"results":[{"error":"`+canary+`"}]}`))
	}
	f.Fuzz(func(t *testing.T, raw string, body []byte) {
		var asked []string
		d := told(func(path, statement string) (int, string, string) {
			if path == "/ping" {
				return http.StatusNoContent, "1.8.10", ""
			}
			asked = append(asked, statement)
			if strings.HasPrefix(statement, "SHOW") {
				return http.StatusOK, "1.8.10", fieldKeys("sha256")
			}
			return http.StatusOK, "1.8.10", string(body)
		})
		var logged lines
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/records", nil)
		r.URL.RawQuery = raw
		cut := false
		func() {
			defer func() {
				switch recovered := recover(); recovered {
				case nil:
				case http.ErrAbortHandler:
					cut = true
				default:
					panic(recovered)
				}
			}()
			d.collector(t, &logged).Records(collector.RecordsConfig{HandlerConfig: collector.HandlerConfig{Timeout: time.Minute}, MaxOffset: 1000, AtOnce: 1}).ServeHTTP(w, r)
		}()
		logged.check(t)
		var answer struct {
			Records              []map[string]any
			Count, Limit, Offset int64
			Error                string
		}
		if err := json.Unmarshal(w.Body.Bytes(), &answer); !cut && err != nil {
			t.Fatalf("HTTP %d, %v: %s", w.Code, err, w.Body)
		}
		if strings.Contains(answer.Error, canary) || len(answer.Error) > 2048 {
			t.Fatalf("%q", answer.Error)
		}
		if w.Code == http.StatusBadRequest {
			if len(asked) > 0 || answer.Error == "" {
				t.Fatalf("%q: %q, asked %q", raw, answer.Error, asked)
			}
			return
		}
		if len(asked) == 0 || len(asked) > 2 {
			t.Fatalf("%q: asked %q", raw, asked)
		}
		form := ofRecords.FindStringSubmatch(asked[0])
		if form == nil {
			t.Fatalf("%q: asked %q", raw, asked)
		}
		limit, _ := strconv.ParseInt(form[2], 10, 64)
		offset, _ := strconv.ParseInt(form[3], 10, 64)
		if limit < 1 || limit > 10_000 || offset > 1000 {
			t.Fatalf("%q: asked %q", raw, asked)
		}
		given, err := url.ParseQuery(raw)
		if err != nil { // what url.ParseQuery refuses, parseQuery may read
			return
		}
		for _, value := range quotedValue.FindAllStringSubmatch(asked[0], -1) {
			text := strings.NewReplacer(`\\`, `\`, `\'`, `'`, `\n`, "\n").Replace(value[1][1 : len(value[1])-1])
			if text != given.Get("vmid") && text != given.Get("dom") {
				t.Fatalf("%q: asked %q", raw, asked)
			}
		}
		if w.Code == http.StatusOK && !cut && (answer.Limit != limit || answer.Offset != offset || answer.Count != int64(len(answer.Records)) || answer.Error != "") {
			t.Fatalf("%q: %s", raw, w.Body)
		}
	})
}
