package cgroup

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const mountRoot = "/sys/fs/cgroup"

// unifiedKey is the name of the v2 hierarchy in Paths and in /proc/PID/cgroup.
const unifiedKey = ""

// New returns the Manager of the container id, whose groups are at cgroupsPath
// (see the package comment). It makes nothing.
func New(cgroupsPath, id string) (Manager, error) {
	if cgroupsPath == "" {
		if id == "" {
			return nil, fmt.Errorf("find control groups: neither a path nor an id: %w", errdefs.ErrInvalidArgument)
		}
		cgroupsPath = id
	}
	if strings.ContainsRune(cgroupsPath, 0) {
		return nil, fmt.Errorf("control group path %q has a NUL: %w", cgroupsPath, errdefs.ErrInvalidArgument)
	}
	absolute := filepath.IsAbs(cgroupsPath)
	inner := filepath.Clean("/" + cgroupsPath) // no ".." leads out
	if inner == "/" {
		return nil, fmt.Errorf("control group path %q is the root: %w", cgroupsPath, errdefs.ErrInvalidArgument)
	}

	mode := HostMode()
	if mode == V2 {
		base := ""
		if !absolute {
			own, err := ownGroups()
			if err != nil {
				return nil, err
			}
			base = filepath.Dir(filepath.Clean("/" + own[unifiedKey]))
		}
		return &v2{mount: mountRoot, path: filepath.Join(mountRoot, base, inner)}, nil
	}

	mounts, err := hostMounts()
	if err != nil {
		return nil, err
	}
	var own map[string]string
	if !absolute {
		if own, err = ownGroups(); err != nil {
			return nil, err
		}
	}
	groups, err := place(mounts, own, inner)
	if err != nil {
		return nil, err
	}
	return newV1(groups), nil
}

// Load returns the Manager for paths, which came from Manager.Paths. The groups
// need not exist. It is InvalidArgument if paths is empty or not absolute.
func Load(paths map[string]string) (Manager, error) {
	if len(paths) == 0 {
		return nil, fmt.Errorf("load control groups: no paths: %w", errdefs.ErrInvalidArgument)
	}
	byPath := make(map[string][]string)
	for controller, path := range paths {
		if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" {
			return nil, fmt.Errorf("load control groups: path %q of %q: not absolute and clean: %w", path, controller, errdefs.ErrInvalidArgument)
		}
		byPath[path] = append(byPath[path], controller)
	}
	if path, ok := paths[unifiedKey]; ok && len(paths) == 1 {
		return &v2{mount: mountRoot, path: path}, nil
	}
	groups := make([]group, 0, len(byPath))
	for path, controllers := range byPath {
		slices.Sort(controllers)
		groups = append(groups, group{controllers: controllers, path: path})
	}
	slices.SortFunc(groups, func(a, b group) int { return slices.Compare(a.controllers, b.controllers) })
	return newV1(groups), nil
}

// HostMode looks at what is mounted on /sys/fs/cgroup.
func HostMode() Mode {
	if isUnified(mountRoot) {
		return V2
	}
	if isUnified(mountRoot + "/unified") {
		return Hybrid
	}
	return V1
}

func isUnified(path string) bool {
	var st unix.Statfs_t
	_, err := retry(func() (int, error) { return 0, unix.Statfs(path, &st) })
	return err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// mount is a mounted hierarchy.
type mount struct {
	controllers []string // unifiedKey alone for v2
	path        string   // where it is mounted
	root        string   // which group of the hierarchy is mounted there
}

func hostMounts() ([]mount, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find control groups: %w", err)
	}
	mounts := parseMounts(b)
	if len(mounts) == 0 {
		return nil, fmt.Errorf("find control groups: none is mounted: %w", errdefs.ErrNotImplemented)
	}
	return mounts, nil
}

// controllers are those a container joins. Named hierarchies other than
// systemd's belong to someone else.
var controllers = []string{
	"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory",
	"misc", "net_cls", "net_prio", "perf_event", "pids", "rdma", "name=systemd",
}

// parseMounts finds the hierarchies in mountinfo (proc_pid_mountinfo(5)). Of
// several mounts of one hierarchy it takes the first below /sys/fs/cgroup, or
// else the first.
func parseMounts(mountinfo []byte) []mount {
	var found []mount
	for line := range bytes.Lines(mountinfo) {
		// 36 35 98:0 ROOT POINT OPTIONS [TAGS...] - TYPE SOURCE SUPEROPTIONS
		if !bytes.Contains(line, []byte(" - cgroup")) {
			continue
		}
		before, after, _ := strings.Cut(strings.TrimSpace(string(line)), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if len(left) < 6 || len(right) < 3 {
			continue
		}
		m := mount{path: unescape(left[4]), root: unescape(left[3])}
		switch right[0] {
		case "cgroup2":
			m.controllers = []string{unifiedKey}
		case "cgroup":
			for opt := range strings.SplitSeq(right[2], ",") {
				if slices.Contains(controllers, opt) {
					m.controllers = append(m.controllers, opt)
				}
			}
		}
		if len(m.controllers) == 0 {
			continue
		}
		same := slices.IndexFunc(found, func(o mount) bool { return slices.Equal(o.controllers, m.controllers) })
		switch {
		case same < 0:
			found = append(found, m)
		case !below(found[same].path, mountRoot) && below(m.path, mountRoot):
			found[same] = m
		}
	}
	return found
}

func below(path, root string) bool { return strings.HasPrefix(path, root+"/") }

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// ownGroups returns the group of this process by controller.
func ownGroups() (map[string]string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("find own control group: %w", err)
	}
	return parseOwn(b), nil
}

// parseOwn parses /proc/PID/cgroup: lines of ID:CONTROLLER,CONTROLLER:PATH.
func parseOwn(b []byte) map[string]string {
	own := make(map[string]string)
	for line := range bytes.Lines(b) {
		f := strings.SplitN(strings.TrimRight(string(line), "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		for c := range strings.SplitSeq(f[1], ",") {
			own[c] = strings.TrimSuffix(f[2], " (deleted)")
		}
	}
	return own
}

// place returns the container's group in each hierarchy. Own is nil if inner
// starts at the mount points, else it starts at own.
func place(mounts []mount, own map[string]string, inner string) ([]group, error) {
	groups := make([]group, 0, len(mounts))
	for _, m := range mounts {
		base := m.path
		if own != nil {
			path, ok := own[m.controllers[0]]
			if !ok {
				continue
			}
			// Without a cgroup namespace a container sees the host's paths, of
			// which only those below the root of its mount exist for it.
			rel, err := filepath.Rel(m.root, path)
			if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
				rel = "."
			}
			base = filepath.Join(base, rel)
		}
		groups = append(groups, group{controllers: m.controllers, path: filepath.Join(base, inner), mount: m.path})
	}
	if !slices.ContainsFunc(groups, func(g group) bool { return slices.Contains(g.controllers, "devices") }) {
		// Without it a container could use every device of the host.
		return nil, fmt.Errorf("find control groups: no devices controller is mounted: %w", errdefs.ErrNotImplemented)
	}
	return groups, nil
}
