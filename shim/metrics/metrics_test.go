package metrics

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func check(t *testing.T, paths map[string]string, got, want proto.Message) {
	t.Helper()
	a, err := Read(paths)
	if err != nil {
		t.Fatal(err)
	}
	if name := string(want.ProtoReflect().Descriptor().FullName()); a.Type != name {
		t.Errorf("type %q, want %q", a.Type, name)
	}
	if err := proto.Unmarshal(a.Value, got); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", prototext.Format(got), prototext.Format(want))
	}
}

func TestUnified(t *testing.T) {
	dir := tree(t, map[string]string{
		"pids.current": "3\n", "pids.max": "max\n",
		"cpu.stat":       "usage_usec 10\nuser_usec 6\nsystem_usec 4\nnice_usec 0\nnr_periods 1\nnr_throttled 2\nthrottled_usec 3\n",
		"cpu.pressure":   "some avg10=1.50 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.25 total=8\n",
		"memory.stat":    "anon 1\nfile 2\nkernel_stack 3\nanon_thp 4\nworkingset_refault_anon 5\nworkingset_refault_file 6\npgfault 7\nthp_fault_alloc 8\nunknown 9\n",
		"memory.current": "100\n", "memory.max": "200\n", "memory.swap.current": "5\n", "memory.swap.max": "max\n", "memory.peak": "150\n",
		"memory.events":       "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 5\n",
		"io.stat":             "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n253:1\n",
		"hugetlb.2MB.current": "0\n", "hugetlb.2MB.max": "max\n", "hugetlb.2MB.events": "max 6\n", "hugetlb.2MB.rsvd.current": "0\n",
	})
	const unlimited = 1<<64 - 1
	check(t, map[string]string{"": dir}, &v2.Metrics{}, &v2.Metrics{
		Pids: &v2.PidsStat{Current: 3},
		CPU: &v2.CPUStat{UsageUsec: 10, UserUsec: 6, SystemUsec: 4, NrPeriods: 1, NrThrottled: 2, ThrottledUsec: 3,
			PSI: &v2.PSIStats{Some: &v2.PSIData{Avg10: 1.5, Total: 7}, Full: &v2.PSIData{Avg300: 0.25, Total: 8}}},
		Memory: &v2.MemoryStat{Anon: 1, File: 2, KernelStack: 3, AnonThp: 4, WorkingsetRefault: 11, Pgfault: 7, ThpFaultAlloc: 8,
			Usage: 100, UsageLimit: 200, SwapUsage: 5, SwapLimit: unlimited, MaxUsage: 150},
		MemoryEvents: &v2.MemoryEvents{High: 1, Max: 2, Oom: 3, OomKill: 4, OomGroupKill: 5},
		Io:           &v2.IOStat{Usage: []*v2.IOEntry{{Major: 8, Rbytes: 1, Wbytes: 2, Rios: 3, Wios: 4}}},
		Hugetlb:      []*v2.HugeTlbStat{{Pagesize: "2MB", Max: unlimited, Failcnt: 6}},
	})
}

func TestLegacy(t *testing.T) {
	dir := tree(t, map[string]string{
		"pids.current": "3\n", "pids.max": "10\n",
		"cpuacct.usage": "1000\n", "cpuacct.usage_percpu": "600 400 \n", "cpuacct.stat": "user 2\nsystem 1\n",
		"cpu.stat":              "nr_periods 1\nnr_throttled 2\nthrottled_time 3\n",
		"memory.stat":           "cache 1\nrss 2\npgpgin 3\nhierarchical_memory_limit 4\nhierarchical_memsw_limit 5\ntotal_pgmajfault 6\n",
		"memory.usage_in_bytes": "7\n", "memory.limit_in_bytes": "9223372036854771712\n", "memory.max_usage_in_bytes": "8\n", "memory.failcnt": "9\n",
		"memory.oom_control":                        "oom_kill_disable 0\nunder_oom 1\noom_kill 2\n",
		"blkio.throttle.io_serviced":                "",
		"blkio.throttle.io_serviced_recursive":      "8:0 Read 1\n8:0 Write 2\nTotal 3\n",
		"blkio.throttle.io_service_bytes_recursive": "8:0 Read 512\nTotal 512\n",
	})
	paths := map[string]string{"pids": dir, "cpu": dir, "cpuacct": dir, "memory": dir, "blkio": dir, "freezer": dir}
	check(t, paths, &v1.Metrics{}, &v1.Metrics{
		Pids: &v1.PidsStat{Current: 3, Limit: 10},
		CPU: &v1.CPUStat{Usage: &v1.CPUUsage{Total: 1000, User: 20_000_000, Kernel: 10_000_000, PerCPU: []uint64{600, 400}},
			Throttling: &v1.Throttle{Periods: 1, ThrottledPeriods: 2, ThrottledTime: 3}},
		Memory: &v1.MemoryStat{Cache: 1, RSS: 2, PgPgIn: 3, HierarchicalMemoryLimit: 4, HierarchicalSwapLimit: 5, TotalPgMajFault: 6,
			Usage: &v1.MemoryEntry{Usage: 7, Limit: 9223372036854771712, Max: 8, Failcnt: 9},
			Swap:  &v1.MemoryEntry{}, Kernel: &v1.MemoryEntry{}, KernelTCP: &v1.MemoryEntry{}},
		MemoryOomControl: &v1.MemoryOomControl{UnderOom: 1, OomKill: 2},
		Blkio: &v1.BlkIOStat{
			IoServicedRecursive:     []*v1.BlkIOEntry{{Op: "Read", Major: 8, Value: 1}, {Op: "Write", Major: 8, Value: 2}},
			IoServiceBytesRecursive: []*v1.BlkIOEntry{{Op: "Read", Major: 8, Value: 512}},
		},
	})
}

func TestGoneCgroup(t *testing.T) {
	for _, paths := range []map[string]string{{"": "/nonexistent"}, {"memory": "/nonexistent"}, {}} {
		if _, err := Read(paths); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Read(%v): %v, want not exist", paths, err)
		}
	}
}
