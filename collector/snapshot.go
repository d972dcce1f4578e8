package collector

import (
	"github.com/prometheus/client_golang/prometheus"

	"memdump_exporter/influx"
)

// snapshot is the prometheus.Collector of the results of one batch. It makes no request.
type snapshot struct{ batch *batch }

var (
	upDesc = prometheus.NewDesc("memdump_up",
		"Whether every query of this scrape succeeded.", nil, nil)
	successDesc = prometheus.NewDesc("memdump_query_success",
		"Whether the query succeeded in this scrape; where it failed, its metrics are absent.", []string{"query"}, nil)
	durationDesc = prometheus.NewDesc("memdump_query_duration_seconds",
		"Duration of the query in this scrape in seconds.", []string{"query"}, nil)
	rangesDesc = prometheus.NewDesc("memdump_query_ranges",
		"Number of time ranges the query is split into; 1 when it is not split.", []string{"query"}, nil)
	oldestDesc = prometheus.NewDesc("memdump_query_oldest_check_timestamp_seconds",
		"When the oldest part of the query's result was fetched, in seconds since 1970.", []string{"query"}, nil)
	loadedDesc = prometheus.NewDesc("memdump_history_loaded_ratio",
		"Ratio of the time ranges of the history that are loaded; 1 when no history is used.", []string{"history"}, nil)
	insecureDesc = prometheus.NewDesc("memdump_influxdb_tls_insecure",
		"Whether the certificate of InfluxDB is not verified (--influx.tls.insecure-skip-verify).", nil, nil)
	serverDesc = prometheus.NewDesc("memdump_influxdb_info",
		"Version that InfluxDB reports and API in use; the value is always 1.", []string{"version", "api"}, nil)
)

// Describe sends every descriptor of the tables.
func (s snapshot) Describe(ch chan<- *prometheus.Desc) {
	e := s.batch.exporter
	for i := range e.queries {
		for _, m := range e.queries[i].metrics {
			ch <- m.desc()
		}
	}
	for _, m := range coverageMetrics {
		ch <- m.desc
	}
	for _, m := range perVMMetrics {
		ch <- m.desc
	}
	for _, desc := range []*prometheus.Desc{
		upDesc, successDesc, durationDesc, rangesDesc, oldestDesc, loadedDesc, serverDesc, insecureDesc, omittedDesc,
	} {
		ch <- desc
	}
	e.errors.Describe(ch)
	e.joined.Describe(ch)
	e.panics.Describe(ch)
}

// Collect sends the values of the queries that succeeded, and the state of all queries.
func (s snapshot) Collect(ch chan<- prometheus.Metric) {
	b, e := s.batch, s.batch.exporter
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		metric, err := prometheus.NewConstMetric(desc, prometheus.GaugeValue, value, labels...)
		if err != nil {
			metric = prometheus.NewInvalidMetric(desc, err)
		}
		ch <- metric
	}
	up := true
	for _, r := range b.results {
		up = up && r.err == nil
		for i, m := range r.query.metrics {
			if r.err == nil && r.hasValue[i] {
				gauge(m.desc(), r.values[i])
			}
		}
		gauge(successDesc, number01(r.err == nil), r.query.name)
		gauge(durationDesc, r.took.Seconds(), r.query.name)
		if r.ranges > 0 {
			gauge(rangesDesc, float64(r.ranges), r.query.name)
		}
		if r.err == nil {
			oldest := r.oldest
			if oldest.IsZero() {
				oldest = b.now
			}
			gauge(oldestDesc, seconds(oldest.UnixNano()), r.query.name)
		}
	}
	if vms, ok := b.coverage(); ok {
		for _, m := range coverageMetrics {
			if value, ok := m.value(vms, b.now, e.config.DumpsMaxAge); ok {
				gauge(m.desc, value)
			}
		}
	}
	b.perVM(gauge)
	gauge(upDesc, number01(up))
	for _, h := range b.histories {
		gauge(loadedDesc, h.Loaded, h.Source)
	}
	gauge(insecureDesc, number01(e.config.Insecure))
	switch {
	case e.config.Database.API() == influx.APIV3Query:
		gauge(serverDesc, 1, "unknown", string(influx.APIV3Query))
	case b.server.Major != 0:
		gauge(serverDesc, 1, b.server.Version, string(influx.APIInfluxQL))
	}
	e.errors.Collect(ch)
	e.joined.Collect(ch)
	e.panics.Collect(ch)
}

func (m metric) desc() *prometheus.Desc { return prometheus.NewDesc(m.name, m.help, nil, nil) }

func number01(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
