// Package shim is the supervisor of one container (or pod): it holds the
// processes' input and output, writes their logs, reaps them, keeps their exit
// status until asked, and outlives every daemon. It serves containerd's Task API
// and runs containers through a Runtime.
package shim

import (
	"context"
	"os"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Runtime implements the OCI verbs with exactly their OCI meaning (runtime-spec
// runtime.md#operations). Implementations are in-process (package runc behind an
// adapter) or execute any OCI program (package ocicli).
//
// Processes made by a Runtime are children of the calling process, directly or
// through its being a child subreaper; the caller reaps them. A Runtime never
// calls wait for them.
//
// Methods may be called from several goroutines, also for one container.
// Errors are classed with containerd/errdefs: NotFound for an unknown container,
// AlreadyExists for a taken ID, FailedPrecondition for a wrong state,
// InvalidArgument for a bad bundle.
type Runtime interface {
	// Create sets up the container and parks its init process before the
	// user's program. On an error nothing is left behind.
	Create(ctx context.Context, id string, opts CreateOptions) (pid int, err error)

	// Start lets the user's program run. An error of the execve itself (no such
	// file, permission) is returned here; init has then exited.
	Start(ctx context.Context, id string) error

	// Exec starts an additional process in the running container.
	Exec(ctx context.Context, id string, opts ExecOptions) (pid int, err error)

	// Kill signals init, or with all every process in the container's cgroup.
	// A container whose init has exited is NotFound unless all is set.
	Kill(ctx context.Context, id string, sig syscall.Signal, all bool) error

	// Delete removes what Create made. With force a running container is killed
	// first and an unknown one is no error.
	Delete(ctx context.Context, id string, force bool) error

	// Pause and Resume freeze and thaw all processes of the container.
	Pause(ctx context.Context, id string) error
	Resume(ctx context.Context, id string) error

	// Pids lists the container's processes by host pid.
	Pids(ctx context.Context, id string) ([]int, error)

	// Update changes resource limits; absent fields stay.
	Update(ctx context.Context, id string, resources *specs.LinuxResources) error

	// CgroupPaths returns the container's cgroup directories: on v1 one per
	// controller name, on v2 the key "" alone.
	CgroupPaths(ctx context.Context, id string) (map[string]string, error)
}

// Mount describes a mount in the words of mount(8).
type Mount struct {
	Type, Source string
	// Target is where below the root file system; empty for the root itself.
	Target  string
	Options []string
}

// CreateOptions are the inputs of Runtime.Create.
type CreateOptions struct {
	// Bundle is the directory that holds config.json.
	Bundle string
	// Rootfs, when not empty, is mounted as the root file system in place of
	// the bundle's root directory: as a detached mount inside the container's
	// mount namespace where the Runtime can, else at bundle/rootfs.
	Rootfs []Mount
	Stdio  Stdio
}

// ExecOptions are the inputs of Runtime.Exec.
type ExecOptions struct {
	Process *specs.Process
	Stdio   Stdio
}

// Stdio is the standard input and output of a process. The files stay owned by
// the caller, who may close them when the call returns.
type Stdio struct {
	// In, Out and Err are nil for /dev/null. With a terminal all are ignored.
	In, Out, Err *os.File
	// Console, when the process asks for a terminal, receives the master end.
	// The receiver owns the file.
	Console func(master *os.File) error
}
