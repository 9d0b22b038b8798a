package container

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	coreevents "github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"

	"lighter/containerd"
)

const (
	// exitLimit bounds the handling of an exit.
	exitLimit = 2 * time.Minute
	// exitUnknown is the code of a run of which nobody knows how it ended.
	exitUnknown = 255

	// The pauses before an automatic restart: they double, and start over after
	// a run of at least steadyRun.
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = time.Minute
	steadyRun    = 10 * time.Second

	// retryMin and retryMax are the pauses between questions to a supervisor that
	// does not answer.
	retryMin = 50 * time.Millisecond
	retryMax = 5 * time.Second
)

// watch waits for the end of e's run in the background and handles it.
func (m *Manager) watch(e *entry) {
	m.wg.Go(func() {
		exit, err := m.awaitExit(e.id)
		if err != nil {
			return // the Manager closes
		}
		if err := e.acquire(m.life); err != nil {
			return
		}
		then := m.handleExit(e, exit)
		e.release()
		then()
	})
}

// awaitExit returns how the container's task ended. It asks again when the
// supervisor restarts; its only error is the end of the Manager.
func (m *Manager) awaitExit(id string) (containerd.Exit, error) {
	pause := retryMin
	for {
		exit, err := m.Services.Tasks.Wait(m.life, id, "")
		switch {
		case err == nil:
			return exit, nil
		case m.life.Err() != nil:
			return exit, m.life.Err()
		case errdefs.IsNotFound(err):
			return containerd.Exit{Code: exitUnknown, ExitedAt: time.Now()}, nil
		}
		m.Log.Warn("cannot wait for a container, will ask again", "container", id, "err", err)
		select {
		case <-time.After(pause):
		case <-m.life.Done():
			return exit, m.life.Err()
		}
		pause = min(pause*2, retryMax)
	}
}

// handleExit brings a container whose task has ended to its next state. The
// caller holds the operation slot, releases it, and then calls the function
// returned.
//
// Order: the exit code is on disk before the task, its only other keeper, is
// deleted; addresses are free and the log is complete before anyone who waits is
// told.
func (m *Manager) handleExit(e *entry, exit containerd.Exit) (then func()) {
	ctx, cancel := m.detached(m.life, exitLimit)
	defer cancel()
	m.stopHealth(e)
	e.setAttachable(false)
	before := e.rec.Load()
	if !before.State.hasTask() {
		return func() {}
	}
	if exit.ExitedAt.IsZero() {
		exit.ExitedAt = time.Now()
	}
	ran := exit.ExitedAt.Sub(before.StartedAt)
	again := m.shouldRestart(e, before, int(exit.Code))

	var network sync.WaitGroup
	if before.hasNetwork() { // by its request: a crash may have lost what it got
		network.Go(func() {
			if err := m.Networks.Release(ctx, e.id); err != nil {
				m.Log.Error("cannot release the network of a container", "container", e.id, "err", err)
			}
		})
	}
	r, err := m.commit(ctx, e, func(r *record) error {
		ev := evExit
		if again {
			ev = evBackoff
			r.RestartCount++
		}
		if err := r.move(ev); err != nil {
			return err
		}
		r.Pid, r.Network = 0, nil
		r.ExitCode, r.FinishedAt = int(exit.Code), exit.ExitedAt.UTC()
		if r.Health != nil && r.Health.Status == api.Starting {
			h := *r.Health
			h.Status = api.Unhealthy
			r.Health = &h
		}
		return nil
	})
	if err != nil {
		m.Log.Error("cannot store how a container ended", "container", e.id, "err", err)
	}
	if r == nil {
		r = e.rec.Load()
	}
	if err := m.deleteTask(ctx, e.id); err != nil {
		m.Log.Error("cannot delete a task", "container", e.id, "err", err)
	}
	network.Wait()
	if err := m.removeRunDir(e.id); err != nil {
		m.Log.Warn("cannot remove the runtime directory of a container", "container", e.id, "err", err)
	}
	if err := m.unmountVolumes(r); err != nil {
		m.Log.Warn("cannot unmount a volume of a container", "container", e.id, "err", err)
	}
	for _, p := range r.Mounts {
		if p.Type == mount.TypeVolume {
			m.Volumes.PublishUnmount(p.Name, r.ID)
		}
	}
	m.publish(r, events.ActionDie, "exitCode", strconv.Itoa(r.ExitCode), "execDuration", strconv.Itoa(int(ran.Seconds())))

	e.mu.Lock()
	if e.exited != nil {
		close(e.exited)
		e.exited = nil
	}
	restarts := e.restarts
	var stop chan struct{}
	var pause time.Duration
	if again {
		stop = make(chan struct{})
		e.stop = stop
		pause = e.nextBackoffLocked(ran)
	}
	e.mu.Unlock()
	e.stopped(r)
	switch {
	case again:
		return func() { m.restartAfter(e, pause, stop) }
	case r.HostConfig.AutoRemove && !restarts:
		return func() { m.autoRemove(e) }
	}
	return func() {}
}

// deleteTask deletes an ended task, again and again while its supervisor does not
// answer, until ctx ends.
func (m *Manager) deleteTask(ctx context.Context, id string) error {
	pause := retryMin
	for {
		_, err := m.Services.Tasks.Delete(ctx, id, "")
		if err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		}
		pause = min(pause*2, retryMax)
	}
}

// shouldRestart decides whether r's policy restarts it after an exit.
func (m *Manager) shouldRestart(e *entry, r *record, code int) bool {
	e.mu.Lock()
	restarts := e.restarts
	e.mu.Unlock()
	if m.isClosing() || r.ManuallyStopped || restarts {
		return false
	}
	return policyRestarts(r, code)
}

func policyRestarts(r *record, code int) bool {
	p := &r.HostConfig.RestartPolicy
	switch {
	case p.IsAlways(), p.IsUnlessStopped():
		return true
	case p.IsOnFailure():
		return code != 0 && (p.MaximumRetryCount == 0 || r.RestartCount < p.MaximumRetryCount)
	}
	return false
}

func (e *entry) nextBackoffLocked(ran time.Duration) time.Duration {
	if ran >= steadyRun {
		e.backoff = 0
	}
	e.backoff = e.rec.Load().backoff().next(e.backoff)
	return e.backoff
}

// restartAfter starts e again after pause, unless stop is closed or the Manager
// ends before.
func (m *Manager) restartAfter(e *entry, pause time.Duration, stop <-chan struct{}) {
	m.wg.Go(func() {
		select {
		case <-time.After(pause):
		case <-stop:
			return
		case <-m.life.Done():
			return
		}
		if err := e.acquire(m.life); err != nil {
			return
		}
		if e.rec.Load().State != Restarting {
			e.release()
			return
		}
		_, err := m.startHeld(m.life, e, false)
		if err != nil {
			m.Log.Error("cannot restart a container", "container", e.id, "err", err)
			m.endBackoff(m.life, e, false)
		}
		e.release()
		if err != nil && e.rec.Load().HostConfig.AutoRemove {
			m.autoRemove(e)
		}
	})
}

// endBackoff brings a restarting container to exited. The caller holds the
// operation slot.
func (m *Manager) endBackoff(ctx context.Context, e *entry, byUser bool) {
	e.mu.Lock()
	if e.stop != nil {
		close(e.stop)
		e.stop = nil
	}
	e.mu.Unlock()
	r, err := m.commit(ctx, e, func(r *record) error {
		r.ManuallyStopped = r.ManuallyStopped || byUser
		return r.move(evExit)
	})
	if err != nil {
		m.Log.Error("cannot store the end of a restart", "container", e.id, "err", err)
	}
	if r != nil {
		e.stopped(r)
	}
}

// autoRemove removes a container that was made with --rm.
func (m *Manager) autoRemove(e *entry) {
	ctx, cancel := m.detached(m.life, exitLimit)
	defer cancel()
	err := m.remove(ctx, e, RemoveOptions{Force: true, Volumes: true})
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
		m.Log.Error("cannot remove a container that was made with --rm", "container", e.id, "err", err)
	}
}

// followOOM records out-of-memory notices, the one thing that only the event
// stream tells.
func (m *Manager) followOOM() {
	m.wg.Go(func() {
		pause := retryMin
		for m.life.Err() == nil {
			ch, errs := m.Services.Events.Subscribe(m.life, `topic=="/tasks/oom"`)
			if m.readOOM(ch, errs) {
				pause = retryMin
			}
			select {
			case <-time.After(pause):
			case <-m.life.Done():
			}
			pause = min(pause*2, retryMax)
		}
	})
}

func (m *Manager) readOOM(ch <-chan *coreevents.Envelope, errs <-chan error) (any bool) {
	for {
		select {
		case ev, ok := <-ch:
			if !ok || ev == nil {
				return any
			}
			any = true
			if ev.Namespace != m.cfg.Namespace {
				continue
			}
			msg, err := typeurl.UnmarshalAny(ev.Event)
			if oom, ok := msg.(*apievents.TaskOOM); err == nil && ok {
				m.oomKilled(oom.ContainerID)
			}
		case <-errs:
			return any
		case <-m.life.Done():
			return any
		}
	}
}

func (m *Manager) oomKilled(id string) {
	m.mu.RLock()
	e := m.byID[id]
	m.mu.RUnlock()
	if e == nil {
		return
	}
	r, err := m.change(e, func(r *record) error { r.OOMKilled = true; return nil })
	if err == nil {
		m.publish(r, events.ActionOOM)
	}
}
