package stdio

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/shimio"
	"lighter/shim/handover"
)

// requestTimeout bounds the wait for a client's request.
const requestTimeout = 10 * time.Second

// maxClients bounds the connections of one attach socket.
const maxClients = 1024

// Server accepts the attach clients of one container.
type Server struct {
	path string
	l    *os.File
	find func(process string) (*IO, error)
	gate *handover.Gate
	log  *slog.Logger

	mu     sync.Mutex // guards the fields below
	conns  map[*net.UnixConn]struct{}
	closed bool

	serving sync.WaitGroup
}

// Serve makes the attach socket at path and serves it. find returns the streams
// of an exec, or of init for "". deps.Gate is entered while a client is there.
// Close stops it.
func Serve(path string, find func(process string) (*IO, error), deps Deps) (*Server, error) {
	l, err := shimio.Listen(path)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		return nil, fmt.Errorf("listen for attach: %w", err)
	}
	return serve(path, f, find, deps), nil
}

func serve(path string, l *os.File, find func(process string) (*IO, error), deps Deps) *Server {
	s := &Server{path: path, l: l, find: find, gate: deps.Gate, log: deps.Log, conns: make(map[*net.UnixConn]struct{})}
	s.serving.Go(s.accept)
	return s
}

// Path returns the path of the socket.
func (s *Server) Path() string { return s.path }

// Listener returns the descriptor of the listening socket, which Resume takes.
func (s *Server) Listener() int { return handover.FD(s.l) }

// ResumeServer is Serve for the listening socket fd of another Server.
func ResumeServer(path string, fd int, find func(process string) (*IO, error), deps Deps) *Server {
	return serve(path, handover.File(fd, path), find, deps)
}

// Close removes the socket and lets nobody in any more. The connections that are
// there go on: each ends when the streams that it shows have been closed and
// sent.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	err := s.l.Close()
	if rerr := os.Remove(s.path); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}

// Wait waits, after Close, for the last connection to end.
func (s *Server) Wait() { s.serving.Wait() }

func (s *Server) accept() {
	rc, err := s.l.SyscallConn()
	if err != nil {
		return
	}
	for {
		conn, err := s.acceptOne(rc)
		if errors.Is(err, errServerClosed) {
			return
		}
		if err != nil {
			// Out of descriptors: the next attempt may find one.
			s.log.Warn("accept attach client", "err", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if !s.add(conn) {
			conn.Close()
			s.gate.Leave()
			continue
		}
		s.serving.Go(func() {
			defer s.gate.Leave()
			defer s.remove(conn)
			s.serve(conn)
		})
	}
}

var errServerClosed = errors.New("server is closed")

// acceptOne waits for a client, for whom it enters the gate.
func (s *Server) acceptOne(rc syscall.RawConn) (*net.UnixConn, error) {
	fd, aerr := -1, error(nil)
	err := rc.Read(func(l uintptr) bool {
		s.gate.Enter()
		fd, _, aerr = unix.Accept4(int(l), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if aerr == unix.EAGAIN {
			s.gate.Leave()
			return false
		}
		return true
	})
	if err != nil {
		return nil, errServerClosed // nothing else ends the wait
	}
	if aerr != nil {
		s.gate.Leave()
		return nil, os.NewSyscallError("accept4", aerr)
	}
	f := os.NewFile(uintptr(fd), "client")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		s.gate.Leave()
		return nil, err
	}
	return conn.(*net.UnixConn), nil // as the listener is
}

func (s *Server) add(conn *net.UnixConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= maxClients {
		return false
	}
	s.conns[conn] = struct{}{}
	return true
}

func (s *Server) remove(conn *net.UnixConn) {
	conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

func (s *Server) serve(conn *net.UnixConn) {
	conn.SetReadDeadline(time.Now().Add(requestTimeout))
	req, rest, err := readRequest(conn)
	conn.SetReadDeadline(time.Time{})
	if err == nil {
		var streams *IO
		if streams, err = s.find(req.Process); err == nil && req.LogLimits != nil {
			streams.setLogLimits(*req.LogLimits)
			conn.SetWriteDeadline(time.Now().Add(requestTimeout))
			conn.Write(answer(shimio.Response{}))
			return
		}
		if err == nil {
			err = streams.Attach(conn, rest, req)
		}
	}
	if err != nil {
		conn.SetWriteDeadline(time.Now().Add(requestTimeout))
		conn.Write(answer(shimio.Response{Error: err.Error()}))
	}
}

// readRequest reads the request line and what happened to come with it.
func readRequest(conn *net.UnixConn) (req shimio.Request, rest []byte, err error) {
	buf := make([]byte, 0, 512)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := conn.Read(buf[len(buf):min(cap(buf), shimio.MaxLine+1)])
		start := len(buf)
		buf = buf[:start+n]
		if i := bytes.IndexByte(buf[start:], '\n'); i >= 0 {
			line, rest := buf[:start+i], buf[start+i+1:]
			if err := json.Unmarshal(line, &req); err != nil {
				return req, nil, fmt.Errorf("read attach request: %w", err)
			}
			return req, rest, nil
		}
		if len(buf) > shimio.MaxLine {
			return req, nil, fmt.Errorf("read attach request: line longer than %d bytes", shimio.MaxLine)
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return req, nil, fmt.Errorf("read attach request: %w", err)
		}
	}
}

// answer returns the response line.
func answer(r shimio.Response) []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic("attach response does not encode: " + err.Error())
	}
	return append(b, '\n')
}
