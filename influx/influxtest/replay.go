package influxtest

import (
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// Replay is a server that responds as recorded, and with status 599 to requests that
// are not recorded.
type Replay struct {
	URL string
	// Token replaces <token> in the recorded credentials.
	Token string

	mu                sync.Mutex
	exchanges         []Exchange
	aliases           map[string]string
	requests          []string
	unknown           []string
	unknownStatements []string
}

// Serve starts a server that replays the exchanges of recordings until the test ends.
// If several exchanges match a request, it replays the first one.
func Serve(tb testing.TB, recordings ...Recording) *Replay {
	tb.Helper()
	r := &Replay{Token: "s3cr3t-t0k3n", aliases: make(map[string]string)}
	for _, recording := range recordings {
		r.exchanges = append(r.exchanges, recording.Exchanges...)
	}
	r.URL = Handle(tb, r.ServeHTTP)
	return r
}

// Handle starts a server with a handler until the test ends, and returns its URL.
func Handle(tb testing.TB, handler http.HandlerFunc) string {
	tb.Helper()
	server := httptest.NewServer(handler)
	tb.Cleanup(server.Close)
	return server.URL
}

// MustLoad is Load for tests.
func MustLoad(tb testing.TB, server, scenario string) Recording {
	tb.Helper()
	r, err := Load(server, scenario)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// Also appends exchanges to those that the server replays.
func (r *Replay) Also(exchanges ...Exchange) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exchanges = append(r.exchanges, exchanges...)
}

// Alias makes the server respond to a statement as to a recorded one, such as an older
// form of the same query.
func (r *Replay) Alias(statement, recorded string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.aliases[statement] = recorded
}

// Requests returns the statements of all requests, or their method and path, such as
// "GET /ping".
func (r *Replay) Requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.requests...)
}

// Unknown returns the requests that are not recorded.
func (r *Replay) Unknown() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.unknown...)
}

// UnknownStatements returns the statements that are not recorded.
func (r *Replay) UnknownStatements() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.unknownStatements...)
}

// ServeHTTP responds to one request.
func (r *Replay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	query := make(map[string]string)
	for name, values := range req.URL.Query() {
		query[name] = strings.Join(values, "\x00")
	}
	delete(query, uniqueParameter)
	r.mu.Lock()
	name := query["q"]
	if name == "" {
		name = req.Method + " " + req.URL.Path
	}
	r.requests = append(r.requests, name)
	if recorded, ok := r.aliases[query["q"]]; ok {
		query["q"] = recorded
	}
	exchange, ok := r.find(req, query)
	if !ok {
		if query["q"] != "" {
			r.unknownStatements = append(r.unknownStatements, query["q"])
		}
		r.unknown = append(r.unknown, fmt.Sprintf("%s %s %q authorization %q", req.Method, req.URL.Path, query, req.Header.Get("Authorization")))
	}
	r.mu.Unlock()
	if !ok {
		http.Error(w, "not recorded", 599)
		return
	}
	for name, value := range exchange.Response.Headers {
		// net/http sets the headers of the framing.
		if !strings.EqualFold(name, "Transfer-Encoding") && !strings.EqualFold(name, "Content-Length") {
			w.Header().Set(name, value)
		}
	}
	w.WriteHeader(exchange.Response.Status)
	_, _ = io.WriteString(w, exchange.Response.Body)
}

// uniqueParameter differs in each request. No server interprets it: see the exchanges
// another_parameter.
const uniqueParameter = "_"

func (r *Replay) find(req *http.Request, query map[string]string) (Exchange, bool) {
	for _, e := range r.exchanges {
		if e.Request.Method == req.Method && e.Request.Path == req.URL.Path && maps.Equal(e.Request.Query, query) &&
			r.authorized(e, req.Header.Get("Authorization")) {
			return e, true
		}
	}
	return Exchange{}, false
}

// authorized reports whether a request has the credentials of a recorded one, in which
// <token> stands for Token, base64(…) for its encoding, and a remark follows a comma.
func (r *Replay) authorized(e Exchange, header string) bool {
	text, _, _ := strings.Cut(e.Request.Headers["Authorization"], ",")
	text = strings.ReplaceAll(text, "<token>", r.Token)
	text = encoded.ReplaceAllStringFunc(text, func(s string) string {
		return base64.StdEncoding.EncodeToString([]byte(encoded.FindStringSubmatch(s)[1]))
	})
	return text == header
}

var encoded = regexp.MustCompile(`base64\(([^)]*)\)`)
