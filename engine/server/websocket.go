package server

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"

	"golang.org/x/net/websocket"
)

// statusNormal is the code of a WebSocket that ends as it should (RFC 6455,
// section 7.4.1).
const statusNormal = 1000

// containerAttachWebSocket is containerAttach for clients that cannot take a
// connection over, such as browsers. A message to the container, text or binary,
// is its input; its output comes in binary messages and without stdcopy frames,
// standard output and error as one.
func (s *Server) containerAttachWebSocket(w http.ResponseWriter, r *request) error {
	opts := r.attachOptions()
	opts.Raw = true
	session, err := s.backends.Containers.Attach(r.Context(), r.vars["name"], opts)
	if err != nil {
		return err
	}
	defer session.Close()
	conn, buffered, release, err := s.takeOver(w)
	if err != nil {
		return err
	}
	defer release()
	// The request's context ends with the hijack, so the stream has its own.
	ctx := context.WithoutCancel(r.Context())
	// Docker compatibility: no Origin is refused, as clients that are no
	// browsers send any.
	server := websocket.Server{Handler: func(ws *websocket.Conn) {
		ws.PayloadType = websocket.BinaryFrame
		err = session.Serve(ctx, &webSocket{ws})
	}}
	server.ServeHTTP(&takenOver{w, conn, buffered}, r.Request)
	return err
}

// webSocket is a stream over messages. It has no half-close: the end of what it
// reads is its end.
type webSocket struct{ *websocket.Conn }

func (c *webSocket) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		err = net.ErrClosed
	}
	return n, err
}

// CloseWrite tells the client that no more output follows.
func (c *webSocket) CloseWrite() error { return c.WriteClose(statusNormal) }

// takenOver hands a connection that was taken over to package websocket.
type takenOver struct {
	http.ResponseWriter
	conn     net.Conn
	buffered *bufio.ReadWriter
}

func (t *takenOver) Hijack() (net.Conn, *bufio.ReadWriter, error) { return t.conn, t.buffered, nil }
