package page

import (
	"testing"
	"time"

	"memdump_exporter/collector"
)

func TestSeparated(t *testing.T) {
	for n, want := range map[float64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1234: "-1,234"} {
		if got := separated(n); got != want {
			t.Errorf("%v: %q, want %q", n, got, want)
		}
	}
}

func TestInBytes(t *testing.T) {
	for n, want := range map[float64]string{0: "0 bytes", 1023: "1,023 bytes", 1536: "1.5 KiB", 1 << 40: "1.0 TiB", 1 << 62: "4.0 EiB"} {
		if got := inBytes(n); got != want {
			t.Errorf("%v: %q, want %q", n, got, want)
		}
	}
}

func TestInSeconds(t *testing.T) {
	for n, want := range map[float64]string{1.25: "1.2 s", 600: "10.0 min", 36000: "10.0 h", 1e6: "11.6 days"} {
		if got := inSeconds(n); got != want {
			t.Errorf("%v: %q, want %q", n, got, want)
		}
	}
}

func TestAgo(t *testing.T) {
	now := time.Unix(1e9, 0)
	for distance, want := range map[time.Duration]string{
		0: "just now", 90 * time.Second: "90 s ago", 50 * time.Minute: "50 min ago", 47 * time.Hour: "47 h ago",
		2000 * 24 * time.Hour: "2,000 days ago", -3 * time.Hour: "in 3 h",
	} {
		if got := ago(now.Add(-distance), now); got != want {
			t.Errorf("%v: %q, want %q", distance, got, want)
		}
	}
}

func TestMetricTitle(t *testing.T) {
	for help, want := range map[string]string{
		"Number of memory dumps (points with sha256).":                                   "Memory dumps",
		"Number of domains (VMs) with a memory dump: distinct dom, or vmid.":             "Domains with a memory dump",
		"Total compressed size of the memory dumps (gzip_size_bytes) in bytes.":          "Total compressed size of the memory dumps",
		"Start time of the newest memory dump in seconds since 1970.":                    "Start time of the newest memory dump",
		"Mean duration of all memory dumps (duration_sec) in seconds.":                   "Mean duration of all memory dumps",
		"Number of runtime IDs (distinct VMID); another metric counts VMs (and others).": "Runtime IDs",
		"An open (parenthesis": "An open (parenthesis",
	} {
		if got := metricTitle(help); got != want {
			t.Errorf("%q: %q, want %q", help, got, want)
		}
	}
}

func TestMetricText(t *testing.T) {
	now := time.Unix(1e9, 0)
	for name, want := range map[string]string{
		"memdump_last_dump_timestamp_seconds": "100 s ago", "memdump_dumps_duration_seconds": "11574.1 days",
		"memdump_dumps_raw_bytes": "953.7 MiB", "memdump_dumps": "999,999,900",
	} {
		if got := metricText(collector.MetricValue{Name: name, Value: 1e9 - 100}, now); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
