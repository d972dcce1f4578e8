package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/prometheus/common/version"

	"memdump_exporter/collector"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS string
	//go:embed page.js
	pageJS string
)

// pageLife is how long viewers share what was asked for one of them.
const pageLife = 10 * time.Second

// page is the page for people. What it asks InfluxDB is its own, and bounded.
type page struct {
	options
	collector *collector.Collector
	template  *template.Template
	policy    string

	turn  chan struct{} // holds the right to use what follows
	shown *collector.Overview
}

func newPage(o options, c *collector.Collector) *page {
	p := &page{options: o, collector: c, turn: make(chan struct{}, 1)}
	p.template = template.Must(template.New("page").Funcs(template.FuncMap{
		"css": func() template.CSS { return template.CSS(pageCSS) },
		"js":  func() template.JS { return template.JS(pageJS) },
	}).Funcs(pageFuncs).Parse(pageHTML))
	source := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	p.policy = "default-src 'none'; style-src " + source(pageCSS) + "; script-src " + source(pageJS) + "; img-src data:" +
		"; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	return p
}

// overview returns what is not older than pageLife. Whoever comes first asks; the
// others wait for it.
func (p *page) overview(ctx context.Context) (*collector.Overview, error) {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if p.shown != nil {
		if age := time.Since(p.shown.At); age >= 0 && age < pageLife {
			return p.shown, nil
		}
	}
	asking, cancel := context.WithTimeout(ctx, p.scrapeTimeout)
	defer cancel()
	o := p.collector.Overview(asking)
	if ctx.Err() != nil { // this viewer has left, and so have its requests
		return nil, ctx.Err()
	}
	p.shown = &o
	return p.shown, nil
}

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o, err := p.overview(r.Context())
	if err != nil {
		return // nobody is there any more
	}
	var body bytes.Buffer
	err = p.template.Execute(&body, map[string]any{
		"Name": name, "Version": version.Info(), "Database": p.influxDatabase,
		"Metrics": p.telemetryPath, "Records": recordsPath, "OpenAPI": openAPIPath,
		"O": o, "Last": p.collector.Statuses(),
	})
	if err != nil {
		http.Error(w, "the page could not be made", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", p.policy)
	_, _ = body.WriteTo(w)
}

var pageFuncs = template.FuncMap{
	"title":       figureTitle,
	"person":      figurePerson,
	"exact":       exactTime,
	"ago":         ago,
	"utc":         func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
	"rfc":         func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"date":        func(t time.Time) string { return t.Format(time.DateOnly) },
	"unixNs":      func(ns int64) time.Time { return time.Unix(0, ns) },
	"took":        func(d time.Duration) string { return d.Round(time.Millisecond).String() },
	"count":       func(n int64) string { return separated(float64(n)) },
	"bytes":       func(n int64) string { return inBytes(float64(n)) },
	"text":        func(r collector.Record, column string) string { text, _ := r.Text(column); return text },
	"visible":     visible,
	"size":        func(r collector.Record) string { return orDash(r.Number("gzip_size_bytes"))(inBytes) },
	"lasted":      func(r collector.Record) string { return orDash(r.Number("duration_sec"))(inSeconds) },
	"ofVM":        func(path, vmid string) string { return path + "?" + url.Values{"vmid": {vmid}}.Encode() },
	"neverDumped": neverDumped,
	"columns":     chartColumns,
	"most":        func(days []collector.Day, what string) string { return said(busiest(days, what), what) },
}

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

// figureTitle is the beginning of a gauge's help, which says what it is.
func figureTitle(help string) string {
	if end := strings.IndexAny(help, ":(,."); end > 0 {
		help = help[:end]
	}
	return strings.TrimSpace(help)
}

// figurePerson is a gauge's value as a person would say it; its name ends in its unit.
func figurePerson(f collector.FigureNow, now time.Time) string {
	switch {
	case strings.HasSuffix(f.Gauge, "_timestamp_seconds"):
		return ago(gaugeTime(f.Value), now)
	case strings.HasSuffix(f.Gauge, "_seconds"):
		return inSeconds(f.Value)
	case strings.HasSuffix(f.Gauge, "_bytes"):
		return inBytes(f.Value)
	}
	return separated(f.Value)
}

// exactTime is the time that a gauge holds; nil for any other gauge.
func exactTime(f collector.FigureNow) any {
	if !strings.HasSuffix(f.Gauge, "_timestamp_seconds") {
		return nil
	}
	return gaugeTime(f.Value)
}

func gaugeTime(seconds float64) time.Time {
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

// column is one bar of a chart, in the units of its view box.
type column struct {
	X, Y, Height float64
	Title        string
}

const (
	chartHeight = 100.0
	columnWidth = 10.0
)

// dayValue is a day's "dumps" or "bytes".
func dayValue(d collector.Day, what string) int64 {
	if what == "bytes" {
		return d.Bytes
	}
	return d.Dumps
}

func busiest(days []collector.Day, what string) (most int64) {
	for _, d := range days {
		most = max(most, dayValue(d, what))
	}
	return most
}

func said(value int64, what string) string {
	if what == "bytes" {
		return inBytes(float64(value))
	}
	return separated(float64(value))
}

// chartColumns are the bars of "dumps" or "bytes" per day, the tallest as high as the chart.
func chartColumns(days []collector.Day, what string) (columns []column) {
	most := max(1, busiest(days, what))
	for i, d := range days {
		height := chartHeight * float64(dayValue(d, what)) / float64(most)
		columns = append(columns, column{
			X: float64(i) * columnWidth, Y: chartHeight - height, Height: height,
			Title: d.Start.Format(time.DateOnly) + ": " + said(dayValue(d, what), what),
		})
	}
	return columns
}

// undumped are the monitored VMs without a dump; as many are shown as a page can hold.
type undumped struct {
	Count, More int
	Shown       []collector.VM
}

// neverDumped returns nil when there is none.
func neverDumped(vms []collector.VM) *undumped {
	const most = 100
	n := 0
	for n < len(vms) && vms[n].LastDump.IsZero() { // they come first
		n++
	}
	if n == 0 {
		return nil
	}
	shown := min(n, most)
	return &undumped{Count: n, More: n - shown, Shown: vms[:shown]}
}
