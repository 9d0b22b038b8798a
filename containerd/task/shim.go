package task

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Deadlines of the calls to a shim. Those that run hooks, pull in file systems or
// wait for the kernel to free things get minutes; the others only ever wait for a
// shim that is stopped, swapped out or dead.
const (
	stateTimeout    = 2 * time.Second
	promptTimeout   = 10 * time.Second // kill, exec, resize, pids, stats...
	freezeTimeout   = 30 * time.Second // pause, resume, update
	createTimeout   = 2 * time.Minute
	deleteTimeout   = 1 * time.Minute
	shutdownTimeout = 3 * time.Second
	dialTimeout     = 5 * time.Second
)

// errShimDead reports that the connection to the shim has ended. The burial of
// the task follows, or has begun.
var errShimDead = fmt.Errorf("shim is dead: %w", errdefs.ErrUnavailable)

// maxShimVersion is the newest version of the Task service that we speak.
const maxShimVersion = 3

// shim is the connection to a shim and, when we started it, its process. The
// messages of version 2 and 3 of the Task service are the same on the wire; only
// the name of the service differs.
type shim struct {
	namespace string
	version   atomic.Int32
	client    *ttrpc.Client
	// child is nil when the shim is not our child: started by its verb or by a
	// former run of this program.
	child *child
	// closed is closed when the connection has ended, whoever ended it.
	closed chan struct{}
	// stopLog ends the copying of the shim's log; nil when there is none.
	stopLog func()
}

// dialShim connects to the shim at boot.Address.
func dialShim(ctx context.Context, boot bootstrap) (net.Conn, error) {
	if boot.Protocol != "ttrpc" {
		return nil, fmt.Errorf("connect to shim: protocol %q: only ttrpc is spoken: %w", boot.Protocol, errdefs.ErrNotImplemented)
	}
	path, err := socketPath(boot.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to shim: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := dialUnix(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("connect to shim: %w: %w", err, errdefs.ErrUnavailable)
	}
	return conn, nil
}

// attach makes conn the task's connection to its shim. The rest of s is filled
// in by the caller; s is the task's when attach returns.
func (m *Manager) attach(t *task, s *shim, version int, conn net.Conn) {
	s.namespace, s.closed = t.namespace, make(chan struct{})
	s.version.Store(int32(version))
	t.mu.Lock() // whoever hears of the end of the connection finds the shim
	defer t.mu.Unlock()
	s.client = ttrpc.NewClient(conn, ttrpc.WithOnClose(func() {
		close(s.closed)
		m.disconnected(t)
	}))
	t.shim = s
}

// call does one request. The caller's ctx bounds it as well as timeout.
//
// Errors: the shim's own class; Unavailable when the shim is dead or did not
// answer in time; the cause of ctx when that ended.
func (s *shim) call(ctx context.Context, timeout time.Duration, method string, req, resp any) error {
	cctx, cancel := context.WithTimeout(namespaces.WithNamespace(ctx, s.namespace), timeout)
	defer cancel()
	version := s.version.Load()
	err := s.client.Call(cctx, serviceName(version), method, req, resp)
	if err == nil {
		return nil
	}
	native := errgrpc.ToNative(err)
	if version == maxShimVersion && errdefs.IsNotImplemented(native) {
		// An old shim that announced too much, or the method is missing. The
		// next answer tells.
		if err := s.client.Call(cctx, serviceName(version-1), method, req, resp); err == nil {
			s.version.CompareAndSwap(version, version-1)
			return nil
		} else if e := errgrpc.ToNative(err); !errdefs.IsNotImplemented(e) && !errors.Is(err, ttrpc.ErrClosed) && cctx.Err() == nil {
			s.version.CompareAndSwap(version, version-1)
			return e
		}
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case cctx.Err() != nil:
		return fmt.Errorf("shim did not answer %s within %v: %w", method, timeout, errdefs.ErrUnavailable)
	case errors.Is(err, ttrpc.ErrClosed):
		return errShimDead
	}
	return native
}

// shutdown asks the shim to exit and closes the connection.
func (s *shim) shutdown(ctx context.Context, id string) error {
	err := s.call(ctx, shutdownTimeout, "Shutdown", &api.ShutdownRequest{ID: id}, &emptypb.Empty{})
	select {
	case <-s.closed: // it has gone while it answered
		err = nil
	default:
	}
	s.close()
	return err
}

// close ends the connection without a word to the shim.
func (s *shim) close() {
	s.client.Close()
	if s.stopLog != nil {
		s.stopLog()
	}
}

func serviceName(version int32) string {
	if version == 2 {
		return "containerd.task.v2.Task"
	}
	return "containerd.task.v3.Task"
}

// socketPath returns the file of an address "unix://PATH" or "PATH". Abstract
// sockets are refused: any process of the network namespace can reach those
// (CVE-2020-15257).
func socketPath(address string) (string, error) {
	path := strings.TrimPrefix(address, "unix://")
	if !strings.HasPrefix(path, "/") || strings.Contains(path, "\x00") {
		return "", fmt.Errorf("address %q is not a unix socket path: %w", address, errdefs.ErrInvalidArgument)
	}
	return path, nil
}
