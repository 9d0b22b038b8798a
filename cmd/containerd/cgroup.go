package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// joinCgroup moves this process into the control group path of every hierarchy
// with controllers; shims started later inherit it. A named hierarchy belongs to
// the service manager and is left alone.
func joinCgroup(path string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("join control group %q: %w", path, err)
	}
	var joined bool
	for _, dir := range cgroupMounts(string(mounts)) {
		if err := enterCgroup(dir, filepath.Join("/", path)); err != nil {
			return fmt.Errorf("join control group %q: %w", path, err)
		}
		joined = true
	}
	if !joined {
		return fmt.Errorf("join control group %q: no hierarchy is mounted", path)
	}
	return nil
}

// cgroupMounts returns where the hierarchies with controllers are mounted.
func cgroupMounts(mountinfo string) []string {
	var dirs []string
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		i := len(fields) - 3
		if i < 6 || fields[i-1] != "-" {
			continue
		}
		unified := fields[i] == "cgroup2"
		if unified {
			// Beside hierarchies of version 1 it has none.
			controllers, err := os.ReadFile(filepath.Join(fields[4], "cgroup.controllers"))
			unified = err == nil && len(bytes.TrimSpace(controllers)) > 0
		}
		if unified || fields[i] == "cgroup" && !strings.Contains(fields[i+2], "name=") {
			dirs = append(dirs, fields[4])
		}
	}
	return dirs
}

func enterCgroup(root, path string) error {
	dir := root
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		parent := dir
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // of version 1: a new group has none
			if own, err := os.ReadFile(filepath.Join(dir, file)); err != nil || len(bytes.TrimSpace(own)) > 0 {
				continue
			}
			from, err := os.ReadFile(filepath.Join(parent, file))
			if err != nil {
				return err
			}
			if len(bytes.TrimSpace(from)) == 0 { // version 2: inherited
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, file), from, 0); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
}
