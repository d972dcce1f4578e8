package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestRoutes: each route accepts GET only, sends the headers that restrict browsers, and requires the password if one is
// set. No route is pprof's or expvar's.
func TestRoutes(t *testing.T) {
	config := filepath.Join(t.TempDir(), "web.yml")
	write(t, config, "basic_auth_users:\n  prom: $2a$10$lfDGuEtVeK4PTBMoCiZQ8e0hhpkyv8gZqbA6LP.STp75B3TmDzNaW\n")
	open := startExporter(t, []string{"INFLUX_URL=http://127.0.0.1:1"})
	shut := startExporter(t, []string{"INFLUX_URL=http://127.0.0.1:1"}, "--web.config.file="+config)
	status := func(e *exporter, method, path, password string) (int, http.Header) {
		url := e.URL
		if password != "" {
			url = strings.Replace(url, "//", "//prom:"+password+"@", 1)
		}
		got := send(nil, method, url+path)
		return got.status, got.header
	}
	for path, want := range map[string]int{
		"/": 200, "/metrics": 200, "/records": 502, "/api/memory-dumps/records": 502, "/openapi.json": 200, "/runbooks": 200,
		"/-/healthy": 200, "/-/ready": 200,
		"/debug/pprof/": 404, "/debug/vars": 404, "/-/reload": 404, "/-/quit": 404, "/no/such": 404,
	} {
		got, header := status(open, http.MethodGet, path, "")
		if got != want {
			t.Errorf("%s: HTTP %d, want %d", path, got, want)
		}
		for name, value := range map[string]string{
			"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
			"Server": "", // not sent
		} {
			if header.Get(name) != value {
				t.Errorf("%s: the header %s is %q, want %q", path, name, header.Get(name), value)
			}
		}
		policy := header.Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none'; ") || !strings.HasSuffix(policy, "; frame-ancestors 'none'") {
			t.Errorf("%s: the Content-Security-Policy is %q", path, policy)
		}
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "X"} {
			if got, _ := status(open, method, path, ""); got != 405 && want != 404 || got != 404 && want == 404 {
				t.Errorf("%s %s: HTTP %d", method, path, got)
			}
		}
		for _, password := range []string{"", "wrong"} {
			if got, _ := status(shut, http.MethodGet, path, password); got != 401 {
				t.Errorf("%s with the password %q: HTTP %d", path, password, got)
			}
		}
		if got, _ := status(shut, http.MethodGet, path, "pw"); got != want {
			t.Errorf("%s with the password: HTTP %d, want %d", path, got, want)
		}
	}
}

// TestRoutes_telemetryPath: with the metrics at /, there is no page, and no other path has metrics.
func TestRoutes_telemetryPath(t *testing.T) {
	e := startExporter(t, []string{"INFLUX_URL=http://127.0.0.1:1"}, "--web.telemetry-path=/")
	if text := get(t, e.URL+"/", 200); !strings.Contains(text, "\nmemdump_up 0\n") {
		t.Errorf("no metrics at /:\n%s", text)
	}
	get(t, e.URL+"/metrics", 404)
	get(t, e.URL+"/records", 502)
}

// TestRoutes_operatorsHeaders: a header that the web configuration sets replaces ours, on every route.
func TestRoutes_operatorsHeaders(t *testing.T) {
	const policy = "default-src 'self'"
	for name, tt := range map[string]struct {
		headers map[string]string
		policy  string // what the Content-Security-Policy begins with
		framing bool   // whether it allows frames
	}{
		"none":    {nil, "default-src 'none'", false},
		"policy":  {map[string]string{"Content-Security-Policy": policy}, policy, true},
		"framing": {map[string]string{"X-Frame-Options": "sameorigin"}, "default-src 'none'", true},
		"all": {map[string]string{
			"Content-Security-Policy": policy, "X-Frame-Options": "sameorigin", "X-Content-Type-Options": "nosniff",
			"Strict-Transport-Security": "max-age=1", "X-XSS-Protection": "0",
		}, policy, true},
	} {
		config := filepath.Join(t.TempDir(), "web.yml")
		text := "http_server_config:\n  headers:\n"
		for header, value := range tt.headers {
			text += fmt.Sprintf("    %s: %q\n", header, value)
		}
		write(t, config, text)
		e := startExporter(t, []string{"INFLUX_URL=http://127.0.0.1:1"}, "--web.config.file="+config)
		for _, path := range []string{"/", "/metrics", "/records", "/openapi.json", "/runbooks", "/-/healthy", "/no/such"} {
			got := send(nil, http.MethodGet, e.URL+path).header
			for header, want := range tt.headers {
				if values := got.Values(header); !slices.Equal(values, []string{want}) {
					t.Errorf("%s: %s: the header %s is %q, want %q", name, path, header, values, want)
				}
			}
			served := got.Get("Content-Security-Policy")
			if !strings.HasPrefix(served, tt.policy) {
				t.Errorf("%s: %s: the Content-Security-Policy is %q, want %s", name, path, served, tt.policy)
			}
			if strings.Contains(served, "frame-ancestors 'none'") == tt.framing {
				t.Errorf("%s: %s: the Content-Security-Policy is %q, want frames allowed: %v", name, path, served, tt.framing)
			}
			if got.Get("Cache-Control") != "no-store" || got.Get("Referrer-Policy") != "no-referrer" {
				t.Errorf("%s: %s: a header that the operator cannot set is missing in %v", name, path, got)
			}
		}
	}
}

// TestRoutes_runbooks: /runbooks has the anchor of each alert's runbook_url, and no link that leads nowhere.
func TestRoutes_runbooks(t *testing.T) {
	alerts, err := os.ReadFile("../../dashboards/alerts.yaml")
	must(t, err)
	body := get(t, startExporter(t, []string{"INFLUX_URL=http://127.0.0.1:1"}).URL+"/runbooks", http.StatusOK)
	names := regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(string(alerts), -1)
	urls := regexp.MustCompile(`(?m)^ +runbook_url: \S+#(\S+)$`).FindAllStringSubmatch(string(alerts), -1)
	if len(names) < 10 || len(urls) != len(names) {
		t.Fatalf("%d alerts and %d runbook_url in dashboards/alerts.yaml, want the same number, at least 10", len(names), len(urls))
	}
	for i, name := range names {
		if want := fmt.Sprintf(`<h2 id="%s">%s</h2>`, urls[i][1], name[1]); !strings.Contains(body, want) {
			t.Errorf("no %s on /runbooks", want)
		}
	}
	links := regexp.MustCompile(`href="([^"]*)"`).FindAllStringSubmatch(body, -1)
	for _, link := range links {
		anchor, local := strings.CutPrefix(link[1], "#")
		if local && !strings.Contains(body, ` id="`+anchor+`"`) {
			t.Errorf("no anchor for the link %q", link[1])
		}
		if !local && link[1] != "./" && link[1] != "data:," {
			t.Errorf("a link to %q, which the exporter does not serve", link[1])
		}
	}
	if len(links) < 5 {
		t.Errorf("%d links on /runbooks, want at least 5", len(links))
	}
}

func TestCheckPath(t *testing.T) {
	for path, ok := range map[string]bool{
		"/": true, "/metrics": true, "/metrics/": true, "/a/b:1": true,
		"": false, "metrics": false, "//": false, "//metrics": false, "/a//b": false, "/metrics//": false, "/a/../b": false, "/./a": false,
		"/{x}": false, "/a b": false, "/a?b": false, "/a#b": false, "/records": false, "/runbooks": false, "/-/ready": false,
	} {
		if err := checkPath(path); (err == nil) != ok {
			t.Errorf("%q: %v, want accepted: %v", path, err, ok)
		}
	}
}

// TestSecurityModel: each test and make target that the security model names exists.
func TestSecurityModel(t *testing.T) {
	text, err := os.ReadFile("../../docs/security-model.md")
	must(t, err)
	code := sources(t, "../../*/*_test.go", "../../*/*/*_test.go", "../../*/*/*/*_test.go", "../../Makefile")
	names := regexp.MustCompile("`(?:(make) )?([A-Za-z0-9_]+)`").FindAllStringSubmatch(string(text), -1)
	checked := 0
	for _, name := range names {
		declared := "\nfunc " + name[2] + "("
		switch {
		case name[1] != "":
			declared = "\n" + name[2] + ":"
		case !strings.HasPrefix(name[2], "Test") && !strings.HasPrefix(name[2], "Fuzz"):
			continue
		}
		checked++
		if !strings.Contains(code, declared) {
			t.Errorf("there is no %s", name[0])
		}
	}
	if checked < 50 {
		t.Errorf("only %d names found", checked)
	}
}
