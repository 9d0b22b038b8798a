package shimio

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

// Request is the first line that a client sends on an attach socket.
type Request struct {
	// Process is the exec ID, or "" for the init process.
	Process string `json:"process,omitempty"`
	// Stdin, Stdout and Stderr choose the streams. Stdin is ignored, not
	// refused, when the process was made without input.
	Stdin  bool `json:"stdin,omitempty"`
	Stdout bool `json:"stdout,omitempty"`
	Stderr bool `json:"stderr,omitempty"`
	// Framed asks for stdcopy frames instead of raw bytes.
	Framed bool `json:"framed,omitempty"`
	// LogLimits, unless nil, changes the rotation of the process's log instead
	// of attaching: the shim answers and closes the connection.
	LogLimits *LogLimits `json:"logLimits,omitempty"`
}

// LogLimits are Stdio.LogMaxBytes and LogMaxFiles.
type LogLimits struct {
	MaxBytes int64 `json:"maxBytes"`
	MaxFiles int   `json:"maxFiles"`
}

// Response is the line that the shim sends back.
type Response struct {
	// Error is empty when the streams follow.
	Error string `json:"error,omitempty"`
	// TTY reports that the process has a terminal: one merged output stream.
	TTY bool `json:"tty,omitempty"`
}

// Conn is an attached client's connection after the handshake.
type Conn struct {
	*net.UnixConn
	// TTY is Response.TTY.
	TTY bool

	buffered io.Reader
}

// Read reads output of the process.
func (c *Conn) Read(p []byte) (int, error) { return c.buffered.Read(p) }

// Dial connects to the attach socket at path and performs the handshake. The
// caller closes the connection; CloseWrite on it ends the process's input.
func Dial(ctx context.Context, path string, req Request) (*Conn, error) {
	var conn *net.UnixConn
	err := withShortPath(path, func(short string) error {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", short)
		if err == nil {
			conn = c.(*net.UnixConn)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	resp, rest, err := handshake(conn, req)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err == nil && resp.Error != "" {
		err = errors.New(resp.Error)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("attach: %w", err)
	}
	return &Conn{UnixConn: conn, TTY: resp.TTY, buffered: rest}, nil
}

func handshake(conn net.Conn, req Request) (Response, io.Reader, error) {
	line, err := json.Marshal(req)
	if err != nil {
		return Response{}, nil, err
	}
	if _, err := conn.Write(append(line, '\n')); err != nil {
		return Response{}, nil, err
	}
	var resp Response
	rest, err := ReadLine(conn, &resp)
	return resp, rest, err
}

// Listen creates the attach socket at path, mode 0600. A socket left by a dead
// shim is replaced.
func Listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen for attach: %w", err)
	}
	var l *net.UnixListener
	err := withShortPath(path, func(short string) error {
		var err error
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen for attach: %w", err)
	}
	l.SetUnlinkOnClose(false) // its name may be the short one; the owner of path removes it
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen for attach: %w", err)
	}
	return l, nil
}

// ReadLine decodes the JSON line at the start of r into v and returns a reader
// of what follows it. A line over MaxLine is an error.
func ReadLine(r io.Reader, v any) (io.Reader, error) {
	br := bufio.NewReaderSize(r, 4096)
	var line []byte
	for {
		part, err := br.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > MaxLine {
			return nil, fmt.Errorf("line longer than %d bytes", MaxLine)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
	if err := json.Unmarshal(line, v); err != nil {
		return nil, err
	}
	if n := br.Buffered(); n > 0 {
		head, _ := br.Peek(n)
		return io.MultiReader(bytes.NewReader(bytes.Clone(head)), r), nil
	}
	return r, nil
}

// withShortPath calls f with a name for path that fits a sockaddr_un, which
// holds 107 bytes: path itself, or its base name below the descriptor of its
// directory.
func withShortPath(path string, f func(string) error) error {
	const sunPathMax = 107
	if len(path) <= sunPathMax {
		return f(path)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return f("/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + filepath.Base(path))
}
