package influxtest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Nginx starts a real nginx until the test ends, and returns its URL. http and server are the content of these blocks of the
// configuration, in which ${DIR} is a temporary directory. Nginx skips the test if nginx is not installed.
func Nginx(tb testing.TB, http, server string) string {
	tb.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		path = "/usr/sbin/nginx" // on Debian, this folder is only in root's PATH
	}
	if !isExecutable(path) {
		tb.Skip("no nginx (Debian's package nginx-light, which .ci/run installs)")
	}
	for range 5 {
		if url, ok := startNginx(tb, path, http, server); ok {
			return url
		}
	}
	tb.Fatal("nginx: other processes have taken five ports")
	return ""
}

// startNginx returns false if another process has taken the port.
func startNginx(tb testing.TB, path, http, server string) (url string, ok bool) {
	tb.Helper()
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(nginxConfig(dir, address, http, server)), 0o600); err != nil {
		tb.Fatal(err)
	}
	listens := make(chan struct{})
	var once sync.Once
	log := &tail{line: func(line string) {
		if strings.Contains(line, "[notice]") { // the version, which nginx logs when it is listening
			once.Do(func() { close(listens) })
		}
	}}
	cmd := exec.Command(path, "-p", dir, "-c", file)
	cmd.Stdout, cmd.Stderr = log, log
	proc, err := StartProcess(cmd)
	if err != nil {
		tb.Fatal(err)
	}
	select {
	case <-listens:
	case <-proc.Done():
		if strings.Contains(log.String(), "Address already in use") {
			return "", false
		}
		tb.Fatalf("nginx ended: %v: %s", proc.Err(), log)
	}
	tb.Cleanup(func() {
		if err := proc.Stop(); err != nil {
			tb.Error(err)
		}
		if err := proc.Err(); err != nil {
			tb.Errorf("nginx ended: %v", err)
		}
		if tb.Failed() {
			tb.Logf("nginx: %s", log)
		}
	})
	return "http://" + address, true
}

// nginxConfig returns the configuration of an nginx that listens on address.
func nginxConfig(dir, address, http, server string) string {
	return os.Expand(`
daemon off;
master_process off; # a worker would outlive a test that is killed
pid ${DIR}/pid;
error_log stderr notice;
events {}
http {
	access_log off;
	client_body_temp_path ${DIR}/body;
	proxy_temp_path ${DIR}/proxy;
	fastcgi_temp_path ${DIR}/fastcgi;
	scgi_temp_path ${DIR}/scgi;
	uwsgi_temp_path ${DIR}/uwsgi;
`+http+`
	server {
		listen ${ADDRESS};
`+server+`
	}
}
`, func(name string) string {
		switch name {
		case "DIR":
			return dir
		case "ADDRESS":
			return address
		}
		return "$" + name // a variable of nginx itself
	})
}

// The configuration of a cache for Nginx.
const (
	// CacheZone declares the cache in the block http, and the variable stored, which is 1 for a stored response.
	CacheZone = `
	proxy_cache_path ${DIR}/cache keys_zone=influxdb:1m;
	map $upstream_cache_status $stored { default ""; HIT 1; STALE 1; UPDATING 1; REVALIDATED 1; }
`
	// Cache uses the cache in the block server. It stores every response for an hour, whatever headers InfluxDB and the client
	// send, and returns stored responses while InfluxDB is down.
	Cache = `
		proxy_cache influxdb;
		proxy_cache_valid any 1h;
		proxy_ignore_headers Cache-Control Expires Set-Cookie Vary X-Accel-Expires;
		proxy_cache_use_stale error timeout updating http_500 http_502 http_503 http_504;
`
)
