package system

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// cgroupFacts are the limits that the host can enforce.
type cgroupFacts struct {
	version                         string // "1" (also hybrid) or "2"
	memory, swap, cpu, cpuset, pids bool
}

// probeCgroup looks at the control group file systems below root.
func probeCgroup(root string) cgroupFacts {
	base := filepath.Join(root, "sys/fs/cgroup")
	if raw, err := os.ReadFile(filepath.Join(base, "cgroup.controllers")); err == nil {
		have := strings.Fields(string(raw))
		return cgroupFacts{
			version: "2",
			memory:  slices.Contains(have, "memory"),
			swap:    slices.Contains(have, "memory"),
			cpu:     slices.Contains(have, "cpu"),
			cpuset:  slices.Contains(have, "cpuset"),
			pids:    slices.Contains(have, "pids"),
		}
	}
	exists := func(path string) bool {
		_, err := os.Stat(filepath.Join(base, path))
		return err == nil
	}
	return cgroupFacts{
		version: "1",
		memory:  exists("memory/memory.limit_in_bytes"),
		swap:    exists("memory/memory.memsw.limit_in_bytes"),
		cpu:     exists("cpu/cpu.cfs_quota_us"),
		cpuset:  exists("cpuset/cpuset.cpus"),
		pids:    exists("pids/cgroup.procs"),
	}
}

// warnings name the limits that the host can't enforce, in Docker's words.
func (c cgroupFacts) warnings() []string {
	var out []string
	for _, w := range []struct {
		ok   bool
		text string
	}{
		{c.memory, "WARNING: No memory limit support"},
		{c.swap, "WARNING: No swap limit support"},
		{c.cpu, "WARNING: No cpu cfs quota support"},
		{c.cpu, "WARNING: No cpu cfs period support"},
		{c.cpu, "WARNING: No cpu shares support"},
		{c.cpuset, "WARNING: No cpuset support"},
		{c.pids, "WARNING: No pids limit support"},
	} {
		if !w.ok {
			out = append(out, w.text)
		}
	}
	return out
}
