package runc

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"lighter/runc/fork"
	"lighter/runc/plan"
)

// subgroups returns the control groups of a process that runs in subs (see
// ExecOptions.Cgroups) below those of paths.
//
// Errors: InvalidArgument for an unknown controller and for a path that leads
// out of the container's group. The words are runc's.
func subgroups(paths, subs map[string]string) (map[string]string, error) {
	if len(subs) == 0 {
		return paths, nil
	}
	out := maps.Clone(paths)
	for _, controllers := range slices.Sorted(maps.Keys(subs)) { // the one for all first
		sub := subs[controllers]
		names := strings.Split(controllers, ",")
		if controllers == "" {
			names = slices.Collect(maps.Keys(paths))
		}
		for _, name := range names {
			base, ok := paths[name]
			if !ok {
				return nil, fmt.Errorf("unknown controller %s in --cgroup: %w", name, errdefs.ErrInvalidArgument)
			}
			dir := filepath.Join(base, sub)
			if dir != base && !strings.HasPrefix(dir, base+"/") {
				return nil, fmt.Errorf("bad sub cgroup path: %q: %w", sub, errdefs.ErrInvalidArgument)
			}
			out[name] = dir
		}
	}
	return out, nil
}

// groupOfInit returns the directory of the group that procCgroup, the content of a
// /proc/PID/cgroup, has for cgroup v2. It is own, the container's, or below.
func groupOfInit(procCgroup, own string) (string, error) {
	const top = "/sys/fs/cgroup"
	for line := range strings.Lines(procCgroup) {
		if rel, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			dir := filepath.Join(top, rel)
			if own == "" || dir != own && !strings.HasPrefix(dir, own+"/") {
				break
			}
			return dir, nil
		}
	}
	return "", fmt.Errorf("find control group of init: it is not below %q: %w", own, errdefs.ErrFailedPrecondition)
}

// enterGroup arranges for the child of req to be in the control groups of paths
// (see cgroup.Manager): it is cloned into the directory of cgroup v2, and moves
// itself into those of v1, whose files go into files. It returns the number of the
// latter.
func enterGroup(paths map[string]string, req *fork.Request, files map[string]*os.File) (int, error) {
	dirs := make([]string, 0, len(paths))
	for _, d := range paths {
		dirs = append(dirs, d)
	}
	slices.Sort(dirs)
	tasks := 0
	for _, dir := range slices.Compact(dirs) {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		flags, path := unix.O_WRONLY, dir+"/tasks"
		v2 := st.Type == unix.CGROUP2_SUPER_MAGIC
		if v2 {
			flags, path = unix.O_RDONLY|unix.O_DIRECTORY, dir
		}
		fd := -1
		if err == nil {
			fd, err = unix.Open(path, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		}
		if err != nil {
			err = &os.PathError{Op: "open", Path: path, Err: err}
			if errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
			}
			return 0, fmt.Errorf("join control group: %w", err)
		}
		f := os.NewFile(uintptr(fd), path)
		if v2 {
			req.Cgroup = f
			continue
		}
		files[plan.TasksFile(tasks)] = f
		tasks++
	}
	return tasks, nil
}
