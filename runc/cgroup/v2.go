package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/internal/cleanup"
)

// v2 is the Manager for the unified hierarchy.
type v2 struct {
	mount string // where the hierarchy is mounted
	path  string
}

var _ Manager = (*v2)(nil)

// Create implements Manager. Commit point: the last limit.
func (m *v2) Create(res *specs.LinuxResources) error {
	if err := validate(res, V2); err != nil {
		return err
	}
	var undo cleanup.Stack
	if err := m.create(res, &undo); err != nil {
		return errors.Join(err, undo.Run())
	}
	undo.Release()
	return nil
}

func (m *v2) create(res *specs.LinuxResources, undo *cleanup.Stack) error {
	made, err := makeDirs(m.path)
	for _, path := range made {
		undo.Add(func() error { return removeUnused(path) })
	}
	if err != nil {
		return fmt.Errorf("make control group: %w", err)
	}
	fresh := len(made) > 0
	if !fresh {
		if err := checkEmpty(m.path); err != nil {
			return fmt.Errorf("make control group: %w", err)
		}
		frozen, err := m.Frozen()
		if err != nil {
			return err
		}
		if frozen {
			return fmt.Errorf("make control group: %w", errFrozenGroup(m.path))
		}
	}
	if err := m.enableControllers(); err != nil {
		return fmt.Errorf("enable controllers: %w", err)
	}
	if err := m.checkType(); err != nil {
		return err
	}
	if err := setDevices2(m.path, deviceList(res), fresh); err != nil {
		return err
	}
	return m.setLimits(res)
}

func deviceList(res *specs.LinuxResources) []specs.LinuxDeviceCgroup {
	if res == nil {
		return nil
	}
	return res.Devices
}

// enableControllers enables every controller that the host has for the group,
// from the top down to its parent. One that cannot be enabled is no error here:
// it is if a limit needs it.
func (m *v2) enableControllers() error {
	missing, err := m.missingControllers()
	if err != nil || len(missing) == 0 {
		return err
	}
	rel, err := filepath.Rel(m.mount, filepath.Dir(m.path))
	if err != nil {
		return err
	}
	path := m.mount
	for name := range strings.SplitSeq("./"+rel, "/") {
		path = filepath.Join(path, name)
		if err := enable(path, missing); err != nil {
			return err
		}
		if rel == "." {
			break
		}
	}
	return nil
}

// missingControllers returns those of the host that the group does not have.
func (m *v2) missingControllers() ([]string, error) {
	host, err := readFields(m.mount, "cgroup.controllers")
	if err != nil || len(host) == 0 {
		return nil, err
	}
	have, err := readFields(m.path, "cgroup.controllers")
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(host, func(c string) bool { return slices.Contains(have, c) }), nil
}

func readFields(path, name string) ([]string, error) {
	d, err := openDir(path)
	if err != nil {
		return nil, err
	}
	defer d.close()
	s, err := d.readString(name)
	return strings.Fields(s), err
}

// enable enables controllers for the children of path: all at once, or, if the
// kernel refuses one, those that it can.
func enable(path string, controllers []string) error {
	d, err := openDir(path)
	if err != nil {
		return err
	}
	defer d.close()
	if d.write("cgroup.subtree_control", "+"+strings.Join(controllers, " +")) == nil {
		return nil
	}
	for _, c := range controllers {
		_ = d.write("cgroup.subtree_control", "+"+c) // a limit that needs it will fail
	}
	return nil
}

// checkType refuses a group that cannot have processes: one in a threaded tree.
func (m *v2) checkType() error {
	d, err := openDir(m.path)
	if err != nil {
		return err
	}
	defer d.close()
	typ, err := d.readString("cgroup.type")
	if err != nil {
		return err
	}
	if typ == "threaded" || typ == "domain invalid" {
		return fmt.Errorf("make control group: cannot enter cgroupv2 %q: it is in %s mode: %w", m.path, typ, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Add implements Manager.
func (m *v2) Add(pid int) error {
	d, err := openDir(m.path)
	if err == nil {
		defer d.close()
		err = d.write("cgroup.procs", strconv.Itoa(pid))
		err = explain(err, unix.EBUSY, "controllers are enabled for groups below it")
		err = explain(err, unix.EOPNOTSUPP, "the group is threaded")
	}
	if err != nil {
		return fmt.Errorf("add process %d to its control group: %w", pid, err)
	}
	return nil
}

// Set implements Manager.
func (m *v2) Set(res *specs.LinuxResources) error {
	if err := validate(res, V2); err != nil {
		return err
	}
	if list := deviceList(res); list != nil {
		if err := setDevices2(m.path, list, false); err != nil {
			return err
		}
	}
	return m.setLimits(res)
}

// Fd implements Manager.
func (m *v2) Fd() (*os.File, error) {
	f, err := os.OpenFile(m.path, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return f, err
}

// Paths implements Manager.
func (m *v2) Paths() map[string]string { return map[string]string{unifiedKey: m.path} }

// Pids implements Manager.
func (m *v2) Pids() ([]int, error) {
	pids, err := pidsOf(m.path)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	slices.Sort(pids)
	return pids, nil
}

// Destroy implements Manager.
func (m *v2) Destroy(ctx context.Context) error { return destroy(ctx, []string{m.path}) }
