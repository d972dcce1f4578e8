// Package page serves the page for people: what a scrape would report, the last thirty days,
// and the newest dumps.
package page

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"sync"
	"time"

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

	pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
		"css":   func() template.CSS { return template.CSS(pageCSS) },
		"js":    func() template.JS { return template.JS(pageJS) },
		"title": metricTitle, "value": metricText, "exact": metricExactTime,
		"ago": ago, "utc": utc, "rfc": rfc3339, "took": took, "percent": percent, "visible": collector.Visible,
	}).Parse(pageHTML))
)

const (
	// maxAge is how old the data of a page may be.
	maxAge = 10 * time.Second
	// maxVMs limits the table of VMs that have never been dumped.
	maxVMs = 100
)

// Handler serves the page. It sends its own queries to InfluxDB, which count as no scrape; all
// viewers within ten seconds share them.
type Handler struct {
	Exporter    *collector.Exporter
	Name        string // of the program
	Database    string
	MetricsPath string
	Timeout     time.Duration // of the queries

	mu        sync.Mutex // held while the queries run
	data      *collector.Inspection
	fetchedAt time.Time
}

// Policy returns the Content-Security-Policy that the page needs: its own style and script, and
// requests to its own server.
func Policy() string {
	return "default-src 'none'; style-src " + source(pageCSS) + "; script-src " + source(pageJS) + "; img-src data:" +
		"; connect-src 'self'; base-uri 'none'; form-action 'none'"
}

func source(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// view is what the template shows.
type view struct {
	*collector.Inspection
	Name, Version, Database, MetricsPath string

	NeverDumped     string         // a sentence
	Undumped        []collector.VM // at most maxVMs
	UndumpedOmitted int
	SharedNames     string // a sentence; empty if there are none
	Charts          []chart
	DayRows         []dayRow
	Dumps           []dumpRow
	LastScrape      []collector.Status // in the order of Queries
}

// ServeHTTP serves the page.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data := h.fetch(r.Context())
	if data == nil {
		return // the viewer has left
	}
	v := view{
		Inspection: data, Name: h.Name, Version: version.Info(), Database: h.Database, MetricsPath: h.MetricsPath,
		SharedNames: data.SharedNames(), Charts: charts(data.Days), DayRows: dayRows(data.Days), Dumps: dumpRows(data.Newest),
		LastScrape: h.Exporter.Statuses(),
	}
	v.NeverDumped, v.Undumped = data.NeverDumped()
	if n := len(v.Undumped); n > maxVMs {
		v.Undumped, v.UndumpedOmitted = v.Undumped[:maxVMs], n-maxVMs
	}
	var body bytes.Buffer
	if err := pageTemplate.Execute(&body, v); err != nil {
		http.Error(w, "the page could not be rendered", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = body.WriteTo(w)
}

// fetch returns data that is at most maxAge old. The first viewer runs the queries, and the
// others wait for them. It returns nil if the viewer has left.
func (h *Handler) fetch(viewer context.Context) *collector.Inspection {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.data != nil && time.Since(h.fetchedAt) < maxAge {
		return h.data
	}
	ctx, cancel := context.WithTimeout(viewer, h.Timeout)
	defer cancel()
	data := h.Exporter.Overview(ctx)
	if viewer.Err() != nil { // the queries were canceled with it
		return nil
	}
	h.data, h.fetchedAt = &data, time.Now()
	return h.data
}
