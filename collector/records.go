package collector

import (
	"context"
	"net/http"

	"memdump_exporter/collector/records"
	"memdump_exporter/influx"
)

// Records returns the handler of /records. It accepts offsets up to maxOffset, and up to
// maxConcurrent requests at the same time.
func (e *Exporter) Records(t Timeouts, maxOffset int64, maxConcurrent int) http.Handler {
	return records.Handler(e.records(), records.Config{
		MaxOffset: maxOffset, MaxConcurrent: maxConcurrent, Timeout: t.Of,
		Failed: func(err error) { e.logFailure(err, true, "msg", "records failed", "reason", Reason(err)) },
	})
}

// records returns the source of the records.
func (e *Exporter) records() records.Source {
	return records.Source{
		Database: e.config.Database, Measurement: e.config.DumpsMeasurement, Policy: e.config.DumpsPolicy,
		Now: e.config.Now, Accepted: e.acceptedRanges,
		Verify: func(ctx context.Context) error {
			_, err := e.checkEmpty(e.newSchemas(ctx), &query{source: dumps}, e.config.Now())
			return err
		},
	}
}

// acceptedRanges returns the time ranges for which InfluxDB accepts queries about dumps, oldest
// first; none while full queries are in use.
func (e *Exporter) acceptedRanges() []influx.TimeRange {
	h := e.histories[dumps]
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.full {
		return nil
	}
	var accepted []influx.TimeRange
	for _, r := range h.cache.Ranges() {
		accepted = append(accepted, influx.TimeRange(r))
	}
	return accepted
}
