package influxtest

import (
	"bytes"
	"io"
	"math"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestVerify: what Verify must accept, and what it must not.
func TestVerify(t *testing.T) {
	t.Parallel()
	s := MustStart(t)
	week := time.Date(2025, 11, 3, 0, 0, 0, 0, time.UTC) // a Monday, where shards begin
	dump := func(dom string, at time.Time, fields fields) Point {
		return Point{Measurement: Dumps, Tags: tags{"dom": dom}, Fields: fields, TimeNs: at.UnixNano()}
	}

	believable := Believable(3, week)
	t.Run("believable", func(t *testing.T) { s.MustStore(t, "believable", believable) })
	t.Run("in front of a file limit", func(t *testing.T) {
		front := LimitFiles(t, s.URL, "influxdb-3.8.3", 50)
		front.Holds(believable)
		limited := Writer{URL: front.URL}
		if err := limited.Verify(t.Context(), "believable", believable); err != nil {
			t.Error(err)
		}
		if _, refused := front.Queries(); refused == 0 {
			t.Error("nothing was refused")
		}
	})
	t.Run("empty", func(t *testing.T) { s.MustStore(t, "empty", &History{}) })

	mixed := &History{}
	for i := range 3 {
		mixed.Add(dump("a", week.AddDate(0, 0, i), fields{"sha256": "s", "size": 1.5}),
			dump("a", week.AddDate(0, 0, 7+i), fields{"sha256": "s", "size": 1}),
			dump("a", week.AddDate(0, 0, 14+i), fields{"sha256": 1, "size": "big"}))
	}
	t.Run("fields of several types", func(t *testing.T) { s.MustStore(t, "mixed", mixed) })

	edges := &History{}
	edges.Add(Point{Measurement: "m", Fields: fields{"x": 1}, TimeNs: math.MinInt64 + 2},
		Point{Measurement: "m", Fields: fields{"x": 1, "y": 2}, TimeNs: math.MaxInt64 - 1}) // the first and the last that 1.x takes
	t.Run("the ends of time", func(t *testing.T) { s.MustStore(t, "edges", edges) })
	t.Run("the ends of time, one lost", func(t *testing.T) {
		edges.Add(Point{Measurement: "m", Fields: fields{"x": 1}, TimeNs: math.MinInt64 + 3})
		wantError(t, s.Verify(t.Context(), "edges", edges), "m: wrong number of values: in the week from 1677-09-20 1 of 2 values of x")
	})

	h := &History{}
	for i := range 10 {
		h.Add(dump("a", week.AddDate(0, 0, i), fields{"sha256": "s", "duration_sec": 1.5}))
	}
	t.Run("points lost behind a 204", func(t *testing.T) {
		proxy := Forward(t, s.URL)
		lossy := Writer{URL: Handle(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/write" {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				lines := strings.SplitAfter(string(body), "\n")
				body = []byte(strings.Join(append(lines[:7:7], lines[9:]...), "")) // days 7 and 8 do not arrive
				r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			}
			proxy.ServeHTTP(w, r)
		})}
		if err := lossy.CreateDatabase(t.Context(), "lossy"); err != nil {
			t.Fatal(err)
		}
		if err := lossy.Write(t.Context(), "lossy", h.Lines()); err != nil {
			t.Fatal(err)
		}
		wantError(t, lossy.Verify(t.Context(), "lossy", h),
			"lossy has the history: mem_dumps: wrong number of values: in the week from 2025-11-10 "+
				"1 of 3 values of duration_sec, 1 of 3 values of sha256")
	})
	t.Run("points too many", func(t *testing.T) {
		more := dump("b", week, fields{"sha256": "s"})
		s.MustStore(t, "more", h)
		if err := s.Write(t.Context(), "more", []string{more.Line()}); err != nil {
			t.Fatal(err)
		}
		wantError(t, s.Verify(t.Context(), "more", h), "in the week from 2025-11-03 8 of 7 values of sha256")
		far := dump("b", week.AddDate(1, 0, 0), fields{"sha256": "s"})
		h.Add(more)
		if err := s.Write(t.Context(), "more", []string{far.Line()}); err != nil {
			t.Fatal(err)
		}
		wantError(t, s.Verify(t.Context(), "more", h), "over all time 12 of 11 values of sha256, although each week is right")
	})
	t.Run("no database", func(t *testing.T) {
		wantError(t, s.Verify(t.Context(), "none", h), "database not found")
	})
}

// TestStore: a history is stored, or there is an error, whatever the server responds to a write.
func TestStore(t *testing.T) {
	t.Parallel()
	real := MustStart(t)
	for name, tt := range map[string]struct {
		lost int64    // writes that are acknowledged and leave no trace
		want []string // in the error; nil: none
	}{
		"all stored": {lost: 0},
		"lost once":  {lost: 1},
		"lost twice": {lost: 2, want: []string{"verify that lost twice has the history", Telemetry, "in the week from ", "0 of "}},
	} {
		t.Run(name, func(t *testing.T) {
			var writes atomic.Int64
			pass := Forward(t, real.URL)
			front := &Server{Writer: Writer{Major: 1, URL: Handle(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/write" && writes.Add(1) <= tt.lost {
					w.WriteHeader(http.StatusNoContent)
					return
				}
				pass.ServeHTTP(w, r)
			})}}
			now := time.Now()
			if err := front.CreateDatabase(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			h := &History{}
			for i := range 3 {
				at := now.Add(-time.Duration(i) * shard)
				h.Add(Point{Measurement: Telemetry, Tags: tags{"VMID": "1"}, Fields: fields{"cpu": 1.5}, TimeNs: at.UnixNano()})
			}
			err := front.Store(t.Context(), name, h, h.Lines())
			if tt.want == nil {
				if err != nil {
					t.Error(err)
				}
				if err := real.Verify(t.Context(), name, h); err != nil {
					t.Error(err)
				}
				return
			}
			for _, part := range tt.want {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("want an error with %q, got %v", part, err)
				}
			}
		})
	}
}
