//go:build unix

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"memdump_exporter/influx/influxtest"
)

// TestRun_on_its_own_InfluxDB: the data is in InfluxDB as printed, also after InfluxDB has hung, and
// nothing is left afterwards.
func TestRun_on_its_own_InfluxDB(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	r := start(t, "serve", nil, "--dump-every=1s", "--telemetry-every=100ms", "--restart-every=700ms")
	where, _ := r.waitFor(t, 0, `InfluxDB 1.7.11 runs at (\S+), pid (\d+), data in (\S+)`)
	influxPid, err := strconv.Atoi(where[2])
	must(t, err)
	r.waitFor(t, 0, `3\d VMs are monitored\. Never dumped: jump-host\. Not dumped for more than a day: legacy-erp\.\n`+
		`.*: \S.* and \d+ more\.\n`)
	exporter, end := r.waitFor(t, 0, `The exporter runs, pid (\d+)`)
	exporterPid, err := strconv.Atoi(exporter[1])
	must(t, err)
	want := "INFLUX_DB=vmstats\nINFLUX_URL=" + where[1] + "\n[--dumps.max-age=24h0m0s]\n"
	if got := sorted(get(t, "http://"+r.listen+"/settings")); got != want {
		t.Errorf("settings of the exporter: want %s, got %s", want, got)
	}
	if filepath.Dir(where[3]) != temp {
		t.Errorf("the data is in %s, not under %s", where[3], temp)
	}
	influx := &influxtest.Writer{URL: where[1]}
	r.waitFor(t, end, `restarts: its runtime ID was \d+ and is \d+\n`)
	agree(t, r, end, influx, "vmstats")

	for _, step := range []struct {
		signal syscall.Signal
		want   string
	}{
		{syscall.SIGSTOP, `InfluxDB does not accept the points: .*deadline exceeded`},
		{syscall.SIGCONT, `InfluxDB accepts points again: wrote all \d+ that waited`},
		{syscall.SIGSTOP, `InfluxDB does not accept the points`},
	} {
		must(t, syscall.Kill(influxPid, step.signal))
		_, end = r.waitFor(t, end, step.want)
		if step.signal == syscall.SIGCONT {
			agree(t, r, end, influx, "vmstats")
		}
	}

	// InfluxDB still hangs.
	r.cancel()
	if err := r.wait(t); err != nil {
		t.Errorf("Ctrl-C is no error: %v", err)
	}
	for _, pid := range []int{influxPid, exporterPid} {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d is still there: %v", pid, err)
		}
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
