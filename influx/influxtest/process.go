package influxtest

import (
	"bytes"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

const (
	stopGrace = 5 * time.Second // between SIGTERM and SIGKILL
	tailBytes = 4 << 10         // bytes of output for error messages
)

// Process is a child process that does not outlive this one: on Linux, the kernel kills it when this process ends for any
// reason. It is safe for concurrent use.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // set before done is closed
}

// StartProcess starts cmd, sets its SysProcAttr, and collects its exit status when it ends.
func StartProcess(cmd *exec.Cmd) (*Process, error) {
	bind(cmd)
	// A grandchild may hold the output pipe open.
	cmd.WaitDelay = stopGrace
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Pid returns the process ID, even after the process has ended.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done returns a channel that is closed when the process has ended and all its output has been read.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err waits for the end of the process. It returns nil for exit status 0, otherwise usually an *exec.ExitError.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Stop sends SIGTERM, and SIGKILL after 5 seconds, which also ends a process that is suspended by SIGSTOP. It waits for the
// end of the process. The error means that the process could not be ended; Err returns its exit status.
func (p *Process) Stop() error {
	if p.cmd.Process.Signal(syscall.SIGTERM) == nil {
		grace := time.NewTimer(stopGrace)
		defer grace.Stop()
		select {
		case <-p.done:
			return nil
		case <-grace.C:
		}
	}
	return p.Kill()
}

// Kill sends SIGKILL and waits for the end of the process. The error is nil if the process has already ended.
func (p *Process) Kill() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := killGroup(p.cmd.Process); err != nil {
		return fmt.Errorf("kill %d: %w", p.Pid(), err)
	}
	<-p.done
	return nil
}

// tail is an io.Writer that stores the end of its input, and calls line with each complete line unless line is nil.
type tail struct {
	line func(string)

	mu   sync.Mutex
	text []byte
	seen int // text[:seen] are complete lines
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	for {
		n := bytes.IndexByte(t.text[t.seen:], '\n')
		if n < 0 {
			break
		}
		if t.line != nil {
			t.line(string(t.text[t.seen : t.seen+n]))
		}
		t.seen += n + 1
	}
	if drop := min(t.seen, len(t.text)-tailBytes); drop > 0 {
		t.text = append(t.text[:0], t.text[drop:]...)
		t.seen -= drop
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.text))
}
