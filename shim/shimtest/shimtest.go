// Package shimtest has a shim.Runtime for tests that runs plain processes, so
// that a shim can be tested without root.
package shimtest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/creack/pty"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"lighter/shim"
)

// Runtime runs the process of a bundle's config.json on the host. It keeps OCI's
// order of verbs: the program runs from Start on.
type Runtime struct {
	mu         sync.Mutex // guards the fields below
	containers map[string]*container

	// Fail makes the verb of that name ("create", "start", "exec", "delete")
	// return the error.
	Fail map[string]error
}

type container struct {
	pid     int
	execs   []int
	barrier *os.File // closing it starts the program
	paused  bool
	res     *specs.LinuxResources
}

var _ shim.Runtime = (*Runtime)(nil)

// New returns a Runtime without containers.
func New() *Runtime {
	return &Runtime{containers: make(map[string]*container), Fail: make(map[string]error)}
}

// WriteBundle makes a bundle in dir that runs a shell script.
func WriteBundle(dir, script string, terminal bool) error {
	b, err := json.Marshal(specs.Spec{Version: specs.Version, Process: Process(script, terminal)})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600)
}

// Process is a process that runs a shell script.
func Process(script string, terminal bool) *specs.Process {
	return &specs.Process{Args: []string{"/bin/sh", "-c", script}, Env: os.Environ(), Cwd: "/", Terminal: terminal}
}

// Create implements shim.Runtime.
func (r *Runtime) Create(_ context.Context, id string, opts shim.CreateOptions) (int, error) {
	if err := r.failure("create"); err != nil {
		return 0, err
	}
	b, err := os.ReadFile(filepath.Join(opts.Bundle, "config.json"))
	if err != nil {
		return 0, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	var spec specs.Spec
	if err := json.Unmarshal(b, &spec); err != nil {
		return 0, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	wait, barrier, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer wait.Close()
	p := *spec.Process
	p.Args = append([]string{"/bin/sh", "-c", `read go <&3; exec 3<&-; exec "$@"`, "init"}, p.Args...)
	pid, err := launch(&p, opts.Stdio, wait)
	if err != nil {
		barrier.Close()
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.containers[id] = &container{pid: pid, barrier: barrier}
	return pid, nil
}

// launch starts a process in a group of its own.
func launch(p *specs.Process, s shim.Stdio, extra ...*os.File) (int, error) {
	cmd := exec.Command(p.Args[0], p.Args[1:]...)
	cmd.Dir, cmd.Env, cmd.ExtraFiles = p.Cwd, p.Env, extra
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if s.Console != nil {
		master, slave, err := pty.Open()
		if err != nil {
			return 0, err
		}
		defer slave.Close()
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		if err := s.Console(master); err != nil {
			return 0, err
		}
	} else {
		if s.In != nil {
			cmd.Stdin = s.In
		}
		if s.Out != nil {
			cmd.Stdout = s.Out
		}
		if s.Err != nil {
			cmd.Stderr = s.Err
		}
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	pid := cmd.Process.Pid
	return pid, cmd.Process.Release()
}

// Start implements shim.Runtime.
func (r *Runtime) Start(_ context.Context, id string) error {
	if err := r.failure("start"); err != nil {
		return err
	}
	c, err := r.find(id)
	if err != nil {
		return err
	}
	return c.barrier.Close()
}

// Exec implements shim.Runtime.
func (r *Runtime) Exec(_ context.Context, id string, opts shim.ExecOptions) (int, error) {
	if err := r.failure("exec"); err != nil {
		return 0, err
	}
	c, err := r.find(id)
	if err != nil {
		return 0, err
	}
	pid, err := launch(opts.Process, opts.Stdio)
	if err == nil {
		r.mu.Lock()
		c.execs = append(c.execs, pid)
		r.mu.Unlock()
	}
	return pid, err
}

// Kill implements shim.Runtime.
func (r *Runtime) Kill(_ context.Context, id string, sig syscall.Signal, all bool) error {
	c, err := r.find(id)
	if err != nil {
		return err
	}
	if err := syscall.Kill(-c.pid, sig); err != nil && !all {
		return fmt.Errorf("kill: %w: %w", err, errdefs.ErrNotFound)
	}
	if all {
		for _, pid := range r.execPids(c) {
			syscall.Kill(-pid, sig)
		}
	}
	return nil
}

func (r *Runtime) execPids(c *container) []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(c.execs)
}

// Delete implements shim.Runtime.
func (r *Runtime) Delete(ctx context.Context, id string, force bool) error {
	if err := r.failure("delete"); err != nil {
		return err
	}
	c, err := r.find(id)
	if err != nil {
		if force {
			return nil
		}
		return err
	}
	r.Kill(ctx, id, syscall.SIGKILL, true)
	c.barrier.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.containers, id)
	return nil
}

// Pause implements shim.Runtime.
func (r *Runtime) Pause(_ context.Context, id string) error {
	return r.freeze(id, syscall.SIGSTOP, true)
}

// Resume implements shim.Runtime.
func (r *Runtime) Resume(_ context.Context, id string) error {
	return r.freeze(id, syscall.SIGCONT, false)
}

func (r *Runtime) freeze(id string, sig syscall.Signal, paused bool) error {
	c, err := r.find(id)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c.paused = paused
	return syscall.Kill(-c.pid, sig)
}

// Pids implements shim.Runtime.
func (r *Runtime) Pids(_ context.Context, id string) ([]int, error) {
	c, err := r.find(id)
	if err != nil {
		return nil, err
	}
	return append([]int{c.pid}, r.execPids(c)...), nil
}

// Update implements shim.Runtime.
func (r *Runtime) Update(_ context.Context, id string, res *specs.LinuxResources) error {
	c, err := r.find(id)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c.res = res
	return nil
}

// Updated returns what Update was called with last.
func (r *Runtime) Updated(id string) *specs.LinuxResources {
	c, err := r.find(id)
	if err != nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.res
}

// CgroupPaths implements shim.Runtime: the processes have no cgroups.
func (r *Runtime) CgroupPaths(_ context.Context, id string) (map[string]string, error) {
	_, err := r.find(id)
	return map[string]string{}, err
}

// Containers returns the IDs of the containers that have not been deleted.
func (r *Runtime) Containers() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.containers))
}

func (r *Runtime) find(id string) (*container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("container %q: %w", id, errdefs.ErrNotFound)
}

func (r *Runtime) failure(verb string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.Fail[verb]
}
