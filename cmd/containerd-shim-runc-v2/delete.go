package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"lighter/shim"
	"lighter/shim/ocicli"
	"lighter/shim/taskrpc"
)

// deleteTimeout bounds the clean-up; containerd waits 5 s.
const deleteTimeout = 10 * time.Second

// deleteDead ends and removes what a dead shim has left of its container, and
// prints how the container ended. What cannot be removed is logged: containerd
// is told the exit in any case.
func deleteDead(cfg config, stdout io.Writer, log *slog.Logger) error {
	bundle := cfg.bundle
	if bundle == "" {
		wd, err := os.Getwd()
		if err != nil {
			return fmt.Errorf("find bundle: %w", err)
		}
		bundle = filepath.Join(filepath.Dir(wd), cfg.id)
	}
	opts, err := shim.LoadOptions(bundle)
	if err != nil {
		return err
	}
	rt, err := newRuntimes(cfg.namespace, log).get(opts)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), deleteTimeout)
	defer cancel()
	// Without a pid namespace of its own a container may outlive its init.
	if err := rt.Kill(ctx, cfg.id, syscall.SIGKILL, true); err != nil && !errdefs.IsNotFound(err) {
		log.Warn("kill the processes of a dead shim's container", "err", err)
	}
	if err := rt.Delete(ctx, cfg.id, true); err != nil && !errdefs.IsNotFound(err) {
		log.Warn("delete a dead shim's container", "err", err)
	}
	exit := shim.LoadExit(bundle)
	if err := ocicli.Unmount(bundle); err != nil {
		log.Warn("unmount a dead shim's root file system", "err", err)
	}
	if err := removeSocket(cfg, bundle); err != nil {
		log.Warn("remove a dead shim's socket", "err", err)
	}
	if _, err := stdout.Write(taskrpc.DeleteResponse(exit)); err != nil {
		return fmt.Errorf("print exit: %w", err)
	}
	return nil
}
