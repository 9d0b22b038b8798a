package crash

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// notification is struct seccomp_notif: a thread that waits for leave to make a
// system call.
type notification struct {
	ID    uint64
	TID   uint32
	Flags uint32
	NR    int32
	Arch  uint32
	IP    uint64
	Args  [6]uint64
}

// reply is struct seccomp_notif_resp.
type reply struct {
	ID    uint64
	Val   int64
	Error int32
	Flags uint32
}

// A Supervisor sees the state-changing system calls of the daemons that it
// starts and of all their descendants before they are made, counts them, and
// commits one fault. The programs know nothing of it: a seccomp filter, which
// they inherit from their launcher, asks the supervisor for every such call.
type Supervisor struct {
	mu      sync.Mutex // guards the fields below
	groups  map[uint32]process
	ignore  map[int]bool // thread groups that are nobody's target
	fault   Fault
	counts  map[string]int // by role, since Arm
	trace   []Call
	fired   chan struct{} // closed when the fault is committed
	victim  int
	waiters sync.WaitGroup
}

// Call is one state-changing system call.
type Call struct {
	Role string
	N    int // its number among those of its role, from 1
	Name string
	Path string // of the descriptor or of the argument, where there is one
	Disk bool   // a failing disk could fail it
}

func (c Call) String() string { return fmt.Sprintf("%s#%d %s(%s)", c.Role, c.N, c.Name, c.Path) }

// process is what the supervisor knows of a thread.
type process struct {
	tgid int
	role string
}

// The roles of processes. A container's own processes have none.
const (
	roleDockerd    = "dockerd"
	roleContainerd = "containerd"
	roleLaunch     = "launch" // the child of a daemon, until it executes another program
	roleShim       = "shim"
	roleRuntime    = "runtime" // the child of a shim, until it executes the container's program
)

// Action is what a fault does to the process that makes the call.
type Action string

// The actions.
const (
	Observe Action = "observe" // nothing: the calls are recorded
	Kill    Action = "kill"    // SIGKILL before the call is made
	KillAll Action = "killall" // SIGKILL to the daemons and to the shims of the target
	Hang    Action = "stop"    // SIGSTOP before the call, SIGCONT after hangTime
	NoSpace Action = "ENOSPC"  // the call fails; only calls on files count
	IOError Action = "EIO"     // the same
)

// failing reports whether the call itself fails.
func (a Action) failing() bool { return a == NoSpace || a == IOError }

// hangTime is for how long a process is stopped.
const hangTime = 1500 * time.Millisecond

// Fault is one action at one call.
type Fault struct {
	Action Action
	Role   string
	N      int
}

func (f Fault) String() string { return fmt.Sprintf("%s:%s:%d", f.Action, f.Role, f.N) }

// NewSupervisor returns one that lets all calls pass.
func NewSupervisor() *Supervisor {
	return &Supervisor{groups: map[uint32]process{}, ignore: map[int]bool{}, counts: map[string]int{}, fired: make(chan struct{})}
}

// Arm forgets what was counted and waits for f from now on. It returns a channel
// that is closed when the fault is committed.
func (s *Supervisor) Arm(f Fault) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault, s.counts, s.trace, s.fired, s.victim = f, map[string]int{}, nil, make(chan struct{}), 0
	return s.fired
}

// Disarm ends the counting and returns the calls that were seen since Arm.
func (s *Supervisor) Disarm() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = Fault{}
	return s.trace
}

// Ignore takes a process out of the game.
func (s *Supervisor) Ignore(tgid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ignore[tgid] = true
}

// launcher marks, with the program's path, the process that installs the filter.
const launcher = "LIGHTER_CRASH_LAUNCH"

// Launch installs the filter and executes the program when this process is a
// launcher, else returns. It is the first thing that TestMain does.
func Launch() {
	program := os.Getenv(launcher)
	if program == "" {
		return
	}
	runtime.LockOSThread()
	if err := install(); err != nil {
		fmt.Fprintln(os.Stderr, "install the seccomp filter:", err)
		os.Exit(1)
	}
	// The supervisor takes the listener, then lets this process go on.
	// kill(2) would ask the supervisor, who is not there yet.
	unix.Tgkill(os.Getpid(), unix.Gettid(), syscall.SIGSTOP)
	os.Unsetenv(launcher)
	err := syscall.Exec(program, os.Args, os.Environ())
	fmt.Fprintln(os.Stderr, "execute:", err)
	os.Exit(1)
}

func install() error {
	filter := program()
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}

// Spawn starts a command under the supervisor.
func (s *Supervisor) Spawn(cmd *exec.Cmd) error {
	env := cmd.Env
	if env == nil {
		env = os.Environ()
	}
	cmd.Env = append(env, launcher+"="+cmd.Path)
	cmd.Path = "/proc/self/exe"
	if err := cmd.Start(); err != nil {
		return err
	}
	listener, err := takeListener(cmd.Process.Pid)
	if err != nil {
		cmd.Process.Kill()
		return err
	}
	s.waiters.Go(func() { s.serve(listener) })
	return cmd.Process.Signal(syscall.SIGCONT)
}

// takeListener copies the notification descriptor of a stopped launcher.
func takeListener(pid int) (*os.File, error) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
		if state(pid) == 'T' {
			break
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("wait for the launcher: it is in state %q", state(pid))
		}
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return nil, err
	}
	for _, path := range fds {
		if target, _ := os.Readlink(path); target != "anon_inode:seccomp notify" {
			continue
		}
		number, err := strconv.Atoi(filepath.Base(path))
		if err != nil {
			return nil, err
		}
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return nil, os.NewSyscallError("pidfd_open", err)
		}
		defer unix.Close(pidfd)
		fd, err := unix.PidfdGetfd(pidfd, number, 0)
		if err != nil {
			return nil, os.NewSyscallError("pidfd_getfd", err)
		}
		return os.NewFile(uintptr(fd), "seccomp notify"), nil
	}
	return nil, errors.New("find the launcher's listener: it has none")
}

// state is the letter of a process in /proc, 0 when it is gone.
func state(pid int) byte {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(raw), ") ")
	if after == "" {
		return 0
	}
	return after[0]
}

// serve answers until no process has the filter any more.
func (s *Supervisor) serve(listener *os.File) {
	defer listener.Close()
	fd := int(listener.Fd())
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); errors.Is(err, unix.EINTR) {
			continue
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			return
		}
		var n notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); errno != 0 {
			continue // the thread is gone
		}
		answer := reply{ID: n.ID, Flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		if errno := s.judge(&n); errno != 0 {
			answer.Flags, answer.Error = 0, -int32(errno)
		}
		unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&answer)))
	}
}

// judge counts a call, commits the fault when it is the one, and returns the
// error that the call shall have, or 0.
func (s *Supervisor) judge(n *notification) syscall.Errno {
	s.mu.Lock()
	defer s.mu.Unlock()
	who := s.who(n.TID)
	if n.NR == unix.SYS_EXECVE || n.NR == unix.SYS_EXECVEAT {
		delete(s.groups, n.TID) // perhaps another program from now on
		delete(s.groups, uint32(who.tgid))
	}
	if s.fault.Action == "" || who.role == "" || s.ignore[who.tgid] {
		return 0
	}
	name, path, counts := describe(n)
	if !counts {
		return 0
	}
	disk := onFile(n.NR, path)
	if s.fault.Action.failing() && !disk {
		return 0
	}
	s.counts[who.role]++
	call := Call{who.role, s.counts[who.role], name, path, disk}
	s.trace = append(s.trace, call)
	if s.fault.Action == Observe || call.Role != s.fault.Role || call.N != s.fault.N {
		return 0
	}
	defer close(s.fired)
	s.victim = who.tgid
	switch s.fault.Action {
	case Kill:
		syscall.Kill(who.tgid, syscall.SIGKILL)
	case KillAll:
		for _, p := range s.groups {
			if p.role != "" && !s.ignore[p.tgid] {
				syscall.Kill(p.tgid, syscall.SIGKILL)
			}
		}
	case Hang:
		syscall.Kill(who.tgid, syscall.SIGSTOP)
		time.AfterFunc(hangTime, func() { syscall.Kill(who.tgid, syscall.SIGCONT) })
	case NoSpace:
		return unix.ENOSPC
	case IOError:
		return unix.EIO
	}
	return 0
}

// who says which process a thread belongs to.
func (s *Supervisor) who(tid uint32) process {
	if p, ok := s.groups[tid]; ok {
		return p
	}
	tgid, parent := family(int(tid))
	p := process{tgid: tgid}
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", tgid))
	args := strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")
	switch filepath.Base(args[0]) {
	case "dockerd", "containerd":
		p.role = filepath.Base(args[0])
		for _, other := range s.groups {
			if other.tgid == parent && other.role == p.role {
				p.role = roleLaunch
			}
		}
	case "containerd-shim-runc-v2":
		p.role = roleShim
		// A copy of a shim that has not executed anything is the runtime's child.
		for _, other := range s.groups {
			if other.tgid == parent && other.role == roleShim {
				p.role = roleRuntime
				if s.ignore[parent] {
					s.ignore[tgid] = true
				}
			}
		}
	}
	s.groups[tid] = p
	return p
}

// forget drops the threads that are gone: their numbers are used again.
func (s *Supervisor) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for tid := range s.groups {
		if state(int(tid)) == 0 {
			delete(s.groups, tid)
		}
	}
}

// family reads a thread's thread group and its parent.
func family(tid int) (tgid, parent int) {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch key {
		case "Tgid":
			tgid, _ = strconv.Atoi(strings.TrimSpace(value))
		case "PPid":
			parent, _ = strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return tgid, parent
}

// describe names a call, and reports whether it changes state that outlives it:
// a write to a pipe or to an event descriptor does not.
func describe(n *notification) (name, path string, counts bool) {
	c := calls[uintptr(n.NR)]
	switch c.arg {
	case byFD:
		path, _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.TID, int32(n.Args[0])))
		if strings.HasPrefix(path, "pipe:") || strings.HasPrefix(path, "anon_inode:") || strings.HasPrefix(path, "/dev/null") {
			return c.name, path, false
		}
		// The daemons' own output.
		if strings.HasSuffix(path, "dockerd.log") || strings.HasSuffix(path, "containerd.log") {
			return c.name, path, false
		}
	case byPath:
		path = readString(n.TID, n.Args[0])
	case byAt:
		path = readString(n.TID, n.Args[1])
	}
	return c.name, path, true
}

// onFile reports whether a failing disk could fail the call.
func onFile(nr int32, path string) bool {
	if !calls[uintptr(nr)].disk {
		return false
	}
	return !strings.HasPrefix(path, "socket:") && !strings.HasPrefix(path, "/proc/") && !strings.HasPrefix(path, "/sys/") && !strings.HasPrefix(path, "/dev/")
}

// readString copies a string from a thread's memory, for the record only.
func readString(tid uint32, addr uint64) string {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", tid))
	if err != nil {
		return ""
	}
	defer mem.Close()
	buf := make([]byte, 256)
	count, _ := mem.ReadAt(buf, int64(addr))
	text, _, _ := strings.Cut(string(buf[:count]), "\x00")
	return text
}

// auditArch is the constant of the machine in struct seccomp_data.
func auditArch() uint32 {
	if runtime.GOARCH == "arm64" {
		return unix.AUDIT_ARCH_AARCH64
	}
	return unix.AUDIT_ARCH_X86_64
}

// Offsets in struct seccomp_data.
const (
	offNR   = 0
	offArch = 4
	offArgs = 16
)

// program compiles the filter: notify for the calls of the table, allow others.
func program() []unix.SockFilter {
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		jeq  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		jset = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		ret  = unix.BPF_RET | unix.BPF_K
	)
	allow := unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW}
	notify := unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_USER_NOTIF}
	p := []unix.SockFilter{
		{Code: load, K: offArch},
		{Code: jeq, Jt: 1, K: auditArch()},
		allow,
		{Code: load, K: offNR},
	}
	low := func(arg int) uint32 { // the low half, on the machines that we have
		var probe [2]byte
		binary.NativeEndian.PutUint16(probe[:], 1)
		return uint32(offArgs + 8*arg + 4*int(probe[1]))
	}
	for nr, c := range calls {
		switch {
		case c.unless != 0: // thread creation
			p = append(p, unix.SockFilter{Code: jeq, K: uint32(nr), Jf: 4},
				unix.SockFilter{Code: load, K: low(c.flags)},
				unix.SockFilter{Code: jset, K: c.unless, Jf: 1}, allow, notify)
		case c.when != 0:
			p = append(p, unix.SockFilter{Code: jeq, K: uint32(nr), Jf: 4},
				unix.SockFilter{Code: load, K: low(c.flags)},
				unix.SockFilter{Code: jset, K: c.when, Jt: 1}, allow, notify)
		default:
			p = append(p, unix.SockFilter{Code: jeq, K: uint32(nr), Jf: 1}, notify)
		}
	}
	return append(p, allow)
}
