package main

import (
	"io"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// terminal connects the master of a container's pty with this program's standard
// input and output. The zero value
// is connected with nothing and does nothing.
type terminal struct {
	master *os.File
	saved  *unix.Termios // of standard input, while it is raw
	output sync.WaitGroup
}

// attach takes the master and starts to copy.
func (t *terminal) attach(master *os.File) error {
	t.master = master
	if old, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		raw := *old
		raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
		raw.Oflag &^= unix.OPOST
		raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
		raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
		raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
		if err := unix.IoctlSetTermios(0, unix.TCSETS, &raw); err != nil {
			return err
		}
		t.saved = old
	}
	// Ends with the process: a read of standard input cannot be interrupted.
	go func() { _, _ = io.Copy(master, os.Stdin) }()
	t.output.Go(func() { _, _ = io.Copy(os.Stdout, master) })
	return nil
}

// resize gives the container's terminal the size of ours.
func (t *terminal) resize() {
	if t.master == nil {
		return
	}
	ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil {
		return
	}
	if c, err := t.master.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { _ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, ws) })
	}
}

// wait returns when all output has been copied: the last slave is closed.
func (t *terminal) wait() {
	t.output.Wait()
}

// close restores standard input.
func (t *terminal) close() {
	if t.saved != nil {
		_ = unix.IoctlSetTermios(0, unix.TCSETS, t.saved)
	}
	if t.master != nil {
		t.master.Close()
	}
}

// childOf returns the pid in what waitid(2) filled in. The unix package does not
// name the members of the union.
func childOf(info *unix.Siginfo) int {
	const pidOffset = 16 // si_signo, si_errno, si_code, padding; then _sigchld.si_pid
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), pidOffset)))
}
