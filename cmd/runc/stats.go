package main

import (
	"time"

	"lighter/runc/cgroup"
)

// The documents of `runc events --stats`. Their keys are what consumers of that
// command parse; times are in nanoseconds, sizes in bytes.
type (
	statsJSON struct {
		CPU     cpuJSON                `json:"cpu"`
		CPUSet  cpusetJSON             `json:"cpuset"`
		Memory  memoryJSON             `json:"memory"`
		Pids    pidsJSON               `json:"pids"`
		Blkio   blkioJSON              `json:"blkio"`
		Hugetlb map[string]hugetlbJSON `json:"hugetlb"`
	}
	cpuJSON struct {
		Usage      cpuUsageJSON   `json:"usage,omitzero"`
		Throttling throttlingJSON `json:"throttling,omitzero"`
		PSI        *psiJSON       `json:"psi,omitempty"`
	}
	cpuUsageJSON struct {
		Total  time.Duration   `json:"total,omitempty"`
		PerCPU []time.Duration `json:"percpu,omitempty"`
		Kernel time.Duration   `json:"kernel"`
		User   time.Duration   `json:"user"`
	}
	throttlingJSON struct {
		Periods          uint64        `json:"periods,omitempty"`
		ThrottledPeriods uint64        `json:"throttledPeriods,omitempty"`
		ThrottledTime    time.Duration `json:"throttledTime,omitempty"`
	}
	cpusetJSON struct {
		CPUs []int `json:"cpus,omitempty"`
		Mems []int `json:"mems,omitempty"`
	}
	memoryJSON struct {
		Cache     uint64            `json:"cache,omitempty"`
		Usage     memoryEntryJSON   `json:"usage,omitzero"`
		Swap      memoryEntryJSON   `json:"swap,omitzero"`
		Kernel    memoryEntryJSON   `json:"kernel,omitzero"`
		KernelTCP memoryEntryJSON   `json:"kernelTCP,omitzero"`
		Raw       map[string]uint64 `json:"raw,omitempty"`
		PSI       *psiJSON          `json:"psi,omitempty"`
	}
	memoryEntryJSON struct {
		Limit   uint64 `json:"limit"`
		Usage   uint64 `json:"usage,omitempty"`
		Max     uint64 `json:"max,omitempty"`
		Failcnt uint64 `json:"failcnt"`
	}
	pidsJSON struct {
		Current uint64 `json:"current,omitempty"`
		Limit   uint64 `json:"limit,omitempty"`
	}
	blkioJSON struct {
		ServiceBytes []blkioEntryJSON `json:"ioServiceBytesRecursive,omitempty"`
		Serviced     []blkioEntryJSON `json:"ioServicedRecursive,omitempty"`
		Queued       []blkioEntryJSON `json:"ioQueueRecursive,omitempty"`
		ServiceTime  []blkioEntryJSON `json:"ioServiceTimeRecursive,omitempty"`
		WaitTime     []blkioEntryJSON `json:"ioWaitTimeRecursive,omitempty"`
		Merged       []blkioEntryJSON `json:"ioMergedRecursive,omitempty"`
		Time         []blkioEntryJSON `json:"ioTimeRecursive,omitempty"`
		Sectors      []blkioEntryJSON `json:"sectorsRecursive,omitempty"`
		PSI          *psiJSON         `json:"psi,omitempty"`
	}
	blkioEntryJSON struct {
		Major uint64 `json:"major,omitempty"`
		Minor uint64 `json:"minor,omitempty"`
		Op    string `json:"op,omitempty"`
		Value uint64 `json:"value,omitempty"`
	}
	hugetlbJSON struct {
		Usage   uint64 `json:"usage,omitempty"`
		Max     uint64 `json:"max,omitempty"`
		Failcnt uint64 `json:"failcnt"`
	}
	psiJSON struct {
		Some psiLineJSON `json:"some,omitzero"`
		Full psiLineJSON `json:"full,omitzero"`
	}
	psiLineJSON struct {
		Avg10  float64 `json:"avg10"`
		Avg60  float64 `json:"avg60"`
		Avg300 float64 `json:"avg300"`
		Total  int64   `json:"total"` // microseconds
	}
)

func newStats(s *cgroup.Stats) statsJSON {
	out := statsJSON{
		CPU: cpuJSON{
			Usage: cpuUsageJSON{Total: s.CPU.Total, PerCPU: s.CPU.PerCPU, Kernel: s.CPU.Kernel, User: s.CPU.User},
			Throttling: throttlingJSON{
				Periods: s.CPU.Periods, ThrottledPeriods: s.CPU.ThrottledPeriods, ThrottledTime: s.CPU.Throttled,
			},
			PSI: newPSI(s.CPU.Pressure),
		},
		CPUSet: cpusetJSON{CPUs: s.CPUSet.CPUs, Mems: s.CPUSet.Mems},
		Memory: memoryJSON{
			Cache: s.Memory.Cache, Usage: newMemoryEntry(s.Memory.Memory), Swap: newMemoryEntry(s.Memory.Swap),
			Kernel: newMemoryEntry(s.Memory.Kernel), KernelTCP: newMemoryEntry(s.Memory.KernelTCP), Raw: s.Memory.Stat,
			PSI: newPSI(s.Memory.Pressure),
		},
		Pids: pidsJSON{Current: s.Pids.Current, Limit: s.Pids.Limit},
		Blkio: blkioJSON{
			ServiceBytes: newBlkio(s.Blkio.IoServiceBytesRecursive), Serviced: newBlkio(s.Blkio.IoServicedRecursive),
			Queued: newBlkio(s.Blkio.IoQueuedRecursive), ServiceTime: newBlkio(s.Blkio.IoServiceTimeRecursive),
			WaitTime: newBlkio(s.Blkio.IoWaitTimeRecursive), Merged: newBlkio(s.Blkio.IoMergedRecursive),
			Time: newBlkio(s.Blkio.IoTimeRecursive), Sectors: newBlkio(s.Blkio.SectorsRecursive),
			PSI: newPSI(s.Blkio.Pressure),
		},
		Hugetlb: map[string]hugetlbJSON{},
	}
	for size, h := range s.Hugetlb {
		out.Hugetlb[size] = hugetlbJSON{Usage: h.Usage, Max: h.MaxUsage, Failcnt: h.Failcnt}
	}
	return out
}

func newMemoryEntry(c cgroup.MemoryCounter) memoryEntryJSON {
	return memoryEntryJSON{Limit: c.Limit, Usage: c.Usage, Max: c.MaxUsage, Failcnt: c.Failcnt}
}

func newBlkio(list []cgroup.BlkioEntry) []blkioEntryJSON {
	out := make([]blkioEntryJSON, 0, len(list))
	for _, e := range list {
		out = append(out, blkioEntryJSON{Major: e.Major, Minor: e.Minor, Op: e.Op, Value: e.Value})
	}
	return out
}

func newPSI(p *cgroup.Pressure) *psiJSON {
	if p == nil {
		return nil
	}
	line := func(l cgroup.PressureLine) psiLineJSON {
		return psiLineJSON{Avg10: l.Avg10, Avg60: l.Avg60, Avg300: l.Avg300, Total: l.Total.Microseconds()}
	}
	return &psiJSON{Some: line(p.Some), Full: line(p.Full)}
}
