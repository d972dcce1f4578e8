package influx

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// TestLimitedReader_exactly: a response as long as the limit is complete, also if the reader
// returns its end separately.
func TestLimitedReader_exactly(t *testing.T) {
	const body = `{"results":[{}]}`
	for left, want := range map[int64]error{int64(len(body)): nil, int64(len(body)) - 1: ErrTooLarge} {
		err := decodeResponse(&limitedReader{r: strings.NewReader(body), left: left}, http.StatusOK, nil, nil)
		if !errors.Is(err, want) {
			t.Errorf("a limit of %d: %v, want %v", left, err, want)
		}
	}
}

// TestUTF8Check: a text in pieces of any size is valid exactly if it is UTF-8, or if it ends
// inside a rune, which is truncated JSON anyway.
func TestUTF8Check(t *testing.T) {
	for _, text := range []string{
		"", "plain", "ä", "€uro", "a\u202Eb", "\U0001F4BE\U0001F4BE", "\xff", "a\xc3", "\xc3(", "\xe2\x82(", "\xf0\x9f\x92x",
		"\xed\xa0\x80", "\xc0\x80", "ok\x80", "\xf4\x90\x80\x80", "\xe2\xe2", "\xe2\xe2\x82",
	} {
		whole, cut := utf8.ValidString(text), false
		for i := max(0, len(text)-utf8.UTFMax); i < len(text); i++ {
			cut = cut || utf8.ValidString(text[:i]) && !utf8.FullRuneInString(text[i:])
		}
		for size := 1; size <= len(text)+1; size++ {
			var c utf8Check
			valid, rest := true, []byte(text)
			for len(rest) > 0 && valid {
				n := min(size, len(rest))
				valid, rest = c.valid(rest[:n]), rest[n:]
			}
			if valid != (whole || cut) || valid && len(c.cut) > 0 != cut {
				t.Errorf("%q in pieces of %d: %v, with %q held; whole %v, cut %v", text, size, valid, c.cut, whole, cut)
			}
		}
	}
}

// TestTransport: the limits that matter only if a server misbehaves are set.
func TestTransport(t *testing.T) {
	config := &tls.Config{MinVersion: tls.VersionTLS13}
	transport := NewTransport(config)
	transport.MaxConns = 9
	got := transport.renew()
	if got.TLSHandshakeTimeout == 0 || got.IdleConnTimeout == 0 || got.MaxResponseHeaderBytes == 0 {
		t.Errorf("a limit is missing: %+v", got)
	}
	if got.MaxConnsPerHost != 9 || got.MaxIdleConnsPerHost != 9 {
		t.Errorf("%d connections, %d idle ones, want 9", got.MaxConnsPerHost, got.MaxIdleConnsPerHost)
	}
	if got.Proxy != nil || got.TLSClientConfig != config {
		t.Errorf("a proxy, or another TLS configuration: %+v", got)
	}
}

// TestTransport_age: the name moves while connections to its old address are used all the
// time. A request five minutes after the connection was made goes to the new address; a
// request in flight ends well, and its connection is closed then.
func TestTransport_age(t *testing.T) {
	before, after := newHost(t), newHost(t)
	var mu sync.Mutex
	now, address := time.Unix(0, 0), before.Listener.Addr().String()
	transport := NewTransport(nil)
	t.Cleanup(transport.CloseIdleConnections)
	transport.now = func() time.Time { return now }
	dial := transport.dial
	transport.dial = func(ctx context.Context, network, name string) (net.Conn, error) {
		if name != "influxdb.test:80" {
			t.Errorf("connects to %s", name)
		}
		mu.Lock()
		defer mu.Unlock()
		return dial(ctx, network, address)
	}
	client := &http.Client{Transport: transport}
	get := func(path string) *http.Response {
		t.Helper()
		resp, err := client.Get("http://influxdb.test" + path)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	read := func(resp *http.Response) string {
		t.Helper()
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		return string(body)
	}
	old, moved := before.Listener.Addr().String(), after.Listener.Addr().String()
	var got []string
	for range 5 {
		got = append(got, read(get("/")))
		now = now.Add(time.Minute - 1)
	}
	mu.Lock()
	address = moved
	mu.Unlock()
	got = append(got, read(get("/"))) // less than five minutes old
	now = now.Add(4)
	held := get("/hold") // a nanosecond less than five minutes old
	now = now.Add(1)
	got = append(got, read(get("/")))
	if want := []string{old, old, old, old, old, old, moved}; !slices.Equal(got, want) {
		t.Errorf("the requests went to %q, want %q", got, want)
	}
	close(before.hold)
	if body := read(held); body != old {
		t.Errorf("the request in flight returned %q, want %q", body, old)
	}
	select {
	case <-before.closed:
	case <-time.After(10 * time.Second):
		t.Error("the connection to the old address is open")
	}
	if before.connections.Load() != 1 || after.connections.Load() != 1 {
		t.Errorf("%d and %d connections, want one each", before.connections.Load(), after.connections.Load())
	}
}
