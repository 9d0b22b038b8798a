package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// normalizeHost completes a -H value: "unix://" and "tcp://" get upstream's
// defaults, a bare path or address its scheme. The port of TCP depends on TLS.
func normalizeHost(h string, tls bool) (string, error) {
	port := "2375"
	if tls {
		port = "2376"
	}
	scheme, addr, ok := strings.Cut(h, "://")
	if !ok {
		if strings.HasPrefix(h, "/") {
			scheme, addr = "unix", h
		} else {
			scheme, addr = "tcp", h
		}
	}
	switch scheme {
	case "unix":
		if addr == "" {
			addr = "/var/run/docker.sock"
		}
		if !filepath.IsAbs(addr) {
			return "", fmt.Errorf("invalid host %q: the socket's path must be absolute", h)
		}
	case "tcp":
		if addr == "" {
			addr = "localhost:" + port
		}
		if strings.Contains(addr, "/") {
			return "", fmt.Errorf("invalid host %q: a tcp address has no path", h)
		}
		host, given, err := net.SplitHostPort(addr)
		if err != nil {
			host, given = addr, port
		}
		port = given
		if host == "" {
			host = "localhost"
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", fmt.Errorf("invalid host %q: bad port %q", h, port)
		}
		addr = net.JoinHostPort(host, port)
	case "fd":
		if strings.Contains(addr, "/") {
			return "", fmt.Errorf("invalid host %q: fd:// takes a number or a name of a socket", h)
		}
	default:
		return "", fmt.Errorf("invalid bind address (%s): unknown scheme %q", h, scheme)
	}
	return scheme + "://" + addr, nil
}

// listen opens the listeners of a normalized host: one, or with fd:// all that
// the service manager has passed. TCP gets TLS when tls is not nil. A unix socket
// gets mode 0660 and the group, if there is one by that name, before anyone can
// connect.
func listen(host, group string, tls *tls.Config) ([]net.Listener, error) {
	scheme, addr, _ := strings.Cut(host, "://")
	switch scheme {
	case "tcp":
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, err
		}
		return []net.Listener{withTLS(l, tls)}, nil
	case "fd":
		list, err := passedListeners(addr)
		for i := range list {
			if list[i].Addr().Network() == "tcp" {
				list[i] = withTLS(list[i], tls)
			}
		}
		return list, err
	}
	l, err := listenUnix(addr, group)
	if err != nil {
		return nil, err
	}
	return []net.Listener{l}, nil
}

func withTLS(l net.Listener, cfg *tls.Config) net.Listener {
	if cfg == nil {
		return l
	}
	return tls.NewListener(l, cfg)
}

// firstPassedFD is the first descriptor that a service manager passes, see
// sd_listen_fds(3).
const firstPassedFD = 3

// passedListeners returns the sockets that the service manager has opened for
// this process: all for "" and "*", else the one with that number or name.
func passedListeners(which string) ([]net.Listener, error) {
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 1 || os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, errors.New("no sockets found via socket activation: make sure the service was started by systemd")
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	var list []net.Listener
	for i := range n {
		fd := firstPassedFD + i
		name := ""
		if i < len(names) {
			name = names[i]
		}
		if which != "" && which != "*" && which != strconv.Itoa(fd) && which != name {
			continue
		}
		syscall.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), "LISTEN_FD_"+strconv.Itoa(fd))
		l, err := net.FileListener(f) // duplicates the descriptor
		f.Close()
		if err != nil {
			for _, l := range list {
				l.Close()
			}
			return nil, fmt.Errorf("use passed socket %d: %w", fd, err)
		}
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // it is the service manager's
		}
		list = append(list, l)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no such socket was passed: fd://%s", which)
	}
	return list, nil
}

func listenUnix(addr, group string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(addr), 0o755); err != nil {
		return nil, err
	}
	if err := removeDeadSocket(addr); err != nil {
		return nil, err
	}
	// The socket is made under another name and renamed when its mode is
	// right: never for a moment may others connect.
	private := filepath.Join(filepath.Dir(addr), ".lighter-"+strconv.Itoa(os.Getpid())+".sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: private, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(private, 0o660)
	if gid, ok := lookupGroup(group); ok && err == nil {
		err = os.Chown(private, 0, gid)
	}
	if err == nil {
		err = os.Rename(private, addr)
	}
	if err != nil {
		l.Close()
		os.Remove(private)
		return nil, err
	}
	return &unixListener{l, addr}, nil
}

// unixListener removes its socket when closed.
type unixListener struct {
	*net.UnixListener
	path string
}

// Addr is the path that clients use.
func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

func (l *unixListener) Close() error {
	return errors.Join(l.UnixListener.Close(), ignoreNotExist(os.Remove(l.path)))
}

// removeDeadSocket removes what a killed daemon left at path. A socket that
// somebody answers on is an error.
func removeDeadSocket(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("can't create unix socket %s: a file of another kind is there", path)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return fmt.Errorf("can't create unix socket %s: another daemon answers on it", path)
	}
	return os.Remove(path)
}

func lookupGroup(name string) (int, bool) {
	if name == "" {
		return 0, false
	}
	if gid, err := strconv.Atoi(name); err == nil {
		return gid, true
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, false
	}
	gid, err := strconv.Atoi(g.Gid)
	return gid, err == nil
}

func ignoreNotExist(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
