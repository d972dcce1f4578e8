package collector

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"memdump_exporter/influx"
)

// TestReason: each error has a reason of the closed list, the most specific one.
func TestReason(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"malformed and out of range":   {fmt.Errorf("%w: %w", &influx.Error{Kind: influx.ErrMalformed}, errOutOfRange), "out_of_range"},
		"unreachable, as canceled":     {&influx.Error{Kind: influx.ErrUnreachable, Err: context.Canceled}, "unreachable"},
		"the deadline of a context":    {fmt.Errorf("wait: %w", context.DeadlineExceeded), "timeout"},
		"the end of a context":         {fmt.Errorf("wait: %w", context.Canceled), "canceled"},
		"one of joined errors":         {errors.Join(nil, fmt.Errorf("load: %w", &influx.Error{Kind: influx.ErrFileLimit})), "file_limit"},
		"a history that is incomplete": {fmt.Errorf("%w: 1 of 2", errLoading), "loading"},
		"an error of the schema":       {fmt.Errorf("fetch: %w", errMeasurementMissing), "measurement_missing"},
		"any other error":              {errors.New("something else"), "internal"},
		"a panic":                      {&panicError{value: "v"}, "internal"},
	} {
		if got := Reason(tt.err); got != tt.want {
			t.Errorf("%s: %v is %q, want %q", name, tt.err, got, tt.want)
		}
	}
}

// TestReasons: the list is closed, and has each reason once.
func TestReasons(t *testing.T) {
	want := []string{"canceled", "credentials", "database_not_found", "field_missing", "file_limit", "internal", "loading", "malformed",
		"measurement_missing", "not_found", "out_of_range", "overloaded", "proxy", "redirected", "refused", "server_error", "stale",
		"tag_missing", "timeout", "too_large", "truncated", "type_conflict", "unauthorized", "unreachable"}
	got := reasons()
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestReasons_queries: if one query fails, only its metrics are absent, and the failure is counted
// by its reason.
func TestReasons_queries(t *testing.T) {
	for name, tt := range map[string]struct {
		status       int
		header, body string // of the response; "header: value"
		reason       string
	}{
		"a statement that is rejected":    {http.StatusOK, "", rejected, "refused"},
		"no such database":                {http.StatusOK, "", `{"results":[{"error":"database not found: db"}]}`, "database_not_found"},
		"credentials that are wrong":      {http.StatusUnauthorized, "", `{"error":"authorization failed"}`, "unauthorized"},
		"a server that fails":             {http.StatusInternalServerError, "", "no", "server_error"},
		"a server that has too much":      {http.StatusServiceUnavailable, "", `{"error":"max-concurrent-queries"}`, "overloaded"},
		"a redirect":                      {http.StatusFound, "Location: http://elsewhere", "", "redirected"},
		"a response that ends early":      {http.StatusOK, "", `{"results":[{"series":[`, "truncated"},
		"a response that is no JSON":      {http.StatusOK, "", "<html>", "malformed"},
		"a response from a cache":         {http.StatusOK, "Age: 7", noRows, "stale"},
		"a proxy without an InfluxDB":     {http.StatusServiceUnavailable, "", "<html>no server</html>", "proxy"},
		"a response that is too large":    {http.StatusOK, "", rowsOf(`"time","compressed"`, `[0,`+strings.Repeat("1", 2<<20)+`]`), "too_large"},
		"a response of two statements":    {http.StatusOK, "", `{"results":[{},{}]}`, "malformed"},
		"a response without the column":   {http.StatusOK, "", rowsOf(`"time","dumps"`, `[0,1]`), "malformed"},
		"a sum that can't be true":        {http.StatusOK, "", rowsOf(`"time","compressed"`, `[0,-1]`), "out_of_range"},
		"a partial response":              {http.StatusOK, "", `{"results":[{"partial":true}]}`, "truncated"},
		"a path that does not exist here": {http.StatusNotFound, "", "404 page not found", "not_found"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory(t)
			m.Intercept(func(r *http.Request) (*http.Response, error) {
				if !strings.Contains(r.URL.Query().Get("q"), sumOfBytes) {
					return nil, nil
				}
				w := httptest.NewRecorder()
				if name, value, found := strings.Cut(tt.header, ": "); found {
					w.Header().Set(name, value)
				}
				w.Header().Set("X-Influxdb-Version", "1.7.11")
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
				response := w.Result()
				response.Request = r
				return response, nil
			})
			e := m.exporter(t)
			got := scrape(t, e)
			wantReasons(t, e, map[string]string{"compressed_bytes": tt.reason})
			got.wantValue(t, 1, "memdump_query_errors_total", "query", "compressed_bytes", "reason", tt.reason)
			got.wantAbsent(t, "memdump_dumps_compressed_bytes")
			got.wantValue(t, 0, "memdump_up")
			for name, value := range map[string]float64{"memdump_dumps": 1, "memdump_dumped_vms": 1, "memdump_dumps_raw_bytes": 40,
				"memdump_dumps_with_duration": 1, "memdump_monitored_vms": 1, "memdump_vms_never_dumped": 0} {
				got.wantValue(t, value, name)
			}
		})
	}
}

// TestContain: a panic in a handler is a 500 without its text, or a closed connection if the
// response has begun. http.ErrAbortHandler is not counted as a panic.
func TestContain(t *testing.T) {
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		status  int // 0 for a closed connection
		panics  float64
	}{
		"no defect":               {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }, http.StatusTeapot, 0},
		"before the response":     {func(http.ResponseWriter, *http.Request) { panic("own defect") }, http.StatusInternalServerError, 1},
		"after a part of it":      {func(w http.ResponseWriter, _ *http.Request) { writeAndPanic(w) }, 0, 1},
		"after the header of it":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK); panic("own defect") }, 0, 1},
		"aborted on purpose":      {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0, 0},
		"with an error":           {func(http.ResponseWriter, *http.Request) { panic(io.EOF) }, http.StatusInternalServerError, 1},
		"with a deadline of mine": {func(w http.ResponseWriter, _ *http.Request) { mustUnwrap(w) }, http.StatusOK, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var logged lines
			e := newMemory(t).exporter(t, func(c *Config) { c.Logger = &logged })
			front := httptest.NewServer(e.Contain(tt.handler))
			defer front.Close()
			response, err := http.Get(front.URL)
			var body []byte
			if err == nil {
				body, err = io.ReadAll(response.Body)
				response.Body.Close()
			}
			if closed := err != nil; closed != (tt.status == 0) {
				t.Fatalf("the connection was closed: %v", err)
			}
			if err == nil && response.StatusCode != tt.status {
				t.Errorf("HTTP status %d, want %d", response.StatusCode, tt.status)
			}
			if strings.Contains(string(body), "own defect") {
				t.Errorf("the response has the text of the panic: %s", body)
			}
			if logs := strings.Contains(logged.String(), "panic="); logs != (tt.panics > 0) {
				t.Errorf("the log: %s", logged.String())
			}
			scrape(t, e).wantValue(t, tt.panics, "memdump_panics_total")
		})
	}
}

func writeAndPanic(w io.Writer) {
	_, _ = io.WriteString(w, "[1,")
	panic("own defect")
}

// mustUnwrap panics unless the writer below can be reached.
func mustUnwrap(w http.ResponseWriter) {
	if err := http.NewResponseController(w).Flush(); err != nil {
		panic(err)
	}
}
