package influx

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"memdump_exporter/influx/influxtest"
)

func TestIdentity(t *testing.T) {
	for _, tt := range []struct {
		header, body string
		want         Server
	}{
		{"1.8.10", "", Server{1, "1.8.10"}},
		{"v2.7.12", `{"version":"9"}`, Server{2, "2.7.12"}},
		{"", `{"version":"3.6.0","revision":"x"}`, Server{3, "3.6.0"}},
		{"", `{"version":""}`, Server{}},
		{"", `{"version":"3.6.0"`, Server{}},
		{"", `pong`, Server{}},
		{"unknown", "", Server{1, "unknown"}},
		{"dev", "", Server{2, "dev"}},
		{"0.13.0", "", Server{1, "0.13.0"}},
		{"4.0.0", "", Server{3, "4.0.0"}},
		{"", `{"version":"1\u001b\ufffd.8"}`, Server{1, "1.8"}},
		{"", `{"version":"\u001bv1.8"}`, Server{1, "1.8"}},
		{"1.8-" + canary, "", Server{1, "1.8-<secret>"}},
		{"v3cr3t", "", Server{1, "<secret>"}},
		{"1.8-" + strings.Repeat("x", 36), "", Server{1, "1.8-" + strings.Repeat("x", 36)}},
		{"1.8-" + strings.Repeat("x", 35) + "é", "", Server{1, "1.8-" + strings.Repeat("x", 35)}},
	} {
		header := http.Header{}
		header.Set(versionHeader, tt.header)
		if got := identity(header, []byte(tt.body), secrets{canary, "v3cr3t"}); got != tt.want {
			t.Errorf("%q, %s: %+v, want %+v", tt.header, tt.body, got, tt.want)
		}
	}
}

// TestIdentify_changes: another identity is requested after a response that contradicts it,
// after a failure that another server may have caused, and only then.
func TestIdentify_changes(t *testing.T) {
	const good = `{"results":[{}]}`
	for name, tt := range map[string]struct {
		ping   string // version
		query  string // version
		status int
		body   string
		again  bool
	}{
		"the same":             {"1.8.10", "1.8.10", 200, good, false},
		"the same, v":          {"v2.7.12", "v2.7.12", 200, good, false},
		"only on ping":         {"3.8.3", "", 200, good, false},
		"another":              {"1.8.10", "v2.7.12", 200, good, true},
		"another 3":            {"3.6.0", "3.8.3", 200, good, true},
		"not any more":         {"1.8.10", "", 200, good, true},
		"rejected":             {"1.8.10", "1.8.10", 200, `{"results":[{"error":"no"}]}`, false},
		"overloaded":           {"1.8.10", "1.8.10", 503, "", false},
		"unauthorized":         {"1.8.10", "1.8.10", 401, "", true},
		"not found":            {"1.8.10", "1.8.10", 404, "", true},
		"redirected":           {"1.8.10", "1.8.10", 302, "", true},
		"failed":               {"1.8.10", "1.8.10", 500, "", true},
		"malformed":            {"1.8.10", "1.8.10", 200, "<html>", true},
		"truncated":            {"1.8.10", "1.8.10", 200, good[:5], true},
		"broken":               {"1.8.10", "1.8.10", 0, "", true},
		"a gateway":            {"", "", 404, "", false},
		"a gateway, as 1.8":    {"", "1.8.10", 404, "", false},
		"a gateway that fails": {"", "", 500, "", true},
	} {
		pings := 0
		url := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path != "/ping" && tt.status == 0:
				panic(http.ErrAbortHandler)
			case r.URL.Path != "/ping":
				w.Header().Set(versionHeader, tt.query)
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			case tt.ping == "":
				pings++
				w.WriteHeader(http.StatusNotFound)
			default:
				pings++
				w.Header().Set(versionHeader, tt.ping)
				w.WriteHeader(http.StatusNoContent)
			}
		})
		client := clientOf(t, url, NewTransport(nil))
		want := 1
		for range 2 {
			got, err := client.Identify(t.Context())
			if err != nil || got.Version != strings.TrimPrefix(tt.ping, "v") || pings != want {
				t.Errorf("%s: %+v, %v after %d pings, want %d", name, got, err, pings, want)
			}
			for range client.Rows(t.Context(), Request{}) {
			}
			if tt.again {
				want++
			}
		}
	}
}

// TestIdentify_fails: an error response to /ping has no identity.
func TestIdentify_fails(t *testing.T) {
	for status, want := range map[int]Kind{401: ErrUnauthorized, 500: ErrServer, 302: ErrRedirected, 200: ErrTruncated} {
		url := influxtest.Handle(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(versionHeader, "1.8.10")
			w.Header().Set("Content-Length", "5")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "half")
		})
		client := clientOf(t, url, NewTransport(nil))
		if server, err := client.Identify(t.Context()); !errors.Is(err, want) || server != (Server{}) {
			t.Errorf("%d: %+v, %v, want %s", status, server, err, want)
		}
		if client.server.Load() != nil {
			t.Errorf("%d: kept", status)
		}
	}
}

func clientOf(t *testing.T, url string, transport http.RoundTripper) *Client {
	t.Helper()
	client, err := New(Config{URL: url, Database: "db", Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.http.CloseIdleConnections)
	return client
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestIdentify_hangs: a server that hangs on /ping costs at most a second, or a quarter of
// the time.
func TestIdentify_hangs(t *testing.T) {
	for left, want := range map[time.Duration]time.Duration{2 * time.Second: time.Second / 2, time.Minute: time.Second, 0: time.Second} {
		synctest.Test(t, func(t *testing.T) {
			client := clientOf(t, "http://influxdb.test", roundTripper(func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}))
			ctx, begin := t.Context(), time.Now()
			if left > 0 {
				bounded, cancel := context.WithTimeout(ctx, left)
				defer cancel()
				ctx = bounded
			}
			if _, err := client.Identify(ctx); !errors.Is(err, ErrTimeout) || time.Since(begin) != want {
				t.Errorf("of %v: %v after %v, want timeout after %v", left, err, time.Since(begin), want)
			}
		})
	}
}

// TestIdentify_once: concurrent callers share one request, each until its own deadline.
func TestIdentify_once(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pings := 0
		client := clientOf(t, "http://influxdb.test", roundTripper(func(*http.Request) (*http.Response, error) {
			pings++
			time.Sleep(time.Second / 2)
			return &http.Response{StatusCode: http.StatusNoContent, Header: http.Header{versionHeader: {"1.8.10"}}, Body: http.NoBody}, nil
		}))
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				if server, err := client.Identify(t.Context()); err != nil || server.Major != 1 {
					t.Errorf("%+v, %v", server, err)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := client.Identify(ctx); !errors.Is(err, ErrCanceled) {
			t.Errorf("%v, want canceled", err)
		}
		all.Wait()
		for range 20 {
			if server, err := client.Identify(ctx); err != nil || server.Major != 1 {
				t.Errorf("a known identity needs no time: %+v, %v", server, err)
			}
		}
		if pings != 1 {
			t.Errorf("%d pings, want one", pings)
		}
	})
}
