package collector_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestContain: a defect in a handler is a 500 that says nothing of it, or a cut connection
// where the answer had begun; and what a handler cuts on purpose is no defect.
func TestContain(t *testing.T) {
	server := newServer(t, func(string) string { return `{}` })
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		status  int // 0 for a cut connection
		panics  string
	}{
		"all is well":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }, http.StatusTeapot, "0"},
		"before it":      {func(http.ResponseWriter, *http.Request) { panic("own defect") }, http.StatusInternalServerError, "1"},
		"after a write":  {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "[1,"); panic("own defect") }, 0, "1"},
		"after a header": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK); panic("own defect") }, 0, "1"},
		"on purpose":     {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0, "0"},
	} {
		t.Run(name, func(t *testing.T) {
			col := newCollector(t, newClient(t, server, "db"))
			front := httptest.NewServer(col.Contain(tt.handler))
			defer front.Close()
			resp, err := http.Get(front.URL)
			if err == nil {
				defer resp.Body.Close()
				var body []byte
				if body, err = io.ReadAll(resp.Body); err == nil && (resp.StatusCode != tt.status || strings.Contains(string(body), "own defect")) {
					t.Errorf("status %d: %s", resp.StatusCode, body)
				}
			}
			if (err != nil) != (tt.status == 0) {
				t.Errorf("%v, want status %d", err, tt.status)
			}
			for _, f := range scrape(t, col) {
				if f.GetName() == "memdump_panics_total" && !strings.Contains(f.String(), "value:"+tt.panics) {
					t.Errorf("%v, want %s", f, tt.panics)
				}
			}
		})
	}
}
