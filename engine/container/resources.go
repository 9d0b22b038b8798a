package container

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/blkiodev"
	api "github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

type ulimit = api.Ulimit

// cpuPeriodMicros is the period that a number of CPUs is expressed in.
const cpuPeriodMicros = 100_000

// resources returns the cgroup limits of r; those not asked for are absent.
func resources(r *api.Resources) (*specs.LinuxResources, error) {
	out := &specs.LinuxResources{Memory: memory(r), CPU: cpu(r), Pids: pids(r)}
	block := &specs.LinuxBlockIO{}
	if r.BlkioWeight != 0 {
		block.Weight = &r.BlkioWeight
	}
	for _, d := range r.BlkioWeightDevice {
		major, minor, err := deviceNumber(d.Path)
		if err != nil {
			return nil, err
		}
		w := specs.LinuxWeightDevice{Weight: &d.Weight}
		w.Major, w.Minor = major, minor
		block.WeightDevice = append(block.WeightDevice, w)
	}
	for _, t := range []struct {
		from []*blkiodev.ThrottleDevice
		to   *[]specs.LinuxThrottleDevice
	}{
		{r.BlkioDeviceReadBps, &block.ThrottleReadBpsDevice},
		{r.BlkioDeviceWriteBps, &block.ThrottleWriteBpsDevice},
		{r.BlkioDeviceReadIOps, &block.ThrottleReadIOPSDevice},
		{r.BlkioDeviceWriteIOps, &block.ThrottleWriteIOPSDevice},
	} {
		for _, d := range t.from {
			major, minor, err := deviceNumber(d.Path)
			if err != nil {
				return nil, err
			}
			dev := specs.LinuxThrottleDevice{Rate: d.Rate}
			dev.Major, dev.Minor = major, minor
			*t.to = append(*t.to, dev)
		}
	}
	if block.Weight != nil || block.WeightDevice != nil || block.ThrottleReadBpsDevice != nil ||
		block.ThrottleWriteBpsDevice != nil || block.ThrottleReadIOPSDevice != nil || block.ThrottleWriteIOPSDevice != nil {
		out.BlockIO = block
	}
	return out, nil
}

func deviceNumber(name string) (major, minor int64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return 0, 0, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return int64(unix.Major(uint64(st.Rdev))), int64(unix.Minor(uint64(st.Rdev))), nil
}

func memory(r *api.Resources) *specs.LinuxMemory {
	var m specs.LinuxMemory
	if r.Memory > 0 {
		m.Limit = &r.Memory
	}
	if r.MemoryReservation > 0 {
		m.Reservation = &r.MemoryReservation
	}
	if r.MemorySwap != 0 && (r.MemorySwap > 0 || r.Memory > 0) {
		m.Swap = &r.MemorySwap
	}
	if r.MemorySwappiness != nil {
		v := uint64(*r.MemorySwappiness)
		m.Swappiness = &v
	}
	if r.OomKillDisable != nil && *r.OomKillDisable {
		m.DisableOOMKiller = r.OomKillDisable
	}
	if m == (specs.LinuxMemory{}) {
		return nil
	}
	return &m
}

func cpu(r *api.Resources) *specs.LinuxCPU {
	c := specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if r.CPUShares > 0 {
		v := uint64(r.CPUShares)
		c.Shares = &v
	}
	if r.NanoCPUs > 0 {
		period, quota := uint64(cpuPeriodMicros), r.NanoCPUs*cpuPeriodMicros/1e9
		c.Period, c.Quota = &period, &quota
	}
	if r.CPUPeriod != 0 {
		v := uint64(r.CPUPeriod)
		c.Period = &v
	}
	if r.CPUQuota != 0 {
		c.Quota = &r.CPUQuota
	}
	if r.CPURealtimePeriod != 0 {
		v := uint64(r.CPURealtimePeriod)
		c.RealtimePeriod = &v
	}
	if r.CPURealtimeRuntime != 0 {
		c.RealtimeRuntime = &r.CPURealtimeRuntime
	}
	if c == (specs.LinuxCPU{}) {
		return nil
	}
	return &c
}

func pids(r *api.Resources) *specs.LinuxPids {
	if r.PidsLimit == nil {
		return nil
	}
	limit := *r.PidsLimit
	if limit <= 0 {
		limit = -1 // unlimited, in the OCI's words
	}
	return &specs.LinuxPids{Limit: &limit}
}

// devices are the nodes made in a container beside the standard ones, and which
// devices its cgroup lets it use.
type devices struct {
	nodes []specs.LinuxDevice
	rules []specs.LinuxDeviceCgroup
}

// defaultDeviceRules start from nothing: null, zero, full, random, urandom, tty
// and console are allowed, fuse is denied by name as Docker has it.
func defaultDeviceRules() []specs.LinuxDeviceCgroup {
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, d := range [][2]int64{{1, 5}, {1, 3}, {1, 9}, {1, 8}, {5, 0}, {5, 1}} {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &d[0], Minor: &d[1], Access: "rwm"})
	}
	fuse := [2]int64{10, 229}
	return append(rules, specs.LinuxDeviceCgroup{Allow: false, Type: "c", Major: &fuse[0], Minor: &fuse[1], Access: "rwm"})
}

// hostDevices returns the devices of h as they are on the host now.
func hostDevices(h *api.HostConfig) (devices, error) {
	var d devices
	if h.Privileged {
		nodes, err := devicesBelow("/dev", "/dev", "")
		if err != nil {
			return d, err
		}
		d.nodes = nodes
		d.rules = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	} else {
		d.rules = defaultDeviceRules()
	}
	for _, mapping := range h.Devices {
		if h.Privileged && mapping.PathOnHost == mapping.PathInContainer {
			continue // there already
		}
		access := mapping.CgroupPermissions
		if access == "" || h.Privileged {
			access = "rwm"
		}
		nodes, err := devicesFrom(mapping.PathOnHost, mapping.PathInContainer)
		if err != nil {
			return d, fmt.Errorf("error gathering device information while adding custom device %q: %w", mapping.PathOnHost, err)
		}
		d.nodes = append(d.nodes, nodes...)
		for _, n := range nodes {
			if !h.Privileged {
				d.rules = append(d.rules, specs.LinuxDeviceCgroup{Allow: true, Type: n.Type, Major: &n.Major, Minor: &n.Minor, Access: access})
			}
		}
	}
	for _, rule := range h.DeviceCgroupRules {
		parsed, err := parseDeviceRule(rule)
		if err != nil {
			return d, err
		}
		if !h.Privileged {
			d.rules = append(d.rules, parsed)
		}
	}
	return d, nil
}

// devicesFrom returns the device at hostPath, or those below it.
func devicesFrom(hostPath, target string) ([]specs.LinuxDevice, error) {
	if target == "" {
		target = hostPath
	}
	resolved, err := filepath.EvalSymlinks(hostPath)
	if err != nil {
		if pe, ok := err.(*fs.PathError); ok {
			err = pe.Err
		}
		return nil, err
	}
	fi, err := os.Stat(resolved)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		return devicesBelow(resolved, target, "")
	}
	dev, ok := device(resolved, target)
	if !ok {
		return nil, fmt.Errorf("not a device node")
	}
	return []specs.LinuxDevice{dev}, nil
}

// skippedDirs hold no devices of the host that a container could want.
var skippedDirs = []string{"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"}

func devicesBelow(dir, target, rel string) ([]specs.LinuxDevice, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []specs.LinuxDevice
	for _, e := range entries {
		name := e.Name()
		switch {
		case e.IsDir():
			if rel == "" && slices.Contains(skippedDirs, name) {
				continue
			}
			below, err := devicesBelow(path.Join(dir, name), path.Join(target, name), path.Join(rel, name))
			if err != nil {
				return nil, err
			}
			all = append(all, below...)
		case e.Type()&fs.ModeDevice != 0 && name != "console":
			if dev, ok := device(path.Join(dir, name), path.Join(target, name)); ok {
				all = append(all, dev)
			}
		}
	}
	return all, nil
}

func device(name, target string) (specs.LinuxDevice, bool) {
	var st unix.Stat_t
	if unix.Lstat(name, &st) != nil {
		return specs.LinuxDevice{}, false
	}
	typ := ""
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		typ = "c"
	case unix.S_IFBLK:
		typ = "b"
	default:
		return specs.LinuxDevice{}, false
	}
	mode := fs.FileMode(st.Mode &^ unix.S_IFMT)
	return specs.LinuxDevice{
		Path: target, Type: typ, FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
		Major: int64(unix.Major(uint64(st.Rdev))), Minor: int64(unix.Minor(uint64(st.Rdev))),
	}, true
}

// parseDeviceRule reads "c 1:3 rwm"; "*" stands for any number.
func parseDeviceRule(s string) (specs.LinuxDeviceCgroup, error) {
	fail := invalid("invalid device cgroup rule format: '%s'", s)
	fields := strings.Fields(s)
	rule := specs.LinuxDeviceCgroup{Allow: true}
	if len(fields) != 3 || !slices.Contains([]string{"a", "b", "c"}, fields[0]) || strings.Trim(fields[2], "rwm") != "" || fields[2] == "" {
		return rule, fail
	}
	rule.Type, rule.Access = fields[0], fields[2]
	major, minor, ok := strings.Cut(fields[1], ":")
	if !ok {
		return rule, fail
	}
	for _, n := range []struct {
		text string
		to   **int64
	}{{major, &rule.Major}, {minor, &rule.Minor}} {
		v := int64(-1)
		if n.text != "*" {
			parsed, err := strconv.ParseUint(n.text, 10, 32)
			if err != nil {
				return rule, fail
			}
			v = int64(parsed)
		}
		*n.to = &v
	}
	return rule, nil
}
