package ttrpc

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"
)

// Client makes calls, one at a time. It is not safe for concurrent use.
type Client struct {
	conn net.Conn
	next uint32
}

// Dial connects to the unix socket at path.
func Dial(ctx context.Context, path string) (*Client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn, next: 1}, nil
}

// Close closes the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Call makes a call. The error is a *StatusError if the other side refused it;
// after any other the Client must be closed.
func (c *Client) Call(ctx context.Context, service, method string, payload []byte) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	r := request{service: service, method: method, payload: payload}
	if deadline, ok := ctx.Deadline(); ok {
		r.timeout = max(int64(time.Until(deadline)), 1)
	}
	resp, err := c.roundTrip(r)
	switch {
	case err != nil && ctx.Err() != nil:
		err = context.Cause(ctx)
	case err == nil && resp.code != ok:
		err = &StatusError{resp.code, resp.message}
	}
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", method, err)
	}
	return resp.payload, nil
}

func (c *Client) roundTrip(r request) (response, error) {
	stream := c.next
	c.next += 2
	if _, err := c.conn.Write(frame(stream, typeRequest, flagRemoteClosed, r.encode())); err != nil {
		return response{}, err
	}
	for {
		var head [headerSize]byte
		if _, err := io.ReadFull(c.conn, head[:]); err != nil {
			return response{}, err
		}
		h := parseHeader(head[:])
		if h.length > maxMessage {
			return response{}, fmt.Errorf("message of %d bytes is too long", h.length)
		}
		p := make([]byte, h.length)
		if _, err := io.ReadFull(c.conn, p); err != nil {
			return response{}, err
		}
		if h.stream == stream && h.kind == typeResponse {
			var resp response
			err := resp.decode(p)
			return resp, err
		}
	}
}
