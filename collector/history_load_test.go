package collector

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"memdump_exporter/collector/rangecache"
	"memdump_exporter/influx/influxtest"
)

// TestHistory_loads: loading continues after a scrape, does not start again, and is logged once.
// Until it is complete, each scrape waits until its deadline and has no metric about dumps.
func TestHistory_loads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, regular(4000))
		v.LimitFiles(432)
		var mu sync.Mutex
		running, maxRunning := 0, 0
		requested := make(map[string]int)
		v.Intercept(intercepted(func(ctx context.Context, statement string) (int, string, error) {
			if !isRecords(statement) {
				return 0, "", nil
			}
			mu.Lock()
			running++
			maxRunning = max(maxRunning, running)
			requested[statement]++
			mu.Unlock()
			defer func() { mu.Lock(); running--; mu.Unlock() }()
			select {
			case <-time.After(2400 * time.Millisecond): // less than a quarter of the timeout
			case <-ctx.Done():
			}
			return 0, "", ctx.Err()
		}))
		loaded, scrapes := 0.0, 0
		for ; ; scrapes++ {
			begin := time.Now()
			got := v.scrape(t)
			ratio, _ := got.value("memdump_history_loaded_ratio", "history", "dumps")
			if ratio == 1 {
				v.wantTruth(t, got)
				break
			}
			if took := time.Since(begin); took != 10*time.Second {
				t.Errorf("scrape %d took %v, want all of its timeout", scrapes, took)
			}
			if ratio <= loaded {
				t.Errorf("scrape %d: the ratio is %v, and was %v before", scrapes, ratio, loaded)
			}
			loaded = ratio
			got.wantAbsent(t, "memdump_dumps", "memdump_dumped_vms", "memdump_last_dump_timestamp_seconds", "memdump_vm_dumps")
			got.wantValue(t, 10, "memdump_monitored_vms")
			want := dumpsReasons(v.exporter, "loading")
			wantReasons(t, v.exporter, want)
			if t.Failed() || scrapes > 20 {
				t.FailNow()
			}
			time.Sleep(15*time.Second - time.Since(begin))
		}
		if scrapes < 1 {
			t.Error("one scrape had time for all: this test shows nothing")
		}
		for statement, n := range requested {
			if n > 1 {
				t.Errorf("requested %d times: %s", n, statement)
			}
		}
		if maxRunning != parallelRequests {
			t.Errorf("%d requests ran in parallel, want %d", maxRunning, parallelRequests)
		}
		for _, part := range []string{
			`msg="loading the history" history=dumps`, `msg="history loaded" history=dumps`, "switching to range queries",
		} {
			if n := strings.Count(v.log.String(), part); n != 1 {
				t.Errorf("the log has %q %d times, want once:\n%s", part, n, v.log)
			}
		}
		t.Logf("loaded after %d scrapes, with %d requests", scrapes, len(requested))
	})
}

// TestHistory_loads_nothing: if nothing was loaded, the reason is timeout.
func TestHistory_loads_nothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, regular(1000))
		v.LimitFiles(432)
		v.Intercept(slowed(isRecords, forever))
		want := dumpsReasons(v.exporter, "timeout")
		for range 20 {
			got := v.scrape(t)
			wantReasons(t, v.exporter, want)
			got.wantValue(t, 0, "memdump_history_loaded_ratio", "history", "dumps")
			time.Sleep(15 * time.Second)
		}
		if n := v.state().Ranges; n > 60 {
			t.Errorf("%d ranges of nothing but silence", n)
		}
		v.Intercept(nil)
		v.wantTruth(t, v.scrape(t))
	})
}

// TestHistory_slowRanges: ranges whose requests time out are split until they do not.
func TestHistory_slowRanges(t *testing.T) {
	for name, slow := range map[string]func(r rangecache.Range, now time.Time) bool{
		"all but the shortest": func(r rangecache.Range, _ time.Time) bool { return r.To-r.From > int64(12*time.Hour) },
		"the oldest": func(r rangecache.Range, now time.Time) bool {
			return r.From < now.Add(-20*24*time.Hour).UnixNano() && r.To-r.From > int64(day)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v, now := newVirtual(t, regular(4000)), time.Now()
				v.Intercept(delays(func(s string) time.Duration {
					r := boundsOf(s)
					first := now.Add(-4000 * 10 * time.Minute).UnixNano() // before that there is nothing
					r = r.Within(rangecache.Range{From: first, To: now.UnixNano()})
					return map[bool]time.Duration{true: forever}[isFullDumps(s) || isRecords(s) && !r.Empty() && slow(r, now)]
				}))
				scrapes := 0
				for got := v.scrape(t); ; got = v.scrape(t) {
					if up, _ := got.value("memdump_up"); up == 1 {
						v.wantTruth(t, got)
						break
					}
					if scrapes++; scrapes > 200 {
						t.Fatalf("not loaded: %v", v.exporter.Statuses()[0].Err)
					}
					time.Sleep(15 * time.Second)
				}
				t.Logf("loaded after %d scrapes, in %d ranges", scrapes, v.state().Ranges)
			})
		})
	}
}

// TestHistory_ends: loading ends ten minutes after the last scrape, continues with the next one, and
// ends with the exporter.
func TestHistory_ends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, regular(4000))
		v.LimitFiles(20)
		v.Intercept(slowed(isRecords, 20*time.Second))
		(<-v.begin(t.Context(), "100")).metrics(t) // a quarter of it is time enough for a request
		var requested []string
		idle := time.Duration(0)
		for begin := time.Now(); idle < 5*time.Minute; {
			time.Sleep(time.Second)
			if more := v.Statements(); len(more) > 0 {
				requested, idle = append(requested, more...), 0
				if since := time.Since(begin); since > loadAfterScrape+time.Second {
					t.Fatalf("requested %v after the scrape: %q", since, more)
				}
			}
			idle += time.Second
		}
		before := v.state()
		if before.Loaded == 0 || before.Loaded == 1 {
			t.Fatalf("%+v: this test shows nothing", before)
		}
		if n := countOf(requested, isRecords); n < 2*int((loadAfterScrape/(20*time.Second))) {
			t.Errorf("%d requests within ten minutes", n)
		}
		if part := `msg="history loaded"`; strings.Contains(v.log.String(), part) {
			t.Errorf("the log has %s:\n%s", part, v.log)
		}
		(<-v.begin(t.Context(), "100")).metrics(t)
		more := v.Statements()
		if countOf(more, isRecords) == 0 {
			t.Error("a scrape does not continue the loading")
		}
		old := time.Now().Add(-48 * time.Hour).UnixNano()
		for _, statement := range more {
			if isRecords(statement) && slices.Contains(requested, statement) && boundsOf(statement).To < old {
				t.Errorf("the scrape begins again with %s", statement)
			}
		}
		begin := time.Now()
		v.exporter.Close()
		if took := time.Since(begin); took > 0 {
			t.Errorf("closing took %v", took)
		}
		v.Statements()
		synctest.Wait()
		if more := v.Statements(); len(more) > 0 {
			t.Errorf("requested after the end: %q", more)
		}
	})
}

// TestHistory_long: a scrape may wait for longer than loading continues after a scrape.
func TestHistory_long(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, regular(4000))
		v.LimitFiles(50)
		v.Intercept(slowed(isRecords, 20*time.Second))
		begin := time.Now()
		got := (<-v.begin(t.Context(), "7200")).metrics(t)
		if took := time.Since(begin); took < loadAfterScrape+time.Minute {
			t.Fatalf("the scrape took %v: this test shows nothing", took)
		}
		// The values are of the time when it began, and so is the look-back.
		got.wantValue(t, 4000, "memdump_dumps")
		got.wantValue(t, 1, "memdump_up")
	})
}

// TestHistory_failures: a failed query does not affect the others. If loading fails, each query for
// dumps has its reason.
func TestHistory_failures(t *testing.T) {
	const records = `{"results":[{"series":[{"name":"mem_dumps","columns":["time","dom","vmid","host","sha256",` +
		`"duration_sec","gzip_size_bytes","raw_size_bytes"],"values":[`
	for name, tt := range map[string]struct {
		fails  func(string) bool
		status int
		body   string
		err    error
		reason string
		hit    []string // queries; nil for all of dumps
	}{
		"one query": {func(s string) bool {
			return strings.Contains(s, `AS "compressed" FROM "mem_dumps" WHERE`) && !strings.Contains(s, "GROUP")
		}, 503, "", nil, "overloaded", []string{"compressed_bytes"}},
		"another": {func(s string) bool { return strings.Contains(s, `MEAN(`) },
			200, `{"results":[{"series":[`, nil, "truncated", []string{"duration_mean"}},
		"the load":         {isRecords, 0, "", errors.New("connection refused"), "unreachable", nil},
		"the load, in 200": {isRecords, 200, `{"results":[{"error":"database not found: db"}]}`, nil, "database_not_found", nil},
		"the load, cut":    {isRecords, 200, records + `[1,"a","1","h","x",1,1,1]`, nil, "truncated", nil},
		"the load, null":   {isRecords, 200, records + `[null,"a","1","h","x",1,1,1]]}]}]}`, nil, "malformed", nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newVirtual(t, regular(1000))
				v.LimitFiles(200)
				v.Intercept(intercepted(func(_ context.Context, statement string) (int, string, error) {
					if tt.fails(statement) {
						return tt.status, tt.body, tt.err
					}
					return 0, "", nil
				}))
				want := dumpsReasons(v.exporter, tt.reason)
				if tt.hit != nil {
					for query := range want {
						if !slices.Contains(tt.hit, query) {
							want[query] = ""
						}
					}
				}
				for range 3 {
					got := v.scrape(t)
					wantReasons(t, v.exporter, want)
					v.Read(func(h *influxtest.History) {
						served := truth(h, time.Now())
						for _, q := range v.exporter.queries {
							for _, m := range q.metrics {
								if want[q.name] == "" {
									got.wantValue(t, served[m.name], m.name)
								} else {
									got.wantAbsent(t, m.name)
								}
							}
						}
					})
					time.Sleep(15 * time.Second)
				}
				v.Intercept(nil)
				v.wantTruth(t, v.scrape(t))
			})
		})
	}
}

// TestHistory_canceled: a scrape that waits while the exporter ends is no failure of InfluxDB.
func TestHistory_canceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, regular(1000))
		v.LimitFiles(200)
		v.Intercept(slowed(isRecords, 2*time.Second))
		response := v.begin(t.Context(), "10")
		time.Sleep(3 * time.Second)
		v.exporter.Close()
		<-response
		want := dumpsReasons(v.exporter, "canceled")
		wantReasons(t, v.exporter, want)
		if strings.Contains(v.log.String(), "level=error") {
			t.Errorf("the log has an error:\n%s", v.log)
		}
	})
}
