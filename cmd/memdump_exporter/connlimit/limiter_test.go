package connlimit

import (
	"net"
	"net/http"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// fakeConn is a connection from an address.
type fakeConn struct {
	net.Conn
	from   string
	closed bool
}

func (c *fakeConn) RemoteAddr() net.Addr {
	address, err := net.ResolveTCPAddr("tcp", c.from)
	if err != nil {
		panic(err)
	}
	return address
}

func (c *fakeConn) Close() error {
	c.closed = true
	return nil
}

// TestLimiter: with a limit of eight, and of six for one peer, the connection that waits longest is
// closed first; that of the peer if the peer's limit is reached; and none with a request.
func TestLimiter(t *testing.T) {
	c := newLimiter(8 * filesPerConnection)
	open := func(from string) *fakeConn {
		conn := &fakeConn{from: from}
		c.ConnState(conn, http.StateNew)
		return conn
	}
	scraper := open("192.0.2.1:1")
	var crowd []*fakeConn
	for range 6 {
		crowd = append(crowd, open("192.0.2.2:1"))
	}
	c.ConnState(crowd[0], http.StateActive)
	seventh := open("192.0.2.2:1")
	if !crowd[1].closed || crowd[0].closed || scraper.closed || seventh.closed {
		t.Fatal("the seventh of a peer must replace the one that waits longest of its own")
	}
	c.ConnState(crowd[1], http.StateClosed) // the server reports it once more
	other := open("192.0.2.3:1")
	if other.closed || scraper.closed {
		t.Fatal("the eighth in all must be accepted without closing another")
	}
	c.ConnState(scraper, http.StateActive)
	c.ConnState(scraper, http.StateIdle) // it waits from this moment
	if open("192.0.2.4:1"); !crowd[2].closed || scraper.closed {
		t.Fatal("the ninth in all must replace the one that waits longest of all")
	}
	for _, conn := range []*fakeConn{crowd[3], crowd[4], crowd[5], seventh} {
		c.ConnState(conn, http.StateActive)
	}
	sixth := open("192.0.2.2:1") // beside five with a request
	if !other.closed || sixth.closed {
		t.Fatal("a new one must replace one that waits")
	}
	c.ConnState(sixth, http.StateActive)
	if refused := open("192.0.2.2:1"); !refused.closed {
		t.Fatal("one more than its share, of a peer whose other connections all have a request, must be closed")
	}
	if got := testutil.ToFloat64(c.Closed); got != 4 {
		t.Errorf("%v were counted as closed, want 4", got)
	}
	for conn := range c.open {
		c.ConnState(conn, http.StateClosed)
	}
	if len(c.open)+len(c.ofPeer)+c.waiting.Len() != 0 {
		t.Errorf("not removed: %v, %v, %d waiting", c.open, c.ofPeer, c.waiting.Len())
	}
}

// TestLimiter_closeSilent: at the end, a connection without a request is closed, a new one, too,
// and one with a request is not.
func TestLimiter_closeSilent(t *testing.T) {
	l := newLimiter(100)
	silent, active := &fakeConn{from: "192.0.2.1:1"}, &fakeConn{from: "192.0.2.1:2"}
	l.ConnState(silent, http.StateNew)
	l.ConnState(active, http.StateNew)
	l.ConnState(active, http.StateActive)
	l.CloseSilent()
	late := &fakeConn{from: "192.0.2.1:3"}
	l.ConnState(late, http.StateNew)
	if !silent.closed {
		t.Error("the connection without a request is open")
	}
	if active.closed {
		t.Error("the connection with a request is closed")
	}
	if !late.closed {
		t.Error("the new connection is open")
	}
}
