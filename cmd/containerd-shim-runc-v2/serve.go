package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lighter/shim"
	"lighter/shim/events"
	"lighter/shim/handover"
	"lighter/shim/reaper"
	"lighter/shim/taskrpc"
	"lighter/shim/ttrpc"
	"lighter/shim/wire"
)

// socketFD is the descriptor of the listening socket that a server inherits.
const socketFD = 3

// Time limits of the end of a server.
const (
	flushTimeout = 3 * time.Second // for events
	replyGrace   = time.Second     // for the answers to calls, Shutdown among them
)

// server is the shim's long life, which may go through several images of the
// process.
type server struct {
	log       *slog.Logger
	gate      *handover.Gate
	signals   chan os.Signal
	publisher *events.Publisher
	shim      *shim.Service
	rpc       *ttrpc.Server
	path      string // of the socket
}

// serve serves the socket that it inherits, or goes on where the image before has
// left the state taken. It ends after a Shutdown without containers.
func serve(cfg config, taken []byte, log *slog.Logger) error {
	s := &server{log: log, gate: &handover.Gate{}, signals: make(chan os.Signal, 1)}
	s.catch()
	var background sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	children := reaper.New()
	children.Gate = s.gate
	s.publisher = events.New(cfg.namespace, cfg.ttrpcAddress, log)
	quiet := &quiet{s: s, pace: cfg.pace, fresh: taken != nil}
	deps := shim.Deps{
		Namespace: cfg.namespace,
		Runtime:   newRuntimes(cfg.namespace, log).get,
		Reaper:    children,
		Publish:   s.publisher.Publish,
		Busy:      quiet.moved,
		Gate:      s.gate,
		Log:       log,
	}
	start := s.begin
	if taken != nil {
		start = func(deps shim.Deps, called func()) error { return s.resume(taken, deps, called) }
	}
	if err := start(deps, quiet.called); err != nil {
		cancel()
		return err
	}
	background.Go(func() { children.Run(ctx, s.signals) })
	background.Go(func() { quiet.run(ctx) })

	<-s.shim.Done()
	os.Remove(s.path)
	s.shim.Linger()
	flushed, done := context.WithTimeout(context.Background(), flushTimeout)
	s.publisher.Close(flushed)
	done()
	s.rpc.Close(replyGrace)
	cancel()
	background.Wait()
	return nil
}

// catch has signals delivered. They are caught, not ignored: a container would
// inherit ignored signals. Each only causes a look for dead children, which for
// all but SIGCHLD is in vain.
func (s *server) catch() {
	signal.Notify(s.signals, unix.SIGCHLD, unix.SIGPIPE, unix.SIGHUP, unix.SIGTERM, unix.SIGINT)
}

// begin starts with the inherited socket.
func (s *server) begin(deps shim.Deps, called func()) error {
	if err := closeOnExec(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become child subreaper: %w", os.NewSyscallError("prctl", err))
	}
	err := unix.SetNonblock(socketFD, true)
	if err == nil {
		err = s.findPath(socketFD)
	}
	if err != nil {
		return fmt.Errorf("take the listening socket from fd %d: %w", socketFD, err)
	}
	s.shim = shim.NewService(deps)
	s.rpc = ttrpc.Serve(os.NewFile(socketFD, s.path), s.config(called))
	return nil
}

func (s *server) config(called func()) ttrpc.Config {
	api := taskrpc.New(s.shim, s.publisher.Kick, called)
	// A containerd that is killed after it has deleted the task tells nobody that
	// the shim may go: without a container and a client it is done.
	deserted := func() { s.shim.Shutdown() }
	return ttrpc.Config{Handle: api.Handle, Waits: taskrpc.Waits, Deserted: deserted, Gate: s.gate, Log: s.log}
}

// findPath learns where the listening socket is.
func (s *server) findPath(fd int) error {
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	sa, ok := name.(*unix.SockaddrUnix)
	if !ok || listens == 0 {
		return fmt.Errorf("not a listening unix socket")
	}
	s.path = sa.Name
	return nil
}

// refresh goes on in a fresh image of the program, which has none of the memory
// that work has left behind. It returns only if that cannot be done: with nil if
// it is not the moment.
func (s *server) refresh() error {
	if !s.gate.TryClose() {
		return nil
	}
	defer s.gate.Open()
	if !s.publisher.Idle() {
		return nil
	}
	containers, ok := s.shim.Handover()
	if !ok {
		return nil
	}
	rpc := s.rpc.State()
	var e wire.Encoder
	e.Message(1, rpc.Encode)
	e.Message(2, containers.Encode)
	err := handover.Exec(e.Bytes(), append(rpc.Files(), containers.Files()...))
	s.catch()
	return err
}

// resume goes on where refresh has left off.
func (s *server) resume(state []byte, deps shim.Deps, called func()) error {
	var rpc ttrpc.State
	var containers shim.ServiceState
	d := wire.NewDecoder(state)
	for d.Next() {
		switch d.Field() {
		case 1:
			d.Message(rpc.Decode)
		case 2:
			d.Message(containers.Decode)
		}
	}
	err := d.Err()
	if err == nil {
		err = s.findPath(rpc.Listener)
	}
	if err == nil {
		s.shim, err = shim.Resume(deps, containers)
	}
	if err != nil {
		return fmt.Errorf("go on in a fresh image: %w", err)
	}
	s.rpc = ttrpc.Resume(rpc, s.config(called))
	return nil
}
