package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	api "github.com/containerd/containerd/api/services/streaming/v1"
	transferapi "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Window and chunk of a byte stream, in bytes: those of stock peers.
const (
	streamWindow = 64 << 10
	streamChunk  = 32 << 10
)

// streams are the open streams of all clients, by namespace and the name that the
// client has chosen. A call of another service refers to them by name.
type streams struct {
	api.UnimplementedStreamingServer

	mu   sync.Mutex // guards the field below
	open map[[2]string]*clientStream
}

func newStreams() *streams { return &streams{open: make(map[[2]string]*clientStream)} }

// clientStream is one stream. Its connection lives as long as the handler, which
// ends at close or when the client has gone.
type clientStream struct {
	conn api.Streaming_StreamServer
	over chan struct{}
	end  func()
}

// close ends the stream: the client reads its end.
func (c *clientStream) close() { c.end() }

// Stream takes a stream until it has been used.
func (s *streams) Stream(conn api.Streaming_StreamServer) error {
	namespace, err := namespaces.NamespaceRequired(conn.Context())
	if err != nil {
		return err
	}
	first, err := conn.Recv()
	if err != nil {
		return err
	}
	var init api.StreamInit
	if err := typeurl.UnmarshalTo(first, &init); err != nil {
		return invalid("open stream: first message: %w", err)
	}
	if init.GetID() == "" {
		return invalid("open stream: no ID")
	}
	key := [2]string{namespace, init.GetID()}
	over := make(chan struct{})
	c := &clientStream{conn: conn, over: over, end: sync.OnceFunc(func() { close(over) })}
	s.mu.Lock()
	_, taken := s.open[key]
	if !taken {
		s.open[key] = c
	}
	s.mu.Unlock()
	if taken {
		return fmt.Errorf("open stream %q: %w", init.GetID(), errdefs.ErrAlreadyExists)
	}
	defer func() {
		s.mu.Lock()
		delete(s.open, key)
		s.mu.Unlock()
	}()
	if err := conn.Send(&anypb.Any{}); err != nil { // the stream can be referred to
		return err
	}
	select {
	case <-over:
		return nil
	case <-conn.Context().Done():
		return context.Cause(conn.Context())
	}
}

// get returns the stream that the client of ctx has opened as id.
func (s *streams) get(ctx context.Context, id string) (*clientStream, error) {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.open[[2]string{namespace, id}]
	if c == nil {
		return nil, fmt.Errorf("stream %q: %w", id, errdefs.ErrNotFound)
	}
	return c, nil
}

// send sends one message.
func (c *clientStream) send(m proto.Message) error {
	a, err := typeurl.MarshalAnyToProto(m)
	if err != nil {
		return err
	}
	return c.conn.Send(a)
}

// streamReader reads bytes that the client sends, as much as it has been allowed to.
type streamReader struct {
	*clientStream
	window int
	rest   []byte
}

func (r *streamReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.window < streamWindow {
			err := r.send(&transferapi.WindowUpdate{Update: streamWindow})
			if err != nil && !errors.Is(err, io.EOF) { // at its end the client takes no more
				return 0, err
			}
			r.window += streamWindow
		}
		m, err := r.conn.Recv()
		if err != nil {
			return 0, err
		}
		var data transferapi.Data
		if err := typeurl.UnmarshalTo(m, &data); err != nil {
			return 0, invalid("read stream: %w", err)
		}
		r.rest = data.GetData()
		r.window -= len(r.rest)
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// streamWriter sends bytes to the client, which says how many it takes.
type streamWriter struct {
	*clientStream
	window int
}

func (w *streamWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		for w.window <= 0 {
			m, err := w.conn.Recv()
			if errors.Is(err, io.EOF) {
				err = io.ErrClosedPipe
			}
			if err != nil {
				return n, fmt.Errorf("write stream: %w", err)
			}
			var update transferapi.WindowUpdate
			if err := typeurl.UnmarshalTo(m, &update); err != nil {
				return n, invalid("write stream: %w", err)
			}
			if update.GetUpdate() < 0 || w.window > 1<<30 {
				return n, invalid("write stream: window update of %d bytes", update.GetUpdate())
			}
			w.window += int(update.GetUpdate())
		}
		part := p[n:min(len(p), n+min(streamChunk, w.window))]
		if err := w.send(&transferapi.Data{Data: part}); err != nil {
			return n, fmt.Errorf("write stream: %w", err)
		}
		n += len(part)
		w.window -= len(part)
	}
	return n, nil
}
