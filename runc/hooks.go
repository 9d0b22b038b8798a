//lint:file-ignore SA1019 prestart hooks are deprecated, and still part of the specification.

package runc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/internal/linux/pidfd"
	"lighter/runc/fork"
	"lighter/runc/plan"
	"lighter/runc/state"
)

// maxHookOutput bounds what of a hook's output goes into an error, in bytes.
const maxHookOutput = 4 << 10

// createHooks runs the hooks that belong between the making of the namespaces and
// pivot_root: prestart and createRuntime outside of the container, createContainer
// in its namespaces.
//
// The latter start in root, where the container's root is attached: their paths
// resolve on the host, and what they change is mostly below it.
func (r *Runtime) createHooks(ctx context.Context, rec *state.Record, s *specs.Spec, root string, child *fork.Child) error {
	if s.Hooks == nil {
		return nil
	}
	st := rec.OCI(specs.StateCreating)
	outside := hookRun{log: r.log, state: st, cwd: rec.Bundle}
	if err := outside.all(ctx, "prestart", s.Hooks.Prestart); err != nil {
		return err
	}
	if err := outside.all(ctx, "createRuntime", s.Hooks.CreateRuntime); err != nil {
		return err
	}
	if len(s.Hooks.CreateContainer) == 0 {
		return nil
	}
	flags, err := namespacesOf(rec.PID)
	if err != nil {
		return fmt.Errorf("run createContainer hooks: %w", err)
	}
	inside := hookRun{log: r.log, state: st, cwd: root, target: child.PIDFD(), namespaces: flags &^ unix.CLONE_NEWPID}
	return inside.all(ctx, "createContainer", s.Hooks.CreateContainer)
}

// startHooks runs the startContainer hooks: in the container, its root included.
func (r *Runtime) startHooks(ctx context.Context, rec *state.Record, s *specs.Spec) error {
	if s.Hooks == nil || len(s.Hooks.StartContainer) == 0 {
		return nil
	}
	target, err := openInit(rec)
	if err != nil {
		return err
	}
	defer target.Close()
	flags, err := namespacesOf(rec.PID)
	if err != nil {
		return fmt.Errorf("run startContainer hooks: %w", err)
	}
	run := hookRun{
		log: r.log, state: rec.OCI(specs.StateCreated), target: target, namespaces: flags,
		newUser: flags&unix.CLONE_NEWUSER != 0,
	}
	if run.as, err = r.translate(s.Process, s, run.newUser); err != nil {
		return fmt.Errorf("run startContainer hooks: %w", err)
	}
	// Those of init have been applied to it with the parent's privileges.
	run.as.Rlimits, run.as.Scheduler, run.as.IOPriority = nil, nil, nil
	if flags&unix.CLONE_NEWNS == 0 {
		if run.root, err = rootOf(rec.PID); err != nil {
			return fmt.Errorf("run startContainer hooks: %w", err)
		}
		defer run.root.Close()
	}
	run.as.KeepGroups = os.Geteuid() != 0
	if run.as.Filter != nil && run.as.Filter.Listener {
		run.listener = func(child *fork.Child, pid, fd int) error {
			return sendListener(s.Linux.Seccomp, rec, child, pid, fd, specs.StateCreated)
		}
	}
	if run.env, err = r.environment(s.Process, nil, fmt.Sprintf("/proc/%d/root", rec.PID)); err != nil {
		return fmt.Errorf("run startContainer hooks: %w", err)
	}
	return run.all(ctx, "startContainer", s.Hooks.StartContainer)
}

// poststart runs the poststart hooks. If one fails the caller stops the container
// (runtime.md#lifecycle step 9).
func (r *Runtime) poststart(ctx context.Context, rec *state.Record, s *specs.Spec) error {
	if s.Hooks == nil || len(s.Hooks.Poststart) == 0 {
		return nil
	}
	run := hookRun{log: r.log, state: rec.OCI(specs.StateRunning), cwd: rec.Bundle}
	return run.all(ctx, "poststart", s.Hooks.Poststart)
}

// poststop runs all poststop hooks; failures are logged.
func (r *Runtime) poststop(ctx context.Context, rec *state.Record) {
	if len(rec.Poststop) == 0 {
		return
	}
	run := hookRun{log: r.log, state: rec.OCI(specs.StateStopped), cwd: rec.Bundle}
	for i := range rec.Poststop {
		if err := run.one(ctx, "poststop", i, &rec.Poststop[i]); err != nil {
			r.log.Warn("poststop hook", "container", rec.ID, "err", err)
		}
	}
}

// hookRun is what the hooks of one point of the lifecycle have in common.
type hookRun struct {
	log        *slog.Logger
	state      specs.State
	cwd        string
	target     *os.File // process whose namespaces are joined, or nil
	namespaces uint64
	env        []string // of a hook that has none
	// as, newUser: see plan.Hook. listener takes a seccomp listener that the
	// process pid has as descriptor fd.
	as       *plan.Process
	newUser  bool
	root     *os.File // entered by chroot, if not nil
	listener func(child *fork.Child, pid, fd int) error
}

func (h *hookRun) all(ctx context.Context, name string, hooks []specs.Hook) error {
	for i := range hooks {
		if err := h.one(ctx, name, i, &hooks[i]); err != nil {
			return err
		}
	}
	return nil
}

func (h *hookRun) one(ctx context.Context, name string, i int, hook *specs.Hook) error {
	out, err := h.exec(ctx, hook)
	if h.log.Enabled(ctx, slog.LevelDebug) {
		h.log.Debug("hook has run", "container", h.state.ID, "point", name, "index", i, "path", hook.Path, "err", err)
	}
	if err == nil {
		return nil
	}
	// Docker compatibility: the beginning is runc's.
	err = fmt.Errorf("error running %s hook #%d: %w", name, i, err)
	if out = strings.TrimSpace(out); out != "" {
		err = fmt.Errorf("%w, output: %s", err, out)
	}
	return err
}

// exec runs a hook and waits for it. It returns what the hook wrote.
func (h *hookRun) exec(ctx context.Context, hook *specs.Hook) (string, error) {
	if !strings.HasPrefix(hook.Path, "/") {
		return "", fmt.Errorf("path %q is not absolute: %w", hook.Path, errdefs.ErrInvalidArgument)
	}
	in := plan.Hook{
		Path: hook.Path, Args: hook.Args, Env: hook.Env, Cwd: h.cwd, Namespaces: h.namespaces, As: h.as, NewUser: h.newUser, ChangeRoot: h.root != nil,
	}
	if len(in.Args) == 0 {
		in.Args = []string{hook.Path}
	}
	if in.Env == nil {
		in.Env = h.env
	}
	p, err := plan.CompileHook(&in)
	if err != nil {
		return "", err
	}
	stdin, err := stateFile(h.state)
	if err != nil {
		return "", err
	}
	defer stdin.Close()
	output, err := memory("hook-output")
	if err != nil {
		return "", err
	}
	defer output.Close()
	files := map[string]*os.File{plan.StdioFiles[0]: stdin, plan.StdioFiles[1]: output, plan.StdioFiles[2]: output}
	if h.target != nil {
		files[plan.TargetFile] = h.target
	}
	if h.root != nil {
		files[plan.RootFile] = h.root
	}
	child, err := fork.Start(fork.Request{Plan: p, Files: files, Private: true})
	if err != nil {
		return "", err
	}
	defer child.Close()
	err = h.wait(ctx, child, hook.Timeout)
	if rerr := child.Reap(); err == nil {
		err = rerr
	}
	return readOutput(output), err
}

// wait follows the child that runs a hook until the hook has ended.
func (h *hookRun) wait(ctx context.Context, child *fork.Child, timeout *int) error {
	if timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(*timeout)*time.Second,
			fmt.Errorf("hook ran for more than %d seconds: %w", *timeout, context.DeadlineExceeded))
		defer cancel()
	}
	var (
		mu  sync.Mutex // guards pid
		pid int
	)
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		if pid > 1 {
			_ = unix.Kill(-pid, unix.SIGKILL) // its session's first group
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	})
	defer stop()
	var failed error
	for {
		m, err := child.Next()
		var step *plan.StepError
		switch {
		case err == io.EOF:
			return errors.Join(failed, fmt.Errorf("process that runs the hook has died"))
		case errors.As(err, &step) && pid != 0:
			failed = err // the execve failed; Done follows
			continue
		case err != nil:
			return err
		}
		switch m.Kind {
		case plan.Spawned:
			mu.Lock()
			pid = int(m.Value)
			mu.Unlock()
			if ctx.Err() != nil {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		case plan.Listening:
			if h.listener == nil {
				return fmt.Errorf("unexpected seccomp listener of a hook")
			}
			if err := h.listener(child, pid, int(m.Value)); err != nil {
				return errors.Join(err, child.Kill())
			}
			if err := child.Continue(); err != nil {
				return err
			}
		case plan.Done:
			mu.Lock()
			pid = 0
			mu.Unlock()
			if failed != nil {
				return failed
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return exitError(unix.WaitStatus(m.Value))
		}
	}
}

func exitError(ws unix.WaitStatus) error {
	switch {
	case ws.Signaled():
		return fmt.Errorf("signal: %s", ws.Signal()) // "bad system call", as package os/exec has it
	case ws.ExitStatus() != 0:
		return fmt.Errorf("exit status %d", ws.ExitStatus())
	}
	return nil
}

// stateFile returns an open file with the state as JSON, for a hook to read.
func stateFile(st specs.State) (*os.File, error) {
	raw, err := json.Marshal(st)
	if err != nil {
		return nil, fmt.Errorf("encode state for hook: %w", err)
	}
	f, err := memory("hook-state")
	if err != nil {
		return nil, err
	}
	if _, err = f.Write(raw); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write state for hook: %w", err)
	}
	return f, nil
}

func memory(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func readOutput(f *os.File) string {
	b := make([]byte, maxHookOutput)
	n, _ := f.ReadAt(b, 0)
	return string(b[:n])
}

// openInit returns a pidfd of a container's init. The error is FailedPrecondition
// if it is not running.
func openInit(rec *state.Record) (*os.File, error) {
	gone := fmt.Errorf("container %q is not running: %w", rec.ID, errdefs.ErrFailedPrecondition)
	if rec.PID <= 0 {
		return nil, gone
	}
	f, err := pidfd.Open(rec.PID)
	if errors.Is(err, unix.ESRCH) {
		return nil, gone
	}
	if err != nil {
		return nil, err
	}
	// The descriptor is of that process if it is alive now.
	if !rec.Alive() {
		f.Close()
		return nil, gone
	}
	return f, nil
}
