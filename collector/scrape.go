package collector

import (
	"context"
	"fmt"
	"sync"
	"time"

	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

// scrape is what the queries of one scrape share.
type scrape struct {
	*Collector
	ctx context.Context
	now time.Time
	api influx.API

	proofs [2]proof // by source
}

// begin asks who answers, on which the form of the credentials and the API depend, and
// returns what the queries of one scrape share. Whether that fails or not, the queries
// say what matters.
func (c *Collector) begin(ctx context.Context) (*scrape, influx.Server) {
	server, _ := c.Database.Identify(ctx)
	return &scrape{Collector: c, ctx: ctx, now: c.Now(), api: c.Database.API()}, server
}

// proof is what is known of the fields of a measurement, asked for at most once.
type proof struct {
	once   sync.Once
	fields map[string]string
	err    error
}

// span is the range of time that a source's figures are about.
func (s *scrape) span(from source) ranges.Range {
	if from == telemetry {
		return s.lookback(s.now)
	}
	return ranges.All
}

func (c *Collector) lookback(now time.Time) ranges.Range {
	return ranges.Range{From: now.Add(-c.TelemetryLookback).UnixNano(), To: now.UnixNano() + 1}
}

func (s *scrape) measurement(from source) string {
	if from == telemetry {
		return s.TelemetryMeasurement
	}
	return s.DumpsMeasurement
}

// prove returns nil when the measurement exists and has the fields (any, when none
// is named), so that an empty answer means that there is nothing. It lists fields
// of any age: recordings of all servers, "fields" in no-rows-in-range.
func (s *scrape) prove(from source, fields []string) error {
	p := &s.proofs[from]
	p.once.Do(func() {
		// Contained here, as to those who come later a Once that panicked has been done.
		p.err = contain(func() (err error) { p.fields, err = s.fields(s.ctx, s.measurement(from)); return err })
	})
	if p.err != nil {
		return fmt.Errorf("asking for the fields of %q: %w", s.measurement(from), p.err)
	}
	if len(p.fields) == 0 {
		return fmt.Errorf("%w: there is no measurement %q in the database", errMeasurementMissing, s.measurement(from))
	}
	for _, field := range fields {
		if _, ok := p.fields[field]; !ok {
			return fmt.Errorf("%w: the measurement %q has no field %q", errFieldMissing, s.measurement(from), field)
		}
	}
	return nil
}

// fields returns the type of each field of a measurement, of any age, by name; none
// where there is no such measurement.
func (c *Collector) fields(ctx context.Context, measurement string) (map[string]string, error) {
	fields := make(map[string]string)
	request := influx.Request{Statement: "SHOW FIELD KEYS FROM " + influx.Ident(measurement)}
	err := c.Database.Query(ctx, request, func(row influx.Row) error {
		name, err := textOf(row, "fieldKey")
		if err != nil {
			return err
		}
		fields[name], err = textOf(row, "fieldType")
		return err
	})
	return fields, err
}

// textOf returns a column that must hold text.
func textOf(row influx.Row, column string) (string, error) {
	value, _ := row.Value(column)
	text, ok := value.(string)
	if !ok {
		return "", fmt.Errorf("%w: no column %q of text", influx.ErrMalformed, column)
	}
	return text, nil
}
