package influx_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// store makes a database of its own for each name, with the points of two sizes, 3 and 4.
func store(t *testing.T, server *influxtest.Server, database string) {
	t.Helper()
	if err := server.Exec(t.Context(), fmt.Sprintf("CREATE DATABASE %q", database)); err != nil {
		t.Fatal(err)
	}
	if err := server.Write(t.Context(), database, []string{"m size=3i 1", "m size=4i 2"}); err != nil {
		t.Fatal(err)
	}
}

// TestNginx_cache: behind a real cache, every number is the one of InfluxDB at that time, or
// there is none. The cache stores everything, and returns it while InfluxDB is stopped.
func TestNginx_cache(t *testing.T) {
	server := influxtest.MustStart(t)
	var stopped []func()
	for name, tt := range map[string]struct {
		config string // of the cache
		// Kinds of errors; empty for none.
		other   influx.Kind // of a query that is not the first one
		again   influx.Kind // of the first query, after a point was written
		stopped influx.Kind // with InfluxDB stopped
	}{
		"by URL":      {``, "", "", influx.ErrServer},
		"by URL, Age": {`add_header Age $stored always;`, "", "", influx.ErrServer},
		"by path, Age": {`proxy_cache_key $uri; add_header Age $stored always;`,
			influx.ErrStale, influx.ErrStale, influx.ErrStale},
		"by statement, Age":            {`proxy_cache_key $arg_q; add_header Age $stored always;`, "", influx.ErrStale, influx.ErrStale},
		"by path, obeys Cache-Control": {`proxy_cache_key $uri; proxy_cache_bypass $http_cache_control;`, "", "", influx.ErrServer},
	} {
		store(t, server, name)
		url := influxtest.Nginx(t, influxtest.CacheZone, "location / { proxy_pass "+server.URL+";"+influxtest.Cache+tt.config+"}")
		client := newClient(t, url, name, "")
		check := func(step, aggregate string, want int64, wrong influx.Kind) {
			t.Helper()
			got, err := column(t, client, aggregate, aggregate+"_size")
			if wrong == "" && (err != nil || got != want) || wrong != "" && !errors.Is(err, wrong) {
				t.Errorf("%s: %s: %d, %v; want %d, %q", name, step, got, err, want, wrong)
			}
		}
		check("the first query", "COUNT", 2, "")
		check("another query", "SUM", 7, tt.other)
		if err := server.Write(t.Context(), name, []string{"m size=5i 3"}); err != nil {
			t.Fatal(err)
		}
		check("the first query, after a write", "COUNT", 3, tt.again)
		stopped = append(stopped, func() {
			check("the first query, InfluxDB stopped", "COUNT", 0, tt.stopped)
			check("another query, InfluxDB stopped", "SUM", 0, tt.stopped)
		})
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, check := range stopped {
		check()
	}
}

// TestNginx_cacheByPath: a cache that stores one response for all of /query, without any sign
// of it, returns the first query's response to another query, whose column it lacks.
func TestNginx_cacheByPath(t *testing.T) {
	server := influxdb.Server(t)
	store(t, server, "db")
	url := influxtest.Nginx(t, influxtest.CacheZone, "location / { proxy_pass "+server.URL+";"+influxtest.Cache+"proxy_cache_key $uri; }")
	client := newClient(t, url, "db", "")
	if got, err := column(t, client, "COUNT", "count_size"); err != nil || got != 2 {
		t.Errorf("the first query: %d, %v", got, err)
	}
	if got, err := column(t, client, "SUM", "sum_size"); !errors.Is(err, influx.ErrMalformed) {
		t.Errorf("another query: %d, %v, want malformed", got, err)
	}
}

// TestNginx_errors: the error pages of a real proxy differ from the error responses of
// InfluxDB with the same status.
func TestNginx_errors(t *testing.T) {
	for config, want := range map[string]influx.Kind{
		"location / { deny all; }":                                          influx.ErrProxy,
		"location / { return 503; }":                                        influx.ErrProxy,
		"location / { return 401; }":                                        influx.ErrUnauthorized,
		"location / { return 429; }":                                        influx.ErrOverloaded,
		"location / { return 404; }":                                        influx.ErrNotFound,
		"location / { proxy_pass http://127.0.0.1:1; }":                     influx.ErrServer,
		`location / { return 403 '{"error":"error authorizing query"}'; }`:  influx.ErrUnauthorized,
		`location / { return 503 '{"error":"timeout"}'; }`:                  influx.ErrOverloaded,
		"location /query { return 302 /login; }":                            influx.ErrRedirected,
		"location / { default_type text/html; return 200 '<html>log in'; }": influx.ErrMalformed,
	} {
		client := newClient(t, influxtest.Nginx(t, "", config), "db", token)
		if _, err := count(t.Context(), client, 0); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %s", config, err, want)
		}
	}
}

// TestNginx_ping: a real proxy that responds to /ping itself, or hides it, changes nothing
// for queries to a real InfluxDB; the version is that of their responses.
func TestNginx_ping(t *testing.T) {
	server := influxdb.Server(t)
	store(t, server, "db")
	for name, tt := range map[string]struct{ location, version string }{
		"passed":       {"", "1.7.11"},
		"a page":       {"location = /ping { default_type text/html; return 200 '<html>pong'; }", "1.7.11"},
		"unauthorized": {"location = /ping { return 401; }", "1.7.11"},
		"forbidden":    {"location = /ping { deny all; }", "1.7.11"},
		"not found":    {"location = /ping { return 404; }", "1.7.11"},
		"no version":   {"proxy_hide_header X-Influxdb-Version;", ""},
		"51 bytes": {"proxy_hide_header X-Influxdb-Version; " +
			"add_header X-Influxdb-Version 1.8.10-0123456789012345678901234567890123456789abcd always;",
			"1.8.10-012345678901234567890123456789012"},
	} {
		url := influxtest.Nginx(t, "", tt.location+"location / { proxy_pass "+server.URL+"; }")
		for _, pingFirst := range []bool{true, false} {
			client := newClient(t, url, "db", token)
			if pingFirst {
				_, _ = client.Identify(t.Context())
			}
			for range 2 {
				if got, err := column(t, client, "SUM", "sum_size"); err != nil || got != 7 {
					t.Errorf("%s: %d, %v, want 7", name, got, err)
				}
			}
			if got, err := client.Identify(t.Context()); got.Version != tt.version || pingFirst && err != nil {
				t.Errorf("%s: %+v, %v, want %q", name, got, err, tt.version)
			}
			if got := client.API(); got != influx.APIInfluxQL {
				t.Errorf("%s: the API is %s", name, got)
			}
		}
	}
}

// TestNginx_limit: behind a proxy that accepts two requests at once, a client with that limit
// has no failures, and one without has.
func TestNginx_limit(t *testing.T) {
	for limit, fails := range map[int]bool{2: false, 20: true} {
		release := make(chan struct{})
		upstream := influxtest.Handle(t, func(w http.ResponseWriter, _ *http.Request) {
			<-release
			_, _ = io.WriteString(w, whole)
		})
		url := influxtest.Nginx(t, "limit_conn_zone $server_port zone=all:1m;", "limit_conn all 2; location / { proxy_pass "+upstream+"; }")
		transport := influx.NewTransport(nil)
		transport.MaxConns = limit
		t.Cleanup(transport.CloseIdleConnections)
		client, err := influx.New(influx.Config{URL: url, Database: "db", MaxConcurrency: limit, Transport: transport})
		if err != nil {
			t.Fatal(err)
		}
		errs := make(chan error, 60)
		for range cap(errs) {
			go func() {
				_, err := count(t.Context(), client, 0)
				errs <- err
			}()
		}
		if !fails {
			close(release)
		}
		failed := 0
		for range cap(errs) {
			err := <-errs
			if err == nil {
				continue
			}
			if failed++; failed == 1 && fails { // two requests are held until then
				close(release)
			}
			if !errors.Is(err, influx.ErrProxy) {
				t.Errorf("limit %d: %v, want proxy", limit, err)
			}
		}
		if (failed > 0) != fails {
			t.Errorf("limit %d of 2: %d of %d queries failed", limit, failed, cap(errs))
		}
	}
}
