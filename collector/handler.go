package collector

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// HandlerConfig configures the handler of /metrics.
type HandlerConfig struct {
	// Self has the metrics about the process.
	Self *prometheus.Registry
	Timeouts
	// ErrorLog receives encoding errors.
	ErrorLog promhttp.Logger
}

// Timeouts limit the duration of a request to the exporter.
type Timeouts struct {
	// Default is the timeout of a request that announces none.
	Default time.Duration
	// Offset is the time between the start of the response and the announced timeout, so that
	// the response arrives in time.
	Offset time.Duration
}

// timeoutHeader is the header in which Prometheus announces the timeout of a scrape, in seconds.
// https://github.com/prometheus/prometheus/blob/main/scrape/scrape.go
const timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"

// Of returns how long the queries of a request may take: the announced timeout without the
// offset, but at least half of it. An invalid header counts as absent, and a timeout of more than
// a day as a day.
func (t Timeouts) Of(header http.Header) time.Duration {
	announced := t.Default
	if seconds, _ := strconv.ParseFloat(header.Get(timeoutHeader), 64); seconds > 0 && !math.IsInf(seconds, 0) {
		announced = time.Duration(math.Min(seconds, day.Seconds()) * float64(time.Second))
	}
	return max(announced-t.Offset, announced/2)
}

const (
	// maxJoin limits the age of a batch that a scrape joins, and the time between the deadline of
	// the batch and the later one of the scrape.
	maxJoin = time.Second
	// writeGrace is how long after its deadline a response may still be written: a client may
	// read slowly.
	writeGrace = 5 * time.Second
	// maxEncodings limits the encoded responses that a batch stores.
	maxEncodings = 8
)

// Handler returns the handler of /metrics. It responds with status 200, whatever InfluxDB does,
// and shortly before the scrape timeout at the latest.
func (e *Exporter) Handler(c HandlerConfig) http.Handler {
	return promhttp.InstrumentMetricHandler(c.Self, &handler{exporter: e, config: c})
}

type handler struct {
	exporter *Exporter
	config   HandlerConfig

	mu      sync.Mutex
	current *batch // the latest; nil before the first scrape
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	timeout := h.config.Of(r.Header)
	// The error means that the writer has no connection, as in a test.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(timeout + writeGrace))
	b := h.join(time.Now().Add(timeout))
	select {
	case <-b.done:
		h.encode(b, r).writeTo(w)
	case <-r.Context().Done():
		h.leave(b)
	}
}

// join returns a batch for a scrape with a deadline: the running one if it is joinable, otherwise
// a new one.
func (h *handler) join(deadline time.Time) *batch {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.current; b != nil && b.joinable(deadline) {
		h.exporter.joined.Inc()
		b.scrapers++
		return b
	}
	b := h.exporter.newBatch(h.exporter.ctx, deadline)
	b.scrapers = 1
	h.current = b
	go b.execute(h.exporter.record, func() {})
	return b
}

// leave ends a batch when its last scraper has left, but not before the default timeout: a full
// query that takes longer than the scrapers wait would otherwise never give way to the history.
func (h *handler) leave(b *batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b.scrapers--; b.scrapers > 0 {
		return
	}
	time.AfterFunc(h.config.Default-time.Since(b.began), func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if b.scrapers == 0 {
			b.cancel()
		}
	})
}

// joinable reports whether a scrape with a deadline may share the batch.
func (b *batch) joinable(deadline time.Time) bool {
	select {
	case <-b.done:
		return false
	default:
	}
	ends, _ := b.ctx.Deadline()
	return time.Since(b.began) < maxJoin && !ends.After(deadline) && deadline.Sub(ends) <= maxJoin
}

// encodings are the encoded responses of a batch, by everything that they depend on.
type encodings struct {
	mu  sync.Mutex
	all map[encodingKey]func() *encoded
}

// encodingKey is what promhttp reads of a request.
type encodingKey struct{ accept, acceptEncoding, names string }

// encode returns the response to a request. It is encoded once for all requests with the same key.
func (h *handler) encode(b *batch, r *http.Request) *encoded {
	key := encodingKey{
		accept:         strings.Join(r.Header.Values("Accept"), ","),
		acceptEncoding: strings.Join(r.Header.Values("Accept-Encoding"), ","),
		names:          url.Values{"name[]": r.URL.Query()["name[]"]}.Encode(),
	}
	b.encoded.mu.Lock()
	encode, ok := b.encoded.all[key]
	if !ok {
		encode = sync.OnceValue(func() *encoded { return h.encodeOnce(b, key) })
		if b.encoded.all == nil {
			b.encoded.all = make(map[encodingKey]func() *encoded)
		}
		if len(b.encoded.all) < maxEncodings {
			b.encoded.all[key] = encode
		}
	}
	b.encoded.mu.Unlock()
	return encode()
}

// encodeOnce encodes the snapshot of a batch. It passes a request to promhttp that contains the
// key and nothing else, so that the response depends on nothing else.
func (h *handler) encodeOnce(b *batch, key encodingKey) *encoded {
	response := &encoded{header: make(http.Header), status: http.StatusOK}
	err := contain(func() error {
		registry := prometheus.NewRegistry()
		registry.MustRegister(snapshot{b})
		request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "/?"+key.names, nil)
		if err != nil {
			return fmt.Errorf("encode the metrics: %w", err)
		}
		request.Header.Set("Accept", key.accept)
		request.Header.Set("Accept-Encoding", key.acceptEncoding)
		promhttp.HandlerFor(prometheus.Gatherers{h.config.Self, registry}, promhttp.HandlerOpts{
			ErrorLog:          h.config.ErrorLog,
			ErrorHandling:     promhttp.ContinueOnError,
			Registry:          h.config.Self,
			EnableOpenMetrics: true,
		}).ServeHTTP(response, request)
		return nil
	})
	if err != nil {
		h.exporter.logFailure(err, true, "msg", "encoding the metrics failed")
		response = &encoded{header: make(http.Header)}
		http.Error(response, defectText, http.StatusInternalServerError)
	}
	return response
}

// encoded is a complete response, which any number of scrapes share. It implements
// http.ResponseWriter.
type encoded struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (e *encoded) Header() http.Header         { return e.header }
func (e *encoded) WriteHeader(status int)      { e.status = status }
func (e *encoded) Write(p []byte) (int, error) { return e.body.Write(p) }

func (e *encoded) writeTo(w http.ResponseWriter) {
	for name, values := range e.header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", strconv.Itoa(e.body.Len()))
	w.WriteHeader(e.status)
	_, _ = w.Write(e.body.Bytes()) // the error means that the scraper has left
}
