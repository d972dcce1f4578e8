package influx

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Server is the identity that a server reports.
type Server struct {
	// Major is 1, 2 or 3; 0 for a server that reports no version.
	Major int
	// Version is the reported version without a leading v, such as 1.8.10 or 3.8.3. A build
	// without a version reports "unknown" (1.x) or "dev" (2.x).
	Version string
}

const (
	// maxVersionBytes limits a reported version.
	maxVersionBytes = 40
	// pingTimeout limits Identify.
	pingTimeout = time.Second
	// maxIdentityAge limits how long an identity is valid after the response that reported it:
	// InfluxDB 3 reports its version on /ping only.
	maxIdentityAge = 5 * time.Minute

	versionHeader = "X-Influxdb-Version"
)

// identity is the result of /ping, or of the header of another response.
type identity struct {
	Server
	at time.Time
}

func (i *identity) valid() bool { return i != nil && time.Since(i.at) < maxIdentityAge }

// Identify returns the server's identity, for information only: no query depends on it. It
// sends GET /ping, with the credentials, unless a response of the last five minutes reported a
// version. It takes up to a second. A server that returns no version, or hangs on /ping, is
// Server{} for five minutes, or until a response reports a version. The error is that of the
// request.
func (c *Client) Identify(ctx context.Context) (Server, error) {
	if stored := c.identity.Load(); stored.valid() {
		return stored.Server, nil
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if err := c.pinging.acquire(ctx); err != nil {
		return Server{}, err
	}
	defer c.pinging.release()
	stored := c.identity.Load()
	if stored.valid() {
		return stored.Server, nil
	}
	var server Server
	err := c.get(ctx, "ping", url.Values{}, func(resp *http.Response, hidden secrets) error {
		if server = newServer(resp.Header.Get(versionHeader), hidden); server.Major != 0 {
			return nil
		}
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
			return errorResponse(resp, hidden)
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
		if err != nil {
			return readError(resp.StatusCode, err)
		}
		server = bodyServer(body, hidden)
		return nil
	})
	failed := (*Error)(nil)
	switch {
	case err == nil && server.Major != 0:
		c.identity.Store(&identity{server, time.Now()})
	case err == nil, errors.Is(err, ErrTimeout) && !errors.Is(err, errNoSlot), errors.As(err, &failed) && failed.Status != 0:
		// A query's response may have reported a version in the meantime.
		if stored = c.identity.Load(); !stored.valid() {
			c.identity.CompareAndSwap(stored, &identity{at: time.Now()})
		}
	}
	return server, err
}

// updateIdentity stores the version in the header of a response: 1.x and 2.x send it with every
// response, whatever its status, 3.x with /ping. A response without one contradicts an
// identity as 1.x or 2.x.
func (c *Client) updateIdentity(resp *http.Response, hidden secrets) {
	stored := c.identity.Load()
	if server := newServer(resp.Header.Get(versionHeader), hidden); server.Major != 0 {
		c.identity.Store(&identity{server, time.Now()})
	} else if stored != nil && (stored.Major == 1 || stored.Major == 2) {
		c.identity.CompareAndSwap(stored, nil)
	}
}

// bodyServer reads the version from the body of /ping, where 3.x has it. A version other than 3.x
// is that of another service.
func bodyServer(body []byte, hidden secrets) Server {
	var ping struct {
		Version string `json:"version"`
	}
	if json.Unmarshal(body, &ping) != nil {
		return Server{}
	}
	if server := newServer(ping.Version, hidden); server.Major == 3 {
		return server
	}
	return Server{}
}

func newServer(version string, hidden secrets) Server {
	version = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, version)
	version = strings.TrimPrefix(hidden.redact(version), "v") // after Map, which may join the parts of a secret
	if len(version) > maxVersionBytes {
		version = strings.ToValidUTF8(version[:maxVersionBytes], "")
	}
	if version == "" {
		return Server{}
	}
	return Server{Major: major(version), Version: version}
}

func major(version string) int {
	if version == "dev" {
		return 2
	}
	number, _, _ := strings.Cut(version, ".")
	n, _ := strconv.Atoi(number)
	return min(max(n, 1), 3)
}

// doubtful reports whether another server may have caused a failure.
func doubtful(err error) bool {
	for _, kind := range []Kind{ErrUnauthorized, ErrNotFound, ErrRedirected, ErrServer, ErrMalformed, ErrTruncated} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// API is an HTTP API for queries.
type API string

const (
	// APIAuto is InfluxQL, unless the server has no /query and is no InfluxDB.
	APIAuto API = "auto"
	// APIInfluxQL is /query, which InfluxDB 1.x, 2.x and 3.x serve.
	// https://docs.influxdata.com/influxdb3/core/query-data/execute-queries/influxdb-v1-api/
	APIInfluxQL API = "influxql"
	// APIV3Query is /api/v3/query?db=&q=, with SQL in the request and the JSON of InfluxDB 1.x
	// in the response. Only gateways serve it, no InfluxDB does.
	APIV3Query API = "v3-query"
)

var apis = []API{APIAuto, APIInfluxQL, APIV3Query}

// API returns the configured API, or the one that has worked. It depends on queries only,
// not on /ping. APIAuto means that none has worked: query APIInfluxQL, and APIV3Query if the
// error is ErrNotFound.
func (c *Client) API() API {
	api, _ := c.api.Load().(API)
	return api
}

// detect stores the API that has worked, or that an InfluxDB version in the response to a
// query proves. An API that has worked and fails in a way that another server may have caused
// is to be detected again.
func (c *Client) detect(api API, named bool, err error) {
	switch {
	case c.config.API != APIAuto:
	case err == nil, errors.Is(err, errStopped), named && api == APIInfluxQL:
		c.api.Store(api)
	case doubtful(err) || errors.Is(err, ErrUnreachable):
		c.api.CompareAndSwap(api, APIAuto)
	}
}
