package runc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/internal/cleanup"
	"lighter/internal/linux/pidfd"
	"lighter/runc/cgroup"
	"lighter/runc/fork"
	"lighter/runc/netdev"
	"lighter/runc/plan"
	"lighter/runc/spec"
	"lighter/runc/state"
)

// undoTimeout bounds the removal of what a failed Create has made.
const undoTimeout = 10 * time.Second

// Create sets up the container and parks its init process before the user's
// program. It returns init's pid. On an error nothing is left behind, except that
// the caller has a dead child to reap if the error came after the fork.
//
// A program that does not exist or may not be executed is an error here already;
// it unwraps to syscall.ENOENT or EACCES.
func (r *Runtime) Create(ctx context.Context, id string, opts CreateOptions) (int, error) {
	return r.create(ctx, id, opts, false)
}

// Run is Create and Start at once. When it returns the program has been executed.
func (r *Runtime) Run(ctx context.Context, id string, opts CreateOptions) (int, error) {
	return r.create(ctx, id, opts, true)
}

// creation is a Create that is under way. files collects the descriptors that the
// child inherits; all are closed at the end.
type creation struct {
	r       *Runtime
	id      string
	opts    CreateOptions
	spec    *specs.Spec
	rec     *state.Record
	dir     *state.Dir
	group   cgroup.Manager // nil for a rootless container without one
	files   map[string]*os.File
	in      *plan.Container
	request fork.Request
	tasks   int      // control groups of v1 that the child joins
	console *os.File // our end of the console socket
	userNS  userSpace
	undo    cleanup.Stack
}

func (r *Runtime) create(ctx context.Context, id string, opts CreateOptions, run bool) (pid int, err error) {
	bundle, err := filepath.Abs(opts.Bundle)
	if err != nil {
		return 0, fmt.Errorf("create container: %w", err)
	}
	opts.Bundle = bundle
	if err := state.ValidateID(id); err != nil {
		return 0, err
	}
	s, raw, err := spec.Load(bundle)
	if err != nil {
		return 0, err
	}
	if opts.Check != nil {
		if err := opts.Check(s); err != nil {
			return 0, err
		}
	}
	// Init waits at the gate for Start, and for hooks that run between the two.
	gate := !run || s.Hooks != nil && len(s.Hooks.StartContainer) > 0
	c := &creation{r: r, id: id, opts: opts, spec: s, files: map[string]*os.File{}}
	defer c.close()
	defer func() {
		if err != nil {
			if uerr := c.undo.Run(); uerr != nil {
				r.log.Warn("undo of create", "container", id, "err", uerr)
			}
		}
	}()
	if err := c.record(raw); err != nil {
		return 0, err
	}
	if err := c.prepare(gate); err != nil {
		return 0, err
	}
	pid, err = c.launch(ctx, gate)
	if err != nil {
		return 0, err
	}
	switch {
	case run && gate:
		// Start sees init execute its program when the last writer of a fifo has
		// gone; we hold it too.
		c.closeFiles()
		err = r.start(ctx, c.dir, c.rec)
	case run:
		err = r.poststart(ctx, c.rec, s)
	}
	if err != nil {
		return 0, errors.Join(err, terminate(c.rec))
	}
	c.undo.Release()
	return pid, nil
}

// terminate kills a container's init and waits for its death. It is not reaped.
func terminate(rec *state.Record) error {
	init, err := openInit(rec)
	if errdefs.IsFailedPrecondition(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer init.Close()
	if err := pidfd.Signal(init, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	if gone, err := pidfd.Exited(init, deathTimeout); err != nil || !gone {
		return errors.Join(err, fmt.Errorf("init did not end within %v of SIGKILL", deathTimeout))
	}
	return nil
}

// record makes the state directory and stores what is about to be made.
func (c *creation) record(raw []byte) error {
	group, err := cgroup.New(c.spec.Linux.CgroupsPath, c.id)
	if err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	c.group = group
	dir, err := state.Create(c.r.root, c.id)
	if err != nil {
		return err
	}
	c.dir = dir
	c.undo.Add(dir.Remove)
	c.rec = &state.Record{
		OCIVersion: c.spec.Version, ID: c.id, Bundle: c.opts.Bundle, Rootfs: absolute(c.opts.Bundle, c.spec.Root.Path),
		Created: time.Now().UTC(), UID: os.Getuid(), Annotations: c.spec.Annotations, Cgroups: group.Paths(),
		NoNewKeyring: c.opts.NoNewKeyring, Program: c.spec.Process.Args[0],
	}
	for _, n := range c.spec.Linux.Namespaces {
		c.rec.OwnPIDs = c.rec.OwnPIDs || n.Type == specs.PIDNamespace && n.Path == ""
	}
	if h := c.spec.Hooks; h != nil {
		c.rec.Poststop, c.rec.StartHooks = h.Poststop, len(h.StartContainer)+len(h.Poststart) > 0
	}
	if err := dir.SaveConfig(raw); err != nil {
		return err
	}
	return dir.Save(c.rec)
}

// prepare makes everything that exists before the child does, and compiles the
// plan. The control group is made meanwhile.
func (c *creation) prepare(gate bool) error {
	made := make(chan error, 1)
	go func() { made <- c.group.Create(c.spec.Linux.Resources) }()
	err := c.mounts()
	if gerr := <-made; gerr == nil {
		c.undo.Add(func() error { return c.removeGroup() })
	} else if errdefs.IsPermissionDenied(gerr) && os.Geteuid() != 0 && c.spec.Linux.Resources == nil {
		c.group, c.rec.Cgroups = nil, nil
	} else {
		err = errors.Join(err, fmt.Errorf("create control group: %w", gerr))
	}
	if err != nil {
		return err
	}
	if err := c.namespaces(); err != nil {
		return err
	}
	if err := c.cgroups(); err != nil {
		return err
	}
	if err := c.process(gate); err != nil {
		return err
	}
	c.request.Plan, err = plan.Compile(c.in)
	if err != nil {
		return fmt.Errorf("compile plan: %w", err)
	}
	debugPlan(c.r.log, c.id, c.request.Plan)
	return nil
}

func (c *creation) removeGroup() error {
	ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
	defer cancel()
	return errors.Join(c.group.Kill(ctx), c.group.Destroy(ctx))
}

// launch forks and follows the child until it is parked or has executed.
func (c *creation) launch(ctx context.Context, gate bool) (pid int, err error) {
	c.request.Files = c.files
	child, err := fork.Start(c.request)
	if err != nil {
		return 0, err
	}
	defer child.Close()
	defer func() {
		if err != nil {
			end(child)
		}
	}()
	// A child that hangs, on a dead network file system for instance, ends when
	// the caller gives up.
	stop := context.AfterFunc(ctx, func() { _ = child.Kill() })
	defer stop()
	if c.in.Wait {
		if err := c.adopt(child); err != nil {
			return 0, err
		}
	}
	c.r.log.Debug("init forked", "container", c.id, "pid", child.PID)
	if err := c.follow(ctx, child, gate); err != nil {
		if ctx.Err() != nil {
			return 0, fmt.Errorf("create container: %w", context.Cause(ctx))
		}
		return 0, fmt.Errorf("unable to start container process: %w", c.explain(err))
	}
	if c.rec.PID == 0 {
		if err := c.savePID(child.PID); err != nil {
			return 0, err
		}
	}
	if c.opts.PIDFD != nil {
		f, err := dup(child.PIDFD())
		if err == nil {
			err = c.opts.PIDFD(f)
		}
		if err != nil {
			return 0, fmt.Errorf("hand over pidfd: %w", err)
		}
	}
	if !stop() {
		return 0, fmt.Errorf("create container: %w", context.Cause(ctx))
	}
	c.r.log.Debug("init is set up", "container", c.id, "pid", child.PID, "waits", gate)
	return child.PID, nil
}

// explain adds to the failure of a step what the kernel does not say.
func (c *creation) explain(err error) error {
	var step *plan.StepError
	if !errors.As(err, &step) || step.Step.Nr != unix.SYS_SCHED_SETATTR || step.Errno != unix.EPERM {
		return err
	}
	if r := c.spec.Linux.Resources; r != nil && r.CPU != nil && r.CPU.Cpus != "" {
		// Docker compatibility: the words are runc's.
		return fmt.Errorf("%w: process scheduler can't be used together with AllowedCPUs", err)
	}
	return err
}

// end kills a child whose setup failed and waits for its death, which the removal
// of its control group needs. The caller of this package reaps it.
func end(child *fork.Child) {
	_ = child.Kill() // it may have ended by itself
	_, _ = pidfd.Exited(child.PIDFD(), undoTimeout)
}

// adopt does for a waiting child what only its parent can.
func (c *creation) adopt(child *fork.Child) error {
	if c.userNS.made {
		if err := c.userNS.write(child.PID); err != nil {
			return err
		}
	}
	if err := c.oomScore(child.PID); err != nil {
		return err
	}
	return child.Continue()
}

// follow handles the child's messages until it is ready (with a gate) or has
// executed its program (without).
func (c *creation) follow(ctx context.Context, child *fork.Child, gate bool) error {
	if c.console != nil {
		// The master arrives in the middle of setup; a failure before that closes
		// the child's end.
		c.files[plan.ConsoleFile].Close()
		delete(c.files, plan.ConsoleFile)
	}
	if !c.in.Fork {
		// Stored while the child works.
		if err := c.savePID(child.PID); err != nil {
			return err
		}
	}
	for {
		m, err := child.Next()
		if err == io.EOF && !gate {
			return c.takeConsole()
		}
		if err == io.EOF {
			return fmt.Errorf("init ended during its setup")
		}
		if err != nil {
			return err
		}
		switch m.Kind {
		case plan.Mounted:
			if err := c.savePID(child.PID); err != nil {
				return err
			}
			if err := c.netDevices(child.PID); err != nil {
				return err
			}
			if err := c.r.createHooks(ctx, c.rec, c.spec, c.in.Root, child); err != nil {
				return err
			}
			if err := child.Continue(); err != nil {
				return err
			}
		case plan.Mounting:
			if err := c.mountFor(child, int(m.Value)); err != nil {
				return err
			}
			if err := child.Continue(); err != nil {
				return err
			}
		case plan.Limiting:
			if err := c.setRlimits(child.PID); err != nil {
				return err
			}
			if err := child.Continue(); err != nil {
				return err
			}
		case plan.Listening:
			if err := c.savePID(child.PID); err != nil {
				return err
			}
			if err := sendListener(c.spec.Linux.Seccomp, c.rec, child, child.PID, int(m.Value), specs.StateCreating); err != nil {
				return err
			}
			if err := child.Continue(); err != nil {
				return err
			}
		case plan.Ready:
			return c.takeConsole()
		default:
			return fmt.Errorf("unexpected message %d from init", m.Kind)
		}
	}
}

// netDevices moves devices of the host into the network namespace of init.
func (c *creation) netDevices(pid int) error {
	if len(c.spec.Linux.NetDevices) == 0 {
		return nil
	}
	netns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return fmt.Errorf("linux.netDevices: %w", err)
	}
	defer netns.Close()
	for _, name := range slices.Sorted(maps.Keys(c.spec.Linux.NetDevices)) {
		if err := netdev.Move(name, c.spec.Linux.NetDevices[name].Name, netns); err != nil {
			return fmt.Errorf("linux.netDevices: %w", err)
		}
	}
	return nil
}

// savePID stores init's pid.
func (c *creation) savePID(pid int) error {
	if c.rec.PID == pid {
		return nil
	}
	p, err := state.ReadProcess(pid)
	if err != nil {
		return err
	}
	c.rec.PID, c.rec.StartTime = pid, p.StartTime
	return c.dir.Save(c.rec)
}

func (c *creation) takeConsole() error {
	if c.console == nil {
		return nil
	}
	return receiveConsole(c.console, c.opts.Stdio.Console)
}

// closeFiles closes what the child has inherited.
func (c *creation) closeFiles() {
	for name, f := range c.files {
		f.Close()
		delete(c.files, name)
	}
}

func (c *creation) close() {
	c.closeFiles()
	c.userNS.close()
	for _, f := range []*os.File{c.console, c.request.Cgroup, c.request.PIDNamespace} {
		if f != nil {
			f.Close()
		}
	}
	if c.dir != nil {
		c.dir.Close()
	}
}

// dup returns another descriptor of f's file.
func dup(f *os.File) (*os.File, error) {
	c, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	if cerr := c.Control(func(n uintptr) { fd, err = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 3) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
