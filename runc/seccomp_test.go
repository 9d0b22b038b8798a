package runc

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// The filter holds for the program, with and without no_new_privs, and the
// privilege that its installation takes is not left to the program.
func TestRun_seccomp(t *testing.T) {
	h := newHarness(t)
	errno := uint(95)
	for _, nnp := range []bool{false, true} {
		s := h.spec()
		s.Process.NoNewPrivileges = nnp
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchAARCH64},
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: &errno}},
		}
		r := h.script(s, "mkdir /x 2>&1; grep -E 'Seccomp:|CapEff|CapPrm' /proc/self/status")
		want := "mkdir: can't create directory '/x': Operation not supported\nCapPrm:\t00000000000000e3\nCapEff:\t00000000000000e3\nSeccomp:\t2\n"
		if r.out != want {
			t.Errorf("no_new_privs %v: got %q, want %q", nnp, r.out, want)
		}
	}
}
