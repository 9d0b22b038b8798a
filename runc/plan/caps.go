package plan

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// CapNames are the capabilities in the kernel's order, without "CAP_".
var CapNames = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// CapSets are the five capability sets of a process as bit masks.
type CapSets struct {
	Bounding, Effective, Permitted, Inheritable, Ambient uint64
}

// ParseCaps translates the sets of c; nil is no capability at all. Capabilities
// that are unknown or not in available (the bounding set of this process) are
// left out, and their names returned.
//
// The ambient set is cut down to what is permitted and inheritable, as the kernel
// demands; lost has the names of what it loses.
func ParseCaps(c *specs.LinuxCapabilities, available uint64) (s CapSets, left, lost []string) {
	if c == nil {
		return s, nil, nil
	}
	seen := map[string]bool{}
	mask := func(names []string) (m uint64) {
		for _, n := range names {
			bit, err := capBit(n)
			if err == nil && available>>bit&1 != 0 {
				m |= 1 << bit
			} else if !seen[n] {
				seen[n] = true
				left = append(left, n)
			}
		}
		return m
	}
	s = CapSets{
		Bounding: mask(c.Bounding), Effective: mask(c.Effective), Permitted: mask(c.Permitted),
		Inheritable: mask(c.Inheritable), Ambient: mask(c.Ambient),
	}
	for bit := uint(0); bit <= lastCap; bit++ {
		if s.Ambient&^(s.Permitted&s.Inheritable)>>bit&1 != 0 {
			lost = append(lost, capName(bit))
		}
	}
	s.Ambient &= s.Permitted & s.Inheritable
	return s, left, lost
}

func capBit(name string) (uint, error) {
	short := strings.TrimPrefix(strings.ToUpper(name), "CAP_")
	for i, n := range CapNames {
		if n == short {
			return uint(i), nil
		}
	}
	return 0, fmt.Errorf("unknown capability %q: %w", name, errInvalid)
}

const lastCap = 63

// boundingDrops appends the drop of every capability that this process has in its
// bounding set and want has not.
func (b *builder) boundingDrops(have, want uint64) {
	for bit := uint(0); bit <= lastCap; bit++ {
		if have>>bit&1 != 0 && want>>bit&1 == 0 {
			b.prctl("drop capability "+capName(bit)+" from the bounding set", "PR_CAPBSET_DROP", unix.PR_CAPBSET_DROP, uint64(bit))
		}
	}
}

// capset appends capset(2).
func (b *builder) capset(what string, effective, permitted, inheritable uint64) {
	head := b.buffer(words(unix.LINUX_CAPABILITY_VERSION_3, 0))
	data := b.buffer(words(uint32(effective), uint32(permitted), uint32(inheritable),
		uint32(effective>>32), uint32(permitted>>32), uint32(inheritable>>32)))
	show := fmt.Sprintf("{eff:%x prm:%x inh:%x}", effective, permitted, inheritable)
	b.call(what, unix.SYS_CAPSET, []Arg{addr(head), {Kind: Address, Buf: data, Show: show}})
}

// ambient appends the replacement of the ambient set.
func (b *builder) ambient(set uint64) {
	b.prctl("clear ambient capabilities", "PR_CAP_AMBIENT", unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL)
	for bit := uint(0); bit <= lastCap; bit++ {
		if set>>bit&1 != 0 {
			b.prctl("raise ambient capability "+capName(bit), "PR_CAP_AMBIENT", unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uint64(bit))
		}
	}
}

func capName(bit uint) string {
	if int(bit) < len(CapNames) {
		return "CAP_" + CapNames[bit]
	}
	return fmt.Sprintf("%d", bit)
}
