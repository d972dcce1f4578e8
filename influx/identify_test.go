package influx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"memdump_exporter/influx/influxtest"
)

// TestNewServer: the version of a header, and of the body of /ping, which other services
// may send too.
func TestNewServer(t *testing.T) {
	hidden := secrets{canary, "v3cr3t"}
	for version, want := range map[string]Server{
		"":                                     {},
		"\x1b":                                 {},
		"v":                                    {},
		"1.8.10":                               {1, "1.8.10"},
		"v2.7.12":                              {2, "2.7.12"},
		"unknown":                              {1, "unknown"},
		"dev":                                  {2, "dev"},
		"0.13.0":                               {1, "0.13.0"},
		"4.0.0":                                {3, "4.0.0"},
		"1\x1b\ufffd.8":                        {1, "1.8"},
		"\x1bv1.8":                             {1, "1.8"},
		"1.8-" + canary:                        {1, "1.8-<secret>"},
		"v3cr3t":                               {1, "<secret>"},
		"1.8-" + strings.Repeat("x", 36):       {1, "1.8-" + strings.Repeat("x", 36)},
		"1.8-" + strings.Repeat("x", 47):       {1, "1.8-" + strings.Repeat("x", 36)}, // 51 bytes
		"1.8-" + strings.Repeat("x", 35) + "é": {1, "1.8-" + strings.Repeat("x", 35)},
	} {
		if got := newServer(version, hidden); got != want {
			t.Errorf("%q: %+v, want %+v", version, got, want)
		}
	}
	for body, want := range map[string]Server{
		`{"version":"3.6.0","revision":"x"}`: {3, "3.6.0"},
		`{"version":"3.6.0"`:                 {},
		`{"version":""}`:                     {},
		`{"version":"1.24.0"}`:               {}, // of a proxy: 1.x sends no body
		`pong`:                               {},
		``:                                   {},
	} {
		if got := bodyServer([]byte(body), hidden); got != want {
			t.Errorf("%s: %+v, want %+v", body, got, want)
		}
	}
}

// TestIdentify_changes: another identity is requested after a response that contradicts it,
// and after a failure that another server may have caused; a version in a header is the
// identity without a request.
func TestIdentify_changes(t *testing.T) {
	const good = `{"results":[{}]}`
	long := "1.8-" + strings.Repeat("x", 47)
	for name, tt := range map[string]struct {
		ping   string // version
		query  string // version
		status int
		body   string
		want   string // version after the query
		again  bool   // another ping
	}{
		"the same":             {"1.8.10", "1.8.10", 200, good, "1.8.10", false},
		"the same, v":          {"v2.7.12", "v2.7.12", 200, good, "2.7.12", false},
		"the same, 51 bytes":   {long, long, 200, good, long[:40], false},
		"only on ping":         {"3.8.3", "", 200, good, "3.8.3", false},
		"another":              {"1.8.10", "v2.7.12", 200, good, "2.7.12", false},
		"another 3":            {"3.6.0", "3.8.3", 200, good, "3.8.3", false},
		"none on query":        {"1.8.10", "", 200, good, "1.8.10", true},
		"none on ping":         {"", "1.8.10", 200, good, "1.8.10", false},
		"rejected":             {"3.8.3", "", 200, `{"results":[{"error":"no"}]}`, "3.8.3", false},
		"overloaded":           {"3.8.3", "", 503, "", "3.8.3", false},
		"unauthorized":         {"3.8.3", "", 401, "", "3.8.3", true},
		"unauthorized, header": {"", "1.8.10", 401, "", "1.8.10", false},
		"not found":            {"3.8.3", "", 404, "", "3.8.3", true},
		"not found, header":    {"3.8.3", "1.8.10", 404, "", "1.8.10", false},
		"redirected":           {"3.8.3", "", 302, "", "3.8.3", true},
		"failed":               {"3.8.3", "", 500, "", "3.8.3", true},
		"malformed":            {"3.8.3", "", 200, "<html>", "3.8.3", true},
		"truncated":            {"3.8.3", "", 200, good[:5], "3.8.3", true},
		"broken":               {"3.8.3", "", 0, "", "3.8.3", true},
		"no version at all":    {"", "", 200, good, "", false},
		"no version, no path":  {"", "", 404, "", "", false},
		"no version, failed":   {"", "", 500, "", "", true},
	} {
		pings := 0
		url := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/ping":
				pings++
				w.Header().Set(versionHeader, tt.ping)
				w.WriteHeader(http.StatusNoContent)
			case tt.status == 0:
				panic(http.ErrAbortHandler)
			default:
				if tt.query != "" {
					w.Header().Set(versionHeader, tt.query)
				}
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			}
		})
		client := clientOf(t, url, NewTransport(nil))
		if got, err := client.Identify(t.Context()); err != nil || got != newServer(tt.ping, nil) {
			t.Errorf("%s: %+v, %v, want %s", name, got, err, tt.ping)
		}
		for range client.Rows(t.Context(), Request{}) {
		}
		got, err := client.Identify(t.Context())
		if err != nil || got.Version != tt.want {
			t.Errorf("%s: after the query %+v, %v, want %q", name, got, err, tt.want)
		}
		if want := map[bool]int{false: 1, true: 2}[tt.again]; pings != want {
			t.Errorf("%s: %d pings, want %d", name, pings, want)
		}
	}
}

// TestIdentify_other: whatever responds to /ping, queries succeed and their header is the
// version; without one the version is unknown, and /ping is not requested again.
func TestIdentify_other(t *testing.T) {
	for name, ping := range map[string]http.HandlerFunc{
		"a page of a proxy": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>pong</html>")
		},
		"a JSON of a proxy": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"version":"1.24.0"}`) },
		"not found":         http.NotFound,
		"unauthorized":      func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
		"forbidden":         func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"failed":            func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"redirected":        func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/login", http.StatusFound) },
		"empty version":     func(w http.ResponseWriter, _ *http.Request) { w.Header()[versionHeader] = []string{""} },
	} {
		for _, version := range []string{"", "1.8.10"} {
			pings := 0
			url := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/ping" {
					pings++
					ping(w, r)
					return
				}
				if version != "" {
					w.Header().Set(versionHeader, version)
				}
				_, _ = io.WriteString(w, `{"results":[{}]}`)
			})
			client := clientOf(t, url, NewTransport(nil))
			if got, _ := client.Identify(t.Context()); got != (Server{}) {
				t.Errorf("%s: %+v", name, got)
			}
			for range 2 {
				if err := client.query(t.Context(), Request{}, nil); err != nil {
					t.Errorf("%s: the query failed: %v", name, err)
				}
				if got, err := client.Identify(t.Context()); err != nil || got.Version != version {
					t.Errorf("%s, and %q on queries: %+v, %v", name, version, got, err)
				}
			}
			if pings != 1 || client.API() != APIInfluxQL {
				t.Errorf("%s: %d pings, want 1; API %s", name, pings, client.API())
			}
		}
	}
}

// TestIdentify_fails: the error of /ping is returned once; an error response that names the
// version does identify the server, as with ping-auth-enabled of 1.x.
func TestIdentify_fails(t *testing.T) {
	for status, want := range map[int]Kind{401: ErrUnauthorized, 500: ErrServer, 302: ErrRedirected, 200: ErrTruncated} {
		for _, version := range []string{"", "1.8.10"} {
			url := influxtest.Handle(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set(versionHeader, version)
				w.Header().Set("Content-Length", "5")
				w.WriteHeader(status)
				_, _ = io.WriteString(w, "half")
			})
			client := clientOf(t, url, NewTransport(nil))
			server, err := client.Identify(t.Context())
			if server.Version != version || (version == "") != errors.Is(err, want) {
				t.Errorf("%d, version %q: %+v, %v, want %s", status, version, server, err, want)
			}
			if server, err = client.Identify(t.Context()); server.Version != version || err != nil {
				t.Errorf("%d, version %q, second time: %+v, %v", status, version, server, err)
			}
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

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestIdentify_hangs: a server that hangs on /ping costs a second, and not again within five
// minutes.
func TestIdentify_hangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pings := 0
		client := clientOf(t, "http://influxdb.test", roundTripper(func(r *http.Request) (*http.Response, error) {
			pings++
			<-r.Context().Done()
			return nil, r.Context().Err()
		}))
		for wait, want := range map[time.Duration]int{0: 1, time.Second: 1, maxIdentityAge - time.Second - 1: 1, maxIdentityAge: 2} {
			pings = 0
			client.identity.Store(nil)
			if _, err := client.Identify(t.Context()); !errors.Is(err, ErrTimeout) {
				t.Errorf("%v, want timeout", err)
			}
			time.Sleep(wait)
			begin := time.Now()
			_, err := client.Identify(t.Context())
			if took := time.Since(begin); pings != want || took != time.Duration(want-1)*time.Second || (err != nil) != (want > 1) {
				t.Errorf("after %v: %d pings, want %d; %v, in %v", wait, pings, want, err, took)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/4)
		defer cancel()
		client.identity.Store(nil)
		begin := time.Now()
		if _, err := client.Identify(ctx); !errors.Is(err, ErrTimeout) || time.Since(begin) != time.Second/4 {
			t.Errorf("%v after %v, want timeout at the caller's deadline", err, time.Since(begin))
		}
	})
}

// TestIdentify_hangsBeside: a version that a query reports is not lost when /ping fails.
func TestIdentify_hangsBeside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pings := 0
		client := clientOf(t, "http://influxdb.test", roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/ping" {
				pings++
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			body := io.NopCloser(strings.NewReader(`{"results":[{}]}`))
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{versionHeader: {"1.8.10"}}, Body: body}, nil
		}))
		var ping sync.WaitGroup
		ping.Go(func() {
			if _, err := client.Identify(t.Context()); !errors.Is(err, ErrTimeout) {
				t.Errorf("%v, want timeout", err)
			}
		})
		synctest.Wait()
		if err := client.query(t.Context(), Request{}, nil); err != nil {
			t.Error(err)
		}
		ping.Wait()
		if server, err := client.Identify(t.Context()); err != nil || server.Version != "1.8.10" || pings != 1 {
			t.Errorf("%+v, %v after %d pings, want 1.8.10 after one", server, err, pings)
		}
	})
}

// TestIdentify_age: a version that no response has confirmed for five minutes is requested
// again: of 3.x, queries do not show that it has changed.
func TestIdentify_age(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		version, header, pings := "3.6.0", "", 0
		client := clientOf(t, "http://influxdb.test", roundTripper(func(r *http.Request) (*http.Response, error) {
			resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"results":[{}]}`))}
			if r.URL.Path == "/ping" {
				pings++
				resp.Body = io.NopCloser(strings.NewReader(fmt.Sprintf(`{"version":%q}`, version)))
			} else if header != "" {
				resp.Header.Set(versionHeader, header)
			}
			return resp, nil
		}))
		scrape := func() string {
			if err := client.query(t.Context(), Request{}, nil); err != nil {
				t.Error(err)
			}
			server, err := client.Identify(t.Context())
			if err != nil {
				t.Error(err)
			}
			return server.Version
		}
		for minute := range 12 {
			want := "3.8.3"
			if minute < 5 { // the server is replaced in the first minute
				want = "3.6.0"
			}
			if got := scrape(); got != want {
				t.Errorf("minute %d: %s, want %s", minute, got, want)
			}
			version = "3.8.3"
			time.Sleep(time.Minute)
		}
		if pings != 3 {
			t.Errorf("%d pings in twelve minutes, want 3", pings)
		}
		header = "1.8.10"
		for range 12 {
			if got := scrape(); got != "1.8.10" {
				t.Errorf("%s, want 1.8.10", got)
			}
			time.Sleep(time.Minute)
		}
		if pings != 3 {
			t.Errorf("%d pings where each response has the version, want none", pings-3)
		}
	})
}

// TestIdentify_waits: an Identify that gets no slot, because of slow queries, learns nothing.
func TestIdentify_waits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		client := clientOf(t, "http://influxdb.test", roundTripper(func(r *http.Request) (*http.Response, error) {
			resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"results":[{}]}`))}
			if r.URL.Path == "/ping" {
				resp.Header.Set(versionHeader, "3.8.3")
				return resp, nil
			}
			<-release
			return resp, nil
		}))
		var queries sync.WaitGroup
		for range DefaultMaxConcurrency {
			queries.Go(func() {
				if err := client.query(t.Context(), Request{}, nil); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if server, err := client.Identify(t.Context()); !errors.Is(err, ErrTimeout) || server != (Server{}) {
			t.Errorf("%+v, %v, want timeout", server, err)
		}
		close(release)
		queries.Wait()
		if server, err := client.Identify(t.Context()); err != nil || server.Version != "3.8.3" {
			t.Errorf("%+v, %v, want 3.8.3", server, err)
		}
	})
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

// TestAPI: which API has worked depends on the responses to queries only.
func TestAPI(t *testing.T) {
	const good = `{"results":[{}]}`
	type response struct {
		status  int
		version string
		body    string
	}
	none := response{404, "", "404 page not found"}
	steps := func(apis ...API) []API { return apis }
	influxQL, auto, v3 := steps(APIInfluxQL, APIInfluxQL), steps(APIAuto, APIAuto), steps(APIAuto, APIV3Query)
	const unknown = `{"error":"database not found: x"}`
	for name, tt := range map[string]struct {
		query, gateway, ping response
		after                []API // a query, and one to the gateway
	}{
		"InfluxDB 1.x":                   {response{200, "1.8.10", good}, response{404, "1.8.10", ""}, response{204, "1.8.10", ""}, influxQL},
		"InfluxDB 3.x":                   {response{200, "", good}, none, response{200, "3.8.3", ""}, influxQL},
		"1.x, no such database":          {response{200, "1.8.10", `{"results":[` + unknown + `]}`}, none, none, influxQL},
		"1.x, unauthorized":              {response{401, "1.8.10", `{"error":"authorization failed"}`}, none, none, influxQL},
		"1.x, wrong prefix":              {response{404, "1.8.10", "404 page not found"}, none, none, influxQL},
		"3.x, no such database":          {response{404, "", unknown}, none, response{200, "3.8.3", ""}, auto},
		"gateway":                        {none, response{200, "", good}, none, v3},
		"gateway, /ping of InfluxDB":     {none, response{200, "", good}, response{200, "3.8.3", ""}, v3},
		"gateway, header of InfluxDB":    {none, response{200, "1.8.10", good}, none, v3},
		"gateway that fails":             {none, response{500, "1.8.10", "no"}, none, auto},
		"gateway that serves both":       {response{200, "", good}, response{200, "", good}, none, steps(APIInfluxQL, APIV3Query)},
		"neither":                        {none, none, none, auto},
		"a page":                         {response{200, "", "<html>"}, response{200, "", "<html>"}, none, auto},
		"empty version in the header":    {response{404, " ", "404 page not found"}, none, none, influxQL},
		"InfluxDB, and /ping of a proxy": {response{200, "", good}, none, response{200, "", "<html>pong</html>"}, influxQL},
	} {
		for _, pingFirst := range []bool{false, true} {
			url := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
				response := map[string]response{"/query": tt.query, "/api/v3/query": tt.gateway, "/ping": tt.ping}[r.URL.Path]
				if response.version != "" {
					w.Header().Set(versionHeader, strings.TrimSpace(response.version))
				}
				w.WriteHeader(response.status)
				_, _ = io.WriteString(w, response.body)
			})
			client := clientOf(t, url, NewTransport(nil))
			if pingFirst {
				_, _ = client.Identify(t.Context())
			}
			got := []API{client.API()}
			for _, api := range []API{APIInfluxQL, APIV3Query} {
				_ = client.query(t.Context(), Request{API: api}, nil)
				got = append(got, client.API())
			}
			if want := append(steps(APIAuto), tt.after...); !slices.Equal(got, want) {
				t.Errorf("%s, /ping first: %v: %q, want %q", name, pingFirst, got, want)
			}
		}
	}
}

// TestAPI_again: an API that has worked is detected again when it is not found, or fails in a
// way that another server may have caused; a configured API is never another one.
func TestAPI_again(t *testing.T) {
	const good = `{"results":[{}]}`
	for _, api := range []API{APIInfluxQL, APIV3Query} {
		other := map[API]API{APIInfluxQL: APIV3Query, APIV3Query: APIInfluxQL}[api]
		for name, tt := range map[string]struct {
			api    API
			status int
			body   string
			want   API
		}{
			"good":             {api, 200, good, api},
			"rejected":         {api, 400, `{"error":"syntax"}`, api},
			"no such database": {api, 404, `{"error":"database not found: x"}`, api},
			"overloaded":       {api, 429, "", api},
			"not found":        {api, 404, "", APIAuto},
			"failed":           {api, 500, "", APIAuto},
			"not JSON":         {api, 200, "<html>", APIAuto},
			"broken":           {api, 0, "", APIAuto},
			"other not found":  {other, 404, "", api},
			"other works":      {other, 200, good, other},
		} {
			var failing atomic.Bool
			url := influxtest.Handle(t, func(w http.ResponseWriter, _ *http.Request) {
				status, body := 200, good
				if failing.Load() {
					status, body = tt.status, tt.body
				}
				if status == 0 {
					panic(http.ErrAbortHandler)
				}
				w.WriteHeader(status)
				_, _ = io.WriteString(w, body)
			})
			for _, configured := range []API{APIAuto, APIInfluxQL, APIV3Query} {
				failing.Store(false)
				client := clientOf(t, url, NewTransport(nil))
				client.config.API = configured
				client.api.Store(configured)
				if err := client.query(t.Context(), Request{API: api}, nil); err != nil {
					t.Error(err)
				}
				failing.Store(true)
				_ = client.query(t.Context(), Request{API: tt.api}, nil)
				want := tt.want
				if configured != APIAuto {
					want = configured
				}
				if got := client.API(); got != want {
					t.Errorf("%s worked, then %s: %s, want %s", api, name, got, want)
				}
			}
		}
	}
}
