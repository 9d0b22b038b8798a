package task

import (
	"context"
	"errors"
	"fmt"
	"os"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"lighter/containerd"
)

// revive makes t, of which only the bundle is known, live or has it buried.
func (m *Manager) revive(ctx context.Context, t *task) {
	log := m.log.With("namespace", t.namespace, "task", t.id)
	if err := m.findBinary(ctx, t); err != nil {
		log.Warn("shim of a task is not known, its leftovers may need the runtime's delete", "err", err)
	}
	// Whenever the shim turns out to be dead from here on, somebody may wait for
	// the exit of the task.
	t.made = true // not shared yet
	s, err := m.reconnect(ctx, t)
	if err != nil && !isDead(err) {
		// It may well be alive, and it is not ours to kill on a suspicion. The next
		// start tries again.
		log.Error("can't reconnect to shim, leaving it alone", "err", err)
		t.advance(failed)
		m.forget(t)
		return
	}
	if err != nil {
		log.Warn("shim died while nobody watched, cleaning up", "err", err)
		t.advance(disconnected)
		m.background(func() { m.bury(t) })
		return
	}
	var resp api.StateResponse
	err = s.call(ctx, stateTimeout, "State", &api.StateRequest{ID: t.id}, &resp)
	switch {
	case err == nil:
		t.learn(t.stateOf("", &resp))
		t.advance(created)
	case errdefs.IsNotFound(err):
		// The crash came between the start of the shim and the creation of the
		// task: nobody was ever told of it.
		log.Info("removing a shim without a task")
		t.mu.Lock()
		t.made = false
		t.mu.Unlock()
		if t.advance(failed) {
			m.background(func() { m.abandon(t) })
		}
	case errors.Is(err, errShimDead):
		// It died under our hands; disconnected sees to it.
	default:
		// Stopped, or too busy to answer: alive, as its socket shows.
		log.Warn("shim does not answer, keeping its task", "err", err)
		t.learn(containerd.TaskState{ID: t.id, Bundle: t.bundle.path, Status: containerd.StatusUnknown})
		t.advance(created)
	}
}

// findBinary finds out which program the task's shim is.
func (m *Manager) findBinary(ctx context.Context, t *task) error {
	if data, err := readSmall(t.bundle.file("shim-binary-path")); err == nil {
		t.binary = string(data)
		return nil
	} else if !os.IsNotExist(err) {
		return err
	}
	c, err := m.cfg.Containers.Get(namespaces.WithNamespace(ctx, t.namespace), t.id)
	if err != nil {
		return err
	}
	t.binary, err = m.binaries.find(c.Runtime.Name)
	return err
}

func (m *Manager) reconnect(ctx context.Context, t *task) (*shim, error) {
	boot, err := t.bundle.loadBootstrap()
	if err != nil {
		return nil, fmt.Errorf("reconnect: %w: %w", err, errNoShim)
	}
	conn, err := dialShim(ctx, boot)
	if err != nil {
		return nil, err
	}
	s := &shim{}
	if _, err := os.Lstat(t.bundle.file(fifoName)); err == nil {
		s.stopLog, err = m.copyLog(t)
		if err != nil {
			m.log.Warn("can't read the log of a shim", "namespace", t.namespace, "task", t.id, "err", err)
		}
	}
	m.attach(t, s, boot.Version, conn)
	return s, nil
}

// errNoShim reports that a bundle does not tell of any shim.
var errNoShim = errors.New("no shim is recorded")

// isDead reports whether an error of reconnect proves that nobody serves the
// shim's socket.
func isDead(err error) bool {
	return errors.Is(err, errNoShim) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, os.ErrNotExist)
}
