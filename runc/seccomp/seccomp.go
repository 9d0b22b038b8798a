// Package seccomp compiles the OCI runtime specification's LinuxSeccomp into a
// classic BPF program for seccomp(2), in pure Go.
//
// The decisions are those that runc makes with libseccomp:
//
//   - A rule that does what the default action does has no effect.
//   - Of the rules for one system call, one without conditions on arguments wins
//     over all that have conditions, and the first of several. Else the first in
//     the profile's order whose conditions all hold decides, else the default.
//   - Two conditions on the same argument are two rules: either is enough.
//   - A name that is no system call is ignored.
//   - A system call newer than all the profile names (a larger number) fails with
//     ENOSYS, so that programs fall back to an older one, unless the default
//     action lets calls through.
//   - A call made in the way of another architecture than the profile names
//     kills the process.
//   - On 32-bit architectures (and x32) arguments are 32 bits.
//
// Where socket or System V IPC calls can also be made through socketcall(2) or
// ipc(2), a rule is applied to those too. Their arguments are in memory, where a
// filter cannot look: a rule with conditions is applied without them if it is
// stricter than the default action, and not at all if it is laxer.
//
// The program first looks at the architecture, then finds the call's number by
// binary search. The kernel recognises the calls that are always allowed and
// does not run the program for them (Linux 5.11).
package seccomp

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Program is a compiled filter, ready for seccomp(SECCOMP_SET_MODE_FILTER).
type Program struct {
	// Filter is the program: 1 to 4096 instructions, the kernel's limit.
	Filter []unix.SockFilter
	// Flags are those of seccomp(2), SECCOMP_FILTER_FLAG_*.
	Flags uint32
	// Listener says that the program can notify: Flags has
	// SECCOMP_FILTER_FLAG_NEW_LISTENER, and seccomp(2) returns a descriptor that
	// has to be sent to LinuxSeccomp.ListenerPath.
	Listener bool
	// Unknown counts the names in the profile that are not a system call on any
	// architecture. They have no effect.
	Unknown int
}

// maxInstructions is the kernel's BPF_MAXINSNS.
const maxInstructions = 4096

// flagTSYNC is accepted and ignored, as by runc: the filter is installed by a
// process of one thread.
const flagTSYNC = "SECCOMP_FILTER_FLAG_TSYNC"

// Compile translates profile for this machine's architecture. The result
// depends on nothing else and is the caller's.
//
// It is InvalidArgument if profile is nil or empty (an empty profile is never
// taken for "unconfined": CVE-2023-2431), has an unknown action, operator,
// architecture or flag, or is too large for the kernel.
func Compile(profile *specs.LinuxSeccomp) (*Program, error) {
	p, err := compile(profile, nativeGOARCH)
	if err != nil {
		return nil, fmt.Errorf("compile seccomp profile: %w", err)
	}
	return p, nil
}

func compile(profile *specs.LinuxSeccomp, goarch string) (*Program, error) {
	if profile == nil || profile.DefaultAction == "" {
		return nil, invalid("no default action")
	}
	targets, err := targetArches(profile.Architectures, goarch)
	if err != nil {
		return nil, err
	}
	rs, err := resolve(profile, targets)
	if err != nil {
		return nil, err
	}
	flags, err := filterFlags(profile.Flags, rs.notify)
	if err != nil {
		return nil, err
	}
	if rs.notify && profile.ListenerPath == "" {
		return nil, invalid("SCMP_ACT_NOTIFY is used but listenerPath is empty")
	}
	filter, err := generate(rs)
	if err != nil {
		return nil, err
	}
	return &Program{Filter: filter, Flags: flags, Listener: rs.notify, Unknown: rs.unknown}, nil
}

// targetArches returns the architectures to filter: the machine's own, which is
// always meant, and those that the profile names and the machine can have.
func targetArches(names []specs.Arch, goarch string) ([]arch, error) {
	for _, name := range names {
		if _, ok := findArch(name); !ok && !slices.Contains(withoutTable, name) {
			return nil, invalid("unknown architecture %q", name)
		}
	}
	possible, ok := companions[goarch]
	if !ok {
		return nil, fmt.Errorf("no system call table for %s: %w", goarch, errdefs.ErrNotImplemented)
	}
	var targets []arch
	for i, name := range possible {
		if i == 0 || slices.Contains(names, name) {
			a, _ := findArch(name)
			targets = append(targets, a)
		}
	}
	return targets, nil
}

func filterFlags(names []specs.LinuxSeccompFlag, notify bool) (uint32, error) {
	var flags uint32
	if notify {
		flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	if names == nil {
		// Not even an empty list: runc's default, for speed. Processors that
		// need the mitigation slow down every filtered process.
		return flags | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	for _, name := range names {
		switch name {
		case flagTSYNC:
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			if notify { // the kernel refuses it for a program that does not
				flags |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
			}
		default:
			return 0, invalid("unknown flag %q", name)
		}
	}
	return flags, nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}
