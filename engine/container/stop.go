package container

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
)

const (
	// killLimit is how long a process may take to die of SIGKILL.
	killLimit = 10 * time.Second
	// signalLimit bounds the delivery of a signal.
	signalLimit = 10 * time.Second
	// freezeLimit bounds pause and unpause.
	freezeLimit = 30 * time.Second
)

// errNoExit is the answer when a killed container does not end, for example
// because a process hangs in the kernel. The next try may succeed.
var errNoExit = errors.New("tried to kill container, but did not receive an exit event")

// Stop asks the container to end and after a timeout kills it. changed is false
// when it does not run. It goes on when ctx ends.
func (m *Manager) Stop(ctx context.Context, ref string, opts StopOptions) (changed bool, err error) {
	e, err := m.lookup(ref)
	if err != nil {
		return false, err
	}
	if opts.Signal != "" {
		if _, err := parseSignal(opts.Signal); err != nil {
			return false, err
		}
	}
	changed, err = m.stop(ctx, e, opts, true)
	if err != nil {
		return false, fmt.Errorf("cannot stop container: %s: %w", ref, err)
	}
	return changed, nil
}

// stop is Stop. byUser says that a restart policy is to be overruled, also at the
// engine's next start.
func (m *Manager) stop(ctx context.Context, e *entry, opts StopOptions, byUser bool) (changed bool, err error) {
	ctx = m.in(context.WithoutCancel(ctx))
	r := e.rec.Load()
	if r.State == Restarting {
		if err := e.acquire(ctx); err != nil {
			return false, err
		}
		if r = e.rec.Load(); r.State == Restarting {
			m.endBackoff(ctx, e, byUser)
			e.release()
			m.publish(r, events.ActionStop)
			return true, nil
		}
		e.release() // it has just been started
	}
	if !r.State.active() {
		return false, nil
	}
	sig := r.stopSignal()
	if opts.Signal != "" {
		if sig, err = parseSignal(opts.Signal); err != nil {
			return false, err
		}
	}
	limit := m.stopTimeout(r)
	if opts.Timeout != nil {
		limit = seconds(*opts.Timeout)
	}
	done, _ := e.wait(ctx, api.WaitConditionNotRunning)
	if byUser {
		m.markStopped(e)
	}
	if err := m.signal(ctx, e, sig); err != nil && limit != forever {
		m.Log.Debug("cannot send the stop signal", "container", e.id, "err", err)
		limit = min(limit, 2*time.Second)
	}
	if !await(done, limit) {
		m.Log.Info("container did not stop in time, kill it", "container", e.id, "signal", int(sig), "dur", limit)
		if err := m.killAndWait(ctx, e, done); err != nil {
			return false, err
		}
	}
	m.publish(e.rec.Load(), events.ActionStop)
	return true, nil
}

// forever is a stop timeout without end.
const forever = time.Duration(-1)

func seconds(n int) time.Duration {
	if n < 0 {
		return forever
	}
	return time.Duration(n) * time.Second
}

func (m *Manager) stopTimeout(r *record) time.Duration {
	if r.Config.StopTimeout != nil {
		return seconds(*r.Config.StopTimeout)
	}
	return m.settings().DefaultStopTimeout
}

// await reports whether done came within limit.
func await(done <-chan WaitResult, limit time.Duration) bool {
	if limit == forever {
		<-done
		return true
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// markStopped overrules the restart policy until the next start.
func (m *Manager) markStopped(e *entry) {
	m.change(e, func(r *record) error { r.ManuallyStopped = true; return nil }) // never fails
}

// killAndWait sends SIGKILL to e and waits for done.
func (m *Manager) killAndWait(ctx context.Context, e *entry, done <-chan WaitResult) error {
	err := m.signal(ctx, e, syscall.SIGKILL)
	if await(done, killLimit) {
		return nil
	}
	return errors.Join(errNoExit, err)
}

// signal sends sig to the container's init process and thaws a paused container
// that is meant to end. A process that is gone already is no error: its exit is
// on the way.
func (m *Manager) signal(ctx context.Context, e *entry, sig syscall.Signal) error {
	ctx, cancel := context.WithTimeout(ctx, signalLimit)
	defer cancel()
	r := e.rec.Load()
	if err := m.Services.Tasks.Kill(ctx, e.id, "", sig, false); err != nil {
		if gone(err) {
			return nil
		}
		return fmt.Errorf("Cannot kill container %s: %w", e.id, err)
	}
	if r.State == Paused && (sig == syscall.SIGKILL || sig == r.stopSignal()) {
		if err := m.Services.Tasks.Resume(ctx, e.id); err != nil && !gone(err) {
			m.Log.Warn("cannot thaw a container that was sent a signal", "container", e.id, "err", err)
		}
	}
	m.publish(r, events.ActionKill, "signal", strconv.Itoa(int(sig)))
	return nil
}

// Kill sends a signal, by default SIGKILL, to a running container. With SIGKILL
// it waits for the exit.
func (m *Manager) Kill(ctx context.Context, ref, signal string) error {
	sig := syscall.SIGKILL
	if signal != "" {
		var err error
		if sig, err = parseSignal(signal); err != nil {
			return err
		}
	}
	e, err := m.lookup(ref)
	if err != nil {
		return err
	}
	if err := m.kill(ctx, e, sig); err != nil {
		return fmt.Errorf("cannot kill container: %s: %w", ref, err)
	}
	return nil
}

func (m *Manager) kill(ctx context.Context, e *entry, sig syscall.Signal) error {
	ctx = m.in(context.WithoutCancel(ctx))
	r := e.rec.Load()
	if r.State == Restarting {
		_, err := m.stop(ctx, e, StopOptions{}, true)
		return err
	}
	if !r.State.hasTask() {
		return notRunning(r.ID)
	}
	if sig == syscall.SIGKILL || sig == r.stopSignal() {
		m.markStopped(e)
	}
	if sig != syscall.SIGKILL {
		return m.signal(ctx, e, sig)
	}
	done, _ := e.wait(ctx, api.WaitConditionNotRunning)
	return m.killAndWait(ctx, e, done)
}

// Restart stops the container, if it runs, and starts it. It goes on when ctx
// ends.
func (m *Manager) Restart(ctx context.Context, ref string, opts StopOptions) error {
	e, err := m.lookup(ref)
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	e.setRestarts(true)
	defer e.setRestarts(false)
	_, err = m.stop(ctx, e, opts, true)
	if err == nil {
		_, err = m.startByUser(ctx, e)
	}
	if err != nil {
		return fmt.Errorf("Cannot restart container %s: %w", ref, err)
	}
	m.publish(e.rec.Load(), events.ActionRestart)
	return nil
}

func (e *entry) setRestarts(v bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.restarts = v
}

// Pause freezes the processes of a running container.
func (m *Manager) Pause(ctx context.Context, ref string) error {
	return m.freeze(ctx, ref, evPause, events.ActionPause, m.Services.Tasks.Pause)
}

// Unpause thaws a paused container.
func (m *Manager) Unpause(ctx context.Context, ref string) error {
	return m.freeze(ctx, ref, evUnpause, events.ActionUnPause, m.Services.Tasks.Resume)
}

func (m *Manager) freeze(ctx context.Context, ref string, ev event, action events.Action, do func(context.Context, string) error) error {
	e, err := m.lookup(ref)
	if err != nil {
		return err
	}
	if err := e.acquire(ctx); err != nil {
		return err
	}
	defer e.release()
	if r := e.rec.Load(); !allowed(r.State, ev) {
		return refusal(r, ev)
	}
	ctx, cancel := m.detached(ctx, freezeLimit)
	defer cancel()
	if err := do(ctx, e.id); err != nil {
		return fmt.Errorf("cannot %s container %s: %w", ev, e.id, err)
	}
	r, err := m.change(e, func(r *record) error { return r.move(ev) })
	if err != nil {
		return err
	}
	if ev == evPause {
		m.stopHealth(e)
	} else {
		m.startHealth(e)
	}
	m.publish(r, action)
	return nil
}

func allowed(s State, ev event) bool {
	_, ok := transitions[s][ev]
	return ok
}

// Resize sets the size of the container's terminal.
func (m *Manager) Resize(ctx context.Context, ref string, height, width uint32) error {
	e, err := m.lookup(ref)
	if err != nil {
		return err
	}
	r := e.rec.Load()
	if !r.State.hasTask() {
		return notRunning(r.ID)
	}
	if err := m.Services.Tasks.ResizePty(m.in(ctx), r.ID, "", width, height); err != nil {
		return fmt.Errorf("resize terminal of container %s: %w", r.ID, err)
	}
	m.publish(r, events.ActionResize, "height", strconv.Itoa(int(height)), "width", strconv.Itoa(int(width)))
	return nil
}
