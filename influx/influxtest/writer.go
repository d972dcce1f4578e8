package influxtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

const (
	maxLines     = 5000 // lines in one request; the default limit of InfluxDB is 25 MB
	maxErrorText = 300  // bytes of a server's text in an error
	maxResponse  = 1 << 20
)

// Writer changes a database over HTTP. Its errors contain neither the token nor the URL, which may contain a password. It is
// safe for concurrent use.
type Writer struct {
	URL        string       // base URL, such as http://127.0.0.1:8086
	Token      string       // empty for no credentials
	AuthScheme string       // empty means Token, which InfluxDB 1.x, 2.x and 3.x accept
	HTTP       *http.Client // nil means http.DefaultClient
	Major      int          // 1, 2 or 3; 0 to use only routes that all versions have
}

// Exec executes a statement that needs no database, such as CREATE DATABASE.
func (w *Writer) Exec(ctx context.Context, statement string) error {
	return w.ExecIn(ctx, "", statement)
}

// ExecIn executes a statement in a database, such as DELETE or DROP SERIES.
func (w *Writer) ExecIn(ctx context.Context, database, statement string) error {
	form := url.Values{"q": {statement}}
	if database != "" {
		form.Set("db", database)
	}
	var result struct {
		Error   string
		Results []struct{ Error string }
	}
	err := w.do(ctx, http.MethodPost, "/query", "application/x-www-form-urlencoded", []byte(form.Encode()), &result)
	if err != nil {
		return fmt.Errorf("execute: %w", err)
	}
	for _, r := range result.Results {
		result.Error += r.Error
	}
	if result.Error != "" {
		return fmt.Errorf("execute: %s", w.clean(result.Error))
	}
	return nil
}

// Write writes lines of line protocol with times in nanoseconds, 5000 in each request. After an error, the lines of the
// requests before are stored. Writing all lines again is harmless, because equal points replace each other.
func (w *Writer) Write(ctx context.Context, database string, lines []string) error {
	path := "/write?" + url.Values{"db": {database}, "precision": {"ns"}}.Encode()
	if w.Major == 3 {
		path = "/api/v3/write_lp?" + url.Values{"db": {database}, "precision": {"nanosecond"}}.Encode()
	}
	for len(lines) > 0 {
		n := min(len(lines), maxLines)
		body := []byte(strings.Join(lines[:n], "\n") + "\n")
		if err := w.do(ctx, http.MethodPost, path, "text/plain; charset=utf-8", body, nil); err != nil {
			return fmt.Errorf("write %d lines: %w", n, err)
		}
		lines = lines[n:]
	}
	return nil
}

// statusError is a response with a status other than 2xx.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.text) }

// do sends a request and decodes the body of the response, JSON, into result unless that is nil.
func (w *Writer) do(ctx context.Context, method, path, contentType string, body []byte, result any) error {
	_, text, err := w.exchange(ctx, method, path, contentType, body)
	if err != nil || result == nil {
		return err
	}
	if err := json.Unmarshal(text, result); err != nil {
		return fmt.Errorf("decode the response: %w", err)
	}
	return nil
}

// doJSON is do with a body that is encoded as JSON unless it is nil.
func (w *Writer) doJSON(ctx context.Context, method, path string, body, result any) error {
	if body == nil {
		return w.do(ctx, method, path, "", nil, result)
	}
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	return w.do(ctx, method, path, "application/json", text, result)
}

func (w *Writer) exchange(ctx context.Context, method, path, contentType string, body []byte) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(w.URL, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, withoutURL(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if w.Token != "" {
		scheme := w.AuthScheme
		if scheme == "" {
			scheme = "Token"
		}
		req.Header.Set("Authorization", scheme+" "+w.Token)
	}
	client := w.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, withoutURL(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse))
	if err != nil {
		return nil, nil, fmt.Errorf("read the response: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		return nil, nil, &statusError{resp.StatusCode, w.clean(string(text))}
	}
	return resp, text, nil
}

func withoutURL(err error) error {
	var urlErr *url.Error
	if errors.As(err, &urlErr) {
		return urlErr.Err
	}
	return err
}

// clean returns a text of a server for an error: one short line, without the token, which a server may echo.
func (w *Writer) clean(text string) string {
	if w.Token != "" {
		text = strings.ReplaceAll(text, w.Token, "[token]")
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "") + "…"
	}
	return text
}
