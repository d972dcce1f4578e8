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

// Server is what a server says of itself.
type Server struct {
	// Major is 1, 2 or 3; 0 when what answers does not present itself as InfluxDB.
	Major int
	// Version is the version as reported, without a leading v: such as 1.8.10 or
	// 3.8.3. A plain build reports "unknown" (1.x) or "dev" (2.x).
	Version string
}

const (
	// maxVersionBytes bounds what is kept of a reported version.
	maxVersionBytes = 40
	// probeTimeout bounds a probe; a quarter of the time left bounds it too, so that
	// a server that hangs on /ping leaves time for the queries.
	probeTimeout = time.Second

	versionHeader = "X-Influxdb-Version"
)

// Identify returns which server answers. It asks (GET /ping, with the normal
// credentials) only while that is not known: at the beginning, after a failure, and
// after an answer that says that the server has changed.
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
		if resp.StatusCode == http.StatusNotFound { // every InfluxDB has a /ping
			return nil
		}
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
			return refusal(resp, hidden)
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusalBytes))
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

// identity reads an answer of /ping: 1.x and 2.x name their version in a header of
// every answer, 3.1 and later in one of /ping, and 3.x in its body.
func identity(header http.Header, body []byte, hidden secrets) Server {
	version := header.Get(versionHeader)
	if version == "" {
		var said struct {
			Version string `json:"version"`
		}
		if json.Unmarshal(body, &said) != nil || said.Version == "" {
			return Server{}
		}
		version = said.Version
	}
	version = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, version)
	version = strings.TrimPrefix(hidden.hide(version), "v") // now that nothing more is taken out of it
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

// notice forgets the server's identity when an answer contradicts it: 1.x and 2.x
// name their version on every answer, 3.x does so on /ping only.
func (c *Client) notice(resp *http.Response) {
	known := c.server.Load()
	if known == nil || known.Major == 0 {
		return
	}
	says := strings.TrimPrefix(resp.Header.Get(versionHeader), "v")
	if says == "" && known.Major == 3 || says == known.Version {
		return
	}
	c.forget()
}

func (c *Client) forget() {
	c.server.Store(nil)
	c.gateway.Store(false)
}

// changed reports whether a failure makes it doubtful who answers.
func changed(err error) bool {
	for _, kind := range []Kind{ErrUnauthorized, ErrNotFound, ErrRedirected, ErrServer, ErrMalformed, ErrTruncated} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// refusalText finds the server's words in an answer that is not 200.
func refusalText(body []byte) string {
	var said struct{ Error, Message string }
	if json.Unmarshal(body, &said) == nil && said.Error+said.Message != "" {
		return said.Error + said.Message
	}
	return string(body)
}
