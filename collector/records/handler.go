package records

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"memdump_exporter/influx"
)

// Config configures the handler.
type Config struct {
	// MaxOffset is the largest accepted offset.
	MaxOffset int64
	// MaxConcurrent limits the requests that query InfluxDB at the same time.
	MaxConcurrent int
	// Timeout returns the timeout of a request with these headers.
	Timeout func(http.Header) time.Duration
	// Failed is called with each failure of InfluxDB.
	Failed func(error)
}

// writeGrace is the time that a client has to read the response.
const writeGrace = 5 * time.Second

// Handler serves the records of a source as JSON. It sends a page when it is complete, so a
// failure of InfluxDB is an HTTP status and never an incomplete page.
func Handler(s Source, c Config) http.Handler {
	slots := make(chan struct{}, c.MaxConcurrent)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, err := parseQuery(r.URL.RawQuery, c.MaxOffset)
		if err != nil {
			writeError(w, http.StatusBadRequest, err.Error())
			return
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			w.Header().Set("Retry-After", "1")
			writeError(w, http.StatusServiceUnavailable, fmt.Sprintf("%d requests for records are running: try again in a second", c.MaxConcurrent))
			return
		}
		timeout := c.Timeout(r.Header)
		// It fails if the writer has no connection, as in a test.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(timeout + writeGrace))
		ctx, cancel := context.WithTimeout(r.Context(), timeout)
		defer cancel()
		p := page{query: q}
		if err := p.fill(s.List(ctx, q)); err != nil {
			c.Failed(err)
			status := http.StatusBadGateway
			if errors.Is(err, influx.ErrTimeout) {
				status = http.StatusGatewayTimeout
			}
			writeError(w, status, err.Error())
			return
		}
		if next := p.end(); next != "" {
			w.Header().Set("Link", "<"+next+`>; rel="next"`)
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(p.body.Len()))
		_, _ = p.body.WriteTo(w)
	})
}

func writeError(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": text})
}
