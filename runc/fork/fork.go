// Package fork makes a process that runs a plan.
//
// The child is a plain fork of this process that never returns to Go: it runs the
// table of package plan with raw system calls and ends in execve or exit. Between
// fork and execve nothing allocates, grows a stack, takes a lock or touches the Go
// runtime; everything the child needs was laid out before the fork by assemble.
// run is the only function that executes there.
//
// A child carries a copy of its parent's memory until it execs. Callers therefore
// hold no secrets, and keep the parent's binary safe from the container (package
// selfexec).
package fork

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"lighter/internal/linux/pidfd"
	"lighter/runc/plan"
)

// Request says how to make a child.
type Request struct {
	Plan *plan.Plan
	// Files are the descriptors that the plan names. Those that connect the
	// child with its parent (plan.StatusFile, plan.SyncFile) are made by Start.
	// The caller keeps ownership and may close them when Start has returned.
	Files map[string]*os.File
	// Namespaces are the CLONE_NEW* flags of clone.
	Namespaces uint64
	// Cgroup, if not nil, is the cgroup v2 directory in which the child starts.
	Cgroup *os.File
	// PIDNamespace, if not nil, is the namespace that the child becomes a member
	// of: a /proc/PID/ns/pid file or a pidfd.
	PIDNamespace *os.File
	// TimeOffsets, if not empty, is written to timens_offsets of a new time
	// namespace, which the child is made in. Namespaces must not have NEWTIME.
	TimeOffsets string
	// NewTime makes the child in a new time namespace.
	NewTime bool
	// Private makes a child that sends no SIGCHLD and that only Child.Reap
	// takes away, for helpers that the process's own reaper must not see.
	Private bool
}

// Child is a process that runs a plan. It is not safe for concurrent use.
type Child struct {
	// PID is the process that runs the plan, as this process sees it. It changes
	// when a plan.Forked message arrives.
	PID    int
	pidfd  *os.File
	status *os.File
	sync   *os.File
	plan   *plan.Plan
}

// Start forks. The child is running when it returns; Next tells how it fares.
//
// Postconditions: on an error there is no child. Otherwise the caller closes the
// Child, and reaps the process unless Request.Private says otherwise.
func Start(r Request) (*Child, error) {
	status, childStatus, err := pipe()
	if err != nil {
		return nil, fmt.Errorf("fork: make status pipe: %w", err)
	}
	c := &Child{status: status, plan: r.Plan}
	defer childStatus.Close()
	files := map[string]int{plan.StatusFile: number(childStatus)}
	var childSync *os.File
	for _, name := range r.Plan.Files() {
		switch f := r.Files[name]; {
		case name == plan.StatusFile:
		case name == plan.SyncFile:
			if childSync, c.sync, err = pipe(); err != nil {
				c.Close()
				return nil, fmt.Errorf("fork: make sync pipe: %w", err)
			}
			defer childSync.Close()
			files[name] = number(childSync)
		case f == nil:
			c.Close()
			return nil, fmt.Errorf("fork: plan wants file %q, which was not given", name)
		default:
			files[name] = number(f)
		}
	}
	t := assemble(r.Plan, files)
	err = c.clone(&r, t)
	runtime.KeepAlive(r.Files)
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Child) clone(r *Request, t *table) error {
	args := cloneArgs{
		flags:      r.Namespaces | unix.CLONE_PIDFD,
		exitSignal: uint64(syscall.SIGCHLD),
		pidfd:      uint64(uintptr(unsafe.Pointer(&t.pidfd))),
	}
	if r.Private {
		args.exitSignal = 0
	}
	if r.Cgroup != nil {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(number(r.Cgroup))
	}
	if r.NewTime || r.TimeOffsets != "" {
		return c.cloneInNewTime(r, &args, t)
	}
	if r.PIDNamespace == nil {
		return c.finish(forkLocked(&args, t))
	}
	// The thread's pid namespace for children is put back before anybody else
	// can use the thread. If that fails, the thread stays locked and dies with
	// this goroutine.
	self, err := os.Open("/proc/self/ns/pid")
	if err != nil {
		return fmt.Errorf("fork: %w", err)
	}
	defer self.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(number(r.PIDNamespace), unix.CLONE_NEWPID); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("join pid namespace: %w", err)
			return
		}
		pid, t, errno := forkLocked(&args, t)
		if err := unix.Setns(number(self), unix.CLONE_NEWPID); err == nil {
			runtime.UnlockOSThread()
		}
		done <- c.finish(pid, t, errno)
	}()
	err = <-done
	runtime.KeepAlive(r.PIDNamespace)
	return err
}

// cloneInNewTime forks from a thread that has made a time namespace for its
// children. Such a thread cannot go back: it ends with its goroutine.
func (c *Child) cloneInNewTime(r *Request, args *cloneArgs, t *table) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWTIME); err != nil {
			done <- fmt.Errorf("make time namespace: %w", err)
			return
		}
		if r.TimeOffsets != "" {
			path := fmt.Sprintf("/proc/%d/timens_offsets", unix.Gettid())
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteString(r.TimeOffsets)
				f.Close()
			}
			if err != nil {
				done <- fmt.Errorf("set offsets of time namespace: %w", err)
				return
			}
		}
		if r.PIDNamespace != nil {
			if err := unix.Setns(number(r.PIDNamespace), unix.CLONE_NEWPID); err != nil {
				done <- fmt.Errorf("join pid namespace: %w", err)
				return
			}
		}
		done <- c.finish(forkLocked(args, t))
	}()
	return <-done
}

func (c *Child) finish(pid int, t *table, errno syscall.Errno) error {
	if errno != 0 {
		return fmt.Errorf("fork: %w", os.NewSyscallError("clone3", errno))
	}
	c.PID = pid
	c.pidfd = os.NewFile(uintptr(t.pidfd), "pidfd")
	return nil
}

// Next waits for the child's next message. It returns io.EOF when the child has
// closed its end: it has executed its program, or died. A plan.Failed message is
// returned as a *plan.StepError. A plan.Forked message is taken care of and not
// returned.
func (c *Child) Next() (plan.Message, error) {
	for {
		m, err := ReadMessage(c.status, c.plan)
		if err != nil || m.Kind != plan.Forked {
			return m, err
		}
		f, err := pidfd.Open(int(m.Value))
		if err != nil {
			return m, fmt.Errorf("follow forked child: %w", err)
		}
		c.pidfd.Close()
		c.pidfd, c.PID = f, int(m.Value)
	}
}

// ReadMessage reads one message of a child that runs p from f.
func ReadMessage(f *os.File, p *plan.Plan) (plan.Message, error) {
	var b [plan.MessageSize]byte
	if _, err := io.ReadFull(f, b[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return plan.Message{}, io.EOF
		}
		return plan.Message{}, fmt.Errorf("read status of child: %w", err)
	}
	m := plan.Decode(b[:])
	if m.Kind == plan.Failed {
		if int(m.Index) >= len(p.Steps) {
			return m, fmt.Errorf("read status of child: step %d does not exist", m.Index)
		}
		return m, &plan.StepError{Index: int(m.Index), Step: p.Steps[m.Index], Errno: syscall.Errno(m.Value)}
	}
	return m, nil
}

// Continue lets a child go on that waits for its parent.
func (c *Child) Continue() error {
	if _, err := c.sync.Write([]byte{1}); err != nil {
		return fmt.Errorf("continue child: %w", err)
	}
	return nil
}

// PIDFD returns the descriptor of the process. It belongs to the Child.
func (c *Child) PIDFD() *os.File { return c.pidfd }

// Kill ends the child, whatever it does.
func (c *Child) Kill() error { return pidfd.Signal(c.pidfd, syscall.SIGKILL) }

// Reap waits for the exit of a private child.
func (c *Child) Reap() error { return pidfd.Reap(c.pidfd) }

// Close releases the connection. A child that waits for its parent fails then.
func (c *Child) Close() error {
	for _, f := range []*os.File{c.status, c.sync, c.pidfd} {
		if f != nil {
			f.Close()
		}
	}
	return nil
}

// forkLocked forks with syscall.ForkLock held, so that descriptors that other
// goroutines are about to mark close-on-exec do not slip through.
func forkLocked(args *cloneArgs, t *table) (int, *table, syscall.Errno) {
	syscall.ForkLock.Lock()
	pid, errno := run(args, &t.ops[0], uintptr(len(t.ops)), &t.regs, &t.msg)
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(t)
	return int(pid), t, errno
}

// pipe returns a close-on-exec pipe whose ends block: it connects processes, and
// waiting on it happens once per process.
func pipe() (r, w *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	return os.NewFile(uintptr(p[0]), "status"), os.NewFile(uintptr(p[1]), "status"), nil
}

// number returns f's descriptor without changing its blocking mode.
func number(f *os.File) int {
	n := -1
	if c, err := f.SyscallConn(); err == nil {
		_ = c.Control(func(v uintptr) { n = int(v) })
	}
	return n
}
