package cgroup

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// file returns the contents of a file of the group; v1 says of which controller.
func file(t *testing.T, m Manager, controller, name string) string {
	t.Helper()
	path, ok := m.Paths()[controller]
	if !ok {
		path = m.Paths()[unifiedKey]
	}
	b, err := os.ReadFile(filepath.Join(path, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// hostHas reports whether the group's controller has the file, for knobs that
// depend on the kernel's configuration.
func hostHas(m Manager, controller, name string) bool {
	path, ok := m.Paths()[controller]
	if !ok {
		path = m.Paths()[unifiedKey]
	}
	_, err := os.Stat(filepath.Join(path, name))
	return err == nil
}

const mib = 1 << 20

// want is a file of v1 and its value, and the same for v2.
type want struct {
	controller, v1, value1, v2, value2 string
}

func TestLimits(t *testing.T) {
	steps := []struct {
		name string
		res  specs.LinuxResources
		want []want
	}{
		{"memory", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](64 * mib), Swap: ptr[int64](96 * mib), Reservation: ptr[int64](32 * mib)}}, []want{
			{"memory", "memory.limit_in_bytes", "67108864", "memory.max", "67108864"},
			{"memory", "memory.memsw.limit_in_bytes", "100663296", "memory.swap.max", "33554432"},
			{"memory", "memory.soft_limit_in_bytes", "33554432", "memory.low", "33554432"},
		}},
		{"memory up", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](128 * mib), Swap: ptr[int64](160 * mib)}}, []want{
			{"memory", "memory.limit_in_bytes", "134217728", "memory.max", "134217728"},
			{"memory", "memory.memsw.limit_in_bytes", "167772160", "memory.swap.max", "33554432"},
		}},
		{"memory down", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](32 * mib), Swap: ptr[int64](32 * mib)}}, []want{
			{"memory", "memory.limit_in_bytes", "33554432", "memory.max", "33554432"},
			{"memory", "memory.memsw.limit_in_bytes", "33554432", "memory.swap.max", "0"},
		}},
		{"swap off", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](40 * mib), Swap: ptr[int64](-1)}}, []want{
			{"memory", "memory.limit_in_bytes", "41943040", "memory.max", "41943040"},
			{"memory", "memory.memsw.limit_in_bytes", "9223372036854771712", "memory.swap.max", "max"},
		}},
		{"memory off", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](-1)}}, []want{
			{"memory", "memory.limit_in_bytes", "9223372036854771712", "memory.max", "max"},
			{"memory", "memory.memsw.limit_in_bytes", "9223372036854771712", "memory.swap.max", "max"},
		}},
		{"pids", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](42)}}, []want{{"pids", "pids.max", "42", "pids.max", "42"}}},
		{"pids zero", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](0)}}, []want{{"pids", "pids.max", "1", "pids.max", "1"}}},
		{"pids off", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](-1)}}, []want{{"pids", "pids.max", "max", "pids.max", "max"}}},
		{"cpu", specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr[uint64](3333), Quota: ptr[int64](50000), Period: ptr[uint64](200000)}}, []want{
			{"cpu", "cpu.shares", "3333", "cpu.weight", "256"},
			{"cpu", "cpu.cfs_quota_us", "50000", "cpu.max", "50000 200000"},
			{"cpu", "cpu.cfs_period_us", "200000", "cpu.max", "50000 200000"},
		}},
		{"quota alone", specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](30000)}}, []want{{"cpu", "cpu.cfs_quota_us", "30000", "cpu.max", "30000 200000"}}},
		{"period alone", specs.LinuxResources{CPU: &specs.LinuxCPU{Period: ptr[uint64](100000)}}, []want{{"cpu", "cpu.cfs_period_us", "100000", "cpu.max", "30000 100000"}}},
		{"burst", specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](60000), Burst: ptr[uint64](50000)}}, []want{
			{"cpu", "cpu.cfs_burst_us", "50000", "cpu.max.burst", "50000"},
			{"cpu", "cpu.cfs_quota_us", "60000", "cpu.max", "60000 100000"},
		}},
		{"burst down", specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](20000), Burst: ptr[uint64](10000)}}, []want{
			{"cpu", "cpu.cfs_burst_us", "10000", "cpu.max.burst", "10000"},
			{"cpu", "cpu.cfs_quota_us", "20000", "cpu.max", "20000 100000"},
		}},
		{"quota off", specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](-1), Burst: ptr[uint64](0)}}, []want{{"cpu", "cpu.cfs_quota_us", "-1", "cpu.max", "max 100000"}}},
		{"idle", specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr[int64](1), Shares: ptr[uint64](512)}}, []want{{"cpu", "cpu.idle", "1", "cpu.idle", "1"}}},
		{"not idle", specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr[int64](0), Shares: ptr[uint64](1024)}}, []want{
			{"cpu", "cpu.idle", "0", "cpu.idle", "0"},
			{"cpu", "cpu.shares", "1024", "cpu.weight", "100"},
		}},
		{"cpuset", specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0", Mems: "0"}}, []want{
			{"cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0"},
			{"cpuset", "cpuset.mems", "0", "cpuset.mems", "0"},
		}},
	}
	// All in one group, one after the other; and each in a fresh one.
	fresh := func(t *testing.T, m Manager, res *specs.LinuxResources, wants []want) {
		for _, w := range wants {
			if m.Paths()["memory"] != "" {
				if got := file(t, m, w.controller, w.v1); got != w.value1 {
					t.Errorf("%s = %q, want %q", w.v1, got, w.value1)
				}
			} else if got := file(t, m, w.controller, w.v2); got != w.value2 {
				t.Errorf("%s = %q, want %q", w.v2, got, w.value2)
			}
		}
	}
	one := newManager(t)
	create(t, one, nil)
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			if err := one.Set(&s.res); err != nil {
				t.Fatal(err)
			}
			fresh(t, one, &s.res, s.want)
		})
		if strings.HasSuffix(s.name, "alone") {
			continue // depends on the step before
		}
		t.Run(s.name+" at creation", func(t *testing.T) {
			m := newManager(t)
			create(t, m, &s.res)
			fresh(t, m, &s.res, s.want)
		})
	}
}

func TestLimitsV1(t *testing.T) {
	m := newManager(t)
	if m.Paths()["memory"] == "" {
		t.Skip("needs cgroup v1")
	}
	create(t, m, &specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: ptr[uint64](17), DisableOOMKiller: ptr(true), KernelTCP: ptr[int64](mib)}})
	if got := file(t, m, "memory", "memory.swappiness"); got != "17" {
		t.Errorf("swappiness = %q", got)
	}
	if got := file(t, m, "memory", "memory.oom_control"); !strings.Contains(got, "oom_kill_disable 1") {
		t.Errorf("oom_control = %q", got)
	}
	if got := file(t, m, "memory", "memory.kmem.tcp.limit_in_bytes"); got != "1048576" {
		t.Errorf("kmem.tcp = %q", got)
	}
	for name, tt := range map[string]struct {
		res   specs.LinuxResources
		class func(error) bool
		text  string
	}{
		"hugetlb":  {specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1}}}, errdefs.IsNotImplemented, "no hugetlb controller"},
		"net_cls":  {specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr[uint32](1)}}, errdefs.IsNotImplemented, "no net_cls controller"},
		"rdma":     {specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"mlx": {}}}, errdefs.IsNotImplemented, "no rdma controller"},
		"shares":   {specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr[uint64](1)}}, errdefs.IsInvalidArgument, "the minimum allowed cpu-shares is 2"},
		"burst":    {specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](10000), Burst: ptr[uint64](20000)}}, errdefs.IsInvalidArgument, "nor below the burst"},
		"cpus":     {specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4000"}}, errdefs.IsInvalidArgument, "the host has not so many"},
		"no disk":  {specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{{LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: 4000, Minor: 1}, Rate: 1}}}}, func(error) bool { return true }, "no such block device"},
		"leaf":     {specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{LeafWeight: ptr[uint16](500)}}, errdefs.IsNotImplemented, "blkio.leaf_weight"},
		"unified":  {specs.LinuxResources{Unified: map[string]string{"memory.min": "1"}}, errdefs.IsInvalidArgument, "invalid configuration"},
		"realtime": {specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimeRuntime: ptr[int64](1000)}}, errdefs.IsInvalidArgument, "realtime"},
	} {
		t.Run(name, func(t *testing.T) {
			err := m.Set(&tt.res)
			if err == nil || !tt.class(err) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Set: %v, want %q", err, tt.text)
			}
		})
	}
}

func TestLimitsV2(t *testing.T) {
	m := newManager(t)
	if m.Paths()["memory"] != "" {
		t.Skip("needs cgroup v2")
	}
	create(t, m, &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: ptr[int64](32 * mib)},
		CPU:     &specs.LinuxCPU{Shares: ptr[uint64](3333), Quota: ptr[int64](40000), Period: ptr[uint64](100000)},
		BlockIO: &specs.LinuxBlockIO{Weight: ptr[uint16](750)},
		Unified: map[string]string{"memory.max": "41943040", "memory.min": "131072", "cpu.max": "5000 50000", "cpu.weight": "42", "pids.max": "99"},
	})
	for name, want := range map[string]string{"memory.max": "41943040", "memory.min": "131072", "cpu.max": "5000 50000", "cpu.weight": "42", "pids.max": "99", "cgroup.controllers": ""} {
		if name == "cgroup.controllers" {
			b, err := os.ReadFile(filepath.Join(mountRoot, name))
			if err != nil {
				t.Fatal(err)
			}
			want = strings.TrimSpace(string(b))
		}
		if got := file(t, m, "", name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if hostHas(m, "", "io.bfq.weight") {
		if got := file(t, m, "", "io.bfq.weight"); got != "default 750" {
			t.Errorf("io.bfq.weight = %q", got)
		}
	} else if got := file(t, m, "", "io.weight"); got != "default 7475" {
		t.Errorf("io.weight = %q", got)
	}
	for name, tt := range map[string]struct {
		res   specs.LinuxResources
		class func(error) bool
		text  string
	}{
		"swappiness":   {specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: ptr[uint64](1)}}, errdefs.IsNotImplemented, "memory swappiness"},
		"oom killer":   {specs.LinuxResources{Memory: &specs.LinuxMemory{DisableOOMKiller: ptr(true)}}, errdefs.IsNotImplemented, "OOM killer"},
		"swap alone":   {specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: ptr[int64](mib)}}, errdefs.IsInvalidArgument, "unable to set swap limit without memory limit"},
		"unified file": {specs.LinuxResources{Unified: map[string]string{"frob.max": "1"}}, errdefs.IsNotImplemented, `unified resource "frob.max" can't be set`},
	} {
		t.Run(name, func(t *testing.T) {
			err := m.Set(&tt.res)
			if err == nil || !tt.class(err) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Set: %v, want %q", err, tt.text)
			}
		})
	}
	f, err := m.Fd()
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func TestThrottle(t *testing.T) {
	m := newManager(t)
	dev := blockDevice(t)
	throttle := func(rate uint64) []specs.LinuxThrottleDevice {
		return []specs.LinuxThrottleDevice{{LinuxBlockIODevice: dev, Rate: rate}}
	}
	create(t, m, &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
		ThrottleReadBpsDevice: throttle(mib), ThrottleWriteBpsDevice: throttle(2 * mib), ThrottleReadIOPSDevice: throttle(300), ThrottleWriteIOPSDevice: throttle(400),
	}})
	if m.Paths()["blkio"] == "" {
		if got := file(t, m, "", "io.max"); !strings.HasSuffix(got, "rbps=1048576 wbps=2097152 riops=300 wiops=400") {
			t.Errorf("io.max = %q", got)
		}
	} else if got := file(t, m, "blkio", "blkio.throttle.write_bps_device"); !strings.HasSuffix(got, " 2097152") {
		t.Errorf("write_bps_device = %q", got)
	}
	if err := m.Set(&specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: throttle(0), ThrottleWriteBpsDevice: throttle(0), ThrottleReadIOPSDevice: throttle(0), ThrottleWriteIOPSDevice: throttle(0)}}); err != nil {
		t.Fatal(err)
	}
	if m.Paths()["blkio"] == "" {
		if got := file(t, m, "", "io.max"); got != "" {
			t.Errorf("io.max = %q, want none", got)
		}
	} else if got := file(t, m, "blkio", "blkio.throttle.write_bps_device"); got != "" {
		t.Errorf("write_bps_device = %q, want none", got)
	}
}

// blockDevice finds a whole disk of the host.
func blockDevice(t *testing.T) specs.LinuxBlockIODevice {
	t.Helper()
	disks, err := filepath.Glob("/sys/block/*/dev")
	if err != nil || len(disks) == 0 {
		t.Skip("needs a block device")
	}
	b, err := os.ReadFile(disks[len(disks)-1])
	if err != nil {
		t.Fatal(err)
	}
	major, minor, _ := strings.Cut(strings.TrimSpace(string(b)), ":")
	var dev specs.LinuxBlockIODevice
	if dev.Major, err = parseDeviceNumber(major); err != nil {
		t.Fatal(err)
	}
	if dev.Minor, err = parseDeviceNumber(minor); err != nil {
		t.Fatal(err)
	}
	return dev
}

func TestCheckBeforeUpdate(t *testing.T) {
	m := newManager(t)
	create(t, m, nil)
	p := startProcess(t)
	if err := m.Add(p.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	p.do("eat 8388608")
	for name, tt := range map[string]struct {
		mem  specs.LinuxMemory
		text string
	}{
		"memory": {specs.LinuxMemory{Limit: ptr[int64](mib), CheckBeforeUpdate: ptr(true)}, "rejecting memory limit"},
		"swap":   {specs.LinuxMemory{Limit: ptr[int64](mib), Swap: ptr[int64](mib), CheckBeforeUpdate: ptr(true)}, "rejecting memory+swap limit"},
	} {
		if err := m.Set(&specs.LinuxResources{Memory: &tt.mem}); err == nil || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v, want %q", name, err, tt.text)
		}
	}
	if m.Paths()["memory"] == "" {
		return // v2 would kill to get below the limit
	}
	err := m.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](mib)}})
	if !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "current usage") {
		t.Errorf("limit below the usage: %v", err)
	}
}

func TestStatsAndOOM(t *testing.T) {
	m := newManager(t)
	create(t, m, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr[int64](48 * mib), Swap: ptr[int64](48 * mib)},
		Pids:   &specs.LinuxPids{Limit: ptr[int64](50)},
	})
	events, err := WatchOOM(t.Context(), m.Paths())
	if err != nil {
		t.Fatal(err)
	}
	p := startProcess(t)
	if err := m.Add(p.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if got := p.do("eat 8388608"); got != "ok" {
		t.Fatalf("eat: %q", got)
	}
	s, err := m.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if mem := s.Memory.Memory; mem.Usage < 8*mib || mem.Usage > 48*mib || mem.Limit != 48*mib || len(s.Memory.Stat) < 10 {
		t.Errorf("memory: %+v, %d stats", mem, len(s.Memory.Stat))
	}
	if s.Pids.Current < 1 || s.Pids.Limit != 50 {
		t.Errorf("pids: %+v", s.Pids)
	}
	// On v1 user and kernel time are counted in ticks: a few milliseconds of work
	// may be none.
	if s.CPU.Total <= 0 || s.CPU.User < 0 || s.CPU.Kernel < 0 || s.CPU.Total > time.Minute {
		t.Errorf("cpu: %+v", s.CPU)
	}
	if got := p.do("eat 134217728"); got != "" {
		t.Fatalf("eat more than there is: %q", got)
	}
	select {
	case _, ok := <-events:
		if !ok {
			t.Error("closed without an event")
		}
	case <-time.After(10 * time.Second):
		t.Error("no event")
	}
	if err := p.waitEnd(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("process ended with %v", err)
	}
	if s, err = m.Stats(); err != nil || s.Memory.Events["oom_kill"] == 0 {
		t.Errorf("events: %v, %v", s.Memory.Events, err)
	}
	if err := m.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range events { // ends with the group
	}
}

func TestWatchOOMCancelled(t *testing.T) {
	m := newManager(t)
	if _, err := WatchOOM(t.Context(), m.Paths()); !errdefs.IsNotFound(err) {
		t.Errorf("WatchOOM before Create: %v, want NotFound", err)
	}
	create(t, m, nil)
	done := make(chan struct{})
	func() {
		ctx, cancel := context.WithCancel(t.Context())
		events, err := WatchOOM(ctx, m.Paths())
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for range events {
			}
			close(done)
		}()
		cancel()
	}()
	<-done
	if _, err := WatchOOM(t.Context(), map[string]string{"cpu": "/x"}); !errdefs.IsNotImplemented(err) {
		t.Errorf("WatchOOM without memory: %v", err)
	}
}

func TestStatsUnlimited(t *testing.T) {
	m := newManager(t)
	create(t, m, nil)
	s, err := m.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.Memory.Memory.Limit != math.MaxUint64 || s.Pids.Limit != math.MaxUint64 {
		t.Errorf("limits of a new group: %+v, %+v", s.Memory.Memory, s.Pids)
	}
}
