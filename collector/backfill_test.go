package collector

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// backfill returns the steps of a backfill.
func backfill(ctx context.Context, e *Exporter, b Backfill) (steps []Step, err error) {
	err = e.Backfill(ctx, b, func(s Step) error {
		s.Values = slices.Clone(s.Values)
		steps = append(steps, s)
		return nil
	})
	return steps, err
}

// wantSteps compares each step with the true values of a scrape at its time.
func wantSteps(t *testing.T, steps []Step, h *influxtest.History, b Backfill) {
	t.Helper()
	if want := int(b.To.Sub(b.From)/b.Every) + 1; len(steps) != want {
		t.Errorf("%d steps, want %d", len(steps), want)
	}
	points := h.Points(influxtest.Dumps)
	slices.Reverse(points) // oldest first
	until := &influxtest.History{}
	for i, step := range steps {
		if want := b.From.Add(time.Duration(i) * b.Every); !step.At.Equal(want) {
			t.Errorf("step %d is at %v, want %v", i, step.At, want)
		}
		for len(points) > 0 && points[0].TimeNs <= step.At.UnixNano() {
			until.Add(points[0])
			points = points[1:]
		}
		if i%11 > 1 && i < len(steps)-1 { // the truth counts all points afresh
			continue
		}
		want := until.Truth(step.At.UnixNano(), time.Hour).Metrics()
		for _, m := range step.Values {
			if value, known := want[m.Name]; m.HasValue != known || known && m.Value != value {
				t.Errorf("%v: %s is %v (known: %v), want %v (%v)", step.At, m.Name, m.Value, m.HasValue, value, known)
			}
		}
	}
}

// TestBackfill: each step has the values that a scrape would have had, and the last one those of a
// scrape, even if InfluxDB rejects a window or is too slow for it.
func TestBackfill(t *testing.T) {
	h := influxtest.Believable(5, recordedNow)
	for name, tt := range map[string]struct {
		files   int
		cost    time.Duration
		timeout time.Duration
		every   time.Duration
		days    int
	}{
		"every hour":                   {every: time.Hour, days: 20, timeout: time.Minute},
		"every five minutes":           {every: 5 * time.Minute, days: 2, timeout: time.Minute},
		"steps longer than a window":   {every: 60 * time.Hour, days: 45, timeout: time.Minute},
		"from before the first dump":   {every: 24 * time.Hour, days: 50, timeout: time.Minute},
		"with a limit on files":        {every: 6 * time.Hour, days: 40, files: 20, timeout: time.Minute},
		"with responses that are slow": {every: 6 * time.Hour, days: 40, cost: 100 * time.Millisecond, timeout: 5 * time.Second},
		"with both":                    {every: 24 * time.Hour, days: 45, files: 50, cost: 100 * time.Millisecond, timeout: 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := &influxtest.Fake{}
				for _, measurement := range []string{influxtest.Dumps, influxtest.Telemetry, influxtest.OlderTelemetry} {
					fake.Add(h.Points(measurement)...)
				}
				e := newExporter(t, newClientOver(t, fake, influx.Config{}))
				want := scrape(t, e)
				fake.Statements()
				if tt.files > 0 {
					fake.LimitFiles(tt.files)
				}
				fake.SetCost(tt.cost)
				b := Backfill{From: recordedNow.Add(-time.Duration(tt.days) * day), To: recordedNow, Every: tt.every, Timeout: tt.timeout}
				steps, err := backfill(t.Context(), e, b)
				if err != nil {
					t.Fatal(err)
				}
				wantSteps(t, steps, h, b)
				for _, m := range steps[len(steps)-1].Values {
					if !m.HasValue {
						t.Errorf("the last step has no %s", m.Name)
					}
					want.wantValue(t, m.Value, m.Name)
				}
				windows := max(1, tt.days)
				if requests := len(fake.Statements()); (requests > windows+2) != (tt.files > 0 || tt.cost > 0) && tt.every <= day {
					t.Errorf("%d requests for %d windows", requests, windows)
				}
			})
		})
	}
}

// TestBackfill_real: the last step equals a scrape of a real InfluxDB.
func TestBackfill_real(t *testing.T) {
	server := influxdb.Server(t)
	h := influxtest.Believable(6, recordedNow)
	server.MustStore(t, "backfill", h)
	front := influxtest.LimitFiles(t, server.URL, "influxdb-3.8.3", 20)
	front.Holds(h)
	for mode, url := range map[string]string{"plain": server.URL, "with a limit on files": front.URL} {
		t.Run(mode, func(t *testing.T) {
			e := newExporter(t, newClient(t, url, "backfill"))
			b := Backfill{From: recordedNow.Add(-10 * day), To: recordedNow, Every: 6 * time.Hour, Timeout: time.Minute}
			steps, err := backfill(t.Context(), e, b)
			if err != nil {
				t.Fatal(err)
			}
			wantSteps(t, steps, h, b)
			got := scrape(t, e)
			for _, m := range steps[len(steps)-1].Values {
				got.wantValue(t, m.Value, m.Name)
			}
		})
	}
}

// TestBackfill_edges: a dump counts from its time on, inclusive. A metric has no value before the
// first record with its field.
func TestBackfill_edges(t *testing.T) {
	fake := &influxtest.Fake{}
	fake.Add(aged(t, `mem_dumps,dom=a,vmid=1 sha256="x" 4m`, `mem_dumps,dom=a,vmid=1 sha256="x",gzip_size_bytes=5i 2m`,
		`mem_dumps,dom=a,vmid=2 sha256="x" 1m59.999999999s`, `mem_dumps,dom=b,vmid=2 gzip_size_bytes=1i 30s`).Points(influxtest.Dumps)...)
	e := newExporter(t, newClientOver(t, fake, influx.Config{}))
	b := Backfill{From: recordedNow.Add(-5 * time.Minute), To: recordedNow.Add(30 * time.Second), Every: time.Minute, Timeout: time.Minute}
	steps, err := backfill(t.Context(), e, b)
	if err != nil {
		t.Fatal(err)
	}
	const none = -1
	for i, want := range []map[string]float64{
		{"dumps": 0, "dumped_vms": 0, "dumped_domains": 0, "dumps_compressed_bytes": none, "last_dump_timestamp_seconds": none},
		{"dumps": 1, "dumped_vms": 1, "dumped_domains": 1, "dumps_compressed_bytes": none, "last_dump_timestamp_seconds": 1762857000 - 240},
		{"dumps": 1, "dumped_vms": 1, "dumps_compressed_bytes": none},
		{"dumps": 2, "dumped_vms": 1, "dumps_compressed_bytes": 5, "last_dump_timestamp_seconds": 1762857000 - 120},
		{"dumps": 3, "dumped_vms": 2, "dumped_domains": 1, "dumps_compressed_bytes": 5},
		{"dumps": 3, "dumped_vms": 2, "dumped_domains": 1, "dumps_compressed_bytes": 6},
	} {
		for _, m := range steps[i].Values {
			value, there := want[strings.TrimPrefix(m.Name, "memdump_")]
			if there && (m.HasValue != (value != none) || m.HasValue && m.Value != value) {
				t.Errorf("step %d: %s is %v (known: %v), want %v", i, m.Name, m.Value, m.HasValue, value)
			}
		}
	}
	if len(steps) != 6 {
		t.Errorf("%d steps, want 6", len(steps))
	}
}

// TestBackfill_untrue: a failure or an impossible value ends a backfill, and is never a step.
func TestBackfill_untrue(t *testing.T) {
	at := func(seconds float64) int64 {
		return recordedNow.Add(time.Duration(seconds * float64(time.Second))).UnixNano()
	}
	columns := `"time","dom","vmid","sha256","gzip_size_bytes","host","duration_sec","raw_size_bytes"`
	const before, within = 0, 1 // the first step, and the steps
	for name, tt := range map[string]struct {
		part   int
		body   string // of the records; empty for none
		reason string
		steps  int
	}{
		"no records":                 {within, noRows, "", 4},
		"records before it fail":     {before, rejected, "refused", 0},
		"records fail":               {within, rejected, "refused", 1},
		"a response that ends early": {within, `{"results":[{"series":[`, "truncated", 1},
		"a record at no time":        {within, rowsOf(columns, `["soon","a","1","x",1,null,null,null]`), "malformed", 1},
		"a record at a time before":  {within, rowsOf(columns, fmt.Sprintf(`[%d,"a","1","x",1,null,null,null]`, at(0))), "malformed", 1},
		"a record at a time after":   {within, rowsOf(columns, fmt.Sprintf(`[%d,"a","1","x",1,null,null,null]`, at(30)+1)), "malformed", 1},
		"a size that is a text":      {within, rowsOf(columns, fmt.Sprintf(`[%d,"a","1","x","1",null,null,null]`, at(5))), "malformed", 1},
		"a size below zero":          {within, rowsOf(columns, fmt.Sprintf(`[%d,"a","1","x",-1,null,null,null]`, at(5))), "out_of_range", 1},
		"sizes that overflow": {within, rowsOf(columns,
			fmt.Sprintf(`[%d,"a","1","x",9223372036854775807,null,null,null],[%d,"a","1","x",1,null,null,null]`, at(5), at(15))),
			"out_of_range", 2},
		"names that are not UTF-8": {within, rowsOf(columns,
			fmt.Sprintf("[%d,\"a\ufffd\",\"1\",\"x\",1,null,null,null]", at(15))), "out_of_range", 2},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory(t)
			m.respond = func(statement string) string {
				switch {
				case !strings.Contains(statement, historyColumns):
					return ""
				case strings.Contains(statement, "time >=") == (tt.part == within):
					return tt.body
				}
				return noRows
			}
			e := m.exporter(t)
			b := Backfill{From: recordedNow, To: recordedNow.Add(30 * time.Second), Every: 10 * time.Second, Timeout: time.Second}
			steps, err := backfill(t.Context(), e, b)
			if (err != nil) != (tt.reason != "") || err != nil && Reason(err) != tt.reason {
				t.Errorf("%v, want %q", err, tt.reason)
			}
			if len(steps) != tt.steps {
				t.Errorf("%d steps, want %d", len(steps), tt.steps)
			}
		})
	}
}

// TestBackfill_refused: without data, no file is created.
func TestBackfill_refused(t *testing.T) {
	b := Backfill{From: recordedNow.Add(-time.Hour), To: recordedNow, Every: time.Minute, Timeout: time.Second}
	for name, tt := range map[string]struct {
		fields string // the response about them
		api    influx.API
		want   string
		steps  bool // before the error
	}{
		"no measurement":           {fields: noRows, want: "measurement_missing", steps: true},
		"no sha256":                {fields: fieldKeys("ok", "boolean"), want: "field_missing", steps: true},
		"a field of two types":     {fields: fieldKeys("sha256", "string", "sha256", "float"), want: "type_conflict"},
		"a size that is a text":    {fields: fieldKeys("sha256", "string", "raw_size_bytes", "string"), want: "type_conflict"},
		"fields that are rejected": {fields: rejected, want: "refused"},
		"a v3-query gateway":       {api: influx.APIV3Query, want: "there is no history in a v3-query gateway"},
	} {
		t.Run(name, func(t *testing.T) {
			fake := &influxtest.Fake{}
			fake.Intercept(func(r *http.Request) (*http.Response, error) {
				if strings.HasPrefix(r.URL.Query().Get("q"), "SHOW") {
					return influxtest.FakeResponse(r, http.StatusOK, tt.fields), nil
				}
				return influxtest.FakeResponse(r, http.StatusOK, noRows), nil
			})
			steps, err := backfill(t.Context(), newExporter(t, newClientOver(t, fake, influx.Config{API: tt.api})), b)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %s", err, tt.want)
			}
			if (len(steps) > 0) != tt.steps {
				t.Errorf("%d steps before that", len(steps))
			}
		})
	}
}

// TestBackfill_ends: an error of the callback ends a backfill, and so does the context.
func TestBackfill_ends(t *testing.T) {
	b := Backfill{From: recordedNow.Add(-48 * time.Hour), To: recordedNow, Every: time.Hour, Timeout: time.Second}
	full := errors.New("the disk is full")
	for _, at := range []int{1, 2, 30} {
		n := 0
		err := newMemory(t).exporter(t).Backfill(t.Context(), b, func(Step) error {
			if n++; n == at {
				return full
			}
			return nil
		})
		if !errors.Is(err, full) || n != at {
			t.Errorf("%v after %d steps, want %d", err, n, at)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := newMemory(t).exporter(t).Backfill(ctx, b, func(Step) error {
		if n++; n == 30 {
			cancel()
		}
		return nil
	})
	if Reason(err) != "canceled" {
		t.Errorf("%v, want canceled", err)
	}
}

// TestBackfill_metrics: a step has all metrics about dumps, in the order of the table.
func TestBackfill_metrics(t *testing.T) {
	e := newMemory(t).exporter(t)
	var want []string
	for _, q := range queries {
		for _, m := range q.metrics {
			if q.source == dumps {
				want = append(want, m.name)
			}
		}
	}
	var got []string
	for _, m := range e.BackfillMetrics() {
		got = append(got, m.Name)
		if m.Help == "" || m.HasValue {
			t.Errorf("%+v", m)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
