package collector_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// TestCoverage_identity: which dumps are a VM's, on a real InfluxDB.
func TestCoverage_identity(t *testing.T) {
	server := influxdb.Server(t)
	now := time.Now().Truncate(time.Microsecond)
	type dump struct {
		vmid string
		age  time.Duration
	}
	type seen struct {
		id, name string
		age      time.Duration
	}
	hour := time.Hour
	for i, tt := range []struct {
		what           string
		telemetry      []seen
		dumps          []dump
		never, overdue float64
	}{
		{"by VMID", []seen{{"1", "web", 0}}, []dump{{"1", hour}}, 0, 0},
		{"by name", []seen{{"1", "web", 0}}, []dump{{"web", hour}}, 0, 0},
		{"by neither", []seen{{"1", "web", 0}}, []dump{{"2", hour}, {"db", hour}}, 1, 0},
		{"by both, the newer counts", []seen{{"1", "web", 0}}, []dump{{"1", 90 * hour}, {"web", hour}}, 0, 0},
		{"overdue by either", []seen{{"1", "web", 0}}, []dump{{"1", 90 * hour}, {"web", 49 * hour}}, 0, 1},
		{"as old as it may be", []seen{{"1", "web", 0}}, []dump{{"1", 48 * hour}}, 0, 0},
		{"renamed, dumped under its VMID", []seen{{"1", "old", 2 * hour}, {"1", "new", 0}}, []dump{{"1", 3 * hour}}, 0, 0},
		{"renamed, dumped under its new name", []seen{{"1", "old", 2 * hour}, {"1", "new", 0}}, []dump{{"new", hour}}, 0, 0},
		{"renamed, dumped under its old name alone", []seen{{"1", "old", 2 * hour}, {"1", "new", 0}}, []dump{{"old", 3 * hour}}, 1, 0},
		{"a name that another VM has now", []seen{{"1", "web", 30 * hour}, {"2", "web", 0}}, []dump{{"1", hour}}, 1, 0},
		{"two VMs of one name, one dumped by VMID", []seen{{"1", "web", 0}, {"2", "web", 0}}, []dump{{"1", hour}}, 1, 0},
		{"gone, and never dumped", []seen{{"1", "web", 25 * hour}, {"2", "db", 0}}, []dump{{"2", hour}}, 0, 0},
		{"without a name, and dumps without a vmid", []seen{{"1", "", 0}}, []dump{{"", hour}, {"2", hour}}, 1, 0},
		{"dumped in the future", []seen{{"1", "web", 0}}, []dump{{"1", -hour}}, 0, 0},
	} {
		t.Run(tt.what, func(t *testing.T) {
			h := &influxtest.History{}
			tags := func(pairs ...string) map[string]string {
				all := make(map[string]string)
				for i := 0; i < len(pairs); i += 2 {
					if pairs[i+1] != "" {
						all[pairs[i]] = pairs[i+1]
					}
				}
				return all
			}
			for n, s := range tt.telemetry {
				h.Add(influxtest.Point{Measurement: influxtest.Telemetry, Tags: tags("VMID", s.id, "name", s.name), TimeNs: now.Add(-s.age).UnixNano() - int64(n), Fields: map[string]any{"cpu": 1.0}})
			}
			for n, d := range tt.dumps {
				h.Add(influxtest.Point{Measurement: influxtest.Dumps, Tags: tags("dom", "d", "vmid", d.vmid, "host", fmt.Sprint(n)), TimeNs: now.Add(-d.age).UnixNano(),
					Fields: map[string]any{"sha256": "x", "duration_sec": 1.0, "gzip_size_bytes": 1}})
			}
			database := fmt.Sprint("identity", i)
			server.MustStore(t, database, h)
			for _, mode := range ranges.Modes() {
				col := perVMCollectorAt(t, newClient(t, server.URL, database), mode, &clock{now}, 3)
				sameAll(t, col, h, now, 3)
				got := gauges(scrape(t, col))
				if got["memdump_vms_never_dumped"] != tt.never || got["memdump_vms_dump_overdue"] != tt.overdue {
					t.Errorf("%s: %v never dumped and %v overdue, want %v and %v", mode, got["memdump_vms_never_dumped"], got["memdump_vms_dump_overdue"], tt.never, tt.overdue)
				}
			}
		})
	}
}

// TestCoverage_firstDump: when a VM is dumped for the first time, the next scrape knows.
func TestCoverage_firstDump(t *testing.T) {
	server := influxdb.Server(t)
	now := time.Now().Truncate(time.Microsecond)
	h := influxtest.Believable(8, now)
	server.MustStore(t, "first", h)
	c := &clock{now}
	front := influxtest.LimitFiles(t, server.URL, "influxdb-3.8.3", 432)
	front.Holds(h)
	col := perVMCollectorAt(t, newClient(t, front.URL, "first"), ranges.Auto, c, 500)
	sameAll(t, col, h, now, 500)
	before := gauges(scrape(t, col))
	var undumped string
	for id, vm := range h.Monitored(now.UnixNano(), 24*time.Hour) {
		if vm == nil {
			undumped = id
		}
	}
	p := influxtest.Point{Measurement: influxtest.Dumps, Tags: map[string]string{"dom": "d", "vmid": undumped}, TimeNs: now.Add(-time.Minute).UnixNano(), Fields: map[string]any{"sha256": "x"}}
	h.Add(p)
	if err := server.Write(t.Context(), "first", []string{p.Line()}); err != nil {
		t.Fatal(err)
	}
	sameAll(t, col, h, now, 500)
	c.now = now.Add(72 * time.Hour)
	sample := influxtest.Point{Measurement: influxtest.Telemetry, Tags: map[string]string{"VMID": undumped}, TimeNs: c.now.UnixNano(), Fields: map[string]any{"cpu": 1.0}}
	h.Add(sample)
	if err := server.Write(t.Context(), "first", []string{sample.Line()}); err != nil {
		t.Fatal(err)
	}
	sameAll(t, col, h, c.now, 500)
	if got := gauges(scrape(t, col)); before["memdump_vms_never_dumped"] < 1 || got["memdump_vms_never_dumped"] != 0 || got["memdump_vms_dump_overdue"] != 1 {
		t.Errorf("before %v never dumped, then %v, and %v overdue", before["memdump_vms_never_dumped"], got["memdump_vms_never_dumped"], got["memdump_vms_dump_overdue"])
	}
}

// TestCoverage_unknown: while either side is not known, neither gauge is there, nor are
// VMs chosen for their series.
func TestCoverage_unknown(t *testing.T) {
	for query, part := range map[string]string{"dumped": `LAST("sha256") AS "value"`, "monitored": `GROUP BY "VMID"`, "totals": `AS "bytes", LAST`, "places": `"dom","host"`} {
		t.Run(query, func(t *testing.T) {
			db := newFake(t, func(_ context.Context, statement string) (bool, error) {
				return strings.Contains(statement, part), &influx.Error{Kind: influx.ErrServer}
			})
			got := make(map[string]bool)
			for _, f := range scrape(t, perVMCollectorAt(t, db, ranges.Whole, &clock{recordedNow}, 500)) {
				got[f.GetName()] = true
			}
			for name, want := range map[string]bool{
				"memdump_vms_never_dumped":               query != "dumped" && query != "monitored",
				"memdump_vms_dump_overdue":               query != "dumped" && query != "monitored",
				"memdump_vms_omitted":                    query != "dumped",
				"memdump_vm_last_dump_timestamp_seconds": query != "dumped",
				"memdump_vm_dumps":                       query != "dumped" && query != "totals",
				"memdump_vm_dumps_compressed_bytes":      query != "dumped" && query != "totals",
				"memdump_vm_info":                        query != "dumped" && query != "places",
			} {
				if got[name] != want {
					t.Errorf("%s is there: %v, want %v", name, got[name], want)
				}
			}
		})
	}
}

// TestCoverage_anyAge: where a dump may be of any age, none is overdue, nor is it said that none is.
func TestCoverage_anyAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := <-newScraper(t, &slowDatabase{wait: hang("", 0)}, ranges.Whole).scrape(t.Context(), "10")
		if !got.has("memdump_vms_never_dumped 0") || strings.Contains(got.text, "memdump_vms_dump_overdue") {
			t.Errorf("without --dumps.max-age:\n%s", got.text)
		}
	})
}

// TestPerVM_names: whatever a VM is called, its series parse; those that are no text are
// left out and counted.
func TestPerVM_names(t *testing.T) {
	names := []string{`"quoted\"`, "two\nlines", "büro", "\u202edlrow", "a,b=c", "{}", "", "cut\ufffd", "cut\ufffd2"}
	rng := rand.New(rand.NewPCG(1, 1))
	var series []string
	for i, vmid := range names {
		ns := recordedNow.UnixNano() - rng.Int64N(1e15)
		tag, err := json.Marshal(vmid)
		if err != nil {
			t.Fatal(err)
		}
		series = append(series, fmt.Sprintf(`{"name":"mem_dumps","tags":{"vmid":%s},"columns":["time","value","dumps","bytes","last","sha256","dom","host"],"values":[[%d,"x",%d,null,"x","x",%s,null]]}`, tag, ns, i+1, tag))
	}
	server := newServer(t, func(statement string) string {
		all := series
		switch {
		case strings.Contains(statement, `"vmid" != ''`):
			all = append(all[:6:6], all[7:]...)
		case !strings.Contains(statement, `GROUP BY "vmid"`):
			return `{"results":[{"series":[{"columns":["time","value","sum","count"],"values":[[5,5,5,1]]}]}]}`
		}
		return `{"results":[{"series":[` + strings.Join(all, ",") + `]}]}`
	})
	got := make(map[string]string)
	for _, f := range scrape(t, perVMCollectorAt(t, newClient(t, server, "db"), ranges.Whole, &clock{recordedNow}, 500)) {
		switch f.GetName() {
		case "memdump_vms_omitted":
			got["omitted"] = fmt.Sprint(f.Metric[0].Gauge.GetValue())
		case "memdump_vm_info":
			for _, m := range f.Metric {
				got[m.Label[2].GetValue()] = m.Label[0].GetName() + "=" + m.Label[0].GetValue()
			}
		}
	}
	if got["omitted"] != "2" || len(got) != 1+6 {
		t.Errorf("got %q", got)
	}
	for _, vmid := range names[:6] {
		if got[vmid] != "dom="+vmid {
			t.Errorf("%q: %q", vmid, got[vmid])
		}
	}
	series[8] = strings.Replace(series[8], "\ufffd2", "\ufffd", 1)
	col := perVMCollectorAt(t, newClient(t, server, "db"), ranges.Whole, &clock{recordedNow}, 500)
	for _, f := range scrape(t, col) {
		if f.GetName() == "memdump_dumped_vms" || strings.HasPrefix(f.GetName(), "memdump_vm_") {
			t.Errorf("%s is there, though two VMs can't be told apart", f.GetName())
		}
	}
	for _, status := range col.Statuses() {
		if status.Query == "dumped_vms" && status.Reason != "out_of_range" {
			t.Errorf("two VMs can't be told apart: %v", status.Err)
		}
	}
}

// TestPerVM_untrue: one VM's number that can't be true fails the query for all.
func TestPerVM_untrue(t *testing.T) {
	for name, values := range map[string]string{
		"dumps": `[0,-1,5]`, "bytes": `[0,1,-5]`, "dumps in two rows": `[0,9223372036854775807,5],[0,1,5]`, "bytes in two rows": `[0,1,9223372036854775807],[0,1,1]`,
	} {
		t.Run(name, func(t *testing.T) {
			server := newServer(t, func(statement string) string {
				if strings.Contains(statement, `LAST("sha256") AS "last"`) {
					return `{"results":[{"series":[{"name":"m","tags":{"vmid":"a"},"columns":["time","dumps","bytes"],"values":[` + values + `]}]}]}`
				}
				return `{"results":[{"series":[{"name":"m","tags":{"vmid":"a"},"columns":["time","value"],"values":[[5,"x"]]}]}]}`
			})
			col := perVMCollectorAt(t, newClient(t, server, "db"), ranges.Whole, &clock{recordedNow}, 5)
			got := make(map[string]bool)
			for _, f := range scrape(t, col) {
				got[f.GetName()] = true
			}
			if got["memdump_vm_dumps"] || got["memdump_vm_dumps_compressed_bytes"] || !got["memdump_vm_last_dump_timestamp_seconds"] {
				t.Errorf("there are %v", got)
			}
			for _, status := range col.Statuses() {
				if status.Query == "vm_totals" && status.Reason != "out_of_range" {
					t.Errorf("%v", status.Err)
				}
			}
		})
	}
}

// TestPerVM_limit: of ten thousand VMs, the most recently dumped have series, and the rest
// are counted.
func TestPerVM_limit(t *testing.T) {
	const vms, limit = 10_000, 500
	col := perVMCollectorAt(t, newClient(t, newServer(t, manyVMs(vms)), "db"), ranges.Whole, &clock{recordedNow}, limit)
	seen, omitted := make(map[string]int), -1.0
	for _, f := range scrape(t, col) {
		switch {
		case f.GetName() == "memdump_vms_omitted":
			omitted = f.Metric[0].Gauge.GetValue()
		case strings.HasPrefix(f.GetName(), "memdump_vm_"):
			for _, m := range f.Metric {
				for _, l := range m.Label {
					if l.GetName() == "vmid" {
						seen[l.GetValue()]++
					}
				}
			}
		}
	}
	if len(seen) != limit || omitted != vms-limit {
		t.Errorf("%d VMs have series and %v are omitted", len(seen), omitted)
	}
	for vmid, series := range seen { // manyVMs makes the later ones the newer
		if vmid < fmt.Sprintf("vm-%05d", vms-limit) || series != 4 {
			t.Errorf("%d series of %s", series, vmid)
		}
	}
}
