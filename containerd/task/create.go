package task

import (
	"context"
	"errors"
	"fmt"
	"os"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"

	"lighter/containerd"
)

// Create implements containerd.Tasks.
//
// Commit point: the shim's answer. Before it, an error or the end of ctx removes
// the shim and the bundle, in the background; a new Create of the same ID waits
// for that.
func (m *Manager) Create(ctx context.Context, id string, opts containerd.TaskCreate) (uint32, error) {
	pid, err := m.create(ctx, id, opts)
	if err != nil {
		return 0, fmt.Errorf("create task %q: %w", id, err)
	}
	return pid, nil
}

func (m *Manager) create(ctx context.Context, id string, opts containerd.TaskCreate) (pid uint32, err error) {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return 0, err
	}
	if err := identifiers.Validate(id); err != nil {
		return 0, err
	}
	c, err := m.cfg.Containers.Get(ctx, id)
	if err != nil {
		return 0, err
	}
	if c.Spec == nil || len(c.Spec.GetValue()) == 0 {
		return 0, fmt.Errorf("container %q has no spec: %w", id, errdefs.ErrFailedPrecondition)
	}
	runtime := opts.RuntimePath
	if runtime == "" {
		runtime = c.Runtime.Name
	}
	binary, err := m.binaries.find(runtime)
	if err != nil {
		return 0, err
	}
	options := opts.Options
	if options == nil || len(options.GetValue()) == 0 {
		options = c.Runtime.Options
	}

	t, err := m.reserve(ctx, namespace, id)
	if err != nil {
		return 0, err
	}
	t.binary = binary
	if _, err := makeBundle(t.bundle.path, c.Spec.GetValue()); err != nil {
		t.advance(failed)
		m.forget(t) // a bundle that is there is not ours to remove
		return 0, err
	}
	defer func() {
		if err != nil && t.advance(failed) {
			m.abandonLater(t)
		}
	}()
	if err := os.WriteFile(t.bundle.file("shim-binary-path"), []byte(binary), 0o600); err != nil {
		return 0, err
	}
	s, err := m.startShim(ctx, t, options)
	if err != nil {
		return 0, fmt.Errorf("start shim %q: %w", binary, err)
	}
	t.mu.Lock()
	t.procs[""] = newProcess(containerd.TaskState{
		ID: id, Bundle: t.bundle.path, Status: containerd.StatusCreated,
		Stdin: opts.Stdin, Stdout: opts.Stdout, Stderr: opts.Stderr, Terminal: opts.Terminal,
	})
	t.mu.Unlock()

	var resp api.CreateTaskResponse
	err = s.call(ctx, createTimeout, "Create", &api.CreateTaskRequest{
		ID: id, Bundle: t.bundle.path, Rootfs: mountsOf(opts.Rootfs), Terminal: opts.Terminal,
		Stdin: opts.Stdin, Stdout: opts.Stdout, Stderr: opts.Stderr, Options: toAny(options),
	}, &resp)
	if err != nil {
		if last := t.bundle.tail(logName, 1024); last != "" && errdefs.IsUnavailable(err) {
			err = fmt.Errorf("%w: the shim's last words: %s", err, last)
		}
		return 0, err
	}
	t.update("", func(p *process) { p.state.Pid = resp.GetPid() })
	if !t.advance(created) {
		return 0, fmt.Errorf("shim died: %w", errdefs.ErrUnavailable)
	}
	return resp.GetPid(), nil
}

func (m *Manager) startShim(ctx context.Context, t *task, options typeurl.Any) (*shim, error) {
	maker, err := m.binaries.makerOf(t.binary)
	if err != nil {
		return nil, err
	}
	if maker == ours {
		return m.launch(ctx, t)
	}
	return m.startVerb(ctx, t, maker, options)
}

// abandonLater removes a task whose creation failed without its caller's
// waiting: the caller may have gone already.
func (m *Manager) abandonLater(t *task) {
	if !t.started {
		m.release(t)
		return
	}
	m.background(func() { m.abandon(t) })
}

// Delete implements containerd.Tasks.
//
// Commit point: the shim's answer. After it, the task is gone whatever becomes
// of ctx.
func (m *Manager) Delete(ctx context.Context, id, execID string) (containerd.Exit, error) {
	var exit containerd.Exit
	var err error
	if execID == "" {
		exit, err = m.deleteTask(ctx, id)
	} else {
		exit, err = m.deleteExec(ctx, id, execID)
	}
	if err != nil {
		return containerd.Exit{}, fmt.Errorf("delete %s: %w", describe(id, execID), err)
	}
	return exit, nil
}

func (m *Manager) deleteTask(ctx context.Context, id string) (containerd.Exit, error) {
	t, err := m.lookup(ctx, id)
	if err != nil {
		return containerd.Exit{}, err
	}
	t.mu.Lock()
	s, phase := t.shim, t.phase
	t.mu.Unlock()
	switch phase {
	case creating:
		return containerd.Exit{}, fmt.Errorf("task is being created: %w", errdefs.ErrFailedPrecondition)
	case dying, gone:
		return m.awaitGone(ctx, t)
	}
	var resp api.DeleteResponse
	err = s.call(ctx, deleteTimeout, "Delete", &api.DeleteRequest{ID: id}, &resp)
	switch {
	case err == nil:
		exit := exitOf(resp.GetPid(), resp.GetExitStatus(), resp.GetExitedAt())
		t.mu.Lock()
		t.deletion = &exit
		if p := t.procs[""]; p != nil {
			p.exited(exit)
		}
		t.mu.Unlock()
	case errdefs.IsNotFound(err):
		// Deleted by a call whose answer was lost.
		t.mu.Lock()
		p := t.procs[""]
		if p == nil || !p.hasExited() {
			t.mu.Unlock()
			return containerd.Exit{}, err
		}
		t.deletion = &p.state.Exit
		t.mu.Unlock()
	case errors.Is(err, errShimDead): // its burial is the deletion
		return m.awaitGone(ctx, t)
	default:
		return containerd.Exit{}, err
	}
	if !t.advance(deleted) {
		return m.awaitGone(ctx, t)
	}
	if s.child == nil {
		// A shim started by its verb derives its socket from the task's ID: the ID
		// is free only when the shim has exited.
		m.dismiss(t, s)
		m.release(t)
	} else {
		m.release(t)
		if !m.background(func() { m.dismiss(t, s) }) {
			s.close()
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return *t.deletion, nil
}

// awaitGone waits for the removal that somebody else does.
func (m *Manager) awaitGone(ctx context.Context, t *task) (containerd.Exit, error) {
	select {
	case <-t.gone:
	case <-m.life.Done():
		return containerd.Exit{}, fmt.Errorf("task manager is closed: %w", errdefs.ErrUnavailable)
	case <-ctx.Done():
		return containerd.Exit{}, context.Cause(ctx)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.deletion != nil {
		return *t.deletion, nil
	}
	if p := t.procs[""]; t.made && p != nil && p.hasExited() {
		return p.state.Exit, nil
	}
	return containerd.Exit{}, fmt.Errorf("task %q: %w", t.id, errdefs.ErrNotFound)
}

func (m *Manager) deleteExec(ctx context.Context, id, execID string) (containerd.Exit, error) {
	t, s, err := m.connected(ctx, id)
	if err != nil {
		return containerd.Exit{}, err
	}
	var resp api.DeleteResponse
	if err := s.call(ctx, promptTimeout, "Delete", &api.DeleteRequest{ID: id, ExecID: execID}, &resp); err != nil {
		return containerd.Exit{}, err
	}
	exit := exitOf(resp.GetPid(), resp.GetExitStatus(), resp.GetExitedAt())
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.procs[execID]; p != nil {
		p.exited(exit)
		delete(t.procs, execID)
	}
	return exit, nil
}

func mountsOf(mounts []mount.Mount) []*types.Mount {
	out := make([]*types.Mount, len(mounts))
	for i, m := range mounts {
		out[i] = &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options}
	}
	return out
}

func describe(id, execID string) string {
	if execID == "" {
		return fmt.Sprintf("task %q", id)
	}
	return fmt.Sprintf("process %q of task %q", execID, id)
}
