package influxtest

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const step = 10 * time.Minute

// TestWorld: at each step of a week, what is counted from the points is what happened in the model.
func TestWorld(t *testing.T) {
	for name, c := range map[string]WorldConfig{
		"both writers":        {Seed: 1},
		"in floats, and late": {Seed: 2, Floats: true, DumpsLate: 90 * time.Minute, TelemetryLate: 4 * time.Minute},
		"the older program":   {Seed: 4, Dumpers: []Dumper{DumpProgram}, Collectors: []Collector{OlderCollector, StandAloneCollector}},
	} {
		t.Run(name, func(t *testing.T) {
			c.Start, c.TelemetryEvery = worldStart, 6*time.Minute
			w := NewWorld(c)
			h := &History{}
			never, overdue := 0, 0
			for i := range int(7 * day / step) {
				arrived := w.Advance(step)
				h.Add(arrived...)
				sameRuns(t, w, arrived)
				now := w.Now().UnixNano()
				monitored := w.Monitored(day)
				if got := h.MonitoredDomains(now, day); !reflect.DeepEqual(got, monitored) {
					t.Fatalf("step %d: monitored: the model has %+v\n counted are %+v", i, monitored, got)
				}
				if got, want := h.Truth(now, day), w.Truth(day); got != want {
					t.Fatalf("step %d: the model has %+v\n counted are %+v", i, want, got)
				}
				if got, want := h.DumpsByDomain(), w.DumpsByDomain(); !maps.Equal(got, want) {
					t.Fatalf("step %d: the model has %+v\n counted are %+v", i, want, got)
				}
				if i%100 == 99 {
					h.DeleteTelemetry(now - int64(day))
				}
				never, overdue = max(never, monitored.NeverDumped()), max(overdue, monitored.Overdue(now, day))
			}
			t.Logf("%v, %d VMs", w.Happened, len(w.VMs()))
			least := map[string]int{"dump": 300, "restart": 20, "off": 10, "migration": 10, "rename": 2, "replacement": 1, "reboot": 6}
			for what, n := range least {
				if w.Happened[what] < n {
					t.Errorf("hardly a week: %d times %s", w.Happened[what], what)
				}
			}
			if never == 0 || overdue == 0 {
				t.Errorf("at most %d were never dumped, and %d overdue", never, overdue)
			}
		})
	}
}

// sameRuns compares the tags of telemetry with the runs of the model.
func sameRuns(t *testing.T, w *World, points []Point) {
	t.Helper()
	vms := map[string]*VM{}
	for _, v := range w.VMs() {
		vms[v.UUID] = v
	}
	for _, p := range points {
		if p.Measurement == Dumps {
			continue
		}
		r, _ := vms[cmp.Or(p.Tags["uuid"], p.Tags["UUID"])].At(time.Unix(0, p.TimeNs))
		if name := cmp.Or(p.Tags["name"], p.Tags["Dom"]); p.Tags["VMID"] != r.VMID || name != r.Name {
			t.Fatalf("the model has %+v\n written is %s", r, p.Line())
		}
	}
}

// TestWorld_steps: the steps change nothing.
func TestWorld_steps(t *testing.T) {
	long, short := NewWorld(WorldConfig{Seed: 5, Start: worldStart}), NewWorld(WorldConfig{Seed: 5, Start: worldStart})
	whole := long.Advance(2 * day)
	var parts []Point
	for range int(2 * day / (7 * time.Minute)) {
		parts = append(parts, short.Advance(7*time.Minute)...)
	}
	parts = append(parts, short.Advance(long.Now().Sub(short.Now()))...)
	if !reflect.DeepEqual(whole, parts) {
		t.Errorf("%d points in one step, %d in many, or others", len(whole), len(parts))
	}
	if !slices.Equal(long.History().Lines(), short.History().Lines()) {
		t.Error("other histories")
	}
	if other := NewWorld(WorldConfig{Seed: 6, Start: worldStart}).Advance(2 * day); reflect.DeepEqual(whole, other) {
		t.Error("different seeds, equal points")
	}
}

// TestWorld_libvirt: the rules of runtime IDs, from the runs of a month.
func TestWorld_libvirt(t *testing.T) {
	w := NewWorld(WorldConfig{Seed: 7, Start: worldStart, TelemetryEvery: day, DumpEvery: 30 * time.Minute})
	w.Advance(30 * day)
	if w.Happened["lost dump"] < 5 {
		t.Errorf("%d dumps were lost by a restart of the host", w.Happened["lost dump"])
	}
	type use struct {
		Run
		vm *VM
	}
	byHost := map[string][]use{}
	again := 0
	for _, v := range w.VMs() {
		runs := v.Runs()
		for i, r := range runs {
			byHost[r.Host] = append(byHost[r.Host], use{r, v})
			if i > 0 && r.From.Before(runs[i-1].To) {
				t.Errorf("%s runs twice at %v", v.UUID, r.From)
			}
			if got, ok := v.At(r.From); !ok || got != r {
				t.Errorf("%s at %v: %+v, want %+v", v.UUID, r.From, got, r)
			}
			if got, ok := v.At(r.From.Add(-1)); ok && got == r {
				t.Errorf("%s has run %+v before it began", v.UUID, r)
			}
			if got, ok := v.At(r.To); !r.To.IsZero() && ok && got == r {
				t.Errorf("%s has run %+v when it was over", v.UUID, r)
			}
		}
	}
	for _, d := range w.Dumps() {
		r, running := d.VM.At(d.Start)
		switch {
		case running && (d.VMID != r.VMID || d.Domain != r.Name):
			t.Errorf("%+v is of %+v", d, r)
		case running && d.Host != "" && (d.Host != r.Host || !r.To.IsZero() && r.To.Before(d.Arrived)):
			t.Errorf("%+v has outlived %+v", d, r)
		case !running && (d.VMID != d.Domain || d.Host == ""):
			t.Errorf("%+v is of a VM that was shut off", d)
		}
	}
	for host, uses := range byHost {
		slices.SortStableFunc(uses, func(a, b use) int { return a.From.Compare(b.From) })
		running, users := map[string]use{}, map[string]map[*VM]bool{}
		last := 0
		for _, u := range uses {
			if before, ok := running[u.VMID]; ok && (before.To.IsZero() || before.To.After(u.From)) {
				t.Errorf("%s: number %s has two VMs at %v", host, u.VMID, u.From)
			}
			running[u.VMID] = u
			var id int
			if _, err := fmt.Sscan(u.VMID, &id); err != nil || id > last+1 {
				t.Errorf("%s: %s follows %d: %v", host, u.VMID, last, err)
			}
			if id <= last && id > len(uses) {
				t.Errorf("%s: %s comes after %d, which is no new count", host, u.VMID, last)
			}
			last = id
			if users[u.VMID] == nil {
				users[u.VMID] = map[*VM]bool{}
			}
			users[u.VMID][u.vm] = true
		}
		for _, of := range users {
			if len(of) > 1 {
				again++
			}
		}
	}
	if again < 10 {
		t.Errorf("%d numbers were used again by another VM", again)
	}
}

// TestWorld_writers: each writer has its tags and fields in the number form of the world, and no field has two types.
func TestWorld_writers(t *testing.T) {
	for _, tc := range []struct {
		config WorldConfig
		want   []string // measurement, tags and fields of each kind of point
	}{
		{WorldConfig{}, []string{
			"mem_dumps,dom,host,vmid atime=int64,ctime=int64,dump_duration_sec=float64,dump_path=string,duration_sec=float64," +
				"every_sec=int64,loop=int64,mtime=int64,ok=bool,raw_size_bytes=int64,sha256=string",
			"mem_dumps,dom,vmid atime=int64,ctime=int64,dump_path=string,duration_sec=float64,gzip_size_bytes=int64,mtime=int64,sha256=string",
			"vm_devices,Dom,UUID,VMID,device,devtype rxbytes=int64,txbytes=int64",
			"vm_devices,VMID,device,devtype,name,uuid rxbytes=int64,txbytes=int64",
			"vm_features,VMID,name,uuid cpu_rate=float64",
			"vm_metrics,VMID,name,uuid cpu_count=int64,memory_max_kb=int64,state=string",
			"vm_totals,Dom,UUID,VMID cpu_percent=float64,mem_used=int64",
			"vm_totals,VMID,name,uuid cpus=int64,cputime=int64,mem_actual=int64,net_rxbytes=int64,state=int64",
		}},
		{WorldConfig{Floats: true, Collectors: []Collector{DashboardCollector}}, []string{
			"mem_dumps,dom,host,vmid atime=float64,ctime=float64,dump_duration_sec=float64,dump_path=string,duration_sec=float64," +
				"every_sec=float64,loop=float64,mtime=float64,ok=bool,raw_size_bytes=float64,sha256=string",
			"vm_devices,VMID,device,devtype,name,uuid rxbytes=float64,txbytes=float64",
			"vm_features,VMID,name,uuid cpu_rate=float64",
			"vm_totals,VMID,name,uuid cpus=float64,cputime=float64,mem_actual=float64,net_rxbytes=float64,state=float64",
		}},
	} {
		t.Run(fmt.Sprint("floats ", tc.config.Floats), func(t *testing.T) {
			tc.config.Seed, tc.config.Start = 8, worldStart
			w := NewWorld(tc.config)
			kinds := map[string]bool{}
			off, late := 0, 0
			for range int(2 * day / step) {
				for _, p := range w.Advance(step) {
					kinds[kind(p)] = true
					if p.Measurement != Dumps {
						continue
					}
					if p.Tags["vmid"] == p.Tags["dom"] {
						off++
					}
					if p.TimeNs < w.Now().Add(-step).UnixNano() {
						late++
					}
				}
			}
			if got := slices.Sorted(maps.Keys(kinds)); !slices.Equal(got, tc.want) {
				t.Errorf("want %s\n got %s", strings.Join(tc.want, "\n     "), strings.Join(got, "\n     "))
			}
			if off == 0 || late == 0 {
				t.Errorf("%d dumps of VMs that were shut off, %d that arrived later than in their step", off, late)
			}
		})
	}
}

// kind is the measurement of a point, its tags, and its fields with their types.
func kind(p Point) string {
	var fields []string
	for _, key := range slices.Sorted(maps.Keys(p.Fields)) {
		fields = append(fields, fmt.Sprintf("%s=%T", key, p.Fields[key]))
	}
	return strings.Join(append([]string{p.Measurement}, slices.Sorted(maps.Keys(p.Tags))...), ",") + " " + strings.Join(fields, ",")
}
