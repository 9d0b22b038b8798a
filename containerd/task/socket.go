package task

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// sunPathMax is the longest path that a sockaddr_un holds, without the NUL.
const sunPathMax = 107

// listenUnix listens on path, mode 0600 from the start, and returns the
// listening socket as a file for a child. The caller closes it.
func listenUnix(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), path)
	// The mode of an unbound socket becomes that of its file: no moment at which
	// others can connect.
	err = os.NewSyscallError("fchmod", unix.Fchmod(fd, 0o600))
	if err == nil {
		err = withShortPath(path, func(short string) error {
			return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrUnix{Name: short}))
		})
	}
	if err == nil {
		err = os.NewSyscallError("listen", unix.Listen(fd, 128))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("listen on %q: %w", path, err)
	}
	return f, nil
}

func dialUnix(ctx context.Context, path string) (conn net.Conn, err error) {
	err = withShortPath(path, func(short string) error {
		conn, err = (&net.Dialer{}).DialContext(ctx, "unix", short)
		return err
	})
	return conn, err
}

// withShortPath calls f with path, or when that is too long for a socket address
// with its base name below the descriptor of its directory.
func withShortPath(path string, f func(string) error) error {
	if len(path) <= sunPathMax {
		return f(path)
	}
	dir, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	return f("/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + filepath.Base(path))
}
