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

// Replay is a server that answers as recorded, and with 599 what was not recorded.
type Replay struct {
	URL string
	// Token is what stands for <token> in the recorded credentials.
	Token string

	mu        sync.Mutex
	exchanges []Exchange
	aliases   map[string]string
	requests  []string
	unknown   []string
	questions []string // statements among the unknown
}

// Serve starts a server that replays the exchanges of recordings, the first match
// first, until the test ends.
func Serve(tb testing.TB, recordings ...Recording) *Replay {
	tb.Helper()
	r := &Replay{Token: "s3cr3t-t0k3n", aliases: make(map[string]string)}
	for _, recording := range recordings {
		r.exchanges = append(r.exchanges, recording.Exchanges...)
	}
	r.URL = Handle(tb, r.ServeHTTP)
	return r
}

// Handle starts a server for one handler until the test ends, and returns its URL.
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

// Also adds exchanges to replay, after those that are there.
func (r *Replay) Also(exchanges ...Exchange) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exchanges = append(r.exchanges, exchanges...)
}

// Alias answers the statement asked as the statement recorded was answered, for a
// question whose older form was recorded.
func (r *Replay) Alias(asked, recorded string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.aliases[asked] = recorded
}

// Requests returns what was asked so far: "GET /ping", or the statement.
func (r *Replay) Requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.requests...)
}

// Unknown returns the requests that no recording answers.
func (r *Replay) Unknown() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.unknown...)
}

// UnknownStatements returns the statements that no recording answers.
func (r *Replay) UnknownStatements() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.questions...)
}

// ServeHTTP answers one request.
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
	answer, ok := r.find(req, query)
	if !ok {
		if query["q"] != "" {
			r.questions = append(r.questions, query["q"])
		}
		r.unknown = append(r.unknown, fmt.Sprintf("%s %s %q authorization %q", req.Method, req.URL.Path, query, req.Header.Get("Authorization")))
	}
	r.mu.Unlock()
	if !ok {
		http.Error(w, "not recorded", 599)
		return
	}
	for name, value := range answer.Response.Headers {
		// Framing is the server's own business.
		if !strings.EqualFold(name, "Transfer-Encoding") && !strings.EqualFold(name, "Content-Length") {
			w.Header().Set(name, value)
		}
	}
	w.WriteHeader(answer.Response.Status)
	_, _ = io.WriteString(w, answer.Response.Body)
}

// uniqueParameter differs in each request, and no server interprets it: see the exchanges
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

// authorized reports whether a request carries the header that a recorded request
// stands for: <token> is the right one, base64(…) is spelt out, and what follows a
// comma is a remark.
func (r *Replay) authorized(e Exchange, header string) bool {
	text, _, _ := strings.Cut(e.Request.Headers["Authorization"], ",")
	text = strings.ReplaceAll(text, "<token>", r.Token)
	text = encoded.ReplaceAllStringFunc(text, func(s string) string {
		return base64.StdEncoding.EncodeToString([]byte(encoded.FindStringSubmatch(s)[1]))
	})
	return text == header
}

var encoded = regexp.MustCompile(`base64\(([^)]*)\)`)
