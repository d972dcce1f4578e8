package collector

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// rejections counts the responses of a Fake that are errors.
type rejections struct {
	fake *influxtest.Fake
	n    atomic.Int64
}

func (r *rejections) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := r.fake.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(response.Body)
	if bytes.Contains(body, []byte("error")) || response.StatusCode >= 300 {
		r.n.Add(1)
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response, err
}

// TestExporter_Records: InfluxDB rejects no query for records in the time ranges of the history.
func TestExporter_Records(t *testing.T) {
	const dumps = 700
	fake := &influxtest.Fake{}
	for i := range dumps {
		fake.Add(influxtest.Point{
			Measurement: influxtest.Dumps, TimeNs: recordedNow.Add(-time.Duration(i) * time.Hour).UnixNano(),
			Tags: map[string]string{"dom": "web", "vmid": "1"}, Fields: map[string]any{"sha256": fmt.Sprint(i), "duration_sec": 1.5},
		})
	}
	fake.LimitFiles(100)
	transport := &rejections{fake: fake}
	e := newExporter(t, newClientOver(t, transport, influx.Config{}))
	scrape(t, e).wantValue(t, dumps, "memdump_dumps")
	transport.n.Store(0)
	w := httptest.NewRecorder()
	e.Records(Timeouts{Default: time.Minute}, 0, 1).
		ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/records", nil))
	if w.Code != http.StatusOK || !bytes.Contains(w.Body.Bytes(), []byte(fmt.Sprintf(`"count":%d,`, dumps))) {
		t.Errorf("status %d, %d bytes", w.Code, w.Body.Len())
	}
	if n := transport.n.Load(); n != 0 {
		t.Errorf("%d queries were rejected", n)
	}
	if unknown := fake.Unknown(); len(unknown) > 0 {
		t.Errorf("unknown to the fake: %q", unknown)
	}
}
