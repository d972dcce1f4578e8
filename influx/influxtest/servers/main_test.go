package main

import (
	"os"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	for variable, value := range map[string]string{"SERVERS": "cached", "INFLUXD": "", "INFLUXDB3": "", "TEST_SERVERS": ""} {
		t.Setenv(variable, value)
	}
	var stdout strings.Builder
	if err := run(t.Context(), &stdout, os.Stderr); err != nil {
		t.Fatal(err)
	}
	path, _, _ := strings.Cut(strings.TrimPrefix(stdout.String(), "InfluxDB 1.7.11\t"), "\n")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o100 == 0 {
		t.Errorf("no program in the first line of\n%s", stdout.String())
	}
	for _, version := range []string{"1.13.2", "2.7.12"} {
		if !strings.Contains(stdout.String(), "\nInfluxDB "+version+"\t") && !strings.Contains(stdout.String(), "\nleft out: InfluxDB "+version) {
			t.Errorf("no line for %s in\n%s", version, stdout.String())
		}
	}

	t.Setenv("TEST_SERVERS", "nonsense")
	if err := run(t.Context(), &stdout, os.Stderr); err == nil {
		t.Error("nonsense in TEST_SERVERS is no error")
	}
}
