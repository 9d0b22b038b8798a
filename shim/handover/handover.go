// Package handover lets a process go on in a fresh image of its program: the same
// process, with the same children and descriptors, and none of the memory. What
// the new image needs to know travels in a sealed memory file.
//
//	old image                              new image
//	close the Gate
//	put the state into bytes
//	Exec ---------------------------------> Taken returns the bytes
//	                                        rebuild, work goes on
//
// Nothing is lost on the way, since the kernel holds what arrives meanwhile: bytes
// in pipes and sockets, connections in a listener's queue, the exit of a child.
// Only signals other than SIGCHLD are dropped.
package handover

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// variable names the descriptor of the state in the new image's environment.
const variable = "_LIGHTER_HANDOVER"

// tuning sets up the Go runtime of the new image, which mostly waits: each
// processor would have memory and threads of its own.
var tuning = []string{"GOMAXPROCS=1"}

const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// FD returns the descriptor of f, -1 if it is closed or nil. f stays its owner.
func FD(f *os.File) int {
	if f == nil {
		return -1
	}
	fd := -1
	if rc, err := f.SyscallConn(); err == nil {
		rc.Control(func(n uintptr) { fd = int(n) })
	}
	return fd
}

// File returns the descriptor fd, which is in non-blocking mode, as a file named
// name; nil for -1.
func File(fd int, name string) *os.File {
	if fd < 0 {
		return nil
	}
	return os.NewFile(uintptr(fd), name)
}

// Exec replaces the process by a new image of its program, with the same
// arguments, state, and of the descriptors the standard ones and fds. It returns
// only with an error, after which all is as before, except that signals that were
// caught are ignored: call signal.Notify again.
func Exec(state []byte, fds []int) error {
	memory, err := store(state)
	if err != nil {
		return fmt.Errorf("execute afresh: %w", err)
	}
	defer unix.Close(memory)
	keep := append([]int{memory}, fds...)
	defer setCloexec(keep, true)
	if err := setCloexec(keep, false); err != nil {
		return fmt.Errorf("execute afresh: %w", err)
	}
	// The new image catches them as soon as it can. A signal that is caught now
	// would end it in between.
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGPIPE)
	// Through this name it is the same file of the same mount, whatever has
	// become of its path.
	err = syscall.Exec("/proc/self/exe", os.Args, environment(memory))
	return fmt.Errorf("execute afresh: %w", os.NewSyscallError("execve", err))
}

// store returns a sealed memory file of p.
func store(p []byte) (int, error) {
	fd, err := unix.MemfdCreate("handover", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	for len(p) > 0 && err == nil {
		var n int
		n, err = unix.Write(fd, p)
		p = p[max(n, 0):]
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("write memfd", err)
	}
	return fd, nil
}

func setCloexec(fds []int, on bool) error {
	flag := 0
	if on {
		flag = unix.FD_CLOEXEC
	}
	var errs []error
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, flag); err != nil {
			errs = append(errs, os.NewSyscallError("fcntl", err))
		}
	}
	return errors.Join(errs...)
}

func environment(memory int) []string {
	var env []string
	for _, kv := range os.Environ() {
		if key, _, _ := strings.Cut(kv, "="); key != "GOMAXPROCS" && key != variable {
			env = append(env, kv)
		}
	}
	return append(append(env, tuning...), variable+"="+strconv.Itoa(memory))
}

// Taken returns the state that the image before has left, nil if there was none.
// Call it at the beginning of main: every descriptor of the process is then closed
// on exec again, and the process has its old name.
func Taken() ([]byte, error) {
	value, ok := os.LookupEnv(variable)
	if !ok {
		return nil, nil
	}
	for _, kv := range append(tuning, variable+"=") { // nobody's but ours
		key, _, _ := strings.Cut(kv, "=")
		os.Unsetenv(key)
	}
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("take state: %w", os.NewSyscallError("close_range", err))
	}
	if name, err := unix.BytePtrFromString(filepath.Base(os.Args[0])); err == nil { // else it would be "exe"
		unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0)
	}
	fd, err := strconv.Atoi(value)
	if err == nil {
		var got int
		if got, err = unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err == nil && got&seals != seals {
			err = errors.New("it is not sealed")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("take state: %s=%s: %w", variable, value, err)
	}
	f := os.NewFile(uintptr(fd), "state")
	defer f.Close()
	state, err := io.ReadAll(io.NewSectionReader(f, 0, math.MaxInt64))
	if err != nil {
		return nil, fmt.Errorf("take state: %w", err)
	}
	if state == nil {
		state = []byte{}
	}
	return state, nil
}
