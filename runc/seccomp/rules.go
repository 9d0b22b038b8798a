package seccomp

import (
	"cmp"
	"math"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/runc/seccomp/internal/syscalls"
)

// maxArgs is the number of arguments a system call can have.
const maxArgs = 6

// ruleset is a profile with names resolved to numbers.
type ruleset struct {
	arches  []archRules
	deny    uint32 // the return value for calls nobody has a rule for
	unknown int
	notify  bool
}

// archRules are the rules of one architecture.
type archRules struct {
	arch
	calls []*callRules // by number, ascending
	last  uint32       // the largest number that the profile names
	any   bool         // the profile names a call; else last has no meaning
	stub  bool         // calls above last fail with ENOSYS
}

// callRules are the rules of one system call.
type callRules struct {
	number        uint32
	unconditional bool
	ret           uint32 // if unconditional
	rules         []condRule
}

// condRule returns ret if all conditions hold.
type condRule struct {
	conds []cond
	ret   uint32
}

// cond compares an argument: (argument & mask) op value.
type cond struct {
	index uint8
	op    specs.LinuxSeccompOperator
	mask  uint64
	value uint64
}

// resolve checks the profile and sorts its rules by architecture and call.
func resolve(profile *specs.LinuxSeccomp, targets []arch) (*ruleset, error) {
	def, err := returnValue(profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	if profile.DefaultAction == specs.ActNotify {
		// Docker compatibility: runc's text, and the next one.
		return nil, invalid("SCMP_ACT_NOTIFY cannot be used as default action")
	}
	rs := &ruleset{deny: def, arches: make([]archRules, len(targets))}
	builders := make([]map[uint32]*callRules, len(targets))
	for i, a := range targets {
		rs.arches[i].arch = a
		rs.arches[i].stub = !permissive(profile.DefaultAction)
		builders[i] = make(map[uint32]*callRules, 512)
	}

	for _, s := range profile.Syscalls {
		ret, err := returnValue(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, err
		}
		conds, err := conditions(s.Args)
		if err != nil {
			return nil, err
		}
		for _, name := range s.Names {
			if name == "" {
				return nil, invalid("empty system call name")
			}
			if s.Action == specs.ActNotify && name == "write" {
				return nil, invalid("SCMP_ACT_NOTIFY cannot be used for the write syscall")
			}
			entry, found := syscalls.Lookup(name)
			mux, muxed := multiplexerOf(name)
			for i := range rs.arches {
				a := &rs.arches[i]
				if found {
					if n := entry.Number(a.table); n != syscalls.None {
						number := uint32(n)
						if !a.private(number) {
							a.last, a.any = max(a.last, number), true
						}
						if ret != def {
							add(builders[i], number, a.arch, conds, ret)
						}
					}
				}
				if muxed && ret != def && (len(conds) == 0 || stricter(ret, def)) {
					if n := mux.entry.Number(a.table); n != syscalls.None {
						add(builders[i], uint32(n), a.arch, []cond{mux.cond}, ret)
					}
				}
			}
			if !found && !muxed {
				rs.unknown++
			} else if s.Action == specs.ActNotify {
				rs.notify = true
			}
		}
	}

	for i, calls := range builders {
		list := make([]*callRules, 0, len(calls))
		for _, c := range calls {
			list = append(list, c)
		}
		slices.SortFunc(list, func(a, b *callRules) int { return cmp.Compare(a.number, b.number) })
		rs.arches[i].calls = list
	}
	return rs, nil
}

// add adds a rule of the profile: conds are all its conditions.
func add(calls map[uint32]*callRules, number uint32, a arch, conds []cond, ret uint32) {
	c := calls[number]
	if c == nil {
		c = &callRules{number: number}
		calls[number] = c
	}
	if c.unconditional {
		return
	}
	if len(conds) == 0 {
		c.unconditional, c.ret, c.rules = true, ret, nil
		return
	}
	if !a.wide {
		conds = narrow(conds)
	}
	if repeats(conds) {
		for i := range conds {
			c.rules = append(c.rules, condRule{conds[i : i+1 : i+1], ret})
		}
		return
	}
	c.rules = append(c.rules, condRule{conds, ret})
}

// multiplexer is the system call through which another is made too, and what
// its first argument then is.
type multiplexer struct {
	entry syscalls.Entry
	cond  cond
}

func multiplexerOf(name string) (multiplexer, bool) {
	call, mask := "socketcall", uint64(math.MaxUint64)
	sub, ok := socketCalls[name]
	if !ok {
		call, mask = "ipc", ipcCallMask
		sub, ok = ipcCalls[name]
	}
	if !ok {
		return multiplexer{}, false
	}
	entry, ok := syscalls.Lookup(call)
	return multiplexer{entry, cond{index: 0, op: specs.OpMaskedEqual, mask: mask, value: sub}}, ok
}

// narrow cuts conditions to 32 bits.
func narrow(conds []cond) []cond {
	conds = slices.Clone(conds)
	for i := range conds {
		conds[i].mask &= math.MaxUint32
		conds[i].value &= math.MaxUint32
	}
	return conds
}

// repeats reports whether two conditions are on the same argument.
func repeats(conds []cond) bool {
	var seen [maxArgs]bool
	for _, c := range conds {
		if seen[c.index] {
			return true
		}
		seen[c.index] = true
	}
	return false
}

func conditions(args []specs.LinuxSeccompArg) ([]cond, error) {
	if len(args) == 0 {
		return nil, nil
	}
	conds := make([]cond, len(args))
	for i, a := range args {
		if a.Index >= maxArgs {
			return nil, invalid("argument index %d: a system call has arguments 0 to 5", a.Index)
		}
		c := cond{index: uint8(a.Index), op: a.Op, mask: math.MaxUint64, value: a.Value}
		switch a.Op {
		case specs.OpMaskedEqual:
			c.mask, c.value = a.Value, a.ValueTwo
		case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan:
		default:
			return nil, invalid("unknown operator %q", a.Op)
		}
		conds[i] = c
	}
	return conds, nil
}

// returnValue is what the program returns for an action.
func returnValue(action specs.LinuxSeccompAction, errnoRet *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errnoRet != nil {
		if action != specs.ActErrno && action != specs.ActTrace {
			return 0, invalid("action %q has no errno", action)
		}
		if *errnoRet > unix.SECCOMP_RET_DATA {
			return 0, invalid("errno %d is more than 16 bits", *errnoRet)
		}
		data = uint32(*errnoRet)
	}
	switch action {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActNotify:
		return unix.SECCOMP_RET_USER_NOTIF, nil
	}
	return 0, invalid("unknown action %q", action)
}

// permissive reports whether the default action lets a new system call through:
// a tracer has to deal with those itself.
func permissive(action specs.LinuxSeccompAction) bool {
	return action == specs.ActAllow || action == specs.ActLog || action == specs.ActTrace
}

// stricter reports whether a takes precedence over b when the kernel runs
// several filters: the actions are ordered as signed numbers, kill first.
func stricter(a, b uint32) bool {
	return int32(a&unix.SECCOMP_RET_ACTION_FULL) < int32(b&unix.SECCOMP_RET_ACTION_FULL)
}
