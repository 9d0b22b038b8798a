package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"

	"lighter/containerd"
	"lighter/engine/container/rootfs"
)

// Open loads the containers below cfg.DataRoot and brings each to a state that
// matches what runs:
//
//   - a task that runs is adopted (LiveRestore) or stopped in the background;
//   - a run that ended while no engine watched is recorded;
//   - removals that were interrupted are finished, and what belongs to no
//     container is removed;
//   - then restart policies apply.
//
// It returns when Inspect and List tell the truth; stopping and starting go on
// behind it. The Manager ends with Close.
func Open(ctx context.Context, deps Deps, cfg Config) (*Manager, error) {
	cfg = cfg.withDefaults()
	if !filepath.IsAbs(cfg.DataRoot) || !filepath.IsAbs(cfg.ExecRoot) {
		return nil, invalid("open containers: the data root %q and the exec root %q must be absolute paths", cfg.DataRoot, cfg.ExecRoot)
	}
	m := &Manager{
		Deps: deps, cfg: cfg,
		byID: make(map[string]*entry), names: make(map[string]string), execs: make(map[string]*exec),
		kernel: probeKernel("/"),
		view:   rootfs.View, open: rootfs.Open, compose: rootfs.Compose, ofProcess: rootfs.OfProcess,
	}
	if err := m.load(ctx); err != nil {
		return nil, fmt.Errorf("open containers: %w", err)
	}
	return m, nil
}

// load is the part of Open that works on the Manager.
func (m *Manager) load(ctx context.Context) error {
	var found []string // directories of containers, all made by an earlier process
	for dir, perm := range map[string]os.FileMode{filepath.Dir(m.dir("x")): 0o710, filepath.Dir(m.runDir("x")): 0o700} {
		if err := os.MkdirAll(dir, perm); err != nil {
			return err
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			found = append(found, filepath.Join(dir, e.Name()))
		}
	}
	began := time.Now() // no container can be made before this
	store, records, err := openStore(filepath.Join(m.cfg.DataRoot, "containers.db"), m.Log)
	if err != nil {
		return err
	}
	m.store = store
	m.life, m.end = context.WithCancel(m.in(context.WithoutCancel(ctx)))
	if err := m.restore(m.in(ctx), records, found, began); err != nil {
		m.end()
		m.wg.Wait()
		return errors.Join(err, store.close())
	}
	m.followOOM()
	return nil
}

func (m *Manager) restore(ctx context.Context, records []*record, found []string, began time.Time) error {
	states, err := m.Services.Tasks.List(ctx)
	if err != nil {
		return fmt.Errorf("list tasks: %w", err)
	}
	tasks := make(map[string]containerd.TaskState, len(states))
	for _, s := range states {
		if s.ExecID == "" {
			tasks[s.ID] = s
		}
	}
	live := map[string]int{}
	m.boot = newBoot(records)
	var after []func()
	for _, r := range records {
		e := newEntry(r)
		m.byID[r.ID] = e
		m.names[r.Name] = r.ID
		task, ok := tasks[r.ID]
		begin := m.settleFormer(e, ok && task.Status != containerd.StatusStopped)
		r = e.rec.Load()
		for _, p := range r.Mounts {
			if p.Type != mount.TypeVolume {
				continue
			}
			if err := m.Volumes.Retain(p.Name, r.ID); err != nil {
				m.Log.Warn("a volume of a container is missing", "container", r.ID, "volume", p.Name, "err", err)
			}
		}
		if f := m.reconcile(e, task, ok, live); f != nil {
			after = append(after, f)
		}
		if begin != nil {
			after = append(after, begin)
		}
	}
	if err := m.Networks.Restore(ctx, live); err != nil {
		return fmt.Errorf("restore networks: %w", err)
	}
	for id := range live {
		for _, p := range m.byID[id].rec.Load().Mounts {
			if p.Type == mount.TypeVolume {
				m.Volumes.Adopt(p.Name, id)
			}
		}
	}
	m.Volumes.Sweep()
	for id, e := range m.byID {
		if _, runs := live[id]; !runs { // before any of them starts again
			m.deliver(e, nil)
			m.wg.Go(func() { m.limitStopped(e) })
		}
	}
	for _, f := range after {
		f()
	}
	for id := range tasks {
		if m.byID[id] == nil {
			m.wg.Go(func() { m.sweepTask(id) })
		}
	}
	m.wg.Go(func() { m.sweep(found, began) })
	return nil
}

// reconcile compares a record with its task. What it returns is run once all
// containers are known.
func (m *Manager) reconcile(e *entry, task containerd.TaskState, exists bool, live map[string]int) func() {
	r := e.rec.Load()
	switch {
	case r.State == Removing || r.State == Dead:
		m.change(e, func(r *record) error { r.State = Dead; return nil })
		m.boot.decide(r.ID)
		return func() { m.wg.Go(func() { m.autoRemove(e) }) }

	case exists && (task.Status == containerd.StatusRunning || task.Status == containerd.StatusPaused || task.Status == containerd.StatusPausing):
		live[r.ID] = int(task.Pid)
		return m.adopt(e, task)

	case exists && task.Status == containerd.StatusStopped && r.State.hasTask():
		return func() { m.wg.Go(func() { m.endedMeanwhile(e, task.Exit) }) }

	case exists && task.Status == containerd.StatusStopped && task.Exit.ExitedAt.After(r.FinishedAt):
		// Started and ended before its start was written.
		m.change(e, func(r *record) error {
			r.State, r.StartedAt = Running, task.Exit.ExitedAt
			return nil
		})
		return func() { m.wg.Go(func() { m.endedMeanwhile(e, task.Exit) }) }

	case exists: // created and never started, or ended and recorded
		return func() {
			m.wg.Go(func() {
				m.sweepTask(r.ID)
				m.applyPolicy(e)
			})
		}
	case r.State.hasTask():
		return func() {
			m.wg.Go(func() { m.endedMeanwhile(e, containerd.Exit{Code: exitUnknown, ExitedAt: time.Now()}) })
		}
	case r.State == Restarting:
		m.change(e, func(r *record) error { return r.move(evExit) })
	}
	return func() { m.applyPolicy(e) }
}

// adopt takes over a task that runs. Without LiveRestore it is stopped, as the
// engine that ran it should have done.
func (m *Manager) adopt(e *entry, task containerd.TaskState) func() {
	m.change(e, func(r *record) error {
		r.State, r.Pid = Running, int(task.Pid)
		if task.Status != containerd.StatusRunning {
			r.State = Paused
		}
		if r.StartedAt.IsZero() || r.StartedAt.Before(r.FinishedAt) { // the start was not written any more
			r.StartedAt = time.Now().UTC()
		}
		r.FinishedAt = time.Time{}
		return nil
	})
	e.mu.Lock()
	e.exited = make(chan struct{})
	e.attachable = true
	e.restarts = !m.settings().LiveRestore // its policy applies after the stop, below
	e.mu.Unlock()
	return func() {
		m.deliver(e, nil)
		if m.settings().LogLimit > 0 {
			m.wg.Go(func() { m.limitRunning(e) })
		}
		m.watch(e)
		if m.settings().LiveRestore {
			m.boot.decide(e.id)
			if e.rec.Load().State == Running {
				m.startHealth(e)
			}
			return
		}
		m.wg.Go(func() {
			if _, err := m.stop(m.life, e, StopOptions{}, false); err != nil {
				m.boot.decide(e.id)
				m.Log.Error("cannot stop a container that was left running", "container", e.id, "err", err)
				return
			}
			e.setRestarts(false)
			if e.rec.Load().HostConfig.AutoRemove {
				m.boot.decide(e.id)
				m.autoRemove(e)
				return
			}
			m.applyPolicy(e)
		})
	}
}

// endedMeanwhile records an exit that nobody watched and applies the policy.
func (m *Manager) endedMeanwhile(e *entry, exit containerd.Exit) {
	if err := e.acquire(m.life); err != nil {
		return
	}
	e.setRestarts(true) // the engine's start decides, not the exit
	then := m.handleExit(e, exit)
	e.setRestarts(false)
	e.release()
	then()
	if e.rec.Load().HostConfig.AutoRemove {
		m.boot.decide(e.id)
		m.autoRemove(e)
		return
	}
	m.applyPolicy(e)
}

// applyPolicy starts a stopped container whose restart policy wants it to run
// when the engine starts, after those that it depends on.
func (m *Manager) applyPolicy(e *entry) {
	r := e.rec.Load()
	p := &r.HostConfig.RestartPolicy
	if r.State == Exited && r.HostConfig.AutoRemove {
		m.boot.decide(e.id)
		m.wg.Go(func() { m.autoRemove(e) })
		return
	}
	if r.State != Exited || r.StartedAt.IsZero() || p.IsUnlessStopped() && r.ManuallyStopped || !policyRestarts(r, r.ExitCode) {
		m.boot.decide(e.id)
		return
	}
	m.startAtBoot(e, false)
}

// startAtBoot starts a container in the background, after those that it depends
// on.
func (m *Manager) startAtBoot(e *entry, byUser bool) {
	m.wg.Go(func() {
		defer m.boot.decide(e.id)
		if err := m.awaitDependencies(e); err != nil {
			return
		}
		if err := e.acquire(m.life); err != nil {
			return
		}
		defer e.release()
		if _, err := m.startHeld(m.life, e, byUser); err != nil {
			m.Log.Error("cannot start a container at the engine's start", "container", e.id, "err", err)
		}
	})
}

// sweepTask removes a task that no run owns.
func (m *Manager) sweepTask(id string) {
	ctx, cancel := context.WithTimeout(m.life, exitLimit)
	defer cancel()
	if m.ownsTask(ctx, id) {
		if err := m.destroyTask(ctx, id); err != nil {
			m.Log.Error("cannot remove a task that was left over", "container", id, "err", err)
		}
	}
}

// ownsTask reports whether a task is of this engine, by the label that it puts on
// its containers.
func (m *Manager) ownsTask(ctx context.Context, id string) bool {
	c, err := m.Services.Containers.Get(ctx, id)
	return err == nil && c.Labels[labelContainer] == id
}

// sweep removes the found directories, and the snapshots and specs, that no record
// refers to. A container's things are made before its record: what is younger than
// began, or was not there when found was read before that, is left alone.
func (m *Manager) sweep(found []string, began time.Time) {
	for _, path := range found {
		if m.known(filepath.Base(path)) {
			continue
		}
		var err error
		if filepath.Dir(path) == filepath.Dir(m.runDir("x")) {
			err = m.removeRunDir(filepath.Base(path))
		} else {
			err = os.RemoveAll(path)
		}
		if err != nil {
			m.Log.Warn("cannot remove a directory that was left over", "path", path, "err", err)
		}
	}
	if sn := m.Services.Snapshotter(m.cfg.Snapshotter); sn != nil {
		m.sweepSnapshots(sn, began)
	}
	specs, err := m.Services.Containers.List(m.life)
	if err != nil {
		m.Log.Warn("cannot list specs", "err", err)
	}
	for _, c := range specs {
		if c.Labels[labelContainer] != c.ID || m.known(c.ID) || c.CreatedAt.After(began) {
			continue
		}
		if err := m.Services.Containers.Delete(m.life, c.ID); err != nil && !errdefs.IsNotFound(err) {
			m.Log.Warn("cannot remove a spec that was left over", "container", c.ID, "err", err)
		}
	}
}

func (m *Manager) sweepSnapshots(sn snapshots.Snapshotter, began time.Time) {
	var orphans []string
	err := sn.Walk(m.life, func(_ context.Context, info snapshots.Info) error {
		id := info.Labels[labelContainer]
		own := id != "" && (info.Name == id || strings.HasPrefix(info.Name, id+imageKeyInfix))
		if own && !m.known(id) && info.Created.Before(began) {
			orphans = append(orphans, info.Name)
		}
		return nil
	})
	if err != nil {
		m.Log.Warn("cannot list snapshots", "err", err)
	}
	for _, name := range orphans {
		if err := sn.Remove(m.life, name); err != nil && !errdefs.IsNotFound(err) {
			m.Log.Warn("cannot remove a snapshot that was left over", "snapshot", name, "err", err)
		}
	}
}

func (m *Manager) known(id string) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.byID[id] != nil
}

// Close ends the Manager. Unless LiveRestore is set it first stops all containers
// at once, each with its own timeout; their restart policies apply at the next
// Open. It returns when every goroutine has ended and all records are written;
// when ctx ends it stops waiting for containers.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	m.closing = true
	m.mu.Unlock()
	if !m.settings().LiveRestore {
		var stops sync.WaitGroup
		for _, e := range m.entries() {
			if !e.rec.Load().State.active() {
				continue
			}
			stops.Go(func() {
				if _, err := m.stop(ctx, e, StopOptions{}, false); err != nil {
					m.Log.Error("cannot stop a container", "container", e.id, "err", err)
				}
			})
		}
		done := make(chan struct{})
		go func() { // ends with the last stop, whose waits are bounded unless a container's timeout is not
			stops.Wait()
			close(done)
		}()
		select {
		case <-done:
		case <-ctx.Done():
			m.Log.Warn("leave containers behind that did not stop in time")
		}
	}
	m.end()
	m.wg.Wait()
	m.deliveries.close()
	return m.store.close()
}
