package collector

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"memdump_exporter/influx"
)

// sample is a prometheus.Collector of what one run has given. It asks nothing.
type sample struct {
	*Collector
	server  influx.Server
	now     time.Time
	answers []answer // in the order of the figures
}

// membersOf returns the partial answer of one of the queries for VMs; false when it is not
// known.
func membersOf(figures []figure, answers []answer, query string) (members, bool) {
	for i, f := range figures {
		if f.query == query {
			m, ok := answers[i].partial.(members)
			return m, ok
		}
	}
	return nil, false
}

// Describe sends every descriptor of the table, and of the scrape about itself.
func (s sample) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range s.figures {
		if f.name != "" {
			ch <- f.desc()
		}
	}
	for _, g := range coverageGauges {
		ch <- g.desc
	}
	for _, m := range vmMetrics {
		ch <- m.desc
	}
	for _, desc := range []*prometheus.Desc{upDesc, successDesc, durationDesc, rangesDesc, oldestDesc, serverDesc, insecureDesc, omittedDesc} {
		ch <- desc
	}
	s.errors.Describe(ch)
	s.joined.Describe(ch)
	s.panics.Describe(ch)
}

// Collect sends what succeeded, and what is to be said about the rest.
func (s sample) Collect(ch chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		metric, err := prometheus.NewConstMetric(desc, prometheus.GaugeValue, value, labels...)
		if err != nil {
			metric = prometheus.NewInvalidMetric(desc, err)
		}
		ch <- metric
	}
	up := 1.0
	for i, f := range s.figures {
		a := s.answers[i]
		success := 1.0
		if a.err != nil {
			up, success = 0, 0
		} else if a.known {
			gauge(f.desc(), a.value)
		}
		gauge(successDesc, success, f.query)
		gauge(durationDesc, a.took.Seconds(), f.query)
		if a.ranges.Ranges > 0 {
			gauge(rangesDesc, float64(a.ranges.Ranges), f.query)
		}
		if oldest := a.ranges.OldestCheck; !oldest.IsZero() {
			gauge(oldestDesc, seconds(oldest.UnixNano()), f.query)
		}
	}
	s.coverage(gauge)
	s.perVM(gauge)
	gauge(upDesc, up)
	gauge(insecureDesc, map[bool]float64{true: 1}[s.Insecure])
	switch {
	case s.Database.API() == influx.APIV3Query:
		gauge(serverDesc, 1, "unknown", string(influx.APIV3Query))
	case s.server.Major != 0:
		gauge(serverDesc, 1, s.server.Version, string(influx.APIInfluxQL))
	}
	s.errors.Collect(ch)
	s.joined.Collect(ch)
	s.panics.Collect(ch)
}
