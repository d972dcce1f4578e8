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

// HandlerConfig is how /metrics is served.
type HandlerConfig struct {
	// Self has the metrics about the process, the same in each scrape.
	Self *prometheus.Registry
	Timeouts
	// ErrorLog receives the errors of encoding.
	ErrorLog promhttp.Logger
}

// Timeouts bound a request to the exporter.
type Timeouts struct {
	// Default bounds a scrape that announces no timeout.
	Default time.Duration
	// Offset is how much before the announced timeout the response begins, so that it
	// arrives in time.
	Offset time.Duration
}

// timeoutHeader is set by Prometheus on each scrape, in seconds.
// https://github.com/prometheus/prometheus/blob/main/scrape/scrape.go
const timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"

// Of returns how long the queries of a request may take. A header that is no time counts as
// absent, and a short announced timeout leaves half of it.
func (t Timeouts) Of(header http.Header) time.Duration {
	announced := t.Default
	if seconds, _ := strconv.ParseFloat(header.Get(timeoutHeader), 64); seconds > 0 && !math.IsInf(seconds, 0) {
		announced = time.Duration(math.Min(seconds, day.Seconds()) * float64(time.Second))
	}
	return max(announced-t.Offset, announced/2)
}

const (
	// joinWithin is how young a batch must be for a scrape to join it, and how much earlier
	// than the scrape's its deadline may be.
	joinWithin = time.Second
	// writeGrace is how long a client may take to read a response.
	writeGrace = 5 * time.Second
	// maxEncodings limits the encoded responses that a batch stores.
	maxEncodings = 8
)

// Handler serves /metrics: always 200 while the exporter can respond, whatever InfluxDB does,
// shortly before the scrape timeout.
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
	// It fails where the writer has no connection, as in a test.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(timeout + writeGrace))
	b := h.join(time.Now().Add(timeout))
	select {
	case <-b.done:
		h.encode(b, r).writeTo(w)
	case <-r.Context().Done():
		h.leave(b)
	}
}

// join returns a batch for a scrape with a deadline: the running one, or a new one.
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
	return time.Since(b.began) < joinWithin && !ends.After(deadline) && deadline.Sub(ends) <= joinWithin
}

// encodings are the encoded responses of a batch, by all that they depend on.
type encodings struct {
	mu  sync.Mutex
	all map[encodingKey]func() *encoded
}

// encodingKey is what promhttp reads of a request.
type encodingKey struct{ accept, acceptEncoding, names string }

// encode returns the response to a request, encoded once for all that get the same.
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

// encodeOnce encodes the snapshot of a batch. The request that it gives to promhttp has what
// the key has, and nothing else.
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

// encoded is a whole response, shared by any number of scrapes. It is an http.ResponseWriter.
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
	_, _ = w.Write(e.body.Bytes()) // fails when the scraper has left
}
