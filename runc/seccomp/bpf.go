package seccomp

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16 // eight bytes each
)

const (
	retENOSYS = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	// retBadArch is for calls in the way of an architecture that the profile
	// does not name: its numbers would mean other calls.
	retBadArch = unix.SECCOMP_RET_KILL_PROCESS
)

const (
	opLoad = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opRet  = unix.BPF_RET | unix.BPF_K
	opJump = unix.BPF_JMP | unix.BPF_JA
	opJEQ  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opJGT  = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	opJGE  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
)

// label is a place in the program, counted from its end, so that it stays the
// same while instructions are put in front.
type label int

// assembler builds a program from its last instruction to its first: BPF only
// jumps forward, so every target exists before the jump to it.
type assembler struct {
	code  []unix.SockFilter // reversed
	rets  map[uint32]label  // the latest instruction that returns a value
	conds map[string]label  // the latest block for conditions, by their key
}

// emit puts an instruction in front of the program.
func (a *assembler) emit(op uint16, k uint32, jt, jf uint8) label {
	a.code = append(a.code, unix.SockFilter{Code: op, Jt: jt, Jf: jf, K: k})
	return label(len(a.code) - 1)
}

// next is the label of the instruction that emit makes next.
func (a *assembler) next() label { return label(len(a.code)) }

// skip is how many instructions a jump emitted next has to jump over to come to
// to.
func (a *assembler) skip(to label) int { return int(a.next()) - 1 - int(to) }

// maxSkip is how far a conditional jump reaches; some less, because jumps may be
// put in between.
const maxSkip = 255 - 2

// near returns a label in reach that leads to to.
func (a *assembler) near(to label) label {
	if a.skip(to) <= maxSkip {
		return to
	}
	return a.emit(opJump, uint32(a.skip(to)), 0, 0)
}

// branch emits a conditional jump.
func (a *assembler) branch(op uint16, k uint32, yes, no label) label {
	yes = a.near(yes)
	no = a.near(no)
	return a.emit(op, k, uint8(a.skip(yes)), uint8(a.skip(no)))
}

// ret returns a label that returns value, an old one if it is in reach.
func (a *assembler) ret(value uint32) label {
	if to, ok := a.rets[value]; ok && a.skip(to) <= maxSkip {
		return to
	}
	to := a.emit(opRet, value, 0, 0)
	a.rets[value] = to
	return to
}

// then makes to the instruction after the one emitted next.
func (a *assembler) then(to label) {
	if a.skip(to) != 0 {
		a.emit(opJump, uint32(a.skip(to)), 0, 0)
	}
}

// finish returns the program.
func (a *assembler) finish() []unix.SockFilter {
	slices.Reverse(a.code)
	return a.code
}

// segment is a range of system call numbers, up to the next segment's first,
// that have the same rules.
type segment struct {
	first uint32
	ret   uint32
	rules []condRule // if not empty, ret is for when none holds
	arch  *arch
}

func (s segment) same(o segment) bool {
	return s.ret == o.ret && len(s.rules) == 0 && len(o.rules) == 0
}

// generate compiles the rules:
//
//	load arch; == this one? its numbers : the next? ... : kill
//	each: load number; binary search; return, or check arguments and return
func generate(rs *ruleset) ([]unix.SockFilter, error) {
	a := &assembler{
		code:  make([]unix.SockFilter, 0, 1024),
		rets:  make(map[uint32]label),
		conds: make(map[string]label),
	}
	entry := a.ret(retBadArch)
	// The first architecture is the machine's own; it comes first.
	for i := len(rs.arches) - 1; i >= 0; i-- {
		ar := &rs.arches[i]
		if ar.x32 {
			continue // comes with amd64
		}
		segs := ar.segments(rs.deny)
		if ar.audit == unix.AUDIT_ARCH_X86_64 {
			segs = append(segs, x32Segments(rs)...)
		}
		next := entry
		search := a.search(merge(segs))
		a.then(search)
		numbers := a.emit(opLoad, offNumber, 0, 0)
		entry = a.branch(opJEQ, ar.audit, numbers, next)
	}
	a.then(entry)
	a.emit(opLoad, offArch, 0, 0)
	if len(a.code) > maxInstructions {
		return nil, fmt.Errorf("the program has %d instructions, the kernel's limit is %d: %w", len(a.code), maxInstructions, errdefs.ErrInvalidArgument)
	}
	return a.finish(), nil
}

// segments are the ranges of an architecture, from number 0. For x32 the numbers
// start at x32Bit.
func (ar *archRules) segments(deny uint32) []segment {
	first := uint32(0)
	if ar.x32 {
		first = x32Bit
	}
	segs := make([]segment, 0, 2*len(ar.calls)+4)
	segs = append(segs, segment{first: first, ret: deny})
	stub := ar.stub && ar.any
	if stub && ar.name == specs.ArchS390X {
		// A number that the kernel does not know comes as 0 here, the long-gone
		// setup(2).
		segs = append(segs, segment{first: 0, ret: retENOSYS}, segment{first: 1, ret: deny})
	}
	for _, c := range ar.calls {
		s := segment{first: c.number, ret: deny, rules: c.rules, arch: &ar.arch}
		if c.unconditional {
			s.ret = c.ret
		}
		after := segment{first: c.number + 1, ret: deny}
		if stub && after.first > ar.last {
			after.ret = retENOSYS
		}
		segs = append(segs, s, after)
	}
	if !stub {
		return segs
	}
	// Behind the last there may still be calls: ARM's private ones, and
	// socketcall for a name that is no call of its own. A call that starts where
	// a gap does comes after it and counts.
	at, _ := slices.BinarySearchFunc(segs, ar.last+1, func(s segment, n uint32) int { return cmp.Compare(s.first, n) })
	return slices.Insert(segs, at, segment{first: ar.last + 1, ret: retENOSYS})
}

const x32Bit = 0x40000000

// x32Segments are the ranges of amd64 from x32Bit on. A number of -1 is not a
// call but a tracer's way to skip one.
func x32Segments(rs *ruleset) []segment {
	for i := range rs.arches {
		if rs.arches[i].x32 {
			return rs.arches[i].segments(rs.deny)
		}
	}
	return []segment{{first: x32Bit, ret: retBadArch}, {first: 1<<32 - 1, ret: rs.deny}}
}

// merge drops ranges that are empty or like the one before.
func merge(segs []segment) []segment {
	out := segs[:0]
	for _, s := range segs {
		if n := len(out); n > 0 && out[n-1].first == s.first {
			out = out[:n-1]
		}
		if n := len(out); n > 0 && out[n-1].same(s) {
			continue
		}
		out = append(out, s)
	}
	return out
}

// search emits a binary search over segs and returns where it starts. The
// number is in the accumulator.
func (a *assembler) search(segs []segment) label {
	if len(segs) == 1 {
		return a.leaf(segs[0])
	}
	mid := len(segs) / 2
	above := a.search(segs[mid:])
	below := a.search(segs[:mid])
	return a.branch(opJGE, segs[mid].first, above, below)
}

func (a *assembler) leaf(s segment) label {
	if len(s.rules) == 0 {
		return a.ret(s.ret)
	}
	// Many calls have the same conditions.
	key := fmt.Sprint(s.arch.wide, s.arch.big, s.ret, s.rules)
	if to, ok := a.conds[key]; ok {
		return to
	}
	otherwise := a.ret(s.ret)
	for i := len(s.rules) - 1; i >= 0; i-- {
		r := s.rules[i]
		holds := a.ret(r.ret)
		for j := len(r.conds) - 1; j >= 0; j-- {
			holds = a.compare(s.arch, r.conds[j], holds, otherwise)
		}
		otherwise = holds
	}
	a.conds[key] = otherwise
	return otherwise
}

// compare emits a comparison of an argument, the upper half first.
func (a *assembler) compare(ar *arch, c cond, yes, no label) label {
	// Each operator is one of three or its opposite.
	op := c.op
	switch op {
	case specs.OpNotEqual:
		op, yes, no = specs.OpEqualTo, no, yes
	case specs.OpLessThan:
		op, yes, no = specs.OpGreaterEqual, no, yes
	case specs.OpLessEqual:
		op, yes, no = specs.OpGreaterThan, no, yes
	case specs.OpMaskedEqual:
		op = specs.OpEqualTo
	}
	jump := map[specs.LinuxSeccompOperator]uint16{
		specs.OpEqualTo: opJEQ, specs.OpGreaterEqual: opJGE, specs.OpGreaterThan: opJGT,
	}[op]

	low, high := offArgs+8*uint32(c.index), offArgs+8*uint32(c.index)+4
	if ar.big {
		low, high = high, low
	}
	entry := a.compareHalf(jump, low, uint32(c.mask), uint32(c.value), yes, no)
	if !ar.wide {
		return entry
	}
	mask, value := uint32(c.mask>>32), uint32(c.value>>32)
	if mask == 0 && value == 0 {
		return entry // the upper half is not asked for
	}
	// Equal upper halves leave it to the lower; for > and >= a larger one is
	// enough.
	if op != specs.OpEqualTo {
		equal := a.branch(opJEQ, value, entry, no)
		a.branch(opJGT, value, yes, equal)
	} else {
		a.branch(opJEQ, value, entry, no)
	}
	return a.load(high, mask)
}

func (a *assembler) compareHalf(jump uint16, offset, mask, value uint32, yes, no label) label {
	a.branch(jump, value, yes, no)
	return a.load(offset, mask)
}

// load loads a half of an argument for the comparison that was emitted last.
func (a *assembler) load(offset, mask uint32) label {
	if mask != 1<<32-1 {
		a.emit(opAnd, mask, 0, 0)
	}
	return a.emit(opLoad, offset, 0, 0)
}
