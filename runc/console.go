package runc

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// receiveConsole takes the master of a pty from the socket and hands it to take,
// which owns it from there on.
func receiveConsole(socket *os.File, take func(*os.File) error) error {
	c, err := socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("receive console: %w", err)
	}
	var (
		data    [1]byte
		control = make([]byte, unix.CmsgSpace(4))
		n       int
	)
	cerr := c.Control(func(fd uintptr) {
		for {
			_, n, _, _, err = unix.Recvmsg(int(fd), data[:], control, unix.MSG_CMSG_CLOEXEC)
			if err != unix.EINTR {
				return
			}
		}
	})
	if cerr != nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("receive console: %w", os.NewSyscallError("recvmsg", err))
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("receive console: no descriptor came (%d messages)", len(messages))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return fmt.Errorf("receive console: no descriptor came")
	}
	// Non-blocking before os.NewFile, so that the receiver's reads can be
	// interrupted by Close.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return fmt.Errorf("receive console: %w", err)
	}
	if err := take(os.NewFile(uintptr(fds[0]), "/dev/ptmx")); err != nil {
		return fmt.Errorf("hand over console: %w", err)
	}
	return nil
}
