//go:build unix

package main

import (
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// TestExporter_letsRequestsFinish: a scrape in flight at SIGTERM gets its response, and the
// process ends with 0.
func TestExporter_letsRequestsFinish(t *testing.T) {
	server := influxdb.Server(t)
	w := newFront(t, server.URL)
	held := w.hold("SELECT")
	e := startExporter(t, []string{"INFLUX_URL=" + w.URL})
	body := make(chan string, 1)
	go func() { body <- get(t, e.URL+"/metrics", http.StatusOK, "X-Prometheus-Scrape-Timeout-Seconds", "2") }()
	<-held
	silent, err := net.Dial("tcp", strings.TrimPrefix(e.URL, "http://")) // must not delay the end
	must(t, err)
	defer silent.Close()
	must(t, syscall.Kill(e.proc.Pid(), syscall.SIGTERM))
	if got := <-body; !strings.Contains(got, "memdump_up 0") {
		t.Errorf("the response of the scrape in flight is\n%s", got)
	}
	if err := e.proc.Err(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// TestExporter_hangup: SIGHUP is logged and ends nothing.
func TestExporter_hangup(t *testing.T) {
	e := startExporter(t, []string{"INFLUX_URL=http://127.0.0.1:1"})
	must(t, syscall.Kill(e.proc.Pid(), syscall.SIGHUP))
	if logs := e.logsWith(0, "SIGHUP ignored"); !strings.Contains(logs, "SIGHUP ignored") {
		t.Errorf("SIGHUP is not logged:\n%s", logs)
	}
	get(t, e.URL+"/-/healthy", http.StatusOK)
}
