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

// proof is what is known of the fields of a measurement, asked for at most once.
type proof struct {
	once   sync.Once
	fields map[string]bool
	err    error
}

// span is the range of time that a source's figures are about.
func (s *scrape) span(from source) ranges.Range {
	if from == telemetry {
		now := s.now.UnixNano()
		return ranges.Range{From: now - s.TelemetryLookback.Nanoseconds(), To: now + 1}
	}
	return ranges.All
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
		p.fields = make(map[string]bool)
		question := influx.Question{Statement: fieldKeys(s.measurement(from))}
		p.err = s.Database.Query(s.ctx, question, func(row influx.Row) error {
			name, ok := row.Value("fieldKey")
			field, isText := name.(string)
			if !ok || !isText {
				return fmt.Errorf("%w: a field without a name", influx.ErrMalformed)
			}
			p.fields[field] = true
			return nil
		})
	})
	if p.err != nil {
		return fmt.Errorf("asking for the fields of %q: %w", s.measurement(from), p.err)
	}
	if len(p.fields) == 0 {
		return fmt.Errorf("%w: there is no measurement %q in the database", errMeasurementMissing, s.measurement(from))
	}
	for _, field := range fields {
		if !p.fields[field] {
			return fmt.Errorf("%w: the measurement %q has no field %q", errFieldMissing, s.measurement(from), field)
		}
	}
	return nil
}

// fieldKeys asks for the fields of a measurement, of any age.
func fieldKeys(measurement string) string { return "SHOW FIELD KEYS FROM " + influx.Ident(measurement) }
