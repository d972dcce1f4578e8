//go:build unix

package influxtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestProcess_Stop_ends_one_that_hangs(t *testing.T) {
	t.Parallel()
	// One without a handler would die of SIGTERM even while it is stopped.
	cmd := exec.Command("sh", "-c", `trap "" TERM; echo; exec tail -f /dev/null`)
	r, w := io.Pipe()
	cmd.Stdout = w
	p, err := StartProcess(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(p.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Kill(p.Pid(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is still there: %v", p.Pid(), err)
	}
	if err := p.Err(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("want killed, got %v", err)
	}
}

const parentEnv = "INFLUXTEST_PARENT"

// TestProcess_parent is no test, but the parent of TestProcess_dies_with_its_parent.
func TestProcess_parent(t *testing.T) {
	if os.Getenv(parentEnv) == "" {
		t.Skip("only TestProcess_dies_with_its_parent runs it, as a process")
	}
	cmd := exec.Command("tail", "-f", os.DevNull)
	cmd.ExtraFiles = []*os.File{os.NewFile(3, "pipe")}
	if _, err := StartProcess(cmd); err != nil {
		t.Fatal(err)
	}
	fmt.Println("started")
	io.Copy(io.Discard, os.Stdin) // until killed
}

func TestProcess_dies_with_its_parent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only the Linux kernel ends a process with its parent; CI runs on Linux")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	parent := exec.Command(os.Args[0], "-test.run=^TestProcess_parent$")
	parent.Env = append(os.Environ(), parentEnv+"=1")
	parent.ExtraFiles = []*os.File{w}
	stdin, err := parent.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	line := make([]byte, 100)
	if n, err := stdout.Read(line); err != nil || !strings.HasPrefix(string(line[:n]), "started") {
		t.Errorf("got %q, %v", line[:n], err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	parent.Wait()

	// The pipe ends when the last that holds it is gone: the grandchild.
	if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(line); !errors.Is(err, io.EOF) {
		t.Errorf("the child outlives its parent: %v", err)
	}
}
