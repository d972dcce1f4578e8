package main

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

func write(t *testing.T, file, text string) {
	t.Helper()
	must(t, os.WriteFile(file, []byte(text), 0o600))
}

// putInPlace puts a file in place as Kubernetes does: whole, by a rename.
func putInPlace(t *testing.T, file, text string) {
	t.Helper()
	write(t, file+".new", text)
	must(t, os.Rename(file+".new", file))
}

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
		says   string // in the log
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
		words := []string{step.says, "--influx.token-file"}
		log := e.logsWith(logged, words...)
		if slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(log, word) }) {
			t.Errorf("%s: the log does not say %q\n%s", step.name, step.says, log)
		}
	}
	everything := e.Logs() + get(t, e.URL+"/metrics", http.StatusOK) + get(t, e.URL+"/", http.StatusOK)
	if strings.Contains(everything, "canary") {
		t.Errorf("a token came out:\n%s", everything)
	}
}

// authority signs certificates for a test.
type authority struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	PEM   string
	until time.Time         // of what is issued
	leaf  *ecdsa.PrivateKey // of what is issued; nil: a new one each time
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{until: time.Now().Add(time.Hour)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	a.key = newKey(t)
	der := sign(t, template, template, &a.key.PublicKey, a.key)
	a.cert, a.PEM = parseCert(t, der), toPEM("CERTIFICATE", der)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func sign(t *testing.T, template, parent *x509.Certificate, public *ecdsa.PublicKey, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	must(t, err)
	return der
}

func parseCert(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert
}

func toPEM(kind string, der []byte) string {
	var b bytes.Buffer
	_ = pem.Encode(&b, &pem.Block{Type: kind, Bytes: der})
	return b.String()
}

// issue returns the PEM of a certificate for a name, and of its key.
func (a *authority) issue(t *testing.T, dnsName string) (cert, key string) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: dnsName}, DNSNames: []string{dnsName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: a.until,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	private := cmp.Or(a.leaf, newKey(t))
	der, err := x509.MarshalECPrivateKey(private)
	must(t, err)
	return toPEM("CERTIFICATE", sign(t, template, a.cert, &private.PublicKey, a.key)), toPEM("EC PRIVATE KEY", der)
}

func (a *authority) pair(t *testing.T, name string) tls.Certificate {
	t.Helper()
	cert, key := a.issue(t, name)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	must(t, err)
	return pair
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
	if log := careless.logsWith(0, "level=warn"); !strings.Contains(log, "level=warn") || !strings.Contains(log, "--influx.tls.insecure-skip-verify") {
		t.Errorf("no warning in\n%s", careless.Logs())
	}
}

// tlsFront is a proxy for influx.example that asks for a certificate of the same CA.
func tlsFront(t *testing.T, influxdb string, ca *authority) string {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	front := httptest.NewUnstartedServer(influxtest.Forward(t, influxdb))
	front.TLS = &tls.Config{Certificates: []tls.Certificate{ca.pair(t, "influx.example")}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	front.Config.ErrorLog = log.New(io.Discard, "", 0) // refusals are what is tested
	front.StartTLS()
	t.Cleanup(front.Close)
	return front.URL
}
