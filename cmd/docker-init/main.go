// Docker-init is process 1 of a container that was made with --init:
//
//	docker-init [--] PROGRAM [ARG...]
//
// It runs PROGRAM as its only child of its own, in a process group of its own
// that has the terminal if there is one, passes on the signals that it receives,
// reaps whatever becomes its child, and ends when PROGRAM does, with PROGRAM's
// exit code or 128 and the number of the signal that killed it. When PROGRAM
// can't be started it ends with 127 if there is none and with 126 otherwise.
//
// It never looks at the container's files but to execute PROGRAM, and imports
// little: it lives in every such container for as long as that runs.
package main

import (
	"errors"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"unsafe"
)

const (
	exitUsage         = 1
	exitNotExecutable = 126
	exitNotFound      = 127
	signalBase        = 128
)

// foreground is the name under which docker-init runs itself once more to take
// the terminal for PROGRAM: only a process of the new group can do it before
// PROGRAM reads, and it must ignore SIGTTOU meanwhile, which PROGRAM must not.
const foreground = "docker-init: foreground"

func main() {
	if os.Args[0] == foreground {
		os.Exit(takeTerminal(os.Args[1:]))
	}
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		complain("no program to run")
		os.Exit(exitUsage)
	}
	os.Exit(run(args))
}

// run starts args and serves as its init until it ends.
func run(args []string) int {
	debug.SetGCPercent(-1) // nothing below allocates more than a few bytes for ever
	// Before the start: no signal is lost, no exit missed.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	child, code := start(args)
	if code != 0 {
		return code
	}
	// To be stopped for using the terminal from the background would stop the
	// container. After the start: the program must not inherit it.
	signal.Ignore(syscall.SIGTTIN, syscall.SIGTTOU)
	if code, ended := reap(child); ended {
		return code
	}
	for s := range signals {
		sig, ok := s.(syscall.Signal)
		switch {
		case !ok:
		case sig == syscall.SIGCHLD:
			if code, ended := reap(child); ended {
				return code
			}
		case forwarded(sig):
			syscall.Kill(child, sig) // it may have ended: then SIGCHLD comes next
		}
	}
	return exitUsage // not reached: the channel is never closed
}

// forwarded reports whether sig, sent to docker-init, is meant for the program:
// not those that the kernel sends for a process's own faults, nor SIGURG, which
// Go's scheduler sends to itself.
func forwarded(sig syscall.Signal) bool {
	switch sig {
	case syscall.SIGFPE, syscall.SIGILL, syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGABRT,
		syscall.SIGTRAP, syscall.SIGSYS, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGCHLD, syscall.SIGURG:
		return false
	}
	return true
}

// start runs args. A code other than 0 is that of the failure to do so.
func start(args []string) (pid, code int) {
	path, argv := args[0], args
	if isTerminal(0) {
		path, argv = "/proc/self/exe", append([]string{foreground}, args...)
	} else if resolved, err := lookup(path); err != nil {
		return 0, failed(args[0], err)
	} else {
		path = resolved
	}
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return 0, failed(args[0], err)
	}
	return pid, 0
}

// takeTerminal makes this process's group the terminal's and becomes args.
func takeTerminal(args []string) int {
	signal.Ignore(syscall.SIGTTOU)
	group := int32(syscall.Getpgrp())
	syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TIOCSPGRP, uintptr(unsafe.Pointer(&group))) // best effort: without it the program has no terminal
	restoreDefault(syscall.SIGTTOU)
	path, err := lookup(args[0])
	if err == nil {
		err = syscall.Exec(path, args, os.Environ())
	}
	return failed(args[0], err)
}

// restoreDefault undoes signal.Ignore also for the program that this process
// becomes: an ignored signal stays so across exec.
func restoreDefault(sig syscall.Signal) {
	var action [4]uint64 // the kernel's sigaction: handler, flags, restorer, mask
	const maskBytes = 8
	syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, maskBytes, 0, 0)
}

// reap collects the children that have ended and reports how child did.
func reap(child int) (code int, ended bool) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil || pid <= 0:
			return code, ended
		case pid == child && status.Signaled():
			code, ended = signalBase+int(status.Signal()), true
		case pid == child:
			code, ended = status.ExitStatus(), true
		}
	}
}

// lookup finds a program as a shell would. An executable file in one directory
// wins over one in an earlier directory that can't be executed.
func lookup(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil // the kernel says what is wrong with it
	}
	found := error(syscall.ENOENT)
	for dir := range strings.SplitSeq(os.Getenv("PATH"), ":") {
		if dir == "" {
			dir = "."
		}
		path := dir + "/" + name
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil || st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			continue
		}
		const executable = 1 // X_OK
		if err := syscall.Access(path, executable); err != nil {
			found = err
			continue
		}
		return path, nil
	}
	return "", found
}

func isTerminal(fd int) bool {
	var group int32
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCGPGRP, uintptr(unsafe.Pointer(&group)))
	return errno == 0
}

// failed says why program does not run and returns the exit code for it.
func failed(program string, err error) int {
	complain("exec " + program + ": " + err.Error())
	if errors.Is(err, syscall.ENOENT) {
		return exitNotFound
	}
	return exitNotExecutable
}

func complain(text string) { os.Stderr.WriteString("docker-init: " + text + "\n") }
