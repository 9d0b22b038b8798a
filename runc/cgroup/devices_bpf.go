package cgroup

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// On v2 there is no device list: a program of type BPF_PROG_TYPE_CGROUP_DEVICE,
// attached to the group, is asked at each open and mknod. It gets
//
//	struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }
//
// with the access in the upper half of access_type and the type of the device in
// the lower, and returns 1 to allow and 0 to refuse. Programs of groups above
// are asked as well, and all must allow.

// insn is one eBPF instruction (struct bpf_insn).
type insn struct {
	code uint8
	regs uint8 // destination in the lower half, source in the upper
	off  int16
	imm  int32
}

// Registers, by what the program keeps in them.
const (
	regResult = 0
	regCtx    = 1
	regType   = 2
	regAccess = 3 // what is asked and not yet allowed
	regMajor  = 4
	regMinor  = 5
)

func regs(dst, src uint8) uint8 { return dst | src<<4 }

// mov32 sets dst to imm, and32 and rsh32 are the operations of C on 32 bits.
func mov32(dst uint8, imm int32) insn {
	return insn{code: unix.BPF_ALU | unix.BPF_MOV | unix.BPF_K, regs: regs(dst, 0), imm: imm}
}

func movReg(dst, src uint8) insn {
	return insn{code: unix.BPF_ALU | unix.BPF_MOV | unix.BPF_X, regs: regs(dst, src)}
}

func and32(dst uint8, imm int32) insn {
	return insn{code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, regs: regs(dst, 0), imm: imm}
}

func rsh32(dst uint8, imm int32) insn {
	return insn{code: unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K, regs: regs(dst, 0), imm: imm}
}

// load sets dst to the u32 at ctx+off.
func load(dst uint8, off int16) insn {
	return insn{code: unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W, regs: regs(dst, regCtx), off: off}
}

// jne jumps over skip instructions if the lower 32 bits of dst are not imm.
func jne(dst uint8, imm int32, skip int) insn {
	return insn{code: unix.BPF_JMP32 | unix.BPF_JNE | unix.BPF_K, regs: regs(dst, 0), off: int16(skip), imm: imm}
}

// jset jumps over skip instructions if dst and imm have a bit in common.
func jset(dst uint8, imm int32, skip int) insn {
	return insn{code: unix.BPF_JMP32 | unix.BPF_JSET | unix.BPF_K, regs: regs(dst, 0), off: int16(skip), imm: imm}
}

// ja jumps over skip instructions.
func ja(skip int) insn { return insn{code: unix.BPF_JMP | unix.BPF_JA, off: int16(skip)} }

func exit() insn { return insn{code: unix.BPF_JMP | unix.BPF_EXIT} }

// The kernel's BPF_DEVCG_DEV_*.
const (
	bpfBlock = 1
	bpfChar  = 2
)

// maxRules keeps the program below 64k instructions, far more than anyone needs.
const maxRules = 4096

// deviceProgram compiles rules. The last rule that matches decides, so the
// program asks them from the last to the first, crossing out of the access what
// a rule allows, until nothing is left or something is denied.
func deviceProgram(rules []rule) ([]insn, error) {
	if len(rules) > maxRules {
		return nil, invalid("%d device rules: more than %d", len(rules), maxRules)
	}
	prog := []insn{
		load(regType, 0),
		movReg(regAccess, regType),
		and32(regType, 0xffff),
		rsh32(regAccess, 16),
		load(regMajor, 4),
		load(regMinor, 8),
	}
	for i := len(rules) - 1; i >= 0; i-- {
		prog = append(prog, ruleProgram(rules[i])...)
	}
	return append(prog, mov32(regResult, 0), exit()), nil
}

func ruleProgram(r rule) []insn {
	var then []insn // for a device that matches
	if r.allow {
		then = []insn{
			and32(regAccess, int32(^r.access&accessAll)),
			jne(regAccess, 0, 2),
			mov32(regResult, 1),
			exit(),
		}
	} else {
		then = []insn{
			jset(regAccess, int32(r.access), 1),
			ja(2),
			mov32(regResult, 0),
			exit(),
		}
	}
	var tests []insn
	switch r.typ {
	case 'b':
		tests = append(tests, jne(regType, bpfBlock, 0))
	case 'c':
		tests = append(tests, jne(regType, bpfChar, 0))
	}
	if r.major != wildcard {
		tests = append(tests, jne(regMajor, int32(uint32(r.major)), 0))
	}
	if r.minor != wildcard {
		tests = append(tests, jne(regMinor, int32(uint32(r.minor)), 0))
	}
	for i := range tests {
		tests[i].off = int16(len(tests) - i - 1 + len(then))
	}
	return append(tests, then...)
}

// setDevices2 makes the rules of list those of the group at path.
func setDevices2(path string, list []specs.LinuxDeviceCgroup, fresh bool) error {
	rules, err := deviceRules(list)
	if err != nil {
		return err
	}
	if err := attachDevices(path, rules, fresh); err != nil {
		if errors.Is(err, unix.EPERM) && inUserNamespace() {
			// Programs are for the first user namespace only. Nothing is lost:
			// in others no device node can be made.
			return nil
		}
		return fmt.Errorf("set device rules of %s: %w", path, err)
	}
	return nil
}

func attachDevices(path string, rules []rule, fresh bool) error {
	group, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0) // bpf(2) takes no O_PATH
	if err != nil {
		return err
	}
	defer group.Close()

	var old []uint32
	if !fresh {
		if old, err = queryDevices(group); err != nil {
			return err
		}
	}
	if len(rules) == 1 && rules[0].everything() && rules[0].allow {
		return detachAll(group, old) // no program is what allows all
	}
	insns, err := deviceProgram(rules)
	if err != nil {
		return err
	}
	prog, err := loadProgram(insns)
	if err != nil {
		return err
	}
	defer unix.Close(prog)

	if len(old) == 1 {
		fd, err := programByID(old[0])
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return attach(group, prog, fd)
	}
	// With the new program beside them, the old ones are asked too until they
	// are gone: never more is allowed than before and after.
	if err := attach(group, prog, -1); err != nil {
		return err
	}
	return detachAll(group, old)
}

func detachAll(group *os.File, ids []uint32) error {
	for _, id := range ids {
		fd, err := programByID(id)
		if err != nil {
			return err
		}
		err = detach(group, fd)
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

// The parts of union bpf_attr (linux/bpf.h) that are used here. The kernel takes
// a shorter union than its own.

type bpfLoadAttr struct {
	progType    uint32
	insnCnt     uint32
	insns       uint64
	license     uint64
	logLevel    uint32
	logSize     uint32
	logBuf      uint64
	kernVersion uint32
	progFlags   uint32
	name        [unix.BPF_OBJ_NAME_LEN]byte
}

type bpfAttachAttr struct {
	targetFD    uint32
	progFD      uint32
	attachType  uint32
	attachFlags uint32
	replaceFD   uint32
}

type bpfQueryAttr struct {
	targetFD    uint32
	attachType  uint32
	queryFlags  uint32
	attachFlags uint32
	progIDs     uint64
	progCnt     uint32
	_           uint32
}

type bpfIDAttr struct {
	id, nextID, openFlags uint32
}

func loadProgram(insns []insn) (int, error) {
	license := []byte("Apache\x00") // the program uses no helper that asks for another
	var pin runtime.Pinner          // attr has addresses as numbers
	defer pin.Unpin()
	pin.Pin(&insns[0])
	pin.Pin(&license[0])
	attr := bpfLoadAttr{
		progType: unix.BPF_PROG_TYPE_CGROUP_DEVICE,
		insnCnt:  uint32(len(insns)),
		insns:    uint64(uintptr(unsafe.Pointer(&insns[0]))),
		license:  uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	copy(attr.name[:], "devices")
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		err = fmt.Errorf("load BPF program: %w", err)
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
			err = fmt.Errorf("%w: the kernel needs CONFIG_CGROUP_BPF: %w", err, errdefs.ErrNotImplemented)
		}
		return -1, err
	}
	return fd, nil
}

// attach attaches prog, in the place of the program replace unless that is -1.
func attach(group *os.File, prog, replace int) error {
	attr := bpfAttachAttr{
		targetFD:    uint32(group.Fd()),
		progFD:      uint32(prog),
		attachType:  unix.BPF_CGROUP_DEVICE,
		attachFlags: unix.BPF_F_ALLOW_MULTI,
	}
	if replace >= 0 {
		attr.attachFlags |= unix.BPF_F_REPLACE
		attr.replaceFD = uint32(replace)
	}
	_, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(group)
	if err != nil {
		return fmt.Errorf("attach BPF program: %w", err)
	}
	return nil
}

func detach(group *os.File, prog int) error {
	attr := bpfAttachAttr{
		targetFD:   uint32(group.Fd()),
		progFD:     uint32(prog),
		attachType: unix.BPF_CGROUP_DEVICE,
	}
	_, err := bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(group)
	if err != nil {
		return fmt.Errorf("detach BPF program: %w", err)
	}
	return nil
}

// queryDevices returns the ids of the programs attached to the group itself.
func queryDevices(group *os.File) ([]uint32, error) {
	ids := make([]uint32, 64) // BPF_CGROUP_MAX_PROGS
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&ids[0])
	attr := bpfQueryAttr{
		targetFD:   uint32(group.Fd()),
		attachType: unix.BPF_CGROUP_DEVICE,
		progIDs:    uint64(uintptr(unsafe.Pointer(&ids[0]))),
		progCnt:    uint32(len(ids)),
	}
	_, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(group)
	if err != nil {
		return nil, fmt.Errorf("query BPF programs: %w", err)
	}
	return ids[:attr.progCnt], nil
}

func programByID(id uint32) (int, error) {
	attr := bpfIDAttr{id: id}
	fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return -1, fmt.Errorf("open BPF program %d: %w", id, err)
	}
	return fd, nil
}

// bpf is bpf(2). Descriptors it returns are close-on-exec. The kernel says
// EAGAIN when the verifier was interrupted by a signal.
func bpf(cmd int, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
		if errno == unix.EINTR || errno == unix.EAGAIN && cmd == unix.BPF_PROG_LOAD {
			continue
		}
		if errno != 0 {
			return -1, errno
		}
		return int(r), nil
	}
}
