package plan

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// builder appends steps. The first error is kept and returned by done.
type builder struct {
	p   Plan
	reg map[string]Reg
	str map[string]Buf
	how map[[3]uint64]Buf
	err error
}

func newBuilder() *builder {
	b := &builder{reg: map[string]Reg{}, str: map[string]Buf{}, how: map[[3]uint64]Buf{}}
	// Room for a plan like those of Docker's containers.
	b.p.Steps, b.p.Buffers = make([]Step, 0, 320), make([]Buffer, 0, 160)
	return b
}

// done returns the plan after checking it.
func (b *builder) done() (*Plan, error) {
	if b.err != nil {
		return nil, b.err
	}
	if err := b.p.Check(); err != nil {
		return nil, err
	}
	return &b.p, nil
}

// fail keeps the first error.
func (b *builder) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// option changes a step that is being added.
type option func(*Step)

// call appends a system call.
func (b *builder) call(what string, nr uintptr, args []Arg, opts ...option) {
	s := Step{What: what, Nr: nr, Args: args}
	for _, o := range opts {
		o(&s)
	}
	b.p.Steps = append(b.p.Steps, s)
}

// do appends a step that is no system call.
func (b *builder) do(op Op, what string, args []Arg, opts ...option) {
	b.call(what, 0, args, append(opts, func(s *Step) { s.Op = op })...)
}

func save(r Reg) option { return func(s *Step) { s.Save = r } }

func store(buf Buf, at int) option {
	return func(s *Step) { s.Store, s.StoreAt = buf, at }
}

func least(n uint64) option { return func(s *Step) { s.Min = n } }

func ignore(errs ...syscall.Errno) option {
	return func(s *Step) { s.Ignore = append(s.Ignore, errs...) }
}

func ignoreAll(s *Step) { s.IgnoreAll = true }

func onOK(l Label) option { return func(s *Step) { s.OnOK = l } }

func onIgnored(l Label) option { return func(s *Step) { s.OnIgnored = l } }

// label makes a label that place puts before the next step.
func (b *builder) label() Label {
	b.p.Labels = append(b.p.Labels, -1)
	return Label(len(b.p.Labels))
}

func (b *builder) place(l Label) { b.p.Labels[l-1] = len(b.p.Steps) }

// register returns the register of that name.
func (b *builder) register(name string) Reg {
	if r, ok := b.reg[name]; ok {
		return r
	}
	b.p.Regs = append(b.p.Regs, name)
	r := Reg(len(b.p.Regs))
	b.reg[name] = r
	return r
}

// buffer adds memory with data as its content.
func (b *builder) buffer(data []byte) Buf {
	b.p.Buffers = append(b.p.Buffers, Buffer{Data: data})
	return Buf(len(b.p.Buffers))
}

// space adds n zero bytes.
func (b *builder) space(n int) Buf { return b.buffer(make([]byte, n)) }

func (b *builder) ref(in Buf, at int, to Buf) {
	b.p.Buffers[in-1].Refs = append(b.p.Buffers[in-1].Refs, Ref{At: at, To: to})
}

// cstring adds s as a C string; equal strings share a buffer.
func (b *builder) cstring(s string) Buf {
	if buf, ok := b.str[s]; ok {
		return buf
	}
	for i := range len(s) {
		if s[i] == 0 {
			b.fail(fmt.Errorf("string %q contains a NUL byte: %w", s, errInvalid))
		}
	}
	buf := b.buffer(append([]byte(s), 0))
	b.str[s] = buf
	return buf
}

// str is the address of the C string s.
func (b *builder) string(s string) Arg {
	return Arg{Kind: Address, Buf: b.cstring(s), Form: CString}
}

// strings adds a NULL-terminated array of C strings, as for execve.
func (b *builder) strings(list []string) Buf {
	array := b.space(8 * (len(list) + 1))
	for i, s := range list {
		b.ref(array, 8*i, b.cstring(s))
	}
	return array
}

// wait reads a byte from the parent, which closes its end when it gives up.
func (b *builder) wait(what, file string) {
	in := b.space(4)
	b.call(what, unix.SYS_READ, []Arg{fileArg(file), addr(in), num(1)}, least(1))
}

// send writes a message; value, if not 0, is a register that becomes its Value.
func (b *builder) send(what string, kind MessageKind, value Reg) {
	out := b.buffer(Message{Kind: kind}.Encode())
	if value != 0 {
		b.do(Set, what, []Arg{reg(value)}, store(out, 8))
	}
	b.call(what, unix.SYS_WRITE, []Arg{fileArg(StatusFile), addr(out), num(MessageSize)}, least(MessageSize))
}

// openHow adds a struct open_how; equal ones share a buffer.
func (b *builder) openHow(flags, mode, resolve uint64) Buf {
	key := [3]uint64{flags | unix.O_CLOEXEC, mode, resolve}
	if buf, ok := b.how[key]; ok {
		return buf
	}
	buf := b.buffer(quads(key[:]...))
	b.how[key] = buf
	return buf
}

const inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// open resolves path below dir, as if dir were "/", and saves the descriptor.
func (b *builder) open(what string, dir Arg, path string, flags uint64, to Reg, opts ...option) {
	b.openResolve(what, dir, path, flags, inRoot, to, opts...)
}

func (b *builder) openResolve(what string, dir Arg, path string, flags, resolve uint64, to Reg, opts ...option) {
	if path == "" {
		path = "."
	}
	how := Arg{Kind: Address, Buf: b.openHow(flags, 0, resolve), Form: OpenHow}
	b.call(what, unix.SYS_OPENAT2, []Arg{dir, b.string(path), how, num(24)}, append(opts, save(to))...)
}

// prctl appends prctl(op, args...).
func (b *builder) prctl(what, show string, op uint64, args ...uint64) {
	list := []Arg{{N: op, Show: show}}
	for _, a := range args {
		list = append(list, num(a))
	}
	for len(list) < 5 {
		list = append(list, num(0))
	}
	b.call(what, unix.SYS_PRCTL, list)
}

func num(n uint64) Arg { return Arg{N: n} }

// signed is a negative number, such as AT_FDCWD or (uid_t)-1.
func signed(n int64) Arg { return Arg{N: uint64(n)} }

func shown(n uint64, show string) Arg { return Arg{N: n, Show: show} }

func reg(r Reg) Arg { return Arg{Kind: Register, N: uint64(r)} }

func addr(buf Buf) Arg { return Arg{Kind: Address, Buf: buf} }

func word(buf Buf, at int) Arg { return Arg{Kind: Word, Buf: buf, N: uint64(at)} }

func fileArg(name string) Arg { return Arg{Kind: File, Name: name} }

var cwdArg = Arg{N: ^uint64(99), Show: "AT_FDCWD"} // -100
