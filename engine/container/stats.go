package container

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/typeurl/v2"
	api "github.com/moby/moby/api/types/container"
)

// Stats returns what the container uses now. One that does not run has no numbers,
// only its ID and name. The fields of the previous sample are empty: who shows a
// stream fills them in.
func (m *Manager) Stats(ctx context.Context, ref string) (api.StatsResponse, error) {
	e, err := m.lookup(ref)
	if err != nil {
		return api.StatsResponse{}, err
	}
	r := e.rec.Load()
	s := api.StatsResponse{ID: r.ID, Name: r.Name, OSType: runtime.GOOS}
	if !r.State.hasTask() {
		return s, nil
	}
	metrics, err := m.Services.Tasks.Metrics(m.in(ctx), r.ID)
	if isNotFound(err) {
		return s, nil // it has just ended
	}
	if err != nil {
		return s, fmt.Errorf("measure container %s: %w", r.ID, err)
	}
	s.Read = time.Now()
	msg, err := typeurl.UnmarshalAny(metrics)
	if err != nil {
		return s, fmt.Errorf("measure container %s: %w", r.ID, err)
	}
	switch t := msg.(type) {
	case *cgroup1.Metrics:
		statsV1(&s, t)
	case *cgroup2.Metrics:
		statsV2(&s, t)
	default:
		return s, fmt.Errorf("measure container %s: unexpected type of metrics %T", r.ID, msg)
	}
	if total := hostMemory(); s.MemoryStats.Limit > total && total > 0 {
		s.MemoryStats.Limit = total
	}
	if s.CPUStats.SystemUsage, s.CPUStats.OnlineCPUs, err = hostCPU(); err != nil {
		return s, err
	}
	if !r.HostConfig.NetworkMode.IsHost() && !r.Config.NetworkDisabled {
		if s.Networks, err = networkStats(r.Pid); err != nil && !errors.Is(err, os.ErrNotExist) {
			return s, fmt.Errorf("measure container %s: %w", r.ID, err)
		}
	}
	return s, nil
}

func statsV1(s *api.StatsResponse, t *cgroup1.Metrics) {
	if b := t.Blkio; b != nil {
		s.BlkioStats = api.BlkioStats{
			IoServiceBytesRecursive: blkio(b.IoServiceBytesRecursive),
			IoServicedRecursive:     blkio(b.IoServicedRecursive),
			IoQueuedRecursive:       blkio(b.IoQueuedRecursive),
			IoServiceTimeRecursive:  blkio(b.IoServiceTimeRecursive),
			IoWaitTimeRecursive:     blkio(b.IoWaitTimeRecursive),
			IoMergedRecursive:       blkio(b.IoMergedRecursive),
			IoTimeRecursive:         blkio(b.IoTimeRecursive),
			SectorsRecursive:        blkio(b.SectorsRecursive),
		}
	}
	if c := t.CPU; c != nil {
		u, th := c.GetUsage(), c.GetThrottling()
		s.CPUStats.CPUUsage = api.CPUUsage{
			TotalUsage: u.GetTotal(), PercpuUsage: u.GetPerCPU(),
			UsageInKernelmode: u.GetKernel(), UsageInUsermode: u.GetUser(),
		}
		s.CPUStats.ThrottlingData = api.ThrottlingData{
			Periods: th.GetPeriods(), ThrottledPeriods: th.GetThrottledPeriods(), ThrottledTime: th.GetThrottledTime(),
		}
	}
	if y := t.Memory; y != nil {
		u := y.GetUsage()
		s.MemoryStats = api.MemoryStats{
			Usage: u.GetUsage(), MaxUsage: u.GetMax(), Limit: u.GetLimit(), Failcnt: u.GetFailcnt(),
			Stats: map[string]uint64{
				"cache": y.Cache, "rss": y.RSS, "rss_huge": y.RSSHuge, "mapped_file": y.MappedFile,
				"dirty": y.Dirty, "writeback": y.Writeback, "pgpgin": y.PgPgIn, "pgpgout": y.PgPgOut,
				"pgfault": y.PgFault, "pgmajfault": y.PgMajFault,
				"inactive_anon": y.InactiveAnon, "active_anon": y.ActiveAnon,
				"inactive_file": y.InactiveFile, "active_file": y.ActiveFile, "unevictable": y.Unevictable,
				"hierarchical_memory_limit": y.HierarchicalMemoryLimit, "hierarchical_memsw_limit": y.HierarchicalSwapLimit,
				"total_cache": y.TotalCache, "total_rss": y.TotalRSS, "total_rss_huge": y.TotalRSSHuge,
				"total_mapped_file": y.TotalMappedFile, "total_dirty": y.TotalDirty, "total_writeback": y.TotalWriteback,
				"total_pgpgin": y.TotalPgPgIn, "total_pgpgout": y.TotalPgPgOut,
				"total_pgfault": y.TotalPgFault, "total_pgmajfault": y.TotalPgMajFault,
				"total_inactive_anon": y.TotalInactiveAnon, "total_active_anon": y.TotalActiveAnon,
				"total_inactive_file": y.TotalInactiveFile, "total_active_file": y.TotalActiveFile,
				"total_unevictable": y.TotalUnevictable,
			},
		}
	}
	if p := t.Pids; p != nil {
		s.PidsStats = api.PidsStats{Current: p.Current, Limit: p.Limit}
	}
}

func blkio(entries []*cgroup1.BlkIOEntry) []api.BlkioStatEntry {
	out := make([]api.BlkioStatEntry, len(entries))
	for i, e := range entries {
		out[i] = api.BlkioStatEntry{Major: e.Major, Minor: e.Minor, Op: e.Op, Value: e.Value}
	}
	return out
}

// nanosPerMicro converts the units of cgroup v2 to those of the API.
const nanosPerMicro = 1000

func statsV2(s *api.StatsResponse, t *cgroup2.Metrics) {
	for _, e := range t.GetIo().GetUsage() {
		s.BlkioStats.IoServiceBytesRecursive = append(s.BlkioStats.IoServiceBytesRecursive,
			api.BlkioStatEntry{Major: e.Major, Minor: e.Minor, Op: "read", Value: e.Rbytes},
			api.BlkioStatEntry{Major: e.Major, Minor: e.Minor, Op: "write", Value: e.Wbytes})
	}
	if c := t.CPU; c != nil {
		s.CPUStats.CPUUsage = api.CPUUsage{
			TotalUsage: c.UsageUsec * nanosPerMicro, UsageInKernelmode: c.SystemUsec * nanosPerMicro, UsageInUsermode: c.UserUsec * nanosPerMicro,
		}
		s.CPUStats.ThrottlingData = api.ThrottlingData{
			Periods: c.NrPeriods, ThrottledPeriods: c.NrThrottled, ThrottledTime: c.ThrottledUsec * nanosPerMicro,
		}
	}
	if y := t.Memory; y != nil {
		s.MemoryStats = api.MemoryStats{
			Usage: y.Usage, Limit: y.UsageLimit, Failcnt: t.GetMemoryEvents().GetOom(),
			Stats: map[string]uint64{
				"anon": y.Anon, "file": y.File, "kernel_stack": y.KernelStack, "slab": y.Slab, "sock": y.Sock,
				"shmem": y.Shmem, "file_mapped": y.FileMapped, "file_dirty": y.FileDirty, "file_writeback": y.FileWriteback,
				"anon_thp": y.AnonThp, "inactive_anon": y.InactiveAnon, "active_anon": y.ActiveAnon,
				"inactive_file": y.InactiveFile, "active_file": y.ActiveFile, "unevictable": y.Unevictable,
				"slab_reclaimable": y.SlabReclaimable, "slab_unreclaimable": y.SlabUnreclaimable,
				"pgfault": y.Pgfault, "pgmajfault": y.Pgmajfault, "workingset_refault": y.WorkingsetRefault,
				"workingset_activate": y.WorkingsetActivate, "workingset_nodereclaim": y.WorkingsetNodereclaim,
				"pgrefill": y.Pgrefill, "pgscan": y.Pgscan, "pgsteal": y.Pgsteal, "pgactivate": y.Pgactivate,
				"pgdeactivate": y.Pgdeactivate, "pglazyfree": y.Pglazyfree, "pglazyfreed": y.Pglazyfreed,
				"thp_fault_alloc": y.ThpFaultAlloc, "thp_collapse_alloc": y.ThpCollapseAlloc,
			},
		}
	}
	if p := t.Pids; p != nil {
		s.PidsStats = api.PidsStats{Current: p.Current, Limit: p.Limit}
	}
}

// hostMemory returns the bytes of memory that the machine has, 0 when unknown.
var hostMemory = sync.OnceValue(func() uint64 {
	text, err := readSmall("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			kib, _ := strconv.ParseUint(f[1], 10, 64)
			return kib << 10
		}
	}
	return 0
})

// nanosPerTick is what a tick of /proc/stat means: USER_HZ is 100 on Linux.
const nanosPerTick = uint64(time.Second / 100)

// hostCPU returns the time that all processors have spent, in nanoseconds, and
// how many there are.
func hostCPU() (nanos uint64, cpus uint32, err error) {
	text, err := readSmall("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || !strings.HasPrefix(f[0], "cpu") {
			break
		}
		if f[0] != "cpu" {
			cpus++
			continue
		}
		for _, field := range f[1:min(len(f), 8)] {
			ticks, err := strconv.ParseUint(field, 10, 64)
			if err != nil {
				return 0, 0, fmt.Errorf("read /proc/stat: %w", err)
			}
			nanos += ticks * nanosPerTick
		}
	}
	return nanos, cpus, nil
}

// networkStats reads the counters of the interfaces that process pid sees.
func networkStats(pid int) (map[string]api.NetworkStats, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/net/dev")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all := map[string]api.NetworkStats{}
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		name, counters, ok := strings.Cut(sc.Text(), ":")
		name = strings.TrimSpace(name)
		f := strings.Fields(counters)
		if !ok || name == "lo" || len(f) < 16 {
			continue
		}
		n := func(i int) uint64 { v, _ := strconv.ParseUint(f[i], 10, 64); return v }
		all[name] = api.NetworkStats{
			RxBytes: n(0), RxPackets: n(1), RxErrors: n(2), RxDropped: n(3),
			TxBytes: n(8), TxPackets: n(9), TxErrors: n(10), TxDropped: n(11),
		}
	}
	if len(all) == 0 {
		return nil, sc.Err()
	}
	return all, sc.Err()
}
