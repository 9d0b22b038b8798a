package driver

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a receiver's patience.
const (
	dialTimeout  = 10 * time.Second
	writeTimeout = 30 * time.Second
)

var errHungUp = errors.New("the receiver has closed the connection")

// stream is a connection whose receiver answers nothing.
type stream struct {
	net.Conn
	timeout time.Duration // of a write; 0 means writeTimeout
}

func dial(ctx context.Context, network, address string) (*stream, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &stream{Conn: conn}, nil
}

// write sends p. A connection that the receiver has closed takes bytes that
// nobody reads; so it is looked at first.
func (s *stream) write(p []byte) error {
	if s.hungUp() {
		return errHungUp
	}
	timeout := s.timeout
	if timeout == 0 {
		timeout = writeTimeout
	}
	if err := s.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	_, err := s.Write(p)
	return err
}

// hungUp reports whether the receiver has closed a connection-oriented socket.
func (s *stream) hungUp() bool {
	sc, ok := s.Conn.(syscall.Conn)
	if !ok {
		return false // TLS: its own close alert fails the write
	}
	if network := s.RemoteAddr().Network(); network != "tcp" && network != "unix" {
		return false
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	cerr := rc.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		gone = n == 0 && err == nil || err != nil && err != unix.EAGAIN && err != unix.EINTR
	})
	return gone || cerr != nil
}
