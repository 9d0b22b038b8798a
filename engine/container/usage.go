package container

import (
	"context"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// LogUsage is the space that a container's log takes.
type LogUsage struct {
	ID     string
	Name   string // without the slash
	Active bool   // the container runs
	Size   int64  // bytes on the disk, of all files that the log has been rotated to
}

// LogUsage returns the space that the log of each container takes, the last
// created container first. Containers without a log on this host are left out.
func (m *Manager) LogUsage(ctx context.Context) ([]LogUsage, error) {
	var list []LogUsage
	for _, e := range m.entries() {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		r := e.rec.Load()
		size, found := logSize(m.dir(r.ID), r.ID)
		if found {
			list = append(list, LogUsage{ID: r.ID, Name: r.name(), Active: r.State.active(), Size: size})
		}
	}
	return list, nil
}

// logSize adds up the files of a log: "<id>-json.log" and what follows it after
// rotations, and the directory "local-logs" of the local driver.
func logSize(dir, id string) (size int64, found bool) {
	// An error is a file that went away while it was counted.
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return nil
		}
		rel := strings.TrimPrefix(path, dir+"/")
		local := rel == "local-logs" || strings.HasPrefix(rel, "local-logs/")
		if !local && !strings.HasPrefix(rel, id+"-json.log") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		var st unix.Stat_t
		if !d.IsDir() && unix.Lstat(path, &st) == nil {
			size += st.Blocks * 512
			found = true
		}
		return nil
	})
	return size, found
}
