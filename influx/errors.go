package influx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Kind is a kind of failure. Callers compare with errors.Is against the constants below,
// never by text.
type Kind string

// The closed list of kinds.
const (
	// ErrUnauthorized: the credentials are missing, wrong or not sufficient.
	ErrUnauthorized Kind = "unauthorized"
	// ErrCredentials: the credentials could not be read; nothing was sent.
	ErrCredentials Kind = "credentials"
	// ErrDatabaseNotFound: the database does not exist, or the credentials may not read it.
	ErrDatabaseNotFound Kind = "database_not_found"
	// ErrRefused: the server understood the request and rejected the statement.
	ErrRefused Kind = "refused"
	// ErrFileLimit: the query would read more Parquet files than InfluxDB 3 allows; a shorter
	// time range may be accepted.
	ErrFileLimit Kind = "file_limit"
	// ErrOverloaded: a limit of the server is reached.
	ErrOverloaded Kind = "overloaded"
	// ErrServer: the server failed (HTTP 5xx) and did not reject the statement.
	ErrServer Kind = "server_error"
	// ErrNotFound: the path does not exist: not an InfluxDB, or a wrong prefix.
	ErrNotFound Kind = "not_found"
	// ErrRedirected: the response is a redirect, which is never followed.
	ErrRedirected Kind = "redirected"
	// ErrTruncated: the response ended early, or is marked as partial.
	ErrTruncated Kind = "truncated"
	// ErrMalformed: the response is not the documented JSON, or has another structure.
	ErrMalformed Kind = "malformed"
	// ErrTooLarge: the response exceeds a limit.
	ErrTooLarge Kind = "too_large"
	// ErrStale: the response was stored in a cache.
	ErrStale Kind = "stale"
	// ErrProxy: a proxy rejected the request, or has no InfluxDB behind it.
	ErrProxy Kind = "proxy"
	// ErrTimeout: the deadline passed, here or at the server.
	ErrTimeout Kind = "timeout"
	// ErrCanceled: the caller canceled the request.
	ErrCanceled Kind = "canceled"
	// ErrUnreachable: the name, the connection or TLS failed, or the connection broke before
	// a response began.
	ErrUnreachable Kind = "unreachable"
)

// Kinds returns every kind.
func Kinds() []Kind {
	return []Kind{
		ErrUnauthorized, ErrCredentials, ErrDatabaseNotFound, ErrRefused, ErrFileLimit, ErrOverloaded,
		ErrServer, ErrNotFound, ErrRedirected, ErrTruncated, ErrMalformed, ErrTooLarge, ErrStale,
		ErrProxy, ErrTimeout, ErrCanceled, ErrUnreachable,
	}
}

// Error returns the name of the kind.
func (k Kind) Error() string { return string(k) }

// Error is the only error type of the requests of this package. It contains no URL, no statement
// and no credentials.
type Error struct {
	Kind   Kind
	Status int    // HTTP status; 0 without a response
	Text   string // error message in the response, quoted, up to maxErrorText bytes before quoting; may be empty
	Err    error  // cause in this process; may be nil
}

// maxErrorText limits the error message of a response, in bytes.
const maxErrorText = 256

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(string(e.Kind))
	if e.Text != "" {
		b.WriteString(": the server returned " + e.Text)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.Status != 0 && e.Status != http.StatusOK {
		fmt.Fprintf(&b, " (HTTP %d)", e.Status)
	}
	return b.String()
}

// Unwrap lets errors.Is find the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

func malformed(format string, args ...any) error {
	return &Error{Kind: ErrMalformed, Err: fmt.Errorf(format, args...)}
}

// transportError returns the error of a request without a response. It removes the URL that
// net/http adds to its errors.
func transportError(err error) error {
	if own := (*Error)(nil); errors.As(err, &own) { // of checkConnect
		return own
	}
	if urlErr := (*url.Error)(nil); errors.As(err, &urlErr) {
		err = urlErr.Err
	}
	return &Error{Kind: waitKind(err, ErrUnreachable), Err: err}
}

// readError returns the error of a response that can't be read.
func readError(status int, err error) error {
	if own := (*Error)(nil); errors.As(err, &own) {
		own.Status = status
		return own
	}
	kind := ErrTruncated
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		kind = ErrMalformed
		// encoding/json built on its version 2 returns a SyntaxError for a truncated input.
		if strings.HasPrefix(syntax.Error(), "unexpected end") {
			kind = ErrTruncated
		}
	}
	if mismatch := (*json.UnmarshalTypeError)(nil); errors.As(err, &mismatch) {
		// The text of the error quotes the value.
		kind, err = ErrMalformed, fmt.Errorf("a JSON value is not a %s", mismatch.Type)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &Error{Kind: waitKind(err, kind), Status: status, Err: err}
}

// withContext returns the end of the context as the error if it has ended: net/http may report it
// as a closed connection or a cancellation.
func withContext(ctx context.Context, err error) error {
	ambiguous := errors.Is(err, ErrTruncated) || errors.Is(err, ErrUnreachable) || errors.Is(err, ErrCanceled)
	if cause := context.Cause(ctx); cause != nil && ambiguous {
		return &Error{Kind: waitKind(cause, ErrCanceled), Err: cause}
	}
	return err
}

// waitKind returns the kind of an error that a context or a timeout may have caused.
func waitKind(err error, otherwise Kind) Kind {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, context.Canceled):
		return ErrCanceled
	case errors.As(err, &timeout) && timeout.Timeout(): // context.DeadlineExceeded too
		return ErrTimeout
	}
	return otherwise
}

// serverError returns the error of a response that contains an error message. Only classify
// interprets such messages: those of recorded servers (influxtest: no-database,
// refusals, auth, file-limit), and those of limits that are documented in
// https://docs.influxdata.com/influxdb/v1/administration/config/.
func serverError(status int, text string, hidden secrets) error {
	text = hidden.redact(text)
	return &Error{Kind: classify(status, strings.ToLower(text)), Status: status, Text: quote(text)}
}

func classify(status int, text string) Kind {
	contains := func(parts ...string) bool {
		for _, part := range parts {
			if strings.Contains(text, part) {
				return true
			}
		}
		return false
	}
	switch {
	case status == http.StatusProxyAuthRequired,
		(status == http.StatusForbidden || status == http.StatusServiceUnavailable) && fromProxy(text):
		return ErrProxy
	case status == http.StatusUnauthorized, status == http.StatusForbidden,
		contains("authorization header was malformed"):
		return ErrUnauthorized
	case status >= 300 && status < 400:
		return ErrRedirected
	case contains("file limit"):
		return ErrFileLimit
	case contains("database not found", "default retention policy not set"):
		return ErrDatabaseNotFound
	case contains("query-timeout limit exceeded"), status == http.StatusGatewayTimeout:
		return ErrTimeout
	case contains("max-concurrent-queries", "max-select", "resources exhausted"),
		status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		return ErrOverloaded
	case status == http.StatusNotFound:
		return ErrNotFound
	case status == http.StatusOK, status == http.StatusBadRequest, status == http.StatusUnprocessableEntity,
		status == http.StatusMethodNotAllowed,
		// InfluxDB 3 up to 3.6 rejects statements with 500.
		contains("query error", "error in influxql statement", "statement per query", "must specify a 'db'"):
		return ErrRefused
	case status >= 500:
		return ErrServer
	}
	return ErrMalformed
}

// fromProxy reports whether the body of an error response is one of a proxy: InfluxDB sends
// JSON, plain text or nothing. Most proxies send HTML, Envoy and Traefik these texts.
func fromProxy(text string) bool {
	text = strings.TrimSpace(text)
	for _, prefix := range []string{"<", "no healthy upstream", "upstream connect error", "no available server"} {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	return false
}

// quote makes the text of a server safe for one line of a log.
func quote(text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return ""
	}
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "\uFFFD") + "…"
	}
	return strconv.Quote(text)
}

// errorText returns the error message in the body of a response other than 200.
func errorText(body []byte) string {
	var message struct{ Error, Message string }
	if json.Unmarshal(body, &message) == nil && message.Error+message.Message != "" {
		return message.Error + message.Message
	}
	return string(body)
}
