package records_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"memdump_exporter/collector/records"
	"memdump_exporter/influx"
)

const showFields = `SHOW FIELD KEYS FROM "mem_dumps"`

var (
	quoted    = `'(?:[^'\\\n]|\\['"\\n])*'`
	condition = `(?:"(?:vmid|dom)"::tag = ` + quoted + `|time (?:>=|<) -?[0-9]{1,19})`
	from      = ` FROM "mem_dumps"(?: WHERE ` + condition + `(?: AND ` + condition + `){0,3})? ORDER BY time DESC`
	// One field with LIMIT and OFFSET, or several with neither.
	ofNth       = regexp.MustCompile(`^SELECT "sha256"::field AS "nth"` + from + ` LIMIT 1 OFFSET ([0-9]+)$`)
	ofRecords   = regexp.MustCompile(`^SELECT ("[a-z0-9_]+"::(?:tag|field) AS "[a-z0-9_]+",?){9}` + from + `$`)
	quotedValue = regexp.MustCompile(`= (` + quoted + `)`)
)

// FuzzRecords: a query string is either rejected without a request to InfluxDB, or the statements
// match the known patterns, with quoted names and integers. Whatever InfluxDB responds, /records
// returns valid JSON or an error.
func FuzzRecords(f *testing.F) {
	row := `{"results":[{"series":[{"columns":["time","dom","vmid","duration_sec"],"values":[[5,"a","1",1.50],[5,"b",null,1e3]]}]}]}`
	for _, raw := range []string{
		"", "limit=1&offset=2", "limit=0", "limit=10001", "offset=1001", "vmid=it%27s&dom=a%5Cb&from=1&to=2", "from=2025-11-11T10:30:00Z",
		"limit=1;DROP", "limit=%00", "vmid=%0a", "a=b", "limit=1&limit=1", "offset=99999999999999999999", "dom=%22", "%zz",
		"to=9999999999.999999999",
	} {
		f.Add(raw, []byte(row))
	}
	for _, value := range hostile {
		f.Add("offset="+value, []byte(`{"results":[{"error":"`+canary+`"}]}`))
	}
	f.Fuzz(func(t *testing.T, raw string, body []byte) {
		var sent []string
		client := fake(func(path, statement string) (int, string, string) {
			if path == "/ping" {
				return http.StatusNoContent, "1.8.10", ""
			}
			sent = append(sent, statement)
			if strings.HasPrefix(statement, "SHOW") {
				return http.StatusOK, "1.8.10", fieldKeys
			}
			return http.StatusOK, "1.8.10", string(body)
		}).client(t, influx.APIInfluxQL)
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/records", nil)
		r.URL.RawQuery = raw
		records.Handler(newSource(client, time.Unix(2, 0)), records.Config{
			MaxOffset: 1000, MaxConcurrent: 1, Timeout: timeout, Failed: func(error) {},
		}).ServeHTTP(w, r)
		var got struct {
			Records              []map[string]any
			Count, Limit, Offset int64
			Error                string
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatalf("HTTP %d, %v: %s", w.Code, err, w.Body)
		}
		if strings.Contains(got.Error, canary) || len(got.Error) > 2048 {
			t.Fatalf("%q", got.Error)
		}
		if w.Code == http.StatusBadRequest {
			if len(sent) > 0 || got.Error == "" {
				t.Fatalf("%q: %q, sent %q", raw, got.Error, sent)
			}
			return
		}
		if len(sent) == 0 || len(sent) > 100 {
			t.Fatalf("%q: %d statements", raw, len(sent))
		}
		var values []string
		for _, statement := range sent {
			nth := ofNth.FindStringSubmatch(statement)
			if nth == nil && !ofRecords.MatchString(statement) && statement != showFields {
				t.Fatalf("%q: sent %q", raw, statement)
			}
			if nth != nil {
				if n, err := strconv.Atoi(nth[1]); err != nil || n < 0 || n >= 11_000 {
					t.Fatalf("%q: sent %q", raw, statement)
				}
			}
			for _, value := range quotedValue.FindAllStringSubmatch(statement, -1) {
				values = append(values, value[1])
			}
		}
		given, err := url.ParseQuery(raw)
		if err != nil { // what url.ParseQuery refuses, parseQuery may read
			return
		}
		for _, value := range values {
			text := strings.NewReplacer(`\\`, `\`, `\'`, `'`, `\n`, "\n").Replace(value[1 : len(value)-1])
			if text != given.Get("vmid") && text != given.Get("dom") {
				t.Fatalf("%q: sent %q", raw, sent)
			}
		}
		if w.Code == http.StatusOK && (got.Count > got.Limit || got.Count != int64(len(got.Records)) || got.Error != "") {
			t.Fatalf("%q: %s", raw, w.Body)
		}
	})
}
