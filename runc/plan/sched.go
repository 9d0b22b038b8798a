package plan

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// RlimitID returns the number of the limit that a POSIXRlimit names.
func RlimitID(name string) (uint64, error) {
	switch name {
	case "RLIMIT_CPU":
		return unix.RLIMIT_CPU, nil
	case "RLIMIT_FSIZE":
		return unix.RLIMIT_FSIZE, nil
	case "RLIMIT_DATA":
		return unix.RLIMIT_DATA, nil
	case "RLIMIT_STACK":
		return unix.RLIMIT_STACK, nil
	case "RLIMIT_CORE":
		return unix.RLIMIT_CORE, nil
	case "RLIMIT_RSS":
		return unix.RLIMIT_RSS, nil
	case "RLIMIT_NPROC":
		return unix.RLIMIT_NPROC, nil
	case "RLIMIT_NOFILE":
		return unix.RLIMIT_NOFILE, nil
	case "RLIMIT_MEMLOCK":
		return unix.RLIMIT_MEMLOCK, nil
	case "RLIMIT_AS":
		return unix.RLIMIT_AS, nil
	case "RLIMIT_LOCKS":
		return unix.RLIMIT_LOCKS, nil
	case "RLIMIT_SIGPENDING":
		return unix.RLIMIT_SIGPENDING, nil
	case "RLIMIT_MSGQUEUE":
		return unix.RLIMIT_MSGQUEUE, nil
	case "RLIMIT_NICE":
		return unix.RLIMIT_NICE, nil
	case "RLIMIT_RTPRIO":
		return unix.RLIMIT_RTPRIO, nil
	case "RLIMIT_RTTIME":
		return unix.RLIMIT_RTTIME, nil
	}
	return 0, fmt.Errorf("process.rlimits: unknown type %q: %w", name, errInvalid)
}

var schedPolicies = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther: 0, specs.SchedFIFO: 1, specs.SchedRR: 2, specs.SchedBatch: 3, specs.SchedISO: 4,
	specs.SchedIdle: 5, specs.SchedDeadline: 6,
}

var schedFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork: 0x01, specs.SchedFlagReclaim: 0x02, specs.SchedFlagDLOverrun: 0x04,
	specs.SchedFlagKeepPolicy: 0x08, specs.SchedFlagKeepParams: 0x10, specs.SchedFlagUtilClampMin: 0x20,
	specs.SchedFlagUtilClampMax: 0x40,
}

func (b *builder) scheduler(s *specs.Scheduler) {
	policy, ok := schedPolicies[s.Policy]
	if !ok {
		b.fail(fmt.Errorf("process.scheduler.policy: unknown policy %q: %w", s.Policy, errInvalid))
		return
	}
	var flags uint64
	for _, f := range s.Flags {
		bit, ok := schedFlags[f]
		if !ok {
			b.fail(fmt.Errorf("process.scheduler.flags: unknown flag %q: %w", f, errInvalid))
			return
		}
		flags |= bit
	}
	attr := make([]byte, 48) // struct sched_attr, version 0
	binary.NativeEndian.PutUint32(attr[0:], 48)
	binary.NativeEndian.PutUint32(attr[4:], policy)
	binary.NativeEndian.PutUint64(attr[8:], flags)
	binary.NativeEndian.PutUint32(attr[16:], uint32(s.Nice))
	binary.NativeEndian.PutUint32(attr[20:], uint32(s.Priority))
	binary.NativeEndian.PutUint64(attr[24:], s.Runtime)
	binary.NativeEndian.PutUint64(attr[32:], s.Deadline)
	binary.NativeEndian.PutUint64(attr[40:], s.Period)
	b.call("set scheduler "+string(s.Policy), unix.SYS_SCHED_SETATTR, []Arg{num(0), addr(b.buffer(attr)), num(0)})
}

func (b *builder) ioPriority(p *specs.LinuxIOPriority) {
	classes := map[specs.IOPriorityClass]uint64{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}
	class, ok := classes[p.Class]
	if !ok || p.Priority < 0 || p.Priority > 7 {
		b.fail(fmt.Errorf("process.ioPriority: class %q, priority %d is not valid: %w", p.Class, p.Priority, errInvalid))
		return
	}
	const whoProcess = 1
	b.call(fmt.Sprintf("set I/O priority %s %d", p.Class, p.Priority), unix.SYS_IOPRIO_SET,
		[]Arg{num(whoProcess), num(0), num(class<<13 | uint64(p.Priority))})
}

func (b *builder) personality(p *specs.LinuxPersonality) {
	var domain uint64
	switch p.Domain {
	case specs.PerLinux:
	case specs.PerLinux32:
		domain = 8
	default:
		b.fail(fmt.Errorf("linux.personality.domain: unknown domain %q: %w", p.Domain, errInvalid))
		return
	}
	b.call("set personality "+string(p.Domain), unix.SYS_PERSONALITY, []Arg{num(domain)})
}

var memoryModes = map[specs.MemoryPolicyModeType]uint64{
	"MPOL_DEFAULT": 0, "MPOL_PREFERRED": 1, "MPOL_BIND": 2, "MPOL_INTERLEAVE": 3, "MPOL_LOCAL": 4,
	"MPOL_PREFERRED_MANY": 5, "MPOL_WEIGHTED_INTERLEAVE": 6,
}

var memoryFlags = map[specs.MemoryPolicyFlagType]uint64{
	"MPOL_F_STATIC_NODES": 1 << 15, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_NUMA_BALANCING": 1 << 13,
}

func (b *builder) memoryPolicy(m *specs.LinuxMemoryPolicy) {
	mode, ok := memoryModes[m.Mode]
	if !ok {
		b.fail(fmt.Errorf("linux.memoryPolicy.mode: invalid memory policy mode %q: %w", m.Mode, errInvalid))
		return
	}
	for _, f := range m.Flags {
		bit, ok := memoryFlags[f]
		if !ok {
			b.fail(fmt.Errorf("linux.memoryPolicy.flags: invalid memory policy flag %q: %w", f, errInvalid))
			return
		}
		mode |= bit
	}
	mask, err := ParseList(m.Nodes, 1024)
	if err != nil {
		b.fail(fmt.Errorf("linux.memoryPolicy.nodes: invalid memory policy node: %w", err))
		return
	}
	nodes, size := num(0), uint64(0)
	if strings.TrimSpace(m.Nodes) != "" {
		if m.Mode == "MPOL_DEFAULT" || m.Mode == "MPOL_LOCAL" {
			b.fail(fmt.Errorf("linux.memoryPolicy: %s mode requires 0 nodes but got %d: %w", m.Mode, population(mask), errInvalid))
			return
		}
		nodes, size = addr(b.buffer(mask)), uint64(len(mask)*8)+1
	}
	b.call("set memory policy "+string(m.Mode), unix.SYS_SET_MEMPOLICY, []Arg{num(mode), nodes, num(size)})
}

// population is how many bits of mask are set.
func population(mask []byte) int {
	n := 0
	for _, b := range mask {
		n += bits.OnesCount8(b)
	}
	return n
}

// ParseList turns a list such as "0-3,7" into a bit mask of at least one 64-bit
// word. Numbers must be below limit. The error is InvalidArgument.
func ParseList(list string, limit int) ([]byte, error) {
	mask := make([]uint64, 1)
	for _, part := range strings.Split(list, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		lo, hi, isRange := strings.Cut(part, "-")
		from, err := strconv.Atoi(lo)
		to := from
		if err == nil && isRange {
			to, err = strconv.Atoi(hi)
		}
		if err != nil || from < 0 || to < from || to >= limit {
			return nil, fmt.Errorf("bad range %q in list %q: %w", part, list, errInvalid)
		}
		for i := from; i <= to; i++ {
			for len(mask) <= i/64 {
				mask = append(mask, 0)
			}
			mask[i/64] |= 1 << (i % 64)
		}
	}
	return quads(mask...), nil
}
