package main

import (
	"bytes"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// mostWaitingLines wait to be written before further ones are dropped.
	mostWaitingLines = 256
	// lastLinesGrace is how long the end of the process waits for them.
	lastLinesGrace = time.Second
)

// logWriter hands lines on without ever waiting for who reads them: a journal that is
// stuck, or a pipe that nobody empties, must not hold up a scrape.
type logWriter struct {
	lines   chan []byte
	ending  chan struct{}
	written chan struct{} // closed when, at the end, no line is left
	dropped prometheus.Counter
}

func newLogWriter(to io.Writer) *logWriter {
	w := &logWriter{
		lines:   make(chan []byte, mostWaitingLines),
		ending:  make(chan struct{}),
		written: make(chan struct{}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "memdump_exporter_log_lines_dropped_total",
			Help: "Lines of the log that were dropped because nobody read standard error.",
		}),
	}
	go w.run(to)
	return w
}

func (w *logWriter) run(to io.Writer) {
	defer close(w.written)
	for {
		select {
		case line := <-w.lines:
			_, _ = to.Write(line) // there is nobody left to tell
		case <-w.ending:
			for len(w.lines) > 0 {
				_, _ = to.Write(<-w.lines)
			}
			return
		}
	}
}

func (w *logWriter) Write(line []byte) (int, error) {
	select {
	case w.lines <- bytes.Clone(line):
	default:
		w.dropped.Inc()
	}
	return len(line), nil
}

// end writes what waits. What comes later is lost.
func (w *logWriter) end() {
	close(w.ending)
	select {
	case <-w.written:
	case <-time.After(lastLinesGrace):
	}
}
