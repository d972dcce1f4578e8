// Package influx queries InfluxDB 1.x, 2.x or 3.x over HTTP: one InfluxQL statement per
// request, on /query, which all three serve. It reads responses row by row, limits the size
// and the duration of everything from the network, and classifies failures.
//
// It contains no Prometheus, no logging and no names of measurements: it returns rows and
// errors. It imports the standard library only.
package influx

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"
)

const (
	// DefaultMaxBytes limits the response to a Request without a limit of its own.
	DefaultMaxBytes = 1 << 20
	// maxErrorBody limits how much is read of a response other than 200.
	maxErrorBody = 4 << 10
)

// Config names a database and how to query it.
type Config struct {
	// URL is the base URL, such as http://127.0.0.1:8181 or https://gateway.example/influx
	// with a path prefix. It must hold no credentials, no query and no fragment.
	URL string
	// Database is the name of the database; on 2.x the name of a bucket or of a DBRP mapping.
	Database string
	// API is the API that serves the queries; empty means APIAuto.
	API API
	// Username with Password, or Token, are the credentials; nil means not set.
	Username string
	Password Secret
	Token    Secret
	// Scheme is the authentication scheme; empty means SchemeAuto.
	Scheme Scheme
	// UserAgent is the User-Agent of every request.
	UserAgent string
	// Transport sends the requests; NewTransport returns one with limits.
	Transport http.RoundTripper
}

// ConfigError is an invalid field of Config. It never holds the field's value, which may
// contain a secret.
type ConfigError struct {
	Setting string // the name of the field
	Problem string
}

func (e *ConfigError) Error() string { return "influx: " + e.Setting + " " + e.Problem }

// Client queries one database. It is safe for concurrent use; one client reuses its
// connections.
type Client struct {
	config Config
	base   *url.URL
	http   *http.Client

	server  atomic.Pointer[Server] // nil while not known
	gateway atomic.Bool            // only /api/v3/query works
	probing chan struct{}          // one probe at a time
}

// New returns a client, without sending a request. The error is a *ConfigError.
func New(c Config) (*Client, error) {
	if c.API == "" {
		c.API = APIAuto
	}
	if c.Scheme == "" {
		c.Scheme = SchemeAuto
	}
	base, err := url.Parse(c.URL)
	wrong := func(setting, problem string) (*Client, error) { return nil, &ConfigError{setting, problem} }
	switch {
	case err != nil:
		return wrong("URL", "can't be parsed: expected a URL such as http://127.0.0.1:8181")
	case base.Scheme != "http" && base.Scheme != "https", base.Host == "":
		return wrong("URL", "must begin with http:// or https:// and name a host, such as http://127.0.0.1:8181")
	case base.User != nil:
		return wrong("URL", "must not contain a user or a password: they have settings of their own")
	case base.RawQuery != "", base.Fragment != "", base.ForceQuery:
		return wrong("URL", "must not contain a query or a fragment: the database has its own setting")
	case c.Database == "":
		return wrong("Database", "is empty: expected a name such as vmstats")
	case !slices.Contains(apis, c.API):
		return wrong("API", fmt.Sprintf("is %q: expected one of %q", c.API, apis))
	case !slices.Contains(schemes, c.Scheme):
		return wrong("Scheme", fmt.Sprintf("is %q: expected one of %q", c.Scheme, schemes))
	case c.Username != "" && c.Token != nil:
		return wrong("Username", "and a token are both set: expected one of them")
	case c.Password != nil && c.Username == "":
		return wrong("Password", "is set without a user")
	case c.Username != "" && c.Scheme == SchemeBearer:
		return wrong("Scheme", "is Bearer, which has no user: expected Basic or Token")
	case c.Transport == nil:
		return wrong("Transport", "is nil")
	}
	return &Client{
		config: c,
		base:   base,
		http: &http.Client{
			Transport: c.Transport,
			// A redirect would send the token to another host.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		probing: make(chan struct{}, 1),
	}, nil
}

// NewTransport returns a transport that limits everything but the duration of a request,
// which its context limits. It uses HTTP/1.1 and no proxy from the environment, so that a
// stray HTTP_PROXY never receives the token. A nil configuration verifies servers against
// the system's certificates.
func NewTransport(tlsConfig *tls.Config) *http.Transport {
	dialer := &net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}
	return &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    2 * time.Second,
		MaxConnsPerHost:        16,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// Request is one statement and the limit of its response.
type Request struct {
	// Statement is one statement, in the query language of the API. Its author must quote
	// names and strings (Ident, String): a GET can drop a measurement on 1.x.
	Statement string
	// API is APIInfluxQL (or empty) or APIV3Query.
	API API
	// MaxBytes limits the body of the response; 0 means DefaultMaxBytes.
	MaxBytes int64
}

// Rows sends one request and yields each row of the response while it is read, in the
// server's order. An error, an *Error, is the last element: the rows before it are invalid
// then. No row and no error can mean a missing measurement, a missing field, or no data in
// the time range: the servers return the same bytes for all three.
func (c *Client) Rows(ctx context.Context, q Request) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		err := c.Query(ctx, q, func(row Row) error {
			if !yield(row, nil) {
				return errStopped
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStopped) {
			yield(Row{}, err)
		}
	}
}

// errStopped ends a response whose consumer has stopped.
var errStopped = errors.New("stopped")

// Query is Rows with a callback for each row. The error may be one that row returned.
func (c *Client) Query(ctx context.Context, q Request, row func(Row) error) error {
	limit := q.MaxBytes
	if limit == 0 {
		limit = DefaultMaxBytes
	}
	path, values := "query", url.Values{"db": {c.config.Database}, "epoch": {"ns"}, "q": {q.Statement}}
	if q.API == APIV3Query {
		path = "api/v3/query"
		values.Del("epoch")
	}
	err := c.get(ctx, path, values, func(resp *http.Response, hidden secrets) error {
		if resp.StatusCode != http.StatusOK {
			return errorResponse(resp, hidden)
		}
		return decodeResponse(&limitedReader{r: resp.Body, left: limit}, resp.StatusCode, hidden, row)
	})
	if err == nil && q.API == APIV3Query {
		c.gateway.Store(true)
	}
	return err
}

// get sends one GET below the base URL. It calls read with the response, which get closes,
// and with the secrets that were sent.
func (c *Client) get(ctx context.Context, path string, query url.Values, read func(resp *http.Response, hidden secrets) error) error {
	target := c.base.JoinPath(path)
	target.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return &Error{Kind: ErrMalformed, Err: errors.New("the URL of InfluxDB can't be used in a request")}
	}
	// Nothing is decompressed, so that a small response can't grow.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", c.config.UserAgent)
	hidden, err := c.authorize(req)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		c.forget()
		return ended(ctx, hidden.redactError(transportError(err)))
	}
	defer resp.Body.Close()
	c.notice(resp)
	if encoding := resp.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return &Error{Kind: ErrMalformed, Status: resp.StatusCode, Err: errors.New("the response is compressed against the request")}
	}
	err = hidden.redactError(ended(ctx, read(resp, hidden)))
	// Without an InfluxDB version, a missing path does not change the identity.
	if known := c.server.Load(); changed(err) && (known == nil || known.Major != 0 || !errors.Is(err, ErrNotFound)) {
		c.forget()
	}
	return err
}

// errorResponse reads the beginning of a response other than 200. The servers send
// {"error":…}, {"code":…,"message":…}, plain text, or nothing.
func errorResponse(resp *http.Response, hidden secrets) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil && len(body) == 0 {
		return readError(resp.StatusCode, err)
	}
	return serverError(resp.StatusCode, errorText(body), hidden)
}
