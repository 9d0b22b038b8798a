package plan

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// String returns the plan as text, one step a line:
//
//	12  openat2($dev, "null", PATH|NOFOLLOW in root, 24) -> $target  # open /dev/null
//
// A "?" lists errors after which the plan goes on, ">" leads to another step.
func (p *Plan) String() string {
	var b strings.Builder
	for i := range p.Steps {
		fmt.Fprintf(&b, "%3d  %s  # %s\n", i, p.format(&p.Steps[i]), p.Steps[i].What)
	}
	return b.String()
}

// MarshalJSON writes the steps as objects with the fields index, call, args,
// save, ignore, onOK, onIgnored and what.
func (p *Plan) MarshalJSON() ([]byte, error) {
	type row struct {
		Index     int      `json:"index"`
		Call      string   `json:"call"`
		Args      []string `json:"args"`
		Save      string   `json:"save,omitempty"`
		Ignore    []string `json:"ignore,omitempty"`
		OnOK      *int     `json:"onOK,omitempty"`
		OnIgnored *int     `json:"onIgnored,omitempty"`
		What      string   `json:"what"`
	}
	rows := make([]row, 0, len(p.Steps))
	for i := range p.Steps {
		s := &p.Steps[i]
		r := row{Index: i, Call: s.name(), Args: []string{}, Ignore: s.ignored(), What: s.What}
		for _, a := range s.Args {
			r.Args = append(r.Args, p.arg(a))
		}
		if s.Save != 0 {
			r.Save = p.Regs[s.Save-1]
		}
		if s.OnOK != 0 {
			r.OnOK = &p.Labels[s.OnOK-1]
		}
		if s.OnIgnored != 0 {
			r.OnIgnored = &p.Labels[s.OnIgnored-1]
		}
		rows = append(rows, r)
	}
	return json.Marshal(rows)
}

func (p *Plan) format(s *Step) string {
	var b strings.Builder
	b.WriteString(s.name())
	b.WriteByte('(')
	for i, a := range s.Args {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(p.arg(a))
	}
	b.WriteByte(')')
	if s.Save != 0 {
		fmt.Fprintf(&b, " -> $%s", p.Regs[s.Save-1])
	}
	if s.Store != 0 {
		fmt.Fprintf(&b, " -> b%d+%d", s.Store, s.StoreAt)
	}
	if s.OnOK != 0 {
		fmt.Fprintf(&b, " > %d", p.Labels[s.OnOK-1])
	}
	if ign := s.ignored(); len(ign) > 0 {
		fmt.Fprintf(&b, " ? %s", strings.Join(ign, " "))
		if s.OnIgnored != 0 {
			fmt.Fprintf(&b, " > %d", p.Labels[s.OnIgnored-1])
		}
	}
	return b.String()
}

func (s *Step) ignored() []string {
	if s.IgnoreAll {
		return []string{"any error"}
	}
	var names []string
	for _, e := range s.Ignore {
		names = append(names, unix.ErrnoName(e))
	}
	return names
}

func (s *Step) name() string {
	switch s.Op {
	case Call:
		if n, ok := callNames[s.Nr]; ok {
			return n
		}
		return "syscall_" + strconv.Itoa(int(s.Nr))
	case Fork:
		return "FORK"
	case Set:
		return "SET"
	case Assert:
		return "ASSERT"
	case Jump:
		return "JUMP"
	case Fail:
		return "FAIL"
	case CloseOthers:
		return "CLOSE_OTHERS"
	}
	return "UNKNOWN"
}

func (p *Plan) arg(a Arg) string {
	if a.Show != "" && a.Kind != File {
		return a.Show
	}
	switch a.Kind {
	case Register:
		return "$" + p.Regs[a.N-1]
	case Address:
		switch data := p.Buffers[a.Buf-1].Data; a.Form {
		case CString:
			return strconv.Quote(p.text(a.Buf))
		case CStrings:
			var list []string
			for _, r := range p.Buffers[a.Buf-1].Refs {
				list = append(list, p.text(r.To))
			}
			return fmt.Sprintf("%q", list)
		case Count:
			return fmt.Sprintf("%d strings", len(p.Buffers[a.Buf-1].Refs))
		case OpenHow:
			return showOpen(binary.NativeEndian.Uint64(data), binary.NativeEndian.Uint64(data[16:]))
		case MountAttr:
			return fmt.Sprintf("{set:%#x clear:%#x propagation:%#x}", binary.NativeEndian.Uint64(data),
				binary.NativeEndian.Uint64(data[8:]), binary.NativeEndian.Uint64(data[16:]))
		}
		if a.N != 0 {
			return fmt.Sprintf("b%d+%d", a.Buf, a.N)
		}
		return fmt.Sprintf("b%d", a.Buf)
	case Word:
		return fmt.Sprintf("b%d[%d]", a.Buf, a.N)
	case File:
		return "@" + a.Name
	}
	if n := int64(a.N); n < 0 && n > -1<<16 {
		return strconv.FormatInt(n, 10)
	}
	if a.N > 1<<16 {
		return "0x" + strconv.FormatUint(a.N, 16)
	}
	return strconv.FormatUint(a.N, 10)
}

// text returns the C string in a buffer.
func (p *Plan) text(b Buf) string {
	data := p.Buffers[b-1].Data
	return string(data[:len(data)-1])
}

func showOpen(flags, resolve uint64) string {
	var f []string
	for _, x := range []struct {
		bit  uint64
		name string
	}{
		{unix.O_PATH, "PATH"}, {unix.O_WRONLY, "WRONLY"}, {unix.O_RDWR, "RDWR"}, {unix.O_DIRECTORY, "DIRECTORY"},
		{unix.O_NOFOLLOW, "NOFOLLOW"}, {unix.O_NOCTTY, "NOCTTY"}, {unix.O_NONBLOCK, "NONBLOCK"},
	} {
		if flags&x.bit != 0 {
			f = append(f, x.name)
		}
	}
	if len(f) == 0 {
		f = append(f, "RDONLY")
	}
	s := strings.Join(f, "|")
	for _, x := range []struct {
		bit  uint64
		name string
	}{
		{unix.RESOLVE_IN_ROOT, "in root"}, {unix.RESOLVE_BENEATH, "beneath"},
		{unix.RESOLVE_NO_SYMLINKS, "no symlinks"}, {unix.RESOLVE_NO_XDEV, "one mount"},
	} {
		if resolve&x.bit != 0 {
			s += " " + x.name
		}
	}
	return s
}

var callNames = map[uintptr]string{
	unix.SYS_CAPSET: "capset", unix.SYS_CHDIR: "chdir", unix.SYS_CHROOT: "chroot", unix.SYS_CLOSE: "close",
	unix.SYS_CLOSE_RANGE: "close_range", unix.SYS_DUP3: "dup3", unix.SYS_EXECVE: "execve", unix.SYS_EXIT_GROUP: "exit_group",
	unix.SYS_FACCESSAT2: "faccessat2", unix.SYS_FCHDIR: "fchdir", unix.SYS_FCHMOD: "fchmod", unix.SYS_FCHMODAT: "fchmodat",
	unix.SYS_FCHOWN: "fchown", unix.SYS_FCHOWNAT: "fchownat", unix.SYS_FSCONFIG: "fsconfig", unix.SYS_FSMOUNT: "fsmount",
	unix.SYS_FSOPEN: "fsopen", unix.SYS_FSTAT: "fstat", unix.SYS_FSTATFS: "fstatfs", unix.SYS_IOCTL: "ioctl",
	unix.SYS_IOPRIO_SET: "ioprio_set", unix.SYS_KEYCTL: "keyctl", unix.SYS_MKDIRAT: "mkdirat", unix.SYS_MKNODAT: "mknodat",
	unix.SYS_MOUNT: "mount", unix.SYS_MOUNT_SETATTR: "mount_setattr", unix.SYS_MOVE_MOUNT: "move_mount",
	unix.SYS_OPEN_TREE: "open_tree", unix.SYS_OPENAT2: "openat2", unix.SYS_PERSONALITY: "personality",
	unix.SYS_PIVOT_ROOT: "pivot_root", unix.SYS_PRCTL: "prctl", unix.SYS_PRLIMIT64: "prlimit64", unix.SYS_READ: "read",
	unix.SYS_RT_SIGACTION: "rt_sigaction", unix.SYS_SCHED_SETAFFINITY: "sched_setaffinity", unix.SYS_SCHED_SETATTR: "sched_setattr", unix.SYS_SECCOMP: "seccomp",
	unix.SYS_SENDMSG: "sendmsg", unix.SYS_SET_MEMPOLICY: "set_mempolicy", unix.SYS_SETDOMAINNAME: "setdomainname",
	unix.SYS_SETGROUPS: "setgroups", unix.SYS_SETHOSTNAME: "sethostname", unix.SYS_SETNS: "setns", unix.SYS_SETRESGID: "setresgid",
	unix.SYS_SETRESUID: "setresuid", unix.SYS_SETSID: "setsid", unix.SYS_SYMLINKAT: "symlinkat", unix.SYS_UMASK: "umask",
	unix.SYS_UMOUNT2: "umount2", unix.SYS_UNLINKAT: "unlinkat", unix.SYS_UNSHARE: "unshare", unix.SYS_WAIT4: "wait4",
	unix.SYS_WRITE: "write",
}
