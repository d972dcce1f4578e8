package records_test

import (
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

	"memdump_exporter/collector/records"
	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// respond returns the response of a handler to one request.
func respond(t testing.TB, handler http.Handler, target string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil))
	return w
}

// TestRecords_text: the same records give the same bytes, in any order of those with the same time
// and in any format of numbers, and the link to the next page begins after the last record.
func TestRecords_text(t *testing.T) {
	const columns = `"dom","duration_sec"`
	record := func(at, dom, duration string) string {
		return `{"timestamp":"` + at + `Z","dom":` + dom + `,"vmid":null,"sha256":null,"duration_sec":` + duration +
			`,"gzip_size_bytes":null,"ctime":null,"mtime":null,"atime":null,"dump_path":null}`
	}
	all := []string{
		record("1970-01-01T00:00:01.500", `"a"`, "1000"), record("1970-01-01T00:00:01.500", `"b"`, "1.5"),
		record("1970-01-01T00:00:01.500", `"c"`, "9007199254740993"), record("1970-01-01T00:00:01.400", `"a"`, "null"),
		record("1969-12-31T23:59:59.999", "null", "true"),
	}
	const tie = "1970-01-01T00%3A00%3A01.500000001Z"
	for name, tt := range map[string]struct {
		parameters string
		want       []string
		next       string
	}{
		"all":                      {"limit=6&offset=0", all, ""},
		"as many as there are":     {"limit=5&offset=0", all, "limit=5&offset=1&to=1970-01-01T00%3A00%3A00Z"},
		"an end within a tie":      {"limit=2&offset=0", all[:2], "limit=2&offset=2&to=" + tie},
		"both ends within a tie":   {"limit=1&offset=1", all[1:2], "limit=1&offset=2&to=" + tie},
		"a beginning within a tie": {"limit=3&offset=1", all[1:4], "limit=3&offset=1&to=1970-01-01T00%3A00%3A01.400000001Z"},
		"up to a time":             {"limit=1&offset=0&to=9", all[:1], "limit=1&offset=1&to=" + tie},
		"of one VM": {
			"limit=1&offset=2&from=0&vmid=v%2F&dom=d", all[2:3],
			"dom=d&from=1970-01-01T00%3A00%3A00Z&limit=1&offset=3&to=" + tie + "&vmid=v%2F",
		},
	} {
		rows := []string{
			`[1500000000,"b",1.50]`, `[1500000000,"a",1e3]`, `[1500000000,"c",9007199254740993]`, `[1400000000,"a",null]`, `[-1,null,true]`,
		}
		for range 3 {
			rows[0], rows[1], rows[2] = rows[1], rows[2], rows[0]
			client := fake(func(_, statement string) (int, string, string) {
				if strings.Contains(statement, "LIMIT") {
					return http.StatusOK, "1.8.10", noRows
				}
				w := windowOf(statement)
				var within []string
				for i, ns := range []int64{1.5e9, 1.5e9, 1.5e9, 1.4e9, -1} {
					if w.Contains(ns) {
						within = append(within, rows[i])
					}
				}
				return http.StatusOK, "1.8.10", response(columns, strings.Join(within, ","))
			}).client(t, influx.APIAuto)
			w := respond(t, newHandler(newSource(client, time.Unix(2, 0))), "/prefix/records?"+tt.parameters)
			var limit, offset int
			if _, err := fmt.Sscanf(tt.parameters, "limit=%d&offset=%d", &limit, &offset); err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("{\"records\":[%s],\"count\":%d,\"limit\":%d,\"offset\":%d}\n",
				strings.Join(tt.want, ",\n"), len(tt.want), limit, offset)
			if got := w.Body.String(); w.Code != http.StatusOK || got != want {
				t.Errorf("%s: HTTP %d\n got %s\nwant %s", name, w.Code, got, want)
			}
			link := ""
			if tt.next != "" {
				link = "<?" + tt.next + `>; rel="next"`
			}
			if got := w.Header().Get("Link"); got != link {
				t.Errorf("%s: the next page is %q, want %q", name, got, link)
			}
		}
	}
}

// TestRecords_largest: the largest page is served, and a larger one is a failure.
func TestRecords_largest(t *testing.T) {
	for name, tt := range map[string]struct{ rows, bytes, status int }{
		"largest page":      {10_000, 300, http.StatusOK},
		"page of 20 MiB":    {640, 32 << 10, http.StatusBadGateway},
		"records of 1 MiB":  {10, 1 << 20, http.StatusBadGateway},
		"records of 64 KiB": {10, 64 << 10, http.StatusOK},
	} {
		var rows []string
		for i := range tt.rows {
			rows = append(rows, fmt.Sprintf(`[%d,"%s"]`, tt.rows-i, strings.Repeat("x", tt.bytes)))
		}
		body := response(`"dump_path"`, strings.Join(rows, ","))
		client := fake(func(_, statement string) (int, string, string) {
			if strings.Contains(statement, "LIMIT") {
				return http.StatusOK, "1.8.10", noRows
			}
			return http.StatusOK, "1.8.10", body
		}).client(t, influx.APIAuto)
		w := respond(t, newHandler(newSource(client, time.Unix(2, 0))), fmt.Sprint("/records?limit=", tt.rows))
		end := fmt.Sprintf("],\"count\":%d,\"limit\":%[1]d,\"offset\":0}\n", tt.rows)
		if text := w.Body.String(); w.Code != tt.status || tt.status == http.StatusOK && !strings.HasSuffix(text, end) {
			t.Errorf("%s: HTTP %d, %d bytes", name, w.Code, len(text))
		}
	}
}

// hostile are values that no numeric and no time parameter accepts.
var hostile = []string{
	"", "-1", "+1", "1e3", "1e30", "1e18", "0x10", "1.5.5", "9223372036854775808", "99999999999999999999", "NaN", "Inf", "null",
	"1;DROP DATABASE x", "1 OR 1=1", "'", `"`, "%00", "1%00", "%0a", "1\n", "a", "१", "１", "--", "limit", "1,2", "[1]", "{}", "true",
	" 1", "1 ", strings.Repeat("9", 5000),
}

// TestRecords_refuses: an invalid parameter gives 400 and an error that names it, and InfluxDB gets
// no request.
func TestRecords_refuses(t *testing.T) {
	var requests atomic.Int64
	url_ := newServer(t, func(string) string { requests.Add(1); return `{"results":[{}]}` })
	base := serve(t, newSource(newClient(t, url_, "db"), recordedNow))
	refused := func(query, parameter string) {
		t.Helper()
		status, p, _ := get(t, base+"/records?"+query)
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
	if n := requests.Load(); n != 0 {
		t.Errorf("InfluxDB got %d requests, want 0", n)
	}
}

// TestRecords_hostileNames: hostile names are quoted, so they select no records.
func TestRecords_hostileNames(t *testing.T) {
	server := influxdb.Server(t)
	h := twoWriters(rand.New(rand.NewPCG(3, 3)), time.Now(), 100, 30)
	server.MustStore(t, "names", h)
	front := influxtest.LimitFiles(t, server.URL, "influxdb-3.6.0", 1e9) // counts, and refuses noRows
	front.Holds(h)
	base := serve(t, newSource(newClient(t, front.URL, "names"), time.Now()))
	rng := rand.New(rand.NewPCG(9, 9))
	for range 200 {
		value := hostileName(rng)
		for _, name := range []string{"vmid", "dom"} {
			status, p, _ := get(t, base+"/records?"+url.Values{name: {value}}.Encode())
			if status != 200 || len(p.Records) != 0 {
				t.Errorf("%s=%q: HTTP %d, %d records, %s", name, value, status, len(p.Records), p.Error)
			}
		}
	}
	if requests, _ := front.Queries(); requests != 400*8 {
		t.Errorf("%d statements for 400 lists, want 8 for each: two for each of four windows", requests)
	}
	_, all, _ := get(t, base+"/records?limit=10000")
	sameRecords(t, "after them", all.Records, h.Records())
}

// hostileName returns a name with parts that have a meaning in InfluxQL or SQL.
func hostileName(rng *rand.Rand) (name string) {
	pieces := []string{
		"'", `\`, `"`, ";", "--", "/*", "*/", "DROP MEASUREMENT mem_dumps", " OR ", "1=1", "$1", "%", "\u2028", "ﬀ", "😀", ")", "(",
		"=", "!=", "=~", "/.*/", "a", " ", "time", "now()", "#", "`",
	}
	for range 1 + rng.IntN(6) {
		name += pieces[rng.IntN(len(pieces))]
	}
	return name
}

// TestRecords_failures: a failure of InfluxDB gives a status and an error, never an empty or
// incomplete list.
func TestRecords_failures(t *testing.T) {
	row := func(ns int) string {
		return fmt.Sprintf(`[%d,"d","v",%q,1,2,3,4,5,"p"]`, recordedNow.UnixNano()-int64(ns), strings.Repeat("f", 64))
	}
	var rows []string
	for i := range 500 {
		rows = append(rows, row(i))
	}
	names := `"dom","vmid","sha256","duration_sec","gzip_size_bytes","ctime","mtime","atime","dump_path"`
	whole := response(names, strings.Join(rows, ","))
	for name, tt := range map[string]struct {
		nth, rows, schema string // "hang" for no response; "cut" before one that is cut
		status            int
	}{
		"database missing":          {`{"results":[{"error":"database not found: db"}]}`, "", "", http.StatusBadGateway},
		"no measurement":            {noRows, noRows, noRows, http.StatusBadGateway},
		"the schema fails":          {noRows, noRows, `{"results":[{"error":"x"}]}`, http.StatusBadGateway},
		"records fail":              {noRows, `{"results":[{"error":"x"}]}`, fieldKeys, http.StatusBadGateway},
		"no JSON":                   {noRows, "<html>", fieldKeys, http.StatusBadGateway},
		"an error after records":    {noRows, strings.Replace(whole, `]}]}]}`, `]}],"error":"x"}]}`, 1), fieldKeys, http.StatusBadGateway},
		"partial":                   {noRows, strings.Replace(whole, `]}]}]}`, `]}],"partial":true}]}`, 1), fieldKeys, http.StatusBadGateway},
		"cut before a record":       {noRows, "cut" + whole[:strings.Index(whole, "[[")+1], fieldKeys, http.StatusBadGateway},
		"cut after five hundred":    {noRows, "cut" + strings.TrimSuffix(whole, "]}]}]}"), fieldKeys, http.StatusBadGateway},
		"hang":                      {noRows, "hang", fieldKeys, http.StatusGatewayTimeout},
		"hang from the beginning":   {"hang", "", fieldKeys, http.StatusGatewayTimeout},
		"hang while schema is read": {noRows, noRows, "hang", http.StatusGatewayTimeout},
	} {
		influxdb := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
			body := tt.rows
			switch statement := r.URL.Query().Get("q"); {
			case strings.HasPrefix(statement, "SHOW"):
				body = tt.schema
			case strings.Contains(statement, "LIMIT"):
				body = tt.nth
			}
			if body == "hang" {
				<-r.Context().Done()
				return
			}
			cut, isCut := strings.CutPrefix(body, "cut")
			_, _ = io.WriteString(w, cut)
			if isCut {
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
		})
		failures, timeout := 0, time.Minute
		if tt.status == http.StatusGatewayTimeout {
			timeout = 400 * time.Millisecond
		}
		handler := records.Handler(newSource(newClient(t, influxdb, "db"), recordedNow), records.Config{
			MaxConcurrent: 1, Timeout: func(http.Header) time.Duration { return timeout }, Failed: func(error) { failures++ },
		})
		w := respond(t, handler, "/records")
		var p page
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != tt.status || p.Error == "" || p.Records != nil {
			t.Errorf("%s: HTTP %d, %+v, %v, want HTTP %d", name, w.Code, p, err, tt.status)
		}
		if failures != 1 {
			t.Errorf("%s: reported %d times", name, failures)
		}
	}
}

// TestRecords_concurrent: requests above the limit get 503 and Retry-After, and the others are served.
func TestRecords_concurrent(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	client := fake(func(_, statement string) (int, string, string) {
		row := fmt.Sprintf(`[%d,"h"]`, recordedNow.UnixNano())
		body := response(`"sha256"`, row)
		if strings.Contains(statement, "LIMIT") {
			arrived <- struct{}{}
			<-release
			body = nthResponse(row)
		}
		return http.StatusOK, "1.8.10", body
	}).client(t, influx.APIInfluxQL)
	base := serve(t, newSource(client, recordedNow))
	statuses := make(chan int, 2)
	for range 2 {
		go func() {
			resp, err := http.Get(base + "/records?limit=1")
			if err != nil {
				t.Error(err)
				statuses <- 0
				return
			}
			resp.Body.Close()
			statuses <- resp.StatusCode
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
	close(release)
	for range 2 {
		if status := <-statuses; status != http.StatusOK {
			t.Errorf("HTTP %d", status)
		}
	}
}

// unidentified is a database whose API is unknown.
type unidentified struct{ *influx.Client }

func (unidentified) API() influx.API { return influx.APIAuto }

// TestRecords_gateway: a gateway gets SQL, where LIMIT and OFFSET count rows. Its empty list is not
// verified, as it has no schema. It is used if the server does not serve /query.
func TestRecords_gateway(t *testing.T) {
	for name, wrap := range map[string]func(*influx.Client) records.Database{
		"configured": func(c *influx.Client) records.Database { return c },
		"found":      func(c *influx.Client) records.Database { return unidentified{c} },
	} {
		var paths []string
		client := fake(func(path, sql string) (int, string, string) {
			if paths = append(paths, path); path != "/api/v3/query" {
				return http.StatusNotFound, "", "not found"
			}
			if !strings.HasPrefix(sql, "SELECT time, dom, vmid, ") {
				return http.StatusOK, "", `{"error":"unknown statement"}`
			}
			rows := map[string]string{
				"LIMIT 2 OFFSET 1": `["2025-11-11T10:30:00Z","a",5],["2025-11-11T10:29:00Z","b",6]`,
			}[sql[strings.Index(sql, "LIMIT"):]]
			return http.StatusOK, "", response(`"dom","gzip_size_bytes"`, rows)
		}).client(t, influx.APIV3Query)
		base := serve(t, newSource(wrap(client), recordedNow))
		for parameters, want := range map[string]struct{ records, next string }{
			"limit=2&offset=1": {"[a 5 b 6]", base + "/records?limit=2&offset=3&to=2025-11-11T10%3A30%3A00.000000001Z"},
			"limit=2":          {"[]", ""},
		} {
			status, p, next := get(t, base+"/records?"+parameters)
			got := []any{}
			for _, r := range p.Records {
				got = append(got, r["dom"], r["gzip_size_bytes"])
			}
			if status != http.StatusOK || fmt.Sprint(got) != want.records {
				t.Errorf("%s, %s: HTTP %d, %v %s, want %s", name, parameters, status, got, p.Error, want.records)
			}
			if next != want.next {
				t.Errorf("%s, %s: the next page is %q, want %q", name, parameters, next, want.next)
			}
		}
		if queried := slices.Contains(paths, "/query"); queried != (name == "found") {
			t.Errorf("%s: requests to %q", name, paths)
		}
	}
}

// TestOpenAPI compares the description with the handler: the parameters with their limits and
// defaults, and every field of a record.
func TestOpenAPI(t *testing.T) {
	var described struct {
		Servers []struct{ URL string }
		Paths   map[string]struct {
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
	records.OpenAPI().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/openapi.json", nil))
	if err := json.Unmarshal(recorder.Body.Bytes(), &described); err != nil || recorder.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("%v, %v", err, recorder.Header())
	}
	m := &measurement{times: every(time.Minute, recordedNow, 3)}
	base := serve(t, m.source(t, recordedNow))
	accepts := func(query string) bool {
		status, _, _ := get(t, base+"/records?"+query)
		return status == 200
	}
	if len(described.Servers) != 1 || described.Servers[0].URL != "." {
		t.Errorf("servers %v, want the one that the description comes from", described.Servers)
	}
	operation := described.Paths["/records"].Get
	var names []string
	for _, p := range operation.Parameters {
		names = append(names, p.Name)
		s := p.Schema
		if s.Minimum != nil && (!accepts(fmt.Sprint(p.Name, "=", *s.Minimum)) || accepts(fmt.Sprint(p.Name, "=", *s.Minimum-1))) {
			t.Errorf("%s: the minimum is not %d", p.Name, *s.Minimum)
		}
		if s.Maximum != nil && (!accepts(fmt.Sprint(p.Name, "=", *s.Maximum)) || accepts(fmt.Sprint(p.Name, "=", *s.Maximum+1))) {
			t.Errorf("%s: the maximum is not %d", p.Name, *s.Maximum)
		}
		ofLength := func(n int) string { return p.Name + "=" + strings.Repeat("a", n) }
		if s.MaxLength != nil && (!accepts(ofLength(*s.MaxLength)) || accepts(ofLength(*s.MaxLength+1)) || accepts(ofLength(0))) {
			t.Errorf("%s: the lengths are not %d to %d", p.Name, *s.MinLength, *s.MaxLength)
		}
		for _, example := range s.Examples {
			if !accepts(p.Name + "=" + url.QueryEscape(example)) {
				t.Errorf("%s: the example %s is refused", p.Name, example)
			}
		}
		if s.Default != nil {
			_, given, _ := get(t, base+"/records")
			if got := map[string]json.Number{"limit": given.Limit, "offset": given.Offset}[p.Name]; got.String() != fmt.Sprint(*s.Default) {
				t.Errorf("%s: the default is %s, not %d", p.Name, got, *s.Default)
			}
		}
	}
	if slices.Sort(names); !slices.Equal(names, []string{"dom", "from", "limit", "offset", "to", "vmid"}) {
		t.Errorf("parameters %q", names)
	}
	_, p, _ := get(t, base+"/records")
	for schema, got := range map[string]any{
		"Record": p.Records[0], "Page": map[string]any{"records": 0, "count": 0, "limit": 0, "offset": 0},
	} {
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
