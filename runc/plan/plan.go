package plan

import (
	"encoding/binary"
	"fmt"
	"syscall"
)

// MaxRegs is how many registers a plan may use.
const MaxRegs = 256

// Reg is a register; 0 is none.
type Reg uint16

// Buf is a buffer of a plan, by index + 1; 0 is none.
type Buf int

// Label is a position in a plan, by index + 1; 0 is the next step.
type Label int

// Op says what a step is.
type Op uint8

const (
	// Call is a system call: Nr with Args.
	Call Op = iota
	// Fork clones the process with the flags Args[0]. The new process goes on
	// at OnOK, the old one with the next step and the child's pid in Save.
	Fork
	// Set puts Args[0] into Save.
	Set
	// Assert fails with the errno Args[2] unless Args[0] equals Args[1].
	Assert
	// Jump goes to OnOK.
	Jump
	// Fail fails with the errno Args[0].
	Fail
	// CloseOthers closes every descriptor but 0, 1, 2, the next Args[0] and the
	// files that the other arguments name; without such, all files of the plan
	// are kept.
	CloseOthers
)

// Kind says how an Arg gets its value.
type Kind uint8

const (
	// Number is N itself.
	Number Kind = iota
	// Register is the content of register N.
	Register
	// Address is the address of byte N of Buf.
	Address
	// Word is the 32-bit word at byte N of Buf when the step runs.
	Word
	// File is the number of the descriptor that the parent passes as Name.
	File
)

// Arg is an argument of a step.
type Arg struct {
	Kind Kind
	N    uint64
	Buf  Buf
	Name string
	// Show is how the argument is printed, when N says too little; Form is how the
	// buffer of an Address is. Printing is rare: nothing is formatted before.
	Show string
	Form Form
}

// Form is the type of what an Address points to.
type Form uint8

const (
	// Opaque is anything; it is printed as the buffer's number.
	Opaque Form = iota
	// CString is a C string.
	CString
	// CStrings is a NULL-terminated array of C strings.
	CStrings
	// Count is a NULL-terminated array, of which the length is printed.
	Count
	// OpenHow is a struct open_how.
	OpenHow
	// MountAttr is a struct mount_attr.
	MountAttr
)

// Step is one row of a plan.
type Step struct {
	// What the step does, as the beginning of an error message: "mount proc on
	// /proc".
	What string
	Op   Op
	Nr   uintptr
	Args []Arg
	// Save keeps the result in a register; Store writes its low 32 bits at
	// byte StoreAt of a buffer.
	Save    Reg
	Store   Buf
	StoreAt int
	// Min is the least result that counts as success. A smaller one (end of
	// file) fails as ECANCELED.
	Min uint64
	// Ignore are the errors after which the plan goes on; IgnoreAll is all.
	Ignore    []syscall.Errno
	IgnoreAll bool
	// OnOK and OnIgnored are where to go on, if not with the next step.
	OnOK, OnIgnored Label
	// Program is the name of the user's program in steps that look it up or
	// execute it. It decides how their errors read.
	Program string
}

// Ref is a pointer inside a buffer: the address of buffer To is written at byte
// At.
type Ref struct {
	At int
	To Buf
}

// Slot is a descriptor number inside a buffer: that of the file Name is written
// as 32 bits at byte At.
type Slot struct {
	At   int
	Name string
}

// Buffer is memory that steps point to.
type Buffer struct {
	Data  []byte
	Refs  []Ref
	Slots []Slot
	// Exits are the bytes at which the address of a signal handler is written that
	// ends the process.
	Exits []int
}

// Plan is a table of steps with what they refer to. It is read-only once it has
// been compiled.
type Plan struct {
	Steps   []Step
	Buffers []Buffer
	// Labels holds for each label the index of its step.
	Labels []int
	// Regs names the registers, from register 1.
	Regs []string
}

// Files returns the names of the descriptors that the plan takes from the parent,
// in the order of their first use.
func (p *Plan) Files() []string {
	var names []string
	seen := map[string]bool{}
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	for i := range p.Steps {
		for _, a := range p.Steps[i].Args {
			if a.Kind == File {
				add(a.Name)
			}
			if a.Kind == Address {
				for _, s := range p.Buffers[a.Buf-1].Slots {
					add(s.Name)
				}
			}
		}
	}
	return names
}

// Check verifies what the runner relies on: labels are placed and lead forward,
// registers and buffers exist, offsets lie inside their buffers. A plan that a
// compiler of this package made always passes.
func (p *Plan) Check() error {
	if len(p.Regs) >= MaxRegs {
		return fmt.Errorf("check plan: %d registers, the limit is %d", len(p.Regs), MaxRegs-1)
	}
	inside := func(b Buf, at, size int) bool {
		return b > 0 && int(b) <= len(p.Buffers) && at >= 0 && at+size <= len(p.Buffers[b-1].Data)
	}
	for i := range p.Steps {
		s := &p.Steps[i]
		bad := func(what string) error { return fmt.Errorf("check plan: step %d (%s): %s", i, s.What, what) }
		for _, l := range []Label{s.OnOK, s.OnIgnored} {
			if l != 0 && (int(l) > len(p.Labels) || p.Labels[l-1] <= i || p.Labels[l-1] > len(p.Steps)) {
				return bad("label does not lead forward")
			}
		}
		if int(s.Save) > len(p.Regs) || len(s.Args) > 6 {
			return bad("bad register or too many arguments")
		}
		if s.Store != 0 && !inside(s.Store, s.StoreAt, 4) {
			return bad("store outside its buffer")
		}
		for _, a := range s.Args {
			switch a.Kind {
			case Register:
				if a.N == 0 || int(a.N) > len(p.Regs) {
					return bad("no such register")
				}
			case Address:
				if !inside(a.Buf, int(a.N), 0) {
					return bad("address outside its buffer")
				}
			case Word:
				if !inside(a.Buf, int(a.N), 4) || a.N%4 != 0 {
					return bad("word outside its buffer")
				}
			case File:
				if a.Name == "" {
					return bad("file without a name")
				}
			}
		}
	}
	for i := range p.Buffers {
		for _, r := range p.Buffers[i].Refs {
			if !inside(Buf(i+1), r.At, 8) || !inside(r.To, 0, 0) {
				return fmt.Errorf("check plan: buffer %d: bad reference", i)
			}
		}
		for _, at := range p.Buffers[i].Exits {
			if !inside(Buf(i+1), at, 8) {
				return fmt.Errorf("check plan: buffer %d: bad handler", i)
			}
		}
		for _, s := range p.Buffers[i].Slots {
			if !inside(Buf(i+1), s.At, 4) {
				return fmt.Errorf("check plan: buffer %d: bad slot", i)
			}
		}
	}
	return nil
}

// StepError is the failure of one step in the child.
type StepError struct {
	// Index of the step in its plan.
	Index int
	Step  Step
	Errno syscall.Errno
}

// Error returns "mount proc on /proc: operation not permitted". For the user's
// program the words are those that clients of runc look for.
func (e *StepError) Error() string {
	if p := e.Step.Program; p != "" {
		return programError(e.Step, e.Errno)
	}
	return e.Step.What + ": " + e.Errno.Error()
}

// Unwrap returns the errno.
func (e *StepError) Unwrap() error { return e.Errno }

// Message is what the child writes to its status descriptor: MessageSize bytes,
// written at once.
type Message struct {
	Kind  MessageKind
	Index uint32 // of the step that failed
	Value uint32 // errno, pid or descriptor
}

// MessageSize is the length of an encoded Message in bytes.
const MessageSize = 16

// MessageKind says what a Message reports.
type MessageKind uint32

const (
	// Failed: step Index failed with errno Value. The child exits.
	Failed MessageKind = 1 + iota
	// Forked: Value is the pid of the process that goes on in the writer's
	// place, which exits.
	Forked
	// Mounted: mounts are in place, the root is not yet entered; the child
	// waits for a byte.
	Mounted
	// Mounting: the parent is to make the mount with index Value, for which the
	// child has not the privilege; the child waits for a byte.
	Mounting
	// Limiting: the parent is to set resource limits, for which the child has not
	// the privilege; the child waits for a byte.
	Limiting
	// Listening: descriptor Value of the child is a seccomp listener; the child
	// waits for a byte.
	Listening
	// Ready: setup is complete; the child waits at the gate.
	Ready
	// Spawned: Value is the pid of the program that the writer runs.
	Spawned
	// Done: Value is the wait status of a program that the writer ran.
	Done
)

// Encode returns the message as it is written.
func (m Message) Encode() []byte {
	b := make([]byte, MessageSize)
	binary.NativeEndian.PutUint32(b[0:], uint32(m.Kind))
	binary.NativeEndian.PutUint32(b[4:], m.Index)
	binary.NativeEndian.PutUint32(b[8:], m.Value)
	return b
}

// Decode reads a message of MessageSize bytes.
func Decode(b []byte) Message {
	return Message{
		Kind:  MessageKind(binary.NativeEndian.Uint32(b[0:])),
		Index: binary.NativeEndian.Uint32(b[4:]),
		Value: binary.NativeEndian.Uint32(b[8:]),
	}
}

// StatusFile, SyncFile and GateFile are the names of the descriptors that connect
// a child with its parent.
const (
	// StatusFile is where the child writes its messages.
	StatusFile = "status"
	// SyncFile is read for a byte whenever the child waits for its parent.
	SyncFile = "sync"
	// GateFile is read for a byte before execve; the process that starts the
	// container writes it.
	GateFile = "gate"
	// ExecStatusFile replaces StatusFile when the child waits at the gate.
	ExecStatusFile = "exec-status"
)
