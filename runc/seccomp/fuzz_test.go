package seccomp

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/runc/seccomp/internal/syscalls"
)

// randomProfile makes a profile that a fuzzer's seed stands for.
func randomProfile(r *rand.Rand) (*specs.LinuxSeccomp, [][maxArgs]uint64) {
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActTrap, specs.ActTrace, specs.ActLog}
	ops := []specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}
	values := []uint64{0, 1, 2, 38, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 + 1, 1 << 63, math.MaxUint64, r.Uint64(), uint64(r.Uint32())}
	value := func() uint64 { return values[r.IntN(len(values))] }
	var names []string
	syscalls.All(func(name string, _ syscalls.Entry) bool { names = append(names, name); return true })
	names = append(names, "frobnicate", "send", "recv")
	few := []string{"read", "socket", "socketcall", "ipc", "shmget", "connect", "openat2", "set_tls"}

	p := &specs.LinuxSeccomp{DefaultAction: actions[r.IntN(len(actions))]}
	for _, a := range arches {
		if r.IntN(3) > 0 {
			p.Architectures = append(p.Architectures, a.name)
		}
	}
	for range r.IntN(12) {
		s := specs.LinuxSyscall{Action: actions[r.IntN(len(actions))]}
		if s.Action == specs.ActErrno && r.IntN(2) > 0 {
			s.ErrnoRet = u(uint(r.IntN(4)))
		}
		from := names
		if r.IntN(2) > 0 {
			from = few
		}
		for range 1 + r.IntN(60) {
			s.Names = append(s.Names, from[r.IntN(len(from))])
		}
		if r.IntN(2) > 0 {
			for range r.IntN(4) {
				s.Args = append(s.Args, specs.LinuxSeccompArg{Index: uint(r.IntN(maxArgs)), Op: ops[r.IntN(len(ops))], Value: value(), ValueTwo: value()})
			}
		}
		p.Syscalls = append(p.Syscalls, s)
	}
	var args [][maxArgs]uint64
	for range 4 {
		var a [maxArgs]uint64
		for i := range a {
			a[i] = value()
		}
		args = append(args, a)
	}
	return p, args
}

// sampled compares program and model for some numbers.
func sampled(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	p, argLists := randomProfile(r)
	goarchs := []string{"amd64", "arm64", "s390x", "ppc64", "mips64le", "riscv64"}
	goarch := goarchs[r.IntN(len(goarchs))]
	prog, err := compile(p, goarch)
	if err != nil {
		if strings.Contains(err.Error(), "the kernel's limit") {
			return
		}
		t.Fatal(err)
	}
	targets, _ := targetArches(p.Architectures, goarch)
	for _, a := range targets {
		ask := []uint32{0, 1, 400, 500}
		for _, s := range p.Syscalls {
			for _, name := range append(s.Names, "socketcall", "ipc") {
				if n := numberOf(name, a); n >= 0 {
					ask = append(ask, uint32(n), uint32(n)+1)
				}
			}
		}
		if a.x32 {
			ask = ask[4:]
		}
		slices.Sort(ask)
		for _, n := range slices.Compact(ask) {
			for _, args := range argLists {
				got, _, err := run(prog.Filter, data{number: n, arch: a.audit, args: args, big: a.big})
				if err != nil {
					t.Fatal(err)
				}
				if want := model(t, p, a, n, args); got != want {
					text, _ := json.MarshalIndent(p, "", " ")
					t.Fatalf("seed %d, %s %s: call %d args %#x: program says %#x, model %#x\n%s", seed, goarch, a.name, n, args, got, want, text)
				}
			}
		}
	}
}

func TestRandomProfiles(t *testing.T) {
	for seed := range uint64(100) {
		sampled(t, seed)
	}
}

func FuzzCompile(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(sampled)
}

// FuzzCompileJSON feeds profiles as they come from a config.json: whatever they
// hold, what is compiled must be something the kernel would load.
func FuzzCompileJSON(f *testing.F) {
	text, err := json.Marshal(defaultProfile(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"op":"SCMP_CMP_EQ"}]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var p specs.LinuxSeccomp
		if json.Unmarshal(text, &p) != nil {
			return
		}
		prog, err := Compile(&p)
		if err != nil {
			return
		}
		for _, n := range []uint32{0, 1, 300, 1000, x32Bit, math.MaxUint32} {
			if _, _, err := run(prog.Filter, data{number: n, arch: unix.AUDIT_ARCH_X86_64}); err != nil {
				t.Fatal(err)
			}
		}
	})
}
