package influxtest

import (
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"
)

func TestHistory_Truth(t *testing.T) {
	const now, lookback = 1000, 100 * time.Nanosecond
	full := fields{"sha256": "s", "gzip_size_bytes": 10, "duration_sec": 2.5}
	dumped := func(change func(*Truth)) Truth { // once, at 7, in full
		t := Truth{Dumps: 1, DumpedVMs: 1, DumpedDomains: 1, Sized: true, Timed: true, LastDumpNs: 7, HasLast: true}
		change(&t)
		return t
	}
	for name, tc := range map[string]struct {
		points []Point
		want   Truth
	}{
		"nothing": {nil, Truth{}},
		"one dump": {[]Point{{Dumps, tags{"vmid": "1"}, full, 7}}, dumped(func(t *Truth) {
			t.CompressedBytes, t.DurationSum, t.DurationCount = 10, 2.5, 1
		})},
		"sizes and durations of records without sha256 count, their VMs and times do not": {[]Point{
			{Dumps, tags{"dom": "a", "vmid": "1"}, full, 7},
			{Dumps, tags{"dom": "b", "vmid": "2"}, fields{"gzip_size_bytes": 5, "raw_size_bytes": 6, "duration_sec": 1}, 8},
		}, dumped(func(t *Truth) {
			t.CompressedBytes, t.DurationSum, t.DurationCount, t.RawBytes, t.RawSized = 15, 3.5, 2, 6, true
		})},
		"dump service, in integers and in floats": {[]Point{
			{Dumps, tags{"dom": "a", "vmid": "1"}, fields{"sha256": "s", "raw_size_bytes": 1 << 31}, 7},
			{Dumps, tags{"dom": "a", "vmid": "2"}, fields{"sha256": "s", "raw_size_bytes": 5.0}, 8},
		}, Truth{Dumps: 2, DumpedVMs: 2, DumpedDomains: 1, RawBytes: 1<<31 + 5, RawSized: true, LastDumpNs: 8, HasLast: true}},
		"a sum of zero is there": {[]Point{{Dumps, nil, fields{"gzip_size_bytes": 0, "raw_size_bytes": 0.0, "duration_sec": 0.0}, 7}},
			Truth{Sized: true, RawSized: true, Timed: true, DurationCount: 1}},
		"without vmid": {[]Point{{Dumps, tags{"dom": "web"}, fields{"sha256": "s"}, 7}},
			Truth{Dumps: 1, DumpedDomains: 1, LastDumpNs: 7, HasLast: true}},
		"of nobody": {[]Point{{Dumps, tags{"host": "h"}, fields{"sha256": "s"}, 7}}, Truth{Dumps: 1, LastDumpNs: 7, HasLast: true}},
		"dom goes before vmid, which is a domain where dom is missing": {[]Point{
			{Dumps, tags{"dom": "web", "vmid": "5"}, fields{"sha256": "s"}, 1},
			{Dumps, tags{"dom": "web", "vmid": "6"}, fields{"sha256": "s"}, 2},
			{Dumps, tags{"dom": "db", "vmid": "5"}, fields{"sha256": "s"}, 3},
			{Dumps, tags{"vmid": "web"}, fields{"sha256": "s"}, 4},
			{Dumps, tags{"vmid": "mail"}, fields{"sha256": "s"}, 5},
		}, Truth{Dumps: 5, DumpedVMs: 4, DumpedDomains: 3, LastDumpNs: 5, HasLast: true}},
		"one VM on two hosts, equal times": {[]Point{
			{Dumps, tags{"vmid": "1", "host": "a"}, fields{"sha256": "s"}, 7},
			{Dumps, tags{"vmid": "1", "host": "b"}, fields{"sha256": "s"}, 7},
		}, Truth{Dumps: 2, DumpedVMs: 1, DumpedDomains: 1, LastDumpNs: 7, HasLast: true}},
		"written twice, sha256 later": {[]Point{
			{Dumps, tags{"vmid": "1"}, fields{"gzip_size_bytes": 9}, 7},
			{Dumps, tags{"vmid": "1"}, fields{"sha256": "s", "gzip_size_bytes": 10}, 7},
		}, Truth{Dumps: 1, DumpedVMs: 1, DumpedDomains: 1, CompressedBytes: 10, Sized: true, LastDumpNs: 7, HasLast: true}},
		"future, 1970 and before": {[]Point{
			{Dumps, tags{"vmid": "1"}, fields{"sha256": "s"}, 0},
			{Dumps, tags{"vmid": "1"}, fields{"sha256": "s"}, -5},
			{Dumps, tags{"vmid": "1"}, fields{"sha256": "s"}, 5000},
		}, Truth{Dumps: 3, DumpedVMs: 1, DumpedDomains: 1, LastDumpNs: 5000, HasLast: true}},
		"newest at 0": {[]Point{{Dumps, nil, fields{"sha256": "s"}, 0}}, Truth{Dumps: 1, HasLast: true}},
		"telemetry: both edges are within": {[]Point{
			{Telemetry, tags{"VMID": "1"}, fields{"cpu": 1.0}, 900},
			{Telemetry, tags{"VMID": "2"}, fields{"disk": 1.0}, 950},
			{Telemetry, tags{"VMID": "5"}, fields{"disk": 1.0}, 1000},
			{Telemetry, tags{"VMID": "3"}, fields{"cpu": 1.0}, 899},
			{Telemetry, tags{"VMID": "4"}, fields{"cpu": 1.0}, 1001},
			{Telemetry, tags{"name": "no id"}, fields{"cpu": 1.0}, 950},
			{OlderTelemetry, tags{"VMID": "8"}, fields{"state": "running"}, 950},
			{"vm_info", tags{"VMID": "9"}, fields{"cpu": 1.0}, 950},
			{Devices, tags{"VMID": "10"}, fields{"rxbytes": 1}, 950},
		}, Truth{MonitoredVMs: 5, MonitoredDomains: 5, NeverDumped: 5}},
	} {
		t.Run(name, func(t *testing.T) {
			var h History
			h.Add(tc.points...)
			if got := h.Truth(now, lookback); got != tc.want {
				t.Errorf("want %+v\n got %+v", tc.want, got)
			}
		})
	}
}

func TestHistory_Truth_ofDeleted(t *testing.T) {
	var h History
	h.Add(Point{Dumps, tags{"dom": "a"}, fields{"sha256": "s", "gzip_size_bytes": 1, "raw_size_bytes": 1, "duration_sec": 1.0}, 5})
	h.Delete(Dumps, 5, 6)
	if got, want := h.Truth(9, time.Hour), (Truth{Sized: true, RawSized: true, Timed: true}); got != want {
		t.Errorf("want %+v\n got %+v", want, got)
	}
}

func TestTruth_Metrics(t *testing.T) {
	none := map[string]float64{
		"memdump_dumps": 0, "memdump_dumped_vms": 0, "memdump_dumped_domains": 0,
		"memdump_monitored_vms": 0, "memdump_monitored_domains": 0, "memdump_vms_never_dumped": 0,
	}
	if got := (Truth{}).Metrics(); !maps.Equal(got, none) {
		t.Errorf("of nothing: want %v, got %v", none, got)
	}
	all := Truth{
		Dumps: 1, DumpedVMs: 2, DumpedDomains: 3, CompressedBytes: 4, Sized: true, RawBytes: 5, RawSized: true, DurationSum: 3, DurationCount: 2,
		Timed: true, LastDumpNs: 1500000000, HasLast: true, MonitoredVMs: 6, MonitoredDomains: 7, NeverDumped: 8,
	}
	want := map[string]float64{
		"memdump_dumps": 1, "memdump_dumped_vms": 2, "memdump_dumped_domains": 3,
		"memdump_dumps_compressed_bytes": 4, "memdump_dumps_raw_bytes": 5,
		"memdump_dumps_duration_seconds": 3, "memdump_dumps_with_duration": 2, "memdump_dump_duration_mean_seconds": 1.5,
		"memdump_last_dump_timestamp_seconds": 1.5,
		"memdump_monitored_vms":               6, "memdump_monitored_domains": 7, "memdump_vms_never_dumped": 8,
	}
	if got := all.Metrics(); !maps.Equal(got, want) {
		t.Errorf("want %v\n got %v", want, got)
	}
	all.DurationSum, all.DurationCount, all.HasLast = 0, 0, false
	want["memdump_dumps_duration_seconds"], want["memdump_dumps_with_duration"] = 0, 0
	delete(want, "memdump_dump_duration_mean_seconds")
	delete(want, "memdump_last_dump_timestamp_seconds")
	if got := all.Metrics(); !maps.Equal(got, want) {
		t.Errorf("without rows: want %v\n got %v", want, got)
	}
}

func TestHistory_DumpsByDomain(t *testing.T) {
	var h History
	h.Add(
		Point{Dumps, tags{"dom": "web", "vmid": "5", "host": "a"}, fields{"sha256": "s", "raw_size_bytes": 7}, 3},
		Point{Dumps, tags{"dom": "web", "vmid": "6", "host": "b"}, fields{"sha256": "s", "raw_size_bytes": 8}, 9},
		Point{Dumps, tags{"dom": "web", "vmid": "1"}, fields{"gzip_size_bytes": 4}, 10},
		Point{Dumps, tags{"vmid": "web"}, fields{"sha256": "s"}, 4},
		Point{Dumps, tags{"dom": "db", "vmid": "5"}, fields{"sha256": "s"}, -2},
		Point{Dumps, tags{"dom": "no dump"}, fields{"gzip_size_bytes": 4}, 4},
		Point{Dumps, nil, fields{"sha256": "s"}, 4},
		Point{"others", tags{"dom": "x"}, fields{"sha256": "s"}, 4},
	)
	want := map[string]DumpsOfDomain{
		"web": {Dumps: 3, CompressedBytes: 4, Sized: true, RawBytes: 15, RawSized: true, LastNs: 9, VMID: "6", Host: "b"},
		"db":  {Dumps: 1, LastNs: -2, VMID: "5"},
	}
	if got := h.DumpsByDomain(); !maps.Equal(got, want) {
		t.Errorf("want %+v\n got %+v", want, got)
	}
}

// TestHistory_MonitoredDomains: each row is a way in which collectors write about VMs, or in which VMs have dumps.
func TestHistory_MonitoredDomains(t *testing.T) {
	const now, lookback, long, recent = 1000, 100 * time.Nanosecond, 500, 990
	sample := func(ns int64, t tags) Point { return Point{Telemetry, t, fields{"state": 1}, ns} }
	dump := func(ns int64, t tags) Point { return Point{Dumps, t, fields{"sha256": "s"}, ns} }
	lower := func(id, name, uuid string) tags { return tags{"VMID": id, "name": name, "uuid": uuid} }
	upper := func(id, name, uuid string) tags { return tags{"VMID": id, "Dom": name, "UUID": uuid} }
	for name, tc := range map[string]struct {
		points         []Point
		want           MonitoredDomains
		never, overdue int // by an age of 100
		shared         []string
	}{
		"nobody": {},
		"restarted, and another has its number": {
			points: []Point{
				dump(long, tags{"dom": "web", "vmid": "5"}),
				sample(recent, lower("9", "web", "u1")),
				sample(recent, lower("5", "db", "u2")),
			},
			want: MonitoredDomains{
				{"u2", "db", []string{"db"}, []string{"5"}, false, 0},
				{"u1", "web", []string{"web"}, []string{"9"}, true, long},
			},
			never: 1, overdue: 1,
		},
		"restarted within the look-back": {
			points: []Point{
				sample(910, lower("7", "old", "u3")),
				sample(recent, lower("8", "old", "u3")),
				dump(950, tags{"dom": "old", "vmid": "7"}),
			},
			want: MonitoredDomains{{"u3", "old", []string{"old"}, []string{"7", "8"}, true, 950}},
		},
		"dumped while shut off": {
			points: []Point{dump(950, tags{"dom": "lab", "vmid": "lab"}), sample(recent, tags{"VMID": "11", "name": "lab"})},
			want:   MonitoredDomains{{"", "lab", []string{"lab"}, []string{"11"}, true, 950}},
		},
		"two collectors, the one without the usual names being newer": {
			points: []Point{
				sample(recent, upper("1", "a", "u1")),
				sample(980, lower("1", "a", "u1")),
				dump(950, tags{"dom": "a", "vmid": "1"}),
			},
			want: MonitoredDomains{{"u1", "a", []string{"a"}, []string{"1"}, true, 950}},
		},
		"renamed: both names' dumps": {
			points: []Point{
				sample(910, lower("1", "b", "u1")),
				sample(recent, upper("2", "a", "u1")),
				dump(905, tags{"dom": "b"}),
				dump(long, tags{"dom": "a"}),
			},
			want: MonitoredDomains{{"u1", "a", []string{"a", "b"}, []string{"1", "2"}, true, 905}},
		},
		"renamed before the look-back": {
			points: []Point{sample(long, lower("1", "b", "u1")), sample(recent, lower("2", "a", "u1")), dump(950, tags{"dom": "b"})},
			want:   MonitoredDomains{{"u1", "a", []string{"a"}, []string{"2"}, false, 0}},
			never:  1,
		},
		"the newest point has no name": {
			points: []Point{sample(910, lower("1", "a", "u1")), sample(recent, lower("1", "", "u1")), dump(950, tags{"dom": "a"})},
			want:   MonitoredDomains{{"u1", "a", []string{"a"}, []string{"1"}, true, 950}},
		},
		"no name at all: its number is none": {
			points: []Point{sample(recent, lower("1", "", "u1")), dump(950, tags{"dom": "1"})},
			want:   MonitoredDomains{{"u1", "", nil, []string{"1"}, false, 0}},
			never:  1,
		},
		"a name that two have": {
			points: []Point{sample(recent, lower("1", "a", "u1")), sample(recent, lower("1", "a", "u2")), dump(950, tags{"dom": "a"})},
			want: MonitoredDomains{
				{"u1", "a", []string{"a"}, []string{"1"}, true, 950},
				{"u2", "a", []string{"a"}, []string{"1"}, true, 950},
			},
			shared: []string{"a"},
		},
		"without uuid, and a name that one with uuid has": {
			points: []Point{
				sample(recent, tags{"VMID": "3", "dom": "a"}),
				sample(910, lower("1", "a", "u1")),
				sample(920, lower("2", "b", "u1")),
				dump(long, tags{"dom": "b"}),
			},
			want: MonitoredDomains{{"u1", "a", []string{"a", "b"}, []string{"1", "2", "3"}, true, long}}, overdue: 1,
		},
		"without uuid, and a name that two with uuid have": {
			points: []Point{
				sample(recent, tags{"VMID": "3", "Dom": "a"}),
				sample(910, lower("1", "a", "u1")),
				sample(920, lower("2", "a", "u2")),
			},
			want: MonitoredDomains{
				{"u1", "a", []string{"a"}, []string{"1", "3"}, false, 0},
				{"u2", "a", []string{"a"}, []string{"2", "3"}, false, 0},
			},
			never: 2, shared: []string{"a"},
		},
		"without uuid": {
			points: []Point{
				sample(910, tags{"VMID": "1", "name": "a"}),
				sample(920, tags{"VMID": "2", "Dom": "a"}),
				sample(920, tags{"VMID": "2", "dom": "b"}),
				dump(950, tags{"dom": "a"}),
			},
			want: MonitoredDomains{
				{"", "a", []string{"a"}, []string{"1", "2"}, true, 950},
				{"", "b", []string{"b"}, []string{"2"}, false, 0},
			},
			never: 1,
		},
		"with a number alone": {
			points: []Point{
				sample(910, tags{"VMID": "1"}),
				sample(920, lower("1", "a", "u1")),
				sample(920, tags{"VMID": "one-7"}),
				dump(950, tags{"vmid": "one-7"}),
			},
			want: MonitoredDomains{
				{"u1", "a", []string{"a"}, []string{"1"}, false, 0},
				{"", "one-7", []string{"one-7"}, []string{"one-7"}, true, 950},
			},
			never: 1,
		},
		"without a number: none": {points: []Point{sample(910, tags{"name": "a", "uuid": "u1"})}},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // in another order, too
				slices.Reverse(tc.points)
				var h History
				h.Add(tc.points...)
				got := h.MonitoredDomains(now, lookback)
				if !reflect.DeepEqual(got, tc.want) {
					t.Errorf("want %+v\n got %+v", tc.want, got)
				}
				if never := got.NeverDumped(); never != tc.never {
					t.Errorf("never dumped: want %d, got %d", tc.never, never)
				}
				if truth := h.Truth(now, lookback); truth.NeverDumped != tc.never || truth.MonitoredDomains != len(tc.want) {
					t.Errorf("want %d of %d never dumped, got %+v", tc.never, len(tc.want), truth)
				}
				if overdue := got.Overdue(now, 100); overdue != tc.overdue {
					t.Errorf("overdue: want %d, got %d", tc.overdue, overdue)
				}
				if shared := got.Shared(); !slices.Equal(shared, tc.shared) {
					t.Errorf("shared: want %q, got %q", tc.shared, shared)
				}
			}
		})
	}
}

func TestHistory_MonitoredDomains_measurements(t *testing.T) {
	var h History
	for _, measurement := range []string{"a", "b", "c"} {
		h.Add(Point{measurement, tags{"VMID": measurement, "name": measurement}, fields{"x": 1}, 5})
	}
	if got := h.Truth(9, time.Hour, "a", "c"); got.MonitoredVMs != 2 || got.MonitoredDomains != 2 {
		t.Errorf("want two, got %+v", got)
	}
	if got := h.Truth(9, time.Hour); got.MonitoredVMs != 0 {
		t.Errorf("want none of the default measurements, got %+v", got)
	}
}
