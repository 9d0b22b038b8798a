package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/internal/atomicfile"
	"lighter/runc"
	"lighter/runc/spec"
)

func createFlags(fs *flagSet) {
	fs.string(new(string), "bundle", "b", "DIR", "path of the bundle (default: the current directory)")
	fs.string(new(string), "console-socket", "", "SOCKET", "unix socket that receives the master end of the console")
	fs.string(new(string), "pidfd-socket", "", "SOCKET", "unix socket that receives a pidfd of the process")
	fs.string(new(string), "pid-file", "", "FILE", "file to write the process id to")
	fs.bool(new(bool), "no-pivot", "", "do not use pivot_root")
	fs.bool(new(bool), "no-new-keyring", "", "do not make a new session keyring")
	fs.int(new(int), "preserve-fds", "", "pass N additional descriptors to the container")
}

func createCommand() command {
	return command{
		name: "create", args: "<container-id>", usage: "create a container", forks: true, flags: createFlags,
		run: func(ctx context.Context, a *app, fs *flagSet, args []string) error {
			if err := operands(args, 1, 1); err != nil {
				return err
			}
			o, tty, err := createOptions(fs, true)
			if err != nil {
				return fmt.Errorf("runc create failed: %w", err)
			}
			defer tty.close()
			pid, err := a.rt.Create(ctx, args[0], o)
			if err != nil {
				return fmt.Errorf("runc create failed: %w", err)
			}
			if err := writePID(fs, pid); err != nil {
				return errors.Join(err, a.rt.Delete(ctx, args[0], true))
			}
			return nil
		},
	}
}

func runCommand() command {
	return command{
		name: "run", args: "<container-id>", usage: "create and run a container", forks: true,
		flags: func(fs *flagSet) {
			createFlags(fs)
			fs.bool(new(bool), "detach", "d", "detach from the container's process")
			fs.bool(new(bool), "keep", "", "do not delete the container after it exits")
			fs.bool(new(bool), "no-subreaper", "", "do not become the reaper of the container's orphans")
		},
		run: runRun,
	}
}

func runRun(ctx context.Context, a *app, fs *flagSet, args []string) error {
	if err := operands(args, 1, 1); err != nil {
		return err
	}
	id, detach := args[0], fs.set["detach"]
	o, tty, err := createOptions(fs, detach)
	if err != nil {
		return fmt.Errorf("runc run failed: %w", err)
	}
	defer tty.close()
	var signals chan os.Signal
	if !detach {
		if !fs.set["no-subreaper"] {
			// Processes that init leaves behind come to us.
			if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
				return fmt.Errorf("become subreaper: %w", err)
			}
		}
		signals = forwarded()
	}
	pid, err := a.rt.Run(ctx, id, o)
	if err != nil {
		return fmt.Errorf("runc run failed: %w", err)
	}
	if err := writePID(fs, pid); err != nil {
		return errors.Join(err, a.rt.Delete(ctx, id, true))
	}
	if detach {
		return nil
	}
	code, err := supervise(pid, signals, tty)
	if !fs.set["keep"] {
		err = errors.Join(err, a.rt.Delete(ctx, id, true))
	}
	if err != nil {
		return err
	}
	if code != 0 {
		return exitCode(code)
	}
	return nil
}

// createOptions makes the options of create and run. The terminal is nil unless
// the process wants one and this program forwards it.
func createOptions(fs *flagSet, detach bool) (runc.CreateOptions, *terminal, error) {
	o := runc.CreateOptions{
		NoPivot: fs.set["no-pivot"], NoNewKeyring: fs.set["no-new-keyring"],
		Stdio: runc.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr},
	}
	var err error
	if o.Bundle, err = filepath.Abs(fs.value("bundle", ".")); err != nil {
		return o, nil, err
	}
	if o.PreserveFDs, err = preserved(fs); err != nil {
		return o, nil, err
	}
	s, _, err := spec.Load(o.Bundle)
	if err != nil {
		return o, nil, err
	}
	o.PIDFD = pidfdSender(fs)
	tty, err := console(fs, s.Process, detach, &o.Stdio)
	return o, tty, err
}

// preserved counts the descriptors that the container inherits: those of
// --preserve-fds and those of systemd's socket activation.
func preserved(fs *flagSet) (int, error) {
	n, err := strconv.Atoi(fs.value("preserve-fds", "0"))
	if err != nil || n < 0 {
		return 0, fmt.Errorf("--preserve-fds: invalid number %q", fs.value("preserve-fds", "0"))
	}
	for i := range n {
		fd := uintptr(3 + i)
		flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			return 0, fmt.Errorf("--preserve-fds: descriptor %d is not open", fd)
		}
	}
	return n, nil
}

// console decides who holds the master of the process's terminal.
func console(fs *flagSet, p *specs.Process, detach bool, stdio *runc.Stdio) (*terminal, error) {
	socket := fs.value("console-socket", "")
	switch {
	case !p.Terminal && socket != "":
		return nil, errors.New("cannot use console socket if runc will not detach or allocate tty")
	case !p.Terminal:
		return nil, nil
	case detach && socket == "":
		return nil, errors.New("cannot allocate tty if runc will detach without setting console socket")
	case !detach && socket != "":
		return nil, errors.New("cannot use console socket if runc will not detach or allocate tty")
	case detach:
		stdio.Console = func(master *os.File) error {
			defer master.Close()
			return runc.SendFile(socket, []byte("/dev/ptmx"), master)
		}
		return nil, nil
	}
	t := &terminal{}
	stdio.Console = t.attach
	return t, nil
}

func pidfdSender(fs *flagSet) func(*os.File) error {
	socket := fs.value("pidfd-socket", "")
	if socket == "" {
		return nil
	}
	return func(f *os.File) error {
		defer f.Close()
		return runc.SendFile(socket, []byte("pidfd"), f)
	}
}

func writePID(fs *flagSet, pid int) error {
	path := fs.value("pid-file", "")
	if path == "" {
		return nil
	}
	if err := atomicfile.WriteVolatile(path, []byte(strconv.Itoa(pid)), 0o644); err != nil {
		return fmt.Errorf("write pid file: %w", err)
	}
	return nil
}

// forwarded returns a channel with every signal that can be passed on.
func forwarded() chan os.Signal {
	c := make(chan os.Signal, 64) // bursts of SIGCHLD and SIGWINCH merge well before that
	signal.Notify(c)
	return c
}

// supervise waits for the process pid, reaps what falls to this process, forwards
// signals and terminal. It returns the exit code, 128+n for a signal.
func supervise(pid int, signals chan os.Signal, tty *terminal) (int, error) {
	defer signal.Stop(signals)
	tty.resize()
	for {
		// The child may have gone before the channel was made: look first.
		if code, done, err := reap(pid); done || err != nil {
			tty.wait()
			return code, err
		}
		switch s := (<-signals).(syscall.Signal); s {
		case unix.SIGCHLD, unix.SIGURG: // the Go runtime uses SIGURG
		case unix.SIGWINCH:
			tty.resize()
		default:
			if err := unix.Kill(pid, s); err != nil && !errors.Is(err, unix.ESRCH) {
				return 0, fmt.Errorf("forward %v: %w", s, err)
			}
		}
	}
}

func reap(pid int) (code int, done bool, err error) {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, false, fmt.Errorf("wait for process %d: %w", pid, err)
		case got == 0:
			return 0, false, nil
		case got == pid && ws.Signaled():
			return 128 + int(ws.Signal()), true, nil
		case got == pid:
			return ws.ExitStatus(), true, nil
		}
	}
}
