package runc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"lighter/runc/fork"
	"lighter/runc/plan"
)

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
