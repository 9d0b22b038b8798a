package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"lighter/containerd/local"
	"lighter/containerd/rpc"
	"lighter/internal/daemon"
	"lighter/internal/version"
)

// stopTimeout is how long requests under way may take when the daemon stops.
const stopTimeout = 5 * time.Second

// serve runs the daemon until a signal. It stops in the reverse order of the
// start: no new requests, the old ones finished or cut off, then the services.
// Shims and their containers go on.
func serve(ctx context.Context, cfg config, log *slog.Logger) (err error) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	signal.Ignore(syscall.SIGPIPE) // of a shim's fifo, of a client
	log.Info("starting containerd", "version", version.Version, "revision", version.GitCommit)
	if err := adjustOOMScore(cfg.OOMScore); err != nil {
		log.Warn("can't set OOM score", "err", err)
	}
	if cfg.Cgroup.Path != "" {
		if err := joinCgroup(cfg.Cgroup.Path); err != nil {
			return err
		}
	}
	l, err := local.New(ctx, local.Config{
		Root: cfg.Root, State: cfg.State, Address: cfg.GRPC.Address,
		Debug: log.Enabled(ctx, slog.LevelDebug), Log: log,
	})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		err = errors.Join(err, l.Close(ctx))
	}()
	// The lock on root is held: what lies there and at the addresses is of a dead
	// daemon.
	if err := mount.SetTempMountLocation(filepath.Join(cfg.State, "tmpmounts")); err != nil {
		return err
	}
	if warnings, err := mount.CleanupTempMounts(0); err != nil || len(warnings) > 0 {
		log.Warn("remove temporary mounts", "err", errors.Join(append(warnings, err)...))
	}
	shims, err := listen(cfg.ttrpcAddress(), 0, 0, 0o600)
	if err != nil {
		return err
	}
	defer removeSocket(shims)
	clients, err := listen(cfg.GRPC.Address, cfg.GRPC.UID, cfg.GRPC.GID, 0o660)
	if err != nil {
		return errors.Join(err, shims.Close())
	}
	defer removeSocket(clients)
	services := l.Services()
	server := rpc.New(rpc.Config{
		Services: services, Snapshotters: l.Snapshotters(), UUID: l.UUID(), RuntimeInfo: l.RuntimeInfo, Life: ctx, Log: log,
	})

	var listeners []net.Listener // of debug and metrics
	closeListeners := func() {
		for _, l := range listeners {
			l.Close()
		}
	}
	defer closeListeners()
	g, gctx := errgroup.WithContext(ctx)
	serveOn := func(l net.Listener, what string, h http.Handler) {
		listeners = append(listeners, l)
		g.Go(func() error {
			if err := serveHTTP(l, h, log); gctx.Err() == nil {
				return fmt.Errorf("serve %s: %w", what, err)
			}
			return nil
		})
	}
	if cfg.Debug.Address != "" {
		l, err := listen(cfg.Debug.Address, 0, 0, 0o600)
		if err != nil {
			return errors.Join(err, shims.Close(), clients.Close())
		}
		defer removeSocket(l)
		serveOn(l, "debug", debugHandler())
	}
	if cfg.Metrics.Address != "" {
		l, err := net.Listen("tcp", cfg.Metrics.Address)
		if err != nil {
			return errors.Join(fmt.Errorf("metrics: %w", err), shims.Close(), clients.Close())
		}
		serveOn(l, "metrics", metricsHandler(services, log))
	}
	g.Go(func() error { return l.ServeShims(shims) })
	g.Go(func() error {
		if err := server.Serve(clients); err != nil {
			return fmt.Errorf("serve gRPC: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-gctx.Done()
		daemon.Notify("STOPPING=1")
		log.Info("stopping containerd", "cause", context.Cause(ctx))
		closeListeners()
		stopServer(server)
		shims.Close() // ends ServeShims
		return nil
	})
	log.Info("containerd is ready", "address", cfg.GRPC.Address)
	if err := daemon.Notify("READY=1"); err != nil {
		log.Warn("can't notify the service manager", "err", err)
	}
	return g.Wait()
}

// stopServer waits for requests under way, but not for ever.
func stopServer(s *grpc.Server) {
	cut := time.AfterFunc(stopTimeout, s.Stop)
	defer cut.Stop()
	s.GracefulStop()
}

// listen makes a socket at path that has its mode and owner before anybody can
// connect.
func listen(path string, uid, gid int, mode os.FileMode) (net.Listener, error) {
	fail := func(err error) (net.Listener, error) { return nil, fmt.Errorf("listen on %q: %w", path, err) }
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	if gid != 0 { // that group has to get to the socket
		if err := errors.Join(os.Chown(dir, -1, gid), os.Chmod(dir, 0o710)); err != nil {
			return fail(err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail(err)
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) { // the mode of a socket becomes that of its file
			err = os.NewSyscallError("fchmod", unix.Fchmod(int(fd), 0o600))
		})
		return errors.Join(cerr, err)
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return fail(err)
	}
	if uid != os.Geteuid() || gid != os.Getegid() {
		err = os.Chown(path, uid, gid)
	}
	if err := errors.Join(err, os.Chmod(path, mode)); err != nil {
		l.Close()
		return fail(err)
	}
	return l, nil
}

// removeSocket closes the listener and the name that it may have left.
func removeSocket(l net.Listener) {
	l.Close()
	os.Remove(l.Addr().String())
}

// adjustOOMScore tells the kernel's OOM killer about this process; 0 leaves it
// as it is.
func adjustOOMScore(score int) error {
	if score == 0 {
		return nil
	}
	return os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(score)), 0)
}
