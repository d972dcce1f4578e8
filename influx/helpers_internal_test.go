package influx

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
)

// canary is a token that must not be in any error.
const canary = "t0p-s3cr3t-c4n4ry"

// server is one in memory that sends the same bytes for each request.
type server struct {
	raw  []byte
	hold bool // do not close the connection after them

	mu       sync.Mutex
	hosts    []string // dialled
	requests int
	open     sync.WaitGroup // connections
}

// client returns a client of the server over the real transport, and a function that closes it.
func (s *server) client(tb testing.TB) (*Client, func()) {
	tb.Helper()
	transport := NewTransport(nil)
	transport.dial = func(_ context.Context, _, host string) (net.Conn, error) {
		near, far := net.Pipe()
		s.mu.Lock()
		s.hosts = append(s.hosts, host)
		s.mu.Unlock()
		s.open.Go(func() { s.serve(far) })
		return near, nil
	}
	token := func() (string, error) { return canary, nil }
	client, err := New(Config{URL: "http://influxdb.test", Database: "db", Transport: transport, Token: token})
	if err != nil {
		tb.Fatal(err)
	}
	return client, transport.CloseIdleConnections
}

func (s *server) serve(conn net.Conn) {
	defer conn.Close()
	requests := bufio.NewReader(conn)
	for {
		if _, err := http.ReadRequest(requests); err != nil {
			return
		}
		s.mu.Lock()
		s.requests++
		s.mu.Unlock()
		if _, err := conn.Write(s.raw); err != nil || !s.hold {
			return
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

// host is one of the addresses that a name may have.
type host struct {
	*httptest.Server
	connections atomic.Int64
	closed      chan struct{} // one element for each closed connection
	hold        chan struct{} // requests of /hold wait for it
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{closed: make(chan struct{}, 10), hold: make(chan struct{})}
	h.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-h.hold
		}
		_, _ = io.WriteString(w, h.Listener.Addr().String())
	}))
	h.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			h.connections.Add(1)
		case http.StateClosed:
			h.closed <- struct{}{}
		}
	}
	h.Start()
	t.Cleanup(h.Close)
	return h
}
