package shim

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"lighter/shim/handover"
	"lighter/shim/reaper"
	"lighter/shim/stdio"
)

// Options are the runtime options of a container (containerd.runc.v1.Options).
type Options struct {
	// BinaryName is an OCI program to execute; empty for the built-in runtime.
	BinaryName string `json:"binary_name,omitempty"`
	// Root is where the runtime keeps its state; empty for the default. The
	// runtime's directory is the containerd namespace below it.
	Root string `json:"root,omitempty"`
	// SystemdCgroup has cgroups made by systemd.
	SystemdCgroup bool `json:"systemd_cgroup,omitempty"`
	NoPivotRoot   bool `json:"no_pivot_root,omitempty"`
	NoNewKeyring  bool `json:"no_new_keyring,omitempty"`
	// ShimCgroup is the cgroup path that the shim moves itself into.
	ShimCgroup string `json:"shim_cgroup,omitempty"`
	// IOUID and IOGID own the process's pipes.
	IOUID uint32 `json:"io_uid,omitempty"`
	IOGID uint32 `json:"io_gid,omitempty"`
}

// Deps are what a Service needs.
type Deps struct {
	// Namespace is containerd's.
	Namespace string
	// Runtime returns the runtime for a container with these options.
	Runtime func(Options) (Runtime, error)
	Reaper  *reaper.Reaper
	// Publish queues an event. It must not block.
	Publish func(Event)
	// Busy is called when output moves, so that idle memory can be given back
	// some time after the last call. It must be cheap; nil for none.
	Busy func()
	// Gate is entered while something happens that State would not show; nil
	// if the Service is never handed over.
	Gate *handover.Gate
	Log  *slog.Logger
}

// Service holds the containers of a shim. Its methods are the Task API's, in
// plain types; they may be called from several goroutines. Errors are NotFound
// for an unknown container or exec, AlreadyExists for a taken ID and
// FailedPrecondition for a wrong state, each naming it.
type Service struct {
	deps Deps

	mu         sync.Mutex // guards the fields below
	containers map[string]*container
	closed     bool

	shutdown chan struct{}  // closed by an accepted Shutdown
	pending  sync.WaitGroup // exits being published, attach clients being served
}

// NewService returns a Service without containers.
func NewService(deps Deps) *Service {
	if deps.Busy == nil {
		deps.Busy = func() {}
	}
	return &Service{deps: deps, containers: make(map[string]*container), shutdown: make(chan struct{})}
}

// CreateRequest are the inputs of Service.Create.
type CreateRequest struct {
	ID, Bundle            string
	Rootfs                []Mount
	Terminal              bool
	Stdin, Stdout, Stderr string
	Options               Options
}

// ExecRequest are the inputs of Service.Exec.
type ExecRequest struct {
	ID, ExecID            string
	Terminal              bool
	Stdin, Stdout, Stderr string
	Process               *specs.Process
}

// State describes a process.
type State struct {
	ID, ExecID, Bundle    string
	Pid                   int
	Status                Status
	Stdin, Stdout, Stderr string
	Terminal              bool
	// Exit is set when Status is Stopped.
	Exit reaper.Exit
}

// ProcessID names a process of a container by host pid.
type ProcessID struct {
	Pid int
	// ExecID is the exec whose first process this is, or "".
	ExecID string
}

// Create creates the container and its init process.
func (s *Service) Create(ctx context.Context, req CreateRequest) (pid int, err error) {
	c := &container{id: req.ID, bundle: req.Bundle, service: s, log: s.deps.Log.With("container", req.ID)}
	s.mu.Lock()
	_, taken := s.containers[req.ID]
	if s.closed {
		err = fmt.Errorf("create container %q: the shim is shutting down: %w", req.ID, errdefs.ErrUnavailable)
	} else if taken {
		err = fmt.Errorf("create container %q: it exists: %w", req.ID, errdefs.ErrAlreadyExists)
	} else {
		s.containers[req.ID] = c
	}
	s.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if pid, err = c.create(ctx, req); err != nil {
		s.remove(c)
		return 0, fmt.Errorf("create container %q: %w", req.ID, err)
	}
	return pid, nil
}

// Start starts the container, or the exec, and returns its pid.
func (s *Service) Start(ctx context.Context, id, execID string) (int, error) {
	c, p, err := s.find(id, execID)
	if err != nil {
		return 0, err
	}
	if execID == "" {
		err = c.startInit(ctx)
	} else {
		err = c.startExec(ctx, p)
	}
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", p, err)
	}
	return p.pid(), nil
}

// Exec adds a process that Start starts later. Clients may attach to it now.
func (s *Service) Exec(ctx context.Context, req ExecRequest) error {
	c, err := s.container(req.ID)
	if err != nil {
		return err
	}
	return c.addExec(req)
}

// Delete removes a process that has ended or was never started, and with init
// the container.
func (s *Service) Delete(ctx context.Context, id, execID string) (reaper.Exit, error) {
	c, p, err := s.find(id, execID)
	if err != nil {
		return reaper.Exit{}, err
	}
	if execID != "" {
		return c.deleteExec(p)
	}
	exit, err := c.delete(ctx)
	if err != nil {
		return reaper.Exit{}, fmt.Errorf("delete container %q: %w", id, err)
	}
	return exit, nil
}

// State describes a process.
func (s *Service) State(id, execID string) (State, error) {
	c, p, err := s.find(id, execID)
	if err != nil {
		return State{}, err
	}
	st := p.snapshot()
	st.ID, st.Bundle = id, c.bundle
	return st, nil
}

// Wait waits for the process to end.
func (s *Service) Wait(ctx context.Context, id, execID string) (reaper.Exit, error) {
	_, p, err := s.find(id, execID)
	if err != nil {
		return reaper.Exit{}, err
	}
	select {
	case <-p.stopped:
		return p.snapshot().Exit, nil
	case <-ctx.Done():
		return reaper.Exit{}, context.Cause(ctx)
	}
}

// Kill signals a process, or with all every process of the container.
func (s *Service) Kill(ctx context.Context, id, execID string, sig syscall.Signal, all bool) error {
	c, p, err := s.find(id, execID)
	if err != nil {
		return err
	}
	if execID != "" {
		return p.signal(sig)
	}
	return s.deps.Reaper.Do(func() error { return c.runtime.Kill(ctx, id, sig, all) })
}

// Pause freezes the container's processes.
func (s *Service) Pause(ctx context.Context, id string) error {
	return s.freeze(ctx, id, pauseEvent, Runtime.Pause, TopicPaused)
}

// Resume thaws the container's processes.
func (s *Service) Resume(ctx context.Context, id string) error {
	return s.freeze(ctx, id, resumeEvent, Runtime.Resume, TopicResumed)
}

func (s *Service) freeze(ctx context.Context, id string, ev event, do func(Runtime, context.Context, string) error, topic Topic) error {
	c, p, err := s.find(id, "")
	if err != nil {
		return err
	}
	p.op.Lock()
	defer p.op.Unlock()
	if err := p.check(ev); err != nil {
		return err
	}
	if err := s.deps.Reaper.Do(func() error { return do(c.runtime, ctx, id) }); err != nil {
		return err
	}
	p.move(ev)
	s.publish(Event{Topic: topic, ContainerID: id})
	return nil
}

// Pids lists the container's processes.
func (s *Service) Pids(ctx context.Context, id string) ([]ProcessID, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, err
	}
	var pids []int
	err = s.deps.Reaper.Do(func() (err error) {
		pids, err = c.runtime.Pids(ctx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	execs := c.execPids()
	list := make([]ProcessID, len(pids))
	for i, pid := range pids {
		list[i] = ProcessID{Pid: pid, ExecID: execs[pid]}
	}
	return list, nil
}

// Update changes the container's resource limits.
func (s *Service) Update(ctx context.Context, id string, resources *specs.LinuxResources) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	return s.deps.Reaper.Do(func() error { return c.runtime.Update(ctx, id, resources) })
}

// CgroupPaths returns the container's cgroup directories; see Runtime.
func (s *Service) CgroupPaths(ctx context.Context, id string) (map[string]string, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, err
	}
	return c.cgroupPaths(ctx)
}

// ResizePty sets the size of a process's terminal in characters.
func (s *Service) ResizePty(id, execID string, width, height uint32) error {
	_, p, err := s.find(id, execID)
	if err != nil {
		return err
	}
	return p.io.Resize(width, height)
}

// CloseStdin ends a process's input.
func (s *Service) CloseStdin(id, execID string) error {
	_, p, err := s.find(id, execID)
	if err != nil {
		return err
	}
	p.io.CloseStdin()
	return nil
}

// InitPid returns the pid of the container's init process.
func (s *Service) InitPid(id string) (int, error) {
	_, p, err := s.find(id, "")
	if err != nil {
		return 0, err
	}
	return p.pid(), nil
}

// Shutdown lets the shim end if it holds no containers. It reports whether it
// will.
func (s *Service) Shutdown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.containers) > 0 {
		return false
	}
	if !s.closed {
		s.closed = true
		close(s.shutdown)
	}
	return true
}

// Done is closed when the shim is to end.
func (s *Service) Done() <-chan struct{} { return s.shutdown }

// Linger waits, after Done, until attached clients have what they have coming; a
// client that takes nothing is given up.
func (s *Service) Linger() { s.pending.Wait() }

// Trim frees buffers. Use it when nothing has happened for a while.
func (s *Service) Trim() {
	s.mu.Lock()
	var list []*container
	for _, c := range s.containers {
		list = append(list, c)
	}
	s.mu.Unlock()
	for _, c := range list {
		c.trim()
	}
}

func (s *Service) publish(ev Event) {
	ev.Time = time.Now()
	s.deps.Publish(ev)
}

func (s *Service) container(id string) (*container, error) {
	c, _, err := s.find(id, "")
	return c, err
}

// find returns a container that has been created, and its exec or init.
func (s *Service) find(id, execID string) (*container, *process, error) {
	s.mu.Lock()
	c := s.containers[id]
	s.mu.Unlock()
	if c == nil {
		return nil, nil, fmt.Errorf("container %q: %w", id, errdefs.ErrNotFound)
	}
	p, err := c.process(execID)
	return c, p, err
}

func (s *Service) remove(c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.containers, c.id)
}

// streams finds what an attach client asks for.
func (c *container) streams(execID string) (*stdio.IO, error) {
	if execID == "" {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.attachInit, nil // init may still be on its way
	}
	p, err := c.process(execID)
	if err != nil {
		return nil, err
	}
	return p.io, nil
}
