package plan

import (
	"fmt"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Filter is a seccomp program.
type Filter struct {
	Program []unix.SockFilter
	Flags   uint32
	// Listener says that seccomp(2) returns a descriptor for the parent.
	Listener bool
}

// Process is what the last part of a plan turns the child into. It is made from a
// specs.Process; names have become numbers.
type Process struct {
	Args []string
	// Path is the program, if it is not Args[0].
	Path string
	Env  []string
	Cwd  string
	// Umask of the process.
	Umask    uint32
	UID, GID uint32
	Groups   []uint32
	// KeepGroups leaves the supplementary groups alone, for a user namespace
	// that does not allow setgroups(2).
	KeepGroups bool

	Caps CapSets
	// Have are the capabilities in the child's bounding set.
	Have       uint64
	NoNewPrivs bool
	Filter     *Filter

	Rlimits     []specs.POSIXRlimit
	WaitRlimits bool // the parent sets them: see Limiting
	Scheduler   *specs.Scheduler
	IOPriority  *specs.LinuxIOPriority
	Affinity    []byte // a CPU mask, or nil
	Personality *specs.LinuxPersonality
	Memory      *specs.LinuxMemoryPolicy

	// Terminal makes a pty the standard input and output. Its master is sent
	// over the socket that the parent passes as ConsoleFile.
	Terminal bool
	Console  *specs.Box
	// Newlines makes the pty pass newlines on without a carriage return.
	Newlines bool
	// Stdio says which of 0, 1, 2 the parent passes, as StdioFiles; the others
	// are NullFile. ChownStdio makes the user the owner of those.
	Stdio, ChownStdio [3]bool

	// Tasks is how many control groups of cgroup v1 the child moves itself into:
	// the parent passes the file "tasks" of each as TasksFile.
	Tasks int

	// AppArmor and SELinux are what is written as label for the next execve.
	AppArmor, SELinux string
	// OOMScoreAdj is written by the child when it is not nil.
	OOMScoreAdj *int
	// PreserveFDs is how many descriptors from 3 up the program inherits.
	PreserveFDs int
	// Gate makes the child wait before execve until GateFile has a byte, and
	// report what follows on ExecStatusFile.
	Gate bool
}

// ConsoleFile is the socket over which a pty's master is sent, NullFile is
// /dev/null.
const (
	ConsoleFile = "console"
	NullFile    = "null-device"
)

// StdioFiles are the names of the standard descriptors.
var StdioFiles = [3]string{"stdin", "stdout", "stderr"}

// Environment returns env with duplicate keys collapsed, the last one winning in
// the place of the first, and HOME set to home if it is missing or empty.
func Environment(env []string, home string) []string {
	at := make(map[string]int, len(env))
	out := make([]string, 0, len(env)+1)
	for _, e := range env {
		key, _, _ := strings.Cut(e, "=")
		if i, ok := at[key]; ok {
			out[i] = e
			continue
		}
		at[key] = len(out)
		out = append(out, e)
	}
	if i, ok := at["HOME"]; !ok {
		out = append(out, "HOME="+home)
	} else if out[i] == "HOME=" || out[i] == "HOME" {
		out[i] = "HOME=" + home
	}
	return out
}

// begin is the start of every plan: close what is not the plan's, become
// non-dumpable, install standard input and output.
func (b *builder) begin(p *Process, dumpable bool) {
	// The list of files is known at the end: Files of the finished plan.
	b.do(CloseOthers, "close descriptors of the parent", []Arg{num(uint64(p.PreserveFDs))})
	if !dumpable {
		b.prctl("become non-dumpable", "PR_SET_DUMPABLE", unix.PR_SET_DUMPABLE, 0)
	}
	if p.Terminal {
		return
	}
	for i, name := range StdioFiles {
		if !p.Stdio[i] {
			name = NullFile
		}
		b.call("install "+StdioFiles[i], unix.SYS_DUP3, []Arg{fileArg(name), num(uint64(i)), num(0)},
			ignore(unix.EINVAL)) // it already has that number
		if p.ChownStdio[i] {
			b.call("give "+StdioFiles[i]+" to the user", unix.SYS_FCHOWN, []Arg{num(uint64(i)), num(uint64(p.UID)), signed(-1)},
				ignore(unix.EPERM, unix.EINVAL, unix.EROFS))
		}
	}
}

// TasksFile is the name under which the parent passes the i-th file "tasks".
func TasksFile(i int) string { return "tasks-" + strconv.Itoa(i) }

// join appends the move into control groups. A process that writes itself, as
// "0", into "tasks" spares the kernel a lock over all processes, the taking of
// which lasts an RCU grace period (Linux 5.5); a parent that writes the child into
// "cgroup.procs" would wait milliseconds for it.
func (b *builder) join(p *Process) {
	for i := range p.Tasks {
		b.call("join control group", unix.SYS_WRITE, []Arg{fileArg(TasksFile(i)), b.string("0"), num(1)})
	}
}

// self appends writes to files of /proc/self, for which the child is still in the
// host's mount namespace.
func (b *builder) self(p *Process) {
	write := b.writeSelf
	if p.OOMScoreAdj != nil {
		write(fmt.Sprintf("set oom_score_adj to %d", *p.OOMScoreAdj), "oom_score_adj", fmt.Sprint(*p.OOMScoreAdj))
	}
	if p.AppArmor != "" {
		write("set AppArmor profile "+p.AppArmor, "attr/apparmor/exec", "exec "+p.AppArmor)
	}
	if p.SELinux != "" {
		write("set SELinux label "+p.SELinux, "attr/exec", p.SELinux)
	}
}

// writeSelf appends a write to a file of /proc/self.
func (b *builder) writeSelf(what, file, value string) {
	fd := b.register("self")
	b.openResolve("open "+file, cwdArg, "/proc/self/"+file, unix.O_WRONLY, 0, fd)
	b.call(what, unix.SYS_WRITE, []Arg{reg(fd), b.string(value), num(uint64(len(value)))}, least(1))
	b.call("close "+file, unix.SYS_CLOSE, []Arg{reg(fd)})
}

// limits appends resource limits and scheduling.
func (b *builder) limits(p *Process) {
	if p.WaitRlimits {
		b.send("report that limits are due", Limiting, 0)
		b.wait("wait for limits", SyncFile)
	}
	for _, l := range p.Rlimits {
		id, err := RlimitID(l.Type)
		if err != nil {
			b.fail(err)
			return
		}
		what := fmt.Sprintf("set %s to %d:%d", l.Type, l.Soft, l.Hard)
		b.call(what, unix.SYS_PRLIMIT64, []Arg{num(0), shown(id, l.Type), addr(b.buffer(quads(l.Soft, l.Hard))), num(0)})
	}
	if p.Scheduler != nil {
		b.scheduler(p.Scheduler)
	}
	if p.IOPriority != nil {
		b.ioPriority(p.IOPriority)
	}
	if len(p.Affinity) > 0 {
		b.call("set CPU affinity", unix.SYS_SCHED_SETAFFINITY, []Arg{num(0), num(uint64(len(p.Affinity))), addr(b.buffer(p.Affinity))})
	}
	if p.Personality != nil {
		b.personality(p.Personality)
	}
	if p.Memory != nil {
		b.memoryPolicy(p.Memory)
	}
}

// become appends everything from the user change to execve. The current directory
// is the root.
func (b *builder) become(p *Process) {
	if len(p.Args) == 0 {
		b.fail(fmt.Errorf("process.args: at least one argument is needed: %w", errInvalid))
		return
	}
	// From here on no descriptor leads out of the root (CVE-2024-21626), and a low
	// limit of open files does no harm.
	keep := []Arg{num(uint64(p.PreserveFDs)), fileArg(StatusFile)}
	if p.Gate {
		keep = append(keep, fileArg(GateFile), fileArg(ExecStatusFile))
	}
	if p.WaitRlimits || p.Filter != nil && p.Filter.Listener {
		keep = append(keep, fileArg(SyncFile))
	}
	b.do(CloseOthers, "close all other descriptors", keep)
	b.limits(p)
	b.boundingDrops(p.Have, p.Caps.Bounding)
	b.prctl("keep capabilities over the user change", "PR_SET_KEEPCAPS", unix.PR_SET_KEEPCAPS, 1)
	cwdDone := b.label()
	b.cwd(p.Cwd, cwdDone, unix.EACCES, unix.EPERM)
	skip := b.label()
	b.user(p)
	b.do(Jump, "working directory is to be entered as the user", nil, onOK(skip))
	b.place(cwdDone)
	b.user(p)
	entered := b.label()
	b.do(Jump, "working directory is entered", nil, onOK(entered))
	b.place(skip)
	b.cwd(p.Cwd, entered)
	b.place(entered)
	b.call("set umask", unix.SYS_UMASK, []Arg{shown(uint64(p.Umask), "0"+strconv.FormatUint(uint64(p.Umask), 8))})

	// Without no_new_privs seccomp(2) wants CAP_SYS_ADMIN: it is kept for that
	// call and given up after it.
	extra := uint64(0)
	if p.Filter != nil && !p.NoNewPrivs {
		extra = (1 << unix.CAP_SYS_ADMIN) & p.Have
	}
	b.capset("set capabilities", p.Caps.Effective|extra, p.Caps.Permitted|extra, p.Caps.Inheritable)
	b.ambient(p.Caps.Ambient)
	if p.NoNewPrivs {
		b.prctl("set no_new_privs", "PR_SET_NO_NEW_PRIVS", unix.PR_SET_NO_NEW_PRIVS, 1)
	}
	if p.Gate {
		b.endable()
	}
	program := b.lookup(p)
	b.do(CloseOthers, "close what the lookups opened", keep)
	if p.Filter != nil {
		b.seccomp(p.Filter)
	}
	if extra != 0 {
		b.capset("give up CAP_SYS_ADMIN", p.Caps.Effective, p.Caps.Permitted, p.Caps.Inheritable)
	}
	if p.Gate {
		b.send("report that setup is complete", Ready, 0)
		b.call("report to the starter from now on", unix.SYS_DUP3, []Arg{fileArg(ExecStatusFile), fileArg(StatusFile), num(unix.O_CLOEXEC)})
		b.wait("wait for start", GateFile)
	}
	argv, envp := b.strings(p.Args), b.strings(p.Env)
	b.call("exec "+p.program(), unix.SYS_EXECVE, []Arg{
		reg(program),
		{Kind: Address, Buf: argv, Form: CStrings},
		{Kind: Address, Buf: envp, Form: Count},
	}, func(s *Step) { s.Program = p.program() })
}

// program is the name of the program as it was given.
func (p *Process) program() string {
	if p.Path != "" {
		return p.Path
	}
	return p.Args[0]
}

// ExitSignal is the exit status of an init that SIGTERM ended at its gate.
const ExitSignal = 128 + 15

// endable appends handlers that let common signals end a process that waits at the
// gate, which the kernel keeps from the first of a pid namespace otherwise. execve
// takes them away.
func (b *builder) endable() {
	const saRestorer = 0x04000000 // the handler does not return, but amd64 wants the field
	action := b.buffer(quads(0, saRestorer, 0, 0))
	if runtime.GOARCH == "riscv64" || runtime.GOARCH == "loong64" { // without that field
		action = b.buffer(quads(0, 0, 0))
	}
	b.p.Buffers[action-1].Exits = []int{0}
	for _, sig := range []syscall.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGTERM} {
		name := unix.SignalName(sig)
		b.call("let "+name+" end it until start", unix.SYS_RT_SIGACTION,
			[]Arg{shown(uint64(sig), name), {Kind: Address, Buf: action, Show: "exit"}, num(0), num(8)})
	}
}

// user appends the change of groups and user.
func (b *builder) user(p *Process) {
	if !p.KeepGroups {
		groups := b.buffer(words(p.Groups...))
		b.call("set supplementary groups", unix.SYS_SETGROUPS, []Arg{num(uint64(len(p.Groups))),
			{Kind: Address, Buf: groups, Show: fmt.Sprint(p.Groups)}})
	}
	uid, gid := num(uint64(p.UID)), num(uint64(p.GID))
	b.call(fmt.Sprintf("set group to %d", p.GID), unix.SYS_SETRESGID, []Arg{gid, gid, gid})
	b.call(fmt.Sprintf("set user to %d", p.UID), unix.SYS_SETRESUID, []Arg{uid, uid, uid})
}

// cwd appends the change of directory. The directory is found below the current
// one, which is the root, and no magic link is followed: it lies inside the root.
func (b *builder) cwd(dir string, done Label, ign ...syscall.Errno) {
	fd := b.register("cwd")
	over := b.label()
	b.open("enter working directory "+dir, cwdArg, dir, unix.O_PATH|unix.O_DIRECTORY, fd, ignore(ign...), onIgnored(over))
	b.call("enter working directory "+dir, unix.SYS_FCHDIR, []Arg{reg(fd)}, ignore(ign...), onOK(done))
	b.place(over)
}

// lookup appends the search for the program and returns the register that will
// hold the address of its path. It runs as the user and in its directory, so
// permissions are those that execve will meet.
func (b *builder) lookup(p *Process) Reg {
	program := b.register("program")
	name := p.program()
	prog := func(s *Step) { s.Program = name }
	const access = unix.X_OK
	if strings.Contains(name, "/") {
		file := b.label()
		b.call("exec", unix.SYS_FACCESSAT2, []Arg{cwdArg, b.string(name), shown(access, "X_OK"), num(unix.AT_EACCESS)}, prog)
		b.openResolve("exec", cwdArg, name, unix.O_PATH|unix.O_DIRECTORY, 0, program, prog, ignoreAll, onIgnored(file))
		b.do(Fail, "exec", []Arg{shown(uint64(unix.EISDIR), "EISDIR")}, prog)
		b.place(file)
		b.do(Set, "use "+name, []Arg{b.string(name)}, save(program))
		return program
	}
	// EACCES is reported only if no later directory has the program.
	result := b.buffer(words(uint32(unix.ENOENT)))
	found := b.label()
	for _, dir := range pathDirs(p.Env) {
		file := path.Join(dir, name)
		next, denied := b.label(), b.label()
		b.call("look for "+file, unix.SYS_FACCESSAT2, []Arg{cwdArg, b.string(file), shown(0, "F_OK"), num(unix.AT_EACCESS)},
			ignore(unix.ENOENT, unix.ENOTDIR, unix.EACCES, unix.ELOOP, unix.ENAMETOOLONG), onIgnored(next), prog)
		b.call("may "+file+" be executed", unix.SYS_FACCESSAT2, []Arg{cwdArg, b.string(file), shown(access, "X_OK"), num(unix.AT_EACCESS)},
			ignore(unix.EACCES, unix.ENOENT), onIgnored(denied), prog)
		b.do(Set, "use "+file, []Arg{b.string(file)}, save(program))
		b.openResolve("is "+file+" a directory", cwdArg, file, unix.O_PATH|unix.O_DIRECTORY, 0, b.register("dir"),
			ignoreAll, onIgnored(found))
		b.place(denied)
		b.do(Set, "remember that "+file+" may not be executed", []Arg{num(uint64(unix.EACCES))}, store(result, 0))
		b.place(next)
	}
	b.do(Fail, "exec", []Arg{word(result, 0)}, prog)
	b.place(found)
	return program
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func pathDirs(env []string) []string {
	list := defaultPath
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			list = v
		}
	}
	var dirs []string
	for _, d := range strings.Split(list, ":") {
		if d == "" {
			d = "."
		}
		if !slices.Contains(dirs, d) {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

// programError renders the failure to find or execute the user's program.
//
// Docker compatibility: clients and dockerd choose exit code 126 or 127 by these
// words of runc.
func programError(s Step, e syscall.Errno) string {
	if s.Nr == unix.SYS_EXECVE {
		return fmt.Sprintf("exec %s: %v", s.Program, e)
	}
	switch {
	case e == unix.ENOENT && !strings.Contains(s.Program, "/"):
		return fmt.Sprintf("exec: %q: executable file not found in $PATH", s.Program)
	case e == unix.EACCES || e == unix.EPERM:
		return fmt.Sprintf("exec: %q: permission denied", s.Program)
	case e == unix.EISDIR:
		return fmt.Sprintf("exec: %q: is a directory", s.Program)
	}
	return fmt.Sprintf("exec: %q: stat %s: %v", s.Program, s.Program, e)
}

// seccomp appends the installation of f.
func (b *builder) seccomp(f *Filter) {
	code := make([]byte, 0, 8*len(f.Program))
	for _, i := range f.Program {
		code = append(code, byte(i.Code), byte(i.Code>>8), i.Jt, i.Jf)
		code = append(code, words(i.K)...)
	}
	prog := b.buffer(quads(uint64(len(f.Program)), 0)) // struct sock_fprog: a short, padding, a pointer
	b.ref(prog, 8, b.buffer(code))
	fd := b.register("listener")
	const setModeFilter = 1
	b.call("install seccomp filter", unix.SYS_SECCOMP, []Arg{shown(setModeFilter, "SECCOMP_SET_MODE_FILTER"), num(uint64(f.Flags)),
		{Kind: Address, Buf: prog, Show: fmt.Sprintf("%d instructions", len(f.Program))}}, save(fd))
	if f.Listener {
		b.send("report seccomp listener", Listening, fd)
		b.wait("wait for the seccomp agent", SyncFile)
	}
}
