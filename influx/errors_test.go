package influx

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// TestError: the text of an error, and what it unwraps to.
func TestError(t *testing.T) {
	for name, tt := range map[string]struct {
		err  Error
		want string
	}{
		"a kind alone":   {Error{Kind: ErrTimeout}, "timeout"},
		"with a message": {Error{Kind: ErrServer, Status: 500, Text: `"no"`}, `server_error: the server returned "no" (HTTP 500)`},
		"with a cause":   {Error{Kind: ErrMalformed, Status: 200, Err: io.EOF}, "malformed: EOF"},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
		if !errors.Is(&tt.err, tt.err.Kind) {
			t.Errorf("%s: is not %s", name, tt.err.Kind)
		}
		if tt.err.Err != nil && !errors.Is(&tt.err, tt.err.Err) {
			t.Errorf("%s: is not %v", name, tt.err.Err)
		}
		if slices.Contains(tt.err.Unwrap(), nil) {
			t.Errorf("%s: unwraps to %v", name, tt.err.Unwrap())
		}
	}
}

// TestServerError_text: the message of each form of error response, short and on one line.
func TestServerError_text(t *testing.T) {
	long := strings.Repeat("x", maxErrorText)
	for body, want := range map[string]string{
		`{"error":"a"}`:              `"a"`,
		`{"code":"c","message":"b"}`: `"b"`,
		`{"code":"c"}`:               `"{\"code\":\"c\"}"`,
		`{"error":"a"`:               `"{\"error\":\"a\""`,
		" plain\n":                   `"plain"`,
		" \n":                        "",
		long:                         `"` + long + `"`,
		long[1:] + "é":               `"` + long[1:] + "\uFFFD…" + `"`,
	} {
		var err *Error
		if errors.As(ServerError(500, []byte(body)), &err); err.Text != want {
			t.Errorf("%s: %s, want %s", body, err.Text, want)
		}
	}
}

// TestWithContext: the end of the context is the error of a connection that breaks after it.
func TestWithContext(t *testing.T) {
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancel := context.WithTimeout(context.Background(), 0)
	defer cancel()
	own := errors.New("own")
	caused, end := context.WithCancelCause(context.Background())
	end(own)
	for _, tt := range []struct {
		ctx       context.Context
		err, want error
	}{
		{t.Context(), ErrTruncated, ErrTruncated},
		{late, ErrTruncated, ErrTimeout},
		{late, ErrUnreachable, ErrTimeout},
		{late, ErrCanceled, ErrTimeout},
		{late, ErrServer, ErrServer},
		{late, own, own},
		{late, nil, nil},
		{canceled, ErrTruncated, ErrCanceled},
		{caused, ErrTruncated, ErrCanceled},
	} {
		err := tt.err
		if kind := Kind(""); errors.As(err, &kind) {
			err = &Error{Kind: kind}
		}
		if got := withContext(tt.ctx, err); !errors.Is(got, tt.want) {
			t.Errorf("%v, context %v: %v, want %v", tt.err, context.Cause(tt.ctx), got, tt.want)
		}
		if kind := Kind(""); errors.As(tt.want, &kind) && !slices.Contains(Kinds(), kind) {
			t.Errorf("Kinds misses %s", kind)
		}
	}
}

// TestRows_broken: a connection that breaks after the context's end is canceled; the error
// contains no secret.
func TestRows_broken(t *testing.T) {
	for name, respond := range map[string]func(error) (*http.Response, error){
		"before the response": func(err error) (*http.Response, error) { return nil, err },
		"in the response": func(err error) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(iotest.ErrReader(err))}, nil
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		var ends bool
		client, err := New(Config{URL: "http://influxdb.test", Database: "db",
			Username: "u", Password: func() (string, error) { return canary, nil },
			Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				if ends {
					cancel()
				}
				return respond(fmt.Errorf("%s, %s", canary, r.Header.Get("Authorization")))
			})})
		if err != nil {
			t.Fatal(err)
		}
		read := func() (err error) {
			for _, err = range client.Rows(ctx, Request{}) {
			}
			return err
		}
		encoded := base64.StdEncoding.EncodeToString([]byte("u:" + canary))
		if err := read(); err == nil || strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), encoded) {
			t.Errorf("%s: %v", name, err)
		}
		ends = true
		if err := read(); !errors.Is(err, ErrCanceled) {
			t.Errorf("%s, after the context has ended: %v", name, err)
		}
	}
}

func TestTransportError(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want Kind
	}{
		{context.Canceled, ErrCanceled},
		{context.DeadlineExceeded, ErrTimeout},
		{&net.OpError{Op: "dial", Err: &net.DNSError{IsTimeout: true}}, ErrTimeout},
		{&net.OpError{Op: "dial", Err: &net.DNSError{}}, ErrUnreachable},
	} {
		if err := transportError(tt.err); !errors.Is(err, tt.want) || !errors.Is(err, tt.err) {
			t.Errorf("%v: %v, want %s", tt.err, err, tt.want)
		}
	}
}

// TestSecrets_redactError: a secret is redacted as it is and as %q formats it; other text is
// unchanged up to its limit.
func TestSecrets_redactError(t *testing.T) {
	hidden := secrets{`a"b`, ""}
	for text, want := range map[string]string{
		`x a"b y`:                                   "x <secret> y",
		fmt.Sprintf("x %q y", `a"b`):                `x "<secret>" y`,
		"plain":                                     "plain",
		strings.Repeat("x", maxErrorLength):         strings.Repeat("x", maxErrorLength),
		strings.Repeat("x", maxErrorLength+1):       strings.Repeat("x", maxErrorLength) + "…",
		strings.Repeat("x", maxErrorLength-1) + "é": strings.Repeat("x", maxErrorLength-1) + "\uFFFD…",
	} {
		err := errors.New(text)
		got := hidden.redactError(err)
		covered := (*redactedError)(nil)
		if got.Error() != want || !errors.Is(got, err) || errors.As(got, &covered) != (text != want) {
			t.Errorf("%.50s: %.50s, want %.50s", text, got, want)
		}
	}
	if err := hidden.redactError(nil); err != nil {
		t.Error(err)
	}
}
