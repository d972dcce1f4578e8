package influx_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

func TestRows_bodies(t *testing.T) {
	tests := map[string]struct {
		status int
		body   string
		want   influx.Kind // empty: no error
	}{
		"complete":            {200, whole, ""},
		"complete, line feed": {200, whole + "\r\n", ""},
		"no series":           {200, `{"results":[{"statement_id":0}]}`, ""},
		"unknown members": {200, `{"x":{"y":[1]},"results":[{"statement_id":0,"messages":[{"level":"warning"}],` +
			`"series":[{"x":[{}],"columns":["value"],"values":[[25]]}]}]}`, ""},
		"empty body":             {200, ``, influx.ErrTruncated},
		"null":                   {200, `null`, influx.ErrMalformed},
		"array":                  {200, `[]`, influx.ErrMalformed},
		"number":                 {200, `1`, influx.ErrMalformed},
		"no results":             {200, `{}`, influx.ErrMalformed},
		"empty results":          {200, `{"results":[]}`, influx.ErrMalformed},
		"two results":            {200, `{"results":[{},{}]}`, influx.ErrMalformed},
		"garbage at the end":     {200, whole + "x", influx.ErrMalformed},
		"second document":        {200, whole + whole, influx.ErrMalformed},
		"NUL at the end":         {200, whole + "\x00", influx.ErrMalformed},
		"login page":             {200, `<html>log in</html>`, influx.ErrMalformed},
		"marshal error as text":  {200, `json: error calling MarshalJSON for type models.Row`, influx.ErrMalformed},
		"error on top":           {200, `{"error":"json: unsupported value: +Inf"}`, influx.ErrRefused},
		"error in the result":    {200, `{"results":[{"error":"undefined function nosuch()"}]}`, influx.ErrRefused},
		"partial result":         {200, strings.Replace(whole, `"statement_id":0`, `"statement_id":0,"partial":true`, 1), influx.ErrTruncated},
		"not partial":            {200, strings.Replace(whole, `"values"`, `"partial":false,"values"`, 1), ""},
		"partial is a string":    {200, `{"results":[{"partial":"no"}]}`, influx.ErrMalformed},
		"error on top, a number": {200, `{"results":[{}],"error":1}`, influx.ErrMalformed},
		"error is a number":      {200, `{"results":[{"error":1}]}`, influx.ErrMalformed},
		"partial series":         {200, strings.Replace(whole, `"values"`, `"partial":true,"values"`, 1), influx.ErrTruncated},
		"short row":              {200, strings.Replace(whole, `[0,25]`, `[0]`, 1), influx.ErrMalformed},
		"long row":               {200, strings.Replace(whole, `[0,25]`, `[0,25,1]`, 1), influx.ErrMalformed},
		"not UTF-8":              {200, strings.Replace(whole, `"time"`, "\"t\xffme\"", 1), influx.ErrMalformed},
		"nested value":           {200, strings.Replace(whole, `25`, `[25]`, 1), influx.ErrMalformed},
		"object for a value":     {200, strings.Replace(whole, `25`, `{}`, 1), influx.ErrMalformed},
		"column is a number":     {200, strings.Replace(whole, `"time"`, `1`, 1), influx.ErrMalformed},
		"series is an object":    {200, `{"results":[{"series":{}}]}`, influx.ErrMalformed},
		"series is null":         {200, `{"results":[{"series":null}]}`, influx.ErrMalformed},
		"nested brackets":        {200, strings.Repeat("[", 100_000), influx.ErrMalformed},
		"nested in a member":     {200, `{"x":` + strings.Repeat("[", 100_000), influx.ErrMalformed},
		"unauthorized, empty":    {401, ``, influx.ErrUnauthorized},
		"forbidden":              {403, `{"error":"error authorizing query"}`, influx.ErrUnauthorized},
		"forbidden, empty":       {403, ``, influx.ErrUnauthorized},
		"forbidden by a proxy":   {403, "<html>\r\n<head><title>403 Forbidden</title></head>", influx.ErrProxy},
		"not found":              {404, `Not found`, influx.ErrNotFound},
		"multiple choices":       {300, ``, influx.ErrRedirected},
		"not modified":           {304, ``, influx.ErrRedirected},
		"message too far in":     {400, strings.Repeat(" ", 4<<10) + "database not found", influx.ErrRefused},
		"method not allowed":     {405, ``, influx.ErrRefused},
		"unprocessable":          {422, ``, influx.ErrRefused},
		"too many requests":      {429, ``, influx.ErrOverloaded},
		"unavailable":            {503, `{"code":"unavailable","message":"queue is full"}`, influx.ErrOverloaded},
		"unavailable, empty":     {503, ``, influx.ErrOverloaded},
		"HTML of a proxy":        {503, "\n<!DOCTYPE html>\n<html>", influx.ErrProxy},
		"Envoy without InfluxDB": {503, `no healthy upstream`, influx.ErrProxy},
		"Envoy, connection broken": {503,
			`upstream connect error or disconnect/reset before headers. reset reason: connection failure`, influx.ErrProxy},
		"Traefik without InfluxDB": {503, `no available server`, influx.ErrProxy},
		"gateway timeout":          {504, ``, influx.ErrTimeout},
		"bad gateway":              {502, `<html>`, influx.ErrServer},
		"no content":               {204, ``, influx.ErrMalformed},
		"partial content":          {206, whole, influx.ErrMalformed},
		"query timeout of 1.x":     {200, `{"results":[{"error":"query-timeout limit exceeded"}]}`, influx.ErrTimeout},
		"concurrency limit of 1.x": {200, `{"results":[{"error":"max-concurrent-queries limit exceeded(1, 1)"}]}`, influx.ErrOverloaded},
		"series limit of 1.x":      {200, `{"results":[{"error":"max-select-series limit exceeded: (2/1)"}]}`, influx.ErrOverloaded},
		"memory of 3.x":            {500, `Resources exhausted: Failed to allocate additional 1024 bytes`, influx.ErrOverloaded},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			url := influxtest.Handle(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			})
			_, err := count(context.Background(), newClient(t, url, "db", token), 0)
			if tt.want == "" {
				if err != nil {
					t.Errorf("%v, want no error", err)
				}
				return
			}
			own := &influx.Error{}
			if !errors.As(err, &own) {
				t.Fatalf("%v, want an influx.Error", err)
			}
			if own.Kind != tt.want {
				t.Errorf("%v: the kind is %s, want %s", err, own.Kind, tt.want)
			}
			if !slices.Contains(influx.Kinds(), own.Kind) {
				t.Errorf("%s is not among influx.Kinds", own.Kind)
			}
			if own.Status != tt.status {
				t.Errorf("%v: the status is %d, want %d", err, own.Status, tt.status)
			}
			if tt.want == influx.ErrMalformed && errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%v: the body was complete", err)
			}
		})
	}
}

// TestRows_cut: a response that ends after any of its bytes but the last is truncated.
func TestRows_cut(t *testing.T) {
	var length atomic.Int64
	url := influxtest.Handle(t, func(w http.ResponseWriter, _ *http.Request) { // Content-Length sent, connection closed
		w.Header().Set("Content-Length", strconv.Itoa(len(whole)))
		_, _ = io.WriteString(w, whole[:length.Load()])
	})
	client := newClient(t, url, "db", token)
	for n := range len(whole) {
		length.Store(int64(n))
		if _, err := count(context.Background(), client, 0); !errors.Is(err, influx.ErrTruncated) && !errors.Is(err, influx.ErrUnreachable) {
			t.Fatalf("cut after %d bytes: %v, want truncated", n, err)
		}
	}
	// The same with a body that HTTP ends properly.
	for n := range len(whole) {
		cut := influxtest.Handle(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, whole[:n]) })
		_, err := count(context.Background(), newClient(t, cut, "db", token), 0)
		if !errors.Is(err, influx.ErrTruncated) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("ended after %d bytes: %v, want truncated", n, err)
		}
	}
}

func TestRows_limit(t *testing.T) {
	url := influxtest.Handle(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, whole+"\n") })
	client := newClient(t, url, "db", token)
	if rows, err := count(context.Background(), client, int64(len(whole)+1)); err != nil || rows != 1 {
		t.Errorf("a response as long as the limit: %d rows, %v", rows, err)
	}
	for _, limit := range []int64{int64(len(whole)), 1} {
		if _, err := count(context.Background(), client, limit); !errors.Is(err, influx.ErrTooLarge) {
			t.Errorf("a response beyond the limit of %d: %v, want too_large", limit, err)
		}
	}
}

// TestRows_limitOfRow: the limit of what is held in memory is that of a row, whatever the
// limit of the response.
func TestRows_limitOfRow(t *testing.T) {
	row := `[0,"` + strings.Repeat("a", 1_000_000) + `"]`
	for values, want := range map[string]int{row + "," + row: 2, `[0,"` + strings.Repeat("a", 2<<20) + `"]`: -1} {
		url := influxtest.Handle(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strings.Replace(whole, "[0,25]", values, 1))
		})
		rows, err := count(context.Background(), newClient(t, url, "db", token), 16<<20)
		if want >= 0 && (err != nil || rows != want) || want < 0 && !errors.Is(err, influx.ErrTooLarge) {
			t.Errorf("%d rows of %d bytes: %d rows, %v", want, len(values), rows, err)
		}
		if _, err := count(context.Background(), newClient(t, url, "db", token), 0); !errors.Is(err, influx.ErrTooLarge) {
			t.Errorf("%d bytes, beyond the default limit: %v, want too_large", len(values), err)
		}
	}
}

// TestRow_Int64: a whole number is exact, and anything else an error.
func TestRow_Int64(t *testing.T) {
	for value, want := range map[string]string{
		"7": "7", "-0": "0", "0.0": "0", "7.0": "7", "1e3": "1000", "9223372036854775807": "9223372036854775807",
		"9007199254740991.0": "9007199254740991", "9007199254740992.0": "", "-9007199254740992.0": "",
		"0." + strings.Repeat("0", 400) + "1": "", "0." + strings.Repeat("0", 400) + "9": "",
		"7.5": "", "1e-400": "", "9223372036854775808": "", "1e999": "", "0e5": "0", `"7"`: "", "null": "", "true": "",
	} {
		url := influxtest.Handle(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strings.Replace(whole, "25", value, 1))
		})
		got := ""
		for row := range newClient(t, url, "db", token).Rows(context.Background(), influx.Request{Statement: "SELECT 1"}) {
			if n, err := row.Int64("value"); err == nil {
				got = fmt.Sprint(n)
			}
		}
		if got != want {
			t.Errorf("%s is %q, want %q", value, got, want)
		}
	}
}

func TestRows_endless(t *testing.T) {
	for name, chunk := range map[string]string{"spaces": " ", "string": "a"} {
		t.Run(name, func(t *testing.T) {
			url := influxtest.Handle(t, func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, `{"results":[{"error":`)
				if chunk != " " {
					_, _ = io.WriteString(w, `"`)
				}
				for part := strings.Repeat(chunk, 64<<10); ; {
					if _, err := io.WriteString(w, part); err != nil {
						return
					}
				}
			})
			if _, err := count(context.Background(), newClient(t, url, "db", token), 0); !errors.Is(err, influx.ErrTooLarge) {
				t.Errorf("%v, want too_large", err)
			}
		})
	}
}

func TestRows_waiting(t *testing.T) {
	arrived, gone := make(chan struct{}, 2), make(chan struct{}, 2)
	url := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("db") == "half" {
			_, _ = io.WriteString(w, whole[:20])
			_ = http.NewResponseController(w).Flush()
		}
		arrived <- struct{}{}
		<-r.Context().Done() // the client has closed the connection
		gone <- struct{}{}
	})
	for _, database := range []string{"silent", "half"} {
		client := newClient(t, url, database, token)
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if _, err := count(ctx, client, 0); !errors.Is(err, influx.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v, want timeout", database, err)
		}
		<-arrived
		<-gone
		ctx, cancel = context.WithCancel(context.Background())
		go func() {
			<-arrived
			cancel()
		}()
		if _, err := count(ctx, client, 0); !errors.Is(err, influx.ErrCanceled) {
			t.Errorf("%s: %v, want canceled", database, err)
		}
		<-gone
	}
}

func TestRows_unreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + listener.Addr().String()
	listener.Close()
	if _, err := count(context.Background(), newClient(t, url, "db", token), 0); !errors.Is(err, influx.ErrUnreachable) {
		t.Errorf("%v, want unreachable", err)
	}
}

// TestRows_redirect: no redirect is followed, as it would take the token to another host.
func TestRows_redirect(t *testing.T) {
	var visited atomic.Int64
	elsewhere := influxtest.Handle(t, func(http.ResponseWriter, *http.Request) { visited.Add(1) })
	for _, status := range []int{301, 302, 303, 307, 308} {
		url := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere, status) })
		if _, err := count(context.Background(), newClient(t, url, "db", token), 0); !errors.Is(err, influx.ErrRedirected) {
			t.Errorf("%d: %v, want redirected", status, err)
		}
	}
	if visited.Load() != 0 {
		t.Errorf("the redirect was followed %d times", visited.Load())
	}
}

func TestRows_compressed(t *testing.T) {
	encoding := "gzip"
	url := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Accept-Encoding"); got != "identity" {
			t.Errorf("Accept-Encoding %q", got)
		}
		w.Header().Set("Content-Encoding", encoding)
		_, _ = io.WriteString(w, whole)
	})
	if _, err := count(context.Background(), newClient(t, url, "db", token), 0); !errors.Is(err, influx.ErrMalformed) {
		t.Errorf("%v, want malformed", err)
	}
	encoding = "identity"
	if rows, err := count(context.Background(), newClient(t, url, "db", token), 0); err != nil || rows != 1 {
		t.Errorf("not compressed: %d rows, %v", rows, err)
	}
}

// unique is the parameter that makes a URL unique; everything else of a URL is fixed.
var unique = regexp.MustCompile(`_=([0-9A-Z]{12}-[0-9a-z]+)(&|$)`)

func TestRows_request(t *testing.T) {
	url := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		if got, want := unique.ReplaceAllString(r.URL.RequestURI(), ""), "/pre%2Ffix/more/query?db=my+db%26x&epoch=ns&q=SELECT+1"; got != want {
			t.Errorf("requested %s, want %s", got, want)
		}
		if got := r.Header.Get("Authorization"); got != "Token "+token {
			t.Errorf("Authorization %q", got)
		}
		if got := r.Header.Values("Accept"); got != nil {
			t.Errorf("Accept %q: InfluxDB 3 rejects unknown values", got)
		}
		if got := r.UserAgent(); got != "memdump_exporter/test" {
			t.Errorf("User-Agent %q", got)
		}
		_, _ = io.WriteString(w, whole)
	})
	for _, base := range []string{url + "/pre%2Ffix/more", url + "/pre%2Ffix/more/"} {
		if _, err := count(context.Background(), newClient(t, base, "my db&x", token), 0); err != nil {
			t.Error(err)
		}
	}
}

// TestRows_unique: every request of every client has a URL of its own, and a header for
// caches that is not needed then.
func TestRows_unique(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]bool{}
	url := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		found := unique.FindStringSubmatch(r.URL.RawQuery)
		if found == nil || seen[found[1]] {
			t.Errorf("%s was requested before, or has no parameter _", r.URL)
			return
		}
		seen[found[1]] = true
		if got := r.Header.Get("Cache-Control"); got != "no-cache" {
			t.Errorf("%s: Cache-Control %q", r.URL, got)
		}
		_, _ = io.WriteString(w, whole)
	})
	for range 2 {
		client := newClient(t, url, "db", token)
		_, _ = client.Identify(t.Context())
		for range 50 {
			for _, api := range []influx.API{influx.APIInfluxQL, influx.APIV3Query} {
				if err := drain(client.Rows(t.Context(), influx.Request{Statement: "SELECT 1", API: api})); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if len(seen) != 202 {
		t.Errorf("%d requests, want 202", len(seen))
	}
}

// TestRows_unique_recordings: every InfluxDB ignores the parameter that makes a URL unique.
func TestRows_unique_recordings(t *testing.T) {
	for _, server := range influxtest.Servers("writers") {
		bodies := map[string]string{}
		for _, e := range influxtest.MustLoad(t, server, "writers").Exchanges {
			if e.Label == "dumps" || e.Request.Query["_"] != "" && e.Response.Status == http.StatusOK {
				bodies[e.Label] = e.Response.Body
			}
		}
		if with, ok := bodies["another_parameter"]; !ok || with != bodies["dumps"] {
			t.Errorf("%s returns %q with the parameter, %q without", server, with, bodies["dumps"])
		}
	}
}

// TestRows_stale: a response that a cache has stored is an error, whatever its status.
func TestRows_stale(t *testing.T) {
	for _, tt := range []struct {
		age   []string
		stale bool
	}{
		{nil, false},
		{[]string{"0"}, false},
		{[]string{" 0 "}, false},
		{[]string{"1"}, true},
		{[]string{"86400"}, true},
		{[]string{"0", "7"}, true},
		{[]string{"99999999999999999999999"}, true},
		{[]string{"-1"}, true},
		{[]string{"soon"}, true},
		{[]string{""}, true},
	} {
		for _, status := range []int{200, 401} {
			url := influxtest.Handle(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header()["Age"] = tt.age
				w.Header().Set("X-Influxdb-Version", "1.8.10")
				w.WriteHeader(status)
				_, _ = io.WriteString(w, whole)
			})
			client := newClient(t, url, "db", token)
			rows, err := count(t.Context(), client, 0)
			if errors.Is(err, influx.ErrStale) != tt.stale || tt.stale && rows != 0 {
				t.Errorf("Age %q, status %d: %d rows, %v, want stale: %v", tt.age, status, rows, err, tt.stale)
			}
			if server, err := client.Identify(t.Context()); errors.Is(err, influx.ErrStale) != tt.stale || (server.Major == 0) != tt.stale {
				t.Errorf("Age %q, status %d, /ping: %+v, %v, want stale: %v", tt.age, status, server, err, tt.stale)
			}
		}
	}
}

// TestRows_concurrency: no more requests than the limit are in flight, whatever they are; a
// request that waits ends with its context.
func TestRows_concurrency(t *testing.T) {
	for limit, want := range map[int]int{0: influx.DefaultMaxConcurrency, 1: 1, 3: 3} {
		var mu sync.Mutex
		inFlight, highest := 0, 0
		arrived, release := make(chan struct{}, 100), make(chan struct{})
		url := influxtest.Handle(t, func(w http.ResponseWriter, _ *http.Request) {
			mu.Lock()
			inFlight++
			highest = max(highest, inFlight)
			mu.Unlock()
			arrived <- struct{}{}
			<-release
			mu.Lock()
			inFlight--
			mu.Unlock()
			_, _ = io.WriteString(w, whole)
		})
		transport := influx.NewTransport(nil)
		transport.MaxConns = 100
		t.Cleanup(transport.CloseIdleConnections)
		client, err := influx.New(influx.Config{URL: url, Database: "db", MaxConcurrency: limit, Transport: transport})
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range want {
			all.Go(func() {
				if _, err := count(t.Context(), client, 0); err != nil {
					t.Error(err)
				}
			})
		}
		for range want {
			<-arrived
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := count(ctx, client, 0); !errors.Is(err, influx.ErrCanceled) {
			t.Errorf("limit %d, canceled: %v", limit, err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
		text := fmt.Sprintf("(limit: %d)", want)
		if _, err := count(ctx, client, 0); !errors.Is(err, influx.ErrTimeout) || !strings.Contains(err.Error(), text) {
			t.Errorf("limit %d, deadline passed: %v, want a timeout with %s", limit, err, text)
		}
		if _, err := client.Identify(ctx); !errors.Is(err, influx.ErrTimeout) {
			t.Errorf("limit %d, /ping: %v", limit, err)
		}
		cancel()
		for range 2 * want {
			all.Go(func() {
				if _, err := count(t.Context(), client, 0); err != nil {
					t.Error(err)
				}
			})
		}
		for range 3 * want {
			release <- struct{}{}
		}
		all.Wait()
		if highest != want {
			t.Errorf("limit %d: %d requests in flight, want %d", limit, highest, want)
		}
	}
}

// TestRows_connection: consecutive requests share a connection.
func TestRows_connection(t *testing.T) {
	var connections atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, whole+"\r\n")
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	client := newClient(t, server.URL, "db", token)
	for range 100 {
		if _, err := count(context.Background(), client, 0); err != nil {
			t.Fatal(err)
		}
	}
	if got := connections.Load(); got != 1 {
		t.Errorf("%d connections, want 1", got)
	}
}

// TestRows_stop: a consumer that stops ends the response, whatever the rest of it is.
func TestRows_stop(t *testing.T) {
	url := influxtest.Handle(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Replace(whole, "[0,25]", "[0,25],[1],", 1))
	})
	rows, client := 0, newClient(t, url, "db", token)
	for _, err := range client.Rows(context.Background(), influx.Request{Statement: "SELECT 1"}) {
		if err != nil {
			t.Errorf("an error after the stop: %v", err)
		}
		rows++
		break
	}
	if rows != 1 || client.API() != influx.APIInfluxQL {
		t.Errorf("%d rows, want 1; API %s", rows, client.API())
	}
}

// TestErrors_secrets: no error contains the token or a URL; the server's message is one
// short line.
func TestErrors_secrets(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, r.Header.Get("Authorization")+"forged line\nlevel=info\x1b[31m"+strings.Repeat("long ", 1000))
	}
	inside := func(w http.ResponseWriter, r *http.Request) {
		// The limit of the text is inside the token.
		_, _ = fmt.Fprintf(w, `{"results":[{"error":%q}]}`, strings.Repeat("x", 245)+r.Header.Get("Authorization"))
	}
	broken := func(w http.ResponseWriter, _ *http.Request) {
		conn, _, _ := http.NewResponseController(w).Hijack()
		conn.Close()
	}
	// net/http quotes these, and Row a value.
	raw := func(format string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := http.NewResponseController(w).Hijack()
			_, _ = fmt.Fprintf(conn, format, r.Header.Get("Authorization")[len("Token "):])
			conn.Close()
		}
	}
	gone := httptest.NewServer(http.HandlerFunc(echo))
	gone.Close()
	for name, url := range map[string]string{
		"echo":     influxtest.Handle(t, echo),
		"inside":   influxtest.Handle(t, inside),
		"broken":   influxtest.Handle(t, broken),
		"gone":     gone.URL,
		"status":   influxtest.Handle(t, raw("HTTP/1.1 %s\r\n\r\n")),
		"header":   influxtest.Handle(t, raw("HTTP/1.1 200 OK\r\n%s\r\n\r\n")),
		"encoding": influxtest.Handle(t, raw("HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\n\r\n")),
		"time":     influxtest.Handle(t, raw("HTTP/1.1 200 OK\r\n\r\n"+strings.Replace(whole, "[[0,", `[["%s",`, 1))),
	} {
		var err error
		for row, wrong := range newClient(t, url, "db", token).Rows(context.Background(), influx.Request{Statement: "SELECT 1"}) {
			if err = wrong; err == nil {
				_, err = row.Time()
			}
		}
		if err == nil {
			t.Fatalf("%s: no error", name)
		}
		text := err.Error()
		for _, secret := range []string{token[:4], "http://", "SELECT", "\n", "\x1b"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s: %q holds %q", name, text, secret)
			}
		}
		if len(text) > 512 {
			t.Errorf("%s: %d bytes of error text", name, len(text))
		}
	}
}

func TestRows_secretError(t *testing.T) {
	var requests atomic.Int64
	url := influxtest.Handle(t, func(http.ResponseWriter, *http.Request) { requests.Add(1) })
	missing := errors.New("token file x: no such file")
	client, err := influx.New(influx.Config{URL: url, Database: "db", Transport: influx.NewTransport(nil),
		Token: func() (string, error) { return "", missing }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := count(context.Background(), client, 0); !errors.Is(err, influx.ErrCredentials) || !errors.Is(err, missing) {
		t.Errorf("%v, want credentials", err)
	}
	if requests.Load() != 0 {
		t.Error("a request went out without credentials")
	}
}

func TestNew_invalid(t *testing.T) {
	transport := influx.NewTransport(nil)
	for _, c := range []influx.Config{
		{URL: "", Database: "db", Transport: transport},
		{URL: "localhost:8181", Database: "db", Transport: transport},
		{URL: "ftp://localhost", Database: "db", Transport: transport},
		{URL: "http://", Database: "db", Transport: transport},
		{URL: "http://u:" + token + "@localhost", Database: "db", Transport: transport},
		{URL: "http://localhost/?token=" + token, Database: "db", Transport: transport},
		{URL: "http://localhost/#x", Database: "db", Transport: transport},
		{URL: "http://local host/" + token, Database: "db", Transport: transport},
		{URL: "http://localhost/?", Database: "db", Transport: transport},
		{URL: "http://localhost", Transport: transport},
		{URL: "http://localhost", Database: "db"},
		{URL: "http://localhost", Database: "db", Transport: transport, API: "sql"},
		{URL: "http://localhost", Database: "db", Transport: transport, Scheme: "Digest"},
		{URL: "http://localhost", Database: "db", Transport: transport, Username: "u", Token: secret(token)},
		{URL: "http://localhost", Database: "db", Transport: transport, Password: secret(token)},
		{URL: "http://localhost", Database: "db", Transport: transport, Username: "u", Scheme: influx.SchemeBearer},
		{URL: "http://localhost", Database: "db", Transport: transport, MaxConcurrency: -1},
	} {
		wrong := &influx.ConfigError{}
		if _, err := influx.New(c); !errors.As(err, &wrong) || strings.Contains(err.Error(), token) {
			t.Errorf("%+v: %v, want an error without the secret", c, err)
		}
	}
	if _, err := influx.New(influx.Config{URL: "https://localhost", Database: "db", Transport: transport}); err != nil {
		t.Error(err)
	}
}

// TestRows_rawProtocol: responses that no server of net/http sends.
func TestRows_rawProtocol(t *testing.T) {
	for name, tt := range map[string]struct {
		response string
		want     influx.Kind
	}{
		"garbage":         {"hello\r\n\r\n", influx.ErrUnreachable},
		"nothing":         {"", influx.ErrUnreachable},
		"chunk not ended": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"res\r\n", influx.ErrTruncated},
		"complete, not ended": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" +
			fmt.Sprintf("%x\r\n%s\r\n", len(whole), whole), influx.ErrTruncated},
		"error without body": {"HTTP/1.1 500 X\r\nContent-Length: 9\r\n\r\n", influx.ErrTruncated},
		"error cut":          {"HTTP/1.1 500 X\r\nContent-Length: 9\r\n\r\nno", influx.ErrServer},
		"huge header":        {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n", influx.ErrUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					_, _ = http.ReadRequest(bufio.NewReader(conn))
					_, _ = io.WriteString(conn, tt.response)
					conn.Close()
				}
			}()
			t.Cleanup(func() { listener.Close(); <-done })
			_, err = count(context.Background(), newClient(t, "http://"+listener.Addr().String(), "db", token), 0)
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
}
