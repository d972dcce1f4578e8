package collector

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// scraper requests /metrics of one exporter in virtual time.
type scraper struct {
	exporter *Exporter
	handler  http.Handler
}

func newScraper(t *testing.T, m *memory, changes ...func(*Config)) scraper {
	t.Helper()
	e := m.exporter(t, changes...)
	return scraper{e, e.Handler(HandlerConfig{Self: prometheus.NewRegistry(), Timeouts: Timeouts{Default: time.Minute}})}
}

// scraped is the response to one scrape.
type scraped struct {
	*httptest.ResponseRecorder
	took time.Duration
}

func (s scraped) metrics(t *testing.T) exposition {
	t.Helper()
	if s.Code != http.StatusOK {
		t.Fatalf("HTTP status %d: %s", s.Code, s.Body)
	}
	return parseExposition(t, s.Body.String())
}

// begin begins a scrape with a timeout in seconds, which it announces.
func (s scraper) begin(ctx context.Context, seconds string) <-chan scraped {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/metrics", nil)
	r.Header.Set(timeoutHeader, seconds)
	return s.send(r)
}

func (s scraper) send(r *http.Request) <-chan scraped {
	done := make(chan scraped, 1)
	go func() {
		begin := time.Now()
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		done <- scraped{w, time.Since(begin)}
	}()
	return done
}

func TestTimeouts_Of(t *testing.T) {
	timeouts := Timeouts{Default: 10 * time.Second, Offset: 500 * time.Millisecond}
	for header, want := range map[string]time.Duration{
		"":        9500 * time.Millisecond,
		"15":      14500 * time.Millisecond,
		"2.5":     2 * time.Second,
		"0.5":     250 * time.Millisecond, // the offset would leave nothing
		"0":       9500 * time.Millisecond,
		"-1":      9500 * time.Millisecond,
		"NaN":     9500 * time.Millisecond,
		"Inf":     9500 * time.Millisecond,
		"1e300":   24*time.Hour - 500*time.Millisecond,
		"soon":    9500 * time.Millisecond,
		"10, 20":  9500 * time.Millisecond,
		"0x1p-20": 476 * time.Nanosecond,
	} {
		if got := timeouts.Of(http.Header{timeoutHeader: {header}}); got != want {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
}

// FuzzTimeouts: a timeout never exceeds the announced one, and an invalid header counts as absent.
func FuzzTimeouts(f *testing.F) {
	for _, header := range []string{"", "15", "2.5", "0.5", "0", "-1", "NaN", "Inf", "1e300", "0x1p-20", "5e-324", "10, 20"} {
		f.Add(header)
	}
	timeouts := Timeouts{Default: 10 * time.Second, Offset: 500 * time.Millisecond}
	f.Fuzz(func(t *testing.T, header string) {
		got := timeouts.Of(http.Header{timeoutHeader: {header}})
		announced, err := strconv.ParseFloat(header, 64)
		if err != nil || !(announced > 0) || math.IsInf(announced, 0) {
			announced = timeouts.Default.Seconds()
		}
		if got < 0 || got.Seconds() > announced || got > 24*time.Hour {
			t.Errorf("%q: %v", header, got)
		}
	})
}

// TestBatch_joinable: a scrape joins a running batch that is young and has about the same deadline.
func TestBatch_joinable(t *testing.T) {
	const timeout = 10 * time.Second
	for name, tt := range map[string]struct {
		age   time.Duration // of the batch
		later time.Duration // the scrape's deadline than that of the batch
		done  bool
		want  bool
	}{
		"at once":                            {0, 0, false, true},
		"almost a second old":                {time.Second - 1, 0, false, true},
		"a second old":                       {time.Second, 0, false, false},
		"ends a second before the scrape":    {0, time.Second, false, true},
		"ends more than that before it":      {0, time.Second + 1, false, false},
		"ends after the scrape":              {0, -1, false, false},
		"is done":                            {0, 0, true, false},
		"old, and the deadline would do":     {2 * time.Second, time.Second, false, false},
		"young, with the deadline of a twin": {time.Second / 2, time.Second / 2, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newMemory(t).exporter(t)
				deadline := time.Now().Add(timeout)
				b := e.newBatch(t.Context(), deadline)
				defer b.cancel()
				if tt.done {
					close(b.done)
				}
				time.Sleep(tt.age)
				if got := b.joinable(deadline.Add(tt.later)); got != tt.want {
					t.Errorf("joinable: %v, want %v", got, tt.want)
				}
			})
		})
	}
}

// TestHandler_shared: overlapping scrapes share the queries and the response. A later scrape has its
// own queries.
func TestHandler_shared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.wait = during("", 200*time.Millisecond)
		s := newScraper(t, m)
		for burst := range 3 {
			var all []<-chan scraped
			for range 100 {
				all = append(all, s.begin(t.Context(), "10"))
				time.Sleep(time.Millisecond)
			}
			first := <-all[0]
			for _, one := range all[1:] {
				if got := <-one; got.Body.String() != first.Body.String() {
					t.Fatalf("not the bytes of the first scrape:\n%s", got.Body)
				}
			}
			got := first.metrics(t)
			got.wantValue(t, float64(burst+1), "memdump_dumps")
			got.wantValue(t, 1, "memdump_up")
		}
		got := (<-s.begin(t.Context(), "10")).metrics(t)
		got.wantValue(t, 4, "memdump_dumps")
		got.wantValue(t, 297, "memdump_scrapes_joined_total")
	})
}

// TestHandler_otherDeadline: a scrape with another deadline has its own batch.
func TestHandler_otherDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.wait = during("", 200*time.Millisecond)
		s := newScraper(t, m)
		long := s.begin(t.Context(), "10")
		time.Sleep(time.Millisecond)
		short := s.begin(t.Context(), "5")
		(<-long).metrics(t).wantValue(t, 1, "memdump_dumps")
		(<-short).metrics(t).wantValue(t, 2, "memdump_dumps")
	})
}

// TestHandler_names: a filtered scrape and a plain one share a batch, and each has its own body.
func TestHandler_names(t *testing.T) {
	for name, paths := range map[string][]string{
		"the filter first":     {"/metrics?name[]=memdump_up", "/metrics"},
		"the plain one first":  {"/metrics", "/metrics?name[]=memdump_up"},
		"another parameter":    {"/metrics?name[]=memdump_up&x=1", "/metrics?x=2"},
		"escaped":              {"/metrics?name%5B%5D=memdump_up", "/metrics"},
		"other names":          {"/metrics?name[]=memdump_up", "/metrics?name[]=memdump_dumps&name[]=memdump_up"},
		"names that are none":  {"/metrics?name[]=memdump_up", "/metrics?names=memdump_up"},
		"a name that is empty": {"/metrics?name[]=memdump_up", "/metrics?name[]="},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory(t)
				m.wait = during("", time.Second)
				s := newScraper(t, m)
				var all []<-chan scraped
				for _, path := range paths {
					all = append(all, s.send(httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)))
					time.Sleep(time.Millisecond)
				}
				for i, one := range all {
					got := (<-one).metrics(t)
					names := httptest.NewRequest(http.MethodGet, paths[i], nil).URL.Query()["name[]"]
					if len(names) > 0 && len(got.families) > len(names) {
						t.Errorf("%s: %d metrics", paths[i], len(got.families))
					}
					for _, metric := range []string{"memdump_up", "memdump_dumps", "memdump_vm_info"} {
						want := len(names) == 0 || strings.Contains(strings.Join(names, " "), metric)
						if _, there := got.families[metric]; there != want {
							t.Errorf("%s: %s is there: %v, want %v", paths[i], metric, there, want)
						}
					}
				}
				if n := m.batches.Load(); n != 1 {
					t.Errorf("%d batches, want one", n)
				}
			})
		})
	}
}

// TestHandler_encodings: each format is encoded from the same results, even if there are more formats
// than a batch stores.
func TestHandler_encodings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.wait = during("", time.Second)
		s := newScraper(t, m)
		const openMetrics, plain = "application/openmetrics-text; version=1.0.0", "text/plain"
		all := make(map[string]<-chan scraped)
		for i := range 2 * maxEncodings {
			for _, format := range []string{openMetrics, plain} {
				for _, encoding := range []string{"gzip", "identity", ""} {
					r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
					r.Header.Set("Accept", fmt.Sprintf("%s;q=0.%d", format, 1+i%9))
					r.Header.Set("Accept-Encoding", encoding)
					all[fmt.Sprint(i, "/", format, "/", encoding)] = s.send(r)
				}
			}
		}
		for name, one := range all {
			got := <-one
			if length := got.Header().Get("Content-Length"); length != strconv.Itoa(got.Body.Len()) {
				t.Errorf("%s: Content-Length %s of %d", name, length, got.Body.Len())
			}
			body := io.Reader(got.Body)
			if zipped := got.Header().Get("Content-Encoding") == "gzip"; zipped != strings.HasSuffix(name, "/gzip") {
				t.Errorf("%s: compressed: %v", name, zipped)
			} else if zipped {
				var err error
				if body, err = gzip.NewReader(body); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
			text, err := io.ReadAll(body)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if !strings.Contains(string(text), "\nmemdump_dumps 1") {
				t.Errorf("%s: not of the one batch:\n%s", name, text)
			}
			wantOpen := strings.Contains(name, openMetrics)
			if isOpen := strings.HasPrefix(got.Header().Get("Content-Type"), "application/openmetrics-text"); isOpen != wantOpen {
				t.Errorf("%s: Content-Type %s", name, got.Header().Get("Content-Type"))
			}
			if isOpen := strings.HasSuffix(string(text), "# EOF\n"); isOpen != wantOpen {
				t.Errorf("%s: in OpenMetrics: %v", name, isOpen)
			}
		}
	})
}

// TestHandler_oneHangs: while one query hangs, the values of the others are served before the
// scrape times out.
func TestHandler_oneHangs(t *testing.T) {
	for _, seconds := range []string{"1", "10"} {
		t.Run(seconds, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory(t)
				m.wait = during(`SUM("gzip_size_bytes"::field) AS "compressed" FROM`, time.Hour)
				s := newScraper(t, m)
				response := <-s.begin(t.Context(), seconds)
				timeout, _ := time.ParseDuration(seconds + "s")
				if response.took > timeout+lateGrace {
					t.Errorf("took %v of %v", response.took, timeout)
				}
				got := response.metrics(t)
				got.wantValue(t, 0, "memdump_up")
				got.wantValue(t, 1, "memdump_dumps")
				got.wantValue(t, 40, "memdump_dumps_raw_bytes")
				got.wantValue(t, 0, "memdump_query_success", "query", "compressed_bytes")
				got.wantValue(t, 1, "memdump_query_success", "query", "dumps")
				got.wantValue(t, 1, "memdump_query_errors_total", "query", "compressed_bytes", "reason", "timeout")
				got.wantAbsent(t, "memdump_dumps_compressed_bytes")
				if _, there := got.value("memdump_query_oldest_check_timestamp_seconds", "query", "compressed_bytes"); there {
					t.Error("a query without a result has a time of its check")
				}
				if m.canceled.Load() == 0 {
					t.Error("the request that hangs was not given up")
				}
			})
		})
	}
}

// TestHandler_deaf: a database that ignores the deadline does not delay the response.
func TestHandler_deaf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.respond = func(statement string) string {
			if strings.Contains(statement, sumOfBytes) {
				time.Sleep(time.Hour)
			}
			return ""
		}
		s := newScraper(t, m)
		response := <-s.begin(t.Context(), "10")
		if want := 10*time.Second + lateGrace; response.took != want {
			t.Errorf("took %v, want %v", response.took, want)
		}
		got := response.metrics(t)
		got.wantValue(t, 1, "memdump_dumps")
		got.wantValue(t, 1, "memdump_query_errors_total", "query", "compressed_bytes", "reason", "timeout")
		time.Sleep(2 * time.Hour) // it ends after all, and counts for nothing
		got = (<-s.begin(t.Context(), "10")).metrics(t)
		got.wantValue(t, 2, "memdump_query_errors_total", "query", "compressed_bytes", "reason", "timeout")
		time.Sleep(2 * time.Hour)
	})
}

// TestHandler_hangingBatch: no scrape joins a batch that has been hanging for a second.
func TestHandler_hangingBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		var hangs atomic.Bool
		hangs.Store(true)
		m.wait = func(statement string) time.Duration {
			if hangs.Load() && strings.Contains(statement, sumOfBytes) {
				return time.Hour
			}
			return 0
		}
		s := newScraper(t, m)
		first := s.begin(t.Context(), "10")
		time.Sleep(time.Second)
		hangs.Store(false)
		second := <-s.begin(t.Context(), "10")
		if second.took != 0 {
			t.Errorf("the scrape beside the one that hangs took %v", second.took)
		}
		got := second.metrics(t)
		got.wantValue(t, 1, "memdump_up")
		got.wantValue(t, 2, "memdump_dumps")
		<-first
	})
}

// TestHandler_firstLeaves: the batch of a scraper that leaves continues for the others.
func TestHandler_firstLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.wait = during("", 2*time.Second)
		s := newScraper(t, m)
		ctx, leave := context.WithCancel(t.Context())
		first := s.begin(ctx, "10")
		time.Sleep(500 * time.Millisecond)
		second := s.begin(t.Context(), "10")
		time.Sleep(500 * time.Millisecond)
		leave()
		if got := <-first; got.took != time.Second || got.Body.Len() != 0 {
			t.Errorf("the scraper that leaves got %d bytes after %v", got.Body.Len(), got.took)
		}
		response := <-second
		if want := 1500 * time.Millisecond; response.took != want {
			t.Errorf("took %v, want %v", response.took, want)
		}
		got := response.metrics(t)
		got.wantValue(t, 1, "memdump_up")
		got.wantValue(t, 1, "memdump_dumps")
		if n := m.canceled.Load(); n != 0 {
			t.Errorf("%d requests were given up", n)
		}
	})
}

// TestHandler_allLeave: a batch that all scrapers have left continues until its deadline if that is
// before the default timeout, and its results count.
func TestHandler_allLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.wait = during(`"compressed" FROM`, time.Hour)
		s := newScraper(t, m)
		ctx, leave := context.WithCancel(t.Context())
		first, second := s.begin(ctx, "10"), s.begin(ctx, "10")
		time.Sleep(50 * time.Millisecond)
		leave()
		<-first
		<-second
		time.Sleep(10 * time.Second)
		synctest.Wait()
		m.wait = nil
		got := (<-s.begin(t.Context(), "10")).metrics(t)
		got.wantValue(t, 1, "memdump_up")
		got.wantValue(t, 2, "memdump_dumps")
		got.wantValue(t, 1, "memdump_query_errors_total", "query", "compressed_bytes", "reason", "timeout")
		got.wantValue(t, 0, "memdump_query_errors_total", "query", "compressed_bytes", "reason", "canceled")
	})
}

// TestHandler_abandoned: a batch that all scrapers have left ends after the default timeout, even if
// they announced a longer one. It does not end while a scraper waits.
func TestHandler_abandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.wait = during(`"compressed" FROM`, 10*time.Minute)
		s := newScraper(t, m)
		ctx, leave := context.WithCancel(t.Context())
		first, second := s.begin(ctx, "86400"), s.begin(ctx, "86400")
		synctest.Wait()
		other := s.begin(ctx, "86390")
		time.Sleep(500 * time.Millisecond)
		leave()
		<-first
		<-second
		<-other
		joins := s.begin(t.Context(), "86390") // the batch of the other
		time.Sleep(time.Minute - 500*time.Millisecond - 1)
		synctest.Wait()
		if n := m.canceled.Load(); n != 0 {
			t.Errorf("%d requests are canceled before the default timeout, want 0", n)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if n := m.canceled.Load(); n != 1 {
			t.Errorf("%d requests are canceled after the default timeout, want that of the abandoned batch", n)
		}
		if got, want := <-joins, 10*time.Minute-500*time.Millisecond; got.took != want {
			t.Errorf("the scraper that stays took %v, want %v", got.took, want)
		}
	})
}

// TestHandler_closed: the end of the exporter ends its batches.
func TestHandler_closed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.wait = during("", time.Hour)
		s := newScraper(t, m)
		scrape := s.begin(t.Context(), "10")
		time.Sleep(time.Second)
		s.exporter.Close()
		response := <-scrape
		if response.took > time.Second+lateGrace {
			t.Errorf("took %v", response.took)
		}
		got := response.metrics(t)
		got.wantValue(t, 1, "memdump_monitored_vms")
		for _, q := range queries {
			for _, m := range q.metrics {
				if q.source == dumps {
					got.wantAbsent(t, m.name)
				}
			}
		}
		want := allReasons(s.exporter, "canceled")
		delete(want, monitoredVMs) // whose response took no time
		wantReasons(t, s.exporter, want)
	})
}

// TestHandler_parallel: the queries of a batch run in parallel.
func TestHandler_parallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.wait = during("", 200*time.Millisecond)
		s := newScraper(t, m)
		response := <-s.begin(t.Context(), "10")
		if want := 200 * time.Millisecond; response.took != want {
			t.Errorf("the queries took %v, want %v", response.took, want)
		}
		for query, took := range response.metrics(t).series(durationName) {
			if want := 0.2; took != want && query != monitoredVMs {
				t.Errorf("the query %s took %v s, want %v", query, took, want)
			}
		}
	})
}

// TestHandler_panics: a panic fails its query for all scrapers of the batch, and nothing else.
func TestHandler_panics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		var broken atomic.Bool
		broken.Store(true)
		m.respond = func(statement string) string {
			if broken.Load() && strings.Contains(statement, sumOfBytes) {
				panic("own defect")
			}
			return ""
		}
		m.wait = during("", 100*time.Millisecond)
		s := newScraper(t, m)
		for _, one := range []<-chan scraped{s.begin(t.Context(), "10"), s.begin(t.Context(), "10")} {
			response := <-one
			got := response.metrics(t)
			got.wantValue(t, 0, "memdump_up")
			got.wantValue(t, 1, "memdump_dumps")
			got.wantValue(t, 1, "memdump_panics_total")
			got.wantValue(t, 1, "memdump_query_errors_total", "query", "compressed_bytes", "reason", "internal")
			got.wantAbsent(t, "memdump_dumps_compressed_bytes")
			if strings.Contains(got.text, "own defect") {
				t.Error("the response has the text of the panic")
			}
		}
		broken.Store(false)
		got := (<-s.begin(t.Context(), "10")).metrics(t)
		got.wantValue(t, 1, "memdump_up")
		got.wantValue(t, 10, "memdump_dumps_compressed_bytes")
	})
}

// TestHandler_schemaPanics: a panic while the schema is fetched fails every query that needs it.
func TestHandler_schemaPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.respond = func(statement string) string {
			if strings.HasPrefix(statement, "SHOW") {
				panic("own defect")
			}
			return ""
		}
		s := newScraper(t, m)
		got := (<-s.begin(t.Context(), "10")).metrics(t)
		got.wantAbsent(t, "memdump_dumps", "memdump_dumps_compressed_bytes")
		got.wantValue(t, 1, "memdump_monitored_vms") // it reads no field
		want := allReasons(s.exporter, "internal")
		delete(want, monitoredVMs)
		wantReasons(t, s.exporter, want)
	})
}

// panics is a promhttp.Logger.
type panics struct{}

func (panics) Println(...any) { panic("own defect") }

// TestHandler_encodingPanics: a panic while a response is encoded is a 500 without its text.
func TestHandler_encodingPanics(t *testing.T) {
	m := newMemory(t)
	var logged lines
	e := m.exporter(t, func(c *Config) { c.Logger = &logged })
	self := prometheus.NewRegistry()
	self.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "memdump_up", Help: "Twice, which is an error of encoding."}))
	w := httptest.NewRecorder()
	h := e.Handler(HandlerConfig{Self: self, Timeouts: Timeouts{Default: time.Minute}, ErrorLog: panics{}})
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusInternalServerError {
		t.Errorf("HTTP status %d", w.Code)
	}
	if text := w.Body.String(); strings.Contains(text, "own defect") || strings.Contains(text, "memdump_") {
		t.Errorf("the response has %s", text)
	}
	if text := logged.String(); !strings.Contains(text, "own defect") {
		t.Errorf("the log has no cause:\n%s", text)
	}
}

// deadlines records the write deadlines that a handler sets.
type deadlines struct {
	*httptest.ResponseRecorder
	after []time.Duration
}

func (d *deadlines) SetWriteDeadline(at time.Time) error {
	d.after = append(d.after, time.Until(at))
	return nil
}

// TestHandler_writeDeadline: a client that does not read its response does not block a handler.
func TestHandler_writeDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScraper(t, newMemory(t))
		w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
		r.Header.Set(timeoutHeader, "10")
		s.handler.ServeHTTP(w, r)
		if len(w.after) != 1 || w.after[0] != 10*time.Second+writeGrace {
			t.Errorf("deadlines %v after the request, want %v after its 10 s", w.after, writeGrace)
		}
	})
}
