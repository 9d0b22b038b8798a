package cgroup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/internal/cleanup"
)

// group is the container's directory in one v1 hierarchy, or in the v2
// hierarchy of a hybrid host.
type group struct {
	controllers []string
	path        string
	mount       string // where the hierarchy is mounted; "" if loaded
}

// v1 is the Manager for a hierarchy per controller. On a hybrid host it has the
// v2 hierarchy too, under unifiedKey, where processes are members and nothing is
// limited.
type v1 struct {
	groups []group
	index  map[string]int // controller -> groups
}

var _ Manager = (*v1)(nil)

func newV1(groups []group) *v1 {
	m := &v1{groups: groups, index: make(map[string]int)}
	for i, g := range groups {
		for _, c := range g.controllers {
			m.index[c] = i
		}
	}
	return m
}

// path returns the group's directory for a controller, "" if the host does not
// have that.
func (m *v1) path(controller string) string {
	i, ok := m.index[controller]
	if !ok {
		return ""
	}
	return m.groups[i].path
}

// open opens the group's directory for a controller that is needed for what.
func (m *v1) open(controller, what string) (dir, error) {
	path := m.path(controller)
	if path == "" {
		return dir{}, fmt.Errorf("set %s: the host has no %s controller: %w", what, controller, errdefs.ErrNotImplemented)
	}
	return openDir(path)
}

// Create implements Manager. Commit point: the last limit.
func (m *v1) Create(res *specs.LinuxResources) error {
	if err := validate(res, V1); err != nil {
		return err
	}
	var undo cleanup.Stack
	for _, g := range m.groups {
		if err := m.makeGroup(g, res, &undo); err != nil {
			return errors.Join(fmt.Errorf("make control group: %w", err), undo.Run())
		}
	}
	if err := m.set(res, true); err != nil {
		return errors.Join(err, undo.Run())
	}
	undo.Release()
	return nil
}

func (m *v1) makeGroup(g group, res *specs.LinuxResources, undo *cleanup.Stack) error {
	made, err := makeDirs(g.path)
	for _, path := range made {
		undo.Add(func() error { return removeUnused(path) })
	}
	if err != nil {
		return err
	}
	if slices.Contains(g.controllers, "cpuset") {
		if err := prepareCpuset(g, made, res); err != nil {
			return err
		}
	}
	if len(made) > 0 {
		return nil
	}
	if err := checkEmpty(g.path); err != nil {
		return err
	}
	if slices.Contains(g.controllers, "freezer") {
		frozen, err := m.Frozen()
		if err != nil {
			return err
		}
		if frozen {
			return errFrozenGroup(g.path)
		}
	}
	return nil
}

// removeUnused removes a directory that Create made, unless another container
// uses it by now.
func removeUnused(path string) error {
	err := rmdir(path)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	return err
}

// checkEmpty refuses a group that has processes.
func checkEmpty(path string) error {
	pids, err := pidsOf(path)
	if err != nil {
		return err
	}
	if len(pids) > 0 {
		// Docker compatibility: runc's text.
		return fmt.Errorf("container's cgroup is not empty: %d process(es) found in %s: %w", len(pids), path, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func errFrozenGroup(path string) error {
	// Docker compatibility: runc's text.
	return fmt.Errorf("container's cgroup unexpectedly frozen: %s: %w", path, errdefs.ErrFailedPrecondition)
}

// Add implements Manager.
func (m *v1) Add(pid int) error {
	value := strconv.Itoa(pid)
	for _, g := range m.groups {
		if err := addTo(g.path, value); err != nil {
			return fmt.Errorf("add process %d to its control group: %w", pid, err)
		}
	}
	return nil
}

func addTo(path, pid string) error {
	d, err := openDir(path)
	if err != nil {
		return err
	}
	defer d.close()
	err = d.write("cgroup.procs", pid)
	err = explain(err, unix.ENOSPC, "cpuset.cpus or cpuset.mems is empty")
	return explain(err, unix.EINVAL, "a realtime process needs cpu.rt_runtime_us in this group")
}

// Set implements Manager.
func (m *v1) Set(res *specs.LinuxResources) error {
	if err := validate(res, V1); err != nil {
		return err
	}
	return m.set(res, false)
}

// Fd implements Manager.
func (m *v1) Fd() (*os.File, error) {
	return nil, fmt.Errorf("open control group: cgroup v1 has one per controller: %w", errors.Join(errors.ErrUnsupported, errdefs.ErrNotImplemented))
}

// Paths implements Manager.
func (m *v1) Paths() map[string]string {
	paths := make(map[string]string, len(m.index))
	for controller, i := range m.index {
		paths[controller] = m.groups[i].path
	}
	return paths
}

// Pids implements Manager. A process of the container is in every hierarchy,
// unless it was moved: all are asked.
func (m *v1) Pids() ([]int, error) {
	set := make(map[int]bool)
	for _, g := range m.groups {
		pids, err := pidsOf(g.path)
		if err != nil {
			return nil, fmt.Errorf("list processes: %w", err)
		}
		for _, pid := range pids {
			set[pid] = true
		}
	}
	return slices.Sorted(maps.Keys(set)), nil
}

// Destroy implements Manager.
func (m *v1) Destroy(ctx context.Context) error {
	paths := make([]string, len(m.groups))
	for i, g := range m.groups {
		paths[i] = g.path
	}
	return destroy(ctx, paths)
}

// prepareCpuset gives the directories that were made for a group the processors
// and memory nodes of their parents. A new v1 cpuset has none and takes no
// process before it has both.
func prepareCpuset(g group, made []string, res *specs.LinuxResources) error {
	for _, path := range made {
		var want specs.LinuxCPU
		if path == g.path && res != nil && res.CPU != nil {
			want = *res.CPU // set later, no need to inherit
		}
		if err := inheritCpuset(path, g.mount, want); err != nil {
			return err
		}
		if path != g.path {
			// Let the kernel do it for the groups to come: it is much cheaper.
			if err := writeIn(path, "cgroup.clone_children", "1"); err != nil {
				return err
			}
		}
	}
	if len(made) == 0 {
		return inheritCpuset(g.path, g.mount, specs.LinuxCPU{})
	}
	return nil
}

func writeIn(path, name, value string) error {
	d, err := openDir(path)
	if err != nil {
		return err
	}
	defer d.close()
	return d.write(name, value)
}

// inheritCpuset fills the empty ones of cpuset.cpus and cpuset.mems of path from
// its parent, and the parent's from its own, up to the mount point. Those that
// want has are left.
func inheritCpuset(path, mount string, want specs.LinuxCPU) error {
	if path == mount || len(path) <= len(mount) {
		return nil
	}
	d, err := openDir(path)
	if err != nil {
		return err
	}
	defer d.close()
	var parent *dir
	for _, f := range []struct{ name, want string }{{"cpuset.cpus", want.Cpus}, {"cpuset.mems", want.Mems}} {
		if f.want != "" {
			continue
		}
		have, err := d.readString(f.name)
		if err != nil {
			return err
		}
		if have != "" {
			continue
		}
		if parent == nil {
			up := filepath.Dir(path)
			if err := inheritCpuset(up, mount, specs.LinuxCPU{}); err != nil {
				return err
			}
			p, err := openDir(up)
			if err != nil {
				return err
			}
			defer p.close()
			parent = &p
		}
		value, err := parent.readString(f.name)
		if err != nil {
			return err
		}
		if err := d.write(f.name, value); err != nil {
			return err
		}
	}
	return nil
}
