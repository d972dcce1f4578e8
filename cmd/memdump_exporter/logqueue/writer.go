// Package logqueue writes a log without waiting for its reader.
package logqueue

import (
	"bytes"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxLines limits the queue; further lines are dropped.
	maxLines = 256
	// closeTimeout limits how long Close waits for the queue to be written.
	closeTimeout = time.Second
)

// Writer is an io.Writer that queues lines: a journal that hangs, or a pipe that nobody reads, must
// not delay a scrape. It is safe for concurrent use.
type Writer struct {
	// Dropped counts the lines that did not fit into the queue.
	Dropped prometheus.Counter

	lines   chan []byte
	ending  chan struct{}
	written chan struct{} // closed when the queue has been written after Close
}

// New returns a Writer that writes to another one. The caller must close it.
func New(to io.Writer) *Writer {
	w := &Writer{
		lines:   make(chan []byte, maxLines),
		ending:  make(chan struct{}),
		written: make(chan struct{}),
		Dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "memdump_exporter_log_lines_dropped_total",
			Help: "Number of log lines that were dropped because nobody read standard error.",
		}),
	}
	go w.run(to)
	return w
}

func (w *Writer) run(to io.Writer) {
	defer close(w.written)
	for {
		select {
		case line := <-w.lines:
			_, _ = to.Write(line) // an error of the log has no other place to be reported
		case <-w.ending:
			for len(w.lines) > 0 {
				_, _ = to.Write(<-w.lines)
			}
			return
		}
	}
}

// Write queues a line, or drops it. It never fails.
func (w *Writer) Write(line []byte) (int, error) {
	select {
	case w.lines <- bytes.Clone(line):
	default:
		w.Dropped.Inc()
	}
	return len(line), nil
}

// Close writes the queue, for at most a second. It loses later lines.
func (w *Writer) Close() {
	close(w.ending)
	select {
	case <-w.written:
	case <-time.After(closeTimeout):
	}
}
