package main

import (
	"context"
	"log/slog"
	"os"

	"lighter/internal/linux/mount"
	"lighter/runc"
	"lighter/runc/rootfs"
	"lighter/shim"
)

// runcRuntime makes a *runc.Runtime a shim.Runtime: it translates the options, no
// more. Operations that need no translation are the embedded Runtime's own.
type runcRuntime struct {
	*runc.Runtime
}

var _ shim.Runtime = runcRuntime{}

// newRuncRuntime returns the in-process runtime with its state below root.
func newRuncRuntime(root string, log *slog.Logger) shim.Runtime {
	return runcRuntime{runc.New(runc.Config{Root: root, Log: log})}
}

// Create implements shim.Runtime.
func (r runcRuntime) Create(ctx context.Context, id string, opts shim.CreateOptions) (int, error) {
	mounts := make([]runc.Mount, 0, len(opts.Rootfs))
	for _, m := range opts.Rootfs {
		mounts = append(mounts, runc.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return r.Runtime.Create(ctx, id, runc.CreateOptions{Bundle: opts.Bundle, Rootfs: mounts, Stdio: stdio(opts.Stdio)})
}

// Exec implements shim.Runtime.
func (r runcRuntime) Exec(ctx context.Context, id string, opts shim.ExecOptions) (int, error) {
	return r.Runtime.Exec(ctx, id, runc.ExecOptions{Process: opts.Process, Stdio: stdio(opts.Stdio)})
}

func stdio(s shim.Stdio) runc.Stdio {
	return runc.Stdio{In: s.In, Out: s.Out, Err: s.Err, Console: s.Console}
}

// mountOn mounts m on dir, for a runtime program that finds its root mounted.
func mountOn(m shim.Mount, dir *os.File) error {
	tree, err := rootfs.Root("", []rootfs.Mount{{Type: m.Type, Source: m.Source, Options: m.Options}})
	if err != nil {
		return err
	}
	defer tree.Close()
	return mount.Attach(tree, dir)
}
