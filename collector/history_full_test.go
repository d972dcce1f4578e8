package collector

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

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
			v.Intercept(slowed(isFullDumps, forever))
		}, false, "", 5 * time.Second},
		"hangs altogether": {func(v *virtual) {
			v.Intercept(delays(func(string) time.Duration { return forever }))
		}, false, "timeout", 6250 * time.Millisecond},
		"unreachable": {unreachable(isFullDumps), true, "unreachable", 0},
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
		v.Intercept(slowed(isFullDumps, forever))
	}
	dear := func(total time.Duration) func(*virtual) {
		return func(v *virtual) {
			once(v)
			v.SetCost(total / 1000)
		}
	}
	limited := func(files int) func(*virtual) { return func(v *virtual) { v.LimitFiles(files) } }
	for name, tt := range map[string]struct {
		begin, then   func(*virtual)
		before, after time.Duration // it returns between the two; 0 where it does not in three days
	}{
		"hung once":             {once, func(*virtual) {}, slowLife, slowLife + 30*time.Minute},
		"and ranges just cheap": {dear(99 * time.Millisecond), func(*virtual) {}, slowLife, slowLife + 30*time.Minute},
		"and ranges too dear":   {dear(150 * time.Millisecond), func(*virtual) {}, 0, 0},
		"rejected, no range is": {limited(900), limited(0), rejectionLife, rejectionLife + 30*time.Minute},
		"ranges are rejected":   {limited(100), func(*virtual) {}, 0, 0},
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
