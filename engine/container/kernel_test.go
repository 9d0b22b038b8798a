package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	api "github.com/moby/moby/api/types/container"
)

func TestProbeKernel(t *testing.T) {
	tree := func(files map[string]string) kernel {
		root := t.TempDir()
		for name, text := range files {
			if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(root, name), text)
		}
		return probeKernel(root)
	}
	if k := tree(map[string]string{"sys/fs/cgroup/cgroup.controllers": "cpu memory pids\n"}); !k.memory || !k.swap || !k.pids || !k.cpuCFS || k.cpuset || k.blkioWeight || k.oomDisable || k.swappiness {
		t.Errorf("version 2: %+v", k)
	}
	k := tree(map[string]string{
		"sys/fs/cgroup/memory/memory.limit_in_bytes": "", "sys/fs/cgroup/cpu/cpu.shares": "", "sys/fs/cgroup/memory/memory.oom_control": "",
		"proc/sys/net/ipv4/ip_forward": "0\n", "proc/self/ns/cgroup": "",
	})
	if !k.memory || k.swap || !k.oomDisable || !k.cpuShares || k.cpuCFS || k.pids || k.forwarding || !k.cgroupNS {
		t.Errorf("version 1: %+v", k)
	}
}

func TestAdaptDropsWhatTheHostLacks(t *testing.T) {
	yes, limit, swappiness := true, int64(10), int64(60)
	r := api.Resources{
		Memory: 64 << 20, MemorySwap: 128 << 20, MemoryReservation: 32 << 20, MemorySwappiness: &swappiness, OomKillDisable: &yes,
		PidsLimit: &limit, CPUShares: 2, CPUQuota: 5000, CPUPercent: 5, CpusetCpus: "0", BlkioWeight: 100,
	}
	all := r
	if got := ableKernel.adapt(&all); len(got) != 1 || all.Memory != r.Memory || all.PidsLimit == nil || all.CPUPercent != 0 {
		t.Errorf("with all: %q, %+v", got, all)
	}
	none := r
	got := kernel{}.adapt(&none)
	if len(got) != 10 || none.Memory != 0 || none.MemoryReservation != 0 || none.OomKillDisable != nil || none.PidsLimit != nil ||
		none.CPUShares != 0 || none.CPUQuota != 0 || none.CpusetCpus != "" || none.BlkioWeight != 0 || none.MemorySwappiness != nil {
		t.Errorf("with none: %d %q, %+v", len(got), got, none)
	}
	noSwap := ableKernel
	noSwap.swap = false
	swapless := r
	if got := noSwap.adapt(&swapless); swapless.MemorySwap != -1 || len(got) != 2 || !strings.Contains(got[0], "Memory limited without swap") {
		t.Errorf("without swap: %q, %+v", got, swapless)
	}
}

func TestCheckSysctls(t *testing.T) {
	for _, tc := range []struct {
		key  string
		host api.HostConfig
		want string // "" for no error
	}{
		{"net.ipv4.ip_forward", api.HostConfig{}, ""},
		{"net/ipv4/conf/eth0.1/forwarding", api.HostConfig{}, ""},
		{"kernel.msgmax", api.HostConfig{}, ""},
		{"fs.mqueue.msg_max", api.HostConfig{}, ""},
		{"kernel.domainname", api.HostConfig{}, ""},
		{"net.ipv4.ip_forward", api.HostConfig{NetworkMode: "host"}, `sysctl "net.ipv4.ip_forward" is not allowed in the hosts network namespace`},
		{"kernel.msgmax", api.HostConfig{IpcMode: "host"}, `sysctl "kernel.msgmax" is not allowed in the hosts ipc namespace`},
		{"kernel.hostname", api.HostConfig{}, `sysctl "kernel.hostname" is not allowed as it conflicts with the OCI "hostname" field`},
		{"kernel.panic", api.HostConfig{}, `sysctl "kernel.panic" is not in a separate kernel namespace`},
		{"net..ipv4", api.HostConfig{}, `invalid sysctl "net..ipv4"`},
		{"/net/ipv4", api.HostConfig{}, `invalid sysctl "/net/ipv4"`},
		{"net.ipv4\n", api.HostConfig{}, `invalid sysctl "net.ipv4\n"`},
		{"", api.HostConfig{}, `invalid sysctl ""`},
	} {
		tc.host.Sysctls = map[string]string{tc.key: "1"}
		err := checkSysctls(&api.Config{}, &tc.host)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || err.Error() != tc.want || !errdefs.IsInvalidArgument(err)) {
			t.Errorf("checkSysctls(%q) = %v, want %q", tc.key, err, tc.want)
		}
	}
}
