package cgroup

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// allowed says what rules mean, one kind of access at a time.
func allowed(rules []rule, d device, want access) bool {
	for _, bit := range []access{accessMknod, accessRead, accessWrite} {
		if want&bit == 0 {
			continue
		}
		ok := false
		for _, r := range rules {
			if r.access&bit != 0 && covers(r.device, d) {
				ok = r.allow
			}
		}
		if !ok {
			return false
		}
	}
	return want != 0 || len(rules) > 0
}

// runDevices interprets a device program for a request.
func runDevices(prog []insn, d device, want access) (bool, error) {
	typ := uint64(bpfChar)
	if d.typ == 'b' {
		typ = bpfBlock
	}
	ctx := map[int16]uint32{0: uint32(want)<<16 | uint32(typ), 4: uint32(d.major), 8: uint32(d.minor)}
	var r [11]uint64
	for pc := 0; pc >= 0 && pc < len(prog); pc++ {
		i := prog[pc]
		dst, src := i.regs&15, i.regs>>4
		switch i.code {
		case unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W:
			r[dst] = uint64(ctx[i.off])
		case unix.BPF_ALU | unix.BPF_MOV | unix.BPF_K:
			r[dst] = uint64(uint32(i.imm))
		case unix.BPF_ALU | unix.BPF_MOV | unix.BPF_X:
			r[dst] = uint64(uint32(r[src]))
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			r[dst] = uint64(uint32(r[dst]) & uint32(i.imm))
		case unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K:
			r[dst] = uint64(uint32(r[dst]) >> uint32(i.imm))
		case unix.BPF_JMP32 | unix.BPF_JNE | unix.BPF_K:
			if uint32(r[dst]) != uint32(i.imm) {
				pc += int(i.off)
			}
		case unix.BPF_JMP32 | unix.BPF_JSET | unix.BPF_K:
			if uint32(r[dst])&uint32(i.imm) != 0 {
				pc += int(i.off)
			}
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.off)
		case unix.BPF_JMP | unix.BPF_EXIT:
			return r[0] == 1, nil
		default:
			return false, fmt.Errorf("instruction %d: code %#x", pc, i.code)
		}
	}
	return false, fmt.Errorf("ran off the end")
}

func randomRules(r *rand.Rand) []rule {
	var rules []rule
	for range r.IntN(8) {
		number := func() int64 {
			return []int64{wildcard, 0, 1, 3, 1<<32 - 1}[r.IntN(5)]
		}
		rules = append(rules, rule{r.IntN(2) == 0, device{"abc"[r.IntN(3)], number(), number()}, access(1 + r.IntN(7))})
	}
	return rules
}

// TestDeviceProgram compares the program with what the rules mean.
func TestDeviceProgram(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 2))
		rules := randomRules(r)
		prog, err := deviceProgram(rules)
		if err != nil {
			t.Fatal(err)
		}
		for _, typ := range []byte{'b', 'c'} {
			for _, major := range []int64{0, 1, 2, 1<<32 - 1} {
				for _, minor := range []int64{0, 3, 1<<32 - 1} {
					for want := accessMknod; want <= accessAll; want++ {
						d := device{typ, major, minor}
						got, err := runDevices(prog, d, want)
						if err != nil || got != allowed(rules, d, want) {
							t.Fatalf("seed %d: %v %v: program says %v, %v, rules say %v\n%v", seed, d, want, got, err, !got, rules)
						}
					}
				}
			}
		}
	}
}

// TestWhitelist compares v1's list with what the rules mean, where v1 can say
// that.
func TestWhitelist(t *testing.T) {
	converted := 0
	for seed := range uint64(5000) {
		r := rand.New(rand.NewPCG(seed, 3))
		rules := randomRules(r)
		for i := range rules { // v1 knows "all" only as a whole
			if rules[i].typ == 'a' {
				rules[i] = rule{rules[i].allow, device{'a', wildcard, wildcard}, accessAll}
			}
		}
		w, err := newWhitelist(rules)
		if err != nil {
			continue
		}
		converted++
		for _, typ := range []byte{'b', 'c'} {
			for _, major := range []int64{0, 1, 2} {
				for _, minor := range []int64{0, 3, 5} {
					for _, want := range []access{accessMknod, accessRead, accessWrite} {
						d := device{typ, major, minor}
						got := w.allowAll
						for e, a := range w.access {
							if covers(e, d) && a&want != 0 {
								got = !w.allowAll
							}
						}
						if got != allowed(rules, d, want) {
							t.Fatalf("seed %d: %v %v: list says %v\nrules %v\nlist %v", seed, d, want, got, rules, w)
						}
					}
				}
			}
		}
	}
	if converted < 1000 {
		t.Errorf("only %d lists converted", converted)
	}
}

func TestDeviceRules(t *testing.T) {
	has := func(rules []rule, d device, a access) bool { return allowed(rules, d, a) }
	null, sda := device{'c', 1, 3}, device{'b', 8, 0}
	for name, tt := range map[string]struct {
		list []specs.LinuxDeviceCgroup
		sda  bool
	}{
		"nothing":    {nil, false},
		"deny all":   {[]specs.LinuxDeviceCgroup{{Access: "rwm"}}, false},
		"allow only": {[]specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Major: ptr[int64](1), Minor: ptr[int64](11), Access: "r"}}, false},
		"privileged": {[]specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}, true},
		"denied after": {[]specs.LinuxDeviceCgroup{{Allow: true, Type: "b", Major: ptr[int64](8), Access: "rwm"},
			{Access: "rwm"}}, false},
		"one disk": {[]specs.LinuxDeviceCgroup{{Allow: true, Type: "b", Major: ptr[int64](8), Minor: ptr[int64](0), Access: "rw"}}, true},
	} {
		rules, err := deviceRules(tt.list)
		if err != nil {
			t.Fatal(err)
		}
		if !has(rules, null, accessAll) {
			t.Errorf("%s: /dev/null is refused", name)
		}
		if has(rules, sda, accessRead) != tt.sda {
			t.Errorf("%s: disk read is %v", name, !tt.sda)
		}
		if !has(rules, sda, accessMknod) {
			t.Errorf("%s: making a node is refused", name)
		}
	}
	for _, bad := range []specs.LinuxDeviceCgroup{{Type: "p"}, {Type: "c", Access: "rwx"}, {Type: "c"}, {Type: "c", Major: ptr[int64](-2), Access: "r"}, {Type: "c", Major: ptr[int64](1 << 33), Access: "r"}} {
		if _, err := deviceRules([]specs.LinuxDeviceCgroup{bad}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
