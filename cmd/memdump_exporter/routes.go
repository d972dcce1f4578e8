package main

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"

	"memdump_exporter/cmd/memdump_exporter/page"
	"memdump_exporter/collector"
	"memdump_exporter/collector/records"
	"memdump_exporter/docs"
)

const (
	healthyPath    = "/-/healthy"
	readyPath      = "/-/ready"
	recordsPath    = "/records"
	oldRecordsPath = "/api/memory-dumps/records" // the Python service's
	openAPIPath    = "/openapi.json"
	runbooksPath   = "/runbooks"

	// maxConcurrentRecords leaves most of InfluxDB's connections to scrapes.
	maxConcurrentRecords = 4
)

var ownPaths = []string{healthyPath, readyPath, recordsPath, oldRecordsPath, openAPIPath, runbooksPath}

// newHandler returns the handler of all routes. It sends no request yet. /metrics includes the
// counters. End stops the loading of the history.
func newHandler(o options, base, logger log.Logger, counters ...prometheus.Collector) (handler http.Handler, end func(), err error) {
	client, err := newClient(o)
	if err != nil {
		return nil, nil, err
	}
	if o.tls.InsecureSkipVerify {
		_ = level.Warn(logger).Log("msg", "the certificate of InfluxDB is not verified (--influx.tls.insecure-skip-verify)")
	}
	exporter := newExporter(o, client, logger)
	self := prometheus.NewRegistry()
	self.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		versioncollector.NewCollector(name),
	)
	self.MustRegister(counters...)
	scrapes := collector.HandlerConfig{
		Self:     self,
		Timeouts: collector.Timeouts{Default: o.scrapeTimeout, Offset: o.scrapeTimeoutOffset},
		ErrorLog: errorLog(base),
	}
	mux := http.NewServeMux()
	pattern := "GET " + o.telemetryPath
	if strings.HasSuffix(pattern, "/") {
		pattern += "{$}" // not the paths below it
	}
	mux.Handle(pattern, exporter.Handler(scrapes))
	dumps := exporter.Records(scrapes.Timeouts, o.recordsMaxOffset, maxConcurrentRecords)
	mux.Handle("GET "+recordsPath, dumps)
	mux.Handle("GET "+oldRecordsPath, dumps)
	mux.Handle("GET "+openAPIPath, records.OpenAPI())
	// Both report the state of this process only: an exporter that became unready with its
	// database could not be scraped for memdump_up.
	mux.HandleFunc("GET "+healthyPath, plainText(name+" is healthy.\n"))
	mux.HandleFunc("GET "+readyPath, plainText(name+" is ready.\n"))
	runbooks, err := page.Runbooks(name, docs.Runbooks)
	if err != nil {
		return nil, nil, err
	}
	mux.Handle("GET "+runbooksPath, runbooks)
	policies := map[string]string{runbooksPath: page.Policy()}
	if o.telemetryPath != "/" {
		policies["/"] = page.Policy()
		mux.Handle("GET /{$}", &page.Handler{
			Exporter: exporter, Name: name, Database: o.influxDatabase, MetricsPath: o.telemetryPath, Timeout: o.scrapeTimeout,
		})
	}
	return exporter.Contain(headers(mux, policies)), exporter.Close, nil
}

// headers sets the headers of every response. It calls setHeaders before the handler, and not
// around it, because each waiting scrape holds its stack.
func headers(next http.Handler, policies map[string]string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setHeaders(w.Header(), cmp.Or(policies[r.URL.Path], "default-src 'none'"))
		next.ServeHTTP(w, r)
	})
}

// setHeaders forbids browsers to guess a content type, to frame, to store, and to load anything but
// what the Content-Security-Policy allows. What the operator sets in the web configuration
// (http_server_config.headers) is there already, and stays as it is.
func setHeaders(h http.Header, policy string) {
	if _, set := h["X-Frame-Options"]; !set {
		policy += "; frame-ancestors 'none'" // browsers prefer it to X-Frame-Options
	}
	for name, value := range map[string]string{
		"X-Content-Type-Options":  "nosniff",
		"X-Frame-Options":         "DENY",
		"Content-Security-Policy": policy,
		"Referrer-Policy":         "no-referrer",
		"Cache-Control":           "no-store",
	} {
		if _, set := h[name]; !set {
			h.Set(name, value)
		}
	}
}

func plainText(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, text)
	}
}

// checkPath rejects a path that the router cannot serve or that another route has.
func checkPath(p string) error {
	clean := path.Clean(p)
	if clean != "/" && strings.HasSuffix(p, "/") {
		clean += "/"
	}
	if p != clean || !strings.HasPrefix(p, "/") || strings.ContainsAny(p, "{} ?#") || slices.Contains(ownPaths, p) {
		return fmt.Errorf("--web.telemetry-path is %q: expected a path such as /metrics, and none of %q", p, ownPaths)
	}
	return nil
}
