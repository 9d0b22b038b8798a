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
	"time"

	"lighter/internal/shimio"
)

// requestTimeout bounds the wait for a client's request.
const requestTimeout = 10 * time.Second

// maxClients bounds the connections of one attach socket.
const maxClients = 1024

// Server accepts the attach clients of one container.
type Server struct {
	path string
	l    *net.UnixListener
	find func(process string) (*IO, error)
	log  *slog.Logger

	mu     sync.Mutex // guards the fields below
	conns  map[*net.UnixConn]struct{}
	closed bool

	serving sync.WaitGroup
}

// Serve makes the attach socket at path and serves it. find returns the streams
// of an exec, or of init for "". Close stops it.
func Serve(path string, find func(process string) (*IO, error), log *slog.Logger) (*Server, error) {
	l, err := shimio.Listen(path)
	if err != nil {
		return nil, err
	}
	s := &Server{path: path, l: l, find: find, log: log, conns: make(map[*net.UnixConn]struct{})}
	s.serving.Go(s.accept)
	return s, nil
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
	for {
		conn, err := s.l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
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
			continue
		}
		s.serving.Go(func() {
			defer s.remove(conn)
			s.serve(conn)
		})
	}
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
