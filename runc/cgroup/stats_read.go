package cgroup

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// reader reads the counters of one group directory and remembers the first
// error. A file that does not exist reads as empty: the kernel or the host does
// not have that counter.
type reader struct {
	dir dir
	err error
}

func (r *reader) fail(name string, err error) {
	if r.err == nil && err != nil {
		r.err = fmt.Errorf("parse %s/%s: %w", r.dir.path, name, err)
	}
}

func (r *reader) text(name string) string {
	if r.err != nil {
		return ""
	}
	b, err := r.dir.read(name)
	// EOPNOTSUPP: pressure files where accounting is switched off.
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
		r.err = err
	}
	return string(b)
}

func (r *reader) uint(name string) uint64 {
	s := strings.TrimSpace(r.text(name))
	if s == "" {
		return 0
	}
	n, err := parseUint(s)
	r.fail(name, err)
	return n
}

// list reads a file that holds ranges of numbers, as "0-2,7".
func (r *reader) list(name string) []int {
	var list []int
	for part := range strings.SplitSeq(strings.TrimSpace(r.text(name)), ",") {
		if part == "" {
			continue
		}
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		lo, err := strconv.Atoi(from)
		r.fail(name, err)
		hi, err := strconv.Atoi(to)
		r.fail(name, err)
		for n := lo; n <= hi; n++ {
			list = append(list, n)
		}
	}
	return list
}

// flat reads a file of "KEY VALUE" lines.
func (r *reader) flat(name string) map[string]uint64 {
	values, err := parseFlat(r.text(name))
	r.fail(name, err)
	return values
}

func parseFlat(text string) (map[string]uint64, error) {
	if text == "" {
		return nil, nil
	}
	values := make(map[string]uint64)
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return nil, err
		}
		values[key] = n
	}
	return values, nil
}

func (r *reader) durations(name string, unit time.Duration) []time.Duration {
	var ds []time.Duration
	for _, f := range strings.Fields(r.text(name)) {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			r.fail(name, err)
			return nil
		}
		ds = append(ds, time.Duration(n)*unit)
	}
	return ds
}

func (r *reader) pressure(name string) *Pressure {
	p, err := parsePressure(r.text(name))
	r.fail(name, err)
	return p
}

// parsePressure parses lines of "some avg10=0.00 avg60=0.00 avg300=0.00 total=0",
// total in microseconds.
func parsePressure(text string) (*Pressure, error) {
	if text == "" {
		return nil, nil
	}
	p := &Pressure{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		var to *PressureLine
		switch f[0] {
		case "some":
			to = &p.Some
		case "full":
			to = &p.Full
		default:
			continue
		}
		for _, kv := range f[1:] {
			key, value, _ := strings.Cut(kv, "=")
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return nil, err
			}
			switch key {
			case "avg10":
				to.Avg10 = n
			case "avg60":
				to.Avg60 = n
			case "avg300":
				to.Avg300 = n
			case "total":
				to.Total = time.Duration(n) * time.Microsecond
			}
		}
	}
	return p, nil
}

// Stats implements Manager.
func (m *v1) Stats() (*Stats, error) {
	s := &Stats{}
	found := false
	for _, part := range []struct {
		controller string
		read       func(*reader, *Stats)
	}{
		{"cpuacct", readCPUAcct1}, {"cpu", readCPU1}, {"memory", readMemory1},
		{"pids", readPids}, {"blkio", readBlkio1}, {"hugetlb", readHugetlb1}, {"rdma", readRdma},
		{"cpuset", readCPUSet},
	} {
		path := m.path(part.controller)
		if path == "" {
			continue
		}
		d, err := openDir(path)
		if err != nil {
			return nil, fmt.Errorf("read counters: %w", err)
		}
		found = true
		r := &reader{dir: d}
		part.read(r, s)
		d.close()
		if r.err != nil {
			return nil, fmt.Errorf("read counters: %w", r.err)
		}
	}
	if !found {
		return nil, fmt.Errorf("read counters: %w", errors.ErrUnsupported)
	}
	return s, nil
}

func readCPUAcct1(r *reader, s *Stats) {
	s.CPU.Total = time.Duration(r.uint("cpuacct.usage"))
	s.CPU.User = time.Duration(r.uint("cpuacct.usage_user"))
	s.CPU.Kernel = time.Duration(r.uint("cpuacct.usage_sys"))
	s.CPU.PerCPU = r.durations("cpuacct.usage_percpu", time.Nanosecond)
}

func readCPU1(r *reader, s *Stats) {
	v := r.flat("cpu.stat")
	s.CPU.Periods = v["nr_periods"]
	s.CPU.ThrottledPeriods = v["nr_throttled"]
	s.CPU.Throttled = time.Duration(v["throttled_time"])
	s.CPU.Bursts = v["nr_bursts"]
	s.CPU.Burst = time.Duration(v["burst_time"])
}

func readMemory1(r *reader, s *Stats) {
	m := &s.Memory
	counter := func(prefix string) MemoryCounter {
		return MemoryCounter{
			Usage:    r.uint(prefix + ".usage_in_bytes"),
			MaxUsage: r.uint(prefix + ".max_usage_in_bytes"),
			Limit:    r.uint(prefix + ".limit_in_bytes"),
			Failcnt:  r.uint(prefix + ".failcnt"),
		}
	}
	m.Memory = counter("memory")
	m.Swap = counter("memory.memsw")
	m.Kernel = counter("memory.kmem")
	m.KernelTCP = counter("memory.kmem.tcp")
	m.Stat = r.flat("memory.stat")
	m.Cache = m.Stat["total_cache"]
	m.InactiveFile = m.Stat["total_inactive_file"]
	if control := r.flat("memory.oom_control"); control != nil {
		m.Events = map[string]uint64{"oom_kill": control["oom_kill"]}
	}
}

func readCPUSet(r *reader, s *Stats) {
	s.CPUSet = CPUSetStats{CPUs: r.list("cpuset.cpus"), Mems: r.list("cpuset.mems")}
}

func readPids(r *reader, s *Stats) {
	s.Pids.Current = r.uint("pids.current")
	s.Pids.Limit = r.uint("pids.max")
}

// readBlkio1 reads the counters of the scheduler if it has any, else those of
// the throttling layer, which counts what passes it.
func readBlkio1(r *reader, s *Stats) {
	entries := func(names ...string) []BlkioEntry {
		for _, name := range names {
			list, err := parseBlkio(r.text(name))
			r.fail(name, err)
			if len(list) > 0 {
				return list
			}
		}
		return nil
	}
	b := &s.Blkio
	b.IoServiceBytesRecursive = entries("blkio.bfq.io_service_bytes_recursive", "blkio.io_service_bytes_recursive", "blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes")
	b.IoServicedRecursive = entries("blkio.bfq.io_serviced_recursive", "blkio.io_serviced_recursive", "blkio.throttle.io_serviced_recursive", "blkio.throttle.io_serviced")
	b.IoQueuedRecursive = entries("blkio.bfq.io_queued_recursive", "blkio.io_queued_recursive")
	b.IoServiceTimeRecursive = entries("blkio.bfq.io_service_time_recursive", "blkio.io_service_time_recursive")
	b.IoWaitTimeRecursive = entries("blkio.bfq.io_wait_time_recursive", "blkio.io_wait_time_recursive")
	b.IoMergedRecursive = entries("blkio.bfq.io_merged_recursive", "blkio.io_merged_recursive")
	b.IoTimeRecursive = entries("blkio.bfq.time_recursive", "blkio.time_recursive")
	b.SectorsRecursive = entries("blkio.bfq.sectors_recursive", "blkio.sectors_recursive")
}

// parseBlkio parses lines of "MAJOR:MINOR OP VALUE" or "MAJOR:MINOR VALUE". The
// sum over all devices, "Total VALUE", is left out.
func parseBlkio(text string) ([]BlkioEntry, error) {
	var list []BlkioEntry
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || len(f) > 3 || !strings.Contains(f[0], ":") {
			continue
		}
		var e BlkioEntry
		if _, err := fmt.Sscanf(f[0], "%d:%d", &e.Major, &e.Minor); err != nil {
			return nil, fmt.Errorf("line %q: %w", line, err)
		}
		if len(f) == 3 {
			e.Op = f[1]
		}
		var err error
		if e.Value, err = strconv.ParseUint(f[len(f)-1], 10, 64); err != nil {
			return nil, fmt.Errorf("line %q: %w", line, err)
		}
		list = append(list, e)
	}
	return list, nil
}

func readHugetlb1(r *reader, s *Stats) {
	readHugetlb(r, s, ".limit_in_bytes", func(prefix string) HugetlbStats {
		return HugetlbStats{
			Usage:    r.uint(prefix + ".usage_in_bytes"),
			MaxUsage: r.uint(prefix + ".max_usage_in_bytes"),
			Failcnt:  r.uint(prefix + ".failcnt"),
		}
	})
}

// readHugetlb finds the page sizes by the files of the group.
func readHugetlb(r *reader, s *Stats, suffix string, read func(prefix string) HugetlbStats) {
	names, err := r.dir.files()
	if err != nil {
		r.fail("", err)
		return
	}
	for _, name := range names {
		size, ok := strings.CutPrefix(name, "hugetlb.")
		if !ok {
			continue
		}
		if size, ok = strings.CutSuffix(size, suffix); !ok || strings.Contains(size, ".") {
			continue
		}
		if s.Hugetlb == nil {
			s.Hugetlb = make(map[string]HugetlbStats)
		}
		s.Hugetlb[size] = read("hugetlb." + size)
	}
}

func readRdma(r *reader, s *Stats) {
	for _, f := range []struct {
		name string
		to   *[]RdmaEntry
	}{{"rdma.current", &s.Rdma.Current}, {"rdma.max", &s.Rdma.Limit}} {
		list, err := parseRdma(r.text(f.name))
		r.fail(f.name, err)
		*f.to = list
	}
}

// parseRdma parses lines of "DEVICE hca_handle=N hca_object=max".
func parseRdma(text string) ([]RdmaEntry, error) {
	var list []RdmaEntry
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		e := RdmaEntry{Device: f[0]}
		for _, kv := range f[1:] {
			key, value, _ := strings.Cut(kv, "=")
			n := uint64(math.MaxUint32)
			if value != "max" {
				var err error
				if n, err = strconv.ParseUint(value, 10, 32); err != nil {
					return nil, fmt.Errorf("line %q: %w", line, err)
				}
			}
			switch key {
			case "hca_handle":
				e.HcaHandles = uint32(n)
			case "hca_object":
				e.HcaObjects = uint32(n)
			}
		}
		list = append(list, e)
	}
	return list, nil
}

// Stats implements Manager.
func (m *v2) Stats() (*Stats, error) {
	d, err := openDir(m.path)
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	defer d.close()
	r := &reader{dir: d}
	s := &Stats{}
	readCPU2(r, s)
	readMemory2(r, s)
	readPids(r, s)
	readIO2(r, s)
	readRdma(r, s)
	readCPUSet(r, s)
	readHugetlb(r, s, ".max", func(prefix string) HugetlbStats {
		return HugetlbStats{Usage: r.uint(prefix + ".current"), Failcnt: r.flat(prefix + ".events")["max"]}
	})
	if r.err != nil {
		return nil, fmt.Errorf("read counters: %w", r.err)
	}
	return s, nil
}

func readCPU2(r *reader, s *Stats) {
	v := r.flat("cpu.stat")
	usec := func(key string) time.Duration { return time.Duration(v[key]) * time.Microsecond }
	s.CPU = CPUStats{
		Total:            usec("usage_usec"),
		User:             usec("user_usec"),
		Kernel:           usec("system_usec"),
		Periods:          v["nr_periods"],
		ThrottledPeriods: v["nr_throttled"],
		Throttled:        usec("throttled_usec"),
		Bursts:           v["nr_bursts"],
		Burst:            usec("burst_usec"),
		Pressure:         r.pressure("cpu.pressure"),
	}
}

func readMemory2(r *reader, s *Stats) {
	m := &s.Memory
	m.Events = r.flat("memory.events")
	m.Memory = MemoryCounter{
		Usage:    r.uint("memory.current"),
		MaxUsage: r.uint("memory.peak"), // Linux 5.19
		Limit:    r.uint("memory.max"),
		Failcnt:  m.Events["max"],
	}
	m.Swap = MemoryCounter{
		Usage:    r.uint("memory.swap.current"),
		MaxUsage: r.uint("memory.swap.peak"), // Linux 6.5
		Limit:    r.uint("memory.swap.max"),
		Failcnt:  r.flat("memory.swap.events")["max"],
	}
	m.Stat = r.flat("memory.stat")
	m.Cache = m.Stat["file"]
	m.InactiveFile = m.Stat["inactive_file"]
	m.Pressure = r.pressure("memory.pressure")
}

func readIO2(r *reader, s *Stats) {
	bytes, ops, err := parseIOStat(r.text("io.stat"))
	r.fail("io.stat", err)
	s.Blkio = BlkioStats{IoServiceBytesRecursive: bytes, IoServicedRecursive: ops, Pressure: r.pressure("io.pressure")}
}

// parseIOStat parses lines of "MAJOR:MINOR rbytes=1 wbytes=2 rios=3 wios=4
// dbytes=5 dios=6".
func parseIOStat(text string) (bytes, ops []BlkioEntry, err error) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 { // a device without I/O
			continue
		}
		var dev BlkioEntry
		if _, err := fmt.Sscanf(f[0], "%d:%d", &dev.Major, &dev.Minor); err != nil {
			return nil, nil, fmt.Errorf("line %q: %w", line, err)
		}
		for _, kv := range f[1:] {
			key, value, _ := strings.Cut(kv, "=")
			e, to := dev, &bytes
			switch key {
			case "rbytes":
				e.Op = "Read"
			case "wbytes":
				e.Op = "Write"
			case "dbytes":
				e.Op = "Discard"
			case "rios":
				e.Op, to = "Read", &ops
			case "wios":
				e.Op, to = "Write", &ops
			case "dios":
				e.Op, to = "Discard", &ops
			default: // cost.* and whatever comes
				continue
			}
			if e.Value, err = strconv.ParseUint(value, 10, 64); err != nil {
				return nil, nil, fmt.Errorf("line %q: %w", line, err)
			}
			*to = append(*to, e)
		}
	}
	return bytes, ops, nil
}
