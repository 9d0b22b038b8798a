// Package reaper waits for the children of a process that is a child subreaper.
//
// A shim has three kinds of children, and they must not be confused:
//
//	tracked   container processes: their exit status belongs to whoever called
//	          Track, however early they exited
//	foreign   helpers that code inside Do started and waits for itself (an OCI
//	          program, a hook)
//	orphans   processes that the kernel gave to the subreaper: nobody asks
//
// A tracked process is waited for by pid, so a status cannot be taken by
// anybody else: a process that ends before its pid is known simply stays a
// zombie until Track names it. Orphans are reaped only while no call of Do is
// in flight, since only then is every untracked child an orphan.
package reaper

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"lighter/shim/handover"
)

// StatusUnknown is the status of a process that was not ours to wait for.
const StatusUnknown = 255

// Exit says how a process ended.
type Exit struct {
	Pid int
	// Status is the exit code, or 128 plus the signal that killed the process.
	Status int
	At     time.Time
}

// Reaper waits for children. Its methods may be called from several goroutines.
type Reaper struct {
	// Gate is entered while children are reaped; nil for none. Set it before Run.
	Gate *handover.Gate

	// gate is held for reading by Do and for writing by the orphan sweep, which
	// only ever tries: it never makes a caller of Do wait for another.
	gate  sync.RWMutex
	swept atomic.Bool // false: a sweep was skipped because of the gate
	kick  chan struct{}

	mu      sync.Mutex // guards tracked; held over the wait itself, so that a tracked pid is never reused
	tracked map[int]chan Exit
}

// New returns a Reaper. Nothing is reaped until Run.
func New() *Reaper {
	r := &Reaper{kick: make(chan struct{}, 1), tracked: make(map[int]chan Exit)}
	r.swept.Store(true)
	return r
}

// Run reaps each time that sigchld delivers, until ctx ends. The channel must
// have a capacity of at least one, so that a signal during a scan is kept.
func (r *Reaper) Run(ctx context.Context, sigchld <-chan os.Signal) {
	for {
		r.Gate.Enter()
		r.scan()
		r.Gate.Leave()
		select {
		case <-sigchld:
		case <-r.kick:
		case <-ctx.Done():
			return
		}
	}
}

// Do runs f, which may start child processes and wait for them itself. Pids
// that outlive f must be given to Track before f returns.
func (r *Reaper) Do(f func() error) error {
	r.gate.RLock()
	defer func() {
		r.gate.RUnlock()
		if !r.swept.Load() {
			r.wake()
		}
	}()
	return f()
}

// Track returns a channel that delivers the exit of the child pid, once. The
// process may have ended already. Call it inside Do, with the pid that was
// made there.
func (r *Reaper) Track(pid int) <-chan Exit {
	ch := make(chan Exit, 1) // the single send never blocks
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tracked[pid] = ch
	r.tryWaitLocked(pid)
	return ch
}

// Tracked reports whether the exit of pid is still to be delivered.
func (r *Reaper) Tracked(pid int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.tracked[pid]
	return ok
}

// Start starts cmd as a tracked process. Do not call cmd.Wait.
func (r *Reaper) Start(cmd *exec.Cmd) (pid int, exit <-chan Exit, err error) {
	err = r.Do(func() error {
		if err := cmd.Start(); err != nil {
			return err
		}
		pid = cmd.Process.Pid
		exit = r.Track(pid)
		return cmd.Process.Release()
	})
	return pid, exit, err
}

// Signal sends sig to the tracked process pid. The error is NotFound once the
// process has been reaped, so that a reused pid is never hit.
func (r *Reaper) Signal(pid int, sig syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.tracked[pid]; !ok {
		return fmt.Errorf("signal process %d: already exited: %w", pid, errdefs.ErrNotFound)
	}
	if err := unix.Kill(pid, sig); err != nil {
		return fmt.Errorf("signal process %d: %w", pid, os.NewSyscallError("kill", err))
	}
	return nil
}

func (r *Reaper) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

func (r *Reaper) scan() {
	r.mu.Lock()
	for pid := range r.tracked {
		r.tryWaitLocked(pid)
	}
	r.mu.Unlock()

	r.swept.Store(false)
	if !r.gate.TryLock() {
		return // the last caller of Do wakes us
	}
	defer r.gate.Unlock()
	r.swept.Store(true)
	r.sweep()
}

// tryWaitLocked delivers the exit of pid if it has ended.
func (r *Reaper) tryWaitLocked(pid int) {
	var ws unix.WaitStatus
	// __WALL: a runtime may have cloned the process without SIGCHLD.
	n, err := wait4(pid, &ws)
	status := 0
	switch {
	case err == unix.ECHILD:
		if unix.Kill(pid, 0) != unix.ESRCH {
			return // alive, but its parent is still a runtime: it comes to us when that exits
		}
		status = StatusUnknown
	case n != pid:
		return
	default:
		status = exitStatus(ws)
	}
	r.tracked[pid] <- Exit{Pid: pid, Status: status, At: time.Now()}
	delete(r.tracked, pid)
}

// sweep reaps every zombie that is not tracked. The gate must be held.
func (r *Reaper) sweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws unix.WaitStatus
		pid, err := wait4(-1, &ws)
		if err != nil || pid <= 0 {
			return
		}
		if ch, ok := r.tracked[pid]; ok {
			ch <- Exit{Pid: pid, Status: exitStatus(ws), At: time.Now()}
			delete(r.tracked, pid)
		}
	}
}

func wait4(pid int, ws *unix.WaitStatus) (int, error) {
	for {
		n, err := unix.Wait4(pid, ws, unix.WNOHANG|unix.WALL, nil)
		if err != unix.EINTR {
			return n, err
		}
	}
}

func exitStatus(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
