package snapshot

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
)

// Overlay keeps each snapshot's changes in a directory and shows them with
// overlayfs:
//
//	snapshots/<id>/fs     the changes: upper directory while active, lower once committed
//	snapshots/<id>/work   overlayfs's own, for active snapshots
//
// A snapshot of one layer needs no overlay and is a bind mount.
type Overlay struct {
	*dirs
	options []string
	remap   bool
}

var (
	_ Driver  = (*Overlay)(nil)
	_ Stacker = (*Overlay)(nil)
)

// OverlayOptions change how Overlay mounts.
type OverlayOptions struct {
	// RemapIDs passes the mapping labels on as mount options uidmap and gidmap;
	// whoever mounts must understand them.
	RemapIDs bool
}

// OpenOverlay opens the overlay driver in root, which it makes if it is missing, and
// finds out which mount options this kernel needs.
//
// Errors: NotImplemented if the kernel or the file system of root cannot do
// overlay, or the caller may not; the message says why.
func OpenOverlay(root string, o OverlayOptions) (*Overlay, error) {
	d, err := openDirs(root)
	if err != nil {
		return nil, err
	}
	options, err := probeOverlay(root)
	if err != nil {
		d.Close()
		return nil, err
	}
	return &Overlay{dirs: d, options: options, remap: o.RemapIDs}, nil
}

// Create makes the directories of s.
func (o *Overlay) Create(_ context.Context, s Snapshot) error {
	return o.create(s.ID, func(dir string) error {
		upper := filepath.Join(dir, "fs")
		if err := mkdir(upper, 0o755); err != nil {
			return err
		}
		if s.Kind == snapshots.KindActive {
			if err := os.Mkdir(filepath.Join(dir, "work"), 0o711); err != nil {
				return err
			}
		}
		return o.chownRoot(upper, s)
	})
}

// Stacks reports that snapshots may get their parent late.
func (o *Overlay) Stacks() bool { return true }

// Mounts returns a bind mount for one layer, else an overlay.
func (o *Overlay) Mounts(s Snapshot) []mount.Mount {
	var options []string
	if o.remap {
		if m, ok := s.Labels[snapshots.LabelSnapshotUIDMapping]; ok {
			options = append(options, "uidmap="+m)
		}
		if m, ok := s.Labels[snapshots.LabelSnapshotGIDMapping]; ok {
			options = append(options, "gidmap="+m)
		}
	}
	active := s.Kind == snapshots.KindActive
	_, stack := s.Labels[LabelStack]
	switch {
	case len(s.Parents) == 0 && active && stack:
		options = append(options, "workdir="+filepath.Join(o.dir(s.ID), "work"), "upperdir="+o.path(s.ID))
		return []mount.Mount{{Type: "overlay", Source: "overlay", Options: append(options, o.options...)}}
	case len(s.Parents) == 0 && active:
		return bind(o.path(s.ID), options, "rw")
	case len(s.Parents) == 0:
		return bind(o.path(s.ID), options, "ro")
	case len(s.Parents) == 1 && !active:
		return bind(o.path(s.Parents[0]), options, "ro")
	}
	if active {
		options = append(options, "workdir="+filepath.Join(o.dir(s.ID), "work"), "upperdir="+o.path(s.ID))
	}
	lower := make([]string, len(s.Parents))
	for i, id := range s.Parents {
		lower[i] = o.path(id)
	}
	options = append(options, "lowerdir="+strings.Join(lower, ":"))
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: append(options, o.options...)}}
}

func bind(path string, options []string, access string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: path, Options: append(options, access, "rbind")}}
}
