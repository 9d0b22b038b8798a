package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errhttp"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/moby/api/types/common"
	"google.golang.org/grpc/metadata"

	"lighter/internal/buildlink"
)

// handler answers what dockerd passes on: the build routes of the Engine API
// without their version prefix, gRPC, and dockerd's own requests.
func (b *Builder) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := f(w, r); err != nil {
				b.fail(w, r, err)
			}
		})
	}
	handle("POST /session", func(w http.ResponseWriter, r *http.Request) error {
		return b.sessions.HandleHTTPRequest(r.Context(), w, r)
	})
	handle("POST /grpc", b.upgrade)
	handle("POST /build", b.build)
	handle("POST /build/cancel", b.cancel)
	handle("GET "+buildlink.PathUsage, b.usage)
	handle("POST "+buildlink.PathPrune, b.prune)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			b.grpc.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// fail answers with the status of err's class, if nothing was answered yet.
func (b *Builder) fail(w http.ResponseWriter, r *http.Request, err error) {
	b.log.Debug("request", "path", r.URL.Path, "err", err)
	// A client that still sends its context does not listen until it is done.
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		b.log.Debug("read the rest of the request", "err", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(errhttp.ToHTTP(err))
	if err := json.NewEncoder(w).Encode(common.ErrorResponse{Message: err.Error()}); err != nil {
		b.log.Debug("answer", "err", err)
	}
}

// upgrade gives the client's connection to the gRPC server.
func (b *Builder) upgrade(w http.ResponseWriter, r *http.Request) error {
	if proto := r.Header.Get("Upgrade"); proto != "h2c" {
		return fmt.Errorf("protocol %q is not supported: h2c is: %w", proto, errdefs.ErrInvalidArgument)
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	if buffered.Reader.Buffered() > 0 {
		conn.Close()
		return nil // the client spoke before the answer
	}
	if _, err := conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")); err != nil {
		conn.Close()
		return nil
	}
	b.raw.give(conn)
	return nil
}

// cancel ends the build whose ID the client chose.
func (b *Builder) cancel(w http.ResponseWriter, r *http.Request) error {
	id := r.URL.Query().Get("id")
	if id == "" {
		return fmt.Errorf("build ID not provided: %w", errdefs.ErrInvalidArgument)
	}
	b.mu.Lock()
	cancel := b.builds[id]
	b.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	return nil
}

// usage lists the build cache.
func (b *Builder) usage(w http.ResponseWriter, r *http.Request) error {
	records, err := b.worker.DiskUsage(r.Context(), client.DiskUsageInfo{})
	if err != nil {
		return err
	}
	list := make([]buildlink.Usage, 0, len(records))
	for _, u := range records {
		list = append(list, buildlink.Usage{
			ID: u.ID, Parents: u.Parents, Type: string(u.RecordType), Description: u.Description, InUse: u.InUse, Shared: u.Shared,
			Size: u.Size, CreatedAt: u.CreatedAt, LastUsedAt: u.LastUsedAt, UsageCount: u.UsageCount,
		})
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(list)
}

// prune deletes from the build cache.
func (b *Builder) prune(w http.ResponseWriter, r *http.Request) error {
	var req buildlink.Prune
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&req); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	stream := &pruneStream{localStream: localStream{ctx: r.Context()}}
	err := b.control.Prune(&controlapi.PruneRequest{
		All: req.All, Filter: req.Filter, KeepDuration: int64(req.KeepDuration),
		ReservedSpace: req.ReservedBytes, MaxUsedSpace: req.MaxUsedBytes, MinFreeSpace: req.MinFreeBytes,
	}, stream)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(stream.report)
}

// pruneStream collects what Prune deletes.
type pruneStream struct {
	localStream
	report buildlink.PruneReport
}

// Send implements the stream of Control.Prune.
func (s *pruneStream) Send(u *controlapi.UsageRecord) error {
	s.report.Deleted = append(s.report.Deleted, u.ID)
	s.report.SpaceReclaimed += uint64(max(u.Size, 0))
	return nil
}

// localStream is a gRPC server's stream for a call in the process.
type localStream struct{ ctx context.Context } // of the call

func (s localStream) Context() context.Context     { return s.ctx }
func (s localStream) SetHeader(metadata.MD) error  { return nil }
func (s localStream) SendHeader(metadata.MD) error { return nil }
func (s localStream) SetTrailer(metadata.MD)       {}
func (s localStream) SendMsg(any) error            { return errors.New("send message: not a stream of messages") }
func (s localStream) RecvMsg(any) error {
	return errors.New("receive message: not a stream of messages")
}

// handoff is a listener of connections that come from elsewhere.
type handoff struct {
	conns chan net.Conn // unbuffered: give waits for Accept
	once  sync.Once
	done  chan struct{}
}

func newHandoff() *handoff { return &handoff{conns: make(chan net.Conn), done: make(chan struct{})} }

// give hands conn over; after Close it is closed.
func (h *handoff) give(conn net.Conn) {
	select {
	case h.conns <- conn:
	case <-h.done:
		conn.Close()
	}
}

// Accept implements net.Listener.
func (h *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handoff) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener.
func (h *handoff) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }
