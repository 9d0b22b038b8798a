package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// setters2 are the limits of v2 in the order they are set. The unified ones are
// last: they override.
var setters2 = []struct {
	what  string
	asked func(*specs.LinuxResources) bool
	set   func(d dir, res *specs.LinuxResources) error
}{
	{"memory limits", func(r *specs.LinuxResources) bool { return r.Memory != nil }, setMemory2},
	{"CPU limits", func(r *specs.LinuxResources) bool { return r.CPU != nil && asksCPU(r.CPU) }, setCPU2},
	{"cpuset", func(r *specs.LinuxResources) bool { return r.CPU != nil && r.CPU.Cpus+r.CPU.Mems != "" }, setCpuset},
	{"pids limit", func(r *specs.LinuxResources) bool { return r.Pids != nil && r.Pids.Limit != nil }, setPids},
	{"block I/O limits", func(r *specs.LinuxResources) bool { return r.BlockIO != nil && asksBlkio(r.BlockIO) }, setIO},
	{"huge page limits", func(r *specs.LinuxResources) bool { return len(r.HugepageLimits) > 0 }, setHugetlb2},
	{"RDMA limits", func(r *specs.LinuxResources) bool { return len(r.Rdma) > 0 }, setRdma},
	{"unified resources", func(r *specs.LinuxResources) bool { return len(r.Unified) > 0 }, setUnified},
}

// setLimits applies all of res, which is valid, but the device rules.
func (m *v2) setLimits(res *specs.LinuxResources) error {
	if res == nil {
		return nil
	}
	var d dir
	for _, s := range setters2 {
		if !s.asked(res) {
			continue
		}
		if d.path == "" {
			var err error
			if d, err = openDir(m.path); err != nil {
				return err
			}
			defer d.close()
		}
		if err := s.set(d, res); err != nil {
			err = explain(err, unix.ENOENT, "the kernel lacks it or the controller is not enabled for the group")
			return fmt.Errorf("set %s: %w", s.what, err)
		}
	}
	return nil
}

func setMemory2(d dir, res *specs.LinuxResources) error {
	m := res.Memory
	if err := checkMemoryUsage(d, "memory.current", m); err != nil {
		return err
	}
	swap, err := swapMax(deref(m.Limit), deref(m.Swap))
	if err != nil {
		return err
	}
	if swap != "" {
		err := d.write("memory.swap.max", swap)
		// Where swap is not accounted, none and no limit are what there is.
		if err != nil && !(errors.Is(err, unix.ENOENT) && (swap == "max" || swap == "0")) {
			return err
		}
	}
	if limit := bytesMax(deref(m.Limit)); limit != "" {
		if err := d.write("memory.max", limit); err != nil {
			return err
		}
	}
	if low := bytesMax(deref(m.Reservation)); low != "" {
		return d.write("memory.low", low)
	}
	return nil
}

func setCPU2(d dir, res *specs.LinuxResources) error {
	c := res.CPU
	err := setIdleAndShares(d, c, func() error { return d.writeUint("cpu.weight", cpuWeight(*c.Shares)) })
	if err != nil {
		return err
	}
	return withBurst(d, "cpu.max.burst", c, func() error {
		return setQuota2(d, deref(c.Period), deref(c.Quota))
	})
}

// setQuota2 writes cpu.max, "QUOTA PERIOD" where PERIOD may be left out.
func setQuota2(d dir, period uint64, quota int64) error {
	if period == 0 && quota == 0 {
		return nil
	}
	value := "max"
	switch {
	case quota > 0:
		value = strconv.FormatInt(quota, 10)
	case quota == 0:
		current, err := d.readString("cpu.max")
		if err != nil {
			return err
		}
		value, _, _ = strings.Cut(current, " ")
	}
	if period != 0 {
		value += " " + strconv.FormatUint(period, 10)
	}
	return d.write("cpu.max", value)
}

func setIO(d dir, res *specs.LinuxResources) error {
	b := res.BlockIO
	if deref(b.LeafWeight) != 0 {
		return unavailable("block I/O leaf weight")
	}
	if w := deref(b.Weight); w != 0 {
		if err := setIOWeight(d, "", w); err != nil {
			return err
		}
	}
	for _, wd := range b.WeightDevice {
		if deref(wd.LeafWeight) != 0 {
			return unavailable("block I/O leaf weight")
		}
		if w := deref(wd.Weight); w != 0 {
			if err := setIOWeight(d, fmt.Sprintf("%d:%d ", wd.Major, wd.Minor), w); err != nil {
				return err
			}
		}
	}
	for _, t := range []struct {
		key     string
		devices []specs.LinuxThrottleDevice
	}{
		{"rbps", b.ThrottleReadBpsDevice},
		{"wbps", b.ThrottleWriteBpsDevice},
		{"riops", b.ThrottleReadIOPSDevice},
		{"wiops", b.ThrottleWriteIOPSDevice},
	} {
		for _, dev := range t.devices {
			rate := "max" // v1 says 0
			if dev.Rate != 0 {
				rate = strconv.FormatUint(dev.Rate, 10)
			}
			err := d.write("io.max", fmt.Sprintf("%d:%d %s=%s", dev.Major, dev.Minor, t.key, rate))
			if err := explain(err, unix.ENODEV, "no such block device"); err != nil {
				return err
			}
		}
	}
	return nil
}

// setIOWeight sets a weight of v1's range, for all devices or those of prefix.
// The bfq scheduler has a file of its own, with v1's range.
func setIOWeight(d dir, prefix string, weight uint16) error {
	err := d.write("io.bfq.weight", prefix+strconv.Itoa(int(weight)))
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	return d.write("io.weight", prefix+strconv.FormatUint(ioWeight(weight), 10))
}

func setHugetlb2(d dir, res *specs.LinuxResources) error { return setHugetlb(d, res, "max") }

// setUnified writes each value to its file. A value of several lines is several
// settings, which the kernel takes one per write.
func setUnified(d dir, res *specs.LinuxResources) error {
	for _, name := range slices.Sorted(maps.Keys(res.Unified)) {
		for line := range strings.SplitSeq(strings.TrimSuffix(res.Unified[name], "\n"), "\n") {
			if err := d.write(name, line); err != nil {
				controller, _, _ := strings.Cut(name, ".")
				err = explain(err, unix.ENOENT, "controller %q not available", controller)
				return fmt.Errorf("unified resource %q can't be set: %w", name, err)
			}
		}
	}
	return nil
}
