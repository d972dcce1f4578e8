package page

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"

	"memdump_exporter/collector"
	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// newHandler returns a handler whose InfluxDB is in memory.
func newHandler(t *testing.T, fake *influxtest.Fake) *Handler {
	t.Helper()
	client, err := influx.New(influx.Config{URL: "http://memory", Database: "vmstats", Transport: fake})
	if err != nil {
		t.Fatal(err)
	}
	exporter := collector.New(collector.Config{
		Database: client, DumpsMeasurement: influxtest.Dumps, TelemetryMeasurements: influxtest.TelemetryMeasurements(),
		TelemetryLookback: 24 * time.Hour, DumpsAllowedLateness: 24 * time.Hour, TelemetryAllowedLateness: 5 * time.Minute,
		Logger: log.NewNopLogger(), Now: time.Now,
	})
	t.Cleanup(exporter.Close)
	return &Handler{Exporter: exporter, Name: "memdump_exporter", Database: "vmstats", MetricsPath: "/metrics", Timeout: 10 * time.Second}
}

// dumpOf returns a dump of a domain.
func dumpOf(domain, vmid string) influxtest.Point {
	tags := map[string]string{"vmid": vmid}
	if domain != "" {
		tags["dom"] = domain
	}
	return influxtest.Point{
		Measurement: influxtest.Dumps, TimeNs: time.Now().Add(-time.Hour).UnixNano(), Tags: tags,
		Fields: map[string]any{"sha256": "ab", "duration_sec": 2.5, "gzip_size_bytes": int64(2048), "raw_size_bytes": int64(4096)},
	}
}

// monitored returns telemetry of the VM with a number.
func monitored(i int) influxtest.Point {
	return influxtest.Point{
		Measurement: influxtest.Telemetry, TimeNs: time.Now().Add(-time.Minute).UnixNano(), Fields: map[string]any{"cpu": 1.0},
		Tags: map[string]string{"VMID": fmt.Sprint(i), "name": fmt.Sprintf("vm-%03d", i), "uuid": fmt.Sprintf("uuid-%03d", i)},
	}
}

// open requests the page.
func open(ctx context.Context, h *Handler) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
	return w
}

// TestHandler_age: viewers within ten seconds share one set of queries, also when it fails.
func TestHandler_age(t *testing.T) {
	for name, respond := range map[string]func(*http.Request) (*http.Response, error){
		"in time": func(*http.Request) (*http.Response, error) { return nil, nil },
		"never": func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			fake := &influxtest.Fake{}
			fake.Add(dumpOf("a", "1"), monitored(1))
			fake.Intercept(respond)
			h := newHandler(t, fake)
			open(t.Context(), h)
			fake.Statements() // forgets those of the first viewer
			time.Sleep(maxAge - time.Millisecond)
			if w := open(t.Context(), h); w.Code != http.StatusOK {
				t.Errorf("%s: HTTP %d", name, w.Code)
			}
			if sent := len(fake.Statements()); sent > 0 {
				t.Errorf("%s: a viewer within ten seconds sent %d requests, want 0", name, sent)
			}
			time.Sleep(time.Millisecond)
			open(t.Context(), h)
			if len(fake.Statements()) == 0 {
				t.Errorf("%s: a viewer after ten seconds sent no request", name)
			}
		})
	}
}

// TestHandler_concurrent: viewers who come while the queries run wait for them.
func TestHandler_concurrent(t *testing.T) {
	fake := &influxtest.Fake{}
	fake.Add(dumpOf("vm-001", "1"), monitored(1))
	sending, release := make(chan struct{}, 100), make(chan struct{})
	fake.Intercept(func(*http.Request) (*http.Response, error) {
		sending <- struct{}{}
		<-release
		return nil, nil
	})
	h := newHandler(t, fake)
	var viewers sync.WaitGroup
	for range 20 {
		viewers.Go(func() {
			if w := open(t.Context(), h); !strings.Contains(w.Body.String(), "each of 1 monitored VMs has been dumped") {
				t.Errorf("HTTP %d, and a page without the VMs", w.Code)
			}
		})
	}
	<-sending
	close(release)
	viewers.Wait()
	days := 0
	for _, statement := range fake.Statements() {
		if strings.Contains(statement, "GROUP BY time(1d)") {
			days++
		}
	}
	if days != 1 {
		t.Errorf("twenty viewers at once sent %d queries for the days, want 1", days)
	}
}

// TestHandler_left: a viewer who leaves cancels the queries, whose failure no other viewer sees.
func TestHandler_left(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &influxtest.Fake{}
		fake.Add(dumpOf("a", "1"), monitored(1))
		ctx, leave := context.WithCancel(t.Context())
		fake.Intercept(func(r *http.Request) (*http.Response, error) {
			leave()
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		h := newHandler(t, fake)
		if w := open(ctx, h); w.Body.Len() > 0 {
			t.Errorf("a viewer who has left got %q", w.Body)
		}
		fake.Intercept(nil)
		if w := open(t.Context(), h); strings.Contains(w.Body.String(), "canceled") {
			t.Error("the next viewer sees the canceled queries")
		}
	})
}

// TestHandler_vms: the page lists a hundred VMs without a dump, and counts the others.
func TestHandler_vms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &influxtest.Fake{}
		for i := range 120 {
			fake.Add(monitored(i))
		}
		fake.Add(dumpOf("vm-119", "119"))
		body := open(t.Context(), newHandler(t, fake)).Body.String()
		for _, want := range []string{"119 of 120 monitored VMs have never been dumped.", `<td class="name">vm-099</td>`, "And 19 more."} {
			if !strings.Contains(body, want) {
				t.Errorf("no %q in the page", want)
			}
		}
		if strings.Contains(body, `<td class="name">vm-100</td>`) {
			t.Error("the page lists more than a hundred VMs")
		}
	})
}

// TestHandler_dumps: a dump links to the records of its domain, which is its vmid where it has
// no dom.
func TestHandler_dumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &influxtest.Fake{}
		fake.Add(dumpOf("a&b=c d", "1"), dumpOf("", "e\u202ef"), monitored(1))
		body := open(t.Context(), newHandler(t, fake)).Body.String()
		for _, want := range []string{
			`<a href="./records?dom=a%26b%3dc%20d">a&amp;b=c d</a></td><td class="name">1</td>` +
				`<td class="number">2.0 KiB</td><td class="number">2.5 s</td>`,
			`<a href="./records?vmid=e%e2%80%aef">e\u202ef</a></td><td class="name">e\u202ef</td>`,
		} {
			if !strings.Contains(body, want) {
				t.Errorf("no %q in the page", want)
			}
		}
	})
}
