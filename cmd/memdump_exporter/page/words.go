package page

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"memdump_exporter/collector"
	"memdump_exporter/collector/records"
)

// dumpRow is a row of the table of the newest dumps.
type dumpRow struct {
	Begun          time.Time
	Domain         string
	Parameter      string // of /records, which selects the domain
	RuntimeID      string
	Size, Duration string
}

func dumpRows(newest []records.Record) []dumpRow {
	var rows []dumpRow
	for _, r := range newest {
		row := dumpRow{Begun: time.Unix(0, r.TimeNs), Parameter: "dom", Size: "–", Duration: "–"}
		row.RuntimeID, _ = r.Text("vmid")
		row.Domain, _ = r.Text("dom")
		if row.Domain == "" { // a dump without a domain belongs to the domain that its vmid names
			row.Domain, row.Parameter = row.RuntimeID, "vmid"
		}
		if size, ok := r.Number("gzip_size_bytes"); ok {
			row.Size = inBytes(size)
		}
		if seconds, ok := r.Number("duration_sec"); ok {
			row.Duration = inSeconds(seconds)
		}
		rows = append(rows, row)
	}
	return rows
}

func utc(t time.Time) string         { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
func rfc3339(t time.Time) string     { return t.UTC().Format(time.RFC3339) }
func took(d time.Duration) string    { return d.Round(time.Millisecond).String() }
func percent(ratio float64) string   { return fmt.Sprintf("%.0f %%", 100*ratio) }
func isTimestamp(metric string) bool { return strings.HasSuffix(metric, "_timestamp_seconds") }

// metricTitle shortens a metric's HELP to the part that names it, without unit.
func metricTitle(help string) string {
	if end := strings.IndexAny(help, ":;."); end > 0 {
		help = help[:end]
	}
	for {
		before, rest, found := strings.Cut(help, " (")
		_, after, closed := strings.Cut(rest, ")")
		if !found || !closed {
			break
		}
		help = before + after
	}
	for _, unit := range []string{" in seconds since 1970", " in seconds", " in bytes"} {
		help = strings.TrimSuffix(help, unit)
	}
	help = strings.TrimPrefix(help, "Number of ")
	return strings.ToUpper(help[:1]) + help[1:]
}

// metricText formats a value for people. The unit is the end of the metric's name.
func metricText(m collector.MetricValue, now time.Time) string {
	switch {
	case isTimestamp(m.Name):
		return ago(toTime(m.Value), now)
	case strings.HasSuffix(m.Name, "_seconds"):
		return inSeconds(m.Value)
	case strings.HasSuffix(m.Name, "_bytes"):
		return inBytes(m.Value)
	}
	return separated(m.Value)
}

// metricExactTime returns the time that a metric holds, and nil for any other metric.
func metricExactTime(m collector.MetricValue) any {
	if !isTimestamp(m.Name) {
		return nil
	}
	return toTime(m.Value)
}

func toTime(seconds float64) time.Time {
	whole, part := math.Modf(seconds)
	return time.Unix(int64(whole), int64(part*1e9))
}

// separated formats a whole number with a separator between groups of three digits.
func separated(f float64) string {
	digits := strconv.FormatFloat(f, 'f', 0, 64)
	for at := len(digits) - 3; at > 0 && digits[at-1] != '-'; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}

func inBytes(f float64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	unit := 0
	for math.Abs(f) >= 1024 && unit < len(units)-1 {
		f /= 1024
		unit++
	}
	if unit == 0 {
		return separated(f) + " " + units[0]
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + " " + units[unit]
}

func inSeconds(f float64) string {
	switch {
	case math.Abs(f) < 120:
		return strconv.FormatFloat(f, 'f', 1, 64) + " s"
	case math.Abs(f) < 7200:
		return strconv.FormatFloat(f/60, 'f', 1, 64) + " min"
	case math.Abs(f) < 48*3600:
		return strconv.FormatFloat(f/3600, 'f', 1, 64) + " h"
	}
	return strconv.FormatFloat(f/(24*3600), 'f', 1, 64) + " days"
}

// ago formats the distance of a time from now.
func ago(t, now time.Time) string {
	d, format := now.Sub(t), "%s ago"
	if d < 0 {
		d, format = -d, "in %s"
	}
	var distance string
	switch {
	case d < 2*time.Second:
		return "just now"
	case d < 2*time.Minute:
		distance = fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		distance = fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		distance = fmt.Sprintf("%d h", int(d.Hours()))
	default:
		distance = fmt.Sprintf("%s days", separated(math.Floor(d.Hours()/24)))
	}
	return fmt.Sprintf(format, distance)
}
