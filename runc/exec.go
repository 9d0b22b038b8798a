package runc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/runc/fork"
	"lighter/runc/plan"
	"lighter/runc/spec"
	"lighter/runc/state"
)

// ExecOptions are the inputs of Exec.
type ExecOptions struct {
	// Process to run. Without capabilities it gets those of init.
	Process *specs.Process
	Stdio   Stdio
	// IgnorePaused lets the process be made in a frozen container, where it
	// waits to be thawed; so does Exec.
	IgnorePaused bool
	PreserveFDs  int
	// Cgroups are control groups below the container's own for the process: the
	// value is a path, the key a controller of v1, or a list of them as in
	// "cpu,cpuacct", or empty for all.
	Cgroups map[string]string
	// PIDFD, when not nil, receives a descriptor of the process. The receiver
	// owns it.
	PIDFD func(*os.File) error
}

// Exec starts an additional process in the running container and returns its pid.
// When it returns, the program has been executed; an error of execve itself is
// returned and unwraps to its errno.
//
// Errors: FailedPrecondition if the container is not running or is paused.
func (r *Runtime) Exec(ctx context.Context, id string, opts ExecOptions) (pid int, err error) {
	rec, err := state.Read(r.root, id)
	if err != nil {
		return 0, err
	}
	if opts.Process == nil {
		return 0, fmt.Errorf("exec in container %q: no process is given: %w", id, errdefs.ErrInvalidArgument)
	}
	if err := spec.ValidateProcess(opts.Process); err != nil {
		return 0, err
	}
	status, err := r.status(rec)
	if err != nil {
		return 0, err
	}
	switch {
	case status == specs.StateStopped:
		return 0, fmt.Errorf("cannot exec in a stopped container: %q: %w", id, errdefs.ErrFailedPrecondition)
	case status == StatusPaused && !opts.IgnorePaused:
		return 0, fmt.Errorf("cannot exec in a paused container (use --ignore-paused to override): %q: %w", id, errdefs.ErrFailedPrecondition)
	}
	raw, err := state.Config(r.root, id)
	if err != nil {
		return 0, err
	}
	s, err := spec.Parse(raw)
	if err != nil {
		return 0, err
	}
	init, err := openInit(rec)
	if err != nil {
		return 0, err
	}
	defer init.Close()
	e := &execution{r: r, rec: rec, spec: s, opts: opts, init: init, files: map[string]*os.File{plan.TargetFile: init}}
	defer e.close()
	if err := e.prepare(); err != nil {
		return 0, err
	}
	return e.launch(ctx)
}

// execution is an Exec that is under way.
type execution struct {
	r       *Runtime
	rec     *state.Record
	spec    *specs.Spec
	opts    ExecOptions
	init    *os.File // owned by the caller
	files   map[string]*os.File
	request fork.Request
	tasks   int // control groups of v1 that the child joins
	console *os.File
}

func (e *execution) prepare() error {
	flags, err := namespacesOf(e.rec.PID)
	if err != nil {
		return fmt.Errorf("exec in container %q: %w", e.rec.ID, err)
	}
	if len(e.rec.Cgroups) > 0 {
		groups, err := subgroups(e.rec.Cgroups, e.opts.Cgroups)
		if err != nil {
			return err
		}
		if e.tasks, err = enterGroup(groups, &e.request, e.files); err != nil {
			return fmt.Errorf("error adding pid to cgroup: %w", err) // the words are runc's
		}
	} else if len(e.opts.Cgroups) > 0 {
		return fmt.Errorf("exec in container %q: it has no control group: %w", e.rec.ID, errdefs.ErrFailedPrecondition)
	}
	in := &plan.Exec{
		ID: e.rec.ID, NoNewKeyring: e.rec.NoNewKeyring, Namespaces: flags, NewUser: flags&unix.CLONE_NEWUSER != 0,
	}
	if flags&unix.CLONE_NEWPID != 0 {
		if os.Geteuid() == 0 {
			e.request.PIDNamespace = e.init
			in.Namespaces &^= unix.CLONE_NEWPID
		} else {
			in.Fork = true
		}
	}
	if in.ChangeRoot = flags&unix.CLONE_NEWNS == 0; in.ChangeRoot {
		if e.files[plan.RootFile], err = rootOf(e.rec.PID); err != nil {
			return err
		}
	}
	if in.Process, err = e.process(in); err != nil {
		return err
	}
	e.request.Plan, err = plan.CompileExec(in)
	if err != nil {
		return fmt.Errorf("compile plan: %w", err)
	}
	debugPlan(e.r.log, e.rec.ID, e.request.Plan)
	return nil
}

// rootOf opens the root directory of a process.
func rootOf(pid int) (*os.File, error) {
	path := fmt.Sprintf("/proc/%d/root", pid)
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func (e *execution) process(in *plan.Exec) (*plan.Process, error) {
	proc := *e.opts.Process
	if proc.Capabilities == nil {
		proc.Capabilities = e.spec.Process.Capabilities
	}
	p, err := e.r.translate(&proc, e.spec, in.NewUser)
	if err != nil {
		return nil, err
	}
	p.PreserveFDs, p.Tasks = e.opts.PreserveFDs, e.tasks
	p.Personality, p.Memory = e.spec.Linux.Personality, e.spec.Linux.MemoryPolicy
	p.KeepGroups = os.Geteuid() != 0 && len(p.Groups) == 0
	p.Affinity = allCPUs()
	if a := proc.ExecCPUAffinity; a != nil {
		if a.Initial != "" {
			if in.InitialAffinity, err = plan.ParseList(a.Initial, 1024); err != nil {
				return nil, fmt.Errorf("process.execCPUAffinity.initial: %w", err)
			}
			p.Affinity = nil
		}
		if a.Final != "" {
			if p.Affinity, err = plan.ParseList(a.Final, 1024); err != nil {
				return nil, fmt.Errorf("process.execCPUAffinity.final: %w", err)
			}
		}
	}
	if p.Env, err = e.r.environment(&proc, nil, "/proc/"+strconv.Itoa(e.rec.PID)+"/root"); err != nil {
		return nil, err
	}
	e.console, err = stdio(p, e.opts.Stdio, e.files, hostUID(p.UID, e.spec.Linux.UIDMappings))
	return p, err
}

func (e *execution) launch(ctx context.Context) (int, error) {
	e.request.Files = e.files
	child, err := fork.Start(e.request)
	if errors.Is(err, unix.EBUSY) && e.request.Cgroup != nil && len(e.opts.Cgroups) == 0 {
		// The container has moved init to a group below its own, and enabled
		// controllers in the latter, which may have no processes any more.
		if err = e.followInit(); err == nil {
			child, err = fork.Start(e.request)
		}
	}
	if err != nil {
		return 0, err
	}
	defer child.Close()
	stop := context.AfterFunc(ctx, func() { _ = child.Kill() })
	defer stop()
	pid, err := e.follow(child)
	if err != nil {
		end(child)
		if ctx.Err() != nil {
			return 0, fmt.Errorf("exec in container %q: %w", e.rec.ID, context.Cause(ctx))
		}
		// Docker compatibility: runc's words.
		return 0, fmt.Errorf("exec failed: unable to start container process: %w", err)
	}
	return pid, nil
}

// followInit makes the group of init, on cgroup v2, that of the process.
func (e *execution) followInit() error {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", e.rec.PID))
	if err != nil {
		return fmt.Errorf("find control group of init: %w", err)
	}
	dir, err := groupOfInit(string(raw), e.rec.Cgroups[""])
	if err != nil {
		return err
	}
	e.request.Cgroup.Close()
	e.request.Cgroup = nil
	_, err = enterGroup(map[string]string{"": dir}, &e.request, e.files)
	return err
}

func (e *execution) follow(child *fork.Child) (int, error) {
	if e.console != nil {
		e.files[plan.ConsoleFile].Close()
		delete(e.files, plan.ConsoleFile)
	}
	for {
		m, err := child.Next()
		switch {
		case err == io.EOF:
			e.r.log.Debug("process has executed its program", "container", e.rec.ID, "pid", child.PID)
			return child.PID, e.finish(child)
		case err != nil:
			return 0, err
		case m.Kind == plan.Listening:
			if err := sendListener(e.spec.Linux.Seccomp, e.rec, child, child.PID, int(m.Value), specs.StateRunning); err != nil {
				return 0, err
			}
			if err := child.Continue(); err != nil {
				return 0, err
			}
		default:
			return 0, fmt.Errorf("unexpected message %d from process", m.Kind)
		}
	}
}

// finish hands over what the caller asked for.
func (e *execution) finish(child *fork.Child) error {
	if e.opts.PIDFD != nil {
		f, err := dup(child.PIDFD())
		if err == nil {
			err = e.opts.PIDFD(f)
		}
		if err != nil {
			return fmt.Errorf("hand over pidfd: %w", err)
		}
	}
	if e.console == nil {
		return nil
	}
	return receiveConsole(e.console, e.opts.Stdio.Console)
}

func (e *execution) close() {
	for name, f := range e.files {
		if name != plan.TargetFile {
			f.Close()
		}
	}
	for _, f := range []*os.File{e.console, e.request.Cgroup} {
		if f != nil {
			f.Close()
		}
	}
}
