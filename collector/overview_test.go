package collector_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// TestOverview: figures, days and newest dumps, also where the whole is refused, against
// what was written.
func TestOverview(t *testing.T) {
	server := influxdb.Server(t)
	now := time.Now()
	h := edgy(rand.New(rand.NewPCG(8, 8)), now)
	if err := server.Exec(t.Context(), "CREATE DATABASE overview"); err != nil {
		t.Fatal(err)
	}
	if err := server.Write(t.Context(), "overview", h.Lines()); err != nil {
		t.Fatal(err)
	}
	dumps, bytes := map[string]int64{}, map[string]int64{}
	for _, p := range h.Points(influxtest.Dumps) {
		day := time.Unix(0, p.TimeNs).UTC().Format(time.DateOnly)
		dumps[day]++
		bytes[day] += p.Fields["gzip_size_bytes"].(int64)
	}
	for _, limit := range []int{100_000, 20, 2} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			front := influxtest.LimitFiles(t, server.URL, "influxdb-3.8.3", limit)
			front.Holds(h)
			o := collectorAt(t, newClient(t, front.URL, "overview"), ranges.Auto, &clock{now}).Overview(t.Context())
			if o.DaysErr != nil || o.NewestErr != nil || o.API != influx.APIInfluxQL || o.Server.Major != 1 {
				t.Fatalf("%v, %v, %s, %+v", o.DaysErr, o.NewestErr, o.API, o.Server)
			}
			if len(o.Days) != 30 || o.Days[29].Start != now.UTC().Truncate(24*time.Hour) {
				t.Fatalf("days %v", o.Days)
			}
			for _, d := range o.Days {
				day := d.Start.Format(time.DateOnly)
				if d.Dumps != dumps[day] || d.Bytes != bytes[day] {
					t.Errorf("%s: %d dumps of %d bytes, want %d of %d", day, d.Dumps, d.Bytes, dumps[day], bytes[day])
				}
			}
			want := h.Points(influxtest.Dumps)[:20]
			for i, r := range o.Newest {
				if r.TimeNs != want[i].TimeNs {
					t.Errorf("record %d of %v, want %v", i, r.TimeNs, want[i].TimeNs)
				}
			}
			truth := truthOf(h, now)
			for _, f := range o.Figures {
				if value, ok := truth[f.Gauge]; slices.Contains(ofTruth, f.Gauge) && (!f.Known || f.Value != value || !ok) {
					t.Errorf("%s is %v (known: %v), want %v", f.Gauge, f.Value, f.Known, value)
				}
			}
		})
	}
}

// TestOverview_notKnown: no figure, day or list in the place of one that is not known.
func TestOverview_notKnown(t *testing.T) {
	broken := influxtest.Handle(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, "no")
	})
	missing := newServer(t, func(string) string { return `{"results":[{"statement_id":0}]}` })
	for name, tt := range map[string]struct {
		url    string
		reason string
	}{"server fails": {broken, "server_error"}, "no measurement": {missing, "measurement_missing"}} {
		col := newCollector(t, newClient(t, tt.url, "db"))
		o := col.Overview(t.Context())
		if o.DaysErr == nil || o.Days != nil || o.NewestErr == nil || o.Newest != nil {
			t.Errorf("%s: %v, %v, %v, %v", name, o.Days, o.DaysErr, o.Newest, o.NewestErr)
		}
		for _, f := range o.Figures {
			if f.Known || f.Err == nil || f.Reason != tt.reason {
				t.Errorf("%s: %+v", name, f)
			}
		}
		for _, s := range col.Statuses() {
			if s.Asked {
				t.Errorf("%s counts as a scrape", s.Query)
			}
		}
	}
}
