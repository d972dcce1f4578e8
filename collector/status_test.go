package collector_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"memdump_exporter/collector"
	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

// TestLog: a failure is logged when it begins, when its reason changes, once an hour
// while it goes on, and when it ends; never once for each scrape.
func TestLog(t *testing.T) {
	var failure error
	var lines bytes.Buffer
	c := &clock{recordedNow}
	db := newFake(t, func(_ context.Context, statement string) (bool, error) {
		return failure != nil && strings.Contains(statement, sumOfBytes), failure
	})
	col := collector.New(collector.Config{
		Database: db, DumpsMeasurement: "mem_dumps", TelemetryMeasurement: "vm_info", TelemetryLookback: 24 * time.Hour, Ranges: ranges.Whole,
		Logger: level.NewFilter(log.NewLogfmtLogger(&lines), level.AllowInfo()), Now: func() time.Time { return c.now },
	})
	for _, step := range []struct {
		scrapes int
		failure error
		want    string
	}{
		{1, nil, ""},
		{61, &influx.Error{Kind: influx.ErrServer, Text: "\"a\nb\""}, `level=error msg="query failed" reason=server_error in_a_row=1 query=compressed_bytes took=0s ranges=1 err="server_error: the server returned \"a\nb\""
level=error msg="query failed" reason=server_error in_a_row=61 query=compressed_bytes took=0s ranges=1 err="server_error: the server returned \"a\nb\""
`},
		{2, &influx.Error{Kind: influx.ErrTruncated}, `level=error msg="query failed" reason=truncated in_a_row=1 query=compressed_bytes took=0s ranges=1 err=truncated
`},
		{2, nil, `level=info msg="query succeeds again" after_failures=2 query=compressed_bytes took=0s ranges=1
`},
		{2, &influx.Error{Kind: influx.ErrCanceled}, ""},
		{2, nil, ""},
	} {
		failure = step.failure
		lines.Reset()
		for range step.scrapes {
			scrape(t, col)
			c.now = c.now.Add(time.Minute)
		}
		got := ""
		for line := range strings.Lines(lines.String()) {
			if strings.Contains(line, "query=compressed_bytes") { // the telemetry of other times is not recorded
				got += line
			}
		}
		if got != step.want {
			t.Errorf("%v\n got: %s\nwant: %s", step.failure, got, step.want)
		}
	}
}
