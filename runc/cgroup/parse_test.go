package cgroup

import (
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const mountinfoV1 = `22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /mnt/elsewhere rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 master:3 - cgroup cgroup rw,cpu,cpuacct
34 31 0:32 /docker/abc /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
35 31 0:33 / /sys/fs/cgroup/dev\040ices rw,relatime - cgroup cgroup rw,xattr,devices
36 31 0:40 / /sys/fs/cgroup/openrc rw,relatime - cgroup cgroup rw,name=openrc
37 31 0:41 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
38 31 0:42 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
short - cgroup
`

const ownV1 = `9:name=systemd:/
7:devices:/user.slice (deleted)
4:memory:/docker/abc/inner
1:cpu,cpuacct:/a:b
0::/init
`

func TestPlace(t *testing.T) {
	mounts := parseMounts([]byte(mountinfoV1))
	for _, tt := range []struct {
		name  string
		own   map[string]string
		inner string
		want  map[string]string
	}{
		{"absolute", nil, "/docker/x", map[string]string{
			"cpu": "/sys/fs/cgroup/cpu,cpuacct/docker/x", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/docker/x", "memory": "/sys/fs/cgroup/memory/docker/x",
			"devices": "/sys/fs/cgroup/dev ices/docker/x", "name=systemd": "/sys/fs/cgroup/systemd/docker/x", "": "/sys/fs/cgroup/unified/docker/x",
		}},
		{"relative", parseOwn([]byte(ownV1)), "/x", map[string]string{
			"cpu": "/sys/fs/cgroup/cpu,cpuacct/a:b/x", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/a:b/x", "memory": "/sys/fs/cgroup/memory/inner/x",
			"devices": "/sys/fs/cgroup/dev ices/user.slice/x", "name=systemd": "/sys/fs/cgroup/systemd/x", "": "/sys/fs/cgroup/unified/init/x",
		}},
	} {
		groups, err := place(mounts, tt.own, tt.inner)
		if err != nil {
			t.Fatal(err)
		}
		if got := newV1(groups).Paths(); !maps.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if _, err := place(mounts[:1], nil, "/x"); !errdefs.IsNotImplemented(err) {
		t.Errorf("place without devices: %v", err)
	}
}

func TestNewInvalid(t *testing.T) {
	for _, path := range []string{"/", "/..", "../..", ".", "a/../..", "a\x00b"} {
		if m, err := New(path, "id"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("New(%q) = %v, %v", path, m, err)
		}
	}
	if _, err := New("", ""); !errdefs.IsInvalidArgument(err) {
		t.Errorf("New of nothing: %v", err)
	}
}

// TestNewConfined shows that no path leads out of the hierarchies.
func TestNewConfined(t *testing.T) {
	for _, path := range []string{"/../../etc/x", "/a/../../../x", "../../../x"} {
		m, err := New(path, "id")
		if err != nil {
			t.Fatal(err)
		}
		for c, got := range m.Paths() {
			if !below(got, mountRoot) || strings.Contains(got, "..") {
				t.Errorf("New(%q): %s is at %q", path, c, got)
			}
		}
	}
}

func TestLoad(t *testing.T) {
	paths := map[string]string{"cpu": "/c/x", "cpuacct": "/c/x", "memory": "/m/x", "": "/u/x"}
	m, err := Load(paths)
	if err != nil || !maps.Equal(m.Paths(), paths) {
		t.Errorf("Load = %v, %v", m, err)
	}
	if m, err = Load(map[string]string{"": "/sys/fs/cgroup/x"}); err != nil || m.(*v2).path != "/sys/fs/cgroup/x" {
		t.Errorf("Load of v2 = %v, %v", m, err)
	}
	for _, bad := range []map[string]string{nil, {"cpu": "x"}, {"cpu": "/a/../b"}, {"": "/"}, {"": ""}} {
		if _, err := Load(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Load(%q) = %v", bad, err)
		}
	}
}

func TestConversions(t *testing.T) {
	for shares, want := range map[uint64]uint64{1: 1, 2: 1, 1024: 100, 3333: 256, 262144: 10000, math.MaxUint64: 10000} {
		if got := cpuWeight(shares); got != want {
			t.Errorf("cpuWeight(%d) = %d, want %d", shares, got, want)
		}
	}
	for weight, want := range map[uint16]uint64{0: 1, 10: 1, 500: 4950, 750: 7475, 1000: 10000} {
		if got := ioWeight(weight); got != want {
			t.Errorf("ioWeight(%d) = %d, want %d", weight, got, want)
		}
	}
	for _, tt := range []struct {
		limit, swap int64
		want        string
		bad         bool
	}{
		{0, 0, "", false}, {100, 0, "", false}, {-1, 0, "max", false}, {100, -1, "max", false}, {0, -1, "max", false},
		{100, 100, "0", false}, {100, 150, "50", false}, {-1, 150, "150", false}, {0, 150, "", true},
	} {
		got, err := swapMax(tt.limit, tt.swap)
		if got != tt.want || (err != nil) != tt.bad {
			t.Errorf("swapMax(%d, %d) = %q, %v, want %q", tt.limit, tt.swap, got, err, tt.want)
		}
	}
}

func TestValidate(t *testing.T) {
	for name, tt := range map[string]struct {
		res  specs.LinuxResources
		mode Mode
		ok   func(error) bool
	}{
		"swap below memory": {specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](2), Swap: ptr[int64](1)}}, V2, errdefs.IsInvalidArgument},
		"negative":          {specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](-2)}}, V1, errdefs.IsInvalidArgument},
		"swappiness":        {specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: ptr[uint64](101)}}, V1, errdefs.IsInvalidArgument},
		"swappiness -1":     {specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: ptr[uint64](math.MaxUint64)}}, V2, nil},
		"page size":         {specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "../2MB"}}}, V1, errdefs.IsInvalidArgument},
		"page size unit":    {specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2"}}}, V1, errdefs.IsInvalidArgument},
		"unified path":      {specs.LinuxResources{Unified: map[string]string{"../cgroup.procs": "1"}}, V2, errdefs.IsInvalidArgument},
		"unified dots":      {specs.LinuxResources{Unified: map[string]string{"..": "1"}}, V2, errdefs.IsInvalidArgument},
		"unified":           {specs.LinuxResources{Unified: map[string]string{"memory.high": "1"}}, V2, nil},
		"unified v1":        {specs.LinuxResources{Unified: map[string]string{"memory.high": "1"}}, V1, errdefs.IsInvalidArgument},
		"realtime v2":       {specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimePeriod: ptr[uint64](1)}}, V2, errdefs.IsNotImplemented},
		"network v2":        {specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr[uint32](1)}}, V2, errdefs.IsNotImplemented},
		"rdma name":         {specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"a b": {}}}, V2, errdefs.IsInvalidArgument},
		"device":            {specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Type: "x"}}}, V2, errdefs.IsInvalidArgument},
		"nothing":           {specs.LinuxResources{}, V1, nil},
	} {
		err := validate(&tt.res, tt.mode)
		if tt.ok == nil && err != nil || tt.ok != nil && !tt.ok(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseStats(t *testing.T) {
	entries, err := parseBlkio("8:0 Read 12\n8:0 Write 34\n8:0 Total 46\nTotal 46\n8:16 99\n")
	want := []BlkioEntry{{8, 0, "Read", 12}, {8, 0, "Write", 34}, {8, 0, "Total", 46}, {8, 16, "", 99}}
	if err != nil || !slices.Equal(entries, want) {
		t.Errorf("parseBlkio = %v, %v", entries, err)
	}
	bytes, ops, err := parseIOStat("254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 cost.vrate=1.5\n7:0 \n")
	if err != nil || !slices.Equal(bytes, []BlkioEntry{{254, 0, "Read", 1}, {254, 0, "Write", 2}, {254, 0, "Discard", 5}}) ||
		!slices.Equal(ops, []BlkioEntry{{254, 0, "Read", 3}, {254, 0, "Write", 4}, {254, 0, "Discard", 6}}) {
		t.Errorf("parseIOStat = %v, %v, %v", bytes, ops, err)
	}
	p, err := parsePressure("some avg10=1.50 avg60=0.20 avg300=0.03 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n")
	if err != nil || *p != (Pressure{PressureLine{1.5, .2, .03, 1234 * time.Microsecond}, PressureLine{Total: 5 * time.Microsecond}}) {
		t.Errorf("parsePressure = %+v, %v", p, err)
	}
	rdma, err := parseRdma("mlx4_0 hca_handle=2 hca_object=max\n")
	if err != nil || !slices.Equal(rdma, []RdmaEntry{{"mlx4_0", 2, math.MaxUint32}}) {
		t.Errorf("parseRdma = %v, %v", rdma, err)
	}
	for _, s := range []string{"max", "9223372036854771712", "9223372036854775807", "18446744073709551615"} {
		if n, err := parseUint(s); n != math.MaxUint64 || err != nil {
			t.Errorf("parseUint(%s) = %d, %v", s, n, err)
		}
	}
}

func FuzzParsers(f *testing.F) {
	for _, s := range []string{mountinfoV1, ownV1, "8:0 Read 12\n", "254:0 rbytes=1 wios=4\n", "some avg10=1.50 total=1234\n", "mlx4_0 hca_handle=2 hca_object=max\n", "a *:* rwm\nc 1:3 rw\n", "anon 12\nfile 3\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, m := range parseMounts([]byte(s)) {
			if len(m.controllers) == 0 {
				t.Error("a mount without controllers")
			}
		}
		if groups, err := place(parseMounts([]byte(mountinfoV1)), parseOwn([]byte(s)), "/x"); err == nil {
			for _, g := range groups {
				if !below(g.path, mountRoot) || filepath.Base(g.path) != "x" {
					t.Errorf("%q is outside", g.path)
				}
			}
		}
		_, _ = parseBlkio(s)
		_, _, _ = parseIOStat(s)
		_, _ = parsePressure(s)
		_, _ = parseRdma(s)
		_, _ = parseFlat(s)
		if w, err := parseDevicesList(s); err == nil {
			for d, a := range w.access {
				again, err := parseDevicesList(rule{device: d, access: a}.String())
				if err != nil || again.access[d] != a&accessAll {
					t.Errorf("%v %v: %v, %v", d, a, again, err)
				}
			}
		}
	})
}
