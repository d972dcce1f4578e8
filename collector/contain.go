package collector

import (
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
)

// contain makes a panic an error, as the goroutine that it happens in would end the
// process.
func contain(do func() error) (err error) {
	defer func() {
		recovered := recover()
		switch {
		case recovered == http.ErrAbortHandler: //nolint:errorlint // as net/http compares it
			err = http.ErrAbortHandler
		case recovered != nil:
			err = &panicError{value: fmt.Sprint(recovered), stack: debug.Stack()}
		}
	}()
	return do()
}

// panicError is a panic: a defect in this program.
type panicError struct {
	value string
	stack []byte
}

// Error leaves the panic's own words, which may hold anything, to the log.
func (e *panicError) Error() string { return fmt.Sprintf("%v: %s", errInternal, defectText) }

const defectText = "a defect of the exporter: its log says more"

// Contain makes a panic in a handler one failed request: counted, logged with its
// stack, and answered with 500, or with a cut connection where an answer had begun.
func (c *Collector) Contain(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := &beganWriter{ResponseWriter: w}
		err := contain(func() error {
			next.ServeHTTP(began, r)
			return nil
		})
		if err == nil {
			return
		}
		if !errors.Is(err, http.ErrAbortHandler) {
			c.logFailure(err, true, "msg", "answering failed", "path", fmt.Sprintf("%.100s", r.URL.Path))
		}
		if began.yes || errors.Is(err, http.ErrAbortHandler) {
			panic(http.ErrAbortHandler)
		}
		http.Error(w, defectText, http.StatusInternalServerError)
	})
}

// beganWriter tells whether an answer has begun.
type beganWriter struct {
	http.ResponseWriter
	yes bool
}

func (w *beganWriter) WriteHeader(status int) {
	w.yes = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *beganWriter) Write(p []byte) (int, error) {
	w.yes = true
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *beganWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
