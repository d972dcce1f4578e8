package collector

import (
	"context"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"

	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

// silent is a Database that is not asked.
type silent struct{}

func (silent) Query(context.Context, influx.Request, func(influx.Row) error) error { return nil }
func (silent) Identify(context.Context) (influx.Server, error)                     { return influx.Server{}, nil }
func (silent) API() influx.API                                                     { return influx.APIInfluxQL }

// TestSample_described: nothing is collected that is not described, and what is described can be.
func TestSample_described(t *testing.T) {
	now := time.Unix(1762857000, 0)
	c := New(Config{Database: silent{}, DumpsMaxAge: time.Hour, TelemetryLookback: time.Hour, PerVM: 1, Logger: log.NewNopLogger(), Now: func() time.Time { return now }})
	s := sample{Collector: c, server: influx.Server{Major: 1, Version: "1.8.10"}, now: now, answers: make([]answer, len(c.figures))}
	for i, f := range c.figures {
		a := answer{known: f.name != "", ranges: ranges.State{Ranges: 1, OldestCheck: now}}
		switch f.query {
		case dumpedVMs, monitoredVMs:
			a.partial = members{"a": {ns: now.UnixNano()}}
		case "vm_totals":
			a.partial = vmTotals{"a": {1, 2, true}}
		case "vm_places":
			a.partial = places{"a": {ns: now.UnixNano()}}
		}
		s.answers[i] = a
	}
	described := make(chan *prometheus.Desc, 1000)
	s.Describe(described)
	close(described)
	missing := make(map[string]bool)
	for desc := range described {
		missing[desc.String()] = true
	}
	collected := make(chan prometheus.Metric, 1000)
	s.Collect(collected)
	close(collected)
	for metric := range collected {
		delete(missing, metric.Desc().String())
	}
	if len(missing) > 0 {
		t.Errorf("described, and not collected: %v", missing)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s)
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
}
