package influxtest

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

type (
	tags   = map[string]string
	fields = map[string]any
)

func TestPoint_Line(t *testing.T) {
	for _, tc := range []struct {
		name  string
		point Point
		want  string
	}{
		{"sorted", Point{"m", tags{"b": "2", "a": "1"}, fields{"y": 2, "x": int64(1)}, 7}, `m,a=1,b=2 x=1i,y=2i 7`},
		{"no tags", Point{"m", nil, fields{"x": true}, -1}, `m x=true -1`},
		{"empty tag is no tag", Point{"m", tags{"a": "", "b": "1"}, fields{"x": false}, 0}, `m,b=1 x=false 0`},
		{"measurement", Point{`a b,c=d`, nil, fields{"x": 1}, 0}, `a\ b\,c=d x=1i 0`},
		{"tags", Point{"m", tags{"k =,": "v =,"}, fields{"x": 1}, 0}, `m,k\ \=\,=v\ \=\, x=1i 0`},
		{"backslash in tag", Point{"m", tags{"a": `l\w`, "b": `\\host,w`}, fields{"x": 1}, 0}, `m,a=l\w,b=\\host\,w x=1i 0`},
		{"field key", Point{"m", nil, fields{"x =,": 1}, 0}, `m x\ \=\,=1i 0`},
		{"string", Point{"m", nil, fields{"x": `a "b" \ c, d=é`}, 0}, `m x="a \"b\" \\ c, d=é" 0`},
		{"empty string", Point{"m", nil, fields{"x": ""}, 0}, `m x="" 0`},
		{"integers", Point{"m", nil, fields{"x": int64(math.MaxInt64), "y": int64(math.MinInt64)}, 0}, `m x=9223372036854775807i,y=-9223372036854775808i 0`},
		{"floats", Point{"m", nil, fields{"a": 10.0, "b": 0.1, "c": 1e300, "d": 1e-9, "e": 1e20}, 0}, `m a=10,b=0.1,c=1e+300,d=1e-09,e=100000000000000000000 0`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.point.Line(); got != tc.want {
				t.Errorf("want %s\n got %s", tc.want, got)
			}
		})
	}
}

func TestPoint_Line_panics(t *testing.T) {
	for name, p := range map[string]Point{
		"no fields":          {"m", nil, nil, 0},
		"no measurement":     {"", nil, fields{"x": 1}, 0},
		"comment":            {"#m", nil, fields{"x": 1}, 0},
		"newline":            {"m", tags{"a": "x\ny"}, fields{"x": 1}, 0},
		"trailing backslash": {"m", tags{"a": `x\`}, fields{"x": 1}, 0},
		"backslash, comma":   {"m", tags{"a": `x\,y`}, fields{"x": 1}, 0},
		"type":               {"m", nil, fields{"x": []int{1}}, 0},
		"NaN":                {"m", nil, fields{"x": math.NaN()}, 0},
		"infinite":           {"m", nil, fields{"x": math.Inf(-1)}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			var h History
			h.Add(p)
		})
	}
}

func TestHistory_merges(t *testing.T) {
	var h History
	h.Add(
		Point{"m", tags{"a": "1", "b": ""}, fields{"x": 1, "z": 1}, 5},
		Point{"m", tags{"a": "1"}, fields{"y": 2, "x": 3}, 5},
		Point{"m", tags{"a": "2"}, fields{"x": 4}, 5},
		Point{"m", tags{"a": "1"}, fields{"x": 6}, 4},
		Point{"n", tags{"a": "1"}, fields{"x": 7}, 5},
	)
	want := []string{"m,a=1 x=6i 4", "m,a=1 x=3i,y=2i,z=1i 5", "m,a=2 x=4i 5", "n,a=1 x=7i 5"}
	if got := h.Lines(); !slices.Equal(got, want) {
		t.Errorf("want %q\n got %q", want, got)
	}

	h.Delete("m", 4, 5)
	h.Add(Point{"m", tags{"a": "2"}, fields{"w": 8}, 5}, Point{"m", tags{"a": "1"}, fields{"v": 9}, 4})
	want = []string{"m,a=1 v=9i 4", "m,a=1 x=3i,y=2i,z=1i 5", "m,a=2 w=8i,x=4i 5", "n,a=1 x=7i 5"}
	if got := h.Lines(); !slices.Equal(got, want) {
		t.Errorf("after Delete: want %q\n got %q", want, got)
	}
}

func TestHistory_Truth(t *testing.T) {
	const now, lookback = 1000, 100 * time.Nanosecond
	full := fields{"sha256": "s", "gzip_size_bytes": 10, "duration_sec": 2.5}
	for _, tc := range []struct {
		name   string
		points []Point
		want   Truth
	}{
		{"nothing", nil, Truth{}},
		{"one dump", []Point{{Dumps, tags{"vmid": "1"}, full, 7}}, Truth{1, 1, 10, 2.5, 1, 7, true, 0}},
		{"sizes and durations of failed points count, their VMs and times do not", []Point{
			{Dumps, tags{"vmid": "1"}, full, 7},
			{Dumps, tags{"vmid": "2"}, fields{"gzip_size_bytes": 5, "duration_sec": 1}, 8},
		}, Truth{1, 1, 15, 3.5, 2, 7, true, 0}},
		{"second writer", []Point{{Dumps, tags{"vmid": "web"}, fields{"sha256": "s", "ok": true}, 7}}, Truth{1, 1, 0, 0, 0, 7, true, 0}},
		{"without vmid", []Point{{Dumps, tags{"dom": "web"}, full, 7}}, Truth{1, 0, 10, 2.5, 1, 7, true, 0}},
		{"same VM on two hosts, equal times", []Point{
			{Dumps, tags{"vmid": "1", "host": "a"}, full, 7},
			{Dumps, tags{"vmid": "1", "host": "b"}, full, 7},
		}, Truth{2, 1, 20, 5, 2, 7, true, 0}},
		{"written twice, sha256 later", []Point{
			{Dumps, tags{"vmid": "1"}, fields{"duration_sec": 9.0}, 7},
			{Dumps, tags{"vmid": "1"}, full, 7},
		}, Truth{1, 1, 10, 2.5, 1, 7, true, 0}},
		{"future, 1970 and before", []Point{
			{Dumps, tags{"vmid": "1"}, full, 0}, {Dumps, tags{"vmid": "1"}, full, -5}, {Dumps, tags{"vmid": "1"}, full, 5000},
		}, Truth{3, 1, 30, 7.5, 3, 5000, true, 0}},
		{"newest at 0", []Point{{Dumps, nil, fields{"sha256": "s"}, 0}}, Truth{1, 0, 0, 0, 0, 0, true, 0}},
		{"telemetry: both edges are within", []Point{
			{Telemetry, tags{"VMID": "1"}, fields{"cpu": 1.0}, 900},
			{Telemetry, tags{"VMID": "2"}, fields{"disk": 1.0}, 950},
			{Telemetry, tags{"VMID": "5"}, fields{"disk": 1.0}, 1000},
			{Telemetry, tags{"VMID": "3"}, fields{"cpu": 1.0}, 899},
			{Telemetry, tags{"VMID": "4"}, fields{"cpu": 1.0}, 1001},
			{Telemetry, tags{"name": "no id"}, fields{"cpu": 1.0}, 950},
			{Telemetry, tags{"VMID": "2", "name": "renamed"}, fields{"cpu": 1.0}, 950},
			{"vm_metrics", tags{"VMID": "9"}, fields{"cpu": 1.0}, 950},
		}, Truth{MonitoredVMs: 3}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var h History
			h.Add(tc.points...)
			if got := h.Truth(now, lookback); got != tc.want {
				t.Errorf("want %+v\n got %+v", tc.want, got)
			}
		})
	}
}

func TestTruth_Mean(t *testing.T) {
	if _, ok := (Truth{}).Mean(); ok {
		t.Error("a mean of nothing")
	}
	if got, ok := (Truth{DurationSum: 5, DurationCount: 2}).Mean(); got != 2.5 || !ok {
		t.Errorf("want 2.5, got %v, %v", got, ok)
	}
}

func TestBelievable(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC)
	h, again := Believable(1, now), Believable(1, now)
	if !slices.Equal(h.Lines(), again.Lines()) {
		t.Error("equal seeds, different points")
	}
	if slices.Equal(h.Lines(), Believable(2, now).Lines()) {
		t.Error("different seeds, equal points")
	}

	const lookback = 24 * time.Hour
	truth := h.Truth(now.UnixNano(), lookback)
	if truth.Dumps < 3000 || truth.DurationCount >= truth.Dumps || !truth.HasLast {
		t.Errorf("hardly two writers' six weeks: %+v", truth)
	}
	// 36 VMs, five of which have two ids; 36 and one more, less five that are gone.
	if truth.DumpedVMs != 41 || truth.MonitoredVMs != 32 {
		t.Errorf("want 41 and 32 VMs, got %+v", truth)
	}
	if later := h.Truth(now.Add(time.Hour).UnixNano(), lookback); later != truth {
		t.Errorf("an hour of waiting changes %+v\nto %+v", truth, later)
	}
	if earlier := h.Truth(now.UnixNano(), lookback+time.Hour); earlier != truth {
		t.Errorf("an hour more of telemetry changes %+v\nto %+v", truth, earlier)
	}

	count := map[string]int{}
	seen := map[int64]string{}
	for _, p := range h.points {
		if p.series.measurement != Dumps {
			continue
		}
		if other, ok := seen[p.ns]; ok && other != p.series.key {
			count["ties"]++
		}
		seen[p.ns] = p.series.key
		if p.series.id == "" {
			count["without vmid"]++
		}
		if !slices.ContainsFunc(p.fields, func(f field) bool { return f.key == "sha256" }) {
			count["failed"]++
		}
		if strings.HasSuffix(p.series.key, "-new,host=hv-06,vmid=1162") {
			count["renamed"]++
		}
		if strings.HasSuffix(p.series.key, "host=hv-07,vmid=1015") {
			count["moved"]++
		}
	}
	for _, what := range []string{"ties", "without vmid", "failed", "renamed", "moved"} {
		if count[what] == 0 {
			t.Errorf("no %s dumps", what)
		}
	}
}

func TestHistory_live(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	h := Believable(1, now)
	before := h.Truth(now.UnixNano(), time.Hour)
	now = now.Add(30 * time.Hour)
	if got := len(h.LiveTelemetry(now)); got != before.MonitoredVMs {
		t.Errorf("want a sample of each of %d VMs, got %d", before.MonitoredVMs, got)
	}
	dump := h.LiveDump(now)
	if len(dump) != 1 || dump[0].TimeNs >= now.UnixNano() || dump[0].Fields["sha256"] == nil {
		t.Fatalf("not a dump of before now: %v", dump)
	}
	after := h.Truth(now.UnixNano(), time.Hour)
	if after.Dumps != before.Dumps+1 || after.LastDumpNs != dump[0].TimeNs || after.MonitoredVMs != before.MonitoredVMs {
		t.Errorf("before %+v\n after %+v", before, after)
	}

	var other History
	if len(other.LiveTelemetry(now))+len(other.LiveDump(now)) != 0 {
		t.Error("a history of nobody goes on")
	}
}
