package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log/level"
)

// TestExporter_log: lines of the exporter, of the exporter-toolkit and of the standard library have
// one form.
func TestExporter_log(t *testing.T) {
	ca := newAuthority(t)
	dir := t.TempDir()
	certFile, keyFile, config := filepath.Join(dir, "cert"), filepath.Join(dir, "key"), filepath.Join(dir, "config")
	cert, key := ca.issue(t, "localhost")
	write(t, certFile, cert)
	write(t, keyFile, key)
	write(t, config, "tls_server_config:\n  cert_file: "+certFile+"\n  key_file: "+keyFile+"\n")
	e := startExporter(t, []string{"INFLUX_URL=http://127.0.0.1:1"}, "--web.config.file="+config)
	conn, err := net.Dial("tcp", strings.TrimPrefix(e.URL, "http://"))
	must(t, err)
	_, err = io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n") // net/http logs that this is no TLS
	must(t, err)
	_, _ = io.Copy(io.Discard, conn)
	conn.Close()
	logs := e.logsWith(0, "TLS handshake error")
	for from, line := range map[string]string{
		"the exporter":         `msg=starting version=`,
		"the exporter-toolkit": `msg="Listening on" address=`,
		"net/http":             `msg="http: TLS handshake error from 127\.0\.0\.1:\d+: `,
	} {
		form := regexp.MustCompile(`(?m)^level=[a-z]+ ts=\d{4}-\d\d-\d\dT[0-9:.]+Z caller=[a-z_]+\.go:\d+ ` + line)
		if !form.MatchString(logs) {
			t.Errorf("a line of %s has another form:\n%s", from, logs)
		}
	}
	if strings.Contains(logs, " time=") {
		t.Errorf("a line has another key for the time:\n%s", logs)
	}
}

// TestLoggers_json: the lines are JSON objects with the same keys.
func TestLoggers_json(t *testing.T) {
	var out bytes.Buffer
	base, logger := newLoggers(options{logFormat: "json", logLevel: "info"}, &out)
	toolkitLog(base).Info("a", slog.Duration("took", time.Second))
	toolkitLog(base).Debug("not allowed")
	errorLog(base).Print("http: TLS handshake error from 127.0.0.1:1: EOF")
	must(t, level.Info(logger).Log("msg", "c"))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines, want 3:\n%s", len(lines), &out)
	}
	for i, msg := range []string{"a", "http: TLS handshake error from 127.0.0.1:1: EOF", "c"} {
		var line struct {
			Level, Caller, Msg string
			TS                 time.Time
		}
		must(t, json.Unmarshal([]byte(lines[i]), &line))
		if line.Msg != msg || line.TS.IsZero() || line.Level == "" || !strings.Contains(line.Caller, ".go:") {
			t.Errorf("%s, want a line about %q", lines[i], msg)
		}
	}
}
