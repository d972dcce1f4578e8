package collector

import (
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// HandlerConfig says how /metrics is served.
type HandlerConfig struct {
	// Self holds what the exporter says of itself, the same in each scrape.
	Self *prometheus.Registry
	// Timeout bounds a scrape whose scraper announces none.
	Timeout time.Duration
	// TimeoutOffset is how much earlier than announced an answer begins, so that it
	// arrives in time.
	TimeoutOffset time.Duration
	// ErrorLog takes what goes wrong while an answer is encoded.
	ErrorLog promhttp.Logger
}

// Handler serves /metrics: 200 as long as the exporter can answer, whatever
// InfluxDB does, a little before the scraper would give up.
func (c *Collector) Handler(h HandlerConfig) http.Handler {
	return promhttp.InstrumentMetricHandler(h.Self, &flight{Collector: c, HandlerConfig: h})
}

// timeoutHeader is set by Prometheus on each scrape, in seconds.
// https://github.com/prometheus/prometheus/blob/main/scrape/scrape.go
const timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"

// budget is the time that the queries of a scrape have. A header that is no time
// counts as absent, and one that announces little leaves half of it.
func (h HandlerConfig) budget(header http.Header) time.Duration {
	announced := h.Timeout
	if seconds, _ := strconv.ParseFloat(header.Get(timeoutHeader), 64); seconds > 0 && !math.IsInf(seconds, 0) {
		const day = 24 * time.Hour
		announced = time.Duration(math.Min(seconds, day.Seconds()) * float64(time.Second))
	}
	return max(announced-h.TimeoutOffset, announced/2)
}
