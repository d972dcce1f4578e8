package collector

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

// vmCase is lines (see aged), and the truth about the VMs. Omitted values are 0.
type vmCase struct {
	points []string
	want   map[string]float64 // by name without memdump_
	shared []string           // VMs whose dumps can't be distinguished from those of another VM
}

var vmCases = map[string]vmCase{
	"restarted, and its runtime ID is another's": {
		points: []string{"mem_dumps,dom=web,vmid=5 49h", "vm_totals,VMID=9,name=web,uuid=u1 0s", "vm_totals,VMID=5,name=db,uuid=u2 0s"},
		want: map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 2, "monitored_domains": 2,
			"vms_never_dumped": 1, "vms_dump_overdue": 1},
	},
	"restarted within the look-back": {
		points: []string{"vm_totals,VMID=7,name=old,uuid=u3 6h", "vm_totals,VMID=8,name=old,uuid=u3 0s", "mem_dumps,dom=old,vmid=7 7h"},
		want:   map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 2, "monitored_domains": 1},
	},
	"dumped while it was shut off": {
		points: []string{"mem_dumps,dom=lab,vmid=lab 5h", "vm_totals,VMID=11,name=lab 0s"},
		want:   map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1},
	},
	"two collectors write about one VM": {
		points: []string{"vm_totals,VMID=1,UUID=u1,Dom=a 10s", "vm_totals,VMID=1,uuid=u1,name=a 20s", "mem_dumps,dom=a,vmid=1 1h"},
		want:   map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1},
	},
	"two collectors, the other one last": {
		points: []string{"vm_totals,VMID=1,UUID=u1,Dom=a 20s", "vm_totals,VMID=1,uuid=u1,name=a 10s", "mem_dumps,dom=a,vmid=1 1h"},
		want:   map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1},
	},
	"all three dialects": {
		points: []string{"vm_totals,VMID=1,UUID=u1,Dom=a 20s", "vm_totals,VMID=1,uuid=u1,name=a 30s", "vm_metrics,VMID=1,uuid=u1,name=a 10s",
			"mem_dumps,dom=a,vmid=1 1h"},
		want: map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1},
	},
	"a measurement for each VM": {
		points: []string{"vm_info,VMID=1,uuid=u1,name=a 20s", "vm_totals,VMID=2,uuid=u2,name=b 30s", "vm_metrics,VMID=3,uuid=u3,name=c 10s"},
		want:   map[string]float64{"monitored_vms": 3, "monitored_domains": 3, "vms_never_dumped": 3},
	},
	"measurements without VMs": {
		points: []string{"vm_totals,VMID=1,name=a 0s", "vm_devices,VMID=2,name=b,devtype=nic 0s", "vm_features,VMID=3,name=c 0s"},
		want:   map[string]float64{"monitored_vms": 1, "monitored_domains": 1, "vms_never_dumped": 1},
	},
	"five runs of one domain": {
		points: []string{"mem_dumps,dom=web,vmid=1 5h", "mem_dumps,dom=web,vmid=2 4h", "mem_dumps,dom=web,vmid=3 3h",
			"mem_dumps,dom=web,vmid=4 2h", "mem_dumps,dom=web,vmid=5 1h", "vm_totals,VMID=6,name=web,uuid=u1 0s"},
		want: map[string]float64{"dumped_vms": 5, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1},
	},
	"never dumped, with the runtime ID of a dump": {
		points: []string{"mem_dumps,dom=web,vmid=5 1h", "vm_totals,VMID=5,name=db,uuid=u2 0s"},
		want: map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1,
			"vms_never_dumped": 1},
	},
	"one runtime ID on two hosts": {
		points: []string{"vm_totals,VMID=5,name=web,uuid=u1 0s", "vm_totals,VMID=5,name=db,uuid=u2 1s", "mem_dumps,dom=web,vmid=5,host=h1 1h"},
		want: map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 2,
			"vms_never_dumped": 1},
	},
	"moved to another host": {
		points: []string{"mem_dumps,dom=web,vmid=5,host=h1 3h", "mem_dumps,dom=web,vmid=2,host=h2 1h", "vm_totals,VMID=5,name=web,uuid=u1 2h",
			"vm_totals,VMID=2,name=web,uuid=u1 0s"},
		want: map[string]float64{"dumped_vms": 2, "dumped_domains": 1, "monitored_vms": 2, "monitored_domains": 1},
	},
	"a dump without dom is of the domain in vmid": {
		points: []string{"mem_dumps,vmid=web 1h", "vm_totals,VMID=5,name=web,uuid=u1 0s"},
		want:   map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1},
	},
	"a dump without dom is not of a runtime ID": {
		points: []string{"mem_dumps,vmid=5 1h", "vm_totals,VMID=5,name=web,uuid=u1 0s"},
		want: map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1,
			"vms_never_dumped": 1},
	},
	"dom counts before vmid": {
		points: []string{"mem_dumps,dom=web,vmid=db 1h", "vm_totals,VMID=5,name=db,uuid=u1 0s"},
		want: map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1,
			"vms_never_dumped": 1},
	},
	"a dump without vmid": {
		points: []string{"mem_dumps,dom=web 1h", "vm_totals,VMID=5,name=web,uuid=u1 0s"},
		want:   map[string]float64{"dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1},
	},
	"a dump of nobody": {
		points: []string{"mem_dumps,host=h1 1h", "mem_dumps,dom=web,vmid=1 2h", "vm_totals,VMID=5,name=db,uuid=u1 0s"},
		want: map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1,
			"vms_never_dumped": 1},
	},
	"the newest point has no name": {
		points: []string{"vm_totals,VMID=1,name=a,uuid=u1 10s", "vm_totals,VMID=1,uuid=u1 0s", "mem_dumps,dom=a,vmid=1 1h"},
		want:   map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1},
	},
	"a uuid and no name: its runtime ID is none": {
		points: []string{"vm_totals,VMID=5,uuid=u1 0s", "mem_dumps,dom=a,vmid=5 1h", "mem_dumps,vmid=5 2h"},
		want: map[string]float64{"dumped_vms": 1, "dumped_domains": 2, "monitored_vms": 1, "monitored_domains": 1,
			"vms_never_dumped": 1},
	},
	"two uuids without a name": {
		points: []string{"vm_totals,VMID=5,uuid=u1 0s", "vm_totals,VMID=5,UUID=u2 1s"},
		want:   map[string]float64{"monitored_vms": 1, "monitored_domains": 2, "vms_never_dumped": 2},
	},
	"a name and no uuid, under two runtime IDs": {
		points: []string{"vm_totals,VMID=1,name=a 10s", "vm_totals,VMID=2,Dom=a 20s", "mem_dumps,dom=a,vmid=1 1h"},
		want:   map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 2, "monitored_domains": 1},
	},
	"a name without uuid beside one with": {
		points: []string{"vm_totals,VMID=3,dom=a 0s", "vm_totals,VMID=1,name=a,uuid=u1 10s", "mem_dumps,dom=a,vmid=1 1h"},
		want:   map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 2, "monitored_domains": 1},
	},
	"an old name without uuid beside a renamed VM": {
		points: []string{"vm_totals,VMID=1,Dom=a 5h", "vm_totals,VMID=1,name=a,uuid=u1 6h", "vm_totals,VMID=2,name=b,uuid=u1 0s",
			"mem_dumps,dom=b,vmid=2 1h"},
		want: map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 2, "monitored_domains": 1},
	},
	"a runtime ID alone": {
		points: []string{"vm_totals,VMID=one-7 0s", "vm_totals,VMID=8 0s", "mem_dumps,vmid=one-7 1h"},
		want: map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 2, "monitored_domains": 2,
			"vms_never_dumped": 1},
	},
	"a runtime ID alone beside a collector that names it": {
		points: []string{"vm_totals,VMID=1 0s", "vm_totals,VMID=1,name=a,uuid=u1 10s", "mem_dumps,dom=a,vmid=1 1h"},
		want:   map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1},
	},
	"a runtime ID alone beside a uuid without a name": {
		points: []string{"vm_totals,VMID=1 0s", "vm_metrics,VMID=1,uuid=u1 10s"},
		want:   map[string]float64{"monitored_vms": 1, "monitored_domains": 1, "vms_never_dumped": 1},
	},
	"renamed within the look-back: the dumps of both names": {
		points: []string{"vm_totals,VMID=1,name=b,uuid=u1 5h", "vm_totals,VMID=2,Dom=a,UUID=u1 0s", "mem_dumps,dom=b,vmid=1 6h",
			"mem_dumps,dom=a,vmid=2 100h"},
		want: map[string]float64{"dumped_vms": 2, "dumped_domains": 2, "monitored_vms": 2, "monitored_domains": 1},
	},
	"renamed without a restart": {
		points: []string{"vm_totals,VMID=1,name=b,uuid=u1 5h", "vm_totals,VMID=1,name=a,uuid=u1 0s", "mem_dumps,dom=b,vmid=1 6h"},
		want:   map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1},
	},
	"renamed before the look-back": {
		points: []string{"vm_totals,VMID=1,name=b,uuid=u1 25h", "vm_totals,VMID=2,name=a,uuid=u1 0s", "mem_dumps,dom=b,vmid=1 26h"},
		want: map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1,
			"vms_never_dumped": 1},
	},
	"a name that two VMs have: its dumps are of both": {
		points: []string{"vm_totals,VMID=1,name=a,uuid=u1 0s", "vm_totals,VMID=1,name=a,uuid=u2 0s", "mem_dumps,dom=a,vmid=1 1h"},
		want:   map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 2},
		shared: []string{"u1", "u2"},
	},
	"a name that two VMs have, overdue": {
		points: []string{"vm_totals,VMID=1,name=a,uuid=u1 0s", "vm_totals,VMID=2,name=a,UUID=u2 0s", "mem_dumps,dom=a,vmid=1 49h"},
		want: map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 2, "monitored_domains": 2,
			"vms_dump_overdue": 2},
		shared: []string{"u1", "u2"},
	},
	"another VM has the old name": {
		points: []string{"vm_totals,VMID=1,name=a,uuid=u1 5h", "vm_totals,VMID=1,name=b,uuid=u1 0s", "vm_totals,VMID=2,name=a,uuid=u2 0s",
			"mem_dumps,dom=a,vmid=1 6h"},
		want:   map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 2, "monitored_domains": 2},
		shared: []string{"u1", "u2"},
	},
	"two VMs have swapped their names": {
		points: []string{"vm_totals,VMID=1,name=a,uuid=u1 5h", "vm_totals,VMID=2,name=b,uuid=u2 5h", "vm_totals,VMID=1,name=b,uuid=u1 0s",
			"vm_totals,VMID=2,name=a,uuid=u2 0s", "mem_dumps,dom=a,vmid=1 6h"},
		want:   map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 2, "monitored_domains": 2},
		shared: []string{"u1", "u2"},
	},
	"the edges of the look-back count": {
		points: []string{"vm_totals,VMID=1,name=a 24h", "vm_totals,VMID=2,name=b 0s"},
		want:   map[string]float64{"monitored_vms": 2, "monitored_domains": 2, "vms_never_dumped": 2},
	},
	"beyond the edges of the look-back": {
		points: []string{"vm_totals,VMID=1,name=a 24h0m0.000000001s", "vm_totals,VMID=2,name=b -1ns", "vm_totals,VMID=3,name=c 1h"},
		want:   map[string]float64{"monitored_vms": 1, "monitored_domains": 1, "vms_never_dumped": 1},
	},
	"a name at the edge of the look-back": {
		points: []string{"vm_totals,VMID=1,name=b,uuid=u1 24h", "vm_totals,VMID=1,name=a,uuid=u1 0s", "mem_dumps,dom=b,vmid=1 30h"},
		want:   map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1},
	},
	"a name beyond the edge of the look-back": {
		points: []string{"vm_totals,VMID=1,name=b,uuid=u1 24h0m0.000000001s", "vm_totals,VMID=1,name=a,uuid=u1 0s",
			"mem_dumps,dom=b,vmid=1 30h"},
		want: map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1,
			"vms_never_dumped": 1},
	},
	"gone before the look-back": {
		points: []string{"vm_totals,VMID=1,name=a,uuid=u1 25h", "vm_totals,VMID=2,name=b,uuid=u2 0s", "mem_dumps,dom=b,vmid=2 1h"},
		want:   map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1},
	},
	"telemetry without a runtime ID": {
		points: []string{"vm_totals,name=a,uuid=u1 0s", "vm_totals,VMID=2,name=b,uuid=u2 0s"},
		want:   map[string]float64{"monitored_vms": 1, "monitored_domains": 1, "vms_never_dumped": 1},
	},
	"as old as a dump may be": {
		points: []string{"vm_totals,VMID=1,name=a,uuid=u1 0s", "mem_dumps,dom=a,vmid=1 48h"},
		want:   map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1},
	},
	"older than a dump may be": {
		points: []string{"vm_totals,VMID=1,name=a,uuid=u1 0s", "mem_dumps,dom=a,vmid=1 48h0m0.000000001s"},
		want: map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1,
			"vms_dump_overdue": 1},
	},
	"dumped in the future": {
		points: []string{"vm_totals,VMID=1,name=a,uuid=u1 0s", "mem_dumps,dom=a,vmid=1 -1h"},
		want:   map[string]float64{"dumped_vms": 1, "dumped_domains": 1, "monitored_vms": 1, "monitored_domains": 1},
	},
	"names of other cases and letters": {
		points: []string{`vm_totals,VMID=1,name=Büro\ 2\,west,uuid=u1 0s`, "vm_totals,VMID=2,name=web,uuid=u2 0s", "mem_dumps,dom=WEB,vmid=2 1h",
			`mem_dumps,dom=Büro\ 2\,west,vmid=1 1h`},
		want: map[string]float64{"dumped_vms": 2, "dumped_domains": 2, "monitored_vms": 2, "monitored_domains": 2,
			"vms_never_dumped": 1},
	},
}

// TestVMs: the metrics about VMs and their dumps, on a real InfluxDB, with full queries and, behind a
// file limit, with range queries.
func TestVMs(t *testing.T) {
	server := influxdb.Server(t)
	database := 0
	for name, tt := range vmCases {
		database++
		t.Run(name, func(t *testing.T) {
			db := fmt.Sprint("vms", database)
			h := aged(t, tt.points...)
			h.Add(aged(t, "mem_dumps,dom=other,vmid=1000 1000h").Points(influxtest.Dumps)...)
			server.MustStore(t, db, h)
			front := influxtest.LimitFiles(t, server.URL, "influxdb-3.8.3", 20)
			front.HoldsAt(influxtest.Dumps, every(t, 24*time.Hour))
			front.HoldsAt(influxtest.Telemetry, every(t, time.Hour))
			for mode, url := range map[string]string{"full": server.URL, "ranges": front.URL} {
				e := newExporter(t, newClient(t, url, db))
				got := scrape(t, e)
				wantVMs(t, mode, got, tt)
				if ranges, _ := got.value("memdump_query_ranges", "query", dumpedVMs); ranges > 1 != (mode == "ranges") {
					t.Errorf("%s: %v ranges", mode, ranges)
				}
				if shared := sharedVMs(t, e); mode == "full" && !slices.Equal(shared, tt.shared) {
					t.Errorf("the VMs %q share names, want %q", shared, tt.shared)
				}
			}
		})
	}
}

var vmCounts = []string{"dumped_vms", "dumped_domains", "monitored_vms", "monitored_domains", "vms_never_dumped", "vms_dump_overdue"}

func wantVMs(t *testing.T, mode string, got exposition, tt vmCase) {
	t.Helper()
	want := maps.Clone(tt.want)
	want["dumped_vms"]++ // the other domain
	want["dumped_domains"]++
	for _, name := range vmCounts {
		if value, ok := got.value("memdump_" + name); !ok || value != want[name] {
			t.Errorf("%s: memdump_%s is %v (there: %v), want %v", mode, name, value, ok, want[name])
		}
	}
}

// sharedVMs returns the UUIDs of the VMs that share a name.
func sharedVMs(t *testing.T, e *Exporter) []string {
	t.Helper()
	ctx, cancel := contextWithin(t, time.Minute)
	defer cancel()
	var shared []string
	for _, vm := range e.Inspect(ctx).VMs {
		if vm.Shared {
			shared = append(shared, vm.UUID)
		}
	}
	slices.Sort(shared)
	return shared
}

// every returns forty regular times before recordedNow.
func every(t *testing.T, step time.Duration) []int64 {
	t.Helper()
	var all []int64
	for i := range 40 {
		all = append(all, recordedNow.Add(-time.Duration(i)*step).UnixNano())
	}
	return all
}

// TestVMs_truth: the truth of the test data agrees with the table.
func TestVMs_truth(t *testing.T) {
	for name, tt := range vmCases {
		t.Run(name, func(t *testing.T) {
			got := truth(aged(t, tt.points...), recordedNow)
			for _, name := range vmCounts {
				if value := got["memdump_"+name]; value != tt.want[name] {
					t.Errorf("%s is %v, want %v", name, value, tt.want[name])
				}
			}
		})
	}
}

// TestCovered: the list of the VMs and its order.
func TestCovered(t *testing.T) {
	at := func(ns int64) time.Time { return time.Unix(0, ns) }
	for name, tt := range map[string]struct {
		dumps     map[run]int64
		telemetry map[identity]int64
		want      []VM
	}{
		"nothing": {want: []VM{}},
		"the never dumped first, then by age, then by name": {
			dumps:     map[run]int64{{"1", "young"}: 9, {"2", "old"}: 5},
			telemetry: map[identity]int64{{"1", "u1", "young"}: 1, {"2", "u2", "old"}: 1, {"4", "u4", "d"}: 1, {"3", "u3", "c"}: 1},
			want: []VM{
				{Name: "c", UUID: "u3", VMID: "3", Names: []string{"c"}}, {Name: "d", UUID: "u4", VMID: "4", Names: []string{"d"}},
				{Name: "old", UUID: "u2", VMID: "2", Names: []string{"old"}, LastDump: at(5)},
				{Name: "young", UUID: "u1", VMID: "1", Names: []string{"young"}, LastDump: at(9)},
			},
		},
		"the newest name and runtime ID, whatever the order": {
			telemetry: map[identity]int64{{"9", "u1", "a"}: 3, {"1", "u1", "c"}: 2, {"2", "u1", "b"}: 1, {"4", "u1", ""}: 4},
			want:      []VM{{Name: "a", UUID: "u1", VMID: "4", Names: []string{"a", "b", "c"}}},
		},
		"the newest dump of all names and runs": {
			dumps:     map[run]int64{{"1", "a"}: 5, {"2", "a"}: 7, {"3", "b"}: 6, {"4", "c"}: 9},
			telemetry: map[identity]int64{{"1", "u1", "a"}: 1, {"1", "u1", "b"}: 2},
			want:      []VM{{Name: "b", UUID: "u1", VMID: "1", Names: []string{"a", "b"}, LastDump: at(7)}},
		},
		"a uuid from one collector and a name from another": {
			dumps:     map[run]int64{{"1", "a"}: 5},
			telemetry: map[identity]int64{{"1", "u1", "a"}: 1, {"1", "", "a"}: 2, {"1", "", ""}: 3},
			want:      []VM{{Name: "a", UUID: "u1", VMID: "1", Names: []string{"a"}, LastDump: at(5)}},
		},
		"a runtime ID is a name where there is no other": {
			dumps:     map[run]int64{{"one-7", ""}: 5},
			telemetry: map[identity]int64{{"one-7", "", ""}: 1},
			want:      []VM{{VMID: "one-7", Names: []string{"one-7"}, LastDump: at(5)}},
		},
		"dumped at the beginning of time": {
			dumps:     map[run]int64{{"1", "a"}: 0},
			telemetry: map[identity]int64{{"1", "u1", "a"}: 1},
			want:      []VM{{Name: "a", UUID: "u1", VMID: "1", Names: []string{"a"}, LastDump: at(0)}},
		},
		"two VMs that share one of their names": {
			telemetry: map[identity]int64{{"1", "u1", "a"}: 1, {"1", "u1", "b"}: 2, {"2", "u2", "b"}: 2, {"3", "u3", "c"}: 1},
			want: []VM{
				{Name: "b", UUID: "u1", VMID: "1", Names: []string{"a", "b"}, Shared: true},
				{Name: "b", UUID: "u2", VMID: "2", Names: []string{"b"}, Shared: true},
				{Name: "c", UUID: "u3", VMID: "3", Names: []string{"c"}},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAggregate()
			for r, ns := range tt.dumps {
				a.addRun(r, runTotals{dumped: true, newest: ns})
			}
			got := covered(a, tt.telemetry)
			for i := range got {
				got[i].vmidAt, got[i].nameAt = 0, 0
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v\nwant %+v", got, tt.want)
			}
		})
	}
}
