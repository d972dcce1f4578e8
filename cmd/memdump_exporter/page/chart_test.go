package page

import (
	"testing"
	"time"

	"memdump_exporter/collector"
)

// TestCharts: the highest bar fills the chart, the others are in proportion, and there is no
// chart of sizes that nobody has recorded.
func TestCharts(t *testing.T) {
	start := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	days := []collector.Day{{Start: start, Dumps: 2, CompressedBytes: 2048}, {Start: start.Add(24 * time.Hour), Dumps: 4}}
	both := charts(days)
	if len(both) != 2 {
		t.Fatalf("%d charts, want dumps and sizes", len(both))
	}
	if want := (bar{X: 0, Y: 50, Height: 50, Title: "2026-01-02: 2"}); both[0].Bars[0] != want {
		t.Errorf("the lower bar of the dumps is %+v, want %+v", both[0].Bars[0], want)
	}
	if want := (bar{X: 10, Y: 0, Height: 100, Title: "2026-01-03: 4"}); both[0].Bars[1] != want {
		t.Errorf("the highest bar of the dumps is %+v, want %+v", both[0].Bars[1], want)
	}
	if want := (bar{X: 0, Y: 0, Height: 100, Title: "2026-01-02: 2.0 KiB"}); both[1].Bars[0] != want {
		t.Errorf("the highest bar of the sizes is %+v, want %+v", both[1].Bars[0], want)
	}
	if both[0].Most != "4" || both[1].Most != "2.0 KiB" {
		t.Errorf("the highest values are %q and %q, want 4 and 2.0 KiB", both[0].Most, both[1].Most)
	}
	if n := len(charts(days[1:])); n != 1 {
		t.Errorf("%d charts without any size, want 1", n)
	}
	if bars := charts([]collector.Day{{Start: start}})[0].Bars; bars[0].Height != 0 {
		t.Errorf("the bar of a day without a dump is %+v, want no height", bars[0])
	}
}
