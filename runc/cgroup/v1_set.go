package cgroup

import (
	"errors"
	"fmt"
	"math"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// setters1 are the limits of v1 in the order they are set. A controller whose
// limits are not asked for costs no system call.
var setters1 = []struct {
	controller string
	what       string
	asked      func(*specs.LinuxResources) bool
	set        func(d dir, res *specs.LinuxResources) error
}{
	{"memory", "memory limits", func(r *specs.LinuxResources) bool { return r.Memory != nil }, setMemory1},
	{"cpu", "CPU limits", func(r *specs.LinuxResources) bool { return r.CPU != nil && asksCPU(r.CPU) }, setCPU1},
	{"cpuset", "cpuset", func(r *specs.LinuxResources) bool { return r.CPU != nil && r.CPU.Cpus+r.CPU.Mems != "" }, setCpuset},
	{"pids", "pids limit", func(r *specs.LinuxResources) bool { return r.Pids != nil && r.Pids.Limit != nil }, setPids},
	{"blkio", "block I/O limits", func(r *specs.LinuxResources) bool { return r.BlockIO != nil && asksBlkio(r.BlockIO) }, setBlkio1},
	{"hugetlb", "huge page limits", func(r *specs.LinuxResources) bool { return len(r.HugepageLimits) > 0 }, setHugetlb1},
	{"net_cls", "network class", func(r *specs.LinuxResources) bool { return r.Network != nil && r.Network.ClassID != nil }, setNetCls},
	{"net_prio", "network priorities", func(r *specs.LinuxResources) bool { return r.Network != nil && len(r.Network.Priorities) > 0 }, setNetPrio},
	{"rdma", "RDMA limits", func(r *specs.LinuxResources) bool { return len(r.Rdma) > 0 }, setRdma},
}

// set applies res, which is valid. Fresh says that the group has no process yet.
func (m *v1) set(res *specs.LinuxResources, fresh bool) error {
	if res == nil {
		res = &specs.LinuxResources{}
	}
	if fresh || res.Devices != nil {
		if err := m.setDevices(res.Devices, fresh); err != nil {
			return err
		}
	}
	for _, s := range setters1 {
		if !s.asked(res) {
			continue
		}
		d, err := m.open(s.controller, s.what)
		if err != nil {
			return err
		}
		err = s.set(d, res)
		d.close()
		if err != nil {
			return fmt.Errorf("set %s: %w", s.what, err)
		}
	}
	return nil
}

func asksCPU(c *specs.LinuxCPU) bool {
	return c.Shares != nil || c.Quota != nil || c.Period != nil || c.Burst != nil || c.Idle != nil ||
		c.RealtimeRuntime != nil || c.RealtimePeriod != nil
}

func asksBlkio(b *specs.LinuxBlockIO) bool {
	return b.Weight != nil || b.LeafWeight != nil || len(b.WeightDevice) > 0 ||
		len(b.ThrottleReadBpsDevice) > 0 || len(b.ThrottleWriteBpsDevice) > 0 ||
		len(b.ThrottleReadIOPSDevice) > 0 || len(b.ThrottleWriteIOPSDevice) > 0
}

const (
	memoryLimit1 = "memory.limit_in_bytes"
	memswLimit1  = "memory.memsw.limit_in_bytes"
)

func setMemory1(d dir, res *specs.LinuxResources) error {
	m := res.Memory
	if err := checkMemoryUsage(d, "memory.usage_in_bytes", m); err != nil {
		return err
	}
	if err := setMemoryAndSwap1(d, deref(m.Limit), deref(m.Swap)); err != nil {
		return err
	}
	// The kernel memory limit (m.Kernel) is obsolete since Linux 5.4 and, as the
	// specification allows, ignored. So is m.UseHierarchy: always on since 5.11.
	if n := deref(m.Reservation); n != 0 {
		if err := d.writeInt("memory.soft_limit_in_bytes", n); err != nil {
			return err
		}
	}
	if n := deref(m.KernelTCP); n != 0 {
		if err := d.writeInt("memory.kmem.tcp.limit_in_bytes", n); err != nil {
			return err
		}
	}
	if s := m.Swappiness; s != nil && *s != math.MaxUint64 {
		if err := d.writeUint("memory.swappiness", *s); err != nil {
			return err
		}
	}
	if m.DisableOOMKiller != nil {
		value := "0"
		if *m.DisableOOMKiller {
			value = "1"
		}
		if err := d.write("memory.oom_control", value); err != nil {
			return err
		}
	}
	return nil
}

// setMemoryAndSwap1 sets the two limits, of which the kernel always wants
// memory <= memory+swap: which goes first depends on the direction.
func setMemoryAndSwap1(d dir, limit, swap int64) error {
	// No memory limit needs no swap limit, where swap is accounted at all.
	implied := limit == -1 && swap == 0
	if implied {
		swap = -1
	}
	setSwap := func() error {
		if swap == 0 {
			return nil
		}
		err := d.writeInt(memswLimit1, swap)
		if implied && errors.Is(err, unix.ENOENT) {
			return nil
		}
		err = explain(err, unix.ENOENT, "the kernel does not account swap")
		return explain(err, unix.EINVAL, "it must not be below the memory limit")
	}
	setLimit := func() error {
		if limit == 0 {
			return nil
		}
		err := d.writeInt(memoryLimit1, limit)
		if errors.Is(err, unix.EBUSY) {
			usage, _ := d.readUint("memory.usage_in_bytes")
			peak, _ := d.readUint("memory.max_usage_in_bytes")
			return explain(err, unix.EBUSY, "the kernel could not free enough: current usage %d, peak usage %d", usage, peak)
		}
		return explain(err, unix.EINVAL, "it must not be above the memory+swap limit")
	}
	first, second := setLimit, setSwap
	if limit != 0 && swap != 0 {
		current, err := d.readUint(memoryLimit1)
		if err != nil {
			return err
		}
		if swap == -1 || current < uint64(swap) {
			first, second = setSwap, setLimit
		}
	}
	if err := first(); err != nil {
		return err
	}
	return second()
}

// checkMemoryUsage refuses limits below the present usage if the caller asked
// for that (LinuxMemory.CheckBeforeUpdate).
func checkMemoryUsage(d dir, usageFile string, m *specs.LinuxMemory) error {
	limit, swap := deref(m.Limit), deref(m.Swap)
	if !deref(m.CheckBeforeUpdate) || limit <= 0 && swap <= 0 {
		return nil
	}
	usage, err := d.readUint(usageFile)
	if err != nil {
		return err
	}
	if swap > 0 && uint64(swap) <= usage {
		return fmt.Errorf("rejecting memory+swap limit %d <= usage %d", swap, usage)
	}
	if limit > 0 && uint64(limit) <= usage {
		return fmt.Errorf("rejecting memory limit %d <= usage %d", limit, usage)
	}
	return nil
}

func setCPU1(d dir, res *specs.LinuxResources) error {
	c := res.CPU
	if err := setIdleAndShares(d, c, func() error { return setShares1(d, *c.Shares) }); err != nil {
		return err
	}
	// Realtime first: a process that is added later may need it.
	if err := setRealtime1(d, c); err != nil {
		return err
	}
	period, quota := deref(c.Period), deref(c.Quota)
	return withBurst(d, "cpu.cfs_burst_us", c, func() error {
		return setQuota1(d, period, quota)
	})
}

// setRealtime1 sets period and runtime in the order that the kernel takes: at no
// time may the runtime be more than the period.
func setRealtime1(d dir, c *specs.LinuxCPU) error {
	period := func() error {
		if p := deref(c.RealtimePeriod); p != 0 {
			return d.writeUint("cpu.rt_period_us", p)
		}
		return nil
	}
	runtime := func() error {
		if r := deref(c.RealtimeRuntime); r != 0 {
			return explain(d.writeInt("cpu.rt_runtime_us", r), unix.EINVAL, "the parent group has not that much realtime")
		}
		return nil
	}
	err := period()
	if errors.Is(err, unix.EINVAL) && deref(c.RealtimeRuntime) != 0 {
		if err := runtime(); err != nil {
			return err
		}
		return period()
	}
	if err != nil {
		return err
	}
	return runtime()
}

// setIdleAndShares sets cpu.idle and calls setWeight if shares are asked for and
// mean something: an idle group has no weight to set.
func setIdleAndShares(d dir, c *specs.LinuxCPU, setWeight func() error) error {
	if c.Idle != nil {
		if err := d.writeInt("cpu.idle", *c.Idle); err != nil {
			return err
		}
	}
	if deref(c.Shares) == 0 || deref(c.Idle) == 1 {
		return nil
	}
	return explain(setWeight(), unix.EINVAL, "a group with cpu.idle has no weight")
}

// setShares1 sets cpu.shares. The kernel silently limits what it is given, so
// the caller would believe in shares that are not there.
func setShares1(d dir, shares uint64) error {
	if err := d.writeUint("cpu.shares", shares); err != nil {
		return err
	}
	got, err := d.readUint("cpu.shares")
	if err != nil {
		return err
	}
	if shares > got {
		return invalid("the maximum allowed cpu-shares is %d", got)
	}
	if shares < got {
		return invalid("the minimum allowed cpu-shares is %d", got)
	}
	return nil
}

// setQuota1 sets the period and the quota; 0 leaves either. The kernel refuses a
// pair whose ratio is above the parent's, and so perhaps the new period with the
// old quota: then the quota goes first.
func setQuota1(d dir, period uint64, quota int64) error {
	later := false
	if period != 0 {
		err := d.writeUint("cpu.cfs_period_us", period)
		later = quota != 0 && errors.Is(err, unix.EINVAL)
		if err != nil && !later {
			return err
		}
	}
	if quota != 0 {
		if err := d.writeInt("cpu.cfs_quota_us", max(quota, -1)); err != nil {
			return explain(err, unix.EINVAL, "a quota must not be below 1ms, nor below the burst, nor its share above the parent group's")
		}
	}
	if later {
		return d.writeUint("cpu.cfs_period_us", period)
	}
	return nil
}

// withBurst sets the burst around setQuota: it must never be above the quota, so
// a burst that the kernel refuses before may be right after.
func withBurst(d dir, file string, c *specs.LinuxCPU, setQuota func() error) error {
	if c.Burst == nil {
		return setQuota()
	}
	err := d.writeUint(file, *c.Burst)
	if err != nil && !errors.Is(err, unix.EINVAL) {
		if *c.Burst != 0 || !errors.Is(err, unix.ENOENT) {
			return err
		}
		return setQuota() // no burst on a kernel that has none
	}
	if err := setQuota(); err != nil {
		return err
	}
	if err != nil {
		return explain(d.writeUint(file, *c.Burst), unix.EINVAL, "the burst must not be above the quota")
	}
	return nil
}

func setCpuset(d dir, res *specs.LinuxResources) error {
	for _, f := range []struct{ name, value string }{{"cpuset.cpus", res.CPU.Cpus}, {"cpuset.mems", res.CPU.Mems}} {
		if f.value == "" {
			continue
		}
		err := d.write(f.name, f.value)
		err = explain(err, unix.EACCES, "not a part of the parent group's")
		err = explain(err, unix.ERANGE, "the host has not so many")
		if err := explain(err, unix.EINVAL, "not a list like 0-2,5 of those the host has"); err != nil {
			return err
		}
	}
	return nil
}

func setPids(d dir, res *specs.LinuxResources) error {
	return d.write("pids.max", pidsMax(*res.Pids.Limit))
}

func setBlkio1(d dir, res *specs.LinuxResources) error {
	b := res.BlockIO
	if w := deref(b.Weight); w != 0 {
		if err := writeEither(d, "blkio.weight", "blkio.bfq.weight", strconv.Itoa(int(w))); err != nil {
			return err
		}
	}
	if w := deref(b.LeafWeight); w != 0 {
		if err := d.writeInt("blkio.leaf_weight", int64(w)); err != nil {
			return err
		}
	}
	for _, wd := range b.WeightDevice {
		if w := deref(wd.Weight); w != 0 {
			value := deviceValue(wd.LinuxBlockIODevice, uint64(w))
			if err := writeEither(d, "blkio.weight_device", "blkio.bfq.weight_device", value); err != nil {
				return err
			}
		}
		if w := deref(wd.LeafWeight); w != 0 {
			if err := d.write("blkio.leaf_weight_device", deviceValue(wd.LinuxBlockIODevice, uint64(w))); err != nil {
				return err
			}
		}
	}
	for _, t := range []struct {
		file    string
		devices []specs.LinuxThrottleDevice
	}{
		{"blkio.throttle.read_bps_device", b.ThrottleReadBpsDevice},
		{"blkio.throttle.write_bps_device", b.ThrottleWriteBpsDevice},
		{"blkio.throttle.read_iops_device", b.ThrottleReadIOPSDevice},
		{"blkio.throttle.write_iops_device", b.ThrottleWriteIOPSDevice},
	} {
		for _, dev := range t.devices {
			err := d.write(t.file, deviceValue(dev.LinuxBlockIODevice, dev.Rate))
			if err := explain(err, unix.ENODEV, "no such block device"); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeEither writes to the first of two files that exists: what the file is
// called depends on the I/O scheduler.
func writeEither(d dir, name, other, value string) error {
	err := d.write(name, value)
	if errors.Is(err, unix.ENOENT) {
		if second := d.write(other, value); !errors.Is(second, unix.ENOENT) {
			return second
		}
		return explain(err, unix.ENOENT, "no I/O scheduler of the host has weights: try bfq")
	}
	return err
}

func deviceValue(dev specs.LinuxBlockIODevice, n uint64) string {
	return fmt.Sprintf("%d:%d %d", dev.Major, dev.Minor, n)
}

func setHugetlb1(d dir, res *specs.LinuxResources) error {
	return setHugetlb(d, res, "limit_in_bytes")
}

// setHugetlb limits both what is used and, where the kernel can (Linux 5.7),
// what is reserved.
func setHugetlb(d dir, res *specs.LinuxResources, suffix string) error {
	for _, h := range res.HugepageLimits {
		if err := d.writeUint("hugetlb."+h.Pagesize+"."+suffix, h.Limit); err != nil {
			return explain(err, unix.ENOENT, "the host has no pages of %s", h.Pagesize)
		}
		err := d.writeUint("hugetlb."+h.Pagesize+".rsvd."+suffix, h.Limit)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

func setNetCls(d dir, res *specs.LinuxResources) error {
	return d.writeUint("net_cls.classid", uint64(*res.Network.ClassID))
}

func setNetPrio(d dir, res *specs.LinuxResources) error {
	for _, p := range res.Network.Priorities {
		if err := d.write("net_prio.ifpriomap", fmt.Sprintf("%s %d", p.Name, p.Priority)); err != nil {
			return err
		}
	}
	return nil
}

func setRdma(d dir, res *specs.LinuxResources) error {
	for device, r := range res.Rdma {
		value := device
		if r.HcaHandles != nil {
			value += fmt.Sprintf(" hca_handle=%d", *r.HcaHandles)
		}
		if r.HcaObjects != nil {
			value += fmt.Sprintf(" hca_object=%d", *r.HcaObjects)
		}
		if err := d.write("rdma.max", value); err != nil {
			return err
		}
	}
	return nil
}
