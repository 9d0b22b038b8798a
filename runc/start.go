package runc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/internal/linux/pidfd"
	"lighter/runc/plan"
	"lighter/runc/state"
)

// Start lets the user's program run. It returns when the program has been
// executed; an error of execve itself is returned, and init has then exited. The
// container may have been created by another process.
//
// Errors: FailedPrecondition if the container is not in state created.
func (r *Runtime) Start(ctx context.Context, id string) error {
	dir, err := state.Open(r.root, id)
	if err != nil {
		return err
	}
	defer dir.Close()
	rec, err := state.Read(r.root, id)
	if err != nil {
		return err
	}
	return r.start(ctx, dir, rec)
}

// start is Start of a container whose state directory the caller has locked.
func (r *Runtime) start(ctx context.Context, dir *state.Dir, rec *state.Record) error {
	id := rec.ID
	status, err := r.status(rec)
	if err != nil {
		return err
	}
	switch status {
	case specs.StateCreated:
	case specs.StateStopped:
		return fmt.Errorf("cannot start a container that has stopped: %q: %w", id, errdefs.ErrFailedPrecondition)
	default:
		return fmt.Errorf("cannot start an already running container: %q is %s: %w", id, status, errdefs.ErrFailedPrecondition)
	}
	var config *specs.Spec
	if rec.StartHooks {
		if config, err = r.Spec(ctx, id); err != nil {
			return err
		}
		if err := r.startHooks(ctx, rec, config); err != nil {
			return err
		}
	}
	init, err := openInit(rec)
	if err != nil {
		return err
	}
	defer init.Close()
	if err := openGate(ctx, dir, rec.Program); err != nil {
		var step *plan.StepError
		if errors.As(err, &step) {
			// Init exits; the container is seen as stopped from here on.
			_, _ = pidfd.Exited(init, deathTimeout)
		}
		return fmt.Errorf("start container %q: %w", id, err)
	}
	if config == nil {
		return nil
	}
	if err := r.poststart(ctx, rec, config); err != nil {
		return errors.Join(err, terminate(rec))
	}
	return nil
}

// openGate lets init execute its program, and waits until it has.
func openGate(ctx context.Context, dir *state.Dir, program string) error {
	// Opened before init can write or close it. It does not block: the end is
	// noticed through the runtime's poller, so that ctx can end the wait.
	status, err := os.OpenFile(dir.Path(state.StatusFile), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer status.Close()
	gate, err := os.OpenFile(dir.Path(state.GateFile), os.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("init has exited: %w", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return err
	}
	_, err = gate.Write([]byte{1})
	gate.Close()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { status.Close() })
	defer stop()
	var b [plan.MessageSize]byte
	_, err = io.ReadFull(status, b[:])
	switch {
	case err == io.EOF: // closed by execve
		err = nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case err == nil:
		m := plan.Decode(b[:])
		err = &plan.StepError{
			Index: int(m.Index), Errno: syscall.Errno(m.Value),
			Step: plan.Step{Nr: unix.SYS_EXECVE, Program: program},
		}
	}
	for _, name := range []string{state.GateFile, state.StatusFile} {
		if rerr := os.Remove(dir.Path(name)); rerr != nil && err == nil {
			err = rerr
		}
	}
	return err
}
