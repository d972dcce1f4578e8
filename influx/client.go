// Package influx queries an InfluxDB 1.x, 2.x or 3.x server over HTTP: one InfluxQL
// statement a request, on /query, which all three serve. It reads
// answers row by row, bounds everything that comes from the network, and tells
// kinds of failure apart.
//
// It must know neither Prometheus nor logging nor any measurement: it returns rows
// and errors. It imports the standard library only.
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
	// DefaultMaxBytes bounds an answer whose Request names no bound.
	DefaultMaxBytes = 1 << 20
	// maxRefusalBytes bounds what is read of an answer that is not 200.
	maxRefusalBytes = 4 << 10
)

// Config says which database is asked, and how. New checks it; no request is made.
type Config struct {
	// URL is the base URL, such as http://127.0.0.1:8181 or
	// https://gateway.example/influx (a path prefix is kept). It must hold no
	// credentials, no query and no fragment.
	URL string
	// Database is the name of the database: on 2.x that of a bucket or of a DBRP
	// mapping.
	Database string
	// API is the one that requests go to; empty means APIAuto.
	API API
	// Username, with Password, or Token are the credentials; without either, none
	// are sent. A nil Secret is one that is not given.
	Username string
	Password Secret
	Token    Secret
	// Scheme is how they are sent; empty means SchemeAuto.
	Scheme Scheme
	// UserAgent names us in the server's logs.
	UserAgent string
	// Transport makes the requests; NewTransport gives one with bounds.
	Transport http.RoundTripper
}

// ConfigError says which field of Config is wrong. It never holds the field's value,
// which may hold a secret.
type ConfigError struct {
	Setting string // the name of the field
	Problem string
}

func (e *ConfigError) Error() string { return "influx: " + e.Setting + " " + e.Problem }

// Client asks one database. It is safe for concurrent use, and made once so that
// connections are kept alive.
type Client struct {
	config Config
	base   *url.URL
	http   *http.Client

	server  atomic.Pointer[Server] // nil while not known
	gateway atomic.Bool            // answers /api/v3/query and nothing else
	probing chan struct{}          // holds one token: one probe at a time
}

// New checks the configuration and returns a client. The error is a *ConfigError.
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
		return wrong("URL", "can't be parsed: expected a form such as http://127.0.0.1:8181")
	case base.Scheme != "http" && base.Scheme != "https", base.Host == "":
		return wrong("URL", "must begin with http:// or https:// and name a host, such as http://127.0.0.1:8181")
	case base.User != nil:
		return wrong("URL", "must hold no user or password: they have settings of their own")
	case base.RawQuery != "", base.Fragment != "", base.ForceQuery:
		return wrong("URL", "must hold no query and no fragment: the database has its own setting")
	case c.Database == "":
		return wrong("Database", "is empty: expected a name such as vmstats")
	case !slices.Contains(apis, c.API):
		return wrong("API", fmt.Sprintf("is %q: expected one of %q", c.API, apis))
	case !slices.Contains(schemes, c.Scheme):
		return wrong("Scheme", fmt.Sprintf("is %q: expected one of %q", c.Scheme, schemes))
	case c.Username != "" && c.Token != nil:
		return wrong("Username", "is set beside a token: only one of them can be sent")
	case c.Password != nil && c.Username == "":
		return wrong("Password", "is set without a user")
	case c.Username != "" && c.Scheme == SchemeBearer:
		return wrong("Scheme", "is Bearer, which carries a token and no user")
	case c.Transport == nil:
		return wrong("Transport", "is nil")
	}
	return &Client{
		config: c,
		base:   base,
		http: &http.Client{
			Transport: c.Transport,
			// A redirect would carry the token to wherever it points.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		probing: make(chan struct{}, 1),
	}, nil
}

// NewTransport returns a transport with bounds on everything but the length of a
// request, which its context bounds. It takes no proxy from the environment, so
// that a stray HTTP_PROXY never sees the token, and speaks HTTP/1.1. A nil
// configuration verifies servers by the system's certificates.
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

// Request is one statement and the bound of its answer.
type Request struct {
	// Statement is one statement, in the language of the API. Whoever builds it
	// quotes what it names (Ident, String): a GET can drop a measurement on 1.x.
	Statement string
	// API is APIInfluxQL, as empty is, or APIV3Query.
	API API
	// MaxBytes bounds the answer's body; 0 means DefaultMaxBytes.
	MaxBytes int64
}

// Rows makes one request and yields each row of the response, in the server's order, as
// it is read. An error ends it: an *Error, after which the rows before it count for
// nothing. No row and no error can mean that there is no such measurement, no such
// field, or nothing in range: the servers answer all three with the same bytes.
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

// errStopped ends the reading of a response whose reader wants no more of it.
var errStopped = errors.New("stopped")

// Query is Rows with a call for each row; the error may be what row returned.
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
			return refusal(resp, hidden)
		}
		return decodeAnswer(&bounded{r: resp.Body, left: limit}, resp.StatusCode, hidden, row)
	})
	if err == nil && q.API == APIV3Query {
		c.gateway.Store(true)
	}
	return err
}

// get makes one GET below the base URL and hands the response to read, which need
// not close it, with the secrets that were sent, which must not come back in an error.
// What it learns of the server's identity it keeps.
func (c *Client) get(ctx context.Context, path string, query url.Values, read func(resp *http.Response, hidden secrets) error) error {
	target := c.base.JoinPath(path)
	target.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return &Error{Kind: ErrMalformed, Err: errors.New("the request can't be built from the URL of InfluxDB")}
	}
	// Asked for nothing else, a server has no reason to compress; what it sends
	// compressed all the same is refused below.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", c.config.UserAgent)
	hidden, err := c.authorize(req)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		c.forget()
		return ended(ctx, hidden.cover(transportError(err)))
	}
	defer resp.Body.Close()
	c.notice(resp)
	if encoding := resp.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return &Error{Kind: ErrMalformed, Status: resp.StatusCode, Err: errors.New("the answer is compressed unasked")}
	}
	err = hidden.cover(ended(ctx, read(resp, hidden)))
	// Where nothing presents itself as InfluxDB, a missing path is no news.
	if known := c.server.Load(); changed(err) && (known == nil || known.Major != 0 || !errors.Is(err, ErrNotFound)) {
		c.forget()
	}
	return err
}

// refusal reads the beginning of an answer that is not 200, in any of the forms
// that the servers use: {"error":…}, {"code":…,"message":…}, bare text, nothing.
func refusal(resp *http.Response, hidden secrets) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusalBytes))
	if err != nil && len(body) == 0 {
		return readError(resp.StatusCode, err)
	}
	return serverError(resp.StatusCode, refusalText(body), hidden)
}
