package container

import (
	"os"
	"path/filepath"
	"strings"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// kernel is what the host's control groups can limit.
type kernel struct {
	memory, swap, swappiness, reservation, oomDisable bool
	pids, cpuShares, cpuCFS, cpuset                   bool
	blkioWeight, blkioWeightDevice                    bool
	blkioReadBps, blkioWriteBps                       bool
	blkioReadIOps, blkioWriteIOps                     bool
	cgroupNS, forwarding                              bool
}

// probeKernel looks at the control groups below root, "/" but in tests. What
// cannot be told counts as there: the kernel has the last word.
func probeKernel(root string) kernel {
	at := func(p string) string { return filepath.Join(root, p) }
	exists := func(p string) bool { _, err := os.Stat(at(p)); return err == nil }
	k := kernel{cgroupNS: exists("proc/self/ns/cgroup"), forwarding: true}
	if text, err := os.ReadFile(at("proc/sys/net/ipv4/ip_forward")); err == nil {
		k.forwarding = strings.TrimSpace(string(text)) != "0"
	}
	const unified = "sys/fs/cgroup/"
	if text, err := os.ReadFile(at(unified + "cgroup.controllers")); err == nil {
		have := map[string]bool{}
		for name := range strings.FieldsSeq(string(text)) {
			have[name] = true
		}
		k.memory, k.reservation, k.swap = have["memory"], have["memory"], have["memory"]
		k.pids, k.cpuset = have["pids"], have["cpuset"]
		k.cpuShares, k.cpuCFS = have["cpu"], have["cpu"]
		io := have["io"]
		k.blkioWeight, k.blkioWeightDevice = io, io
		k.blkioReadBps, k.blkioWriteBps, k.blkioReadIOps, k.blkioWriteIOps = io, io, io, io
		return k // swappiness and the OOM killer's switch are version 1's
	}
	file := func(p string) bool { return exists(unified + p) }
	k.memory = file("memory/memory.limit_in_bytes")
	k.swap = file("memory/memory.memsw.limit_in_bytes")
	k.reservation = file("memory/memory.soft_limit_in_bytes")
	k.oomDisable = file("memory/memory.oom_control")
	k.swappiness = file("memory/memory.swappiness")
	k.pids = file("pids/cgroup.procs")
	k.cpuShares = file("cpu/cpu.shares")
	k.cpuCFS = file("cpu/cpu.cfs_quota_us") && file("cpu/cpu.cfs_period_us")
	k.cpuset = file("cpuset/cpuset.cpus") || file("cpuset/cpus")
	k.blkioWeight = file("blkio/blkio.weight") || file("blkio/blkio.bfq.weight")
	k.blkioWeightDevice = file("blkio/blkio.weight_device") || file("blkio/blkio.bfq.weight_device")
	k.blkioReadBps = file("blkio/blkio.throttle.read_bps_device")
	k.blkioWriteBps = file("blkio/blkio.throttle.write_bps_device")
	k.blkioReadIOps = file("blkio/blkio.throttle.read_iops_device")
	k.blkioWriteIOps = file("blkio/blkio.throttle.write_iops_device")
	return k
}

// adapt drops the limits of r that the host cannot set and says so in Docker's
// words. It comes before checkResources: what is dropped is not checked.
func (k kernel) adapt(r *api.Resources) (warnings []string) {
	drop := func(set, can bool, warning string, clear func()) {
		if set && !can {
			warnings = append(warnings, warning)
			clear()
		}
	}
	drop(r.Memory > 0, k.memory, "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
		func() { r.Memory, r.MemorySwap = 0, -1 })
	drop(r.Memory > 0 && r.MemorySwap != -1, k.swap, "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
		func() { r.MemorySwap = -1 })
	drop(r.MemorySwappiness != nil && *r.MemorySwappiness != -1, k.swappiness,
		"Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.",
		func() { r.MemorySwappiness = nil })
	drop(r.MemoryReservation > 0, k.reservation, "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.",
		func() { r.MemoryReservation = 0 })
	if r.OomKillDisable != nil && !k.oomDisable {
		if *r.OomKillDisable {
			warnings = append(warnings, "Your kernel does not support OomKillDisable. OomKillDisable discarded.")
		}
		r.OomKillDisable = nil
	}
	if r.PidsLimit != nil && !k.pids {
		if *r.PidsLimit > 0 {
			warnings = append(warnings, "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.")
		}
		r.PidsLimit = nil
	}
	drop(r.CPUShares > 0, k.cpuShares, "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.",
		func() { r.CPUShares = 0 })
	drop(r.CPUPeriod != 0 || r.CPUQuota != 0, k.cpuCFS, "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.",
		func() { r.CPUPeriod, r.CPUQuota = 0, 0 })
	drop(r.CPUPercent > 0, false, "linux does not support CPU percent. Percent discarded.", func() { r.CPUPercent = 0 })
	drop(r.CpusetCpus != "" || r.CpusetMems != "", k.cpuset, "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.",
		func() { r.CpusetCpus, r.CpusetMems = "", "" })
	drop(r.BlkioWeight > 0, k.blkioWeight, "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
		func() { r.BlkioWeight = 0 })
	drop(len(r.BlkioWeightDevice) > 0, k.blkioWeightDevice, "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.",
		func() { r.BlkioWeightDevice = nil })
	drop(len(r.BlkioDeviceReadBps) > 0, k.blkioReadBps, "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit discarded.",
		func() { r.BlkioDeviceReadBps = nil })
	drop(len(r.BlkioDeviceWriteBps) > 0, k.blkioWriteBps, "Your kernel does not support BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit discarded.",
		func() { r.BlkioDeviceWriteBps = nil })
	drop(len(r.BlkioDeviceReadIOps) > 0, k.blkioReadIOps, "Your kernel does not support IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit discarded.",
		func() { r.BlkioDeviceReadIOps = nil })
	drop(len(r.BlkioDeviceWriteIOps) > 0, k.blkioWriteIOps, "Your kernel does not support IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit discarded.",
		func() { r.BlkioDeviceWriteIOps = nil })
	return warnings
}

// hostWarnings tells of what else of h the host lacks.
func (k kernel) hostWarnings(h *api.HostConfig) (warnings []string) {
	if !k.forwarding && !h.NetworkMode.IsHost() && !h.NetworkMode.IsNone() && h.NetworkMode != network.NetworkNone {
		warnings = append(warnings, "IPv4 forwarding is disabled. Networking will not work.")
	}
	if h.CgroupnsMode.IsPrivate() && !k.cgroupNS {
		warnings = append(warnings, "Your kernel does not support cgroup namespaces.  Cgroup namespace setting discarded.")
		h.CgroupnsMode = api.CgroupnsModeHost
	}
	return warnings
}
