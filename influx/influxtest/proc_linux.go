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

// bind puts the process into a group of its own, so that Ctrl-C in the terminal reaches only us and we end things in
// order, and has the kernel kill it when we die without having ended it. The kernel means our thread, not our process;
// Go ends a thread only with a goroutine that was locked to it, and nothing here locks one.
func bind(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// killGroup also reaches what the process started: the compilers of a go command.
func killGroup(p *os.Process) error {
	err := syscall.Kill(-p.Pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// exclusive: a lock that tryLock has taken is nobody else's.
const exclusive = true

// tryLock takes the lock unless another holds it. The lock goes with the file's closing, also by the process's death.
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

// halt stops the process without ending it, until resume. It returns when every thread has stopped: until then the
// process may still answer.
func halt(p *os.Process) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	const (
		idIsPid = 1 // P_PID
		stopped = 2 // WSTOPPED; an end is left to who waits for it
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
