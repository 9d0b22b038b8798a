package snapshot

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"

	continuity "github.com/containerd/continuity/fs"
)

// Native keeps each snapshot as a whole tree in snapshots/<id>/fs and copies the
// parent's for a new one. It needs nothing of the kernel or the file system and
// costs the size of the image per snapshot; file systems with reflinks share it.
type Native struct{ *dirs }

var _ Driver = (*Native)(nil)

// OpenNative opens the native driver in root, which it makes if it is missing.
func OpenNative(root string) (*Native, error) {
	d, err := openDirs(root)
	if err != nil {
		return nil, err
	}
	return &Native{d}, nil
}

// Create copies the nearest parent. A view of a parent needs no copy.
//
// The tree that is copied holds what an image put there, but nobody writes to it
// meanwhile, and the copy follows no links.
func (n *Native) Create(_ context.Context, s Snapshot) error {
	return n.create(s.ID, func(dir string) error {
		root := filepath.Join(dir, "fs")
		if err := mkdir(root, 0o755); err != nil {
			return err
		}
		if s.Kind == snapshots.KindActive && len(s.Parents) > 0 {
			if err := continuity.CopyDir(root, n.path(s.Parents[0])); err != nil {
				return fmt.Errorf("copy snapshot %s: %w", s.Parents[0], err)
			}
			return nil
		}
		return n.chownRoot(root, s)
	})
}

// Mounts returns a bind mount of the tree.
func (n *Native) Mounts(s Snapshot) []mount.Mount {
	if s.Kind == snapshots.KindActive {
		return bind(n.path(s.ID), nil, "rw")
	}
	id := s.ID
	if len(s.Parents) > 0 {
		id = s.Parents[0]
	}
	return bind(n.path(id), nil, "ro")
}
