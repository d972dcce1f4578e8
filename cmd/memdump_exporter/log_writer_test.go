package main

import (
	"net/http"
	"os"
	"strings"
	"testing"
)

// TestLogWriter_stuck: when no process reads its log, the exporter still responds, counts the lines that
// it drops, and ends.
func TestLogWriter_stuck(t *testing.T) {
	unread, stderr, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { unread.Close() }) // after the exporter has ended
	e := newSocket(t).start(t, `exec "$@"`, nil, stderr, "--influx.url=http://127.0.0.1:1", "--log.level=debug")
	stderr.Close()
	dropped := false
	for range 400 { // a pipe holds 64 KiB, a scrape logs some 1 KiB
		text := get(t, e.URL+"/metrics", http.StatusOK)
		if !strings.Contains(text, "\nmemdump_up 0\n") {
			t.Fatal(text)
		}
		dropped = dropped || !strings.Contains(text, "\nmemdump_exporter_log_lines_dropped_total 0\n")
	}
	if !dropped {
		t.Error("400 scrapes did not fill the pipe, or no dropped line was counted")
	}
}
