package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sync/errgroup"

	"lighter/containerd"
	"lighter/containerd/local"
	"lighter/containerd/remote"
	"lighter/containerd/rpc"
)

// openContainerd gives the engine its containerd: the one that --containerd
// names, over gRPC, or one in this process. The address is what docker info
// shows.
func openContainerd(ctx context.Context, cfg *config, log *slog.Logger) (svc *containerd.Services, address string, stop func() error, err error) {
	// Mounts of a moment stay out of /tmp, and what a killed daemon left goes.
	if err := mount.SetTempMountLocation(filepath.Join(cfg.ExecRoot, "tmpmounts")); err != nil {
		return nil, "", nil, err
	}
	if warnings, err := mount.CleanupTempMounts(0); err != nil || len(warnings) > 0 {
		log.Warn("remove temporary mounts", "err", errors.Join(append(warnings, err)...))
	}
	if cfg.Containerd != "" {
		svc, conn, err := remote.Dial(ctx, cfg.Containerd)
		if err != nil {
			return nil, "", nil, err
		}
		return svc, cfg.Containerd, conn.Close, nil
	}
	state := filepath.Join(cfg.ExecRoot, "containerd")
	address = filepath.Join(state, "containerd.sock")
	l, err := local.New(ctx, local.Config{
		Root:    containerdRoot(cfg.DataRoot),
		State:   filepath.Join(state, "daemon"),
		Address: address,
		Debug:   cfg.LogLevel == "debug",
		Log:     log.With("component", "containerd"),
	})
	if err != nil {
		return nil, "", nil, err
	}
	listeners := make(map[string]net.Listener, 2)
	closeAll := func() error {
		var errs []error
		for path, l := range listeners {
			l.Close()
			errs = append(errs, ignoreNotExist(os.Remove(path)))
		}
		return errors.Join(errs...)
	}
	for _, path := range []string{address, address + ".ttrpc"} {
		listener, err := listenForRoot(path)
		if err != nil {
			return nil, "", nil, errors.Join(err, closeAll(), l.Close(ctx))
		}
		listeners[path] = listener
	}
	// What runs in this process is also there for ctr and other clients of
	// containerd, at the address that docker info shows.
	clients := rpc.New(rpc.Config{
		Services: l.Services(), Snapshotters: l.Snapshotters(), UUID: l.UUID(), RuntimeInfo: l.RuntimeInfo, Life: ctx, Log: log,
	})
	var served errgroup.Group
	served.Go(func() error { return l.ServeShims(listeners[address+".ttrpc"]) })
	served.Go(func() error { return clients.Serve(listeners[address]) })
	return l.Services(), address, func() error {
		clients.Stop()
		err := l.Close(context.WithoutCancel(ctx))
		return errors.Join(err, served.Wait(), closeAll())
	}, nil
}

// containerdRoot is where the embedded containerd keeps its data.
func containerdRoot(dataRoot string) string {
	if root := os.Getenv("DOCKER_CONTAINERD_ROOT"); root != "" {
		return root
	}
	return filepath.Join(dataRoot, "containerd", "daemon")
}

// listenForRoot opens a socket that root alone may connect to. One that a killed daemon left is replaced: the lock on the data root
// says that no other daemon serves it.
func listenForRoot(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := ignoreNotExist(os.Remove(path)); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}
