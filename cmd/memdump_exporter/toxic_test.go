//go:build faults || soak

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// toxicProxy is a TCP proxy before InfluxDB that can be stopped and poisoned.
type toxicProxy struct {
	url    string // of the proxy in Toxiproxy's API
	Listen string // host:port
}

// newToxic builds Toxiproxy in its own module and runs it, with one proxy, until the test ends.
func newToxic(t *testing.T, influxdb string) *toxicProxy {
	t.Helper()
	program := filepath.Join(t.TempDir(), "toxiproxy")
	if output, err := exec.Command("go", "build", "-C", "testdata/toxiproxy", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build Toxiproxy: %v\n%s", err, output)
	}
	api := start(t, exec.Command(program))
	api.ends = "signal: terminated" // it does not handle the signal
	p := &toxicProxy{}
	settings := map[string]any{"name": "influxdb", "listen": "127.0.0.1:0", "upstream": strings.TrimPrefix(influxdb, "http://")}
	must(t, request(http.MethodPost, api.URL+"/proxies", settings, p))
	p.url = api.URL + "/proxies/influxdb"
	return p
}

// Stop closes the listener and all connections.
func (p *toxicProxy) Stop() error {
	return request(http.MethodPatch, p.url, map[string]any{"enabled": false}, nil)
}

// Start listens again at the same address.
func (p *toxicProxy) Start() error {
	return request(http.MethodPatch, p.url, map[string]any{"enabled": true}, nil)
}

// poison adds a toxic; attributes are the fields of a JSON object.
func (p *toxicProxy) poison(kind, attributes string) (remove func() error, err error) {
	var toxic struct{ Name string }
	settings := map[string]any{"type": kind, "attributes": json.RawMessage("{" + attributes + "}")}
	if err := request(http.MethodPost, p.url+"/toxics", settings, &toxic); err != nil {
		return nil, err
	}
	return func() error { return request(http.MethodDelete, p.url+"/toxics/"+toxic.Name, nil, nil) }, nil
}

// request sends a JSON value to Toxiproxy and decodes the response into result, unless that is nil.
func request(method, url string, value, result any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(method, url, strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	got := do(nil, req)
	if got.err != nil {
		return got.err
	}
	if got.status < 200 || got.status > 299 {
		return fmt.Errorf("%s %s: HTTP %d: %s", method, url, got.status, got.body)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal([]byte(got.body), result)
}
