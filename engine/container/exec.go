package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"lighter/containerd"
	"lighter/internal/shimio"
)

const (
	// execKeep is how long an ended exec can still be inspected.
	execKeep = 5 * time.Minute
	// execStartWait bounds how long a resize waits for the exec to start.
	execStartWait = 10 * time.Second
)

// exec is an additional process of a container. It lives in memory only, as it
// ends with its container.
type exec struct {
	id        string
	container string
	req       api.ExecCreateRequest
	keys      []byte
	hidden    bool // a health probe: not listed

	started chan struct{} // closed when the process runs or will not
	done    chan struct{} // closed when its end is recorded

	mu       sync.Mutex // guards the fields below
	claimed  bool       // ExecStart was called
	pid      int
	exitCode *int
}

// ExecCreate prepares a process in a running container and returns its ID.
func (m *Manager) ExecCreate(ctx context.Context, ref string, req api.ExecCreateRequest) (id string, err error) {
	e, err := m.lookup(ref)
	if err != nil {
		return "", err
	}
	r := e.rec.Load()
	if err := execAllowed(r); err != nil {
		return "", err
	}
	if len(req.Cmd) == 0 || req.Cmd[0] == "" {
		return "", invalid("No exec command specified")
	}
	for _, env := range req.Env {
		if key, _, _ := strings.Cut(env, "="); key == "" {
			return "", invalid("invalid environment variable: %s", env)
		}
	}
	keys, err := detachKeys(req.DetachKeys)
	if err != nil {
		return "", invalid("Invalid escape keys (%s) provided", req.DetachKeys)
	}
	if req.User != "" { // tell now, not on the hijacked connection
		if _, err := m.execUser(r, req.User); err != nil {
			return "", invalid("%s", err)
		}
	}
	x := m.addExec(r, req, keys, false)
	m.publish(r, execAction(events.ActionExecCreate, x), "execID", x.id)
	return x.id, nil
}

// execAllowed reports why a process cannot be added to r.
func execAllowed(r *record) error {
	switch {
	case r.State == Paused:
		return conflict("Container %s is paused, unpause the container before exec", r.ID)
	case r.State == Restarting:
		return refusal(r, evPause)
	case r.State != Running:
		return notRunning(r.ID)
	}
	return nil
}

func (m *Manager) addExec(r *record, req api.ExecCreateRequest, keys []byte, hidden bool) *exec {
	if req.User == "" {
		req.User = r.Config.User
	}
	if req.WorkingDir == "" {
		req.WorkingDir = r.Config.WorkingDir
	}
	x := &exec{
		id: newID(), container: r.ID, req: req, keys: keys, hidden: hidden,
		started: make(chan struct{}), done: make(chan struct{}),
	}
	m.mu.Lock()
	m.execs[x.id] = x
	m.mu.Unlock()
	return x
}

func execAction(action events.Action, x *exec) events.Action {
	return action + events.Action(": "+strings.Join(x.req.Cmd, " "))
}

func (m *Manager) exec(id string) (*exec, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	x, ok := m.execs[id]
	if !ok {
		return nil, notFound("No such exec instance: %s", id)
	}
	return x, nil
}

// execUser resolves a user inside the running container r.
func (m *Manager) execUser(r *record, user string) (specs.User, error) {
	root, err := m.ofProcess(r.Pid, r.ID)
	if err != nil {
		return specs.User{}, err
	}
	defer root.Close()
	known, err := readAccounts(root)
	if err != nil {
		return specs.User{}, err
	}
	return known.user(user, r.HostConfig.GroupAdd)
}

// ExecStart claims a prepared exec. Detached, it runs when ExecStart returns and
// the session is nil; otherwise the session's Serve starts it, as an error to
// start belongs into the stream then.
func (m *Manager) ExecStart(ctx context.Context, id string, opts ExecStartOptions) (*AttachSession, error) {
	x, err := m.exec(id)
	if err != nil {
		return nil, err
	}
	e, err := m.lookup(x.container)
	if err != nil {
		return nil, notFound("No such exec instance: %s", id)
	}
	if err := execAllowed(e.rec.Load()); err != nil {
		return nil, err
	}
	if err := x.claim(); err != nil {
		return nil, err
	}
	if opts.ConsoleSize != nil {
		x.req.ConsoleSize = opts.ConsoleSize
	}
	s := &AttachSession{
		Raw: opts.TTY, m: m, e: e, stdin: x.req.AttachStdin, detached: events.ActionExecDetach, execID: x.id,
		ready: make(chan *shimio.Conn, 1),
	}
	if x.req.Tty {
		s.keys = x.keys
	}
	if opts.Detach {
		s.deliver(nil)
		return nil, m.startExec(ctx, x, e, nil)
	}
	s.begin = func(ctx context.Context) error { return m.startExec(ctx, x, e, s) }
	s.ended = func(ctx context.Context) {
		select {
		case <-x.done:
		case <-time.After(endLimit):
		case <-ctx.Done():
		}
	}
	return s, nil
}

func (x *exec) claim() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.exitCode != nil:
		return conflict("exec command %s has already run", x.id)
	case x.claimed:
		return conflict("exec command %s is already running", x.id)
	}
	x.claimed = true
	return nil
}

// startExec runs x. With a session its streams are connected before the process
// starts. On an error the exec has ended with the code of Docker's.
func (m *Manager) startExec(ctx context.Context, x *exec, e *entry, s *AttachSession) (err error) {
	ctx, cancel := m.detached(ctx, startLimit)
	defer cancel()
	r := e.rec.Load()
	m.publish(r, execAction(events.ActionExecStart, x), "execID", x.id)
	defer func() {
		if err != nil {
			m.execEnded(r, x, failureCode(err), false)
		}
	}()
	process, err := m.execProcess(r, x)
	if err != nil {
		return err
	}
	data, err := json.Marshal(process)
	if err != nil {
		return fmt.Errorf("encode process: %w", err)
	}
	stdio := shimio.Stdio{Stdin: x.req.AttachStdin && s != nil, StdinOnce: true}
	tasks := m.Services.Tasks
	err = tasks.Exec(ctx, e.id, x.id, containerd.TaskExec{
		Stdout: stdio.String(), Terminal: x.req.Tty, Spec: anyOf(urlProcess, data),
	})
	if err != nil {
		return execFailure(err)
	}
	if s != nil {
		req := shimio.Request{Process: x.id, Stdin: s.stdin, Stdout: x.req.AttachStdout, Stderr: x.req.AttachStderr, Framed: !s.Raw}
		if err := s.dial(ctx, req); err != nil {
			return errors.Join(err, m.dropExec(ctx, x))
		}
	}
	pid, err := tasks.Start(ctx, e.id, x.id)
	if err != nil {
		if s != nil {
			s.Close()
		}
		if dropErr := m.dropExec(ctx, x); dropErr != nil {
			m.Log.Warn("cannot delete an exec that did not start", "container", e.id, "exec", x.id, "err", dropErr)
		}
		return execFailure(err)
	}
	x.mu.Lock()
	x.pid = int(pid)
	x.mu.Unlock()
	close(x.started)
	m.wg.Go(func() { m.watchExec(e, x) })
	return nil
}

func (m *Manager) dropExec(ctx context.Context, x *exec) error {
	if _, err := m.Services.Tasks.Delete(ctx, x.container, x.id); err != nil && !gone(err) {
		return err
	}
	return nil
}

// execFailure is startFailure with the words for an exec.
//
// Docker compatibility: what the runtime says follows the prefix at once, without
// the steps that led to it.
func execFailure(err error) error {
	var f *startError
	if errors.As(startFailure(err), &f) {
		const runtimeWords = "unable to start container process: "
		text := strings.TrimPrefix(f.text, "failed to create task for container: ")
		if i := strings.Index(text, runtimeWords); i > 0 {
			text = text[i:]
		}
		f.text = "OCI runtime exec failed: exec failed: " + text
		return f
	}
	return err
}

func failureCode(err error) int {
	var f *startError
	if errors.As(err, &f) && f.code != exitNotStarted {
		return f.code
	}
	return exitNotExecutable
}

// watchExec waits for x's end and records it.
func (m *Manager) watchExec(e *entry, x *exec) {
	pause := retryMin
	code := exitUnknown
	for {
		exit, err := m.Services.Tasks.Wait(m.life, x.container, x.id)
		if err == nil {
			code = int(exit.Code)
			break
		}
		if errdefs.IsNotFound(err) { // gone with its container
			code = 128 + int(syscall.SIGKILL)
			break
		}
		select {
		case <-time.After(pause):
		case <-m.life.Done():
			return
		}
		pause = min(pause*2, retryMax)
	}
	m.execEnded(e.rec.Load(), x, code, true)
	ctx, cancel := m.detached(m.life, exitLimit)
	defer cancel()
	if err := m.dropExec(ctx, x); err != nil {
		m.Log.Warn("cannot delete an exec", "container", x.container, "exec", x.id, "err", err)
	}
}

// execEnded records the end of x and forgets it after execKeep.
func (m *Manager) execEnded(r *record, x *exec, code int, ran bool) {
	x.mu.Lock()
	x.exitCode = &code
	x.mu.Unlock()
	if ran {
		m.publish(r, events.ActionExecDie, "execID", x.id, "exitCode", strconv.Itoa(code))
	} else {
		close(x.started)
	}
	close(x.done)
	keep := execKeep
	if x.hidden {
		keep = 0
	}
	time.AfterFunc(keep, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.execs, x.id)
	})
}

// execProcess returns the OCI process of x: the container's, with what the
// request replaces.
func (m *Manager) execProcess(r *record, x *exec) (*specs.Process, error) {
	user, err := m.execUser(r, x.req.User)
	if err != nil {
		return nil, err
	}
	sec, err := parseSecurity(r.HostConfig.SecurityOpt)
	if err != nil {
		return nil, err
	}
	p, err := m.process(r, specInput{user: user}, sec)
	if err != nil {
		return nil, err
	}
	p.Args = x.req.Cmd
	p.Terminal, p.ConsoleSize = x.req.Tty, nil
	p.Env = mergeEnv(m.environment(r, x.req.Tty), x.req.Env)
	p.Cwd = x.req.WorkingDir
	if p.Cwd == "" {
		p.Cwd = "/"
	}
	if size := x.req.ConsoleSize; size != nil && x.req.Tty {
		p.ConsoleSize = &specs.Box{Height: size[0], Width: size[1]}
	}
	if x.req.Privileged {
		caps := hostCaps()
		p.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	}
	return p, nil
}

// ExecInspect describes an exec, also for a while after it has ended.
func (m *Manager) ExecInspect(ctx context.Context, id string) (api.ExecInspectResponse, error) {
	x, err := m.exec(id)
	if err != nil {
		return api.ExecInspectResponse{}, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	privileged := x.req.Privileged
	return api.ExecInspectResponse{
		ID:       x.id,
		Running:  x.claimed && x.exitCode == nil,
		ExitCode: x.exitCode,
		ProcessConfig: &api.ExecProcessConfig{
			Tty: x.req.Tty, Entrypoint: x.req.Cmd[0], Arguments: append([]string{}, x.req.Cmd[1:]...),
			Privileged: &privileged, User: x.req.User,
		},
		OpenStdin: x.req.AttachStdin, OpenStderr: x.req.AttachStderr, OpenStdout: x.req.AttachStdout,
		ContainerID: x.container, DetachKeys: x.keys, Pid: x.pid,
	}, nil
}

// execIDs returns the execs of container id that have not ended.
func (m *Manager) execIDs(id string) []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var ids []string
	for _, x := range m.execs {
		if x.container != id || x.hidden {
			continue
		}
		x.mu.Lock()
		if x.exitCode == nil {
			ids = append(ids, x.id)
		}
		x.mu.Unlock()
	}
	slices.Sort(ids)
	return ids
}

// ExecResize sets the size of an exec's terminal. It waits a little for the exec
// to start, as clients resize at once.
func (m *Manager) ExecResize(ctx context.Context, id string, height, width uint32) error {
	x, err := m.exec(id)
	if err != nil {
		return err
	}
	t := time.NewTimer(execStartWait)
	defer t.Stop()
	select {
	case <-x.started:
	case <-t.C:
		return errors.New("timeout waiting for exec session ready")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	x.mu.Lock()
	pid := x.pid
	x.mu.Unlock()
	if pid == 0 {
		return invalid("exec process is not started")
	}
	err = m.Services.Tasks.ResizePty(m.in(ctx), x.container, x.id, width, height)
	if err == nil {
		return nil
	}
	if e, lerr := m.lookup(x.container); lerr == nil && e.rec.Load().State != Running && e.rec.Load().State != Paused {
		return notRunning(x.container)
	}
	if errdefs.IsNotFound(err) { // it ended first
		return conflict("exec %s is not running", x.id)
	}
	return fmt.Errorf("resize terminal of exec %s: %w", x.id, err)
}
