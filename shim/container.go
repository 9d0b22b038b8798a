package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"lighter/internal/cleanup"
	"lighter/internal/shimio"
	"lighter/shim/oom"
	"lighter/shim/reaper"
	"lighter/shim/stdio"
)

// Time limits on the way from a process's end to its exit event.
const (
	// drainTimeout bounds the wait for output that a surviving process holds open.
	drainTimeout = 2 * time.Second
	// killTimeout bounds the wait for processes that were sent SIGKILL.
	killTimeout = 10 * time.Second
)

var errNotStarted = fmt.Errorf("it is not started: %w", errdefs.ErrFailedPrecondition)

// container is one container of the shim.
type container struct {
	id      string
	bundle  string
	service *Service
	log     *slog.Logger
	runtime Runtime
	options Options
	attach  *stdio.Server // nil without an attach socket

	mu         sync.Mutex // guards the fields below
	init       *process   // nil until create has succeeded
	execs      map[string]*process
	cgroups    map[string]string // nil until asked for
	oomWatch   *oom.Watcher      // nil if it cannot be watched
	ownPidns   bool
	attachInit *stdio.IO // what a client gets that attaches during create
}

// create makes the container. On an error nothing is left behind.
func (c *container) create(ctx context.Context, req CreateRequest) (pid int, err error) {
	rt, err := c.service.deps.Runtime(req.Options)
	if err != nil {
		return 0, err
	}
	c.runtime, c.options = rt, req.Options
	if req.Options.ShimCgroup != "" {
		if err := enterCgroup(req.Options.ShimCgroup); err != nil {
			return 0, err
		}
	}
	undo := cleanup.Stack{}
	defer undo.Run()

	cfg := stdio.Config{
		Namespace: c.service.deps.Namespace, Container: c.id, Terminal: req.Terminal,
		Stdin: req.Stdin, Stdout: req.Stdout, Stderr: req.Stderr,
		UID: int(req.Options.IOUID), GID: int(req.Options.IOGID),
	}
	io, err := c.newIO(cfg)
	if err != nil {
		return 0, err
	}
	undo.Add(func() error { io.Close(); return nil })
	if err := c.serveAttach(req.Stdout, io); err != nil {
		return 0, err
	}
	if c.attach != nil {
		undo.Add(c.attach.Close)
	}
	if err := saveOptions(req.Bundle, req.Options); err != nil {
		return 0, err
	}
	p := newProcess("", io, cfg, nil, c.service.deps.Reaper)
	opts := CreateOptions{Bundle: req.Bundle, Rootfs: req.Rootfs}
	exit, err := c.launch(p, func(s Stdio) (int, error) {
		opts.Stdio = s
		return rt.Create(ctx, c.id, opts)
	})
	if err != nil {
		return 0, err
	}
	undo.Release()
	pid = p.pid()
	if err := savePid(req.Bundle, pid); err != nil {
		c.log.Warn("a dead shim's clean-up will not know the pid", "err", err)
	}
	c.mu.Lock()
	c.init, c.ownPidns = p, isPidnsInit(pid)
	c.mu.Unlock()
	c.watchOOM(ctx)
	c.service.publish(Event{
		Topic: TopicCreate, ContainerID: c.id, Pid: pid, Bundle: req.Bundle, Rootfs: req.Rootfs,
		Stdin: req.Stdin, Stdout: req.Stdout, Stderr: req.Stderr, Terminal: req.Terminal,
	})
	c.service.pending.Go(func() { c.finishInit(p, <-exit) })
	return pid, nil
}

func (c *container) newIO(cfg stdio.Config) (*stdio.IO, error) {
	return stdio.New(cfg, c.stdioDeps())
}

func (c *container) stdioDeps() stdio.Deps {
	d := c.service.deps
	return stdio.Deps{Reaper: d.Reaper, Log: c.log, Busy: d.Busy, Gate: d.Gate}
}

// serveAttach makes the attach socket that the stdout string asks for. Clients
// are let in while the container is being created.
func (c *container) serveAttach(stdout string, io *stdio.IO) error {
	if !shimio.Is(stdout) {
		return nil
	}
	s, err := shimio.Parse(stdout)
	if err != nil || s.AttachSocket == "" {
		return err
	}
	c.mu.Lock()
	c.attachInit = io
	c.mu.Unlock()
	c.attach, err = stdio.Serve(s.AttachSocket, c.streams, c.stdioDeps())
	return err
}

// launch opens the streams, has start make the process, and tracks it.
func (c *container) launch(p *process, start func(Stdio) (pid int, err error)) (exit <-chan reaper.Exit, err error) {
	in, out, errOut, err := p.io.Open()
	if err != nil {
		return nil, err
	}
	defer p.io.CloseChild()
	s := Stdio{In: in, Out: out, Err: errOut}
	if p.stdio.Terminal {
		s.Console = p.io.Console
	}
	err = c.service.deps.Reaper.Do(func() error {
		pid, err := start(s)
		if err != nil {
			return err
		}
		p.setPid(pid)
		exit = c.service.deps.Reaper.Track(pid)
		return nil
	})
	return exit, err
}

func (c *container) startInit(ctx context.Context) error {
	p, err := c.process("")
	if err != nil {
		return err
	}
	p.op.Lock()
	defer p.op.Unlock()
	if err := p.check(startEvent); err != nil {
		return err
	}
	err = c.service.deps.Reaper.Do(func() error { return c.runtime.Start(ctx, c.id) })
	if err != nil {
		return err
	}
	p.move(startEvent)
	c.service.publish(Event{Topic: TopicStart, ContainerID: c.id, Pid: p.pid()})
	return nil
}

func (c *container) addExec(req ExecRequest) error {
	if req.ExecID == "" || req.Process == nil {
		return fmt.Errorf("add exec: it needs an ID and a process: %w", errdefs.ErrInvalidArgument)
	}
	cfg := stdio.Config{
		Namespace: c.service.deps.Namespace, Container: c.id, Terminal: req.Terminal,
		Stdin: req.Stdin, Stdout: req.Stdout, Stderr: req.Stderr,
		UID: int(c.options.IOUID), GID: int(c.options.IOGID),
	}
	io, err := c.newIO(cfg)
	if err != nil {
		return fmt.Errorf("add exec %q: %w", req.ExecID, err)
	}
	req.Process.Terminal = req.Terminal
	p := newProcess(req.ExecID, io, cfg, req.Process, c.service.deps.Reaper)
	c.mu.Lock()
	_, taken := c.execs[req.ExecID]
	if !taken {
		if c.execs == nil {
			c.execs = make(map[string]*process)
		}
		c.execs[req.ExecID] = p
	}
	c.mu.Unlock()
	if taken {
		io.Close()
		return fmt.Errorf("add exec %q: it exists: %w", req.ExecID, errdefs.ErrAlreadyExists)
	}
	c.service.publish(Event{Topic: TopicExecAdded, ContainerID: c.id, ExecID: req.ExecID})
	return nil
}

func (c *container) startExec(ctx context.Context, p *process) error {
	init, err := c.process("")
	if err != nil {
		return err
	}
	p.op.Lock()
	defer p.op.Unlock()
	if err := p.check(startEvent); err != nil {
		return err
	}
	switch st := init.snapshot().Status; st {
	case Running, Created: // the OCI runtime allows both
	default:
		return fmt.Errorf("the container is %s: %w", st, errdefs.ErrFailedPrecondition)
	}
	exit, err := c.launch(p, func(s Stdio) (int, error) {
		return c.runtime.Exec(ctx, c.id, ExecOptions{Process: p.spec, Stdio: s})
	})
	if err != nil {
		// Waiters and attached clients learn that nothing will come.
		p.setExit(reaper.Exit{Status: reaper.StatusUnknown, At: time.Now()})
		p.io.Close()
		p.move(exitEvent)
		return err
	}
	p.move(startEvent)
	c.service.publish(Event{Topic: TopicExecStarted, ContainerID: c.id, ExecID: p.execID, Pid: p.pid()})
	c.service.pending.Go(func() { c.finish(p, <-exit) })
	return nil
}

// finishInit goes from the end of init to its exit event. The execs come first.
func (c *container) finishInit(p *process, exit reaper.Exit) {
	c.mu.Lock()
	ownPidns, watch := c.ownPidns, c.oomWatch
	execs := slices.Collect(maps.Values(c.execs))
	c.mu.Unlock()
	if !ownPidns {
		// The kernel ends the processes only of a pid namespace whose init ends.
		ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
		err := c.service.deps.Reaper.Do(func() error { return c.runtime.Kill(ctx, c.id, syscall.SIGKILL, true) })
		cancel()
		if err != nil && !errdefs.IsNotFound(err) {
			c.log.Warn("kill the rest of a container without its own pid namespace", "err", err)
		}
	}
	deadline := time.NewTimer(drainTimeout)
	defer deadline.Stop()
	for _, e := range execs {
		if e.snapshot().Status != Running {
			continue
		}
		select {
		case <-e.stopped:
		case <-deadline.C:
			deadline.Reset(0)
		}
	}
	if watch != nil {
		watch.Close() // tells of a kill that it had not seen yet
	}
	if err := saveExit(c.bundle, exit); err != nil {
		c.log.Warn("a dead shim's clean-up will not know the exit status", "err", err)
	}
	c.finish(p, exit)
}

// finish publishes the exit of a process once its output has arrived.
func (c *container) finish(p *process, exit reaper.Exit) {
	p.io.Drain(drainTimeout)
	p.op.Lock()
	defer p.op.Unlock()
	p.setExit(exit)
	if err := p.move(exitEvent); err != nil {
		c.log.Error("exit of a process in an impossible state", "exec", p.execID, "err", err)
	}
	c.service.publish(Event{
		Topic: TopicExit, ContainerID: c.id, ExecID: p.execID,
		Pid: exit.Pid, ExitStatus: exit.Status, ExitedAt: exit.At,
	})
	c.service.deps.Busy()
}

// delete removes the container. A failed removal may be repeated.
func (c *container) delete(ctx context.Context) (reaper.Exit, error) {
	p, err := c.process("")
	if err != nil {
		return reaper.Exit{}, err
	}
	if p.snapshot().Status == Created {
		// Its end publishes the exit, which needs p.op.
		if err := c.killCreated(ctx, p); err != nil {
			return reaper.Exit{}, err
		}
	}
	p.op.Lock()
	defer p.op.Unlock()
	if err := p.check(deleteEvent); err != nil {
		return reaper.Exit{}, err
	}
	// Forced, since a container that is gone already is what we want.
	err = c.service.deps.Reaper.Do(func() error { return c.runtime.Delete(ctx, c.id, true) })
	if err != nil {
		return reaper.Exit{}, err
	}
	p.move(deleteEvent)
	for _, e := range c.takeExecs() {
		e.io.Close()
	}
	p.io.Close()
	if c.attach != nil {
		if err := c.attach.Close(); err != nil {
			c.log.Warn("close attach socket", "err", err)
		}
		c.service.pending.Go(c.attach.Wait)
	}
	exit := p.snapshot().Exit
	c.service.remove(c)
	c.service.publish(Event{
		Topic: TopicDelete, ContainerID: c.id, Pid: exit.Pid, ExitStatus: exit.Status, ExitedAt: exit.At,
	})
	return exit, nil
}

func (c *container) killCreated(ctx context.Context, p *process) error {
	err := c.service.deps.Reaper.Do(func() error { return c.runtime.Kill(ctx, c.id, syscall.SIGKILL, false) })
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	timeout := time.NewTimer(killTimeout)
	defer timeout.Stop()
	select {
	case <-p.stopped:
		return nil
	case <-timeout.C:
		return fmt.Errorf("init has not ended %s after SIGKILL: %w", killTimeout, errdefs.ErrUnavailable)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *container) deleteExec(p *process) (reaper.Exit, error) {
	p.op.Lock()
	defer p.op.Unlock()
	if err := p.move(deleteEvent); err != nil {
		return reaper.Exit{}, fmt.Errorf("delete %s: %w", p, err)
	}
	p.io.Close()
	c.mu.Lock()
	delete(c.execs, p.execID)
	c.mu.Unlock()
	return p.snapshot().Exit, nil
}

func (c *container) process(execID string) (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.init == nil {
		return nil, fmt.Errorf("container %q: it is being created: %w", c.id, errdefs.ErrUnavailable)
	}
	if execID == "" {
		return c.init, nil
	}
	if p := c.execs[execID]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("exec %q of container %q: %w", execID, c.id, errdefs.ErrNotFound)
}

func (c *container) takeExecs() map[string]*process {
	c.mu.Lock()
	defer c.mu.Unlock()
	execs := c.execs
	c.execs = nil
	return execs
}

func (c *container) execPids() map[int]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	pids := make(map[int]string, len(c.execs))
	for id, p := range c.execs {
		pids[p.pid()] = id
	}
	return pids
}

func (c *container) cgroupPaths(ctx context.Context) (map[string]string, error) {
	c.mu.Lock()
	paths := c.cgroups
	c.mu.Unlock()
	if paths != nil {
		return paths, nil
	}
	err := c.service.deps.Reaper.Do(func() (err error) {
		paths, err = c.runtime.CgroupPaths(ctx, c.id)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.cgroups = paths
	c.mu.Unlock()
	return paths, nil
}

func (c *container) watchOOM(ctx context.Context) {
	paths, err := c.cgroupPaths(ctx)
	if err == nil {
		var w *oom.Watcher
		w, err = oom.Watch(paths, c.service.deps.Gate, c.reportOOM)
		if err == nil {
			c.mu.Lock()
			c.oomWatch = w
			c.mu.Unlock()
			return
		}
	}
	// Without a memory controller there is nothing to be told.
	if !errors.Is(err, oom.ErrNoController) {
		c.log.Warn("out-of-memory events will be missing", "err", err)
	}
}

func (c *container) reportOOM() {
	c.service.publish(Event{Topic: TopicOOM, ContainerID: c.id})
}

func (c *container) trim() {
	c.mu.Lock()
	list := slices.Collect(maps.Values(c.execs))
	if c.init != nil {
		list = append(list, c.init)
	}
	c.mu.Unlock()
	for _, p := range list {
		p.io.Trim()
	}
}

// isPidnsInit reports whether pid is the first process of a pid namespace, so
// that the kernel kills the namespace's other processes when it ends. If it
// cannot be told the answer is false: killing once too often is harmless.
func isPidnsInit(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			ids := strings.Fields(rest)
			return len(ids) > 1 && ids[len(ids)-1] == "1"
		}
	}
	return false
}
