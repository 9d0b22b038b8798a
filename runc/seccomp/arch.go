package seccomp

import (
	"runtime"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/runc/seccomp/internal/syscalls"
)

// arch is a way for a process to make system calls.
type arch struct {
	name  specs.Arch
	audit uint32 // AUDIT_ARCH_*, what the kernel tells the filter
	table syscalls.Table
	wide  bool // arguments are 64 bits, all of which are compared
	big   bool // big-endian
	x32   bool // shares audit with amd64, has bit 30 of the number set
}

// arches are the architectures that the compiler knows.
var arches = []arch{
	{name: specs.ArchX86_64, audit: unix.AUDIT_ARCH_X86_64, table: syscalls.AMD64, wide: true},
	{name: specs.ArchX32, audit: unix.AUDIT_ARCH_X86_64, table: syscalls.X32, x32: true},
	{name: specs.ArchX86, audit: unix.AUDIT_ARCH_I386, table: syscalls.I386},
	{name: specs.ArchAARCH64, audit: unix.AUDIT_ARCH_AARCH64, table: syscalls.ARM64, wide: true},
	{name: specs.ArchARM, audit: unix.AUDIT_ARCH_ARM, table: syscalls.ARM},
	{name: specs.ArchRISCV64, audit: unix.AUDIT_ARCH_RISCV64, table: syscalls.RISCV64, wide: true},
	{name: specs.ArchLOONGARCH64, audit: unix.AUDIT_ARCH_LOONGARCH64, table: syscalls.LOONG64, wide: true},
	{name: specs.ArchPPC64LE, audit: unix.AUDIT_ARCH_PPC64LE, table: syscalls.PPC64LE, wide: true},
	{name: specs.ArchPPC64, audit: unix.AUDIT_ARCH_PPC64, table: syscalls.PPC64, wide: true, big: true},
	{name: specs.ArchPPC, audit: unix.AUDIT_ARCH_PPC, table: syscalls.PPC, big: true},
	{name: specs.ArchS390X, audit: unix.AUDIT_ARCH_S390X, table: syscalls.S390X, wide: true, big: true},
	{name: specs.ArchMIPS, audit: unix.AUDIT_ARCH_MIPS, table: syscalls.MIPS, big: true},
	{name: specs.ArchMIPSEL, audit: unix.AUDIT_ARCH_MIPSEL, table: syscalls.MIPS},
	{name: specs.ArchMIPS64, audit: unix.AUDIT_ARCH_MIPS64, table: syscalls.MIPS64, wide: true, big: true},
	{name: specs.ArchMIPSEL64, audit: unix.AUDIT_ARCH_MIPSEL64, table: syscalls.MIPS64, wide: true},
}

// withoutTable are architectures of the specification whose system calls this
// package does not know. A profile may name them; their calls are those of an
// architecture that the profile does not name.
var withoutTable = []specs.Arch{
	specs.ArchMIPS64N32, specs.ArchMIPSEL64N32, specs.ArchS390, specs.ArchPARISC,
	specs.ArchPARISC64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB,
}

// companions are, by GOARCH, the architecture of the kernel and the others that
// its processes can use.
var companions = map[string][]specs.Arch{
	"amd64":    {specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
	"386":      {specs.ArchX86, specs.ArchX86_64, specs.ArchX32},
	"arm64":    {specs.ArchAARCH64, specs.ArchARM},
	"arm":      {specs.ArchARM, specs.ArchAARCH64},
	"riscv64":  {specs.ArchRISCV64},
	"loong64":  {specs.ArchLOONGARCH64},
	"ppc64le":  {specs.ArchPPC64LE},
	"ppc64":    {specs.ArchPPC64, specs.ArchPPC},
	"s390x":    {specs.ArchS390X},
	"mips":     {specs.ArchMIPS, specs.ArchMIPS64},
	"mipsle":   {specs.ArchMIPSEL, specs.ArchMIPSEL64},
	"mips64":   {specs.ArchMIPS64, specs.ArchMIPS},
	"mips64le": {specs.ArchMIPSEL64, specs.ArchMIPSEL},
}

// private reports whether a number is outside the range that new system calls
// are added to: ARM has some of its own far above.
func (a arch) private(number uint32) bool {
	return a.name == specs.ArchARM && number >= 0xf0000
}

const nativeGOARCH = runtime.GOARCH

func findArch(name specs.Arch) (arch, bool) {
	for _, a := range arches {
		if a.name == name {
			return a, true
		}
	}
	return arch{}, false
}

// Multiplexed calls: on some architectures socket(...) is also made as
// socketcall(1, args), and shmget(...) as ipc(23, ...). Of ipc's first argument
// the kernel takes the lower half for the call (linux/net.h, linux/ipc.h).

const ipcCallMask = 0xffff

var socketCalls = map[string]uint64{
	"socket": 1, "bind": 2, "connect": 3, "listen": 4, "accept": 5,
	"getsockname": 6, "getpeername": 7, "socketpair": 8, "send": 9, "recv": 10,
	"sendto": 11, "recvfrom": 12, "shutdown": 13, "setsockopt": 14,
	"getsockopt": 15, "sendmsg": 16, "recvmsg": 17, "accept4": 18,
	"recvmmsg": 19, "sendmmsg": 20,
}

var ipcCalls = map[string]uint64{
	"semop": 1, "semget": 2, "semctl": 3, "semtimedop": 4,
	"msgsnd": 11, "msgrcv": 12, "msgget": 13, "msgctl": 14,
	"shmat": 21, "shmdt": 22, "shmget": 23, "shmctl": 24,
}
