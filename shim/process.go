package shim

import (
	"fmt"
	"strconv"
	"sync"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"lighter/shim/reaper"
	"lighter/shim/stdio"
)

// process is the init process of a container or an exec.
type process struct {
	execID string
	io     *stdio.IO
	stdio  stdio.Config
	spec   *specs.Process // of an exec
	reaper *reaper.Reaper

	// op serialises start, pause, resume, delete and the publishing of the
	// exit, so that events come in the order of what they tell. Lock it
	// before mu.
	op sync.Mutex

	mu     sync.Mutex // guards the fields below
	status Status
	id     int // pid, 0 before the process exists
	exit   reaper.Exit

	stopped chan struct{} // closed when the process is stopped or deleted
}

func newProcess(execID string, io *stdio.IO, cfg stdio.Config, spec *specs.Process, r *reaper.Reaper) *process {
	return &process{execID: execID, io: io, stdio: cfg, spec: spec, reaper: r, status: Created, stopped: make(chan struct{})}
}

// String names the process in errors.
func (p *process) String() string {
	if p.execID == "" {
		return "container " + strconv.Quote(p.stdio.Container)
	}
	return "exec " + strconv.Quote(p.execID)
}

func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.id
}

func (p *process) setPid(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.id = pid
}

// check returns the error of move without moving.
func (p *process) check(ev event) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.status.next(ev)
	return err
}

// move changes the state.
func (p *process) move(ev event) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	to, err := p.status.next(ev)
	if err != nil {
		return err
	}
	if from := p.status; from != to && (to == Stopped || to == Deleted) && from != Stopped {
		close(p.stopped)
	}
	p.status = to
	return nil
}

func (p *process) setExit(e reaper.Exit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exit = e
}

// signal sends sig to the process itself.
func (p *process) signal(sig syscall.Signal) error {
	pid := p.pid()
	if pid == 0 {
		return fmt.Errorf("signal %s: %w", p, errNotStarted)
	}
	return p.reaper.Signal(pid, sig)
}

func (p *process) snapshot() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return State{
		ExecID: p.execID, Pid: p.id, Status: p.status, Terminal: p.stdio.Terminal,
		Stdin: p.stdio.Stdin, Stdout: p.stdio.Stdout, Stderr: p.stdio.Stderr,
		Exit: p.exit,
	}
}
