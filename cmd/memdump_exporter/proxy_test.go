package main

import (
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

const (
	// behindProxy is a name that only the proxy can resolve.
	behindProxy   = "influxdb.invalid"
	proxyPassword = "t0p-s3cr3t"
)

// httpProxy is an HTTP proxy that forwards requests and tunnels connections to one server, whatever
// host they name. It requires the user u with proxyPassword.
type httpProxy struct {
	address         string // host:port
	forwarded, open atomic.Int64
}

func newHTTPProxy(t *testing.T, server string) *httpProxy {
	t.Helper()
	to, err := url.Parse(server)
	must(t, err)
	p := &httpProxy{}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		credentials := r.Header.Get("Proxy-Authorization")
		if credentials != "Basic "+basic("u", proxyPassword) {
			w.WriteHeader(http.StatusProxyAuthRequired)
			_, _ = io.WriteString(w, "not accepted: "+credentials) // a proxy may repeat them
			return
		}
		if r.Host != behindProxy && !strings.HasPrefix(r.Host, behindProxy+":") {
			t.Errorf("a request to %q came to the proxy", r.Host)
		}
		if r.Method != http.MethodConnect {
			p.forwarded.Add(1)
			forward.ServeHTTP(w, r)
			return
		}
		p.open.Add(1)
		p.tunnel(t, w, to.Host)
	}))
	t.Cleanup(front.Close)
	p.address = front.Listener.Addr().String()
	return p
}

func basic(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}

// tunnel copies between a client and the server until one of them closes its connection.
func (p *httpProxy) tunnel(t *testing.T, w http.ResponseWriter, address string) {
	server, err := net.Dial("tcp", address)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	client, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	_, _ = io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() {
		_, _ = io.Copy(server, client)
		server.Close()
	}()
	_, _ = io.Copy(client, server)
	client.Close()
}

// flag returns the flag that makes the exporter use the proxy.
func (p *httpProxy) flag(password string) string {
	return "--influx.proxy-url=http://u:" + password + "@" + p.address
}

// TestProxy: through a proxy, the metrics are the truth, for an InfluxDB whose name only the proxy
// can resolve; check tests the proxy; its credentials are in no output.
func TestProxy(t *testing.T) {
	server := influxdb.Server(t)
	h := influxtest.Believable(5, time.Now())
	server.MustStore(t, "vmstats", h)
	ca := newAuthority(t)
	dir := t.TempDir()
	caFile, certFile, keyFile := filepath.Join(dir, "ca"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	cert, key := ca.issue(t, "exporter")
	write(t, caFile, ca.PEM)
	write(t, certFile, cert)
	write(t, keyFile, key)
	secured := []string{"--influx.tls.ca-file=" + caFile, "--influx.tls.server-name=influx.example",
		"--influx.tls.cert-file=" + certFile, "--influx.tls.key-file=" + keyFile}
	for scheme, tt := range map[string]struct {
		server  string
		args    []string
		checked string // what check prints
	}{
		"http":  {server.URL, nil, "ok    database"},
		"https": {tlsFront(t, server.URL, ca), secured, "ok    TLS"},
	} {
		t.Run(scheme, func(t *testing.T) {
			p := newHTTPProxy(t, tt.server)
			args := append([]string{"--influx.url=" + scheme + "://" + behindProxy + ":8086"}, tt.args...)
			truth(h).holds(t, startExporter(t, nil, append(args, p.flag(proxyPassword))...).scrape(t))
			if used := p.forwarded.Load() > 0; used != (scheme == "http") {
				t.Errorf("%d requests were forwarded", p.forwarded.Load())
			}
			if used := p.open.Load() > 0; used != (scheme == "https") {
				t.Errorf("%d connections were tunnelled", p.open.Load())
			}
			text := checked(t, 0, append(args, p.flag(proxyPassword))...)
			for _, want := range []string{
				"through the proxy HOST:PORT", "ok    name                  127.0.0.1 is 127.0.0.1", tt.checked, "memdump_up 1",
			} {
				if !strings.Contains(text, want) {
					t.Errorf("check prints no %q:\n%s", want, text)
				}
			}

			const wrong = "wr0ng-s3cr3t"
			refused := startExporter(t, nil, append(args, p.flag(wrong))...)
			checkAway(t, "wrong password", refused.scrape(t), "proxy")
			text += checked(t, 1, append(args, p.flag(wrong))...)
			if !strings.Contains(text, "→ --influx.proxy-url (INFLUX_PROXY_URL): does the proxy accept these credentials") {
				t.Errorf("check does not name the flag of the proxy:\n%s", text)
			}
			text += refused.logsWith(0, "(HTTP 407)") + get(t, refused.URL+"/metrics", http.StatusOK) + get(t, refused.URL+"/", http.StatusOK)
			for _, secret := range []string{wrong, basic("u", wrong), proxyPassword, basic("u", proxyPassword)} {
				if strings.Contains(text, secret) {
					t.Errorf("%q came out:\n%s", secret, text)
				}
			}
		})
	}
}

// TestCheck_proxy: check names the flag of a proxy that cannot be reached, and a variable that sets
// a proxy for other programs.
func TestCheck_proxy(t *testing.T) {
	for name, tt := range map[string]struct {
		variable, url, proxy string
		want                 string
	}{
		"no proxy there": {"", "http://" + behindProxy, "http://127.0.0.1:1",
			"→ --influx.proxy-url (INFLUX_PROXY_URL): does the proxy run there?"},
		"no name of a proxy": {"HTTPS_PROXY", "http://127.0.0.1:1", "http://" + behindProxy,
			"→ --influx.proxy-url (INFLUX_PROXY_URL): no such name"},
		"no name": {"HTTPS_PROXY", "http://" + behindProxy, "",
			"no name server; HTTPS_PROXY is set, but the exporter ignores it: set --influx.proxy-url (INFLUX_PROXY_URL)"},
		"no connection":              {"http_proxy", "http://127.0.0.1:1", "", "8181; http_proxy is set, but the exporter ignores it"},
		"no connection, no variable": {"", "http://127.0.0.1:1", "", "3.x on 8181\n"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, variable := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
				t.Setenv(variable, "")
			}
			if tt.variable != "" {
				t.Setenv(tt.variable, "http://127.0.0.1:1")
			}
			text := checked(t, 1, "--influx.url="+tt.url, "--influx.proxy-url="+tt.proxy)
			if !strings.Contains(text, tt.want) {
				t.Errorf("no %q in\n%s", tt.want, text)
			}
			if tt.variable == "" && strings.Contains(text, "ignores it") {
				t.Errorf("a variable that is not set is named:\n%s", text)
			}
		})
	}
}
