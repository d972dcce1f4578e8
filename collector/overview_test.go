package collector_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
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
	server.MustStore(t, "overview", h)
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
				if value, ok := truth[f.Gauge]; ofTruth(f.Gauge) && (!f.Known || f.Value != value || !ok) {
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

// TestOverview_days: days that can't be true are none, and no dump in thirty days is that only
// where the measurement is known to be there.
func TestOverview_days(t *testing.T) {
	day := recordedNow.UTC().Truncate(24 * time.Hour)
	at := func(days int, values string) string {
		return fmt.Sprintf("[%d,%s]", day.AddDate(0, 0, days).UnixNano(), values)
	}
	const fails = `{"results":[{"error":"not executed"}]}`
	for name, tt := range map[string]struct {
		answer, fields string
		dumps, bytes   map[int]int64 // by day, today's is 29
		err            string
	}{
		"some":              {answerOf(`"dumps","bytes"`, at(0, "2,7")+","+at(-29, "1,null")), fails, map[int]int64{29: 2, 0: 1}, map[int]int64{29: 7}, ""},
		"none":              {`{"results":[{}]}`, fieldKeys("sha256"), nil, nil, ""},
		"none, not proven":  {`{"results":[{}]}`, fails, nil, nil, "refused"},
		"failed":            {fails, fieldKeys("sha256"), nil, nil, "refused"},
		"of tomorrow":       {answerOf(`"dumps","bytes"`, at(1, "2,7")), fails, nil, nil, "malformed"},
		"of thirty ago":     {answerOf(`"dumps","bytes"`, at(-30, "2,7")), fails, nil, nil, "malformed"},
		"of no time":        {answerOf(`"dumps","bytes"`, `["soon",2,7]`), fails, nil, nil, "malformed"},
		"dumps below zero":  {answerOf(`"dumps","bytes"`, at(0, "-2,7")), fails, nil, nil, "out_of_range"},
		"bytes below zero":  {answerOf(`"dumps","bytes"`, at(0, "2,-7")), fails, nil, nil, "out_of_range"},
		"a day in two rows": {answerOf(`"dumps","bytes"`, at(0, "2,7")+","+at(0, "3,1")), fails, map[int]int64{29: 5}, map[int]int64{29: 8}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := newCollector(t, newClient(t, newServer(t, func(statement string) string {
				switch {
				case strings.HasPrefix(statement, "SHOW"):
					return tt.fields
				case strings.Contains(statement, "GROUP BY time"):
					return tt.answer
				case strings.Contains(statement, "LIMIT 20"):
					return answerOf(`"dom"`, `[7,"d"],[6,"d"]`)
				}
				return fails
			}), "db")).Overview(t.Context())
			if o.NewestErr != nil || len(o.Newest) != 2 || o.Newest[1].TimeNs != 6 {
				t.Errorf("the newest dumps: %v, %v", o.Newest, o.NewestErr)
			}
			if tt.err != "" {
				if o.Days != nil || o.DaysErr == nil || !strings.Contains(o.DaysErr.Error(), tt.err) {
					t.Errorf("%v, %v, want %s", o.Days, o.DaysErr, tt.err)
				}
				return
			}
			if o.DaysErr != nil || len(o.Days) != 30 {
				t.Fatalf("%v, %v", o.Days, o.DaysErr)
			}
			for i, d := range o.Days {
				if d.Start != day.AddDate(0, 0, i-29) || d.Dumps != tt.dumps[i] || d.Bytes != tt.bytes[i] {
					t.Errorf("day %d: %+v", i, d)
				}
			}
		})
	}
}

// TestOverview_parts: each part is there or not by itself; a list that is cut is none, and
// statements are shown as they went out.
func TestOverview_parts(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]bool{}
	server := newServer(t, func(statement string) string {
		mu.Lock()
		defer mu.Unlock()
		asked[statement] = true
		switch {
		case strings.Contains(statement, `GROUP BY "vmid"`):
			return `{"results":[{"series":[{"tags":{"vmid":"late"},"columns":["time","value"],"values":[[7,"x"]]},{"tags":{"vmid":"early"},"columns":["time","value"],"values":[[5,"x"]]}]}]}`
		case strings.Contains(statement, `GROUP BY "VMID"`):
			var all []string
			for _, id := range []string{"never2", "late", "never1", "early"} {
				all = append(all, fmt.Sprintf(`{"tags":{"VMID":%q},"columns":["time","cpu"],"values":[[%d,1]]}`, id, recordedNow.UnixNano()))
			}
			return `{"results":[{"series":[` + strings.Join(all, ",") + `]}]}`
		case strings.HasPrefix(statement, "SHOW"):
			return fieldKeys("sha256")
		case strings.Contains(statement, `"sha256" AS "value" FROM`):
			return `{"results":[{}]}`
		case strings.Contains(statement, `SUM("duration`):
			return answerOf(`"sum","count"`, `[0,1e308,1],[0,1e308,1]`)
		case strings.Contains(statement, "LIMIT 20"):
			return answerOf(`"dom"`, `[7,"d"],[6,"d"],["soon","d"]`)
		}
		return `{"results":[{"error":"not executed"}]}`
	})
	o := newCollector(t, newClient(t, server, "db")).Overview(t.Context())
	if o.NewestErr == nil || o.Newest != nil {
		t.Errorf("a list that is cut: %v, %v", o.Newest, o.NewestErr)
	}
	var ids []string
	for _, vm := range o.VMs {
		ids = append(ids, vm.ID)
	}
	if want := []string{"never1", "never2", "early", "late"}; !o.VMsKnown || !slices.Equal(ids, want) {
		t.Errorf("VMs %q (known: %v), want %q", ids, o.VMsKnown, want)
	}
	for _, f := range o.Figures {
		if !asked[f.Statement] {
			t.Errorf("%s was not asked by %s", f.Gauge, f.Statement)
		}
		known, none := f.Gauge == "memdump_dumped_vms" || f.Gauge == "memdump_monitored_vms", f.Gauge == "memdump_last_dump_timestamp_seconds"
		if f.Known != known || (known || none) != (f.Reason == "") {
			t.Errorf("%+v", f)
		}
	}
}
