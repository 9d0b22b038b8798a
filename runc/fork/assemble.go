package fork

import (
	"encoding/binary"
	"sort"
	"unsafe"

	"golang.org/x/sys/unix"

	"lighter/runc/plan"
)

// table is a plan laid out in memory for run. Addresses in it point into arena,
// which is on the heap (Go does not move heap objects) and is kept alive with the
// table.
type table struct {
	ops   []op
	regs  [256]uintptr
	msg   message
	pidfd int32
	arena []uint64
}

// assemble lays out p. files gives the numbers of the descriptors that it
// names.
func assemble(p *plan.Plan, files map[string]int) *table {
	offset := make([]int, len(p.Buffers))
	size := 0
	for i := range p.Buffers {
		offset[i] = size
		size += (len(p.Buffers[i].Data) + 7) &^ 7
	}
	t := &table{arena: make([]uint64, size/8+1)}
	mem := unsafe.Slice((*byte)(unsafe.Pointer(&t.arena[0])), len(t.arena)*8)
	base := uintptr(unsafe.Pointer(&t.arena[0]))
	for i := range p.Buffers {
		b := &p.Buffers[i]
		at := mem[offset[i]:]
		copy(at, b.Data)
		for _, r := range b.Refs {
			binary.NativeEndian.PutUint64(at[r.At:], uint64(base)+uint64(offset[r.To-1]))
		}
		for _, e := range b.Exits {
			binary.NativeEndian.PutUint64(at[e:], uint64(exitHandler()))
		}
		for _, s := range b.Slots {
			binary.NativeEndian.PutUint32(at[s.At:], uint32(files[s.Name]))
		}
	}
	pointer := func(b plan.Buf, at int) *uint32 { return (*uint32)(unsafe.Pointer(&mem[offset[b-1]+at])) }
	address := func(b plan.Buf, at int) uintptr { return base + uintptr(offset[b-1]+at) }

	// A CloseOthers step becomes several ops; first holds where each step begins.
	first := make([]uintptr, len(p.Steps)+1)
	n := 0
	for i := range p.Steps {
		first[i] = uintptr(n)
		n++
		if p.Steps[i].Op == plan.CloseOthers {
			n += len(closeGaps(&p.Steps[i], files)) - 1
		}
	}
	first[len(p.Steps)] = uintptr(n)
	t.ops = make([]op, n)
	target := func(l plan.Label, i int) uintptr {
		if l == 0 {
			return first[i+1]
		}
		return first[p.Labels[l-1]]
	}
	for i := range p.Steps {
		s := &p.Steps[i]
		if s.Op == plan.CloseOthers {
			for k, o := range closeGaps(s, files) {
				o.index, o.onOK = uint32(i), first[i]+uintptr(k)+1
				o.onIgn = o.onOK
				t.ops[int(first[i])+k] = o
			}
			continue
		}
		o := &t.ops[first[i]]
		o.index = uint32(i)
		o.op, o.nr, o.save, o.least = uint8(s.Op), s.Nr, uint8(s.Save), uintptr(s.Min)
		o.onOK, o.onIgn = target(s.OnOK, i), target(s.OnIgnored, i)
		if s.Store != 0 {
			o.store = pointer(s.Store, s.StoreAt)
		}
		for _, e := range s.Ignore {
			if e < 192 {
				o.ignore[e/64] |= 1 << (e % 64)
			}
		}
		if s.IgnoreAll {
			o.ignore = [3]uint64{^uint64(0), ^uint64(0), ^uint64(0)}
		}
		for k, a := range s.Args {
			switch a.Kind {
			case plan.Number:
				o.arg[k] = uintptr(a.N)
			case plan.Register:
				o.kind[k], o.arg[k] = register, uintptr(a.N)
			case plan.Address:
				o.arg[k] = address(a.Buf, int(a.N))
			case plan.Word:
				o.kind[k], o.word[k] = loadWord, pointer(a.Buf, int(a.N))
			case plan.File:
				o.arg[k] = uintptr(files[a.Name])
			}
		}
	}
	t.msg.fd = uintptr(files[plan.StatusFile])
	return t
}

// closeGaps returns a close_range for each gap between the descriptors that s
// keeps. Descriptors below 3 are never closed.
func closeGaps(s *plan.Step, files map[string]int) []op {
	keep := []int{2 + int(s.Args[0].N)}
	for _, a := range s.Args[1:] {
		keep = append(keep, files[a.Name])
	}
	if len(s.Args) == 1 {
		for _, fd := range files {
			keep = append(keep, fd)
		}
	}
	sort.Ints(keep)
	var ops []op
	gap := func(from, to uintptr) {
		ops = append(ops, op{
			nr: unix.SYS_CLOSE_RANGE, arg: [6]uintptr{from, to},
			ignore: [3]uint64{1 << unix.EINVAL}, // an empty range
		})
	}
	from := 3 + int(s.Args[0].N)
	for _, fd := range keep {
		if fd > from {
			gap(uintptr(from), uintptr(fd-1))
		}
		from = max(from, fd+1)
	}
	gap(uintptr(from), uintptr(^uint32(0)))
	return ops
}
