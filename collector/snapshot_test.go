package collector

import (
	"maps"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// gathered runs a batch and returns its snapshot.
func gathered(t *testing.T, e *Exporter) snapshot {
	t.Helper()
	b := e.newBatch(t.Context(), time.Now().Add(time.Minute))
	b.execute(e.record, func() {})
	return snapshot{b}
}

// TestSnapshot_described: Describe sends the descriptors of all metrics that Collect sends.
func TestSnapshot_described(t *testing.T) {
	for name, perVM := range map[string]int{"with metrics per VM": 5, "without": 0} {
		t.Run(name, func(t *testing.T) {
			s := gathered(t, newMemory(t).exporter(t, func(c *Config) { c.PerVM = perVM }))
			described, collected := descriptions(s.Describe), make(map[string]bool)
			metrics := make(chan prometheus.Metric)
			go func() {
				defer close(metrics)
				s.Collect(metrics)
			}()
			for metric := range metrics {
				collected[metric.Desc().String()] = true
			}
			if perVM == 0 { // which describes more than it has
				for _, m := range perVMMetrics {
					delete(described, m.desc.String())
				}
				delete(described, omittedDesc.String())
			}
			if !maps.Equal(described, collected) {
				t.Errorf("described:\n%v\ncollected:\n%v", described, collected)
			}
			registry := prometheus.NewPedanticRegistry()
			registry.MustRegister(s)
			if _, err := registry.Gather(); err != nil {
				t.Error(err)
			}
		})
	}
}

func descriptions(describe func(chan<- *prometheus.Desc)) map[string]bool {
	all, descs := make(map[string]bool), make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		describe(descs)
	}()
	for desc := range descs {
		all[desc.String()] = true
	}
	return all
}

// TestSnapshot_queries: the metrics about each query.
func TestSnapshot_queries(t *testing.T) {
	m := newMemory(t)
	m.respond = func(statement string) string {
		if during(sumOfBytes, 1)(statement) > 0 {
			return rejected
		}
		return ""
	}
	now := newClock(time.Now())
	e := m.exporter(t, at(now))
	got := scrape(t, e)
	for _, q := range e.queries {
		success := number01(q.name != "compressed_bytes")
		got.wantValue(t, success, "memdump_query_success", "query", q.name)
		got.wantValue(t, 1, "memdump_query_ranges", "query", q.name)
		got.wantValue(t, 1-success, "memdump_query_errors_total", "query", q.name, "reason", "refused")
		oldest, there := got.value("memdump_query_oldest_check_timestamp_seconds", "query", q.name)
		if there != (success == 1) {
			t.Errorf("%s: the time of its check is there: %v", q.name, there)
		}
		if want := seconds(now.Now().UnixNano()); there && oldest != want {
			t.Errorf("%s: checked at %v, want %v", q.name, oldest, want)
		}
		for _, reason := range reasons() {
			if _, there := got.value("memdump_query_errors_total", "query", q.name, "reason", reason); !there {
				t.Errorf("%s: no counter for %s", q.name, reason)
			}
		}
	}
	got.wantValue(t, 0, "memdump_up")
	got.wantValue(t, 1, "memdump_history_loaded_ratio", "history", "dumps")
	got.wantValue(t, 1, "memdump_history_loaded_ratio", "history", "telemetry")
}

// TestSnapshot_insecure: whether the certificate of InfluxDB is verified.
func TestSnapshot_insecure(t *testing.T) {
	for _, insecure := range []bool{false, true} {
		got := scrape(t, newMemory(t).exporter(t, func(c *Config) { c.Insecure = insecure }))
		got.wantValue(t, number01(insecure), "memdump_influxdb_tls_insecure")
	}
}
