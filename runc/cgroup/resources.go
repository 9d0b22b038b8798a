package cgroup

import (
	"fmt"
	"math"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// validate refuses resources that make no sense or that mode does not have.
// What only the kernel can judge is left to it.
func validate(res *specs.LinuxResources, mode Mode) error {
	if res == nil {
		return nil
	}
	if _, err := deviceRules(res.Devices); err != nil {
		return err
	}
	if err := validateMemory(res.Memory, mode); err != nil {
		return err
	}
	if c := res.CPU; c != nil && mode == V2 {
		if deref(c.RealtimeRuntime) != 0 || deref(c.RealtimePeriod) != 0 {
			return unavailable("realtime scheduling limits")
		}
	}
	if n := res.Network; n != nil && mode == V2 {
		if deref(n.ClassID) != 0 || len(n.Priorities) > 0 {
			return unavailable("network class and priorities")
		}
	}
	for _, h := range res.HugepageLimits {
		if !validPageSize(h.Pagesize) {
			return invalid("huge page size %q is not like 2MB", h.Pagesize)
		}
	}
	for device := range res.Rdma {
		if device == "" || strings.ContainsAny(device, " \t\n") {
			return invalid("RDMA device name %q", device)
		}
	}
	if len(res.Unified) > 0 && mode != V2 {
		// Docker compatibility: "invalid configuration" is runc's text.
		return invalid("invalid configuration: cannot use unified resources on cgroup %s", mode)
	}
	for name := range res.Unified {
		// The name becomes a path below the group's directory.
		if name == "" || strings.ContainsAny(name, "/\x00") || !strings.Contains(name, ".") || strings.HasPrefix(name, ".") {
			return invalid("unified resource %q must be a file name like memory.high", name)
		}
	}
	return nil
}

func validateMemory(m *specs.LinuxMemory, mode Mode) error {
	if m == nil {
		return nil
	}
	limit, swap := deref(m.Limit), deref(m.Swap)
	for name, n := range map[string]int64{"limit": limit, "reservation": deref(m.Reservation), "swap": swap, "kernelTCP": deref(m.KernelTCP)} {
		if n < -1 {
			return invalid("memory %s %d: neither a number of bytes nor -1", name, n)
		}
	}
	if limit > 0 && swap > 0 && swap < limit {
		return invalid("memory+swap limit %d is below the memory limit %d", swap, limit)
	}
	if limit == -1 && swap > 0 && mode != V2 {
		return invalid("memory+swap limit %d needs a memory limit", swap)
	}
	if s := m.Swappiness; s != nil && *s != math.MaxUint64 {
		if *s > 100 {
			return invalid("invalid memory swappiness value: %d (valid range is 0-100)", *s)
		}
		if mode == V2 {
			return unavailable("memory swappiness")
		}
	}
	if deref(m.DisableOOMKiller) && mode == V2 {
		return unavailable("disabling the OOM killer")
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

func unavailable(what string) error {
	return fmt.Errorf("set %s: cgroup v2 does not have it: %w", what, errdefs.ErrNotImplemented)
}

// deref returns *p, or zero if there is none. In LinuxResources zero mostly
// means the same as absent.
func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// validPageSize accepts what becomes part of a file name: "2MB", "1GB", "64KB".
func validPageSize(s string) bool {
	digits := strings.TrimRight(s, "KMGB")
	unit := s[len(digits):]
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return false
	}
	return unit == "KB" || unit == "MB" || unit == "GB"
}

// pidsMax converts LinuxPids.Limit to what pids.max takes. Docker compatibility:
// runc makes 0 mean 1.
func pidsMax(limit int64) string {
	switch {
	case limit < 0:
		return "max"
	case limit == 0:
		return "1"
	}
	return fmt.Sprint(limit)
}

// cpuWeight converts v1's cpu.shares (2 to 262144, default 1024) to v2's
// cpu.weight (1 to 10000, default 100). A straight line through the ends would
// make the default 39; this is the curve that Linux distributions agreed on,
// through the default as well: 10^((l²+125l)/612 - 7/34) with l = log2(shares).
func cpuWeight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// ioWeight converts v1's blkio.weight (10 to 1000) to v2's io.weight (1 to
// 10000), linearly.
func ioWeight(weight uint16) uint64 {
	return 1 + (uint64(max(weight, 10))-10)*9999/990
}

// swapMax converts memory and memory+swap limits to v2's memory.swap.max, the
// swap alone. Both are of LinuxMemory: 0 is absent, -1 is no limit; "" is to
// leave the value.
func swapMax(limit, swap int64) (string, error) {
	switch {
	case swap == 0 && limit == -1: // as v1 does: no memory limit, no swap limit
		return "max", nil
	case swap == 0:
		return "", nil
	case swap < 0:
		return "max", nil
	case limit == -1:
		return fmt.Sprint(swap), nil
	case limit == 0:
		return "", invalid("unable to set swap limit without memory limit")
	}
	return fmt.Sprint(swap - limit), nil
}

// bytesMax converts a limit of LinuxMemory to v2; "" is to leave the value.
func bytesMax(n int64) string {
	switch {
	case n == 0:
		return ""
	case n < 0:
		return "max"
	}
	return fmt.Sprint(n)
}
