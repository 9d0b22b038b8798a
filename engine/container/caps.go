package container

import (
	"fmt"
	"slices"
	"strings"
)

// allCaps are the capabilities of Linux up to CAP_CHECKPOINT_RESTORE, by number.
var allCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
	"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// defaultCaps are those that Docker gives to a container.
var defaultCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE",
	"CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

const allCapsWord = "ALL"

// normalizeCaps brings names to upper case with the prefix CAP_; "ALL" stays.
func normalizeCaps(names []string) ([]string, error) {
	var out []string
	for _, name := range names {
		c := strings.ToUpper(name)
		if c != allCapsWord && !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		if c != allCapsWord && !slices.Contains(allCaps, c) {
			return nil, fmt.Errorf("unknown capability: %q", c)
		}
		out = append(out, c)
	}
	return out, nil
}

// capabilities returns the set of a container.
func capabilities(add, drop []string, privileged bool) ([]string, error) {
	if privileged {
		return hostCaps(), nil
	}
	add, err := normalizeCaps(add)
	if err != nil {
		return nil, err
	}
	if drop, err = normalizeCaps(drop); err != nil {
		return nil, err
	}
	base := defaultCaps
	switch {
	case slices.Contains(add, allCapsWord):
		base = hostCaps()
	case slices.Contains(drop, allCapsWord):
		base = nil
	}
	caps := slices.Clone(base)
	if !slices.Contains(drop, allCapsWord) {
		caps = slices.DeleteFunc(caps, func(c string) bool { return slices.Contains(drop, c) })
	} else if slices.Contains(add, allCapsWord) {
		caps = nil // Docker compatibility: dropping all beats adding all
	}
	for _, c := range add {
		if c != allCapsWord && !slices.Contains(caps, c) {
			caps = append(caps, c)
		}
	}
	return caps, nil
}

// hostCaps are the capabilities that the kernel knows.
func hostCaps() []string {
	last := len(allCaps) - 1
	if text, err := readSmall("/proc/sys/kernel/cap_last_cap"); err == nil {
		var n int
		if _, err := fmt.Sscan(text, &n); err == nil && n < last {
			last = n
		}
	}
	return slices.Clone(allCaps[:last+1])
}
