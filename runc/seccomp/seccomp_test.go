package seccomp

import (
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/containerd/errdefs"
	mobyseccomp "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/runc/seccomp/internal/syscalls"
)

// model decides as the package comment says, without any of the compiler's
// means: it reads the profile from the top for each call.
func model(t testing.TB, p *specs.LinuxSeccomp, a arch, number uint32, args [maxArgs]uint64) uint32 {
	t.Helper()
	def, err := returnValue(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		t.Fatal(err)
	}
	last, any := uint32(0), false
	var conditional []func() (uint32, bool)
	for _, s := range p.Syscalls {
		ret, err := returnValue(s.Action, s.ErrnoRet)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range s.Names {
			if n := numberOf(name, a); n >= 0 && !a.private(uint32(n)) {
				any, last = true, max(last, uint32(n))
			}
			if ret == def {
				continue
			}
			direct := numberOf(name, a) == int(number)
			sub, isSocket := socketCalls[name]
			isSocket = isSocket && numberOf("socketcall", a) == int(number)
			if !isSocket {
				sub = ipcCalls[name]
			}
			isIPC := sub > 0 && !isSocket && numberOf("ipc", a) == int(number)
			if direct && len(s.Args) == 0 {
				return ret
			}
			if direct {
				conditional = append(conditional, func() (uint32, bool) { return ret, matches(s.Args, args, a) })
			}
			if (isSocket || isIPC) && (len(s.Args) == 0 || kernelOrder(ret) < kernelOrder(def)) {
				mask := uint64(math.MaxUint64)
				if isIPC {
					mask = 0xffff
				}
				conditional = append(conditional, func() (uint32, bool) {
					first := args[0]
					if !a.wide {
						first &= math.MaxUint32
					}
					return ret, first&mask == sub
				})
			}
		}
	}
	for _, rule := range conditional {
		if ret, ok := rule(); ok {
			return ret
		}
	}
	letsThrough := slices.Contains([]specs.LinuxSeccompAction{specs.ActAllow, specs.ActLog, specs.ActTrace}, p.DefaultAction)
	if any && !letsThrough && len(conditional) == 0 && (number > last || number == 0 && a.name == specs.ArchS390X) {
		return 0x00050000 | uint32(unix.ENOSYS)
	}
	return def
}

func kernelOrder(ret uint32) int {
	return slices.Index([]uint32{0x80000000, 0, 0x00030000, 0x00050000, 0x7fc00000, 0x7ff00000, 0x7ffc0000, 0x7fff0000}, ret&0xffff0000)
}

func numberOf(name string, a arch) int {
	e, ok := syscalls.Lookup(name)
	if !ok {
		return -1
	}
	return e.Number(a.table)
}

func matches(conds []specs.LinuxSeccompArg, args [maxArgs]uint64, a arch) bool {
	one := func(c specs.LinuxSeccompArg) bool {
		arg, v, v2 := args[c.Index], c.Value, c.ValueTwo
		if !a.wide {
			arg, v, v2 = arg&math.MaxUint32, v&math.MaxUint32, v2&math.MaxUint32
		}
		switch c.Op {
		case specs.OpEqualTo:
			return arg == v
		case specs.OpNotEqual:
			return arg != v
		case specs.OpLessThan:
			return arg < v
		case specs.OpLessEqual:
			return arg <= v
		case specs.OpGreaterThan:
			return arg > v
		case specs.OpGreaterEqual:
			return arg >= v
		case specs.OpMaskedEqual:
			return arg&v == v2
		}
		panic(c.Op)
	}
	var count [maxArgs]int
	for _, c := range conds {
		count[c.Index]++
	}
	if slices.Max(count[:]) > 1 {
		return slices.ContainsFunc(conds, one)
	}
	return !slices.ContainsFunc(conds, func(c specs.LinuxSeccompArg) bool { return !one(c) })
}

// numbers are those worth asking about: all of an architecture and around.
func numbers(a arch) []uint32 {
	var list []uint32
	base := map[specs.Arch]uint32{specs.ArchX32: x32Bit, specs.ArchMIPS: 4000, specs.ArchMIPS64: 5000, specs.ArchMIPSEL64: 5000}[a.name]
	if base != x32Bit {
		list = append(list, 0, 1)
	}
	for n := range uint32(600) {
		list = append(list, base+n)
	}
	syscalls.All(func(_ string, e syscalls.Entry) bool {
		if n := e.Number(a.table); n != syscalls.None {
			list = append(list, uint32(n), uint32(n)+1)
		}
		return true
	})
	if !a.x32 && a.name != specs.ArchX86_64 {
		list = append(list, math.MaxUint32, math.MaxUint32-1, x32Bit, x32Bit+1)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// check compares program and model for every number of every architecture of
// goarch, with the given arguments.
func check(t testing.TB, p *specs.LinuxSeccomp, goarch string, argLists [][maxArgs]uint64) {
	t.Helper()
	prog, err := compile(p, goarch)
	if err != nil {
		t.Fatal(err)
	}
	targets, err := targetArches(p.Architectures, goarch)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range targets {
		for _, n := range numbers(a) {
			for _, args := range argLists {
				d := data{number: n, arch: a.audit, args: args, big: a.big}
				got, _, err := run(prog.Filter, d)
				if err != nil {
					t.Fatal(err)
				}
				if want := model(t, p, a, n, args); got != want {
					t.Fatalf("%s %s: call %d (%#x) args %#x: program says %#x, model %#x", goarch, a.name, n, n, args, got, want)
				}
			}
		}
	}
	got, _, err := run(prog.Filter, data{number: 1, arch: 0x1234})
	if err != nil || got != retBadArch {
		t.Errorf("unknown architecture: %#x, %v", got, err)
	}
}

func defaultProfile(t testing.TB, caps ...string) *specs.LinuxSeccomp {
	t.Helper()
	spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}}
	p, err := mobyseccomp.GetDefaultProfile(spec)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDefaultProfile(t *testing.T) {
	args := [][maxArgs]uint64{{}, {38}, {39}, {40}, {41}, {8}, {0x20008}, {0xffffffff}, {1<<32 | 2}, {0x10000000}, {0x7e020000, 0x7e020000}}
	for _, goarch := range []string{"amd64", "arm64", "s390x", "ppc64", "mips64"} {
		for _, caps := range [][]string{nil, {"CAP_SYS_ADMIN"}} {
			t.Run(goarch+"/"+strings.Join(caps, ","), func(t *testing.T) {
				p := defaultProfile(t, caps...)
				p.Architectures = nil
				for _, a := range arches {
					p.Architectures = append(p.Architectures, a.name)
				}
				check(t, p, goarch, args)
			})
		}
	}
}

func TestDefaultProfileDecisions(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("numbers and profile are of amd64")
	}
	prog, err := Compile(defaultProfile(t))
	if err != nil {
		t.Fatal(err)
	}
	const eperm = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	worst := 0
	for _, tt := range []struct {
		name string
		arch uint32
		nr   uint32
		args [maxArgs]uint64
		want uint32
	}{
		{"read", unix.AUDIT_ARCH_X86_64, unix.SYS_READ, [6]uint64{}, unix.SECCOMP_RET_ALLOW},
		{"mount", unix.AUDIT_ARCH_X86_64, unix.SYS_MOUNT, [6]uint64{}, eperm},
		{"clone thread", unix.AUDIT_ARCH_X86_64, unix.SYS_CLONE, [6]uint64{unix.CLONE_VM | unix.CLONE_THREAD}, unix.SECCOMP_RET_ALLOW},
		{"clone newuser", unix.AUDIT_ARCH_X86_64, unix.SYS_CLONE, [6]uint64{unix.CLONE_NEWUSER}, eperm},
		{"clone3", unix.AUDIT_ARCH_X86_64, unix.SYS_CLONE3, [6]uint64{}, retENOSYS},
		{"socket inet", unix.AUDIT_ARCH_X86_64, unix.SYS_SOCKET, [6]uint64{unix.AF_INET}, unix.SECCOMP_RET_ALLOW},
		{"socket alg", unix.AUDIT_ARCH_X86_64, unix.SYS_SOCKET, [6]uint64{unix.AF_ALG}, eperm}, // CVE-2026-31431
		{"socket vsock", unix.AUDIT_ARCH_X86_64, unix.SYS_SOCKET, [6]uint64{unix.AF_VSOCK}, eperm},
		{"i386 socket inet", unix.AUDIT_ARCH_I386, 359, [6]uint64{unix.AF_INET}, unix.SECCOMP_RET_ALLOW},
		{"i386 socket alg", unix.AUDIT_ARCH_I386, 359, [6]uint64{unix.AF_ALG}, eperm},
		{"new call", unix.AUDIT_ARCH_X86_64, 1000, [6]uint64{}, retENOSYS},
		{"skipped call", unix.AUDIT_ARCH_X86_64, math.MaxUint32, [6]uint64{}, retENOSYS},
		{"x32 read", unix.AUDIT_ARCH_X86_64, x32Bit, [6]uint64{}, unix.SECCOMP_RET_ALLOW},
		{"x32 mount", unix.AUDIT_ARCH_X86_64, x32Bit | 165, [6]uint64{}, eperm},
		{"arm", unix.AUDIT_ARCH_ARM, 1, [6]uint64{}, retBadArch},
	} {
		got, steps, err := run(prog.Filter, data{number: tt.nr, arch: tt.arch, args: tt.args})
		if err != nil || got != tt.want {
			t.Errorf("%s: %#x, %v, want %#x", tt.name, got, err, tt.want)
		}
		worst = max(worst, steps)
	}
	t.Logf("%d instructions, at most %d run", len(prog.Filter), worst)
	if worst > 40 {
		t.Errorf("%d instructions for one call", worst)
	}
	if prog.Listener || prog.Flags != unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW {
		t.Errorf("flags %#x, listener %v", prog.Flags, prog.Listener)
	}
}

func u(n uint) *uint { return &n }

func TestRules(t *testing.T) {
	errno := func(names []string, n *uint, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: names, Action: specs.ActErrno, ErrnoRet: n, Args: args}
	}
	allow := func(names []string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: names, Action: specs.ActAllow, Args: args}
	}
	arg := func(i uint, op specs.LinuxSeccompOperator, v, v2 uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: i, Op: op, Value: v, ValueTwo: v2}
	}
	profiles := map[string]*specs.LinuxSeccomp{
		"empty":      {DefaultAction: specs.ActErrno},
		"allow":      {DefaultAction: specs.ActAllow},
		"kill":       {DefaultAction: specs.ActKillProcess, Syscalls: []specs.LinuxSyscall{allow([]string{"read"})}},
		"enxio":      {DefaultAction: specs.ActErrno, DefaultErrnoRet: u(6), Syscalls: []specs.LinuxSyscall{allow([]string{"read"})}},
		"blacklist":  {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{errno([]string{"mkdir", "mkdirat"}, u(100))}},
		"redundant":  {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{allow([]string{"read"}), errno([]string{"openat2"}, nil), errno([]string{"mseal"}, u(2))}},
		"first wins": {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{errno([]string{"dup3"}, u(9), arg(0, specs.OpEqualTo, 1, 0)), allow([]string{"dup3"}, arg(0, specs.OpLessThan, 5, 0)), allow([]string{"dup"}), errno([]string{"dup"}, u(3))}},
		"unconditional wins": {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{errno([]string{"dup3"}, u(9), arg(0, specs.OpEqualTo, 1, 0)), allow([]string{"dup3"}),
			errno([]string{"dup3"}, u(9), arg(0, specs.OpEqualTo, 2, 0))}},
		"and": {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{allow([]string{"ftruncate"}, arg(0, specs.OpEqualTo, 3, 0), arg(1, specs.OpGreaterThan, 1<<32+2, 0))}},
		"or":  {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{allow([]string{"ftruncate"}, arg(0, specs.OpEqualTo, 3, 0), arg(0, specs.OpEqualTo, 5, 0), arg(1, specs.OpEqualTo, 1, 0))}},
		"all operators": {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
			allow([]string{"dup"}, arg(0, specs.OpEqualTo, 1<<32+2, 0)), allow([]string{"dup2"}, arg(0, specs.OpNotEqual, 1<<32+2, 0)),
			allow([]string{"dup3"}, arg(0, specs.OpLessThan, 1<<32+2, 0)), allow([]string{"read"}, arg(0, specs.OpLessEqual, 1<<32+2, 0)),
			allow([]string{"write"}, arg(0, specs.OpGreaterThan, 1<<32+2, 0)), allow([]string{"close"}, arg(0, specs.OpGreaterEqual, 1<<32+2, 0)),
			allow([]string{"kill"}, arg(0, specs.OpMaskedEqual, 1<<32+2, 1<<32)), allow([]string{"tkill"}, arg(0, specs.OpMaskedEqual, 3, 2)),
			allow([]string{"tgkill"}, arg(0, specs.OpMaskedEqual, 1, 2)), allow([]string{"lseek"}, arg(0, specs.OpMaskedEqual, 1, 1<<32)),
		}},
		"mux relaxed":    {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{allow([]string{"socket", "semop"}, arg(0, specs.OpEqualTo, 1, 0)), allow([]string{"connect", "shmget", "send"})}},
		"mux restricted": {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{errno([]string{"socket", "semop"}, nil, arg(0, specs.OpEqualTo, 38, 0)), errno([]string{"connect", "shmget", "send"}, nil)}},
		"mux allowed":    {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{allow([]string{"socketcall", "ipc"}), allow([]string{"connect"})}},
		"arm private":    {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{allow([]string{"read", "set_tls", "breakpoint"})}},
	}
	argLists := [][maxArgs]uint64{{}, {1}, {2}, {3}, {3, 1<<32 + 2}, {3, 1<<32 + 3}, {5}, {7, 1}, {1<<32 + 2}, {1<<32 + 1}, {1<<32 + 3}, {2<<32 + 1}, {38}, {23}, {1<<16 | 23}, {1 << 32}, {math.MaxUint64}}
	for name, p := range profiles {
		for _, goarch := range []string{"amd64", "arm64", "s390x", "mips"} {
			t.Run(name+"/"+goarch, func(t *testing.T) {
				p := *p
				for _, a := range arches {
					p.Architectures = append(p.Architectures, a.name)
				}
				check(t, &p, goarch, argLists)
			})
		}
	}
}

func TestActions(t *testing.T) {
	want := map[specs.LinuxSeccompAction]uint32{
		specs.ActKill: 0, specs.ActKillThread: 0, specs.ActKillProcess: 0x80000000, specs.ActTrap: 0x30000,
		specs.ActErrno: 0x50001, specs.ActTrace: 0x7ff00001, specs.ActLog: 0x7ffc0000, specs.ActAllow: 0x7fff0000, specs.ActNotify: 0x7fc00000,
	}
	for action, ret := range want {
		p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: u(7), ListenerPath: "/x",
			Syscalls: []specs.LinuxSyscall{{Names: []string{"getpid"}, Action: action}}}
		prog, err := compile(p, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		if got, _, _ := run(prog.Filter, data{number: 39, arch: unix.AUDIT_ARCH_X86_64}); got != ret {
			t.Errorf("%s: %#x, want %#x", action, got, ret)
		}
		if prog.Listener != (action == specs.ActNotify) || (prog.Flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0) != prog.Listener {
			t.Errorf("%s: listener %v, flags %#x", action, prog.Listener, prog.Flags)
		}
	}
}

func TestX32NotNamed(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	prog, err := compile(p, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[uint32]uint32{1: unix.SECCOMP_RET_ALLOW, x32Bit: retBadArch, x32Bit + 5: retBadArch, math.MaxUint32: unix.SECCOMP_RET_ALLOW} {
		if got, _, err := run(prog.Filter, data{number: n, arch: unix.AUDIT_ARCH_X86_64}); got != want || err != nil {
			t.Errorf("call %#x: %#x, %v, want %#x", n, got, err, want)
		}
	}
}

func TestFlags(t *testing.T) {
	notify := []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}}
	for _, tt := range []struct {
		name  string
		flags []specs.LinuxSeccompFlag
		calls []specs.LinuxSyscall
		want  uint32
	}{
		{"none", nil, nil, 4},
		{"empty", []specs.LinuxSeccompFlag{}, nil, 0},
		{"tsync", []specs.LinuxSeccompFlag{flagTSYNC}, nil, 0},
		{"log and spec", []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow}, nil, 6},
		{"wait without listener", []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}, nil, 0},
		{"wait", []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}, notify, 8 | 32},
	} {
		p, err := compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: tt.flags, Syscalls: tt.calls, ListenerPath: "/l"}, "amd64")
		if err != nil || p.Flags != tt.want {
			t.Errorf("%s: %+v, %v, want flags %#x", tt.name, p, err, tt.want)
		}
	}
}

func TestInvalid(t *testing.T) {
	call := func(s specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, ListenerPath: "/l", Syscalls: []specs.LinuxSyscall{s}}
	}
	big := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	for i := range uint64(3000) {
		big.Syscalls = append(big.Syscalls, specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: specs.OpEqualTo, Value: i}}})
	}
	for name, tt := range map[string]struct {
		p    *specs.LinuxSeccomp
		want string
	}{
		"nil":            {nil, "no default action"},
		"empty":          {&specs.LinuxSeccomp{}, "no default action"},
		"action":         {&specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_MAYBE"}, `unknown action "SCMP_ACT_MAYBE"`},
		"rule action":    {call(specs.LinuxSyscall{Names: []string{"read"}, Action: ""}), `unknown action ""`},
		"architecture":   {&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"SCMP_ARCH_VAX"}}, "unknown architecture"},
		"flag":           {&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"X"}}, `unknown flag "X"`},
		"operator":       {call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: "=="}}}), "unknown operator"},
		"index":          {call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}), "argument index 6"},
		"errno of allow": {call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, ErrnoRet: u(1)}), "has no errno"},
		"errno":          {call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, ErrnoRet: u(1 << 16)}), "more than 16 bits"},
		"empty name":     {call(specs.LinuxSyscall{Names: []string{""}, Action: specs.ActAllow}), "empty system call name"},
		"notify write":   {call(specs.LinuxSyscall{Names: []string{"write"}, Action: specs.ActNotify}), "SCMP_ACT_NOTIFY cannot be used for the write syscall"},
		"notify default": {&specs.LinuxSeccomp{DefaultAction: specs.ActNotify}, "SCMP_ACT_NOTIFY cannot be used as default action"},
		"no listener":    {&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}}}, "listenerPath is empty"},
		"too large":      {big, "the kernel's limit is 4096"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Compile(tt.p)
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func TestUnknown(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: []string{"read", "frobnicate", "set_tls", "send"}, Action: specs.ActAllow}}}
	prog, err := compile(p, "amd64")
	if err != nil || prog.Unknown != 1 {
		t.Errorf("Unknown = %+v, %v, want 1", prog, err)
	}
}

// TestManyActions makes as different a rule for each call as it can, for long
// jumps.
func TestManyActions(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86, specs.ArchX32}}
	i := uint(0)
	syscalls.All(func(name string, _ syscalls.Entry) bool {
		i++
		s := specs.LinuxSyscall{Names: []string{name}, Action: specs.ActErrno, ErrnoRet: u(100 + i)}
		if i%8 == 0 {
			s.Args = []specs.LinuxSeccompArg{{Index: i % 6, Op: specs.OpGreaterThan, Value: uint64(i)}}
		}
		p.Syscalls = append(p.Syscalls, s)
		return true
	})
	check(t, p, "amd64", [][maxArgs]uint64{{}, {300, 300, 300, 300, 300, 300}})
}

// TestKernel loads the default profile into the kernel, in a process of its own.
func TestKernel(t *testing.T) {
	if os.Getenv("SECCOMP_TEST_CHILD") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKernel$", "-test.v")
		cmd.Env = append(os.Environ(), "SECCOMP_TEST_CHILD=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	runtime.LockOSThread() // the filter is on this thread, which ends with the test
	prog, err := Compile(defaultProfile(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	fprog := unix.SockFprog{Len: uint16(len(prog.Filter)), Filter: &prog.Filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(prog.Flags), uintptr(unsafe.Pointer(&fprog))); errno != 0 {
		t.Fatalf("seccomp: %v", errno)
	}
	for _, tt := range []struct {
		name string
		nr   uintptr
		arg  uintptr
		want unix.Errno
	}{
		{"getpid", unix.SYS_GETPID, 0, 0},
		{"close", unix.SYS_CLOSE, math.MaxInt32, unix.EBADF},
		{"unshare", unix.SYS_UNSHARE, 0, unix.EPERM},
		{"clone3", unix.SYS_CLONE3, 0, unix.ENOSYS},
		{"socket alg", unix.SYS_SOCKET, unix.AF_ALG, unix.EPERM},
		{"unknown", 1000, 0, unix.ENOSYS},
		{"clone newuser", unix.SYS_CLONE, unix.CLONE_NEWUSER, unix.EPERM},
		{"personality", unix.SYS_PERSONALITY, 0xffffffff, 0},
		{"personality", unix.SYS_PERSONALITY, 0x1234, unix.EPERM},
	} {
		if _, _, errno := unix.RawSyscall(tt.nr, tt.arg, 0, 0); errno != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, errno, tt.want)
		}
	}
}

func BenchmarkCompile_DockerDefault(b *testing.B) {
	p := defaultProfile(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(p); err != nil {
			b.Fatal(err)
		}
	}
}
