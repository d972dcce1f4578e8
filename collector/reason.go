package collector

import (
	"context"
	"errors"

	"memdump_exporter/influx"
)

// reason is a kind of failure that the collector finds itself. It can be matched
// with errors.Is.
type reason string

func (r reason) Error() string { return string(r) }

const (
	// errMeasurementMissing: the database holds no such measurement.
	errMeasurementMissing reason = "measurement_missing"
	// errFieldMissing: the measurement has no such field.
	errFieldMissing reason = "field_missing"
	// errOutOfRange: a number that can't be true, or that 64 bits can't hold.
	errOutOfRange reason = "out_of_range"
	// errInternal: a defect in this program.
	errInternal reason = "internal"
)

// reasons returns every value of the label {reason}.
func reasons() []string {
	all := []string{string(errMeasurementMissing), string(errFieldMissing), string(errOutOfRange), string(errInternal)}
	for _, kind := range influx.Kinds() {
		all = append(all, string(kind))
	}
	return all
}

// reasonOf names an error for the label {reason}.
func reasonOf(err error) string {
	var own reason
	var kind influx.Kind
	switch {
	case errors.As(err, &own):
		return string(own)
	case errors.As(err, &kind):
		return string(kind)
	case errors.Is(err, context.DeadlineExceeded):
		return string(influx.ErrTimeout)
	case errors.Is(err, context.Canceled):
		return string(influx.ErrCanceled)
	}
	return string(errInternal)
}
