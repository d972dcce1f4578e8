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
	tailBytes = 4 << 10         // of a process's output, kept for error messages
)

// Process is a child process that does not outlive this one: on Linux the kernel kills it when this process dies in
// whatever way. It is safe for concurrent use.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // set before done is closed
}

// StartProcess starts cmd, whose SysProcAttr it sets, and collects its exit status when it ends.
func StartProcess(cmd *exec.Cmd) (*Process, error) {
	bind(cmd)
	// A grandchild that keeps the output pipe open must not keep us waiting.
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

// Pid is the process's id, also after it has ended.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended and all its output has been read.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err waits for the end and tells how the process ended: nil for exit status 0, otherwise mostly an *exec.ExitError.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Stop sends SIGTERM, after 5 seconds SIGKILL (which also ends a process that is stopped by SIGSTOP), and waits for the
// end. How the process ended is Err's to tell: Stop's error means that it could not be ended.
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

// Kill sends SIGKILL and waits for the end. It is nil when the process has ended already.
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

// tail is an io.Writer that hands each whole line to line, when that is not nil, and keeps the last few.
type tail struct {
	line func(string)

	mu   sync.Mutex
	text []byte
	seen int // text[:seen] are whole lines, handed on
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
