package seccomp

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// data is struct seccomp_data.
type data struct {
	number, arch uint32
	args         [maxArgs]uint64
	big          bool
}

// word returns the 32 bits at off, as the machine that made data has them in
// memory.
func (d data) word(off uint32) (uint32, error) {
	var b [64]byte
	var order binary.ByteOrder = binary.LittleEndian
	if d.big {
		order = binary.BigEndian
	}
	order.PutUint32(b[0:], d.number)
	order.PutUint32(b[4:], d.arch)
	for i, a := range d.args {
		order.PutUint64(b[16+8*i:], a)
	}
	if off%4 != 0 || off > 60 {
		return 0, fmt.Errorf("load at %d", off)
	}
	return order.Uint32(b[off:]), nil
}

// run interprets a program as the kernel does, and refuses what the kernel
// refuses to load. It returns the result and the number of instructions run.
func run(prog []unix.SockFilter, d data) (ret uint32, steps int, err error) {
	if len(prog) == 0 || len(prog) > maxInstructions {
		return 0, 0, fmt.Errorf("program has %d instructions", len(prog))
	}
	var acc uint32
	for pc := 0; pc < len(prog); pc++ {
		steps++
		i := prog[pc]
		jump := func(yes bool) {
			if yes {
				pc += int(i.Jt)
			} else {
				pc += int(i.Jf)
			}
		}
		switch i.Code {
		case opLoad:
			if acc, err = d.word(i.K); err != nil {
				return 0, steps, err
			}
		case opAnd:
			acc &= i.K
		case opRet:
			return i.K, steps, nil
		case opJump:
			pc += int(i.K)
		case opJEQ:
			jump(acc == i.K)
		case opJGT:
			jump(acc > i.K)
		case opJGE:
			jump(acc >= i.K)
		default:
			return 0, steps, fmt.Errorf("instruction %d: code %#x", pc, i.Code)
		}
	}
	return 0, steps, fmt.Errorf("ran off the end")
}
