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
	writeBatch  = 5000 // lines a request; InfluxDB takes 25 MB by default
	errorBytes  = 300  // of a server's error text that reach an error message
	answerBytes = 1 << 20
)

// Writer changes a database over HTTP by the routes that InfluxDB 1.x, 2.x and 3.x have in common. Its errors never
// contain the token, nor the URL, which may hold a password. It is safe for concurrent use.
type Writer struct {
	URL        string       // base URL, such as http://127.0.0.1:8086
	Token      string       // empty: no Authorization header
	AuthScheme string       // empty: Token, which all three take
	HTTP       *http.Client // nil: http.DefaultClient
	Major      int          // 1, 2 or 3; 0: not known, only the routes that all have
}

// Exec runs a statement that needs no database, such as CREATE DATABASE. A statement that InfluxDB refuses is an error.
func (w *Writer) Exec(ctx context.Context, statement string) error {
	return w.ExecIn(ctx, "", statement)
}

// ExecIn is Exec for a statement that works in a database, such as DELETE or DROP SERIES.
func (w *Writer) ExecIn(ctx context.Context, database, statement string) error {
	form := url.Values{"q": {statement}}
	if database != "" {
		form.Set("db", database)
	}
	var answer struct {
		Error   string
		Results []struct{ Error string }
	}
	err := w.do(ctx, http.MethodPost, "/query", "application/x-www-form-urlencoded", []byte(form.Encode()), &answer)
	if err != nil {
		return fmt.Errorf("execute: %w", err)
	}
	for _, r := range answer.Results {
		answer.Error += r.Error
	}
	if answer.Error != "" {
		return fmt.Errorf("execute: %s", w.clean(answer.Error))
	}
	return nil
}

// Write writes lines of line protocol with times in nanoseconds, 5000 a request. After an error the requests before the
// failed one are stored; writing all lines again is harmless, as equal points replace each other.
func (w *Writer) Write(ctx context.Context, database string, lines []string) error {
	path := "/write?" + url.Values{"db": {database}, "precision": {"ns"}}.Encode()
	if w.Major == 3 {
		path = "/api/v3/write_lp?" + url.Values{"db": {database}, "precision": {"nanosecond"}}.Encode()
	}
	for len(lines) > 0 {
		n := min(len(lines), writeBatch)
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

// do sends a request and decodes the body of its response, which is JSON, into answer, when that is not nil.
func (w *Writer) do(ctx context.Context, method, path, contentType string, body []byte, answer any) error {
	_, text, err := w.exchange(ctx, method, path, contentType, body)
	if err != nil || answer == nil {
		return err
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("decode the answer: %w", err)
	}
	return nil
}

// doJSON is do with a body that is encoded, when it is not nil.
func (w *Writer) doJSON(ctx context.Context, method, path string, body, answer any) error {
	if body == nil {
		return w.do(ctx, method, path, "", nil, answer)
	}
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	return w.do(ctx, method, path, "application/json", text, answer)
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
	text, err := io.ReadAll(io.LimitReader(resp.Body, answerBytes))
	if err != nil {
		return nil, nil, fmt.Errorf("read the answer: %w", err)
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

// clean makes a server's words fit for an error: one bounded line, without the token, which a server may echo.
func (w *Writer) clean(text string) string {
	if w.Token != "" {
		text = strings.ReplaceAll(text, w.Token, "[token]")
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > errorBytes {
		text = strings.ToValidUTF8(text[:errorBytes], "") + "…"
	}
	return text
}
