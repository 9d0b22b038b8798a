// Package metrics reads the statistics of a container's cgroup in the form that
// containerd's clients expect. It is an adapter: its results are containerd's
// protobuf messages.
package metrics

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// Read returns the statistics of the cgroups at paths, which are as
// Runtime.CgroupPaths returns them: io.containerd.cgroups.v2.Metrics if "" is the
// only one, else io.containerd.cgroups.v1.Metrics. What the kernel does not
// offer is absent. The error is that of os.ErrNotExist when the cgroup is gone.
func Read(paths map[string]string) (*anypb.Any, error) {
	var m proto.Message
	var err error
	if dir, ok := paths[""]; ok && len(paths) == 1 {
		m, err = readUnified(dir)
	} else {
		m, err = readLegacy(paths)
	}
	if err != nil {
		return nil, fmt.Errorf("read cgroup metrics: %w", err)
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode cgroup metrics: %w", err)
	}
	// The name alone, without a host, is what containerd's typeurl makes.
	return &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: b}, nil
}

func readUnified(dir string) (*v2.Metrics, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	d := &reader{dir: dir}
	m := &v2.Metrics{}
	if d.has("pids.current") {
		m.Pids = &v2.PidsStat{Current: d.number("pids.current"), Limit: d.limit("pids.max", 0)}
	}
	m.CPU = &v2.CPUStat{PSI: d.pressure("cpu.pressure")}
	d.fill(m.CPU, d.table("cpu.stat"))
	if d.has("memory.stat") {
		m.Memory = &v2.MemoryStat{
			Usage: d.number("memory.current"), UsageLimit: d.limit("memory.max", math.MaxUint64),
			SwapUsage: d.number("memory.swap.current"), SwapLimit: d.limit("memory.swap.max", math.MaxUint64),
			MaxUsage: d.number("memory.peak"), SwapMaxUsage: d.number("memory.swap.peak"),
			PSI: d.pressure("memory.pressure"),
		}
		stat := d.table("memory.stat")
		// Since Linux 5.9 these are counted apart for anonymous and file pages.
		for _, key := range []string{"workingset_refault", "workingset_activate"} {
			stat[key] += stat[key+"_anon"] + stat[key+"_file"]
		}
		d.fill(m.Memory, stat)
		m.MemoryEvents = &v2.MemoryEvents{}
		d.fill(m.MemoryEvents, d.table("memory.events"))
	}
	if d.has("io.stat") {
		m.Io = &v2.IOStat{Usage: d.io("io.stat"), PSI: d.pressure("io.pressure")}
	}
	for _, size := range d.hugepages(".current") {
		prefix := "hugetlb." + size
		m.Hugetlb = append(m.Hugetlb, &v2.HugeTlbStat{
			Pagesize: size, Current: d.number(prefix + ".current"), Max: d.limit(prefix+".max", math.MaxUint64),
			Failcnt: d.table(prefix + ".events")["max"],
		})
	}
	return m, d.err
}

func readLegacy(paths map[string]string) (*v1.Metrics, error) {
	m := &v1.Metrics{}
	at := func(controller, probe string) *reader {
		dir, ok := paths[controller]
		d := &reader{dir: dir}
		if !ok || !d.has(probe) {
			return nil
		}
		return d
	}
	var errs []error
	found := false
	for controller, dir := range paths {
		_, err := os.Stat(dir)
		found = found || err == nil
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("controller %s: %w", controller, err))
		}
	}
	if !found {
		return nil, errors.Join(append(errs, fs.ErrNotExist)...)
	}
	if d := at("pids", "pids.current"); d != nil {
		m.Pids = &v1.PidsStat{Current: d.number("pids.current"), Limit: d.limit("pids.max", 0)}
		errs = append(errs, d.err)
	}
	if d := at("cpuacct", "cpuacct.usage"); d != nil {
		m.CPU = &v1.CPUStat{Usage: readCPU(d), Throttling: &v1.Throttle{}}
		errs = append(errs, d.err)
	}
	if d := at("cpu", "cpu.stat"); d != nil {
		if m.CPU == nil {
			m.CPU = &v1.CPUStat{Usage: &v1.CPUUsage{}}
		}
		t := d.table("cpu.stat")
		m.CPU.Throttling = &v1.Throttle{
			Periods: t["nr_periods"], ThrottledPeriods: t["nr_throttled"], ThrottledTime: t["throttled_time"],
		}
		errs = append(errs, d.err)
	}
	if d := at("memory", "memory.stat"); d != nil {
		m.Memory = &v1.MemoryStat{
			Usage: d.entry("memory"), Swap: d.entry("memory.memsw"),
			Kernel: d.entry("memory.kmem"), KernelTCP: d.entry("memory.kmem.tcp"),
		}
		t := d.table("memory.stat")
		t["hierarchical_swap_limit"] = t["hierarchical_memsw_limit"]
		d.fill(m.Memory, t)
		m.MemoryOomControl = &v1.MemoryOomControl{}
		d.fill(m.MemoryOomControl, d.table("memory.oom_control"))
		errs = append(errs, d.err)
	}
	if d := at("blkio", "blkio.throttle.io_serviced"); d != nil {
		m.Blkio = readBlkio(d)
		errs = append(errs, d.err)
	}
	if d := (&reader{dir: paths["hugetlb"]}); d.dir != "" {
		for _, size := range d.hugepages(".usage_in_bytes") {
			prefix := "hugetlb." + size
			m.Hugetlb = append(m.Hugetlb, &v1.HugetlbStat{
				Pagesize: size, Usage: d.number(prefix + ".usage_in_bytes"),
				Max: d.number(prefix + ".max_usage_in_bytes"), Failcnt: d.number(prefix + ".failcnt"),
			})
		}
		errs = append(errs, d.err)
	}
	return m, errors.Join(errs...)
}

// userHZ is the unit of cpuacct.stat: on every Linux architecture that Go
// supports user space sees 100 ticks a second.
const userHZ = 100

func readCPU(d *reader) *v1.CPUUsage {
	t := d.table("cpuacct.stat")
	u := &v1.CPUUsage{
		Total:  d.number("cpuacct.usage"),
		User:   t["user"] * (1e9 / userHZ),
		Kernel: t["system"] * (1e9 / userHZ),
	}
	for _, f := range bytes.Fields(d.read("cpuacct.usage_percpu")) {
		u.PerCPU = append(u.PerCPU, d.parse(string(f)))
	}
	return u
}

// readBlkio reads what the CFQ scheduler counts; where that is not there or not
// used, what throttling counts.
func readBlkio(d *reader) *v1.BlkIOStat {
	s := &v1.BlkIOStat{
		IoServiceBytesRecursive: d.blkio("blkio.io_service_bytes_recursive"),
		IoServicedRecursive:     d.blkio("blkio.io_serviced_recursive"),
		IoQueuedRecursive:       d.blkio("blkio.io_queued_recursive"),
		IoServiceTimeRecursive:  d.blkio("blkio.io_service_time_recursive"),
		IoWaitTimeRecursive:     d.blkio("blkio.io_wait_time_recursive"),
		IoMergedRecursive:       d.blkio("blkio.io_merged_recursive"),
		IoTimeRecursive:         d.blkio("blkio.time_recursive"),
		SectorsRecursive:        d.blkio("blkio.sectors_recursive"),
	}
	if len(s.IoServicedRecursive) == 0 {
		s.IoServiceBytesRecursive = d.blkio("blkio.throttle.io_service_bytes_recursive")
		s.IoServicedRecursive = d.blkio("blkio.throttle.io_serviced_recursive")
	}
	return s
}

// reader reads the files of a cgroup directory. A file that is not there reads
// as empty: which exist depends on the kernel. The first other error is kept.
type reader struct {
	dir string
	err error
}

func (d *reader) has(name string) bool {
	_, err := os.Stat(filepath.Join(d.dir, name))
	return err == nil
}

func (d *reader) read(name string) []byte {
	b, err := os.ReadFile(filepath.Join(d.dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && d.err == nil {
		d.err = err
	}
	return b
}

func (d *reader) parse(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil && d.err == nil {
		d.err = err
	}
	return n
}

func (d *reader) number(name string) uint64 { return d.limit(name, math.MaxUint64) }

// limit reads a number for which "max" stands for unlimited.
func (d *reader) limit(name string, unlimited uint64) uint64 {
	s := strings.TrimSpace(string(d.read(name)))
	switch s {
	case "":
		return 0
	case "max":
		return unlimited
	}
	return d.parse(s)
}

// table reads lines of "key value".
func (d *reader) table(name string) map[string]uint64 {
	t := make(map[string]uint64)
	for line := range bytes.Lines(d.read(name)) {
		if f := strings.Fields(string(line)); len(f) == 2 {
			t[f[0]] = d.parse(f[1])
		}
	}
	return t
}

// fill sets the fields of m from the table. A key belongs to the field of its
// name, underscores not counted: v1's pgpgin is the field pg_pg_in.
func (d *reader) fill(m proto.Message, table map[string]uint64) {
	msg := m.ProtoReflect()
	plain := make(map[string]uint64, len(table))
	for k, v := range table {
		plain[strings.ReplaceAll(k, "_", "")] = v
	}
	fields := msg.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Kind() != protoreflect.Uint64Kind || f.IsList() {
			continue
		}
		if v, ok := plain[strings.ReplaceAll(string(f.Name()), "_", "")]; ok {
			msg.Set(f, protoreflect.ValueOfUint64(v))
		}
	}
}

// entry reads the four files of one kind of v1 memory.
func (d *reader) entry(prefix string) *v1.MemoryEntry {
	return &v1.MemoryEntry{
		Usage: d.number(prefix + ".usage_in_bytes"), Max: d.number(prefix + ".max_usage_in_bytes"),
		Limit: d.number(prefix + ".limit_in_bytes"), Failcnt: d.number(prefix + ".failcnt"),
	}
}

// blkio reads lines of "8:0 Read 123" or "8:0 123". The totals are left out.
func (d *reader) blkio(name string) []*v1.BlkIOEntry {
	var list []*v1.BlkIOEntry
	for line := range bytes.Lines(d.read(name)) {
		f := strings.Fields(string(line))
		if len(f) < 2 || f[0] == "Total" {
			continue
		}
		major, minor, ok := strings.Cut(f[0], ":")
		if !ok {
			continue
		}
		e := &v1.BlkIOEntry{Major: d.parse(major), Minor: d.parse(minor), Value: d.parse(f[len(f)-1])}
		if len(f) == 3 {
			e.Op = f[1]
		}
		list = append(list, e)
	}
	return list
}

// io reads lines of "8:0 rbytes=1 wbytes=2 rios=3 wios=4 ...".
func (d *reader) io(name string) []*v2.IOEntry {
	var list []*v2.IOEntry
	for line := range bytes.Lines(d.read(name)) {
		f := strings.Fields(string(line))
		if len(f) < 2 {
			continue
		}
		major, minor, ok := strings.Cut(f[0], ":")
		if !ok {
			continue
		}
		e := &v2.IOEntry{Major: d.parse(major), Minor: d.parse(minor)}
		to := map[string]*uint64{"rbytes": &e.Rbytes, "wbytes": &e.Wbytes, "rios": &e.Rios, "wios": &e.Wios}
		for _, pair := range f[1:] {
			key, value, _ := strings.Cut(pair, "=")
			if p := to[key]; p != nil {
				*p = d.parse(value)
			}
		}
		list = append(list, e)
	}
	return list
}

// pressure reads lines of "some avg10=0.00 avg60=0.00 avg300=0.00 total=0"; nil
// where the kernel keeps none.
func (d *reader) pressure(name string) *v2.PSIStats {
	// Reading fails with EOPNOTSUPP when accounting is switched off.
	b, err := os.ReadFile(filepath.Join(d.dir, name))
	if err != nil || len(b) == 0 {
		return nil
	}
	s := &v2.PSIStats{}
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) == 0 {
			continue
		}
		data := &v2.PSIData{}
		avg := map[string]*float64{"avg10": &data.Avg10, "avg60": &data.Avg60, "avg300": &data.Avg300}
		for _, pair := range f[1:] {
			key, value, _ := strings.Cut(pair, "=")
			if key == "total" {
				data.Total = d.parse(value)
			} else if p := avg[key]; p != nil {
				*p, _ = strconv.ParseFloat(value, 64)
			}
		}
		switch f[0] {
		case "some":
			s.Some = data
		case "full":
			s.Full = data
		}
	}
	return s
}

// hugepages returns the page sizes that have a file hugetlb.SIZE with suffix.
func (d *reader) hugepages(suffix string) []string {
	names, _ := filepath.Glob(filepath.Join(d.dir, "hugetlb.*"+suffix)) // the pattern is constant
	var sizes []string
	for _, name := range names {
		size := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(name), "hugetlb."), suffix)
		if size != "" && !strings.Contains(size, ".") { // not hugetlb.2MB.rsvd.current
			sizes = append(sizes, size)
		}
	}
	return sizes
}
