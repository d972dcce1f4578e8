//go:build kubernetes || systemd

package test

import (
	"net"
	"testing"
	"time"
)

// until calls done until it returns "", and fails with the reason that it returned last.
func until(t *testing.T, what string, done func() string) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		reason := done()
		if reason == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s", what, reason)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}
