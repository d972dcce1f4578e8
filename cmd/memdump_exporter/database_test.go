package main

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

// TestTokenFile: the next scrape uses what is in the file now, and a file that holds no
// token is one clear reason, and no request without credentials.
func TestTokenFile(t *testing.T) {
	server := influxdb.Server(t)
	server.MustStore(t, "vmstats", influxtest.Believable(5, time.Now()))
	w := newFront(t, server.URL)
	file := filepath.Join(t.TempDir(), "token")
	write(t, file, "canary-first\n")
	e := startExporter(t, []string{"INFLUX_URL=" + w.URL, "INFLUX_TOKEN_FILE=" + file})

	for _, step := range []struct {
		name   string
		change func()
		want   string // the header; empty: no request
		log    string // part of it
	}{
		{"first", func() {}, "Token canary-first", ""},
		{"in place", func() { write(t, file, "canary-second") }, "Token canary-second", ""},
		{"atomically", func() { putInPlace(t, file, "  canary-third\r\n") }, "Token canary-third", ""},
		{"empty", func() { write(t, file, " \n") }, "", file + " is blank: expected a token"},
		{"back", func() { write(t, file, "canary-fourth") }, "Token canary-fourth", ""},
		{"huge", func() { write(t, file, strings.Repeat("canary", 20_000)) }, "", file + " has more than 65536 bytes"},
		{"two lines", func() { write(t, file, "canary-a\ncanary-b") }, "", "a control character"},
		{"gone", func() { _ = os.Remove(file) }, "", "no such file"},
		{"a directory", func() { _ = os.Mkdir(file, 0o700) }, "", file + " is not a file"},
		{"back again", func() { _ = os.Remove(file); write(t, file, "canary-fifth") }, "Token canary-fifth", ""},
	} {
		step.change()
		w.taken()
		logged := len(e.Logs())
		got := e.scrape(t)
		requests := w.taken()
		if step.want != "" {
			if up := got.value("memdump_up"); up != 1 {
				t.Errorf("%s: memdump_up is %v", step.name, up)
			}
			for _, r := range requests {
				if header := r.Header.Get("Authorization"); header != step.want {
					t.Errorf("%s: %s with %q", step.name, r.URL.Path, header)
				}
			}
			continue
		}
		checkAway(t, step.name, got, "credentials")
		if len(requests) > 0 {
			t.Errorf("%s: %d requests were sent", step.name, len(requests))
		}
		words := []string{step.log, "--influx.token-file"}
		log := e.logsWith(logged, words...)
		if slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(log, word) }) {
			t.Errorf("%s: no %q in the log:\n%s", step.name, step.log, log)
		}
	}
	everything := e.Logs() + get(t, e.URL+"/metrics", http.StatusOK) + get(t, e.URL+"/", http.StatusOK)
	if strings.Contains(everything, "canary") {
		t.Errorf("a token came out:\n%s", everything)
	}
}

// TestTLS: a server is verified by the CA that is named, and shown a certificate, both
// as their files are now; not verifying is visible.
func TestTLS(t *testing.T) {
	server := influxdb.Server(t)
	h := influxtest.Believable(5, time.Now())
	server.MustStore(t, "vmstats", h)
	ca := newAuthority(t)
	front := tlsFront(t, server.URL, ca)

	dir := t.TempDir()
	caFile, certFile, keyFile := filepath.Join(dir, "ca"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	cert, key := ca.issue(t, "exporter")
	write(t, caFile, ca.PEM)
	write(t, certFile, cert)
	write(t, keyFile, key)
	env := []string{"INFLUX_URL=" + front}
	client := []string{"--influx.tls.cert-file=" + certFile, "--influx.tls.key-file=" + keyFile}
	named := "--influx.tls.server-name=influx.example"
	good := append([]string{"--influx.tls.ca-file=" + caFile, named}, client...)

	e := startExporter(t, env, good...)
	truth(h).holds(t, e.scrape(t))
	if insecure := e.scrape(t).value("memdump_influxdb_tls_insecure"); insecure != 0 {
		t.Errorf("memdump_influxdb_tls_insecure is %v", insecure)
	}
	putInPlace(t, caFile, newAuthority(t).PEM)
	checkAway(t, "another CA", e.scrape(t), "unreachable")
	putInPlace(t, caFile, ca.PEM)
	if up := e.scrape(t).value("memdump_up"); up != 1 {
		t.Errorf("memdump_up is %v with the right CA back", up)
	}

	for name, args := range map[string][]string{
		"unknown CA":     append([]string{named}, client...),
		"another name":   append([]string{"--influx.tls.ca-file=" + caFile}, client...),
		"no certificate": {"--influx.tls.ca-file=" + caFile, named},
	} {
		checkAway(t, name, startExporter(t, env, args...).scrape(t), "unreachable")
	}
	careless := startExporter(t, env, append([]string{"--influx.tls.insecure-skip-verify"}, client...)...)
	got := careless.scrape(t)
	truth(h).holds(t, got)
	if insecure := got.value("memdump_influxdb_tls_insecure"); insecure != 1 {
		t.Errorf("memdump_influxdb_tls_insecure is %v", insecure)
	}
	log := careless.logsWith(0, "level=warn")
	if !strings.Contains(log, "level=warn") || !strings.Contains(log, "--influx.tls.insecure-skip-verify") {
		t.Errorf("no warning in\n%s", careless.Logs())
	}
}
