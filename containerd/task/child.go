package task

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// child is a shim process that we started and must reap. Its pidfd sits in the
// runtime's poller, so waiting costs no thread, and it is only waited for once
// the connection to it has ended.
type child struct {
	pid   int
	pidfd *os.File
}

// newChild takes ownership of pidfd.
func newChild(pid, pidfd int) (*child, error) {
	if err := unix.SetNonblock(pidfd, true); err != nil {
		unix.Close(pidfd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return &child{pid: pid, pidfd: os.NewFile(uintptr(pidfd), "pidfd:"+strconv.Itoa(pid))}, nil
}

// reap waits until the process has exited, at most for grace, then kills it. It
// must be called once.
func (c *child) reap(grace time.Duration) error {
	defer c.pidfd.Close()
	err := c.wait(grace)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if err := c.kill(); err != nil {
			return fmt.Errorf("kill shim %d: %w", c.pid, err)
		}
		err = c.wait(promptTimeout)
	}
	if err != nil {
		return fmt.Errorf("wait for shim %d: %w", c.pid, err)
	}
	return nil
}

func (c *child) kill() error {
	conn, err := c.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := conn.Control(func(fd uintptr) {
		serr = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0)
	}); err != nil {
		return err
	}
	if errors.Is(serr, unix.ESRCH) {
		return nil
	}
	return os.NewSyscallError("pidfd_send_signal", serr)
}

func (c *child) wait(timeout time.Duration) error {
	if err := c.pidfd.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	conn, err := c.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var werr error
	err = conn.Read(func(fd uintptr) bool {
		var info unix.Siginfo
		for {
			werr = unix.Waitid(unix.P_PIDFD, int(fd), &info, unix.WEXITED|unix.WNOHANG, nil)
			if werr != unix.EINTR {
				break
			}
		}
		// A pidfd is readable exactly when its process has exited; before that
		// waitid succeeds and leaves info zero.
		return werr != nil && werr != unix.EAGAIN || werr == nil && info.Signo != 0
	})
	if err != nil {
		return err
	}
	if errors.Is(werr, unix.ECHILD) {
		return nil // someone with a wait-for-all in this process was faster
	}
	return os.NewSyscallError("waitid", werr)
}
