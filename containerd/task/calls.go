package task

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/emptypb"

	"lighter/containerd"
)

// Start implements containerd.Tasks.
func (m *Manager) Start(ctx context.Context, id, execID string) (uint32, error) {
	t, s, err := m.connected(ctx, id)
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", describe(id, execID), err)
	}
	var resp api.StartResponse
	if err := s.call(ctx, createTimeout, "Start", &api.StartRequest{ID: id, ExecID: execID}, &resp); err != nil {
		return 0, fmt.Errorf("start %s: %w", describe(id, execID), err)
	}
	t.update(execID, func(p *process) {
		p.state.Pid = resp.GetPid()
		p.setStatus(containerd.StatusRunning)
	})
	return resp.GetPid(), nil
}

// Exec implements containerd.Tasks.
func (m *Manager) Exec(ctx context.Context, id, execID string, opts containerd.TaskExec) error {
	err := identifiers.Validate(execID)
	if err == nil {
		var t *task
		var s *shim
		if t, s, err = m.connected(ctx, id); err == nil {
			err = t.exec(ctx, s, execID, opts)
		}
	}
	if err != nil {
		return fmt.Errorf("exec %s: %w", describe(id, execID), err)
	}
	return nil
}

func (t *task) exec(ctx context.Context, s *shim, execID string, opts containerd.TaskExec) error {
	err := s.call(ctx, promptTimeout, "Exec", &api.ExecProcessRequest{
		ID: t.id, ExecID: execID, Terminal: opts.Terminal,
		Stdin: opts.Stdin, Stdout: opts.Stdout, Stderr: opts.Stderr, Spec: toAny(opts.Spec),
	}, &emptypb.Empty{})
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.procs[execID] = newProcess(containerd.TaskState{
		ID: t.id, ExecID: execID, Bundle: t.bundle.path, Status: containerd.StatusCreated,
		Stdin: opts.Stdin, Stdout: opts.Stdout, Stderr: opts.Stderr, Terminal: opts.Terminal,
	})
	return nil
}

// State implements containerd.Tasks. What can't change any more, the state of an
// exited process, is answered from memory.
func (m *Manager) State(ctx context.Context, id, execID string) (containerd.TaskState, error) {
	t, err := m.lookup(ctx, id)
	if err != nil {
		return containerd.TaskState{}, fmt.Errorf("state: %w", err)
	}
	state, err := t.report(ctx, execID)
	if err != nil {
		return containerd.TaskState{}, fmt.Errorf("state of %s: %w", describe(id, execID), err)
	}
	return state, nil
}

// report asks the shim where memory may be wrong.
func (t *task) report(ctx context.Context, execID string) (containerd.TaskState, error) {
	t.mu.Lock()
	p, s, phase := t.procs[execID], t.shim, t.phase
	if p != nil && p.hasExited() {
		defer t.mu.Unlock()
		return p.state, nil
	}
	t.mu.Unlock()
	switch phase {
	case creating:
		return containerd.TaskState{}, fmt.Errorf("task is being created: %w", errdefs.ErrNotFound)
	case dying, gone:
		return containerd.TaskState{}, fmt.Errorf("shim is dead, its processes are being killed: %w", errdefs.ErrUnavailable)
	}
	var resp api.StateResponse
	if err := s.call(ctx, stateTimeout, "State", &api.StateRequest{ID: t.id, ExecID: execID}, &resp); err != nil {
		return containerd.TaskState{}, err
	}
	return t.learn(t.stateOf(execID, &resp)), nil
}

// List implements containerd.Tasks, sorted by ID. A task whose shim does not
// answer is listed with what was last known of it.
func (m *Manager) List(ctx context.Context) ([]containerd.TaskState, error) {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", err)
	}
	m.mu.Lock()
	var tasks []*task
	for k, t := range m.tasks {
		if k.namespace == namespace {
			tasks = append(tasks, t)
		}
	}
	m.mu.Unlock()
	slices.SortFunc(tasks, func(a, b *task) int { return strings.Compare(a.id, b.id) })

	states := make([]*containerd.TaskState, len(tasks))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32) // calls at once: enough to keep slow shims from adding up
	for i, t := range tasks {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			state, err := t.report(ctx, "")
			if err != nil {
				var known bool
				if state, known = t.snapshot(""); !known || errdefs.IsNotFound(err) {
					return
				}
			}
			states[i] = &state
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("list tasks: %w", context.Cause(ctx))
	}
	list := make([]containerd.TaskState, 0, len(states))
	for _, s := range states {
		if s != nil {
			list = append(list, *s)
		}
	}
	return list, nil
}

// Wait implements containerd.Tasks. It returns at the shim's answer or the exit
// event, whichever comes first, or when the shim has died and been buried.
func (m *Manager) Wait(ctx context.Context, id, execID string) (containerd.Exit, error) {
	exit, err := m.wait(ctx, id, execID)
	if err != nil {
		return containerd.Exit{}, fmt.Errorf("wait for %s: %w", describe(id, execID), err)
	}
	return exit, nil
}

func (m *Manager) wait(ctx context.Context, id, execID string) (containerd.Exit, error) {
	t, err := m.lookup(ctx, id)
	if err != nil {
		return containerd.Exit{}, err
	}
	p := t.process(execID)
	if p == nil { // added before a restart, or unknown
		if _, err := t.report(ctx, execID); err != nil {
			return containerd.Exit{}, err
		}
		if p = t.process(execID); p == nil {
			return containerd.Exit{}, errdefs.ErrNotFound // deleted just now
		}
	}
	w := m.watch(t, p)
	over := w.over
	for {
		select {
		case <-p.done:
			t.mu.Lock()
			defer t.mu.Unlock()
			return p.state.Exit, nil
		case <-over:
			if w.err != nil && !errors.Is(w.err, errShimDead) {
				return containerd.Exit{}, w.err
			}
			over = nil // the burial of the shim says how the process ended
		case <-t.gone: // never made, or deleted before it ran
			t.mu.Lock()
			defer t.mu.Unlock()
			if !p.hasExited() {
				return containerd.Exit{}, errdefs.ErrNotFound
			}
			return p.state.Exit, nil
		case <-m.life.Done():
			return containerd.Exit{}, fmt.Errorf("task manager is closed: %w", errdefs.ErrUnavailable)
		case <-ctx.Done():
			return containerd.Exit{}, context.Cause(ctx)
		}
	}
}

// watch is a call to the shim that waits for the exit of a process, for all who
// want to know.
type watch struct {
	over chan struct{} // closed at the answer
	err  error         // read after over
}

// watch has the shim report the exit of p, which it does too when its event was
// lost. The goroutine lives as long as the process or the connection to the
// shim: what it costs, somebody has waited for.
func (m *Manager) watch(t *task, p *process) *watch {
	t.mu.Lock()
	s, w, execID := t.shim, p.watch, p.state.ExecID
	if w != nil || s == nil || p.hasExited() {
		t.mu.Unlock()
		if w == nil {
			w = &watch{} // never over: what the caller waits for has happened, or its burial has begun
		}
		return w
	}
	w = &watch{over: make(chan struct{})}
	p.watch = w
	t.mu.Unlock()
	m.background(func() {
		var resp api.WaitResponse
		err := s.call(m.life, maxWait, "Wait", &api.WaitRequest{ID: t.id, ExecID: execID}, &resp)
		t.mu.Lock()
		defer t.mu.Unlock()
		if err == nil {
			p.exited(exitOf(0, resp.GetExitStatus(), resp.GetExitedAt()))
		} else {
			w.err, p.watch = err, nil // the next who waits asks again
		}
		close(w.over)
	})
	return w
}

// maxWait is the deadline of a Wait: none that a process would reach, as ttrpc
// carries it in nanoseconds.
const maxWait = 100 * 365 * 24 * time.Hour

// Kill implements containerd.Tasks.
func (m *Manager) Kill(ctx context.Context, id, execID string, sig syscall.Signal, all bool) error {
	return m.do(ctx, "kill", id, execID, promptTimeout, "Kill",
		&api.KillRequest{ID: id, ExecID: execID, Signal: uint32(sig), All: all}, nil)
}

// ResizePty implements containerd.Tasks.
func (m *Manager) ResizePty(ctx context.Context, id, execID string, width, height uint32) error {
	return m.do(ctx, "resize terminal of", id, execID, promptTimeout, "ResizePty",
		&api.ResizePtyRequest{ID: id, ExecID: execID, Width: width, Height: height}, nil)
}

// CloseStdin implements containerd.Tasks.
func (m *Manager) CloseStdin(ctx context.Context, id, execID string) error {
	return m.do(ctx, "close input of", id, execID, promptTimeout, "CloseIO",
		&api.CloseIORequest{ID: id, ExecID: execID, Stdin: true}, nil)
}

// Pause implements containerd.Tasks.
func (m *Manager) Pause(ctx context.Context, id string) error {
	return m.do(ctx, "pause", id, "", freezeTimeout, "Pause", &api.PauseRequest{ID: id}, nil)
}

// Resume implements containerd.Tasks.
func (m *Manager) Resume(ctx context.Context, id string) error {
	return m.do(ctx, "resume", id, "", freezeTimeout, "Resume", &api.ResumeRequest{ID: id}, nil)
}

// Pids implements containerd.Tasks.
func (m *Manager) Pids(ctx context.Context, id string) ([]uint32, error) {
	var resp api.PidsResponse
	if err := m.do(ctx, "list processes of", id, "", promptTimeout, "Pids", &api.PidsRequest{ID: id}, &resp); err != nil {
		return nil, err
	}
	pids := make([]uint32, len(resp.GetProcesses()))
	for i, p := range resp.GetProcesses() {
		pids[i] = p.GetPid()
	}
	return pids, nil
}

// Update implements containerd.Tasks.
func (m *Manager) Update(ctx context.Context, id string, resources typeurl.Any) error {
	return m.do(ctx, "update", id, "", freezeTimeout, "Update",
		&api.UpdateTaskRequest{ID: id, Resources: toAny(resources)}, nil)
}

// Metrics implements containerd.Tasks.
func (m *Manager) Metrics(ctx context.Context, id string) (typeurl.Any, error) {
	var resp api.StatsResponse
	if err := m.do(ctx, "read metrics of", id, "", promptTimeout, "Stats", &api.StatsRequest{ID: id}, &resp); err != nil {
		return nil, err
	}
	if resp.GetStats() == nil {
		return nil, fmt.Errorf("read metrics of task %q: the shim has none: %w", id, errdefs.ErrNotImplemented)
	}
	return resp.GetStats(), nil
}

// do is a call that changes nothing of what is kept in memory, or is followed by
// an event that does. A nil resp is for methods without an answer.
func (m *Manager) do(ctx context.Context, what, id, execID string, timeout time.Duration, method string, req, resp any) error {
	if resp == nil {
		resp = &emptypb.Empty{}
	}
	_, s, err := m.connected(ctx, id)
	if err == nil {
		err = s.call(ctx, timeout, method, req, resp)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, describe(id, execID), err)
	}
	return nil
}
