package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// normalizeHost completes a -H value: "unix://" and "tcp://" get upstream's
// defaults, a bare path or address its scheme.
func normalizeHost(h string) (string, error) {
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
			addr = "localhost:2375"
		}
		if strings.Contains(addr, "/") {
			return "", fmt.Errorf("invalid host %q: a tcp address has no path", h)
		}
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			host, port = addr, "2375"
		}
		if host == "" {
			host = "localhost"
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", fmt.Errorf("invalid host %q: bad port %q", h, port)
		}
		addr = net.JoinHostPort(host, port)
	case "fd", "npipe", "ssh":
		return "", fmt.Errorf("invalid host %q: listening on %s:// is not implemented, use unix:// or tcp://", h, scheme)
	default:
		return "", fmt.Errorf("invalid bind address (%s): unknown scheme %q", h, scheme)
	}
	return scheme + "://" + addr, nil
}

// listen opens the listener of a normalized host. A unix socket gets mode 0660
// and the group, if there is one by that name, before anyone can connect.
func listen(host, group string) (net.Listener, error) {
	scheme, addr, _ := strings.Cut(host, "://")
	if scheme != "unix" {
		return net.Listen("tcp", addr)
	}
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
