package task

import (
	"sync"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	taskapi "github.com/containerd/containerd/api/types/task"
	"google.golang.org/protobuf/types/known/timestamppb"

	"lighter/containerd"
)

// process is what is known of the init process or an exec. It belongs to a task,
// whose mu guards all but done.
type process struct {
	state containerd.TaskState
	// watch is the call that waits for the exit, nil for none.
	watch *watch
	// done is closed when state.Exit is set.
	done chan struct{}
}

func newProcess(state containerd.TaskState) *process {
	p := &process{state: state, done: make(chan struct{})}
	if state.Status == containerd.StatusStopped {
		close(p.done)
	}
	return p
}

// exited records how the process ended, once. It reports whether that was news.
func (p *process) exited(e containerd.Exit) bool {
	if p.hasExited() {
		return false
	}
	if e.Pid == 0 {
		e.Pid = p.state.Pid
	}
	p.state.Status, p.state.Exit = containerd.StatusStopped, e
	close(p.done)
	return true
}

func (p *process) hasExited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// setStatus moves a process that has not exited.
func (p *process) setStatus(s containerd.Status) {
	if !p.hasExited() {
		p.state.Status = s
	}
}

// task is one running container and its shim.
type task struct {
	namespace, id string
	bundle        bundle
	binary        string // of the shim
	started       bool   // a shim may be running; used by Create alone

	gone chan struct{} // closed in phase gone

	mu    sync.Mutex // guards the fields below; nothing else is locked under it
	phase phase
	shim  *shim               // set before live; nil while a lost shim is buried at start-up
	procs map[string]*process // by exec ID, "" is init
	// deletion is the shim's answer to Delete: the shim has published the exit and
	// the delete event itself.
	deletion *containerd.Exit
	// made reports that the shim has made the container, so that its death is
	// worth an event.
	made bool
}

// advance moves the task if the change is legal now. Exactly one of several
// racing callers is told true.
func (t *task) advance(c change) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	to, err := t.phase.next(c)
	if err != nil {
		return false
	}
	t.phase = to
	if c == created {
		t.made = true
	}
	return true
}

// process returns the process, or nil.
func (t *task) process(execID string) *process {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.procs[execID]
}

// snapshot returns what is known of the process.
func (t *task) snapshot(execID string) (containerd.TaskState, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.procs[execID]
	if p == nil {
		return containerd.TaskState{}, false
	}
	return p.state, true
}

// update calls f with the process if it is known.
func (t *task) update(execID string, f func(*process)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.procs[execID]; p != nil {
		f(p)
	}
}

// learn merges the shim's report into what is known and returns the result. A
// report that crossed the exit event on its way does not revive a process.
func (t *task) learn(state containerd.TaskState) containerd.TaskState {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.procs[state.ExecID]
	switch {
	case p == nil:
		p = newProcess(state)
		t.procs[state.ExecID] = p
	case p.hasExited():
	case state.Status == containerd.StatusStopped:
		exit := state.Exit
		state.Status, state.Exit = p.state.Status, containerd.Exit{}
		p.state = state
		p.exited(exit)
	default:
		p.state = state
	}
	return p.state
}

// stateOf translates a shim's report. The names are ours: shims differ in which
// of them they put where.
func (t *task) stateOf(execID string, r *api.StateResponse) containerd.TaskState {
	s := containerd.TaskState{
		ID: t.id, ExecID: execID, Bundle: t.bundle.path, Pid: r.GetPid(),
		Status: statusOf(r.GetStatus()),
		Stdin:  r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), Terminal: r.GetTerminal(),
	}
	if s.Status == containerd.StatusStopped {
		s.Exit = exitOf(r.GetPid(), r.GetExitStatus(), r.GetExitedAt())
	}
	return s
}

func statusOf(s taskapi.Status) containerd.Status {
	switch s {
	case taskapi.Status_CREATED:
		return containerd.StatusCreated
	case taskapi.Status_RUNNING:
		return containerd.StatusRunning
	case taskapi.Status_STOPPED:
		return containerd.StatusStopped
	case taskapi.Status_PAUSED:
		return containerd.StatusPaused
	case taskapi.Status_PAUSING:
		return containerd.StatusPausing
	}
	return containerd.StatusUnknown
}

func exitOf(pid, code uint32, at *timestamppb.Timestamp) containerd.Exit {
	e := containerd.Exit{Pid: pid, Code: code}
	if at.IsValid() {
		e.ExitedAt = at.AsTime()
	}
	if e.ExitedAt.Unix() <= 0 { // a shim that did not know
		e.ExitedAt = time.Now().UTC()
	}
	return e
}
