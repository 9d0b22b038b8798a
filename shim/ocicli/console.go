package ocicli

import (
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// consoleTimeout bounds the wait for a terminal after the program has ended.
const consoleTimeout = 10 * time.Second

func listenConsole(path string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for console: %w", err)
	}
	return l, nil
}

// receiveConsole takes one connection on l and passes the terminal that comes
// over it to give. Closing l ends the wait.
func receiveConsole(l *net.UnixListener, give func(*os.File) error) <-chan error {
	done := make(chan error, 1)
	go func() {
		conn, err := l.AcceptUnix()
		if err != nil {
			done <- fmt.Errorf("receive console: %w", err)
			return
		}
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(consoleTimeout))
		f, err := receiveFile(conn)
		if err == nil {
			err = give(f)
		}
		done <- err
	}()
	return done
}

// receiveFile reads a message with one descriptor.
func receiveFile(conn *net.UnixConn) (*os.File, error) {
	name := make([]byte, 4096) // the name of the terminal is the message's text
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(name, oob)
	if err != nil {
		return nil, fmt.Errorf("receive console: %w", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, fmt.Errorf("receive console: %w", err)
	}
	if len(msgs) != 1 {
		return nil, fmt.Errorf("receive console: %d control messages, want 1", len(msgs))
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("receive console: %d descriptors, want 1: %w", len(fds), err)
	}
	return os.NewFile(uintptr(fds[0]), string(name[:n])), nil
}
