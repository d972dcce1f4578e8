package collector

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"memdump_exporter/collector/rangecache"
	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

func TestTotal_plus(t *testing.T) {
	whole := func(n int64) total { return total{whole: n, values: 1} }
	for name, tt := range map[string]struct {
		a, b     total
		want     total
		overflow bool
	}{
		"beyond 2^53":        {whole(1 << 53), whole(1), total{whole: 1<<53 + 1, values: 2}, false},
		"nothing":            {whole(5), total{}, whole(5), false},
		"up to 64 bits":      {whole(math.MaxInt64 - 1), whole(1), total{whole: math.MaxInt64, values: 2}, false},
		"beyond 64 bits":     {whole(math.MaxInt64), whole(1), total{values: 2}, true},
		"below 64 bits":      {whole(math.MinInt64), whole(-1), total{values: 2}, true},
		"down to 64 bits":    {whole(math.MinInt64 + 1), whole(-1), total{whole: math.MinInt64, values: 2}, false},
		"whole and fraction": {whole(3), total{fraction: 0.5, values: 1}, total{whole: 3, fraction: 0.5, values: 2}, false},
	} {
		for order, pair := range map[string][2]total{"in order": {tt.a, tt.b}, "reversed": {tt.b, tt.a}} {
			got := pair[0].plus(pair[1])
			if overflow := errors.Is(got.err, errOutOfRange); overflow != tt.overflow {
				t.Errorf("%s, %s: %v", name, order, got.err)
			}
			if got.err = nil; got != tt.want {
				t.Errorf("%s, %s: %+v, want %+v", name, order, got, tt.want)
			}
		}
	}
	spoiled := total{err: influx.ErrMalformed}
	for name, got := range map[string]total{
		"spoiled first": spoiled.plus(whole(1)), "spoiled last": whole(1).plus(spoiled), "then another": spoiled.plus(whole(1)).plus(whole(1)),
	} {
		if !errors.Is(got.err, influx.ErrMalformed) {
			t.Errorf("%s: %v", name, got.err)
		}
	}
}

func TestTotal_value(t *testing.T) {
	for name, tt := range map[string]struct {
		total total
		want  float64
		fails error
	}{
		"nothing":       {total{}, 0, nil},
		"whole":         {total{whole: 1<<53 + 1}, 1 << 53, nil},
		"both":          {total{whole: 2, fraction: 0.5}, 2.5, nil},
		"below zero":    {total{whole: -1}, 0, errOutOfRange},
		"infinite":      {total{fraction: math.Inf(1)}, 0, errOutOfRange},
		"not a number":  {total{fraction: math.NaN()}, 0, errOutOfRange},
		"spoiled":       {total{whole: 1, err: influx.ErrMalformed}, 0, influx.ErrMalformed},
		"cancels out":   {total{whole: 3, fraction: -3}, 0, nil},
		"almost 2^63":   {total{whole: math.MaxInt64}, 1 << 63, nil},
		"of many parts": {total{whole: math.MaxInt64, fraction: 1e20}, 1e20 + 1<<63, nil},
	} {
		got, err := tt.total.value()
		if !errors.Is(err, tt.fails) {
			t.Errorf("%s: %v, want %v", name, err, tt.fails)
		}
		if got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestTotal_bytes(t *testing.T) {
	for name, tt := range map[string]struct {
		total total
		want  int64
		ok    bool
	}{
		"whole":                  {total{whole: 5}, 5, true},
		"rounded":                {total{whole: 5, fraction: 1.6}, 7, true},
		"a float of 2^62":        {total{fraction: 1 << 62}, 1 << 62, true},
		"a float of 2^63":        {total{fraction: 1 << 63}, 0, false},
		"infinite":               {total{fraction: math.Inf(-1)}, 0, false},
		"not a number":           {total{fraction: math.NaN()}, 0, false},
		"both, beyond 64 bits":   {total{whole: math.MaxInt64, fraction: 1}, math.MinInt64, false},
		"both, just in 64 bits":  {total{whole: math.MaxInt64 - 1, fraction: 1}, math.MaxInt64, true},
		"the other end of these": {total{fraction: -(1 << 63)}, math.MinInt64, true},
	} {
		if got, ok := tt.total.bytes(); got != tt.want || ok != tt.ok {
			t.Errorf("%s: %d, %v; want %d, %v", name, got, ok, tt.want, tt.ok)
		}
	}
}

func TestInstant_latest(t *testing.T) {
	none, old, young, first := instant{}, instant{-5, true}, instant{7, true}, instant{0, true}
	for name, tt := range map[string]struct{ a, b, want instant }{
		"neither":           {none, none, none},
		"one":               {none, old, old},
		"the other":         {old, none, old},
		"the later":         {old, young, young},
		"the earlier first": {young, old, young},
		"1970":              {none, first, first},
		"before 1970":       {old, first, first},
	} {
		if got := tt.a.latest(tt.b); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestSeconds(t *testing.T) {
	for ns, want := range map[int64]float64{
		0: 0, 1: 1e-9, -1_500_000_000: -1.5, 1762857000_123456789: 1762857000.1234567,
		math.MaxInt64: 9223372036.854776, math.MinInt64: -9223372036.854776,
	} {
		if got := seconds(ns); got != want {
			t.Errorf("%d: %v, want %v", ns, got, want)
		}
	}
}

func TestStartOfDay(t *testing.T) {
	for text, want := range map[string]string{
		"2025-11-11T00:00:00Z":           "2025-11-11T00:00:00Z",
		"2025-11-11T23:59:59.999999999Z": "2025-11-11T00:00:00Z",
		"1969-12-31T23:59:59.999999999Z": "1969-12-31T00:00:00Z",
		"1969-12-31T00:00:00Z":           "1969-12-31T00:00:00Z",
		"1960-02-29T12:00:00Z":           "1960-02-29T00:00:00Z",
	} {
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Fatal(err)
		}
		if got := time.Unix(0, startOfDay(at.UnixNano())).UTC().Format(time.RFC3339Nano); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// TestAggregate_addRun: the newest dump of a run counts, and sizes beyond 64 bits have no sum.
func TestAggregate_addRun(t *testing.T) {
	r := run{"1", "a"}
	for name, tt := range map[string]struct {
		parts  []runTotals
		want   runTotals
		dumped int
	}{
		"one dump": {
			[]runTotals{{dumps: 1, dumped: true, newest: 5, host: "h"}},
			runTotals{dumps: 1, dumped: true, newest: 5, host: "h"}, 1,
		},
		"the newest": {
			[]runTotals{{dumped: true, newest: 7, host: "new"}, {dumped: true, newest: 5, host: "old"}},
			runTotals{dumped: true, newest: 7, host: "new"}, 1,
		},
		"the newest, last": {
			[]runTotals{{dumped: true, newest: 5, host: "old"}, {dumped: true, newest: 7}},
			runTotals{dumped: true, newest: 7}, 1,
		},
		"before 1970": {
			[]runTotals{{dumped: true, newest: -9}, {dumped: true, newest: -5}},
			runTotals{dumped: true, newest: -5}, 1,
		},
		"a size and no dump": {
			[]runTotals{{compressed: 3, hasSize: true}},
			runTotals{compressed: 3, hasSize: true}, 0,
		},
		"a dump and a size": {
			[]runTotals{{compressed: 3, hasSize: true}, {dumps: 1, dumped: true}},
			runTotals{dumps: 1, compressed: 3, hasSize: true, dumped: true}, 1,
		},
		"sizes": {
			[]runTotals{{compressed: 3, hasSize: true}, {dumps: 2}, {compressed: 4, hasSize: true}},
			runTotals{dumps: 2, compressed: 7, hasSize: true}, 0,
		},
		"spoiled": {
			[]runTotals{{compressed: 3, hasSize: true, badSize: true}, {dumps: 2}},
			runTotals{dumps: 2, compressed: 3, hasSize: true, badSize: true}, 0,
		},
		"more than 64 bits": {
			[]runTotals{{compressed: math.MaxInt64, hasSize: true}, {compressed: 1, hasSize: true}},
			runTotals{compressed: math.MinInt64, hasSize: true, badSize: true}, 0,
		},
		"a size of no record": {
			[]runTotals{{}},
			runTotals{}, 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAggregate()
			for _, part := range tt.parts {
				a.addRun(r, part)
			}
			if got := a.runs[r]; got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
			if a.dumpedRuns != tt.dumped {
				t.Errorf("%d runs with a dump, want %d", a.dumpedRuns, tt.dumped)
			}
		})
	}
}

// TestAggregate_Merge: the merge does not depend on the order of the time ranges, and changes none
// of them.
func TestAggregate_Merge(t *testing.T) {
	h := influxtest.Believable(3, recordedNow)
	fake := &influxtest.Fake{}
	for _, measurement := range append(influxtest.TelemetryMeasurements(), influxtest.Dumps) {
		fake.Add(h.Points(measurement)...)
	}
	e := newExporter(t, newClientOver(t, fake, influx.Config{}))
	rng := rand.New(rand.NewPCG(1, 2))
	for _, source := range []source{dumps, telemetry} {
		fetch := func(r rangecache.Range) *aggregate {
			t.Helper()
			a, err := e.fetchHistory(t.Context(), source, r)
			if err != nil {
				t.Fatal(err)
			}
			return a
		}
		whole := fetch(rangecache.All)
		for range 10 {
			cut := recordedNow.Add(-time.Duration(rng.Int64N(int64(40 * 24 * time.Hour)))).UnixNano()
			if source == telemetry {
				cut = recordedNow.Add(-time.Duration(rng.Int64N(int64(24 * time.Hour)))).UnixNano()
			}
			older, newer := fetch(rangecache.Range{From: rangecache.All.From, To: cut}), fetch(rangecache.Range{From: cut, To: rangecache.All.To})
			before := fmt.Sprint(older, newer)
			for order, got := range map[string]*aggregate{"in order": older.with(newer), "reversed": newer.with(older)} {
				if source == telemetry {
					got.rows = whole.rows // a row for each series of each range
				}
				if !reflect.DeepEqual(got, whole) {
					t.Errorf("%s, %s: merged at %d, not the same as the whole", source, order, cut)
				}
			}
			if after := fmt.Sprint(older, newer); after != before {
				t.Errorf("%s: a merge has changed a part", source)
			}
		}
	}
}

// TestAggregate_addRecord: the aggregate of one record.
func TestAggregate_addRecord(t *testing.T) {
	const ns = 1762857000e9
	r := run{"1", "a"}
	withoutSize := runTotals{dumps: 1, dumped: true, newest: ns, host: "h"}
	withSize := withoutSize
	withSize.compressed, withSize.hasSize = 10, true
	for name, tt := range map[string]struct {
		row  string // sha256, duration_sec, gzip_size_bytes, raw_size_bytes
		want aggregate
	}{
		"a dump": {
			row: `"x",2.5,10,40`,
			want: aggregate{dumps: total{whole: 1}, sums: [numSums]total{{whole: 10, values: 1}, {whole: 40, values: 1}, {fraction: 2.5, values: 1}},
				newest: instant{ns, true}, runs: map[run]runTotals{r: withSize}, days: map[int64]dayTotals{startOfDay(ns): {dumps: 1, compressed: 10}}},
		},
		"a dump without sizes": {
			row: `"x",null,null,null`,
			want: aggregate{dumps: total{whole: 1}, newest: instant{ns, true},
				runs: map[run]runTotals{r: withoutSize}, days: map[int64]dayTotals{startOfDay(ns): {dumps: 1}}},
		},
		"an empty hash is a dump": {
			row: `"",null,null,null`,
			want: aggregate{dumps: total{whole: 1}, newest: instant{ns, true},
				runs: map[run]runTotals{r: withoutSize}, days: map[int64]dayTotals{startOfDay(ns): {dumps: 1}}},
		},
		"no dump": {
			row: `null,2.5,10,40`,
			want: aggregate{sums: [numSums]total{{whole: 10, values: 1}, {whole: 40, values: 1}, {fraction: 2.5, values: 1}},
				runs: map[run]runTotals{r: {compressed: 10, hasSize: true}}, days: map[int64]dayTotals{startOfDay(ns): {compressed: 10}}},
		},
		"nothing of interest": {row: `null,null,null,null`},
		"sizes as floats": {
			row: `"x",3,10.0,1e20`,
			want: aggregate{dumps: total{whole: 1}, sums: [numSums]total{{whole: 10, values: 1}, {fraction: 1e20, values: 1}, {whole: 3, values: 1}},
				newest: instant{ns, true}, runs: map[run]runTotals{r: withSize}, days: map[int64]dayTotals{startOfDay(ns): {dumps: 1, compressed: 10}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			columns := `"time","dom","vmid","host","sha256","duration_sec","gzip_size_bytes","raw_size_bytes"`
			got := recordsOf(t, rowsOf(columns, fmt.Sprintf(`[%d,"a","1","h",%s]`, int64(ns), tt.row)))
			tt.want.rows = 1
			for _, totals := range tt.want.runs {
				if totals.dumped {
					tt.want.dumpedRuns = 1
				}
			}
			if !reflect.DeepEqual(*got, tt.want) {
				t.Errorf("got %+v\nwant %+v", *got, tt.want)
			}
		})
	}
}

// TestAggregate_addRecord_unreadable: an unreadable field invalidates its total, and the size of
// its VM.
func TestAggregate_addRecord_unreadable(t *testing.T) {
	columns := `"time","dom","vmid","host","sha256","duration_sec","gzip_size_bytes","raw_size_bytes"`
	a := recordsOf(t, rowsOf(columns, `[5,"a","1","h","x",1,"ten",4],[6,"a","1","h","x",1,10,4],[7,"b","2","h","x",1,10,4]`))
	for name, i := range map[string]int{"raw": rawBytes, "durations": durationSeconds} {
		if _, err := a.sums[i].value(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := a.sums[compressedBytes].value(); !errors.Is(err, influx.ErrMalformed) {
		t.Errorf("compressed: %v, want malformed", err)
	}
	spoiled := make(map[string]bool)
	for dom, totals := range a.domains() {
		spoiled[dom] = totals.badSize
	}
	if want := map[string]bool{"a": true, "b": false}; !maps.Equal(spoiled, want) {
		t.Errorf("badSize: %v, want %v", spoiled, want)
	}
	if a.dumps.whole != 3 {
		t.Errorf("%d dumps, want 3", a.dumps.whole)
	}
}

// recordsOf returns the aggregate of the records of a response.
func recordsOf(t *testing.T, body string) *aggregate {
	t.Helper()
	m := newMemory(t)
	m.respond = func(string) string { return body }
	a, err := m.exporter(t).fetchHistory(t.Context(), dumps, rangecache.All)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestAggregate_ambiguous: a name that is not UTF-8 may stand for several names.
func TestAggregate_ambiguous(t *testing.T) {
	columns := `"time","dom","vmid","host","sha256","duration_sec","gzip_size_bytes","raw_size_bytes"`
	for row, unclear := range map[string]bool{
		`[5,"a","1","h","x"]`:                   false,
		`[5,"cut` + "\ufffd" + `","1","h","x"]`: true,
		`[5,"a","` + "\ufffd" + `","h","x"]`:    true,
		`[5,"a","1","` + "\ufffd" + `","x"]`:    false, // a host is no identity
		`[5,"` + "\ufffd" + `","1","h",null]`:   false, // no dump
	} {
		a := recordsOf(t, rowsOf(columns, strings.TrimSuffix(row, "]")+",null,null,null]"))
		if _, known, err := a.distinct(1); errors.Is(err, errAmbiguous) != unclear || known == unclear {
			t.Errorf("%s: known %v, %v", row, known, err)
		}
		if merged := newAggregate().with(a); merged.ambiguous != unclear {
			t.Errorf("%s: merged: unclear %v", row, merged.ambiguous)
		}
	}
}

// BenchmarkAggregate_with merges the VMs of an open range into those of the history.
func BenchmarkAggregate_with(b *testing.B) {
	for _, vms := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprint(vms, " VMs"), func(b *testing.B) {
			settled, open := newAggregate(), newAggregate()
			for vm := range vms {
				r := run{vmid: fmt.Sprint(vm), dom: fmt.Sprint("vm-", vm)}
				settled.addRun(r, runTotals{dumps: 1, dumped: true, newest: int64(vm)})
				open.addRun(r, runTotals{dumps: 1, dumped: true, newest: int64(vm + 1)})
			}
			b.ReportAllocs()
			for b.Loop() {
				if merged := settled.with(open); len(merged.runs) != vms {
					b.Fatal(len(merged.runs))
				}
			}
		})
	}
}
