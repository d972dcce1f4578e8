package test

import (
	"fmt"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus-operator/prometheus-operator/pkg/prometheus"
)

// TestChart_scrapeTimeout checks the timeout of both monitors with the comparison by which the operator drops a monitor.
func TestChart_scrapeTimeout(t *testing.T) {
	c := load(t)
	for _, test := range []struct{ interval, timeout, want string }{
		{"30s", "25s", "25s"},
		{"15s", "25s", "15s"}, // 25s is the default, also where only the interval is set
		{"1m", "90s", "1m"},
		{"1h30m", "5401s", "1h30m"},
		{"1h30m", "5400s", "5400s"},
		{"010s", "9s", "9s"},
		{"08s", "9s", "08s"},
		{"999999h", "999999h999999m", "999999h"},
		{"1m30s500ms", "1m30s499ms", "1m30s499ms"},
	} {
		for name, values := range map[string]string{
			"ServiceMonitor": "{serviceMonitor: {interval: %s, scrapeTimeout: %s}}",
			"PodMonitor":     "{serviceMonitor: {enabled: false}, podMonitor: {enabled: true, interval: %s, scrapeTimeout: %s}}",
			"endpoint":       "{serviceMonitor: {endpoint: {interval: %s, scrapeTimeout: %s}}}",
		} {
			text, _, err := render(c, "memdump", fmt.Sprintf(values, test.interval, test.timeout), operatorKinds)
			must(t, err)
			interval, timeout := scrapeTimes(decode(t, text))
			if string(interval) != test.interval || string(timeout) != test.want {
				t.Errorf("%s with %+v: interval %s, timeout %s", name, test, interval, timeout)
			}
			if err := prometheus.CompareScrapeTimeoutToScrapeInterval(timeout, interval); err != nil {
				t.Errorf("%s with %+v: the operator drops it: %v", name, test, err)
			}
		}
	}
}

func scrapeTimes(m *manifests) (interval, timeout monitoringv1.Duration) {
	for _, e := range m.ServiceMonitor.Spec.Endpoints {
		interval, timeout = e.Interval, e.ScrapeTimeout
	}
	for _, e := range m.PodMonitor.Spec.PodMetricsEndpoints {
		interval, timeout = e.Interval, e.ScrapeTimeout
	}
	return interval, timeout
}
