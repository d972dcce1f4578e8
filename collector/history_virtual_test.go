package collector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"

	"memdump_exporter/collector/rangecache"
	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// virtual is an exporter of a Fake, by the virtual clock of synctest.
type virtual struct {
	*influxtest.Fake
	scraper
	log *bytes.Buffer
}

func newVirtual(t *testing.T, fake *influxtest.Fake, changes ...func(*Config)) *virtual {
	t.Helper()
	v := &virtual{Fake: fake, log: &bytes.Buffer{}}
	logger := log.NewLogfmtLogger(log.NewSyncWriter(v.log))
	changes = append([]func(*Config){func(c *Config) { c.Now, c.Logger = time.Now, logger }}, changes...)
	// With fewer, queries wait for each other, some of them at a mutex, where virtual time stops.
	client := newClientOver(t, fake, influx.Config{URL: "http://memory", Database: "db", MaxConcurrency: 32})
	e := newExporter(t, client, changes...)
	v.scraper = scraper{e, e.Handler(HandlerConfig{Self: prometheus.NewRegistry(), Timeouts: Timeouts{Default: 10 * time.Second}})}
	return v
}

// scrape scrapes once, with a timeout of ten seconds.
func (v *virtual) scrape(t *testing.T) exposition {
	t.Helper()
	return (<-v.begin(t.Context(), "10")).metrics(t)
}

// wantTruth reports an error unless all metrics about dumps and VMs are true of the points of the
// Fake at now.
func (v *virtual) wantTruth(t *testing.T, got exposition) {
	t.Helper()
	v.Read(func(h *influxtest.History) {
		got.wantTable(t, truth(h, v.exporter.config.Now()))
		wantPerVM(t, got, h.DumpsByDomain())
	})
	got.wantValue(t, 1, "memdump_up")
	if t.Failed() {
		for _, status := range v.exporter.Statuses() {
			if status.Err != nil {
				t.Errorf("%s: %v", status.Query, status.Err)
			}
		}
		t.FailNow()
	}
}

// dumpAt returns a dump of the VM with a number, with the fields of both writers.
func dumpAt(at time.Time, vm int) influxtest.Point {
	return influxtest.Point{
		Measurement: influxtest.Dumps,
		Tags:        map[string]string{"dom": fmt.Sprint("vm-", vm), "vmid": strconv.Itoa(100 + vm), "host": fmt.Sprint("hv", vm%3)},
		Fields: map[string]any{"sha256": "x", "duration_sec": float64(8+vm%50) / 8, "gzip_size_bytes": int64(1000 + vm),
			"raw_size_bytes": int64(1<<30 + vm)},
		TimeNs: at.UnixNano(),
	}
}

// seenAt returns telemetry of the VM with a number.
func seenAt(at time.Time, vm int) influxtest.Point {
	return influxtest.Point{
		Measurement: influxtest.Telemetry,
		Tags:        map[string]string{"VMID": strconv.Itoa(100 + vm), "name": fmt.Sprint("vm-", vm), "uuid": fmt.Sprint("u-", vm)},
		Fields:      map[string]any{"state": 1},
		TimeNs:      at.UnixNano(),
	}
}

// regular returns a Fake with a dump every ten minutes up to now, of ten VMs that are monitored.
func regular(dumps int) *influxtest.Fake {
	fake, now := &influxtest.Fake{}, time.Now()
	for i := range dumps {
		fake.Add(dumpAt(now.Add(-time.Duration(i)*10*time.Minute), i%10))
	}
	for vm := range 10 {
		fake.Add(seenAt(now.Add(-time.Duration(vm)*time.Hour), vm))
	}
	return fake
}

// The kinds of statements.
func isShow(statement string) bool { return strings.HasPrefix(statement, "SHOW") }
func isRecords(statement string) bool {
	return strings.Contains(statement, `"raw_size_bytes"::field AS "raw_size_bytes" FROM`)
}
func isFullDumps(statement string) bool {
	return strings.Contains(statement, `FROM "mem_dumps"`) && !isShow(statement) && !strings.Contains(statement, " WHERE ")
}

// count returns how many statements are of a kind.
func countOf(statements []string, is func(string) bool) int {
	n := 0
	for _, statement := range statements {
		if is(statement) {
			n++
		}
	}
	return n
}

// intercepted converts a function of the statement into one for Fake.Intercept.
func intercepted(see func(ctx context.Context, statement string) (status int, body string, err error)) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		status, body, err := see(r.Context(), r.URL.Query().Get("q"))
		if status != 0 {
			return influxtest.FakeResponse(r, status, body), nil
		}
		return nil, err
	}
}

// delays returns a function for Fake.Intercept that waits for the time that a statement takes.
func delays(wait func(statement string) time.Duration) func(*http.Request) (*http.Response, error) {
	return intercepted(func(ctx context.Context, statement string) (int, string, error) {
		if d := wait(statement); d > 0 {
			select {
			case <-time.After(d):
			case <-ctx.Done():
				return 0, "", ctx.Err()
			}
		}
		return 0, "", nil
	})
}

const forever = 1000 * time.Hour

// state returns the state of the history of dumps.
func (v *virtual) state() HistoryState { return v.exporter.Histories()[dumps] }

// boundary returns where settled time ends.
func boundary(h *history) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if open := h.cache.Open(); len(open) > 0 {
		return open[0].From
	}
	return 0
}

// TestHistory_full: full queries that are cheap and not rejected are sent at each scrape.
func TestHistory_full(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, regular(1000))
		for range 3 {
			got := v.scrape(t)
			v.wantTruth(t, got)
			got.wantValue(t, 1, "memdump_query_ranges", "query", "dumps")
			got.wantValue(t, 1, "memdump_history_loaded_ratio", "history", "dumps")
			got.wantValue(t, seconds(time.Now().UnixNano()), "memdump_query_oldest_check_timestamp_seconds", "query", "dumps")
			all := v.Statements()
			if n := countOf(all, isFullDumps); n != 8 {
				t.Errorf("%d full queries of dumps, want one for each query", n)
			}
			if n := countOf(all, isRecords); n != 0 {
				t.Errorf("the history was requested %d times", n)
			}
			time.Sleep(15 * time.Second)
			v.Add(dumpAt(time.Now(), 3), dumpAt(time.Now().Add(-90*24*time.Hour), 4))
		}
	})
}

// TestHistory_leavesFull: the cases in which the history replaces full queries, and those in which
// it does not. The scrape is true in all of them.
func TestHistory_leavesFull(t *testing.T) {
	const points = 1000
	slow := func(total time.Duration) func(*virtual) {
		return func(v *virtual) { v.SetCost(total / points) }
	}
	unreachable := func(is func(string) bool) func(*virtual) {
		return func(v *virtual) {
			v.Intercept(intercepted(func(_ context.Context, statement string) (int, string, error) {
				if is(statement) {
					return 0, "", errors.New("connection refused")
				}
				return 0, "", nil
			}))
		}
	}
	for name, tt := range map[string]struct {
		change func(*virtual)
		full   bool
		fails  string // reason of the query dumps
		took   time.Duration
	}{
		"cheap":             {func(*virtual) {}, true, "", 0},
		"rejected":          {func(v *virtual) { v.LimitFiles(432) }, false, "", 0},
		"just slow":         {slow(251 * time.Millisecond), false, "", 251 * time.Millisecond},
		"just not slow":     {slow(250 * time.Millisecond), true, "", 250 * time.Millisecond},
		"slow":              {slow(4 * time.Second), false, "", 4 * time.Second},
		"given up half-way": {slow(5200 * time.Millisecond), false, "loading", 10 * time.Second},
		"hangs": {func(v *virtual) {
			v.Intercept(delays(func(s string) time.Duration { return map[bool]time.Duration{true: forever}[isFullDumps(s)] }))
		}, false, "", 5 * time.Second},
		"hangs altogether": {func(v *virtual) { v.Intercept(delays(func(string) time.Duration { return forever })) }, false, "timeout", 6250 * time.Millisecond},
		"unreachable":      {unreachable(isFullDumps), true, "unreachable", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newVirtual(t, regular(points))
				tt.change(v)
				begin := time.Now()
				got := v.scrape(t)
				if took := time.Since(begin); tt.took > 0 && took != tt.took {
					t.Errorf("the scrape took %v, want %v", took, tt.took)
				}
				if v.state().Full != tt.full {
					t.Errorf("full queries are in use: %v", v.state().Full)
				}
				if tt.fails == "" {
					v.wantTruth(t, got)
				} else {
					got.wantAbsent(t, "memdump_dumps")
				}
				if status := v.exporter.Statuses()[0]; status.Reason != tt.fails {
					t.Errorf("the query dumps fails as %q, want %q", status.Reason, tt.fails)
				}
				v.Intercept(nil)
				v.SetCost(0)
				time.Sleep(15 * time.Second)
				v.Statements()
				v.wantTruth(t, v.scrape(t))
				if n := countOf(v.Statements(), isFullDumps); (n > 0) != tt.full {
					t.Errorf("%d full queries in the next scrape", n)
				}
			})
		})
	}
}

// TestHistory_returnsToFull: full queries replace the history once all its ranges are cheap, none was
// rejected, and the latest failure of a full query is long ago.
func TestHistory_returnsToFull(t *testing.T) {
	once := func(v *virtual) { // a full query that hangs, once
		v.Intercept(delays(func(s string) time.Duration { return map[bool]time.Duration{true: forever}[isFullDumps(s)] }))
	}
	dear := func(total time.Duration) func(*virtual) {
		return func(v *virtual) {
			once(v)
			v.SetCost(total / 1000)
		}
	}
	for name, tt := range map[string]struct {
		begin, then   func(*virtual)
		before, after time.Duration // it returns between the two; 0 where it does not in three days
	}{
		"hung once":             {once, func(*virtual) {}, slowLife, slowLife + 30*time.Minute},
		"and ranges just cheap": {dear(99 * time.Millisecond), func(*virtual) {}, slowLife, slowLife + 30*time.Minute},
		"and ranges too dear":   {dear(150 * time.Millisecond), func(*virtual) {}, 0, 0},
		"rejected, no range is": {func(v *virtual) { v.LimitFiles(900) }, func(v *virtual) { v.LimitFiles(0) }, rejectionLife, rejectionLife + 30*time.Minute},
		"ranges are rejected":   {func(v *virtual) { v.LimitFiles(100) }, func(*virtual) {}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newVirtual(t, regular(1000))
				tt.begin(v)
				begin := time.Now()
				v.wantTruth(t, v.scrape(t))
				v.Intercept(nil)
				tt.then(v)
				returned := time.Duration(0)
				for time.Since(begin) < 72*time.Hour && returned == 0 {
					time.Sleep(15 * time.Minute)
					v.wantTruth(t, v.scrape(t))
					if v.state().Full {
						returned = time.Since(begin)
					}
				}
				if tt.after == 0 && returned != 0 || returned < tt.before || returned > tt.after {
					t.Errorf("full queries are in use after %v, want between %v and %v", returned, tt.before, tt.after)
				}
			})
		})
	}
}

// TestHistory_rejectedForEver: if full queries are rejected, and all ranges are cheap and accepted,
// each scrape is true, and InfluxDB rejects the full queries of one batch each day.
func TestHistory_rejectedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, regular(1000))
		v.LimitFiles(900)
		for range 3 * 24 * 4 {
			v.wantTruth(t, v.scrape(t))
			time.Sleep(15 * time.Minute)
		}
		if n := countOf(v.Statements(), isFullDumps); n > 4*8 {
			t.Errorf("%d full queries in three days", n)
		}
	})
}

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
			want := allReasons(v.exporter, "loading")
			delete(want, monitoredVMs)
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
		for part, want := range map[string]int{`msg="loading the history" history=dumps`: 1, `msg="history loaded" history=dumps`: 1, "switching to range queries": 1} {
			if n := strings.Count(v.log.String(), part); n != want {
				t.Errorf("the log has %q %d times, want %d:\n%s", part, n, want, v.log)
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
		v.Intercept(delays(func(s string) time.Duration { return map[bool]time.Duration{true: forever}[isRecords(s)] }))
		want := allReasons(v.exporter, "timeout")
		delete(want, monitoredVMs)
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

var timeCondition = regexp.MustCompile(`time (>=|<) (-?\d+)`)

// boundsOf returns the time range of a statement.
func boundsOf(statement string) rangecache.Range {
	r := rangecache.All
	for _, m := range timeCondition.FindAllStringSubmatch(statement, -1) {
		ns, _ := strconv.ParseInt(m[2], 10, 64)
		if m[1] == "<" {
			r.To = ns
		} else {
			r.From = ns
		}
	}
	return r
}

// TestHistory_ends: loading ends ten minutes after the last scrape, continues with the next one, and
// ends with the exporter.
func TestHistory_ends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, regular(4000))
		v.LimitFiles(20)
		v.Intercept(delays(func(s string) time.Duration { return map[bool]time.Duration{true: 20 * time.Second}[isRecords(s)] }))
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
		if more := v.Statements(); countOf(more, isRecords) == 0 {
			t.Error("a scrape does not go on with the loading")
		} else if i := slices.IndexFunc(more, func(s string) bool { return isRecords(s) && slices.Contains(requested, s) }); i >= 0 && boundsOf(more[i]).To < time.Now().Add(-48*time.Hour).UnixNano() {
			t.Errorf("the scrape begins again with %s", more[i])
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
		v.Intercept(delays(func(s string) time.Duration { return map[bool]time.Duration{true: 20 * time.Second}[isRecords(s)] }))
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
		"another":          {func(s string) bool { return strings.Contains(s, `MEAN(`) }, 200, `{"results":[{"series":[`, nil, "truncated", []string{"duration_mean"}},
		"the load":         {isRecords, 0, "", errors.New("connection refused"), "unreachable", nil},
		"the load, in 200": {isRecords, 200, `{"results":[{"error":"database not found: db"}]}`, nil, "database_not_found", nil},
		"the load, cut":    {isRecords, 200, `{"results":[{"series":[{"name":"mem_dumps","columns":["time"],"values":[[1]`, nil, "truncated", nil},
		"the load, null":   {isRecords, 200, `{"results":[{"series":[{"columns":["time"],"values":[[null]]}]}]}`, nil, "malformed", nil},
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
				want := allReasons(v.exporter, tt.reason)
				delete(want, monitoredVMs)
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

// TestHistory_lateness: points that are written within the allowed lateness count at once. Later
// changes count after a hundredth of their age, or ten minutes.
func TestHistory_lateness(t *testing.T) {
	for _, age := range []time.Duration{0, 5 * time.Hour, 23 * time.Hour, 25 * time.Hour, 5 * 24 * time.Hour, 60 * 24 * time.Hour, 300 * 24 * time.Hour} {
		t.Run(age.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newVirtual(t, regular(1000))
				v.LimitFiles(200)
				v.wantTruth(t, v.scrape(t))
				stated := time.Duration(0)
				if age > 24*time.Hour {
					stated = max(10*time.Minute, age/100)
				}
				for _, deletes := range []bool{false, true} {
					time.Sleep(15 * time.Second)
					at := time.Now().Add(-age)
					if deletes {
						v.Delete(influxtest.Dumps, at.Add(-time.Hour).UnixNano(), at.UnixNano()+1)
					} else {
						v.Add(dumpAt(at, 77))
					}
					changed := time.Now()
					for seen := false; !seen; {
						got := v.scrape(t)
						n, _ := got.value("memdump_dumps")
						v.Read(func(h *influxtest.History) { seen = n == float64(h.Truth(time.Now().UnixNano(), day).Dumps) })
						if since := time.Since(changed); !seen && since > stated {
							t.Fatalf("after %v, %v dumps are counted (deleted: %v)", since, n, deletes)
						}
						if seen {
							v.wantTruth(t, got)
							break
						}
						time.Sleep(max(15*time.Second, stated/30))
					}
				}
			})
		})
	}
}

// TestHistory_random: every value of every scrape is true, with random points within the allowed
// lateness, random times of scrapes and a random latency of InfluxDB: no point is counted twice or
// lost while settled time grows.
func TestHistory_random(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 7))
				within := func(d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }
				fake, now := &influxtest.Fake{}, time.Now()
				for range 400 {
					fake.Add(dumpAt(now.Add(-within(100*24*time.Hour)), rng.IntN(30)))
				}
				for range 100 {
					fake.Add(seenAt(now.Add(-within(26*time.Hour)), rng.IntN(40)))
				}
				fake.LimitFiles([]int{100, 30}[seed/2])
				lateness := []time.Duration{2 * time.Hour, 10 * time.Minute}[seed%2]
				v := newVirtual(t, fake, func(c *Config) { c.DumpsAllowedLateness = lateness })
				var mu sync.Mutex // of rng, which the requests use, too
				var delay time.Duration
				v.Intercept(delays(func(s string) time.Duration {
					mu.Lock()
					defer mu.Unlock()
					if isShow(s) || delay == 0 {
						return 0
					}
					return within(delay)
				}))
				steps := 0
				for i := range 250 {
					mu.Lock()
					delay = []time.Duration{0, 200 * time.Millisecond, 4 * time.Second}[rng.IntN(3)]
					wait, age, late := within(40*time.Second), within(lateness), within(5*time.Minute)
					vm := rng.IntN(60)
					if rng.IntN(60) == 0 {
						wait = within(5 * time.Hour)
					}
					mu.Unlock()
					time.Sleep(wait)
					v.Add(dumpAt(time.Now().Add(-age), vm), seenAt(time.Now().Add(-late), vm))
					// Points arrive between scrapes, so that the truth is one of one time; a scrape
					// may begin while the loader, which the one before began, still runs.
					at := time.Now()
					var want map[string]float64
					var perVM map[string]influxtest.DumpsOfDomain
					v.Read(func(h *influxtest.History) { want, perVM = truth(h, at), h.DumpsByDomain() })
					before := boundary(v.exporter.histories[dumps])
					got := (<-v.begin(t.Context(), "600")).metrics(t)
					got.wantTable(t, want)
					wantPerVM(t, got, perVM)
					if t.Failed() {
						t.Fatalf("scrape %d, %v after the beginning: %v", i, time.Since(now), v.exporter.Statuses()[0].Err)
					}
					if boundary(v.exporter.histories[dumps]) != before {
						steps++
					}
				}
				if steps < 5 {
					t.Errorf("settled time grew during %d scrapes: this test shows little", steps)
				}
				if n := len(fake.Unknown()); n > 0 {
					t.Errorf("unknown: %q", fake.Unknown())
				}
			})
		})
	}
}

// TestHistory_pause: after a pause, the metrics are absent with the reason loading until the overdue
// ranges have been fetched again.
func TestHistory_pause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, regular(4000))
		v.LimitFiles(200)
		v.wantTruth(t, v.scrape(t))
		v.Intercept(delays(func(s string) time.Duration { return map[bool]time.Duration{true: 2 * time.Second}[isRecords(s)] }))
		time.Sleep(2 * day)
		v.Delete(influxtest.Dumps, time.Now().Add(-10*day).UnixNano(), time.Now().Add(-9*day).UnixNano())
		for vm := range 10 {
			v.Add(seenAt(time.Now(), vm))
		}
		got := v.scrape(t)
		got.wantAbsent(t, "memdump_dumps")
		want := allReasons(v.exporter, "loading")
		delete(want, monitoredVMs)
		wantReasons(t, v.exporter, want)
		if ratio, _ := got.value("memdump_history_loaded_ratio", "history", "dumps"); ratio <= 0 || ratio >= 1 {
			t.Errorf("the ratio is %v", ratio)
		}
		time.Sleep(5 * time.Minute)
		v.wantTruth(t, v.scrape(t))
	})
}

// TestHistory_refreshFails: a failed refresh in the background fails no scrape while no range is
// overdue.
func TestHistory_refreshFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, regular(1000))
		v.LimitFiles(200)
		v.wantTruth(t, v.scrape(t))
		loaded := time.Now()
		v.Intercept(intercepted(func(_ context.Context, statement string) (int, string, error) {
			if isRecords(statement) {
				return http.StatusServiceUnavailable, "", nil
			}
			return 0, "", nil
		}))
		v.Statements()
		failures := 0
		for time.Since(loaded) < time.Hour {
			time.Sleep(time.Minute)
			got := v.scrape(t)
			failures += countOf(v.Statements(), isRecords)
			// The youngest range is of a day ago, and is refreshed after a hundredth of that.
			if time.Since(loaded) < day/100 {
				v.wantTruth(t, got)
			} else {
				want := allReasons(v.exporter, "overloaded")
				delete(want, monitoredVMs)
				wantReasons(t, v.exporter, want)
			}
		}
		if failures < 10 {
			t.Errorf("%d failures show nothing", failures)
		}
		v.Intercept(nil)
		v.wantTruth(t, v.scrape(t))
	})
}

// TestHistory_parallel: at most two requests for one history run at the same time.
func TestHistory_parallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, regular(4000))
		v.LimitFiles(50)
		var mu sync.Mutex
		running, maxRunning, requests, maxRequests := 0, 0, 0, 0
		v.Intercept(intercepted(func(_ context.Context, statement string) (int, string, error) {
			if isRecords(statement) {
				mu.Lock()
				running++
				requests++
				maxRunning = max(maxRunning, running)
				mu.Unlock()
				time.Sleep(50 * time.Millisecond)
				mu.Lock()
				running--
				mu.Unlock()
			}
			return 0, "", nil
		}))
		for range 400 {
			v.scrape(t)
			time.Sleep(9 * time.Minute)
			mu.Lock()
			maxRequests, requests = max(maxRequests, requests), 0
			mu.Unlock()
		}
		mu.Lock()
		defer mu.Unlock()
		if maxRequests < 3*parallelRequests {
			t.Errorf("at most %d requests between two scrapes show nothing", maxRequests)
		}
		if maxRunning != parallelRequests {
			t.Errorf("%d requests ran in parallel, want %d", maxRunning, parallelRequests)
		}
	})
}

// TestHistory_open: open ranges that are rejected are split for all queries, once.
func TestHistory_open(t *testing.T) {
	for _, limit := range []int{100, 20, 2} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newVirtual(t, regular(1000))
				v.LimitFiles(limit)
				v.wantTruth(t, v.scrape(t))
				before := v.Rejected()
				v.Statements()
				v.wantTruth(t, v.scrape(t))
				if again := v.Rejected() - before; again > 0 {
					t.Errorf("%d more queries were rejected", again)
				}
				ranges := 0
				v.exporter.histories[dumps].mu.Lock()
				ranges = len(v.exporter.histories[dumps].cache.Open())
				v.exporter.histories[dumps].mu.Unlock()
				if want := 24 * 6 / limit; ranges <= want {
					t.Errorf("%d open ranges, want more than %d", ranges, want)
				}
				count := func(s string) bool { return strings.Contains(s, `COUNT("sha256"::field) AS "dumps" FROM`) }
				if n := countOf(v.Statements(), count); n != ranges {
					t.Errorf("%d requests of one query for %d open ranges", n, ranges)
				}
				// The open ranges settle one after the other, and none of the steps is lost.
				for range 16 {
					time.Sleep(2 * time.Hour)
					v.Add(dumpAt(time.Now(), 1), dumpAt(time.Now().Add(-10*time.Minute), 2), dumpAt(time.Now().Add(-20*time.Minute), 3))
					for vm := range 10 {
						v.Add(seenAt(time.Now(), vm))
					}
					v.wantTruth(t, v.scrape(t))
				}
				if end := time.Unix(0, boundary(v.exporter.histories[dumps])); time.Since(end) > 24*time.Hour+3*time.Hour+time.Hour {
					t.Errorf("settled time ends %v ago", time.Since(end))
				}
			})
		})
	}
}

// TestHistory_split: a rejected range of a view is split into parts that cover it, even if the cache
// has changed it in the meantime.
func TestHistory_split(t *testing.T) {
	for name, meanwhile := range map[string]func(h *history, r rangecache.Range, now time.Time){
		"nothing":            func(*history, rangecache.Range, time.Time) {},
		"it was split":       func(h *history, r rangecache.Range, _ time.Time) { _ = h.cache.Split(r) },
		"a step has settled": func(h *history, _ rangecache.Range, now time.Time) { settle(h, now.Add(4*time.Hour)) },
		"two have": func(h *history, _ rangecache.Range, now time.Time) {
			settle(h, now.Add(4*time.Hour))
			settle(h, now.Add(9*time.Hour))
		},
		"and then it is": func(h *history, _ rangecache.Range, now time.Time) {
			settle(h, now.Add(4*time.Hour))
			_ = h.cache.Split(h.cache.Open()[0])
		},
		"the first was split": func(h *history, r rangecache.Range, now time.Time) {
			_ = h.cache.Split(r)
			settle(h, now.Add(4*time.Hour))
		},
	} {
		t.Run(name, func(t *testing.T) {
			now := recordedNow
			e := newExporter(t, newClientOver(t, &influxtest.Fake{}, influx.Config{}))
			h := e.histories[dumps]
			h.full = false
			h.cache.Plan(now.UnixNano(), rangecache.All)
			r := h.cache.Open()[0]
			meanwhile(h, r, now)
			pieces, err := h.split(r)
			if err != nil {
				t.Fatal(err)
			}
			at := r.From
			for _, piece := range pieces {
				if piece.From != at || piece.Empty() {
					t.Fatalf("a piece %v where one from %d was due: %v", piece, at, pieces)
				}
				at = piece.To
			}
			if at != r.To {
				t.Errorf("the pieces end at %d, want %d", at, r.To)
			}
			if len(pieces) < 2 {
				t.Errorf("the pieces are %v", pieces)
			}
		})
	}
}

// settle stores the step that settles at now.
func settle(h *history, now time.Time) {
	h.cache.Plan(now.UnixNano(), rangecache.All)
	for _, r := range h.cache.Upcoming() {
		h.cache.Store(r, newAggregate(), now.UnixNano(), rangecache.Cost{})
	}
}

// TestHistory_canceled: a scrape that waits while the exporter ends is no failure of InfluxDB.
func TestHistory_canceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, regular(1000))
		v.LimitFiles(200)
		v.Intercept(delays(func(s string) time.Duration { return map[bool]time.Duration{true: 2 * time.Second}[isRecords(s)] }))
		response := v.begin(t.Context(), "10")
		time.Sleep(3 * time.Second)
		v.exporter.Close()
		<-response
		want := allReasons(v.exporter, "canceled")
		delete(want, monitoredVMs)
		wantReasons(t, v.exporter, want)
		if strings.Contains(v.log.String(), "level=error") {
			t.Errorf("the log has an error:\n%s", v.log)
		}
	})
}

// TestHistory_days: the dumps per day are the same with full queries and with the history, at any
// time of the day.
func TestHistory_days(t *testing.T) {
	for _, limit := range []int{0, 432, 20} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newVirtual(t, regular(5000))
				v.LimitFiles(limit)
				for range 5 {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					got, err := v.exporter.Overview(ctx).Days, error(nil)
					cancel()
					want := make(map[int64]Day)
					v.Read(func(h *influxtest.History) {
						for _, p := range h.Points(influxtest.Dumps) {
							d := want[startOfDay(p.TimeNs)]
							d.Dumps++
							d.CompressedBytes += p.Fields["gzip_size_bytes"].(int64)
							want[startOfDay(p.TimeNs)] = d
						}
					})
					if err != nil || len(got) != overviewDays {
						t.Fatalf("%d days, %v", len(got), err)
					}
					for _, d := range got {
						w := want[d.Start.UnixNano()]
						if d.Dumps != w.Dumps || d.CompressedBytes != w.CompressedBytes {
							t.Errorf("%v: %d dumps of %d bytes, want %d of %d", d.Start, d.Dumps, d.CompressedBytes, w.Dumps, w.CompressedBytes)
						}
					}
					time.Sleep(5 * time.Hour)
					v.Add(dumpAt(time.Now(), 3), dumpAt(time.Now().Add(-20*time.Hour), 4))
				}
			})
		})
	}
}

// TestHistory_fileLimit: every value of the first scrape is exact on a real InfluxDB behind the file
// limit of InfluxDB 3, with the recorded rejections of two versions.
func TestHistory_fileLimit(t *testing.T) {
	server := influxdb.Server(t)
	now := newClock(time.Now().Truncate(time.Microsecond))
	h := edgy(rand.New(rand.NewPCG(1, 2)), now.Now())
	server.MustStore(t, "edgy", h)
	for _, as := range []string{"influxdb-3.6.0", "influxdb-3.8.3"} {
		for _, limit := range []int{432, 200, 20, 2} {
			t.Run(fmt.Sprintf("%s/%d", as, limit), func(t *testing.T) {
				front := influxtest.LimitFiles(t, server.URL, as, limit)
				front.Holds(h)
				e := newExporter(t, newClient(t, front.URL, "edgy"), at(now))
				for i := range 2 {
					got := scrape(t, e)
					got.wantTable(t, truth(h, now.Now()))
					wantPerVM(t, got, h.DumpsByDomain())
					queries, rejected := front.Queries()
					t.Logf("scrape %d: %d queries, %d rejected", i, queries, rejected)
				}
				if _, rejected := front.Queries(); rejected > 0 != (limit < 432) {
					t.Errorf("%d queries were rejected", rejected)
				}
				_, before := front.Queries()
				scrape(t, e)
				if _, after := front.Queries(); after > before {
					t.Errorf("%d queries of the third scrape were rejected", after-before)
				}
			})
		}
	}
}

// edgy is a history that is hard to split. It has gaps of weeks, points in the future, and points at
// the ends of blocks and of the first ranges, and a nanosecond next to them.
func edgy(rng *rand.Rand, now time.Time) *influxtest.History {
	h := &influxtest.History{}
	add := func(at time.Time) { h.Add(dumpAt(at, rng.IntN(40))) }
	for range 250 {
		age := time.Duration(rng.Int64N(int64(150 * day)))
		if age > 30*day && age < 65*day {
			age /= 100
		}
		at := now.Add(-age)
		if rng.IntN(3) == 0 {
			at = at.Truncate(10 * time.Minute)
		}
		add(at)
	}
	for age := day; age < 150*day; age *= 2 {
		for _, beside := range []time.Duration{-1, 0, 1} {
			add(now.Add(-age + beside))
		}
	}
	for _, at := range []time.Time{now, now.Add(1), now.Add(time.Hour), now.Add(50 * day), time.Unix(0, 0)} {
		add(at)
	}
	for vm := range 30 {
		h.Add(seenAt(now.Add(-time.Duration(rng.Int64N(int64(26*time.Hour)))), vm))
	}
	for i, at := range []time.Time{now.Add(-day), now.Add(-day - 1), now, now.Add(1), now.Add(-time.Hour)} {
		h.Add(seenAt(at, 50+i))
	}
	return h
}
