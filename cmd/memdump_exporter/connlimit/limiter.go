// Package connlimit limits the connections that an HTTP server has open.
package connlimit

import (
	"container/list"
	"net"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxConnections is the limit; it is lower if the process may open few files. One address may
	// have peerShare quarters of it.
	maxConnections     = 2048
	peerShare          = 3
	filesPerConnection = 2
)

// Limiter limits the number of open connections. When a connection exceeds the limit, it closes the
// one that has been without a request for the longest time: a client that sends its request at once
// gets a response, however many idle connections others have. It is safe for concurrent use.
type Limiter struct {
	// Closed counts the connections that exceeded the limit.
	Closed prometheus.Counter

	max, maxOfPeer int

	mu     sync.Mutex
	open   map[net.Conn]*connection
	ofPeer map[string]int
	// waiting contains the connections without a request, the longest waiting first.
	waiting *list.List
	ending  bool
}

type connection struct {
	net.Conn
	peer   string
	waits  *list.Element // its element of waiting; nil during a request
	silent bool          // no request has been received
}

// New returns a Limiter whose limit fits the number of files that this process may open.
func New() *Limiter { return newLimiter(openFiles()) }

func newLimiter(openFiles uint64) *Limiter {
	limit := int(min(maxConnections, max(openFiles/filesPerConnection, peerShare+1)))
	return &Limiter{
		max:       limit,
		maxOfPeer: limit * peerShare / 4,
		Closed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "memdump_exporter_connections_closed_total",
			Help: "Number of connections to the exporter that were closed because there were too many.",
		}),
		open:    make(map[net.Conn]*connection),
		ofPeer:  make(map[string]int),
		waiting: list.New(),
	}
}

// ConnState follows the connections of a server; it is its http.Server.ConnState.
func (l *Limiter) ConnState(conn net.Conn, state http.ConnState) {
	l.mu.Lock()
	var surplus net.Conn
	known := l.open[conn]
	switch {
	case state == http.StateNew && l.ending:
		surplus = conn
	case state == http.StateNew:
		surplus = l.admit(conn)
	case known == nil: // closed by admit
	case state == http.StateClosed, state == http.StateHijacked:
		l.drop(known)
	case state == http.StateIdle && known.waits == nil:
		known.waits = l.waiting.PushBack(known)
	case state == http.StateActive && known.waits != nil:
		l.waiting.Remove(known.waits)
		known.waits, known.silent = nil, false
	}
	l.mu.Unlock()
	if surplus != nil {
		_ = surplus.Close()
	}
}

// admit adds a new connection. It returns the connection to close, which may be the new one.
func (l *Limiter) admit(conn net.Conn) (surplus net.Conn) {
	peer, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil { // not TCP
		peer = conn.RemoteAddr().String()
	}
	ofPeer := l.ofPeer[peer] >= l.maxOfPeer
	if ofPeer || len(l.open) >= l.max {
		l.Closed.Inc()
		longest := l.longestWaiting(peer, ofPeer)
		if longest == nil {
			return conn
		}
		l.drop(longest)
		surplus = longest.Conn
	}
	added := &connection{Conn: conn, peer: peer, silent: true}
	added.waits = l.waiting.PushBack(added)
	l.open[conn] = added
	l.ofPeer[peer]++
	return surplus
}

// longestWaiting returns the connection that has waited longest, of one peer if ofPeer is set.
func (l *Limiter) longestWaiting(peer string, ofPeer bool) *connection {
	for e := l.waiting.Front(); e != nil; e = e.Next() {
		if waits, ok := e.Value.(*connection); ok && (!ofPeer || waits.peer == peer) {
			return waits
		}
	}
	return nil
}

// drop removes a connection.
func (l *Limiter) drop(known *connection) {
	if known.waits != nil {
		l.waiting.Remove(known.waits)
	}
	delete(l.open, known.Conn)
	if l.ofPeer[known.peer]--; l.ofPeer[known.peer] == 0 {
		delete(l.ofPeer, known.peer)
	}
}

// CloseSilent closes the connections on which no request was received, such as those that browsers
// open in advance, and every new connection: http.Server.Shutdown would wait for them.
func (l *Limiter) CloseSilent() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ending = true
	for _, known := range l.open {
		if known.silent {
			_ = known.Close()
		}
	}
}
