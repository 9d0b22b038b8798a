// Package pidfd refers to processes by descriptor, so that a reused pid is never
// mistaken for the process that had it before.
package pidfd

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Open returns a descriptor of the process pid. The caller closes it. The error
// is ESRCH when there is no such process.
func Open(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("pidfd:%d", pid)), nil
}

// Signal sends sig to the process. The error is ESRCH when it has been reaped.
func Signal(f *os.File, sig syscall.Signal) error {
	err := unix.PidfdSendSignal(number(f), sig, nil, 0)
	runtime.KeepAlive(f)
	return os.NewSyscallError("pidfd_send_signal", err)
}

// Exited reports whether the process has exited, waiting at most timeout for it;
// a negative timeout waits for ever.
func Exited(f *os.File, timeout time.Duration) (bool, error) {
	var deadline time.Time
	if timeout >= 0 {
		deadline = time.Now().Add(timeout)
	}
	for {
		ms := -1
		if timeout >= 0 {
			ms = int(max(time.Until(deadline), 0).Milliseconds())
		}
		p := []unix.PollFd{{Fd: int32(number(f)), Events: unix.POLLIN}}
		n, err := unix.Poll(p, ms)
		runtime.KeepAlive(f)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false, os.NewSyscallError("poll", err)
		}
		return n > 0, nil
	}
}

// Reap waits for the exit of a child made with an exit signal other than SIGCHLD
// and removes it from the process table. A parent's wait for any child does not
// see such a child, so nobody else takes it away.
func Reap(f *os.File) error {
	for {
		err := unix.Waitid(unix.P_PIDFD, number(f), nil, unix.WEXITED|unix.WALL, nil)
		runtime.KeepAlive(f)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("waitid", err)
		}
	}
}

// File returns a copy of the descriptor n of the process (pidfd_getfd).
func File(f *os.File, n int) (*os.File, error) {
	fd, err := unix.PidfdGetfd(number(f), n, 0)
	runtime.KeepAlive(f)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_getfd", err)
	}
	return os.NewFile(uintptr(fd), "pidfd_getfd"), nil
}

func number(f *os.File) int {
	n := -1
	if c, err := f.SyscallConn(); err == nil {
		_ = c.Control(func(v uintptr) { n = int(v) })
	}
	return n
}
