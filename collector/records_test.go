package collector_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"

	"memdump_exporter/collector"
	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx/influxtest"
)

func recordsOf(t testing.TB, col *collector.Collector) string {
	t.Helper()
	return influxtest.Handle(t, col.Records(collector.RecordsConfig{
		HandlerConfig: collector.HandlerConfig{Self: prometheus.NewRegistry(), Timeout: 10 * time.Second, TimeoutOffset: 500 * time.Millisecond},
		MaxOffset:     100_000, AtOnce: 2,
	}).ServeHTTP)
}

// page is an answer of /records.
type page struct {
	Records              []map[string]any
	Count, Limit, Offset json.Number
	Error                string
}

// ask returns the status, the page, and the path of the next one.
func askRecords(t testing.TB, target string) (status int, p page, next string) {
	t.Helper()
	resp, err := http.Get(target)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if form := resp.Header.Get("Content-Type"); form != "application/json" {
		t.Errorf("%s: HTTP %d is said to be %q", target, resp.StatusCode, form)
	}
	decoder := json.NewDecoder(resp.Body)
	decoder.UseNumber()
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	if link, ok := strings.CutSuffix(resp.Header.Get("Link"), `>; rel="next"`); ok {
		next = strings.TrimPrefix(link, "<")
	}
	return resp.StatusCode, p, next
}

// TestRecords_recordings: the pages that the recordings hold, from each server.
func TestRecords_recordings(t *testing.T) {
	for _, server := range influxtest.Servers("traps", "edges", "one-point", "identity") {
		for _, scenario := range []string{"traps", "edges", "one-point"} {
			recording := influxtest.MustLoad(t, server, scenario)
			replay := influxtest.Serve(t, recording, influxtest.MustLoad(t, server, "identity"))
			front := recordsOf(t, newCollector(t, newClient(t, replay.URL, databaseOf(t, server, scenario))))
			for label, query := range map[string]string{
				"records_1000_0": "", "records_2_0": "?limit=2", "records_2_1": "?limit=2&offset=1", "records_5_100000": "?limit=5&offset=100000",
			} {
				status, got, _ := askRecords(t, front+"/records"+query)
				want := recordedRows(t, recording, label)
				if status != 200 || got.Count.String() != fmt.Sprint(len(want)) {
					t.Fatalf("%s, %s, %s: HTTP %d, %s records, want %d; not recorded: %q", server, scenario, label, status, got.Count, len(want), replay.Unknown())
				}
				sameRecords(t, server+" "+label, got.Records, want)
			}
		}
	}
}

// recordedRows reads a recorded page in another way.
func recordedRows(t *testing.T, recording influxtest.Recording, label string) (rows []map[string]any) {
	t.Helper()
	for _, e := range recording.Exchanges {
		if e.Label != label {
			continue
		}
		var d struct {
			Results []struct {
				Series []struct {
					Columns []string
					Values  [][]any
				}
			}
		}
		decoder := json.NewDecoder(strings.NewReader(e.Response.Body))
		decoder.UseNumber()
		if err := decoder.Decode(&d); err != nil {
			t.Fatal(err)
		}
		for _, series := range d.Results[0].Series {
			for _, values := range series.Values {
				row := map[string]any{}
				for i, column := range series.Columns {
					row[column] = values[i]
				}
				ns, _ := row["time"].(json.Number).Int64()
				row["timestamp"] = time.Unix(0, ns).UTC().Format("2006-01-02T15:04:05.000Z")
				delete(row, "time")
				rows = append(rows, row)
			}
		}
	}
	return rows
}

// sameRecords compares records whatever the order of equal times; numbers by value,
// and whole ones by their digits.
func sameRecords(t *testing.T, what string, got, want []map[string]any) {
	t.Helper()
	key := func(r map[string]any) string {
		text, _ := json.Marshal(r)
		var normal map[string]any
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		_ = decoder.Decode(&normal)
		for name, value := range normal {
			if n, ok := value.(json.Number); ok {
				if _, err := n.Int64(); err != nil {
					f, _ := n.Float64()
					normal[name] = f
				}
			}
		}
		text, _ = json.Marshal(normal)
		return string(text)
	}
	count := map[string]int{}
	for _, r := range want {
		count[key(r)]++
	}
	for _, r := range got {
		if count[key(r)]--; count[key(r)] < 0 {
			t.Errorf("%s: not written, or too often: %s", what, key(r))
		}
	}
	for r, n := range count {
		if n > 0 {
			t.Errorf("%s: missing: %s", what, r)
		}
	}
	if !slices.IsSortedFunc(got, func(a, b map[string]any) int {
		return -strings.Compare(a["timestamp"].(string), b["timestamp"].(string))
	}) {
		t.Errorf("%s: not newest first", what)
	}
}

// writtenRecords are the records of a history, as /records must give them.
func writtenRecords(h *influxtest.History) (records []map[string]any) {
	for _, p := range h.Points(influxtest.Dumps) {
		r := map[string]any{"timestamp": time.Unix(0, p.TimeNs).UTC().Format("2006-01-02T15:04:05.000Z")}
		for _, name := range []string{"dom", "vmid", "sha256", "duration_sec", "gzip_size_bytes", "ctime", "mtime", "atime", "dump_path"} {
			r[name] = p.Fields[name]
			if tag := p.Tags[name]; tag != "" {
				r[name] = tag
			}
		}
		if p.Fields["sha256"] != nil || p.Fields["duration_sec"] != nil || p.Fields["gzip_size_bytes"] != nil {
			records = append(records, r)
		}
	}
	return records
}

// TestRecords_pages: paged through by its links, the whole history is there, once each,
// also behind the file limit of InfluxDB 3, and whatever is recorded meanwhile.
func TestRecords_pages(t *testing.T) {
	server := influxdb.Server(t)
	now := time.Now()
	h := edgy(rand.New(rand.NewPCG(5, 5)), now)
	server.MustStore(t, "pages", h)
	recorded := 0
	for _, tt := range []struct {
		limit int
		mode  ranges.Mode
	}{{100_000, ranges.Auto}, {100_000, ranges.Cached}, {20, ranges.Cached}, {2, ranges.Auto}} {
		front := influxtest.LimitFiles(t, server.URL, "influxdb-3.8.3", tt.limit)
		front.Holds(h)
		col := collectorAt(t, newClient(t, front.URL, "pages"), tt.mode, &clock{now})
		scrape(t, col)
		_, learnt := front.Asked()
		base := recordsOf(t, col)
		want := writtenRecords(h)
		var got []map[string]any
		pages := 0
		for path := "/records?limit=37"; path != ""; pages++ {
			status, p, next := askRecords(t, base+path)
			if status != 200 {
				t.Fatalf("HTTP %d: %s", status, p.Error)
			}
			got = append(got, p.Records...)
			path = next
			// A dump is recorded between two pages.
			late := influxtest.Point{Measurement: influxtest.Dumps, Tags: map[string]string{"dom": "d", "vmid": "v"}, Fields: map[string]any{"sha256": "late"},
				TimeNs: now.Add(60*24*time.Hour + time.Duration(recorded)*time.Minute).UnixNano()}
			recorded++
			h.Add(late)
			front.Holds(h)
			if err := server.Write(t.Context(), "pages", []string{late.Line()}); err != nil {
				t.Fatal(err)
			}
		}
		sameRecords(t, fmt.Sprint(tt.limit, " files, ", tt.mode), got, want)
		if _, refused := front.Asked(); refused-learnt > pages {
			t.Errorf("%d questions for %d pages were refused, though the scrape had learnt what the server takes", refused-learnt, pages)
		}
		if wantPages := len(want)/37 + 1; pages != wantPages {
			t.Errorf("%d pages, want %d", pages, wantPages)
		}
	}
}

// TestRecords_text: the same records are the same bytes, whatever the order of equal times and
// the form of the numbers; and the next page is one of the same records.
func TestRecords_text(t *testing.T) {
	rows := []string{`[1500000000,"b",1.50]`, `[1500000000,"a",1e3]`, `[1500000000,"c",9007199254740993]`, `[1400000000,"a",null]`, `[-1,null,true]`}
	const columns = `"dom","duration_sec"`
	record := func(at, dom, duration string) string {
		return `{"timestamp":"` + at + `Z","dom":` + dom + `,"vmid":null,"sha256":null,"duration_sec":` + duration +
			`,"gzip_size_bytes":null,"ctime":null,"mtime":null,"atime":null,"dump_path":null}`
	}
	want := `{"records":[` + strings.Join([]string{
		record("1970-01-01T00:00:01.500", `"a"`, "1000"), record("1970-01-01T00:00:01.500", `"b"`, "1.5"), record("1970-01-01T00:00:01.500", `"c"`, "9007199254740993"),
		record("1970-01-01T00:00:01.400", `"a"`, "null"), record("1969-12-31T23:59:59.999", "null", "true"),
	}, ",\n") + "],\"count\":5,\"limit\":5,\"offset\":7}\n"
	for range 6 {
		rows[0], rows[1], rows[2] = rows[1], rows[2], rows[0]
		var asked []string
		col := told(func(path, _ string) (int, string, string) {
			asked = append(asked, path)
			return http.StatusOK, "1.8.10", answerOf(columns, strings.Join(rows, ","))
		}).collector(t, log.NewNopLogger())
		handler := col.Records(collector.RecordsConfig{HandlerConfig: collector.HandlerConfig{Timeout: time.Minute}, MaxOffset: 1000, AtOnce: 1})
		for query, next := range map[string]string{
			"limit=5&offset=7":                        "limit=5&offset=12&to=1970-01-01T00%3A00%3A01.500000001Z",
			"limit=5&offset=7&to=9":                   "limit=5&offset=12&to=1970-01-01T00%3A00%3A09Z",
			"limit=5&offset=7&from=0&vmid=v%2F&dom=d": "dom=d&from=1970-01-01T00%3A00%3A00Z&limit=5&offset=12&to=1970-01-01T00%3A00%3A01.500000001Z&vmid=v%2F",
		} {
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/old/path?"+query, nil))
			if got := w.Body.String(); w.Code != http.StatusOK || got != want {
				t.Errorf("%s: HTTP %d\n got %s\nwant %s", query, w.Code, got, want)
			}
			if got := w.Header().Get("Link"); got != "</old/path?"+next+`>; rel="next"` {
				t.Errorf("%s: the next page is %s, want %s", query, got, next)
			}
		}
		if asked[0] != "/ping" { // on which the form of the credentials depends
			t.Errorf("asked %q", asked)
		}
	}
}

// TestRecords_largest: the largest page is read whole, and what is larger than it can be is not.
func TestRecords_largest(t *testing.T) {
	for _, tt := range []struct{ rows, bytes, status int }{{10_000, 4 << 10, http.StatusOK}, {10, 1 << 20, http.StatusBadGateway}} {
		row := `[5,"` + strings.Repeat("x", tt.bytes) + `"]`
		answer := answerOf(`"dump_path"`, strings.Repeat(row+",", tt.rows-1)+row)
		col := told(func(string, string) (int, string, string) { return http.StatusOK, "1.8.10", answer }).collector(t, log.NewNopLogger())
		w := httptest.NewRecorder()
		col.Records(collector.RecordsConfig{HandlerConfig: collector.HandlerConfig{Timeout: time.Minute}, AtOnce: 1}).
			ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprint("/records?limit=", tt.rows), nil))
		if text := w.Body.String(); w.Code != tt.status || tt.status == http.StatusOK && !strings.HasSuffix(text, fmt.Sprintf("],\"count\":%d,\"limit\":%[1]d,\"offset\":0}\n", tt.rows)) {
			t.Errorf("%d rows of %d bytes: HTTP %d, %d bytes", tt.rows, tt.bytes, w.Code, len(text))
		}
	}
}

// TestRecords_filters: by name and by time, with values that need quoting.
func TestRecords_filters(t *testing.T) {
	server := influxdb.Server(t)
	now := time.Unix(1762857000, 0)
	h := &influxtest.History{}
	for i, name := range []string{`it's`, `a"b`, `c\d`, `x' OR '1'='1`, `ünï`, `;DROP DATABASE filters--`, `e f,g=h`} {
		h.Add(influxtest.Point{Measurement: influxtest.Dumps, Tags: map[string]string{"dom": name, "vmid": fmt.Sprint("id", i%2)}, TimeNs: now.Add(-time.Duration(i) * time.Minute).UnixNano(),
			Fields: map[string]any{"sha256": name, "duration_sec": 1.5, "gzip_size_bytes": int64(1)<<60 + int64(i)}})
	}
	server.MustStore(t, "filters", h)
	base := recordsOf(t, collectorAt(t, newClient(t, server.URL, "filters"), ranges.Auto, &clock{now}))
	all := writtenRecords(h)
	for _, r := range all {
		_, got, _ := askRecords(t, base+"/records?dom="+url.QueryEscape(r["dom"].(string)))
		sameRecords(t, fmt.Sprint("dom ", r["dom"]), got.Records, []map[string]any{r})
	}
	for query, want := range map[string][]map[string]any{
		"vmid=id1":                           {all[1], all[3], all[5]},
		"vmid=id1&dom=a%22b":                 {all[1]},
		"vmid=none":                          nil,
		"from=2025-11-11T10:28:00Z":          all[:3],
		"to=1762857000":                      all[1:],
		"to=1762857000.000000001&limit=2":    all[:2],
		"from=1762856760&to=1762856820":      {all[4]},
		"from=2025-11-11T11:26:00%2B01:00":   all[:5],
		"vmid=id0&from=1762856880&offset=1":  {all[2]},
		"limit=10000&offset=100000&vmid=id0": nil,
	} {
		status, got, _ := askRecords(t, base+"/records?"+query)
		if status != 200 {
			t.Errorf("%s: HTTP %d, %s", query, status, got.Error)
		}
		sameRecords(t, query, got.Records, want)
	}
}

// hostile are values that no parameter of numbers or times takes.
var hostile = []string{"", "-1", "+1", "1e3", "1e30", "1e18", "0x10", "1.5.5", "9223372036854775808", "99999999999999999999", "NaN", "Inf", "null",
	"1;DROP DATABASE x", "1 OR 1=1", "'", `"`, "%00", "1%00", "%0a", "1\n", "a", "१", "１", "--", "limit", "1,2", "[1]", "{}", "true", " 1", "1 ", strings.Repeat("9", 5000)}

// TestRecords_refuses: what is not as expected is 400, names the parameter, and never
// reaches InfluxDB.
func TestRecords_refuses(t *testing.T) {
	var asked atomic.Int64
	url_ := newServer(t, func(string) string { asked.Add(1); return `{"results":[{}]}` })
	base := recordsOf(t, newCollector(t, newClient(t, url_, "db")))
	refused := func(query, parameter string) {
		t.Helper()
		status, p, _ := askRecords(t, base+"/records?"+query)
		if status != http.StatusBadRequest || !strings.Contains(p.Error, parameter) || len(p.Error) > 300 {
			t.Errorf("%.60q: HTTP %d, %q, want it to name %q", query, status, p.Error, parameter)
		}
	}
	for _, name := range []string{"limit", "offset", "from", "to"} {
		for _, value := range hostile {
			escaped := strings.NewReplacer("%", "%", " ", "%20", "\n", "%0A", `"`, "%22").Replace(value)
			refused(name+"="+escaped, name)
		}
	}
	rng := rand.New(rand.NewPCG(4, 4))
	for range 500 {
		for _, name := range []string{"limit", "offset", "from", "to"} {
			refused(name+"="+url.QueryEscape(hostileName(rng)), name)
		}
	}
	for _, name := range []string{"vmid", "dom"} {
		for _, value := range []string{"", "%00", "a%0Ab", "%7f", "%ff", "%C3%28", strings.Repeat("a", 513)} {
			refused(name+"="+value, name)
		}
	}
	refused("limit=0", "limit")
	refused("limit=10001", "limit")
	refused("offset=100001", "offset")
	refused("limit=1&limit=1", "limit")
	refused("vmid=a&vmid=a", "vmid")
	refused("order=asc", "order")
	refused("Limit=1", "Limit")
	refused("q=DROP", "q")
	refused("limit=%2B1", "limit")
	refused("limit=%zz", "percent-encoded")
	refused("%zz=1", "decoded")
	refused("a;b", "a;b")
	refused("from=2&to=2", "from")
	refused("from=3&to=2", "from")
	if n := asked.Load(); n != 0 {
		t.Errorf("InfluxDB was asked %d times", n)
	}
}

// TestRecords_hostileNames: five hundred hostile names are names, and nothing else.
func TestRecords_hostileNames(t *testing.T) {
	server := influxdb.Server(t)
	h := influxtest.Believable(3, time.Now())
	server.MustStore(t, "names", h)
	front := influxtest.LimitFiles(t, server.URL, "influxdb-3.6.0", 1e9) // counts, and refuses nothing
	front.Holds(h)
	col := collectorAt(t, newClient(t, front.URL, "names"), ranges.Auto, &clock{time.Now()})
	base := recordsOf(t, col)
	rng := rand.New(rand.NewPCG(9, 9))
	for range 500 {
		value := hostileName(rng)
		for _, name := range []string{"vmid", "dom"} {
			status, p, _ := askRecords(t, base+"/records?"+url.Values{name: {value}}.Encode())
			if status != 200 || len(p.Records) != 0 {
				t.Errorf("%s=%q: HTTP %d, %d records, %s", name, value, status, len(p.Records), p.Error)
			}
		}
	}
	if questions, _ := front.Asked(); questions != 1000 {
		t.Errorf("a thousand requests were %d questions", questions)
	}
	sameGauges(t, col, scrape(t, col), truthOf(h, time.Now()))
}

// hostileName is a name of what means something to somebody.
func hostileName(rng *rand.Rand) (name string) {
	pieces := []string{"'", `\`, `"`, ";", "--", "/*", "*/", "DROP MEASUREMENT mem_dumps", " OR ", "1=1", "$1", "%", "\u2028", "ﬀ", "😀", ")", "(", "=", "!=", "=~", "/.*/", "a", " ", "time", "now()", "#", "`"}
	for range 1 + rng.IntN(6) {
		name += pieces[rng.IntN(len(pieces))]
	}
	return name
}

// TestRecords_failures: InfluxDB failing is never an empty list, nor a short one that
// looks whole.
func TestRecords_failures(t *testing.T) {
	const nothing = `{"results":[{"statement_id":0}]}`
	var answer atomic.Value
	arrived := make(chan struct{}, 10)
	influxdb := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		switch body := answer.Load().(string); {
		case r.URL.Path == "/ping":
			w.Header().Set("X-Influxdb-Version", "1.8.10")
		case strings.HasPrefix(r.URL.Query().Get("q"), "SHOW") && body != nothing:
			_, _ = io.WriteString(w, fieldKeys("sha256"))
		case body == "hang":
			arrived <- struct{}{}
			<-r.Context().Done()
		case strings.HasPrefix(body, "cut"):
			_, _ = io.WriteString(w, body[len("cut"):])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		default:
			_, _ = io.WriteString(w, body)
		}
	})
	base := recordsOf(t, newCollector(t, newClient(t, influxdb, "db")))
	begin := `cut{"results":[{"series":[{"name":"mem_dumps","columns":["time","dom","vmid","sha256","duration_sec","gzip_size_bytes","ctime","mtime","atime","dump_path"],"values":[`
	row := func(ns int) string { return fmt.Sprintf(`[%d,"d","v",%q,1,2,3,4,5,"p"]`, ns, strings.Repeat("f", 64)) }
	for _, tt := range []struct {
		name, answer string
		status       int
	}{
		{"database missing", `{"results":[{"error":"database not found: db"}]}`, http.StatusBadGateway},
		{"no measurement", nothing, http.StatusBadGateway},
		{"a time that is none", answerOf(`"dom"`, `["soon","d"]`), http.StatusBadGateway},
		{"a number that is none", answerOf(`"duration_sec"`, `[5,1e999]`), http.StatusBadGateway},
		{"no JSON", `<html>`, http.StatusBadGateway},
		{"cut before the first record", begin, http.StatusBadGateway},
		{"cut soon after", begin + row(9) + "," + row(8), http.StatusBadGateway},
		{"hang", "hang", http.StatusGatewayTimeout},
	} {
		answer.Store(tt.answer)
		req, _ := http.NewRequest(http.MethodGet, base+"/records", nil)
		req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "0.4")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var p page
		err = json.NewDecoder(resp.Body).Decode(&p)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tt.status || p.Error == "" || p.Records != nil {
			t.Errorf("%s: HTTP %d, %+v, %v", tt.name, resp.StatusCode, p, err)
		}
	}
	<-arrived
	var rows []string
	for i := range 500 {
		rows = append(rows, row(1000-i))
	}
	answer.Store(begin + strings.Join(rows, ","))
	resp, err := http.Get(base + "/records")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("cut after %d bytes, and it looks whole", len(text))
	}
	answer.Store("hang")
	waiting := make(chan int, 2)
	for range 2 {
		go func() {
			req, _ := http.NewRequest(http.MethodGet, base+"/records", nil)
			req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "1")
			if resp, err := http.DefaultClient.Do(req); err == nil {
				resp.Body.Close()
				waiting <- resp.StatusCode
			}
		}()
		<-arrived
	}
	busy, err := http.Get(base + "/records?limit=1")
	if err != nil {
		t.Fatal(err)
	}
	busy.Body.Close()
	if busy.StatusCode != http.StatusServiceUnavailable || busy.Header.Get("Retry-After") == "" {
		t.Errorf("HTTP %d, Retry-After %q", busy.StatusCode, busy.Header.Get("Retry-After"))
	}
	for range 2 {
		if status := <-waiting; status != http.StatusGatewayTimeout {
			t.Errorf("HTTP %d", status)
		}
	}
}

// TestOpenAPI holds the description against the handler: parameters with their bounds
// and defaults, and every field of a record.
func TestOpenAPI(t *testing.T) {
	var described struct {
		Paths map[string]struct {
			Get struct {
				Parameters []struct {
					Name   string
					Schema struct {
						Type                      string
						Minimum, Maximum, Default *int64
						MinLength, MaxLength      *int
						Examples                  []string
					}
				}
				Responses map[string]any
			}
		}
		Components struct {
			Schemas map[string]struct {
				Required   []string
				Properties map[string]any
			}
		}
	}
	recorder := httptest.NewRecorder()
	collector.OpenAPI().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/openapi.json", nil))
	if err := json.Unmarshal(recorder.Body.Bytes(), &described); err != nil || recorder.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("%v, %v", err, recorder.Header())
	}
	var asked atomic.Value
	url_ := newServer(t, func(statement string) string {
		asked.Store(statement)
		return `{"results":[{"series":[{"columns":["time","dom"],"values":[[1,"d"]]}]}]}`
	})
	base := recordsOf(t, newCollector(t, newClient(t, url_, "db")))
	accepts := func(query string) bool {
		status, _, _ := askRecords(t, base+"/records?"+query)
		return status == 200
	}
	get := described.Paths["/records"].Get
	var names []string
	for _, p := range get.Parameters {
		names = append(names, p.Name)
		s := p.Schema
		if s.Minimum != nil && (!accepts(fmt.Sprint(p.Name, "=", *s.Minimum)) || accepts(fmt.Sprint(p.Name, "=", *s.Minimum-1))) {
			t.Errorf("%s: the minimum is not %d", p.Name, *s.Minimum)
		}
		if s.Maximum != nil && (!accepts(fmt.Sprint(p.Name, "=", *s.Maximum)) || accepts(fmt.Sprint(p.Name, "=", *s.Maximum+1))) {
			t.Errorf("%s: the maximum is not %d", p.Name, *s.Maximum)
		}
		if s.MaxLength != nil && (!accepts(p.Name+"="+strings.Repeat("a", *s.MaxLength)) || accepts(p.Name+"="+strings.Repeat("a", *s.MaxLength+1)) || accepts(p.Name+"=")) {
			t.Errorf("%s: the lengths are not %d to %d", p.Name, *s.MinLength, *s.MaxLength)
		}
		for _, example := range s.Examples {
			if !accepts(p.Name + "=" + url.QueryEscape(example)) {
				t.Errorf("%s: the example %s is refused", p.Name, example)
			}
		}
		if s.Default != nil {
			accepts("")
			if text := asked.Load().(string); !strings.Contains(text, fmt.Sprintf("%s %d", strings.ToUpper(p.Name), *s.Default)) {
				t.Errorf("%s: the default is not %d: %s", p.Name, *s.Default, text)
			}
		}
	}
	if slices.Sort(names); !slices.Equal(names, []string{"dom", "from", "limit", "offset", "to", "vmid"}) {
		t.Errorf("parameters %q", names)
	}
	_, p, _ := askRecords(t, base+"/records")
	for schema, got := range map[string]any{"Record": p.Records[0], "Page": map[string]any{"records": 0, "count": 0, "limit": 0, "offset": 0}} {
		var fields, properties []string
		for field := range got.(map[string]any) {
			fields = append(fields, field)
		}
		for property := range described.Components.Schemas[schema].Properties {
			properties = append(properties, property)
		}
		required := described.Components.Schemas[schema].Required
		slices.Sort(fields)
		slices.Sort(properties)
		slices.Sort(required)
		if !reflect.DeepEqual(fields, properties) || !reflect.DeepEqual(required, properties) {
			t.Errorf("%s: described %q (required %q), served %q", schema, properties, required, fields)
		}
	}
}
