package influxtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"unsafe"
)

// bind starts the process in its own process group, so that Ctrl-C in a terminal reaches this process only, which then ends
// the other in order. The kernel kills the process when the thread that started it ends. Go ends a thread only with a
// goroutine that is locked to it, which no goroutine here is.
func bind(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// killGroup kills the process and its children, such as the compilers of a go command.
func killGroup(p *os.Process) error {
	err := syscall.Kill(-p.Pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// exclusive is true if only one process can hold the lock of tryLock.
const exclusive = true

// tryLock takes the lock unless another process holds it. The lock ends when the file is closed or the process ends.
func tryLock(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("flock: %w", err)
	}
	return true, nil
}

func ownedByUs(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Getuid()
}

// halt suspends the process until resume. It returns when every thread has stopped: before that, the process may still
// respond.
func halt(p *os.Process) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	const (
		idIsPid = 1 // P_PID
		stopped = 2 // WSTOPPED, without WEXITED: the exit status remains for StartProcess
	)
	var info [128]byte // siginfo_t
	for {
		_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, idIsPid, uintptr(p.Pid), uintptr(unsafe.Pointer(&info)), stopped, 0, 0)
		switch errno {
		case 0:
			return nil
		case syscall.EINTR:
		default:
			return fmt.Errorf("wait until process %d has stopped: %w", p.Pid, errno)
		}
	}
}

func resume(p *os.Process) error { return p.Signal(syscall.SIGCONT) }
