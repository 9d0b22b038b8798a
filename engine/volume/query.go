package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"lighter/engine/label"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	api "github.com/moby/moby/api/types/volume"
)

// List returns the volumes that match, by name. The values of a filter are
// alternatives (of label: all must match), the filters must all match. They are
// dangling, driver, label and name; another one is an InvalidArgument. Those that
// plugins have without the engine are among them; what kept a plugin from
// answering is in Warnings.
func (s *Store) List(ctx context.Context, filters map[string]map[string]bool) (api.ListResponse, error) {
	list := api.ListResponse{Volumes: []api.Volume{}}
	if err := onlyKeys(filters, "dangling", "driver", "label", "name"); err != nil {
		return list, err
	}
	dangling, filtered, err := boolFilter(filters, "dangling")
	if err != nil {
		return list, err
	}
	elsewhere, warnings := s.elsewhere(ctx)
	list.Warnings = warnings
	var names []string
	s.mu.Lock()
	for name, e := range s.volumes {
		delete(elsewhere, name)
		if e.busy || filtered && dangling != (len(e.users) == 0) {
			continue
		}
		if d := filters["driver"]; len(d) > 0 && !d[e.meta.driver()] {
			continue
		}
		if !matchesName(filters["name"], name) || !label.Match(e.meta.Labels, maps.Keys(filters["label"])) {
			continue
		}
		names = append(names, name)
	}
	s.mu.Unlock()
	for _, name := range names {
		s.mu.Lock()
		e, ok := s.volumes[name]
		s.mu.Unlock()
		if ok { // else removed since
			list.Volumes = append(list.Volumes, s.view(e, name))
		}
	}
	for name, v := range elsewhere { // which no container refers to and no label is known of
		if d := filters["driver"]; len(d) > 0 && !d[v.Driver] || filtered && !dangling || len(filters["label"]) > 0 || !matchesName(filters["name"], name) {
			continue
		}
		list.Volumes = append(list.Volumes, v)
	}
	slices.SortFunc(list.Volumes, byName)
	return list, nil
}

// Prune removes the unused anonymous volumes, or with the filter all=true every
// unused one, that match the filters label and label!.
func (s *Store) Prune(ctx context.Context, filters map[string]map[string]bool) (api.PruneReport, error) {
	report := api.PruneReport{VolumesDeleted: []string{}}
	if err := onlyKeys(filters, "all", "label", "label!"); err != nil {
		return report, err
	}
	all, _, err := boolFilter(filters, "all")
	if err != nil {
		return report, err
	}
	var names []string
	s.mu.Lock()
	for name, e := range s.volumes {
		_, anonymous := e.meta.Labels[AnonymousLabel]
		if e.busy || len(e.users) > 0 || !all && !anonymous {
			continue
		}
		if !label.Match(e.meta.Labels, maps.Keys(filters["label"])) || len(filters["label!"]) > 0 && label.Match(e.meta.Labels, maps.Keys(filters["label!"])) {
			continue
		}
		names = append(names, name)
	}
	s.mu.Unlock()
	slices.Sort(names)
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return report, context.Cause(ctx)
		}
		size, err := dirSize(ctx, s.Path(name))
		if err == nil {
			err = s.Remove(ctx, name, false)
		}
		if err != nil {
			if !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
				s.log.Warn("cannot prune volume", "volume", name, "err", err)
			}
			continue
		}
		report.VolumesDeleted = append(report.VolumesDeleted, name)
		report.SpaceReclaimed += uint64(size)
	}
	s.events.Publish(events.VolumeEventType, events.ActionPrune, events.Actor{
		Attributes: map[string]string{"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10)},
	})
	return report, nil
}

// dirSize adds up the disk space of what is below dir, as du(1) does: blocks, not
// lengths, and hard links once.
func dirSize(ctx context.Context, dir string) (int64, error) {
	type inode struct{ dev, ino uint64 }
	seen := make(map[inode]struct{})
	var total int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != dir {
			return nil // removed since
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return nil // removed since
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if st.Nlink > 1 && !fi.IsDir() {
			key := inode{uint64(st.Dev), st.Ino}
			if _, dup := seen[key]; dup {
				return nil
			}
			seen[key] = struct{}{}
		}
		const blockBytes = 512 // of st_blocks, whatever the file system's
		total += st.Blocks * blockBytes
		return nil
	})
	return total, err
}

func onlyKeys(filters map[string]map[string]bool, known ...string) error {
	for _, key := range slices.Sorted(maps.Keys(filters)) {
		if !slices.Contains(known, key) {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter '%s'", key))
		}
	}
	return nil
}

func boolFilter(filters map[string]map[string]bool, key string) (value, given bool, err error) {
	terms := filters[key]
	if len(terms) == 0 {
		return false, false, nil
	}
	if terms["1"] || terms["true"] {
		value = true
	} else if !terms["0"] && !terms["false"] {
		return false, false, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter '%s=%v'", key, slices.Sorted(maps.Keys(terms))))
	}
	return value, true, nil
}

// matchesName reports whether name contains one of the terms.
func matchesName(terms map[string]bool, name string) bool {
	if len(terms) == 0 {
		return true
	}
	for term := range terms {
		if strings.Contains(name, term) {
			return true
		}
	}
	return false
}
