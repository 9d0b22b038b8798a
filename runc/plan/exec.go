package plan

import (
	"sort"

	"golang.org/x/sys/unix"
)

// Exec is the input of CompileExec.
type Exec struct {
	Process *Process
	// Namespaces are the CLONE_NEW* flags of those of the container that differ
	// from the parent's; TargetFile refers to its init process.
	Namespaces uint64
	// NewUser says that a user namespace is among them. Fork says that the pid
	// namespace needs another fork after it has been joined.
	NewUser, Fork bool
	// ChangeRoot says that the container shares the parent's mount namespace: its
	// root directory, which the parent passes as RootFile, is entered by chroot.
	ChangeRoot bool
	// InitialAffinity is the CPU mask until the last moment, or nil.
	InitialAffinity []byte
	NoNewKeyring    bool
	ID              string
}

// TargetFile is the pidfd of the process whose namespaces are joined.
const TargetFile = "target"

// CompileExec makes the plan of an additional process in a container.
func CompileExec(in *Exec) (*Plan, error) {
	b := newBuilder()
	p := in.Process
	b.begin(p, false)
	b.join(p)
	if len(in.InitialAffinity) > 0 {
		b.call("set initial CPU affinity", unix.SYS_SCHED_SETAFFINITY,
			[]Arg{num(0), num(uint64(len(in.InitialAffinity))), addr(b.buffer(in.InitialAffinity))})
	}
	b.self(p)
	b.call("start a session", unix.SYS_SETSID, nil)
	if in.Namespaces != 0 {
		b.call("join the container's namespaces", unix.SYS_SETNS, []Arg{fileArg(TargetFile), num(in.Namespaces)})
	}
	if in.Fork {
		b.fork()
	}
	if in.NewUser {
		b.rootOfNamespace()
	}
	if !in.NoNewKeyring {
		b.keyring(in.ID)
	}
	if in.ChangeRoot {
		b.changeRoot()
	}
	// setns(2) into a mount namespace leaves the process in its root directory.
	if p.Terminal {
		b.controlTerminal(b.pty(p, cwdArg))
	}
	b.become(p)
	return b.done()
}

// changeRoot appends the change into the root directory RootFile.
func (b *builder) changeRoot() {
	b.call("enter root", unix.SYS_FCHDIR, []Arg{fileArg(RootFile)})
	b.call("change root", unix.SYS_CHROOT, []Arg{b.string(".")})
}

// rootOfNamespace appends the change to user 0 of a user namespace, which may not
// have one.
func (b *builder) rootOfNamespace() {
	zero := num(0)
	b.call("become root of the user namespace", unix.SYS_SETRESGID, []Arg{zero, zero, zero}, ignore(unix.EINVAL))
	b.call("become root of the user namespace", unix.SYS_SETRESUID, []Arg{zero, zero, zero}, ignore(unix.EINVAL))
}

// Hook is the input of CompileHook.
type Hook struct {
	Args, Env []string
	Path      string
	// Namespaces are joined through TargetFile.
	Namespaces uint64
	// Cwd is the working directory.
	Cwd string
	// As, if not nil, is what the hook's process becomes: its user, capabilities,
	// limits and seccomp filter are those of the container's process.
	As *Process
	// NewUser says that a user namespace is joined; ChangeRoot is as in Exec.
	NewUser, ChangeRoot bool
}

// CompileHook makes the plan of a hook. The process that runs it forks again,
// waits for the hook and reports its wait status as a Done message, so that the
// parent learns it without having to compete for it with the process's reaper.
func CompileHook(in *Hook) (*Plan, error) {
	b := newBuilder()
	stdio := &Process{Stdio: [3]bool{true, true, true}}
	b.begin(stdio, false)
	if in.Namespaces != 0 {
		b.call("join the container's namespaces", unix.SYS_SETNS, []Arg{fileArg(TargetFile), num(in.Namespaces)})
	}
	if in.ChangeRoot {
		b.changeRoot()
	}
	if in.Cwd != "" {
		b.call("enter "+in.Cwd, unix.SYS_CHDIR, []Arg{b.string(in.Cwd)})
	}
	child := b.label()
	pid, status := b.register("pid"), b.space(4)
	b.do(Fork, "fork", []Arg{shown(uint64(unix.SIGCHLD), "SIGCHLD")}, save(pid), onOK(child))
	b.send("report the hook's pid", Spawned, pid)
	b.call("wait for the hook", unix.SYS_WAIT4, []Arg{reg(pid), addr(status), num(0), num(0)})
	out := b.buffer(Message{Kind: Done}.Encode())
	b.do(Set, "report the hook's exit", []Arg{word(status, 0)}, store(out, 8))
	b.call("report the hook's exit", unix.SYS_WRITE, []Arg{fileArg(StatusFile), addr(out), num(MessageSize)}, least(MessageSize))
	b.call("exit", unix.SYS_EXIT_GROUP, []Arg{num(0)})
	b.place(child)
	if in.As != nil {
		p := *in.As
		p.Args, p.Env, p.Path, p.Gate, p.PreserveFDs = in.Args, in.Env, in.Path, false, 0
		b.call("start a session", unix.SYS_SETSID, nil)
		if in.NewUser {
			b.rootOfNamespace()
		}
		b.become(&p)
		return b.done()
	}
	// Its own group, so that a hook that takes too long can be ended whole.
	b.call("start a session", unix.SYS_SETSID, nil)
	b.call("exec "+in.Path, unix.SYS_EXECVE, []Arg{b.string(in.Path), addr(b.strings(in.Args)), addr(b.strings(in.Env))},
		func(s *Step) { s.Program = in.Path })
	return b.done()
}

// Parked makes the plan of a process that does nothing but wait for its parent to
// give it up. Its namespaces can be used while it waits.
func Parked() (*Plan, error) {
	b := newBuilder()
	b.do(CloseOthers, "close descriptors of the parent", []Arg{num(0)})
	b.wait("wait for the parent", SyncFile)
	b.call("exit", unix.SYS_EXIT_GROUP, []Arg{num(0)})
	// The status descriptor belongs to every plan.
	b.call("unreachable", unix.SYS_CLOSE, []Arg{fileArg(StatusFile)})
	return b.done()
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
