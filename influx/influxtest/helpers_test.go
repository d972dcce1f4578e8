package influxtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type (
	tags   = map[string]string
	fields = map[string]any
)

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("want %s, got %v", want, err)
	}
}

// script makes an executable shell script.
func script(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

var worldStart = time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC)
