package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/common/version"

	"memdump_exporter/collector"
	"memdump_exporter/collector/records"
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
	exporter *collector.Exporter
	template *template.Template
	policy   string

	turn  chan struct{} // holds the right to use what follows
	shown *collector.Inspection
}

func newPage(o options, e *collector.Exporter) *page {
	p := &page{options: o, exporter: e, turn: make(chan struct{}, 1)}
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
func (p *page) overview(ctx context.Context) (*collector.Inspection, error) {
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
	o := p.exporter.Overview(asking)
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
		"O": o, "Last": p.exporter.Statuses(),
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
	"title":       metricTitle,
	"person":      metricText,
	"exact":       exactTime,
	"ago":         ago,
	"utc":         func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
	"rfc":         func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"date":        func(t time.Time) string { return t.Format(time.DateOnly) },
	"unixNs":      func(ns int64) time.Time { return time.Unix(0, ns) },
	"took":        func(d time.Duration) string { return d.Round(time.Millisecond).String() },
	"count":       func(n int64) string { return separated(float64(n)) },
	"bytes":       func(n int64) string { return inBytes(float64(n)) },
	"text":        func(r records.Record, column string) string { text, _ := r.Text(column); return text },
	"visible":     visible,
	"size":        func(r records.Record) string { return orDash(r.Number("gzip_size_bytes"))(inBytes) },
	"lasted":      func(r records.Record) string { return orDash(r.Number("duration_sec"))(inSeconds) },
	"ofVM":        func(path, dom string) string { return path + "?" + url.Values{"dom": {dom}}.Encode() },
	"neverDumped": neverDumped,
	"sharedNames": sharedNames,
	"anyBytes":    func(days []collector.Day) bool { return busiest(days, "bytes") > 0 },
	"percent":     func(ratio float64) string { return fmt.Sprintf("%.0f %%", 100*ratio) },
	"columns":     chartColumns,
	"most":        func(days []collector.Day, what string) string { return said(busiest(days, what), what) },
}

// undumped are the monitored VMs without a dump; as many are shown as a page can hold.
type undumped struct {
	Count, More int
	Shown       []collector.VM
}

// neverDumped returns nil when there is none.
func neverDumped(vms []collector.VM) *undumped {
	const maxShown = 100
	n := collector.CountVMs(vms, collector.VM.NeverDumped) // they come first
	if n == 0 {
		return nil
	}
	shown := min(n, maxShown)
	return &undumped{Count: n, More: n - shown, Shown: vms[:shown]}
}

// sharedNames names the VMs whose dumps can't be told apart.
func sharedNames(vms []collector.VM) string {
	return named(vms, func(vm collector.VM) bool { return vm.Shared })
}
