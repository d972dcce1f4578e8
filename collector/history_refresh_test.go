package collector

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"memdump_exporter/influx/influxtest"
)

// TestHistory_lateness: points that are written within the allowed lateness count at once. Later
// changes count after a hundredth of their age, or ten minutes.
func TestHistory_lateness(t *testing.T) {
	for _, age := range []time.Duration{0, 5 * time.Hour, 23 * time.Hour, 25 * time.Hour, 5 * day, 60 * day, 300 * day} {
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
		v.Intercept(slowed(isRecords, 2*time.Second))
		time.Sleep(2 * day)
		v.Delete(influxtest.Dumps, time.Now().Add(-10*day).UnixNano(), time.Now().Add(-9*day).UnixNano())
		for vm := range 10 {
			v.Add(seenAt(time.Now(), vm))
		}
		got := v.scrape(t)
		got.wantAbsent(t, "memdump_dumps")
		want := dumpsReasons(v.exporter, "loading")
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
				want := dumpsReasons(v.exporter, "overloaded")
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
