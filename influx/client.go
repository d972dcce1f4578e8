// Package influx queries InfluxDB 1.x, 2.x or 3.x over HTTP: one InfluxQL statement per
// request, on /query, which all three serve. It reads responses row by row, limits the size
// and the duration of everything from the network, and classifies failures.
//
// It contains no Prometheus, no logging and no names of measurements: it returns rows and
// errors. It imports the standard library only.
package influx

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// Config names a database and how to query it.
type Config struct {
	// URL is the base URL, such as http://127.0.0.1:8181 or https://gateway.example/influx
	// with a path prefix. It must contain no credentials, no query and no fragment.
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
	// Hidden are further secrets that must not appear in an error, such as the password of a proxy.
	Hidden []string
	// UserAgent is the User-Agent of every request.
	UserAgent string
	// MaxConcurrency limits the requests in flight; 0 means DefaultMaxConcurrency.
	MaxConcurrency int
	// Transport sends the requests; NewTransport returns one with limits.
	Transport http.RoundTripper
}

// ConfigError is an invalid field of Config. It never contains the value of the field, which may
// be a secret.
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

	inFlight slots
	prefix   string // of the parameter that makes a URL unique
	requests atomic.Uint64

	identity atomic.Pointer[identity] // nil while unknown
	pinging  slots                    // one /ping at a time
	api      atomic.Value             // API that has worked; APIAuto while unknown
}

// New returns a client, without sending a request. The error is a *ConfigError.
func New(c Config) (*Client, error) {
	if c.API == "" {
		c.API = APIAuto
	}
	if c.Scheme == "" {
		c.Scheme = SchemeAuto
	}
	if c.MaxConcurrency == 0 {
		c.MaxConcurrency = DefaultMaxConcurrency
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
	case c.MaxConcurrency < 0:
		return wrong("MaxConcurrency", fmt.Sprintf("is %d: expected 1 or more", c.MaxConcurrency))
	case c.Transport == nil:
		return wrong("Transport", "is nil")
	}
	client := &Client{
		config: c,
		base:   base,
		http: &http.Client{
			Transport: c.Transport,
			// A redirect would send the token to another host.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		inFlight: make(slots, c.MaxConcurrency),
		prefix:   rand.Text()[:12] + "-",
		pinging:  make(slots, 1),
	}
	client.api.Store(c.API)
	return client, nil
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
		err := c.query(ctx, q, func(row Row) error {
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

// query is Rows with a callback for each row. The error may be one that row returned.
func (c *Client) query(ctx context.Context, q Request, row func(Row) error) error {
	limit, api := q.MaxBytes, q.API
	if limit == 0 {
		limit = DefaultMaxBytes
	}
	path, values := "query", url.Values{"db": {c.config.Database}, "epoch": {"ns"}, "q": {q.Statement}}
	if api == APIV3Query {
		path = "api/v3/query"
		values.Del("epoch")
	} else {
		api = APIInfluxQL
	}
	named := false
	err := c.get(ctx, path, values, func(resp *http.Response, hidden secrets) error {
		_, named = resp.Header[versionHeader]
		if resp.StatusCode != http.StatusOK {
			return errorResponse(resp, hidden)
		}
		return decodeResponse(&limitedReader{r: resp.Body, left: limit}, resp.StatusCode, hidden, row)
	})
	c.detect(api, named, err)
	return err
}

// get sends one GET below the base URL. It calls read with the response, which get closes,
// and with the secrets that were sent.
func (c *Client) get(ctx context.Context, path string, query url.Values, read func(resp *http.Response, hidden secrets) error) error {
	target := c.base.JoinPath(path)
	// A cache in between has no response to a URL that is used once. All recorded servers
	// ignore the parameter (influxtest: another_parameter).
	query.Set("_", c.prefix+strconv.FormatUint(c.requests.Add(1), 36))
	target.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return &Error{Kind: ErrMalformed, Err: errors.New("the URL of InfluxDB can't be used in a request")}
	}
	// Nothing is decompressed, so that a small response can't grow.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("Cache-Control", "no-cache")
	req.Header.Set("User-Agent", c.config.UserAgent)
	if err := c.inFlight.acquire(ctx); err != nil {
		return err
	}
	defer c.inFlight.release()
	hidden, err := c.authorize(req)
	if err != nil {
		return err
	}
	hidden = append(hidden, c.config.Hidden...)
	stored := c.identity.Load()
	resp, err := c.http.Do(req)
	if err != nil {
		c.identity.CompareAndSwap(stored, nil)
		return withContext(ctx, hidden.redactError(transportError(err)))
	}
	defer resp.Body.Close()
	if err := fromCache(resp); err != nil {
		return err
	}
	c.updateIdentity(resp, hidden)
	if encoding := resp.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		err := errors.New("the response is compressed, which the request does not allow")
		return &Error{Kind: ErrMalformed, Status: resp.StatusCode, Err: err}
	}
	err = hidden.redactError(withContext(ctx, read(resp, hidden)))
	_, named := resp.Header[versionHeader]
	// A 404 of a server that reports no version does not contradict an identity without a version.
	if stored = c.identity.Load(); stored != nil && !named && doubtful(err) && (stored.Major != 0 || !errors.Is(err, ErrNotFound)) {
		c.identity.CompareAndSwap(stored, nil)
	}
	return err
}

// fromCache returns ErrStale for a response that was stored in a cache.
func fromCache(resp *http.Response) error {
	for _, age := range resp.Header.Values("Age") {
		if seconds, err := strconv.ParseUint(strings.TrimSpace(age), 10, 64); err != nil || seconds > 0 {
			return &Error{Kind: ErrStale, Status: resp.StatusCode, Err: errors.New("a cache returned a stored response (header Age)")}
		}
	}
	return nil
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
