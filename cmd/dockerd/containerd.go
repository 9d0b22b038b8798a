package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"lighter/containerd"
	"lighter/containerd/local"
	"lighter/containerd/remote"
)

// openContainerd gives the engine its containerd: the one that --containerd
// names, over gRPC, or one in this process. The address is what docker info
// shows.
func openContainerd(ctx context.Context, cfg *config, log *slog.Logger) (svc *containerd.Services, address string, stop func() error, err error) {
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
	shims, err := listenForShims(address + ".ttrpc")
	if err != nil {
		return nil, "", nil, errors.Join(err, l.Close(ctx))
	}
	served := make(chan error, 1)
	go func() { served <- l.ServeShims(shims) }()
	return l.Services(), address, func() error {
		err := l.Close(context.WithoutCancel(ctx))
		return errors.Join(err, <-served, ignoreNotExist(os.Remove(shims.Addr().String())))
	}, nil
}

// containerdRoot is where the embedded containerd keeps its data.
func containerdRoot(dataRoot string) string {
	if root := os.Getenv("DOCKER_CONTAINERD_ROOT"); root != "" {
		return root
	}
	return filepath.Join(dataRoot, "containerd", "daemon")
}

// listenForShims opens the socket that shims send their events to, for root
// alone. One that a killed daemon left is replaced: the lock on the data root
// says that no other daemon serves it.
func listenForShims(path string) (net.Listener, error) {
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
