package main

import (
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

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

// TestConnections: with eight in all and six for one peer, who waits longest goes first,
// the crowding peer's own before others', and none that is being answered.
func TestConnections(t *testing.T) {
	c := newConnections(8 * filesPerConnection)
	open := func(from string) *fakeConn {
		conn := &fakeConn{from: from}
		c.note(conn, http.StateNew)
		return conn
	}
	scraper := open("192.0.2.1:1")
	var crowd []*fakeConn
	for range 6 {
		crowd = append(crowd, open("192.0.2.2:1"))
	}
	c.note(crowd[0], http.StateActive)
	seventh := open("192.0.2.2:1")
	if !crowd[1].closed || crowd[0].closed || scraper.closed || seventh.closed {
		t.Fatal("the seventh of a peer must replace the one that waits longest of its own")
	}
	c.note(crowd[1], http.StateClosed) // said again by the server
	other := open("192.0.2.3:1")
	if other.closed || scraper.closed {
		t.Fatal("the eighth in all must be taken as it is")
	}
	c.note(scraper, http.StateActive)
	c.note(scraper, http.StateIdle) // now it waits since now
	if open("192.0.2.4:1"); !crowd[2].closed || scraper.closed {
		t.Fatal("the ninth in all must replace the one that waits longest of all")
	}
	for _, conn := range []*fakeConn{crowd[3], crowd[4], crowd[5], seventh} {
		c.note(conn, http.StateActive)
	}
	sixth := open("192.0.2.2:1") // of five that are answered
	if !other.closed || sixth.closed {
		t.Fatal("a new one must replace one that waits")
	}
	c.note(sixth, http.StateActive)
	if refused := open("192.0.2.2:1"); !refused.closed {
		t.Fatal("one more than its share, of a peer whose others are all being answered, must be refused")
	}
	if got := testutil.ToFloat64(c.closed); got != 4 {
		t.Errorf("%v were counted as closed, want 4", got)
	}
	for conn := range c.open {
		c.note(conn, http.StateClosed)
	}
	if len(c.open)+len(c.ofPeer)+c.waiting.Len() != 0 {
		t.Errorf("left behind: %v, %v, %d waiting", c.open, c.ofPeer, c.waiting.Len())
	}
}

// TestConnections_awaitRequests: the end waits for a request that is on its way, and not
// for long when there is none.
func TestConnections_awaitRequests(t *testing.T) {
	for _, tt := range []struct{ comes, least, most time.Duration }{
		{500 * time.Millisecond, 500 * time.Millisecond, 600 * time.Millisecond}, {time.Hour, time.Second, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newConnections(100)
			conn := &fakeConn{from: "192.0.2.1:1"}
			c.note(conn, http.StateNew)
			time.AfterFunc(tt.comes, func() { c.note(conn, http.StateActive) })
			began := time.Now()
			c.awaitRequests(time.Second)
			if took := time.Since(began); took < tt.least || took > tt.most {
				t.Errorf("it took %v with a request after %v", took, tt.comes)
			}
		})
	}
}
