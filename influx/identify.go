package influx

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
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
	// probeTimeout limits a probe, as does a quarter of the time left, so that a server that
	// hangs on /ping leaves time for the queries.
	probeTimeout = time.Second

	versionHeader = "X-Influxdb-Version"
)

// Identify returns the server's identity. It sends GET /ping, with the credentials, only if
// the identity is unknown: at first, after a failure, and after a response that contradicts
// it.
func (c *Client) Identify(ctx context.Context) (Server, error) {
	if known := c.server.Load(); known != nil {
		return *known, nil
	}
	wait := probeTimeout
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)/4)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	select {
	case c.probing <- struct{}{}:
		defer func() { <-c.probing }()
	case <-ctx.Done():
		return Server{}, transportError(context.Cause(ctx))
	}
	if known := c.server.Load(); known != nil {
		return *known, nil
	}
	var server Server
	err := c.get(ctx, "ping", nil, func(resp *http.Response, hidden secrets) error {
		if resp.StatusCode == http.StatusNotFound { // every InfluxDB serves /ping
			return nil
		}
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
			return errorResponse(resp, hidden)
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
		if err != nil {
			return readError(resp.StatusCode, err)
		}
		server = identity(resp.Header, body, hidden)
		return nil
	})
	if err != nil {
		return Server{}, err
	}
	c.server.Store(&server)
	return server, nil
}

// identity reads a response of /ping: 1.x and 2.x send their version in a header of every
// response, 3.1 and later in a header of /ping, and 3.x in its body.
func identity(header http.Header, body []byte, hidden secrets) Server {
	version := header.Get(versionHeader)
	if version == "" {
		var ping struct {
			Version string `json:"version"`
		}
		if json.Unmarshal(body, &ping) != nil || ping.Version == "" {
			return Server{}
		}
		version = ping.Version
	}
	version = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, version)
	version = strings.TrimPrefix(hidden.redact(version), "v") // after Map, which may join a secret
	if len(version) > maxVersionBytes {
		version = strings.ToValidUTF8(version[:maxVersionBytes], "")
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

// notice drops the server's identity when a response contradicts it: 1.x and 2.x send their
// version with every response, 3.x with /ping only.
func (c *Client) notice(resp *http.Response) {
	known := c.server.Load()
	if known == nil || known.Major == 0 {
		return
	}
	version := strings.TrimPrefix(resp.Header.Get(versionHeader), "v")
	if version == "" && known.Major == 3 || version == known.Version {
		return
	}
	c.forget()
}

func (c *Client) forget() {
	c.server.Store(nil)
	c.gateway.Store(false)
}

// changed reports whether another server may have caused a failure.
func changed(err error) bool {
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
	// APIAuto is InfluxQL, unless the server reports no version and has no /query.
	APIAuto API = "auto"
	// APIInfluxQL is /query, which InfluxDB 1.x, 2.x and 3.x serve.
	// https://docs.influxdata.com/influxdb3/core/query-data/execute-queries/influxdb-v1-api/
	APIInfluxQL API = "influxql"
	// APIV3Query is /api/v3/query?db=&q=, with SQL in the request and the JSON of InfluxDB 1.x
	// in the response. Only gateways serve it, no InfluxDB does.
	APIV3Query API = "v3-query"
)

var apis = []API{APIAuto, APIInfluxQL, APIV3Query}

// API returns the API to use: the configured one or the detected one. APIAuto means that the
// server reports no version: if /query is not found, try APIV3Query, which API returns after
// its first success.
func (c *Client) API() API {
	switch {
	case c.config.API != APIAuto:
		return c.config.API
	case c.gateway.Load():
		return APIV3Query
	}
	if known := c.server.Load(); known != nil && known.Major == 0 {
		return APIAuto
	}
	return APIInfluxQL
}
