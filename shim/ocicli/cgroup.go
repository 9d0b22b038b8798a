package ocicli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// cgroupPaths returns the cgroup directories of a process as shim.Runtime's
// CgroupPaths does.
func cgroupPaths(pid int) (map[string]string, error) {
	memberships, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	return joinCgroups(string(memberships), cgroupMounts(string(mounts))), nil
}

// cgroupMount is where a hierarchy is mounted, and which of its directories.
type cgroupMount struct{ point, root string }

// cgroupMounts finds the hierarchies in a mountinfo, by controller. v2 is "".
func cgroupMounts(mountinfo string) map[string]cgroupMount {
	found := make(map[string]cgroupMount)
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 5 || len(g) < 3 {
			continue
		}
		m := cgroupMount{point: f[4], root: f[3]}
		switch g[0] {
		case "cgroup2":
			found[""] = m
		case "cgroup":
			for option := range strings.SplitSeq(g[2], ",") {
				found[option] = m // options that are not controllers are never asked for
			}
		}
	}
	return found
}

// joinCgroups finds the directories of the memberships that /proc/PID/cgroup
// lists. A process of a hybrid system is in a v2 hierarchy too, which then
// controls nothing and is left out.
func joinCgroups(memberships string, mounts map[string]cgroupMount) map[string]string {
	paths := make(map[string]string)
	unified := ""
	for line := range strings.Lines(memberships) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(f[1], ",") {
			m, ok := mounts[controller]
			if !ok {
				continue
			}
			rel := f[2]
			if m.root != "/" {
				rel = strings.TrimPrefix(rel, m.root)
			}
			dir := filepath.Join(m.point, rel)
			if controller == "" {
				unified = dir
			} else {
				paths[controller] = dir
			}
		}
	}
	if len(paths) == 0 && unified != "" {
		paths[""] = unified
	}
	return paths
}
