// Package runc is the OCI runtime as a library: a bundle goes in, a container
// comes out. It implements the operations of the runtime specification
// (runtime.md#operations) and those that container engines expect besides.
//
// # Life of a container
//
//	Create   load config.json; state directory; control groups; detached mounts
//	         (package rootfs); compile the plan (package plan); fork (package
//	         fork); the child sets itself up and parks at its gate
//	Start    open the gate; the child executes the user's program
//	Kill     signal
//	Delete   kill what is left; remove control groups, state directory
//
//	          Create          Start              exit           Delete
//	(absent) -------> created -----> running ------------> stopped -----> (absent)
//	                     |              | ^ Pause, Resume     ^
//	                     |              v |                   |
//	                     |            paused                  |
//	                     +------------- Kill, exit -----------+
//
// The state is derived, not stored: from init's process, the gate and the control
// group's freezer. Run is Create and Start without the gate.
//
// # Being a guest
//
// The package runs inside a shim. It changes nothing of its process: not the
// directory, umask, signals or limits. It forks; every child is a child of the
// calling process. It never waits for the container's processes: the caller does.
// Helpers such as hooks are made so that a wait for any child does not see them.
//
// # Crash
//
// The record with the control group's paths is stored before they are made. If
// the process dies during Create, the child sees its pipe close and exits, its
// mounts vanish with it, and Delete removes the rest.
package runc

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"lighter/runc/cgroup"
	"lighter/runc/rootfs"
	"lighter/runc/state"
)

// Config configures a Runtime.
type Config struct {
	// Root is the directory of the state directories; it is made when needed.
	Root string
	// Log takes warnings; nil discards them.
	Log *slog.Logger
}

// Runtime creates and operates containers. It holds no state of its own: two
// Runtimes with the same Root, in different processes, see the same containers.
// Methods may be called from several goroutines.
//
// Errors are classed with containerd/errdefs: NotFound for an unknown container,
// AlreadyExists for a taken ID, FailedPrecondition for a wrong state,
// InvalidArgument for a bad bundle, NotImplemented for what this runtime or
// kernel cannot do.
type Runtime struct {
	root string
	log  *slog.Logger
}

// New returns a Runtime. It touches nothing.
func New(cfg Config) *Runtime {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return &Runtime{root: cfg.Root, log: log}
}

// Stdio is the standard input and output of a process. The files stay owned by the
// caller, who may close them when the call returns.
type Stdio struct {
	// In, Out and Err are nil for /dev/null. With a terminal all are ignored.
	In, Out, Err *os.File
	// Console, when the process asks for a terminal, receives the master end.
	// The receiver owns the file.
	Console func(master *os.File) error
	// Newlines makes the terminal pass newlines on as they are, not with a
	// carriage return before: for a caller that copies the output to a terminal
	// or a file of its own.
	Newlines bool
}

// Mount describes a mount in the words of mount(8).
type Mount = rootfs.Mount

// CreateOptions are the inputs of Create and Run.
type CreateOptions struct {
	// Bundle is the directory that holds config.json.
	Bundle string
	// Rootfs, when not empty, is mounted as the root in place of the bundle's
	// root directory: as a detached mount that only the container sees.
	Rootfs []Mount
	Stdio  Stdio
	// Check, when not nil, sees the configuration before anything is made; its
	// error ends the operation.
	Check func(*specs.Spec) error
	// NoPivot uses chroot(2) in place of pivot_root(2), for hosts whose root is
	// an initramfs. It is weaker.
	NoPivot bool
	// NoNewKeyring leaves the container in the caller's session keyring.
	NoNewKeyring bool
	// PreserveFDs is how many descriptors of this process from 3 up the
	// container inherits.
	PreserveFDs int
	// PIDFD, when not nil, receives a descriptor of init. The receiver owns it.
	PIDFD func(*os.File) error
}

// State returns the container's state.
func (r *Runtime) State(ctx context.Context, id string) (specs.State, error) {
	rec, err := state.Read(r.root, id)
	if err != nil {
		return specs.State{}, err
	}
	s, _ := r.status(rec)
	return rec.OCI(s), nil
}

// StatusPaused is the status of a frozen container. The specification does not
// have it; runc does.
const StatusPaused specs.ContainerState = "paused"

// status derives the status of a container.
func (r *Runtime) status(rec *state.Record) (specs.ContainerState, error) {
	if rec.PID == 0 {
		return specs.StateStopped, nil
	}
	if !rec.Alive() {
		return specs.StateStopped, nil
	}
	if len(rec.Cgroups) > 0 {
		m, err := cgroup.Load(rec.Cgroups)
		if err == nil {
			if frozen, err := m.Frozen(); err == nil && frozen {
				return StatusPaused, nil
			}
		}
	}
	if !state.Started(r.root, rec.ID) {
		return specs.StateCreated, nil
	}
	return specs.StateRunning, nil
}

// Info is a row of List.
type Info struct {
	state.Record
	Status specs.ContainerState
}

// List returns all containers, sorted by ID. One that goes away meanwhile is left
// out.
func (r *Runtime) List(ctx context.Context) ([]Info, error) {
	ids, err := state.List(r.root)
	if err != nil {
		return nil, err
	}
	var list []Info
	for _, id := range ids {
		rec, err := state.Read(r.root, id)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		s, err := r.status(rec)
		if err != nil {
			return nil, err
		}
		list = append(list, Info{Record: *rec, Status: s})
	}
	return list, nil
}

// Info returns the record and status of one container.
func (r *Runtime) Info(ctx context.Context, id string) (Info, error) {
	rec, err := state.Read(r.root, id)
	if err != nil {
		return Info{}, err
	}
	s, err := r.status(rec)
	return Info{Record: *rec, Status: s}, err
}

// Pids lists the container's processes by host pid.
func (r *Runtime) Pids(ctx context.Context, id string) ([]int, error) {
	m, _, err := r.group(id)
	if err != nil {
		return nil, err
	}
	return m.Pids()
}

// Pause freezes all processes of the container and returns when they are.
func (r *Runtime) Pause(ctx context.Context, id string) error { return r.freeze(ctx, id, true) }

// Resume thaws them.
func (r *Runtime) Resume(ctx context.Context, id string) error { return r.freeze(ctx, id, false) }

func (r *Runtime) freeze(ctx context.Context, id string, frozen bool) error {
	m, rec, err := r.group(id)
	if err != nil {
		return err
	}
	s, err := r.status(rec)
	if err != nil {
		return err
	}
	switch {
	case frozen && s != specs.StateRunning && s != specs.StateCreated:
		return fmt.Errorf("pause container %q: it is %s, not running or created: %w", id, s, errdefs.ErrFailedPrecondition)
	case !frozen && s != StatusPaused:
		return fmt.Errorf("resume container %q: it is %s, not paused: %w", id, s, errdefs.ErrFailedPrecondition)
	}
	return m.Freeze(ctx, frozen)
}

// Update changes resource limits; absent fields stay.
func (r *Runtime) Update(ctx context.Context, id string, resources *specs.LinuxResources) error {
	m, rec, err := r.group(id)
	if err != nil {
		return err
	}
	if s, err := r.status(rec); err != nil || s == specs.StateStopped {
		return fmt.Errorf("update container %q: it is stopped: %w", id, errdefs.ErrFailedPrecondition)
	}
	return m.Set(resources)
}

// CgroupPaths returns the container's cgroup directories: on v1 one per controller
// name, on v2 the key "" alone.
func (r *Runtime) CgroupPaths(ctx context.Context, id string) (map[string]string, error) {
	rec, err := state.Read(r.root, id)
	if err != nil {
		return nil, err
	}
	return rec.Cgroups, nil
}

// RunningCgroup is CgroupPaths of a container that has not stopped.
//
// Errors: FailedPrecondition if it has stopped or has no control group.
func (r *Runtime) RunningCgroup(ctx context.Context, id string) (map[string]string, error) {
	_, rec, err := r.group(id)
	if err != nil {
		return nil, err
	}
	if s, err := r.status(rec); err != nil || s == specs.StateStopped {
		return nil, fmt.Errorf("container %q is not running: %w", id, errdefs.ErrFailedPrecondition)
	}
	return rec.Cgroups, nil
}

// group returns the control group of a container.
func (r *Runtime) group(id string) (cgroup.Manager, *state.Record, error) {
	rec, err := state.Read(r.root, id)
	if err != nil {
		return nil, nil, err
	}
	if len(rec.Cgroups) == 0 {
		return nil, nil, fmt.Errorf("container %q has no control group: %w", id, errdefs.ErrFailedPrecondition)
	}
	m, err := cgroup.Load(rec.Cgroups)
	return m, rec, err
}

// absolute returns the cleaned path of a bundle's root directory.
func absolute(bundle, path string) string {
	if !filepath.IsAbs(path) {
		path = filepath.Join(bundle, path)
	}
	return filepath.Clean(path)
}
