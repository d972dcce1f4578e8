//go:build unix

package influxtest

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestDefault_gives_up: the builder and a waiting caller return when their contexts end.
func TestDefault_gives_up(t *testing.T) {
	// The fifo signals that the build has started; the build itself never ends.
	mark := fakeGo(t, `echo running >"$XDG_CACHE_HOME/fifo"; exec tail -f /dev/null`)
	fifo := filepath.Join(os.Getenv("XDG_CACHE_HOME"), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	builder, cancelBuilder := context.WithCancel(t.Context())
	waiter, cancelWaiter := context.WithCancel(t.Context())
	defer cancelBuilder()
	defer cancelWaiter()
	ended := make(chan error, 2)
	go func() {
		_, err := Default(builder, io.Discard)
		ended <- err
	}()
	if _, err := os.ReadFile(fifo); err != nil {
		t.Fatal(err)
	}
	lines, progress := io.Pipe()
	go func() {
		_, err := Default(waiter, progress)
		ended <- err
	}()
	line := make([]byte, 200)
	if n, err := lines.Read(line); err != nil || !strings.HasPrefix(string(line[:n]), "waiting") {
		t.Errorf("got %q, %v", line[:n], err)
	}
	for _, cancel := range []func(){cancelWaiter, cancelBuilder} {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("want %v, got %v", context.Canceled, err)
		}
	}
	if marks, err := os.ReadFile(mark); string(marks) != "x\n" {
		t.Errorf("want one build, got %q, %v", marks, err)
	}
}
