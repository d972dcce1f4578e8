package collector

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"memdump_exporter/collector/rangecache"
	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// boundary returns where settled time ends.
func boundary(h *history) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if open := h.cache.Open(); len(open) > 0 {
		return open[0].From
	}
	return 0
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
