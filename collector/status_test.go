package collector

import (
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log/level"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// TestStatus_log: a failure is logged when it begins, when its reason changes, every hour while it
// continues, and when it ends, but not at each scrape.
func TestStatus_log(t *testing.T) {
	const failed = "level=error msg=\"query failed\" reason=%reason% in_a_row=%n% query=compressed_bytes took=0s ranges=1 err=%err%\n"
	line := strings.NewReplacer
	var logged lines
	now := newClock(recordedNow)
	m := newMemory(t)
	body := ""
	m.respond = func(statement string) string {
		if strings.Contains(statement, sumOfBytes) {
			return body
		}
		return ""
	}
	e := m.exporter(t, at(now), func(c *Config) { c.Logger = level.NewFilter(&logged, level.AllowInfo()) })
	const refused = `"refused: the server returned \"not executed\""`
	for _, step := range []struct {
		scrapes int
		body    string
		want    string
	}{
		{1, "", ""},
		{61, rejected, line("%reason%", "refused", "%n%", "1", "%err%", refused).Replace(failed) +
			line("%reason%", "refused", "%n%", "61", "%err%", refused).Replace(failed)},
		{2, `{"results":[{"partial":true}]}`, line("%reason%", "truncated", "%n%", "1",
			"%err%", `"truncated: the response is marked as partial"`).Replace(failed)},
		{2, "", "level=info msg=\"query succeeds again\" after_failures=2 query=compressed_bytes took=0s ranges=1\n"},
		{2, "", ""},
		{2, `{"results":[{"error":"a\nlevel=info msg=forged"}]}`, line("%reason%", "refused", "%n%", "1",
			"%err%", `"refused: the server returned \"a\\nlevel=info msg=forged\""`).Replace(failed)},
	} {
		body = step.body
		begin := len(logged.String())
		for range step.scrapes {
			scrape(t, e)
			now.set(now.Now().Add(time.Minute))
		}
		got := ""
		for line := range strings.Lines(logged.String()[begin:]) {
			if strings.Contains(line, "query=compressed_bytes") { // the telemetry is of one time
				got += line
			}
		}
		if got != step.want {
			t.Errorf("%d scrapes with %q\n got: %s\nwant: %s", step.scrapes, step.body, got, step.want)
		}
	}
}

// TestStatuses: the last result of each query, in the order of the table.
func TestStatuses(t *testing.T) {
	m := newMemory(t)
	fails := false
	m.respond = func(statement string) string {
		if fails && strings.Contains(statement, sumOfBytes) {
			return rejected
		}
		return ""
	}
	now := newClock(time.Now())
	e := m.exporter(t, at(now))
	for i, status := range e.Statuses() {
		if status.Query != e.queries[i].name || status.Ran {
			t.Errorf("before the first scrape: %+v", status)
		}
	}
	scrape(t, e)
	for _, status := range e.Statuses() {
		if !status.Ran || status.Err != nil || status.Reason != "" || status.Ranges != 1 || !status.At.Equal(now.Now()) {
			t.Errorf("after a scrape: %+v", status)
		}
	}
	fails = true
	now.set(now.Now().Add(time.Minute))
	scrape(t, e)
	for _, status := range e.Statuses() {
		wantReason := ""
		if status.Query == "compressed_bytes" {
			wantReason = "refused"
		}
		if status.Reason != wantReason || (status.Err != nil) != (wantReason != "") || status.Ranges != 1 || !status.At.Equal(now.Now()) {
			t.Errorf("after a failure: %+v", status)
		}
	}
}

// TestStatus_inspection: the metrics about queries do not count inspections.
func TestStatus_inspection(t *testing.T) {
	fake := &influxtest.Fake{} // without a measurement
	e := newExporter(t, newClientOver(t, fake, influx.Config{}))
	ctx, cancel := contextWithin(t, time.Minute)
	defer cancel()
	for _, q := range e.Inspect(ctx).Queries {
		if q.Reason != "measurement_missing" {
			t.Errorf("%s: %v", q.Query, q.Err)
		}
	}
	for _, status := range e.Statuses() {
		if status.Ran {
			t.Errorf("%s counts as a scrape", status.Query)
		}
	}
	scrape(t, e).wantValue(t, 1, "memdump_query_errors_total", "query", "dumps", "reason", "measurement_missing")
}
