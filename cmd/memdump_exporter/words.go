package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"memdump_exporter/collector"
)

// visible spells out what would be drawn as something else: control characters, and
// those that turn the direction of what follows.
func visible(name string) string {
	var b strings.Builder
	for _, r := range name {
		if unicode.In(r, unicode.Cc, unicode.Cf) {
			fmt.Fprintf(&b, "\\u%04x", r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func orDash(value float64, known bool) func(func(float64) string) string {
	return func(say func(float64) string) string {
		if !known {
			return "–"
		}
		return say(value)
	}
}

// metricTitle is the beginning of a metric's HELP, which names it.
func metricTitle(help string) string {
	if end := strings.IndexAny(help, ":(;."); end > 0 {
		help = help[:end]
	}
	return strings.TrimSpace(help)
}

// metricText is a value as a person would write it; the name of the metric ends in its unit.
func metricText(m collector.MetricValue, now time.Time) string {
	switch {
	case strings.HasSuffix(m.Name, "_timestamp_seconds"):
		return ago(metricTime(m.Value), now)
	case strings.HasSuffix(m.Name, "_seconds"):
		return inSeconds(m.Value)
	case strings.HasSuffix(m.Name, "_bytes"):
		return inBytes(m.Value)
	}
	return separated(m.Value)
}

// exactTime is the time that a metric holds; nil for any other metric.
func exactTime(m collector.MetricValue) any {
	if !strings.HasSuffix(m.Name, "_timestamp_seconds") {
		return nil
	}
	return metricTime(m.Value)
}

func metricTime(seconds float64) time.Time {
	whole, part := math.Modf(seconds)
	return time.Unix(int64(whole), int64(part*1e9))
}

// separated is a whole number with a separator between groups of three digits.
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

// ago is how long before now, or after, a time is.
func ago(t, now time.Time) string {
	d, form := now.Sub(t), "%s ago"
	if d < 0 {
		d, form = -d, "in %s"
	}
	var said string
	switch {
	case d < 2*time.Second:
		return "just now"
	case d < 2*time.Minute:
		said = fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		said = fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		said = fmt.Sprintf("%d h", int(d.Hours()))
	default:
		said = fmt.Sprintf("%s days", separated(math.Floor(d.Hours()/24)))
	}
	return fmt.Sprintf(form, said)
}
