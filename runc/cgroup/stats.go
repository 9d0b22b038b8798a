package cgroup

import "time"

// Stats is one reading of a group's counters. Values the kernel or the host
// does not have are zero.
type Stats struct {
	CPU     CPUStats
	Memory  MemoryStats
	Pids    PidsStats
	Blkio   BlkioStats
	Hugetlb map[string]HugetlbStats // by page size as the kernel writes it, "2MB"
	Rdma    RdmaStats
	CPUSet  CPUSetStats
}

// CPUSetStats is where the group's processes may run and have memory. Empty lists
// are inherited from the parent group.
type CPUSetStats struct {
	CPUs []int // processor numbers, rising
	Mems []int // NUMA node numbers, rising
}

// CPUStats is processor time.
type CPUStats struct {
	Total  time.Duration   // used by all processes so far
	User   time.Duration   // of that, in user mode
	Kernel time.Duration   // of that, in the kernel
	PerCPU []time.Duration // Total by CPU; v1 only

	Periods          uint64        // enforcement intervals so far
	ThrottledPeriods uint64        // of those, how many hit the quota
	Throttled        time.Duration // time that processes were held back
	Bursts           uint64        // intervals that used the burst allowance
	Burst            time.Duration // time used beyond the quota

	Pressure *Pressure // nil on v1 and where the kernel does not account it
}

// MemoryStats is memory use. Unlimited is math.MaxUint64.
type MemoryStats struct {
	Memory    MemoryCounter
	Swap      MemoryCounter // memory and swap together on v1; swap alone on v2
	Kernel    MemoryCounter // v1 only
	KernelTCP MemoryCounter // v1 only

	// Cache is the page cache, in bytes, that can be given back: total_cache on
	// v1, file on v2.
	Cache uint64
	// InactiveFile is the part of Cache that "docker stats" subtracts from the
	// usage, in bytes: total_inactive_file on v1, inactive_file on v2.
	InactiveFile uint64
	// Stat is memory.stat as the kernel writes it: most values are bytes.
	Stat map[string]uint64
	// Events is memory.events: counts of low, high, max, oom, oom_kill. On v1 it
	// holds oom_kill alone, from memory.oom_control.
	Events map[string]uint64

	Pressure *Pressure // nil on v1 and where the kernel does not account it
}

// MemoryCounter is one kind of memory.
type MemoryCounter struct {
	Usage    uint64 // bytes now
	MaxUsage uint64 // highest usage so far, in bytes
	Limit    uint64 // bytes; math.MaxUint64 is no limit
	Failcnt  uint64 // times the limit was hit
}

// PidsStats is the number of tasks (threads count).
type PidsStats struct {
	Current uint64
	Limit   uint64 // math.MaxUint64 is no limit
}

// BlkioStats is block device traffic. V1 fills every list that the kernel's I/O
// scheduler has; v2 fills IoServiceBytesRecursive and IoServicedRecursive.
type BlkioStats struct {
	IoServiceBytesRecursive []BlkioEntry // bytes
	IoServicedRecursive     []BlkioEntry // operations
	IoQueuedRecursive       []BlkioEntry // operations
	IoServiceTimeRecursive  []BlkioEntry // nanoseconds
	IoWaitTimeRecursive     []BlkioEntry // nanoseconds
	IoMergedRecursive       []BlkioEntry // operations
	IoTimeRecursive         []BlkioEntry // milliseconds
	SectorsRecursive        []BlkioEntry // sectors of 512 bytes

	Pressure *Pressure // nil on v1 and where the kernel does not account it
}

// BlkioEntry is one counter of one device.
type BlkioEntry struct {
	Major, Minor uint64
	Op           string // "Read", "Write", "Sync", "Async", "Discard", "Total" or ""
	Value        uint64
}

// HugetlbStats is the use of huge pages of one size, in bytes.
type HugetlbStats struct {
	Usage    uint64
	MaxUsage uint64 // v1 only
	Failcnt  uint64
}

// RdmaStats is the use and the limits of RDMA devices.
type RdmaStats struct {
	Current []RdmaEntry
	Limit   []RdmaEntry
}

// RdmaEntry is the count of one RDMA device. math.MaxUint32 is no limit.
type RdmaEntry struct {
	Device     string
	HcaHandles uint32
	HcaObjects uint32
}

// Pressure is the pressure stall information of one resource.
type Pressure struct {
	Some PressureLine // at least one task waited
	Full PressureLine // all tasks waited at the same time
}

// PressureLine is the share of time (percent) that tasks waited, averaged over
// 10, 60 and 300 seconds, and the sum so far.
type PressureLine struct {
	Avg10, Avg60, Avg300 float64
	Total                time.Duration
}
