package main

import (
	"bufio"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"memdump_exporter/influx/influxtest"
)

// TestLogWriter_stuck: when nobody reads its log, the exporter answers as before, says how
// much of it was lost, and still ends.
func TestLogWriter_stuck(t *testing.T) {
	unread, stderr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer unread.Close()
	cmd := exec.Command(binary, "--web.listen-address=127.0.0.1:0", "--influx.url=http://127.0.0.1:1", "--log.level=debug")
	cmd.Stderr = stderr
	proc, err := influxtest.StartProcess(cmd)
	if err != nil {
		t.Fatal(err)
	}
	stderr.Close()
	var address string
	for lines := bufio.NewScanner(unread); address == "" && lines.Scan(); {
		if found := listening.FindStringSubmatch(lines.Text()); found != nil {
			address = found[1]
		}
	}
	dropped := false
	for range 400 { // a pipe holds 64 KiB, a scrape says some 1 KiB
		text := get(t, "http://"+address+"/metrics", http.StatusOK)
		if !strings.Contains(text, "\nmemdump_up 0\n") {
			t.Fatal(text)
		}
		dropped = dropped || !strings.Contains(text, "\nmemdump_exporter_log_lines_dropped_total 0\n")
	}
	if !dropped {
		t.Error("400 scrapes filled no pipe, or nothing was counted")
	}
	if err := proc.Stop(); err != nil {
		t.Error(err)
	}
	if err := proc.Err(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}
