// Package ocicli is a shim.Runtime that executes an OCI runtime program: runc,
// crun, youki or any other with runc's command line.
package ocicli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/internal/cleanup"
	"lighter/internal/linux/mount"
	"lighter/shim"
)

// maxLog bounds what is read of a program's log, in bytes.
const maxLog = 64 << 10

// Config says which program and how.
type Config struct {
	// Program is a path, or a name found in PATH.
	Program string
	// Root is the directory of the program's state.
	Root string
	// SystemdCgroup, NoPivotRoot and NoNewKeyring are passed on.
	SystemdCgroup, NoPivotRoot, NoNewKeyring bool
	// Mount mounts m on dir, a directory opened with O_PATH.
	Mount func(m shim.Mount, dir *os.File) error
}

// Runtime executes the program for each verb. The calling process must be a
// child subreaper, since container processes are its grandchildren.
type Runtime struct {
	cfg Config

	mu         sync.Mutex // guards the field below
	containers map[string]*container
}

// container is what the program does not tell again.
type container struct {
	rootfs  string // where a root file system of ours is mounted, or ""
	cgroups map[string]string
}

var _ shim.Runtime = (*Runtime)(nil)

// New returns a Runtime. The error is NotFound if there is no such program.
func New(cfg Config) (*Runtime, error) {
	path, err := exec.LookPath(cfg.Program)
	if err != nil {
		return nil, fmt.Errorf("find OCI runtime: %w: %w", err, errdefs.ErrNotFound)
	}
	cfg.Program = path
	return &Runtime{cfg: cfg, containers: make(map[string]*container)}, nil
}

// Create implements shim.Runtime. A root file system is mounted at
// bundle/rootfs.
func (r *Runtime) Create(ctx context.Context, id string, opts shim.CreateOptions) (pid int, err error) {
	var undo cleanup.Stack
	defer func() { err = errors.Join(err, undo.Run()) }()
	c := &container{}
	if len(opts.Rootfs) > 0 {
		c.rootfs = filepath.Join(opts.Bundle, "rootfs")
		if err := os.MkdirAll(c.rootfs, 0o711); err != nil {
			return 0, err
		}
		undo.Add(func() error { return unmount(c.rootfs) })
		if err := r.mountRoot(opts.Rootfs, c.rootfs); err != nil {
			return 0, fmt.Errorf("mount rootfs: %w", err)
		}
	}
	args := []string{"create", "--bundle", opts.Bundle}
	if r.cfg.NoPivotRoot {
		args = append(args, "--no-pivot")
	}
	if r.cfg.NoNewKeyring {
		args = append(args, "--no-new-keyring")
	}
	pid, err = r.launch(ctx, args, []string{id}, opts.Stdio)
	if err != nil {
		return 0, err
	}
	if c.cgroups, err = cgroupPaths(pid); err != nil {
		return 0, errors.Join(err, r.run(ctx, nil, "delete", "--force", id))
	}
	undo.Release()
	r.mu.Lock()
	r.containers[id] = c
	r.mu.Unlock()
	return pid, nil
}

// mountRoot mounts each of mounts on its place below dir, which links in one of
// them do not lead out of.
func (r *Runtime) mountRoot(mounts []shim.Mount, dir string) error {
	for _, m := range mounts {
		on, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil && m.Target != "" {
			root := on
			on, err = mount.OpenInRoot(root, m.Target, unix.O_PATH|unix.O_DIRECTORY, 0)
			root.Close()
		}
		if err != nil {
			return err
		}
		err = r.cfg.Mount(m, on)
		on.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// Start implements shim.Runtime.
func (r *Runtime) Start(ctx context.Context, id string) error {
	return r.run(ctx, nil, "start", id)
}

// Exec implements shim.Runtime.
func (r *Runtime) Exec(ctx context.Context, id string, opts shim.ExecOptions) (int, error) {
	f, err := os.CreateTemp("", "exec-process-*.json")
	if err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	defer os.Remove(f.Name())
	err = json.NewEncoder(f).Encode(opts.Process)
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	return r.launch(ctx, []string{"exec", "--detach", "--process", f.Name()}, []string{id}, opts.Stdio)
}

// Kill implements shim.Runtime.
func (r *Runtime) Kill(ctx context.Context, id string, sig syscall.Signal, all bool) error {
	args := []string{"kill"}
	if all {
		args = append(args, "--all")
	}
	err := r.run(ctx, nil, append(args, id, strconv.Itoa(int(sig)))...)
	if err == nil {
		return nil
	}
	// The program's words are not to be relied on: ask for the state.
	if st, serr := r.state(ctx, id); serr != nil || st.Status == specs.StateStopped {
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return err
}

// Delete implements shim.Runtime.
func (r *Runtime) Delete(ctx context.Context, id string, force bool) error {
	args := []string{"delete"}
	if force {
		args = append(args, "--force")
	}
	if err := r.run(ctx, nil, append(args, id)...); err != nil {
		if !force {
			return err
		}
		if _, serr := r.state(ctx, id); serr == nil {
			return err
		}
	}
	r.mu.Lock()
	c := r.containers[id]
	r.mu.Unlock()
	if c != nil && c.rootfs != "" {
		if err := unmount(c.rootfs); err != nil {
			return err
		}
	}
	r.mu.Lock()
	delete(r.containers, id)
	r.mu.Unlock()
	return nil
}

// Pause implements shim.Runtime.
func (r *Runtime) Pause(ctx context.Context, id string) error { return r.run(ctx, nil, "pause", id) }

// Resume implements shim.Runtime.
func (r *Runtime) Resume(ctx context.Context, id string) error { return r.run(ctx, nil, "resume", id) }

// Pids implements shim.Runtime.
func (r *Runtime) Pids(ctx context.Context, id string) ([]int, error) {
	out, err := r.output(ctx, "ps", "--format", "json", id)
	if err != nil {
		return nil, err
	}
	var pids []int
	if err := json.Unmarshal(out, &pids); err != nil {
		return nil, fmt.Errorf("%s ps: %w", r.name(), err)
	}
	return pids, nil
}

// Update implements shim.Runtime.
func (r *Runtime) Update(ctx context.Context, id string, resources *specs.LinuxResources) error {
	b, err := json.Marshal(resources)
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	return r.run(ctx, strings.NewReader(string(b)), "update", "--resources", "-", id)
}

// CgroupPaths implements shim.Runtime.
func (r *Runtime) CgroupPaths(ctx context.Context, id string) (map[string]string, error) {
	r.mu.Lock()
	c := r.containers[id]
	r.mu.Unlock()
	if c != nil {
		return c.cgroups, nil
	}
	st, err := r.state(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return cgroupPaths(st.Pid)
}

// Unmount releases a root file system that a dead shim left mounted in bundle.
func Unmount(bundle string) error { return unmount(filepath.Join(bundle, "rootfs")) }

// unmount unmounts what is mounted at dir, if anything is.
func unmount(dir string) error {
	for {
		err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			continue // mounts may be stacked
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		}
		return &os.PathError{Op: "unmount", Path: dir, Err: err}
	}
}

func (r *Runtime) state(ctx context.Context, id string) (*specs.State, error) {
	out, err := r.output(ctx, "state", id)
	if err != nil {
		return nil, err
	}
	var st specs.State
	if err := json.Unmarshal(out, &st); err != nil {
		return nil, fmt.Errorf("%s state: %w", r.name(), err)
	}
	return &st, nil
}

// launch runs a verb that makes a process with the given streams, and returns
// its pid.
func (r *Runtime) launch(ctx context.Context, args, operands []string, s shim.Stdio) (pid int, err error) {
	dir, err := os.MkdirTemp("", "oci-*")
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", r.name(), args[0], err)
	}
	defer os.RemoveAll(dir)
	pidFile := filepath.Join(dir, "pid")
	args = append(args, "--pid-file", pidFile)
	var console <-chan error
	if s.Console != nil {
		socket := filepath.Join(dir, "console.sock")
		l, err := listenConsole(socket)
		if err != nil {
			return 0, err
		}
		defer l.Close()
		console = receiveConsole(l, s.Console)
		args = append(args, "--console-socket", socket)
		if args[0] == "exec" {
			args = append(args, "--tty")
		}
		s.In, s.Out, s.Err = nil, nil, nil
	}
	cmd, logFile, err := r.command(ctx, dir, append(args, operands...)...)
	if err != nil {
		return 0, err
	}
	defer logFile.Close()
	// Files, not copies: Run does not wait for the process that inherits them.
	// A nil *os.File must not become a non-nil interface.
	if s.In != nil {
		cmd.Stdin = s.In
	}
	if s.Out != nil {
		cmd.Stdout = s.Out
	}
	if s.Err != nil {
		cmd.Stderr = s.Err
	}
	if err := cmd.Run(); err != nil {
		return 0, r.failure(args[0], err, logFile, nil)
	}
	b, err := os.ReadFile(pidFile)
	if err == nil {
		pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	if err == nil && console != nil {
		err = <-console // the program has sent it before it ended
	}
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", r.name(), args[0], err)
	}
	return pid, nil
}

// run runs a verb that makes no process.
func (r *Runtime) run(ctx context.Context, stdin io.Reader, args ...string) error {
	_, err := r.call(ctx, stdin, args...)
	return err
}

func (r *Runtime) output(ctx context.Context, args ...string) ([]byte, error) {
	return r.call(ctx, nil, args...)
}

func (r *Runtime) call(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "oci-*")
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.name(), args[0], err)
	}
	defer os.RemoveAll(dir)
	cmd, logFile, err := r.command(ctx, dir, args...)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	var stderr strings.Builder
	cmd.Stdin, cmd.Stderr = stdin, &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, r.failure(args[0], err, logFile, []byte(stderr.String()))
	}
	return out, nil
}

// command prepares the program with its global flags and a log in dir.
func (r *Runtime) command(ctx context.Context, dir string, args ...string) (*exec.Cmd, *os.File, error) {
	logFile, err := os.OpenFile(filepath.Join(dir, "log.json"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("%s %s: %w", r.name(), args[0], err)
	}
	global := []string{"--root", r.cfg.Root, "--log", logFile.Name(), "--log-format", "json"}
	if r.cfg.SystemdCgroup {
		global = append(global, "--systemd-cgroup")
	}
	return exec.CommandContext(ctx, r.cfg.Program, append(global, args...)...), logFile, nil
}

func (r *Runtime) name() string { return filepath.Base(r.cfg.Program) }

// failure says why a verb failed: the last error in the log, or what the program
// wrote to stderr.
func (r *Runtime) failure(verb string, err error, logFile io.Reader, stderr []byte) error {
	text := strings.TrimSpace(string(stderr))
	dec := json.NewDecoder(io.LimitReader(logFile, maxLog))
	for {
		var entry struct{ Level, Msg string }
		if dec.Decode(&entry) != nil {
			break
		}
		if entry.Level == "error" || entry.Level == "fatal" {
			text = entry.Msg
		}
	}
	if text == "" {
		return fmt.Errorf("%s %s: %w", r.name(), verb, err)
	}
	return fmt.Errorf("%s %s: %s: %w", r.name(), verb, text, err)
}
