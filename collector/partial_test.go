package collector

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"testing"

	"memdump_exporter/collector/ranges"
)

func TestTotal_Merge(t *testing.T) {
	for _, tt := range []struct {
		a, b, want total
		fails      bool
	}{
		{1 << 53, 1, 1<<53 + 1, false},
		{5, 0, 5, false},
		{math.MaxInt64 - 1, 1, math.MaxInt64, false},
		{math.MaxInt64, 1, 0, true},
		{math.MinInt64, -1, 0, true},
		{math.MinInt64 + 1, -1, math.MinInt64, false},
	} {
		for _, pair := range [][2]total{{tt.a, tt.b}, {tt.b, tt.a}} {
			got, err := pair[0].Merge(pair[1])
			if got != tt.want || errors.Is(err, errOutOfRange) != tt.fails {
				t.Errorf("%d + %d: %d, %v", pair[0], pair[1], got, err)
			}
		}
	}
}

// TestMean_overflow: sums of ranges that a float64 can't hold are no mean.
func TestMean_overflow(t *testing.T) {
	huge := mean{math.MaxFloat64, 1}
	for _, parts := range [][]mean{{huge, huge}, {{math.Inf(1), 2}, {math.Inf(-1), 2}}} {
		sum, err := parts[0].Merge(parts[1])
		if value, known := average(sum, ranges.All); err != nil || !known || !errors.Is(finite(value), errOutOfRange) {
			t.Errorf("%v: %v, %v, %v", parts, value, known, err)
		}
	}
}

func TestNewest_Merge(t *testing.T) {
	none, old, young := newest{}, newest{-5, true}, newest{7, true}
	for _, tt := range []struct{ a, b, want newest }{
		{none, none, none}, {none, old, old}, {old, none, old}, {old, young, young}, {young, old, young}, {none, newest{0, true}, newest{0, true}},
	} {
		if got, err := tt.a.Merge(tt.b); err != nil || got != tt.want {
			t.Errorf("%v, %v: %v, %v", tt.a, tt.b, got, err)
		}
	}
}

func TestMembers(t *testing.T) {
	const end = math.MaxInt64 // which no range but all time holds
	a, b := members{"x": {ns: 1}, "y": {5, "new"}}, members{"y": {3, "old"}, "z": {ns: end}}
	for _, pair := range [][2]members{{a, b}, {b, a}} {
		got, err := pair[0].Merge(pair[1])
		if want := (members{"x": {ns: 1}, "y": {5, "new"}, "z": {ns: end}}); err != nil || !maps.Equal(got, want) {
			t.Errorf("got %v, %v", got, err)
		}
		if n := got.within(ranges.Range{From: 1, To: 5}); n != 1 {
			t.Errorf("%d within [1, 5), want x alone", n)
		}
		if n := got.within(ranges.All); n != 3 {
			t.Errorf("%d in all time", n)
		}
	}
	if len(a) != 2 || len(b) != 2 {
		t.Errorf("merging has changed a side: %v, %v", a, b)
	}
	if got, err := members(nil).Merge(nil); err != nil || !got.empty() {
		t.Errorf("%v, %v", got, err)
	}
}

// TestVMs_Merge: sides merge alike whichever comes first, and neither is changed.
func TestVMs_Merge(t *testing.T) {
	a, b := vmTotals{"x": {1, 5, true}, "y": {2, 0, false}}, vmTotals{"x": {2, 0, false}, "z": {1, 7, true}}
	for _, pair := range [][2]vmTotals{{a, b}, {b, a}} {
		got, err := pair[0].Merge(pair[1])
		if want := (vmTotals{"x": {3, 5, true}, "y": {2, 0, false}, "z": {1, 7, true}}); err != nil || !maps.Equal(got, want) {
			t.Errorf("got %v, %v", got, err)
		}
	}
	for _, most := range []vmTotal{{1, math.MaxInt64, true}, {math.MaxInt64, 1, true}} {
		if _, err := a.Merge(vmTotals{"x": most}); !errors.Is(err, errOutOfRange) {
			t.Errorf("more than 64 bits hold: %v", err)
		}
	}
	old, late := places{"x": {1, place{"old", "h1"}}, "y": {1, place{"y", ""}}}, places{"x": {2, place{"late", "h2"}}}
	for _, pair := range [][2]places{{old, late}, {late, old}} {
		got, err := pair[0].Merge(pair[1])
		if want := (places{"x": {2, place{"late", "h2"}}, "y": {1, place{"y", ""}}}); err != nil || !maps.Equal(got, want) {
			t.Errorf("got %v, %v", got, err)
		}
	}
	if len(a)+len(b)+len(old)+len(late) != 7 || old["x"].ns != 1 {
		t.Errorf("merging has changed a side: %v, %v, %v, %v", a, b, old, late)
	}
}

// BenchmarkMerge merges an open range's VMs into those of all closed ranges.
func BenchmarkMerge(b *testing.B) {
	for _, vms := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprint(vms, " VMs"), func(b *testing.B) {
			closed, open := members{}, members{}
			for vm := range vms {
				closed.add(fmt.Sprint("vm-", vm), point[string]{ns: int64(vm)})
				open.add(fmt.Sprint("vm-", vm), point[string]{ns: int64(vm + 1)})
			}
			b.ReportAllocs()
			for b.Loop() {
				if merged, err := closed.Merge(open); err != nil || len(merged) != vms {
					b.Fatal(len(merged), err)
				}
			}
		})
	}
}
