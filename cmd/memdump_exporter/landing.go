package main

import (
	"bytes"
	_ "embed"
	"html/template"
	"net/http"
	"time"

	"github.com/prometheus/common/version"

	"memdump_exporter/collector"
)

//go:embed landing.html
var landingHTML string

// landingPage says what this is, where the metrics are and how each query went. It
// never asks InfluxDB.
func landingPage(o options, c *collector.Collector) http.Handler {
	page := template.Must(template.New("landing").Funcs(template.FuncMap{
		"utc": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	}).Parse(landingHTML))
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var body bytes.Buffer
		err := page.Execute(&body, map[string]any{
			"Name": name, "Version": version.Info(), "Database": o.influxDatabase,
			"Metrics": o.telemetryPath, "Healthy": healthyPath, "Ready": readyPath,
			"Statuses": c.Statuses(),
		})
		if err != nil {
			http.Error(w, "the page could not be made", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = body.WriteTo(w)
	})
}
