package main

import (
	"container/list"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// mostConnections are open at once, fewer where the limit of open files is low; so
	// many of four may be of one peer's address.
	mostConnections    = 2048
	peerSharePerFour   = 3
	filesPerConnection = 2
)

// connections bounds how many connections are open. In place of one too many, the
// longest waiting one is closed: whoever sends its request at once is answered,
// however many others hold connections on which nothing comes.
type connections struct {
	most, mostOfPeer int
	closed           prometheus.Counter

	mu     sync.Mutex
	open   map[net.Conn]*connection
	ofPeer map[string]int
	// waiting are the connections without a request, the longest waiting first.
	waiting *list.List
	ending  bool
}

type connection struct {
	net.Conn
	peer   string
	waits  *list.Element // nil while a request is answered
	silent bool          // no request has come yet
}

func newConnections(openFiles uint64) *connections {
	most := int(min(mostConnections, max(openFiles/filesPerConnection, peerSharePerFour+1)))
	return &connections{
		most:       most,
		mostOfPeer: most * peerSharePerFour / 4,
		closed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "memdump_exporter_connections_closed_total",
			Help: "Connections to the exporter that were closed because there were too many; those without a request go first.",
		}),
		open:    make(map[net.Conn]*connection),
		ofPeer:  make(map[string]int),
		waiting: list.New(),
	}
}

// note is the hook http.Server.ConnState.
func (c *connections) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	var surplus net.Conn
	known := c.open[conn]
	switch {
	case state == http.StateNew && c.ending:
		surplus = conn
	case state == http.StateNew:
		surplus = c.admit(conn)
	case known == nil: // closed in place of another
	case state == http.StateClosed, state == http.StateHijacked:
		c.drop(known)
	case state == http.StateIdle && known.waits == nil:
		known.waits = c.waiting.PushBack(known)
	case state == http.StateActive && known.waits != nil:
		c.waiting.Remove(known.waits)
		known.waits, known.silent = nil, false
	}
	c.mu.Unlock()
	if surplus != nil {
		_ = surplus.Close()
	}
}

// admit takes a new connection, and returns the one to close in its place.
func (c *connections) admit(conn net.Conn) (surplus net.Conn) {
	peer, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil { // not TCP
		peer = conn.RemoteAddr().String()
	}
	ofPeer := c.ofPeer[peer] >= c.mostOfPeer
	if ofPeer || len(c.open) >= c.most {
		c.closed.Inc()
		longest := c.longestWaiting(peer, ofPeer)
		if longest == nil {
			return conn
		}
		c.drop(longest)
		surplus = longest.Conn
	}
	taken := &connection{Conn: conn, peer: peer, silent: true}
	taken.waits = c.waiting.PushBack(taken)
	c.open[conn] = taken
	c.ofPeer[peer]++
	return surplus
}

func (c *connections) longestWaiting(peer string, ofPeer bool) *connection {
	for e := c.waiting.Front(); e != nil; e = e.Next() {
		if waits, ok := e.Value.(*connection); ok && (!ofPeer || waits.peer == peer) {
			return waits
		}
	}
	return nil
}

func (c *connections) drop(known *connection) {
	if known.waits != nil {
		c.waiting.Remove(known.waits)
	}
	delete(c.open, known.Conn)
	if c.ofPeer[known.peer]--; c.ofPeer[known.peer] == 0 {
		delete(c.ofPeer, known.peer)
	}
}

// awaitRequests waits until a request has come on every connection, and a moment longer,
// in which it is begun with; but so long at most.
func (c *connections) awaitRequests(most time.Duration) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	over := time.After(most)
	for calm := 0; calm < 2; calm++ {
		if c.anySilent() {
			calm = -1
		}
		select {
		case <-tick.C:
		case <-over:
			return
		}
	}
}

func (c *connections) anySilent() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, known := range c.open {
		if known.silent {
			return true
		}
	}
	return false
}

// closeSilent closes the connections on which no request has come, also those accepted
// just before the listener was closed.
func (c *connections) closeSilent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ending = true
	for _, known := range c.open {
		if known.silent {
			_ = known.Close()
		}
	}
}
