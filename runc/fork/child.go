package fork

import (
	"syscall"
	"unsafe"

	"lighter/runc/plan"
)

// cloneArgs is struct clone_args of clone3(2), up to the field cgroup.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// How run makes an argument from op.arg.
const (
	immediate = iota // the value
	register         // the register of that number
	loadWord         // the word that op.word points to
)

// What an op is; the values are those of plan.Op.
const (
	opCall = iota
	opFork
	opSet
	opAssert
	opJump
	opFail
)

// op is a step with addresses and descriptors filled in. Indices are signed so
// that comparing them needs no care.
type op struct {
	nr     uintptr
	arg    [6]uintptr
	word   [6]*uint32
	store  *uint32 // where the low 32 bits of the result go, or nil
	least  uintptr
	ignore [3]uint64 // a bit per errno
	onOK   uintptr
	onIgn  uintptr
	index  uint32 // of the step in its plan
	kind   [6]uint8
	op     uint8
	save   uint8
}

// message is a plan.Message in the child.
type message struct {
	kind, index, value, pad uint32
	fd                      uintptr // the status descriptor
}

const (
	sysExitGroup = syscall.SYS_EXIT_GROUP
	sysWrite     = syscall.SYS_WRITE
	sysClone     = syscall.SYS_CLONE
	sysClone3    = 435 // the same on all architectures
	sysOpenat2   = 437

	failedKind  = 1   // plan.Failed
	eagainTries = 128 // openat2 races with renames; bounded, since they may be hostile

	exitFailed = 125 // exit status of a child whose plan failed
	exitEnd    = 126 // exit status of a plan that ran off its end
)

// exitHandler is the address of exitOnSignal.
func exitHandler() uintptr {
	f := exitOnSignal
	return **(**uintptr)(unsafe.Pointer(&f))
}

// exitOnSignal is a signal handler of the child. It takes no argument and needs
// nothing of the Go runtime.
//
//go:norace
//go:nosplit
//go:nocheckptr
func exitOnSignal() {
	for {
		syscall.RawSyscall6(sysExitGroup, plan.ExitSignal, 0, 0, 0, 0, 0)
	}
}

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// run forks. In the parent it returns the child's pid; in the child it runs the n
// ops and never returns.
//
// The child is single-threaded and has no Go runtime: no allocation, no stack
// growth (beforeFork makes that crash), no write barrier (nothing here stores a
// pointer), no bounds check that could fail.
//
//go:noinline
//go:norace
//go:nosplit
//go:nocheckptr
func run(args *cloneArgs, ops *op, n uintptr, regs *[256]uintptr, msg *message) (pid uintptr, errno syscall.Errno) {
	beforeFork()
	pid, _, errno = syscall.RawSyscall6(sysClone3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		afterFork()
		return pid, errno
	}
	afterForkInChild()

	var (
		i, r, next uintptr
		tries, k   int
		o          *op
		a          [6]uintptr
		e          syscall.Errno
	)
	for i < n {
		o = (*op)(unsafe.Add(unsafe.Pointer(ops), i*unsafe.Sizeof(op{})))
		for k = 0; k < 6; k++ {
			switch o.kind[k] {
			case register:
				a[k] = regs[uint8(o.arg[k])]
			case loadWord:
				a[k] = uintptr(*o.word[k])
			default:
				a[k] = o.arg[k]
			}
		}
		next, r, e = o.onOK, 0, 0
		switch o.op {
		case opFork:
			r, _, e = syscall.RawSyscall6(sysClone, a[0], 0, 0, 0, 0, 0)
			if r != 0 {
				next = i + 1
			}
		case opSet:
			r = a[0]
		case opAssert:
			if a[0] != a[1] {
				e = syscall.Errno(a[2])
			}
		case opJump:
		case opFail:
			e = syscall.Errno(a[0])
		default:
			tries = 0
		again:
			r, _, e = syscall.RawSyscall6(o.nr, a[0], a[1], a[2], a[3], a[4], a[5])
			if e == syscall.EINTR {
				goto again
			}
			if e == syscall.EAGAIN && o.nr == sysOpenat2 && tries < eagainTries {
				tries++
				goto again
			}
		}
		if e == 0 && r < o.least {
			e = syscall.ECANCELED
		}
		if e != 0 {
			if e < 192 && o.ignore[e/64]>>(e%64)&1 != 0 {
				i = o.onIgn
				continue
			}
			msg.kind, msg.index, msg.value = failedKind, o.index, uint32(e)
			syscall.RawSyscall6(sysWrite, msg.fd, uintptr(unsafe.Pointer(msg)), 16, 0, 0, 0)
			syscall.RawSyscall6(sysExitGroup, exitFailed, 0, 0, 0, 0, 0)
		}
		if o.save != 0 {
			regs[o.save] = r
		}
		if o.store != nil {
			*o.store = uint32(r)
		}
		i = next
	}
	for {
		syscall.RawSyscall6(sysExitGroup, exitEnd, 0, 0, 0, 0, 0)
	}
}
