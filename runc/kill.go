package runc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/internal/linux/pidfd"
	"lighter/runc/cgroup"
	"lighter/runc/state"
)

// deathTimeout bounds the wait for the end of killed processes.
const deathTimeout = 10 * time.Second

// Kill sends sig to init, or with all to every process of the container.
//
// Errors: NotFound for an unknown container and for one whose init has exited,
// unless all is set.
func (r *Runtime) Kill(ctx context.Context, id string, sig syscall.Signal, all bool) error {
	rec, err := state.Read(r.root, id)
	if err != nil {
		return err
	}
	if all {
		return r.killAll(ctx, rec, sig)
	}
	init, err := openInit(rec)
	if errdefs.IsFailedPrecondition(err) {
		if shared, serr := r.leftovers(rec); serr == nil && shared && sig == unix.SIGKILL {
			// Init shared its pid namespace and left processes behind.
			return r.killAll(ctx, rec, sig)
		}
		// Docker compatibility: containerd looks for "container not running".
		return fmt.Errorf("container not running: %q: %w", id, errdefs.ErrNotFound)
	}
	if err != nil {
		return err
	}
	defer init.Close()
	if sig == unix.SIGKILL && !rec.OwnPIDs && len(rec.Cgroups) > 0 {
		// Its end does not end the others.
		return r.killAll(ctx, rec, sig)
	}
	if err := pidfd.Signal(init, sig); errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("container not running: %q: %w", id, errdefs.ErrNotFound)
	} else if err != nil {
		return fmt.Errorf("kill container %q: %w", id, err)
	}
	if sig != unix.SIGKILL || len(rec.Cgroups) == 0 {
		return nil
	}
	// A frozen process on v1 dies when it is thawed.
	if s, _ := r.status(rec); s == StatusPaused {
		m, err := cgroup.Load(rec.Cgroups)
		if err == nil {
			err = m.Freeze(ctx, false)
		}
		if err != nil {
			return fmt.Errorf("thaw killed container %q: %w", id, err)
		}
	}
	return nil
}

// leftovers reports whether the control group of a container has processes.
func (r *Runtime) leftovers(rec *state.Record) (bool, error) {
	if len(rec.Cgroups) == 0 {
		return false, nil
	}
	m, err := cgroup.Load(rec.Cgroups)
	if err != nil {
		return false, err
	}
	pids, err := m.Pids()
	return len(pids) > 0, err
}

func (r *Runtime) killAll(ctx context.Context, rec *state.Record, sig syscall.Signal) error {
	if len(rec.Cgroups) == 0 {
		return fmt.Errorf("kill all processes of container %q: it has no control group: %w", rec.ID, errdefs.ErrFailedPrecondition)
	}
	m, err := cgroup.Load(rec.Cgroups)
	if err != nil {
		return err
	}
	if sig == unix.SIGKILL {
		if err := m.Kill(ctx); err != nil {
			return fmt.Errorf("kill all processes of container %q: %w", rec.ID, err)
		}
		if frozen, err := m.Frozen(); err == nil && frozen {
			return m.Freeze(ctx, false)
		}
		return nil
	}
	pids, err := m.Pids()
	if err != nil {
		return fmt.Errorf("signal all processes of container %q: %w", rec.ID, err)
	}
	var errs []error
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, os.NewSyscallError("kill", err))
		}
	}
	return errors.Join(errs...)
}

// Delete removes what Create made: remaining processes, control groups and the
// state directory. With force a running container is killed first and an unknown
// one is no error. A container that was created and not started is killed.
//
// Errors: FailedPrecondition if the container is running, or paused.
func (r *Runtime) Delete(ctx context.Context, id string, force bool) error {
	dir, err := state.Open(r.root, id)
	if err != nil {
		if force && errdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
	defer dir.Close()
	rec, err := state.Read(r.root, id)
	if errdefs.IsNotFound(err) {
		return dir.Remove() // its Create died at once
	}
	if err != nil {
		return err
	}
	status, err := r.status(rec)
	if err != nil {
		return err
	}
	if status != specs.StateStopped && status != specs.StateCreated && !force {
		return fmt.Errorf("cannot delete container %q that is not stopped: %s: %w", id, status, errdefs.ErrFailedPrecondition)
	}
	if err := r.remove(ctx, rec, status); err != nil {
		return fmt.Errorf("delete container %q: %w", id, err)
	}
	r.poststop(ctx, rec)
	return dir.Remove()
}

// remove ends the container's processes and removes its control groups.
func (r *Runtime) remove(ctx context.Context, rec *state.Record, status specs.ContainerState) error {
	var m cgroup.Manager
	if len(rec.Cgroups) > 0 {
		var err error
		if m, err = cgroup.Load(rec.Cgroups); err != nil {
			return err
		}
	}
	if status != specs.StateStopped {
		init, err := openInit(rec)
		if err == nil {
			defer init.Close()
			if err := pidfd.Signal(init, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
			if status == StatusPaused {
				if err := m.Freeze(ctx, false); err != nil {
					return err
				}
			}
			if gone, err := pidfd.Exited(init, deathTimeout); err != nil || !gone {
				return errors.Join(err, fmt.Errorf("init did not end within %v of SIGKILL", deathTimeout))
			}
		} else if !errdefs.IsFailedPrecondition(err) {
			return err
		}
	}
	if m == nil {
		return nil
	}
	if !rec.OwnPIDs {
		if err := m.Kill(ctx); err != nil {
			return err
		}
	}
	return m.Destroy(ctx)
}
