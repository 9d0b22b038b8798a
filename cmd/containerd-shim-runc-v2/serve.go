package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"lighter/shim"
	"lighter/shim/events"
	"lighter/shim/reaper"
	"lighter/shim/taskrpc"
)

// socketFD is the descriptor of the listening socket that a server inherits.
const socketFD = 3

// Time limits of the end of a server.
const (
	flushTimeout = 3 * time.Second       // for events
	replyGrace   = 50 * time.Millisecond // for the answer to Shutdown
)

// serve is the shim's long life. It ends after a Shutdown without containers.
func serve(cfg config, log *slog.Logger) error {
	l, err := inheritedListener()
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become child subreaper: %w", os.NewSyscallError("prctl", err))
	}
	// Caught, not ignored: a container would inherit ignored signals. Each only
	// causes a look for dead children, which for the others is in vain.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGPIPE, unix.SIGHUP, unix.SIGTERM, unix.SIGINT)

	var background sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	children := reaper.New()
	background.Go(func() { children.Run(ctx, signals) })

	publisher := events.New(cfg.namespace, cfg.ttrpcAddress, log)
	idle := &idler{}
	svc := shim.NewService(shim.Deps{
		Namespace: cfg.namespace,
		Runtime:   newRuntimes(cfg.namespace, log).get,
		Reaper:    children,
		Publish:   publisher.Publish,
		Busy:      idle.busy,
		Log:       log,
	})
	idle.trim = svc.Trim

	srv, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		cancel()
		return fmt.Errorf("make server: %w", err)
	}
	taskrpc.Register(srv, svc, publisher.Kick, idle.busy)
	failed := make(chan error, 1)
	background.Go(func() {
		if err := srv.Serve(ctx, l); !errors.Is(err, ttrpc.ErrServerClosed) {
			failed <- err
		}
	})
	idle.busy()

	select {
	case <-svc.Done():
	case err = <-failed:
		err = fmt.Errorf("serve: %w", err)
	}
	os.Remove(l.Addr().String())
	svc.Linger()
	flushed, done := context.WithTimeout(context.Background(), flushTimeout)
	publisher.Close(flushed)
	done()
	// ttrpc takes a connection for idle before the answer to Shutdown is sent.
	time.Sleep(replyGrace)
	srv.Close()
	cancel()
	background.Wait()
	return err
}

func inheritedListener() (net.Listener, error) {
	f := os.NewFile(socketFD, "socket")
	defer f.Close()
	if err := closeOnExec(); err != nil {
		return nil, err
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take the listening socket from fd %d: %w", socketFD, err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
		return u, nil
	}
	l.Close()
	return nil, fmt.Errorf("take the listening socket from fd %d: not a unix socket", socketFD)
}

// idleAfter is how long nothing must happen before memory is given back.
const idleAfter = 3 * time.Second

// idler gives memory back to the system once when nothing has happened for a
// while. An idle shim runs no timer.
type idler struct {
	trim func() // frees buffers

	seen  atomic.Bool // something has happened since the timer was set
	armed atomic.Bool
}

func (i *idler) busy() {
	if !i.seen.Load() {
		i.seen.Store(true)
	}
	if !i.armed.Load() && i.armed.CompareAndSwap(false, true) {
		time.AfterFunc(idleAfter, i.expire)
	}
}

func (i *idler) expire() {
	if i.seen.Swap(false) {
		time.AfterFunc(idleAfter, i.expire)
		return
	}
	i.armed.Store(false)
	i.trim()
	// Pools keep their buffers over one collection, and each halves the stacks
	// that grew while the container was made.
	for range 4 {
		runtime.GC()
	}
	debug.FreeOSMemory()
}
