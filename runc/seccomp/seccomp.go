// Package seccomp compiles the OCI runtime specification's LinuxSeccomp into a
// classic BPF program for seccomp(2).
package seccomp

import (
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Program is a compiled filter, ready for seccomp(SECCOMP_SET_MODE_FILTER).
type Program struct {
	// Filter is the program. It is at most 4096 instructions, the kernel's
	// limit, and is not empty.
	Filter []unix.SockFilter
	// Flags are those of seccomp(2), SECCOMP_FILTER_FLAG_*.
	Flags uint32
	// Listener says that the program notifies: Flags has
	// SECCOMP_FILTER_FLAG_NEW_LISTENER and seccomp(2) returns a descriptor,
	// which has to be sent to LinuxSeccomp.ListenerPath.
	Listener bool
	// Unknown counts the names in the profile that are not a system call on any
	// of its architectures. They have no effect.
	Unknown int
}

// Compile translates a profile.
func Compile(profile *specs.LinuxSeccomp) (*Program, error) {
	return nil, fmt.Errorf("compile seccomp profile: %w", errdefs.ErrNotImplemented)
}
