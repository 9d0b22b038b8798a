// Package metrics reads the statistics of a container's cgroup in the form that
// containerd's clients expect. It is an adapter: its results are containerd's
// protobuf messages, with the field numbers of containerd/cgroups'
// cgroup1/stats/metrics.proto and cgroup2/stats/metrics.proto.
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

	"lighter/shim/wire"
)

// Read returns the statistics of the cgroups at paths, which are as
// Runtime.CgroupPaths returns them: io.containerd.cgroups.v2.Metrics if "" is the
// only one, else io.containerd.cgroups.v1.Metrics. What the kernel does not
// offer is absent. The error is that of os.ErrNotExist when the cgroup is gone.
func Read(paths map[string]string) (wire.Any, error) {
	var m wire.Encoder
	var err error
	// The name alone, without a host, is what containerd's typeurl makes.
	name := "io.containerd.cgroups.v1.Metrics"
	if dir, ok := paths[""]; ok && len(paths) == 1 {
		name = "io.containerd.cgroups.v2.Metrics"
		err = readUnified(&m, dir)
	} else {
		err = readLegacy(&m, paths)
	}
	if err != nil {
		return wire.Any{}, fmt.Errorf("read cgroup metrics: %w", err)
	}
	return wire.Any{Type: name, Value: m.Bytes()}, nil
}

// The fields of messages that have a line of a cgroup file each: the n-th name is
// that of field n, empty where the field comes from elsewhere.
var (
	cpuFields    = []string{"usage_usec", "user_usec", "system_usec", "nr_periods", "nr_throttled", "throttled_usec", "", "nr_bursts", "burst_usec"}
	memoryFields = []string{
		"anon", "file", "kernel_stack", "slab", "sock", "shmem", "file_mapped", "file_dirty", "file_writeback", "anon_thp",
		"inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable", "slab_reclaimable", "slab_unreclaimable",
		"pgfault", "pgmajfault", "workingset_refault", "workingset_activate", "workingset_nodereclaim", "pgrefill", "pgscan",
		"pgsteal", "pgactivate", "pgdeactivate", "pglazyfree", "pglazyfreed", "thp_fault_alloc", "thp_collapse_alloc",
	}
	memoryEventFields  = []string{"low", "high", "max", "oom", "oom_kill", "oom_group_kill"}
	legacyMemoryFields = []string{
		"cache", "rss", "rss_huge", "mapped_file", "dirty", "writeback", "pgpgin", "pgpgout", "pgfault", "pgmajfault",
		"inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable", "hierarchical_memory_limit",
		"hierarchical_memsw_limit", "total_cache", "total_rss", "total_rss_huge", "total_mapped_file", "total_dirty",
		"total_writeback", "total_pgpgin", "total_pgpgout", "total_pgfault", "total_pgmajfault", "total_inactive_anon",
		"total_active_anon", "total_inactive_file", "total_active_file", "total_unevictable",
	}
	oomControlFields = []string{"oom_kill_disable", "under_oom", "oom_kill"}
	throttleFields   = []string{"nr_periods", "nr_throttled", "throttled_time"}
)

// fill adds the fields whose names are in the table.
func fill(e *wire.Encoder, fields []string, table map[string]uint64) {
	for i, name := range fields {
		if name != "" {
			e.Uint(i+1, table[name])
		}
	}
}

func readUnified(m *wire.Encoder, dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return err
	}
	d := &reader{dir: dir}
	if d.has("pids.current") {
		m.Message(1, func(e *wire.Encoder) {
			e.Uint(1, d.number("pids.current"))
			e.Uint(2, d.limit("pids.max", 0))
		})
	}
	m.Message(2, func(e *wire.Encoder) {
		fill(e, cpuFields, d.table("cpu.stat"))
		d.pressure(e, 7, "cpu.pressure")
	})
	if d.has("memory.stat") {
		m.Message(4, func(e *wire.Encoder) {
			stat := d.table("memory.stat")
			// Since Linux 5.9 these are counted apart for anonymous and file pages.
			for _, key := range []string{"workingset_refault", "workingset_activate"} {
				stat[key] += stat[key+"_anon"] + stat[key+"_file"]
			}
			fill(e, memoryFields, stat)
			e.Uint(32, d.number("memory.current"))
			e.Uint(33, d.limit("memory.max", math.MaxUint64))
			e.Uint(34, d.number("memory.swap.current"))
			e.Uint(35, d.limit("memory.swap.max", math.MaxUint64))
			e.Uint(36, d.number("memory.peak"))
			e.Uint(37, d.number("memory.swap.peak"))
			d.pressure(e, 38, "memory.pressure")
		})
		m.Message(8, func(e *wire.Encoder) { fill(e, memoryEventFields, d.table("memory.events")) })
	}
	if d.has("io.stat") {
		m.Message(6, func(e *wire.Encoder) {
			d.io(e, 1, "io.stat")
			d.pressure(e, 2, "io.pressure")
		})
	}
	for _, size := range d.hugepages(".current") {
		prefix := "hugetlb." + size
		m.Message(7, func(e *wire.Encoder) {
			e.Uint(1, d.number(prefix+".current"))
			e.Uint(2, d.limit(prefix+".max", math.MaxUint64))
			e.Text(3, size)
			e.Uint(4, d.table(prefix + ".events")["max"])
		})
	}
	return d.err
}

func readLegacy(m *wire.Encoder, paths map[string]string) error {
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
		return errors.Join(append(errs, fs.ErrNotExist)...)
	}
	if d := at("pids", "pids.current"); d != nil {
		m.Message(2, func(e *wire.Encoder) {
			e.Uint(1, d.number("pids.current"))
			e.Uint(2, d.limit("pids.max", 0))
		})
		errs = append(errs, d.err)
	}
	usage, throttle := at("cpuacct", "cpuacct.usage"), at("cpu", "cpu.stat")
	if usage != nil || throttle != nil {
		m.Message(3, func(e *wire.Encoder) {
			e.Message(1, func(e *wire.Encoder) {
				if usage != nil {
					usage.cpu(e)
					errs = append(errs, usage.err)
				}
			})
			e.Message(2, func(e *wire.Encoder) {
				if throttle != nil {
					fill(e, throttleFields, throttle.table("cpu.stat"))
					errs = append(errs, throttle.err)
				}
			})
		})
	}
	if d := at("memory", "memory.stat"); d != nil {
		m.Message(4, func(e *wire.Encoder) {
			fill(e, legacyMemoryFields, d.table("memory.stat"))
			for i, prefix := range []string{"memory", "memory.memsw", "memory.kmem", "memory.kmem.tcp"} {
				e.Message(33+i, func(e *wire.Encoder) { d.entry(e, prefix) })
			}
		})
		m.Message(9, func(e *wire.Encoder) { fill(e, oomControlFields, d.table("memory.oom_control")) })
		errs = append(errs, d.err)
	}
	if d := at("blkio", "blkio.throttle.io_serviced"); d != nil {
		m.Message(5, func(e *wire.Encoder) { readBlkio(e, d) })
		errs = append(errs, d.err)
	}
	if d := (&reader{dir: paths["hugetlb"]}); d.dir != "" {
		for _, size := range d.hugepages(".usage_in_bytes") {
			prefix := "hugetlb." + size
			m.Message(1, func(e *wire.Encoder) {
				e.Uint(1, d.number(prefix+".usage_in_bytes"))
				e.Uint(2, d.number(prefix+".max_usage_in_bytes"))
				e.Uint(3, d.number(prefix+".failcnt"))
				e.Text(4, size)
			})
		}
		errs = append(errs, d.err)
	}
	return errors.Join(errs...)
}

// userHZ is the unit of cpuacct.stat: on every Linux architecture that Go
// supports user space sees 100 ticks a second.
const userHZ = 100

// cpu adds the fields of a CPUUsage.
func (d *reader) cpu(e *wire.Encoder) {
	t := d.table("cpuacct.stat")
	e.Uint(1, d.number("cpuacct.usage"))
	e.Uint(2, t["system"]*(1e9/userHZ))
	e.Uint(3, t["user"]*(1e9/userHZ))
	var each []uint64
	for _, f := range bytes.Fields(d.read("cpuacct.usage_percpu")) {
		each = append(each, d.parse(string(f)))
	}
	e.Packed(4, each)
}

// readBlkio adds what the CFQ scheduler counts; where that is not there or not
// used, what throttling counts.
func readBlkio(e *wire.Encoder, d *reader) {
	served := "blkio.throttle.io_serviced_recursive"
	volume := "blkio.throttle.io_service_bytes_recursive"
	if len(d.blkio("blkio.io_serviced_recursive")) > 0 {
		served, volume = "blkio.io_serviced_recursive", "blkio.io_service_bytes_recursive"
	}
	for i, name := range []string{
		volume, served, "blkio.io_queued_recursive", "blkio.io_service_time_recursive", "blkio.io_wait_time_recursive",
		"blkio.io_merged_recursive", "blkio.time_recursive", "blkio.sectors_recursive",
	} {
		for _, entry := range d.blkio(name) {
			e.Message(i+1, entry.encode)
		}
	}
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

// entry adds the four files of one kind of v1 memory.
func (d *reader) entry(e *wire.Encoder, prefix string) {
	e.Uint(1, d.number(prefix+".limit_in_bytes"))
	e.Uint(2, d.number(prefix+".usage_in_bytes"))
	e.Uint(3, d.number(prefix+".max_usage_in_bytes"))
	e.Uint(4, d.number(prefix+".failcnt"))
}

// blkioEntry is a line of a v1 blkio file.
type blkioEntry struct {
	op                  string
	major, minor, value uint64
}

func (b blkioEntry) encode(e *wire.Encoder) {
	e.Text(1, b.op)
	e.Uint(3, b.major)
	e.Uint(4, b.minor)
	e.Uint(5, b.value)
}

// blkio reads lines of "8:0 Read 123" or "8:0 123". The totals are left out.
func (d *reader) blkio(name string) []blkioEntry {
	var list []blkioEntry
	for line := range bytes.Lines(d.read(name)) {
		f := strings.Fields(string(line))
		if len(f) < 2 || f[0] == "Total" {
			continue
		}
		major, minor, ok := strings.Cut(f[0], ":")
		if !ok {
			continue
		}
		b := blkioEntry{major: d.parse(major), minor: d.parse(minor), value: d.parse(f[len(f)-1])}
		if len(f) == 3 {
			b.op = f[1]
		}
		list = append(list, b)
	}
	return list
}

// io adds an entry for each line of "8:0 rbytes=1 wbytes=2 rios=3 wios=4 ...".
func (d *reader) io(e *wire.Encoder, field int, name string) {
	numbers := map[string]int{"rbytes": 3, "wbytes": 4, "rios": 5, "wios": 6}
	for line := range bytes.Lines(d.read(name)) {
		f := strings.Fields(string(line))
		if len(f) < 2 {
			continue
		}
		major, minor, ok := strings.Cut(f[0], ":")
		if !ok {
			continue
		}
		e.Message(field, func(e *wire.Encoder) {
			e.Uint(1, d.parse(major))
			e.Uint(2, d.parse(minor))
			for _, pair := range f[1:] {
				key, value, _ := strings.Cut(pair, "=")
				if n := numbers[key]; n != 0 {
					e.Uint(n, d.parse(value))
				}
			}
		})
	}
}

// pressure adds what lines of "some avg10=0.00 avg60=0.00 avg300=0.00 total=0"
// say; nothing where the kernel keeps none.
func (d *reader) pressure(e *wire.Encoder, field int, name string) {
	// Reading fails with EOPNOTSUPP when accounting is switched off.
	b, err := os.ReadFile(filepath.Join(d.dir, name))
	if err != nil || len(b) == 0 {
		return
	}
	kinds := map[string]int{"some": 1, "full": 2}
	averages := map[string]int{"avg10": 1, "avg60": 2, "avg300": 3}
	e.Message(field, func(e *wire.Encoder) {
		for line := range bytes.Lines(b) {
			f := strings.Fields(string(line))
			if len(f) == 0 || kinds[f[0]] == 0 {
				continue
			}
			e.Message(kinds[f[0]], func(e *wire.Encoder) {
				for _, pair := range f[1:] {
					key, value, _ := strings.Cut(pair, "=")
					if key == "total" {
						e.Uint(4, d.parse(value))
					} else if n := averages[key]; n != 0 {
						v, _ := strconv.ParseFloat(value, 64)
						e.Double(n, v)
					}
				}
			})
		}
	})
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
