package build

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// sweep removes what a build process leaves when it is killed: scratch files and
// sockets, and the control groups of its steps. The groups are empty, for the
// steps were in its PID namespace.
func (s *Service) sweep() {
	link := s.cfg.Link
	for _, path := range []string{
		filepath.Join(link.State, "steps"), filepath.Join(link.State, "tmp"), filepath.Join(link.State, "build.sock"),
		filepath.Join(link.Root, "contexts"),
	} {
		if err := os.RemoveAll(path); err != nil {
			s.deps.Log.Warn("remove scratch files of builds", "err", err)
		}
	}
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		found, err := filepath.Glob(filepath.Join(root, link.CgroupParent))
		if err != nil {
			s.deps.Log.Warn("find control groups of builds", "err", err)
		}
		for _, dir := range found {
			if err := removeGroups(dir); err != nil {
				s.deps.Log.Warn("remove control groups of builds", "err", err)
			}
		}
	}
}

// removeGroups removes a control group with those below it.
func removeGroups(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.Reverse(dirs)
	for _, d := range dirs {
		if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) {
			return &fs.PathError{Op: "rmdir", Path: d, Err: err}
		}
	}
	return nil
}
