package collector

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"

	"memdump_exporter/influx"
)

// reason is a kind of failure that this package detects. It is an error, for errors.Is.
type reason string

func (r reason) Error() string { return string(r) }

const (
	// errMeasurementMissing: the database has no such measurement.
	errMeasurementMissing reason = "measurement_missing"
	// errFieldMissing: the measurement has no such field.
	errFieldMissing reason = "field_missing"
	// errTagMissing: the measurement has no such tag.
	errTagMissing reason = "tag_missing"
	// errTypeConflict: a field has values of several types, of which InfluxDB reads one, or of a
	// type that the query can't read.
	errTypeConflict reason = "type_conflict"
	// errOutOfRange: a value is impossible, or exceeds 64 bits.
	errOutOfRange reason = "out_of_range"
	// errLoading: the history is not loaded yet.
	errLoading reason = "loading"
	// errInternal: the exporter has a defect.
	errInternal reason = "internal"
)

// reasons returns every value of the label reason.
func reasons() []string {
	var all []string
	for _, own := range []reason{
		errMeasurementMissing, errFieldMissing, errTagMissing, errTypeConflict, errOutOfRange, errLoading, errInternal,
	} {
		all = append(all, string(own))
	}
	for _, kind := range influx.Kinds() {
		all = append(all, string(kind))
	}
	return all
}

// Reason returns the value of the label reason for an error.
func Reason(err error) string {
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

// contain calls do and converts a panic into an error. An unrecovered panic in any goroutine ends
// the process.
func contain(do func() error) (err error) {
	defer func() {
		recovered := recover()
		switch {
		case recovered == http.ErrAbortHandler: //nolint:errorlint // net/http compares it in the same way
			err = http.ErrAbortHandler
		case recovered != nil:
			err = &panicError{value: fmt.Sprint(recovered), stack: debug.Stack()}
		}
	}()
	return do()
}

// panicError is a recovered panic.
type panicError struct {
	value string
	stack []byte
}

const defectText = "a defect of the exporter: its log has the details"

// Error omits the value of the panic, which may be of any content. Only the log has it.
func (e *panicError) Error() string { return fmt.Sprintf("%v: %s", errInternal, defectText) }

// Contain limits a panic in a handler to its request: it counts the panic, logs it with its
// stack, and responds with 500, or closes the connection if a response has begun.
func (e *Exporter) Contain(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writer := &begunWriter{ResponseWriter: w}
		err := contain(func() error {
			next.ServeHTTP(writer, r)
			return nil
		})
		if err == nil {
			return
		}
		if !errors.Is(err, http.ErrAbortHandler) {
			e.logFailure(err, true, "msg", "request failed", "path", fmt.Sprintf("%.100s", r.URL.Path))
		}
		if writer.begun || errors.Is(err, http.ErrAbortHandler) {
			panic(http.ErrAbortHandler)
		}
		http.Error(w, defectText, http.StatusInternalServerError)
	})
}

// begunWriter records whether a response has begun.
type begunWriter struct {
	http.ResponseWriter
	begun bool
}

func (w *begunWriter) WriteHeader(status int) {
	w.begun = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *begunWriter) Write(p []byte) (int, error) {
	w.begun = true
	return w.ResponseWriter.Write(p)
}

// Unwrap returns the writer below, for http.ResponseController.
func (w *begunWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
