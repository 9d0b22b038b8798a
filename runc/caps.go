package runc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// boundingSet returns the capability bounding set of this process.
func boundingSet() (uint64, error) {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	_, rest, ok := bytes.Cut(raw, []byte("\nCapBnd:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	set, err := strconv.ParseUint(strings.TrimSpace(string(line)), 16, 64)
	if !ok || err != nil {
		return 0, fmt.Errorf("read capabilities: bad bounding set %q", line)
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
