package collector_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"

	"memdump_exporter/collector"
	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

// slowDatabase answers every question after a while in virtual time; the dumps that it
// counts are the questions about them so far.
type slowDatabase struct {
	wait  func(statement string) time.Duration
	ends  time.Duration // that a question takes to end when it is given up
	asked atomic.Int64  // questions about dumps: runs
	gone  atomic.Int64  // questions that were given up
}

func (d *slowDatabase) RoundTrip(r *http.Request) (*http.Response, error) {
	respond := func(status int, body string) (*http.Response, error) {
		header := http.Header{"X-Influxdb-Version": {"1.8.10"}}
		return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
	}
	statement := r.URL.Query().Get("q")
	if statement == "" {
		return respond(http.StatusNoContent, "")
	}
	value := int64(7)
	if strings.Contains(statement, `COUNT("sha256")`) {
		value = d.asked.Add(1)
	}
	if wait := d.wait(statement); wait > 0 {
		select {
		case <-time.After(wait):
		case <-r.Context().Done():
			d.gone.Add(1)
			time.Sleep(d.ends)
			return nil, context.Cause(r.Context())
		}
	}
	if deadline, ok := r.Context().Deadline(); !ok || time.Now().After(deadline) {
		return nil, errors.New("asked without a deadline, or after it")
	}
	return respond(http.StatusOK, fmt.Sprintf(
		`{"results":[{"series":[{"name":"m","tags":{"vmid":"a","VMID":"a"},"columns":["time","value","sum","count","sha256"],"values":[[%d,%d,%[2]d,1,"x"]]}]}]}`,
		time.Now().UnixNano(), value))
}

// scraper asks for /metrics of one exporter in virtual time.
type scraper struct {
	handler http.Handler
	col     *collector.Collector
}

func newScraper(t *testing.T, db *slowDatabase, mode ranges.Mode) scraper {
	t.Helper()
	client, err := influx.New(influx.Config{URL: "http://memory", Database: "db", Transport: db})
	if err != nil {
		t.Fatal(err)
	}
	col := collector.New(collector.Config{
		Database: client, DumpsMeasurement: "d", TelemetryMeasurement: "t", TelemetryLookback: time.Hour, Ranges: mode,
		Logger: log.NewNopLogger(), Now: time.Now,
	})
	return scraper{col.Handler(collector.HandlerConfig{Self: prometheus.NewRegistry(), Timeout: time.Minute}), col}
}

// answered is how one scrape went.
type answered struct {
	status int
	text   string
	took   time.Duration
}

func (a answered) has(line string) bool { return strings.Contains("\n"+a.text, "\n"+line+"\n") }

// scrape begins a scrape that announces so much time.
func (s scraper) scrape(ctx context.Context, seconds string) <-chan answered {
	done := make(chan answered, 1)
	go func() {
		begin := time.Now()
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/metrics", nil)
		r.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", seconds)
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		done <- answered{w.Code, w.Body.String(), time.Since(begin)}
	}()
	return done
}

func hang(part string, wait time.Duration) func(string) time.Duration {
	return func(statement string) time.Duration {
		if strings.Contains(statement, part) {
			return wait
		}
		return 0
	}
}

const sumOfBytes = `SUM("gzip`

// TestFlight_shared: scrapes that overlap share the questions and the bytes; one that
// comes after them asks anew.
func TestFlight_shared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := &slowDatabase{wait: hang("", 200*time.Millisecond)}
		s := newScraper(t, db, ranges.Whole)
		for burst := range int64(3) {
			var all []<-chan answered
			for range 100 {
				all = append(all, s.scrape(t.Context(), "10"))
				time.Sleep(time.Millisecond)
			}
			first := <-all[0]
			for _, one := range all[1:] {
				if got := <-one; got.status != 200 || got.text != first.text {
					t.Fatalf("status %d, and not the bytes of the first scrape:\n%s", got.status, got.text)
				}
			}
			if !first.has(fmt.Sprintf("memdump_dumps %d", burst+1)) || !first.has("memdump_up 1") {
				t.Errorf("burst %d:\n%s", burst, first.text)
			}
		}
		if got := <-s.scrape(t.Context(), "10"); !got.has("memdump_scrapes_joined_total 297") || !got.has("memdump_dumps 4") {
			t.Errorf("after three bursts of 100:\n%s", got.text)
		}
	})
}

// TestFlight_forms: each form is encoded from the same values.
func TestFlight_forms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := &slowDatabase{wait: hang("", time.Second)}
		s := newScraper(t, db, ranges.Whole)
		const open, plain = "application/openmetrics-text; version=1.0.0", "text/plain"
		failures := make(chan string, 20)
		for i := range cap(failures) {
			go func() {
				asked := []string{plain, open}[i%2]
				r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
				r.Header.Set("Accept", asked+fmt.Sprintf("; q=0.%d", 1+i%9)) // more than are kept
				w := httptest.NewRecorder()
				s.handler.ServeHTTP(w, r)
				got := w.Header().Get("Content-Type") + "\n" + w.Body.String()
				if w.Header().Get("Content-Length") == fmt.Sprint(w.Body.Len()) && strings.Contains(got, "\nmemdump_dumps 1") && strings.HasPrefix(got, asked) && strings.HasSuffix(got, "# EOF\n") == (asked == open) {
					got = ""
				}
				failures <- got
			}()
		}
		for range cap(failures) {
			if got := <-failures; got != "" {
				t.Errorf("not of the one run, or not in the form asked for:\n%s", got)
			}
		}
	})
}

// TestFlight_firstLeaves: the run of a scraper that leaves goes on for the others.
func TestFlight_firstLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := &slowDatabase{wait: hang("", 2*time.Second)}
		s := newScraper(t, db, ranges.Whole)
		ctx, leave := context.WithCancel(t.Context())
		first := s.scrape(ctx, "10")
		time.Sleep(500 * time.Millisecond)
		second := s.scrape(t.Context(), "10")
		time.Sleep(500 * time.Millisecond)
		leave()
		<-first
		if got := <-second; !got.has("memdump_up 1") || !got.has("memdump_dumps 1") || got.took != 1500*time.Millisecond || db.gone.Load() != 0 {
			t.Errorf("after %v, with %d questions given up:\n%s", got.took, db.gone.Load(), got.text)
		}
	})
}

// TestFlight_lastLeaves: when nobody waits any more, the questions end, and what comes
// next begins anew, also while they end.
func TestFlight_lastLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		away.Store(true)
		db := &slowDatabase{wait: func(string) time.Duration { return map[bool]time.Duration{true: time.Hour}[away.Load()] }, ends: time.Millisecond}
		s := newScraper(t, db, ranges.Whole)
		ctx, leave := context.WithCancel(t.Context())
		first, second := s.scrape(ctx, "10"), s.scrape(ctx, "10")
		time.Sleep(50 * time.Millisecond)
		leave()
		<-first
		<-second
		synctest.Wait()
		if gone := int(db.gone.Load()); gone != len(s.col.Statuses()) {
			t.Errorf("%d questions were given up, want all", gone)
		}
		away.Store(false)
		if got := <-s.scrape(t.Context(), "10"); !got.has("memdump_up 1") || !got.has("memdump_dumps 2") || got.took != 0 {
			t.Errorf("after %v:\n%s", got.took, got.text)
		}
		time.Sleep(db.ends)
		synctest.Wait()
		if got := <-s.scrape(t.Context(), "10"); !got.has("memdump_dumps 3") || !got.has(`memdump_query_errors_total{query="dumps",reason="canceled"} 1`) {
			t.Errorf("when they have ended:\n%s", got.text)
		}
	})
}

// TestFlight_nextRun: a scrape joins the run that is young, though one before it has since
// been left.
func TestFlight_nextRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScraper(t, &slowDatabase{wait: hang(sumOfBytes, time.Hour)}, ranges.Whole)
		first := s.scrape(t.Context(), "10")
		time.Sleep(9900 * time.Millisecond)
		second := s.scrape(t.Context(), "10")
		<-first
		synctest.Wait()
		if got := <-s.scrape(t.Context(), "1"); !got.has("memdump_dumps 2") || !got.has("memdump_scrapes_joined_total 1") {
			t.Errorf("not of the second run:\n%s", got.text)
		}
		<-second
	})
}

// TestFlight_lessTime: a scraper with less time left is told at its deadline what is
// known; one with more gets all of it from the same questions.
func TestFlight_lessTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := &slowDatabase{wait: hang(sumOfBytes, 3*time.Second)}
		s := newScraper(t, db, ranges.Whole)
		const oldest = "memdump_query_oldest_check_timestamp_seconds"
		hurried := []<-chan answered{s.scrape(t.Context(), "1"), s.scrape(t.Context(), "1.001")}
		time.Sleep(time.Millisecond)
		patient := s.scrape(t.Context(), "10")
		time.Sleep(time.Millisecond)
		hurried = append(hurried, s.scrape(t.Context(), "1"))
		ctx, leave := context.WithCancel(t.Context())
		gone := s.scrape(ctx, "10")
		time.Sleep(500 * time.Millisecond)
		leave()
		<-gone
		for _, one := range hurried {
			got := <-one
			if got.took > 1001*time.Millisecond || !got.has("memdump_up 0") || !got.has("memdump_dumps 1") || strings.Contains(got.text, "\nmemdump_dumps_compressed_bytes") ||
				!got.has(`memdump_query_success{query="compressed_bytes"} 0`) || !strings.Contains(got.text, `memdump_query_duration_seconds{query="compressed_bytes"} 1`) ||
				strings.Contains(got.text, `memdump_query_ranges{query="compressed_bytes"}`) || strings.Contains(got.text, oldest+`{query="compressed_bytes"}`) || !got.has(oldest+`{query="dumps"} 9.466848e+08`) || !got.has(`memdump_query_errors_total{query="compressed_bytes",reason="timeout"} 1`) {
				t.Errorf("after %v:\n%s", got.took, got.text)
			}
		}
		if got := <-patient; got.took != 2999*time.Millisecond || !got.has("memdump_up 1") || !got.has("memdump_dumps_compressed_bytes 7") || db.asked.Load() != 1 || !got.has(oldest+`{query="compressed_bytes"} 9.466848e+08`) ||
			!got.has(`memdump_query_errors_total{query="compressed_bytes",reason="timeout"} 1`) {
			t.Errorf("after %v:\n%s", got.took, got.text)
		}
		for _, status := range s.col.Statuses() {
			if status.Err != nil {
				t.Errorf("%s has come after all: %v", status.Query, status.Err)
			}
		}
	})
}

// TestFlight_hangs: a run that hangs draws no scrape in after its first second, and
// fails for want of time, not because its scrapers left.
func TestFlight_hangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		away.Store(true)
		db := &slowDatabase{wait: func(statement string) time.Duration {
			return hang(sumOfBytes, map[bool]time.Duration{true: time.Hour}[away.Load()])(statement)
		}}
		s := newScraper(t, db, ranges.Whole)
		first := s.scrape(t.Context(), "10")
		time.Sleep(time.Second)
		away.Store(false)
		if got := <-s.scrape(t.Context(), "10"); !got.has("memdump_up 1") || !got.has("memdump_dumps 2") || got.took != 0 {
			t.Errorf("the scrape beside it, after %v:\n%s", got.took, got.text)
		}
		if got := <-first; got.took != 10*time.Second || !got.has("memdump_up 0") || !got.has("memdump_dumps 1") ||
			!got.has(`memdump_query_errors_total{query="compressed_bytes",reason="timeout"} 1`) {
			t.Errorf("the scrape that hangs, after %v:\n%s", got.took, got.text)
		}
		synctest.Wait()
		if got := <-s.scrape(t.Context(), "10"); !got.has(`memdump_query_errors_total{query="compressed_bytes",reason="timeout"} 1`) ||
			!got.has(`memdump_query_errors_total{query="compressed_bytes",reason="canceled"} 0`) {
			t.Errorf("counted twice:\n%s", got.text)
		}
		away.Store(true)
		<-s.scrape(t.Context(), "10")
		for _, status := range s.col.Statuses() {
			if status.Ranges.Ranges != 1 || status.Query == "compressed_bytes" && status.Reason != "timeout" {
				t.Errorf("when a question has hung again: %+v", status)
			}
		}
	})
}

// TestFlight_tooSlow: a question that hangs until the deadline is one that took too long,
// and is asked in ranges from then on.
func TestFlight_tooSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := &slowDatabase{wait: hang(sumOfBytes, time.Hour)}
		s := newScraper(t, db, ranges.Auto)
		if got := <-s.scrape(t.Context(), "10"); got.took != 10*time.Second || !got.has("memdump_up 0") {
			t.Errorf("after %v:\n%s", got.took, got.text)
		}
		synctest.Wait()
		db.wait = hang("", 0)
		<-s.scrape(t.Context(), "10")
		for _, status := range s.col.Statuses() {
			if ranged := status.Ranges.Ranges > 1; ranged != (status.Query == "compressed_bytes") || status.Err != nil {
				t.Errorf("%+v", status)
			}
		}
	})
}

// TestFlight_panics: a defect fails its query for all who wait, and wedges nothing.
func TestFlight_panics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		broken.Store(true)
		db := &slowDatabase{wait: func(statement string) time.Duration {
			if broken.Load() && strings.Contains(statement, sumOfBytes) {
				panic("own defect")
			}
			return 100 * time.Millisecond
		}}
		s := newScraper(t, db, ranges.Whole)
		for _, one := range []<-chan answered{s.scrape(t.Context(), "10"), s.scrape(t.Context(), "10")} {
			if got := <-one; got.status != 200 || !got.has("memdump_up 0") || !got.has("memdump_dumps 1") || !got.has("memdump_panics_total 1") ||
				!got.has(`memdump_query_errors_total{query="compressed_bytes",reason="internal"} 1`) || strings.Contains(got.text, "own defect") {
				t.Errorf("status %d:\n%s", got.status, got.text)
			}
		}
		broken.Store(false)
		if got := <-s.scrape(t.Context(), "10"); !got.has("memdump_up 1") || !got.has("memdump_dumps_compressed_bytes 7") {
			t.Errorf("the next scrape:\n%s", got.text)
		}
	})
}

// panics is a promhttp.Logger.
type panics struct{}

func (panics) Println(...any) { panic("own defect") }

// TestFlight_encoding: a defect while an answer is encoded is a 500 that says nothing of it.
func TestFlight_encoding(t *testing.T) {
	var logged lines
	col := told(func(string, string) (int, string, string) { return http.StatusNotFound, "", "" }).collector(t, &logged)
	self := prometheus.NewRegistry()
	self.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "memdump_up", Help: "Of somebody else."})) // that it is there twice goes to the log
	w := httptest.NewRecorder()
	col.Handler(collector.HandlerConfig{Self: self, Timeout: time.Minute, ErrorLog: panics{}}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if text := w.Body.String(); w.Code != http.StatusInternalServerError || strings.Contains(text, "own defect") || strings.Contains(text, "memdump_") {
		t.Errorf("status %d: %s", w.Code, text)
	}
	if !strings.Contains(logged.text.String(), "own defect") {
		t.Errorf("the log does not say why:\n%s", &logged.text)
	}
}

// deadlines takes the time that each handler sets for the reading of its answer.
type deadlines struct {
	*httptest.ResponseRecorder
	after []time.Duration
}

func (d *deadlines) SetWriteDeadline(at time.Time) error {
	d.after = append(d.after, time.Until(at))
	return nil
}

// TestHandlers_writeDeadline: who does not read an answer holds no handler for long.
func TestHandlers_writeDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScraper(t, &slowDatabase{wait: hang("", 0)}, ranges.Whole)
		for path, handler := range map[string]http.Handler{
			"/metrics": s.handler,
			"/records": s.col.Records(collector.RecordsConfig{HandlerConfig: collector.HandlerConfig{Timeout: time.Minute}, AtOnce: 1}),
		} {
			w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
			r.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "10")
			if handler.ServeHTTP(w, r); len(w.after) != 1 || w.after[0] != 15*time.Second {
				t.Errorf("%s: %v after the request, want 5s after the 10s that it has", path, w.after)
			}
		}
	})
}
