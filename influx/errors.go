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

// Kind is one kind of failure. Callers tell failures apart with errors.Is
// against the constants below, never by text.
type Kind string

// The closed list of kinds.
const (
	// ErrUnauthorized: the credentials are missing, wrong or not sufficient.
	ErrUnauthorized Kind = "unauthorized"
	// ErrCredentials: the credentials could not be read; nothing was sent.
	ErrCredentials Kind = "credentials"
	// ErrDatabaseNotFound: the server does not know the database, or hides it.
	ErrDatabaseNotFound Kind = "database_not_found"
	// ErrRefused: the server understood the request and refuses the statement.
	ErrRefused Kind = "refused"
	// ErrFileLimit: InfluxDB 3 refuses to read so many Parquet files at once;
	// a narrower range of time may be accepted.
	ErrFileLimit Kind = "file_limit"
	// ErrOverloaded: the server says that it has too much to do now.
	ErrOverloaded Kind = "overloaded"
	// ErrServer: the server failed (HTTP 5xx) without saying that it refuses.
	ErrServer Kind = "server_error"
	// ErrNotFound: there is no such path: not an InfluxDB, or a wrong prefix.
	ErrNotFound Kind = "not_found"
	// ErrRedirected: the server points elsewhere; redirects are never followed.
	ErrRedirected Kind = "redirected"
	// ErrTruncated: the answer ended early or says itself that it is partial.
	ErrTruncated Kind = "truncated"
	// ErrMalformed: the answer is not the documented JSON, or not of the
	// documented shape.
	ErrMalformed Kind = "malformed"
	// ErrTooLarge: the answer exceeds the bound of the request.
	ErrTooLarge Kind = "too_large"
	// ErrTimeout: the deadline passed, here or at the server.
	ErrTimeout Kind = "timeout"
	// ErrCanceled: the caller gave up.
	ErrCanceled Kind = "canceled"
	// ErrUnreachable: no connection, no name, no TLS, or a connection that broke
	// before an answer began.
	ErrUnreachable Kind = "unreachable"
)

// Kinds returns every kind, for those who count failures by kind.
func Kinds() []Kind {
	return []Kind{
		ErrUnauthorized, ErrCredentials, ErrDatabaseNotFound, ErrRefused, ErrFileLimit, ErrOverloaded,
		ErrServer, ErrNotFound, ErrRedirected, ErrTruncated, ErrMalformed, ErrTooLarge, ErrTimeout,
		ErrCanceled, ErrUnreachable,
	}
}

// Error is the kind's name.
func (k Kind) Error() string { return string(k) }

// Error is the one error type of this package. It holds no URL, no statement and
// no credentials.
type Error struct {
	Kind   Kind
	Status int    // HTTP status; 0 when no answer began
	Text   string // what the server said: quoted, at most maxErrorText bytes before quoting; may be empty
	Err    error  // the cause on our side; may be nil
}

// maxErrorText bounds what is kept of a server's words, in bytes.
const maxErrorText = 256

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(string(e.Kind))
	if e.Text != "" {
		b.WriteString(": the server says " + e.Text)
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

// transportError names what went wrong before an answer began. The URL that
// net/http puts around its errors is left out.
func transportError(err error) error {
	if urlErr := (*url.Error)(nil); errors.As(err, &urlErr) {
		err = urlErr.Err
	}
	return &Error{Kind: waitKind(err, ErrUnreachable), Err: err}
}

// readError names what went wrong while an answer was being read.
func readError(status int, err error) error {
	if own := (*Error)(nil); errors.As(err, &own) {
		own.Status = status
		return own
	}
	kind := ErrTruncated
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		kind = ErrMalformed
		// Where encoding/json is made of its version 2, it says so of an end.
		if strings.HasPrefix(syntax.Error(), "unexpected end") {
			kind = ErrTruncated
		}
	}
	if unfit := (*json.UnmarshalTypeError)(nil); errors.As(err, &unfit) {
		// Its own text quotes what does not fit.
		kind, err = ErrMalformed, fmt.Errorf("a JSON value does not fit a %s", unfit.Type)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &Error{Kind: waitKind(err, kind), Status: status, Err: err}
}

// ended names what ended a context as the cause of what net/http may have called a
// closed connection, or a cancellation, by then.
func ended(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && (errors.Is(err, ErrTruncated) || errors.Is(err, ErrUnreachable) || errors.Is(err, ErrCanceled)) {
		return &Error{Kind: waitKind(cause, ErrCanceled), Err: cause}
	}
	return err
}

// waitKind is the kind of an error that may come from a context or a timeout.
func waitKind(err error, otherwise Kind) Kind {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, context.Canceled):
		return ErrCanceled
	case errors.As(err, &timeout) && timeout.Timeout(): // as context.DeadlineExceeded says of itself
		return ErrTimeout
	}
	return otherwise
}

// serverError turns what a server said into an error; a secret that it repeats is
// left out. It is the only place that reads a server's words; the words are those of
// recorded servers (influxtest: no-database, refusals, auth, file-limit) and of the
// documents that name limits
// (https://docs.influxdata.com/influxdb/v1/administration/config/).
func serverError(status int, text string, hidden secrets) error {
	text = hidden.hide(text)
	return &Error{Kind: classify(status, strings.ToLower(text)), Status: status, Text: quote(text)}
}

func classify(status int, text string) Kind {
	says := func(parts ...string) bool {
		for _, part := range parts {
			if strings.Contains(text, part) {
				return true
			}
		}
		return false
	}
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden,
		says("authorization header was malformed"):
		return ErrUnauthorized
	case status >= 300 && status < 400:
		return ErrRedirected
	case says("file limit"):
		return ErrFileLimit
	case says("database not found", "default retention policy not set"):
		return ErrDatabaseNotFound
	case says("query-timeout limit exceeded"), status == http.StatusGatewayTimeout:
		return ErrTimeout
	case says("max-concurrent-queries", "max-select", "resources exhausted"),
		status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		return ErrOverloaded
	case status == http.StatusNotFound:
		return ErrNotFound
	case status == http.StatusOK, status == http.StatusBadRequest, status == http.StatusUnprocessableEntity,
		status == http.StatusMethodNotAllowed,
		// InfluxDB 3 up to 3.6 refuses statements with 500.
		says("query error", "error in influxql statement", "statement per query", "must specify a 'db'"):
		return ErrRefused
	case status >= 500:
		return ErrServer
	}
	return ErrMalformed
}

// quote makes foreign text safe for one line of a log.
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
