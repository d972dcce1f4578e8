package influx

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	// DefaultMaxConcurrency is the default of Config.MaxConcurrency.
	DefaultMaxConcurrency = 6
	// DefaultMaxBytes is the default of Request.MaxBytes.
	DefaultMaxBytes = 1 << 20
	// maxErrorBody limits what is read of a response other than 200, in bytes.
	maxErrorBody = 4 << 10
	// maxHeldBytes limits what is read, and held in memory, before a row is complete, in bytes.
	maxHeldBytes = 1 << 20
	// maxConnAge limits the age of a connection at the start of a request.
	maxConnAge = 5 * time.Minute
)

// Transport sends HTTP/1.1 requests with limits on everything but the duration of a request,
// which its context limits. It ignores the proxies of the environment, so that a stray HTTP_PROXY
// never receives the token. No request uses a connection older than five minutes, so that a new
// address of the host takes effect within that time.
//
// net/http never closes a connection that is used often. A Transport therefore replaces the
// http.Transport below it, which then closes each connection when it is idle. A request in flight
// is not interrupted, and no timer or goroutine is needed.
type Transport struct {
	// MaxConns limits the connections to a host. It must not change after the first request.
	MaxConns int
	// Proxy is the HTTP proxy of all requests; nil means none. It must not change after the first
	// request.
	Proxy *url.URL

	config *tls.Config
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	now    func() time.Time

	mu      sync.Mutex
	current *http.Transport
	since   time.Time // of current
}

// NewTransport returns a Transport for DefaultMaxConcurrency connections. A nil configuration
// verifies servers against the system's certificates.
func NewTransport(config *tls.Config) *Transport {
	dialer := &net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}
	return &Transport{MaxConns: DefaultMaxConcurrency, config: config, dial: dialer.DialContext, now: time.Now}
}

// RoundTrip sends a request.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.renew().RoundTrip(req)
}

// CloseIdleConnections closes the connections without a request.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current != nil {
		t.current.CloseIdleConnections()
	}
}

// renew returns the http.Transport for a request: a new one if connections of the current one may
// be too old.
func (t *Transport) renew() *http.Transport {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if t.current != nil && now.Sub(t.since) < maxConnAge {
		return t.current
	}
	if t.current != nil {
		t.current.CloseIdleConnections() // closes those in use later, when they become idle
	}
	t.since = now
	t.current = &http.Transport{
		DialContext:            t.dial,
		TLSClientConfig:        t.config,
		TLSHandshakeTimeout:    2 * time.Second,
		MaxConnsPerHost:        t.MaxConns,
		MaxIdleConnsPerHost:    t.MaxConns,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
	if t.Proxy != nil {
		t.current.Proxy = http.ProxyURL(t.Proxy)
		t.current.OnProxyConnectResponse = checkConnect
	}
	return t.current
}

// checkConnect returns ErrProxy where a proxy refuses to connect to InfluxDB.
func checkConnect(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	return &Error{Kind: ErrProxy, Status: resp.StatusCode, Err: errors.New("the proxy did not connect to InfluxDB")}
}

// slots limits the requests in flight. It holds an element for each.
type slots chan struct{}

// errNoSlot: the context ended before the request was sent.
var errNoSlot = errors.New("waiting for an earlier request to end")

// acquire waits for a slot, until the context ends.
func (s slots) acquire(ctx context.Context) error {
	select {
	case s <- struct{}{}:
		return nil
	default:
	}
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		cause := context.Cause(ctx)
		return &Error{Kind: waitKind(cause, ErrCanceled), Err: fmt.Errorf("%w (limit: %d): %w", errNoSlot, cap(s), cause)}
	}
}

func (s slots) release() { <-s }

// limitedReader limits a response to left bytes, and each row to hold bytes. It fails with
// ErrTooLarge beyond, so that a truncated response is never taken for a complete one. It rejects
// text that is not UTF-8, because encoding/json replaces different invalid names by the same one.
type limitedReader struct {
	r          io.Reader
	left, hold int64 // both decrease while bytes are read; the decoder resets hold at each row
	text       utf8Check
	err        error // sticky: json.Decoder.More ignores an error and reads again
}

func (b *limitedReader) Read(p []byte) (n int, err error) {
	if b.err == nil {
		n, b.err = b.read(p)
	}
	return n, b.err
}

func (b *limitedReader) read(p []byte) (int, error) {
	limit := min(b.left, b.hold)
	if limit <= 0 {
		if n, err := b.r.Read(p[:1]); n == 0 {
			return 0, err
		}
		return 0, &Error{Kind: ErrTooLarge, Err: errors.New("the response exceeds the limit of the request")}
	}
	n, err := b.r.Read(p[:min(int64(len(p)), limit)])
	b.left -= int64(n)
	b.hold -= int64(n)
	if !b.text.valid(p[:n]) {
		return 0, malformed("the response is not UTF-8")
	}
	return n, err
}

// utf8Check validates a text that arrives in pieces.
type utf8Check struct{ cut []byte } // incomplete rune at the end of the latest piece

func (c *utf8Check) valid(piece []byte) bool {
	for len(c.cut) > 0 && len(piece) > 0 {
		c.cut, piece = append(c.cut, piece[0]), piece[1:]
		if !utf8.FullRune(c.cut) {
			continue
		}
		if !utf8.Valid(c.cut) {
			return false
		}
		c.cut = c.cut[:0]
	}
	for i := len(piece) - 1; i >= max(0, len(piece)-utf8.UTFMax); i-- {
		if utf8.RuneStart(piece[i]) {
			if !utf8.FullRune(piece[i:]) {
				c.cut, piece = append(c.cut, piece[i:]...), piece[:i]
			}
			break
		}
	}
	return utf8.Valid(piece)
}
