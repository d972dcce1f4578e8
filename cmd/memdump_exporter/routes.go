package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/common/version"

	"memdump_exporter/collector"
	"memdump_exporter/influx"
)

const (
	healthyPath = "/-/healthy"
	readyPath   = "/-/ready"
)

// newHandler wires the parts together: flags in, routes out. It asks nothing yet.
func newHandler(o options, base, logger log.Logger) (http.Handler, error) {
	client, err := influx.New(influx.Config{
		URL:       o.influxURL,
		Database:  o.influxDatabase,
		Token:     func() (string, error) { return o.influxToken, nil },
		UserAgent: name + "/" + version.Version,
		Transport: influx.NewTransport(nil),
	})
	if err != nil {
		return nil, named(err)
	}
	metrics, err := collector.New(collector.Config{
		Database:             client,
		DumpsMeasurement:     o.dumpsMeasurement,
		TelemetryMeasurement: o.telemetryMeasurement,
		TelemetryLookback:    o.telemetryLookback,
		Logger:               log.With(logger, "component", "collector"),
		Now:                  time.Now,
	})
	if err != nil {
		return nil, err
	}
	self := prometheus.NewRegistry()
	self.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		versioncollector.NewCollector(name),
	)
	mux := http.NewServeMux()
	mux.Handle("GET "+o.telemetryPath, metrics.Handler(collector.HandlerConfig{
		Self:          self,
		Timeout:       o.scrapeTimeout,
		TimeoutOffset: o.scrapeTimeoutOffset,
		ErrorLog:      errorLog(base),
	}))
	// Both speak of this process alone: an exporter that went unready with its
	// database could not be scraped for the news.
	mux.HandleFunc("GET "+healthyPath, answer(name+" is healthy.\n"))
	mux.HandleFunc("GET "+readyPath, answer(name+" is ready.\n"))
	if o.telemetryPath != "/" {
		mux.Handle("GET /{$}", landingPage(o, metrics))
	}
	return mux, nil
}

// named says which flag a setting of the client comes from.
func named(err error) error {
	if wrong := (*influx.ConfigError)(nil); errors.As(err, &wrong) {
		if flag, ok := map[string]string{"URL": "--influx.url (INFLUX_URL)", "Database": "--influx.db (INFLUX_DB)"}[wrong.Setting]; ok {
			return errors.New(flag + " " + wrong.Problem)
		}
	}
	return err
}

func answer(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, text)
	}
}

// checkPath refuses a path that the router would misread or that is taken.
func checkPath(path string) error {
	if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, "{} ?#") || slices.Contains([]string{healthyPath, readyPath}, path) {
		return fmt.Errorf("--web.telemetry-path is %q: expected a path such as /metrics, not %s or %s", path, healthyPath, readyPath)
	}
	return nil
}
