package runc

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// boundingSet returns the capability bounding set of this thread, which is that of
// the process.
func boundingSet() (uint64, error) {
	var set uint64
	for bit := range uint(64) {
		// Not worth a file of procfs: each is a tenth of a microsecond.
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(bit), 0, 0, 0)
		if err == unix.EINVAL {
			break // past the kernel's last capability
		}
		if err != nil {
			return 0, fmt.Errorf("read capabilities: %w", err)
		}
		set |= uint64(has) << bit
	}
	return set, nil
}

// lastCap returns the number of the kernel's last capability.
func lastCap() (uint, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 6)
	return uint(n), err
}
