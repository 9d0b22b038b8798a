package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/internal/atomicfile"
	"lighter/runc"
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
	var sigs *signals
	if !detach {
		if !fs.set["no-subreaper"] {
			// Processes that init leaves behind come to us.
			if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
				return fmt.Errorf("become subreaper: %w", err)
			}
		}
		sigs = catch()
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
	code, err := supervise(pid, sigs, tty)
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

// createOptions makes the options of create and run. The terminal is used if the
// process wants one and this program forwards it.
func createOptions(fs *flagSet, detach bool) (runc.CreateOptions, *terminal, error) {
	o := runc.CreateOptions{
		NoPivot: fs.set["no-pivot"], NoNewKeyring: fs.set["no-new-keyring"],
		Stdio: runc.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Newlines: fs.value("console-socket", "") == ""},
	}
	var err error
	if o.Bundle, err = filepath.Abs(fs.value("bundle", ".")); err != nil {
		return o, nil, err
	}
	if o.PreserveFDs, err = preserved(fs); err != nil {
		return o, nil, err
	}
	o.PIDFD = pidfdSender(fs)
	tty := &terminal{}
	o.Stdio.Console = console(fs, tty)
	o.Check = func(s *specs.Spec) error { return checkConsole(fs, s.Process, detach) }
	return o, tty, nil
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

// checkConsole says whether somebody takes the master of the process's terminal.
func checkConsole(fs *flagSet, p *specs.Process, detach bool) error {
	socket := fs.value("console-socket", "")
	switch {
	case p.Terminal && detach && socket == "":
		return errors.New("cannot allocate tty if runc will detach without setting console socket")
	case socket != "" && (!p.Terminal || !detach):
		return errors.New("cannot use console socket if runc will not detach or allocate tty")
	}
	return nil
}

// console returns what takes the master: t, or whoever listens on the console
// socket.
func console(fs *flagSet, t *terminal) func(*os.File) error {
	socket := fs.value("console-socket", "")
	if socket == "" {
		return t.attach
	}
	return func(master *os.File) error {
		defer master.Close()
		return runc.SendFile(socket, []byte("/dev/ptmx"), master)
	}
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

// forwarded are the signals that are passed on to the process. SIGWINCH is not:
// it resizes the terminal.
var forwarded = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGCONT,
	unix.SIGPWR, unix.SIGWINCH,
}

// signals collects what is sent to this program while the process starts and runs.
type signals struct {
	c     chan os.Signal
	ready chan struct{}
}

// catch starts to collect signals. It does not wait: registering takes the Go
// runtime some 50 microseconds for each.
func catch() *signals {
	s := &signals{c: make(chan os.Signal, 64), ready: make(chan struct{})} // bursts merge well before 64
	go func() {
		signal.Notify(s.c, forwarded...)
		close(s.ready)
	}()
	return s
}

// supervise waits for the process pid, reaps what falls to this process, forwards
// signals and the terminal. It returns the exit code, 128+n for a signal.
func supervise(pid int, s *signals, tty *terminal) (int, error) {
	done := make(chan struct{})
	var forwarder sync.WaitGroup
	forwarder.Go(func() {
		<-s.ready
		tty.resize()
		for {
			select {
			case sig := <-s.c:
				if sig == unix.SIGWINCH {
					tty.resize()
					continue
				}
				// The process may have gone; it is not reaped before done is closed
				// unless it is ours to report.
				_ = unix.Kill(pid, sig.(syscall.Signal))
			case <-done:
				signal.Stop(s.c)
				return
			}
		}
	})
	code, err := reap(pid, func() {
		close(done)
		forwarder.Wait()
	})
	tty.wait()
	return code, err
}

// reap waits for the exit of pid and of any process before it. It calls exited
// while pid is still a zombie, so that nobody signals a process that gets its pid.
func reap(pid int, exited func()) (int, error) {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for process %d: %w", pid, err)
		}
		child := childOf(&info)
		if child == pid {
			exited()
		}
		var ws unix.WaitStatus
		if _, err := unix.Wait4(child, &ws, 0, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return 0, fmt.Errorf("wait for process %d: %w", child, err)
		}
		if child != pid {
			continue
		}
		if ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return ws.ExitStatus(), nil
	}
}
