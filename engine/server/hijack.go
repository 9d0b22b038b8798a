package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/moby/moby/api/types"
)

// stream is a client's connection taken over from HTTP.
type stream struct {
	net.Conn
	r io.Reader
}

func (s *stream) Read(p []byte) (int, error) { return s.r.Read(p) }

// CloseWrite tells the client that no more output follows.
func (s *stream) CloseWrite() error {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// hijack takes the connection over, answers 101 to a client that asked for an
// upgrade and 200 to one that did not, and runs serve on the raw stream. From
// here on errors can't become a status: serve's error is returned for the log.
//
// multiplexed says that the output is framed, which clients from API 1.42 on
// are told by the content type.
func (s *Server) hijack(w http.ResponseWriter, r *request, multiplexed bool, serve func(context.Context, *stream) error) error {
	conn, buffered, release, err := s.takeOver(w)
	if err != nil {
		return err
	}
	defer release()

	contentType := types.MediaTypeRawStream
	head := "HTTP/1.1 200 OK\r\nContent-Type: " + contentType + "\r\n\r\n"
	if r.Header.Get("Upgrade") != "" {
		if multiplexed && r.atLeast(42) {
			contentType = types.MediaTypeMultiplexedStream
		}
		head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: " + contentType + "\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
	}
	if _, err := io.WriteString(conn, head); err != nil {
		return fmt.Errorf("answer the upgrade: %w", err)
	}
	// The request's context ends with the hijack, so the stream has its own.
	return serve(context.WithoutCancel(r.Context()), &stream{conn, unread(buffered.Reader, conn)})
}

// takeOver takes a client's connection over from HTTP. Shutdown closes it; the
// caller calls release, which closes it too, when it is done.
func (s *Server) takeOver(w http.ResponseWriter) (conn net.Conn, buffered *bufio.ReadWriter, release func(), err error) {
	conn, buffered, err = http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("take over the connection: %w", err)
	}
	if rw, ok := w.(*responseWriter); ok {
		rw.wrote = true
	}
	s.mu.Lock()
	s.hijacked[conn] = struct{}{}
	s.mu.Unlock()
	return conn, buffered, func() {
		s.mu.Lock()
		delete(s.hijacked, conn)
		s.mu.Unlock()
		conn.Close()
	}, nil
}

// unread returns a reader of what the HTTP server has buffered, then of conn.
func unread(buffered *bufio.Reader, conn net.Conn) io.Reader {
	if n := buffered.Buffered(); n > 0 {
		return io.MultiReader(io.LimitReader(buffered, int64(n)), conn)
	}
	return conn
}
