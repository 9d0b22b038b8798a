package engine

import (
	"context"

	"golang.org/x/sys/unix"

	"lighter/engine/gc"
	"lighter/engine/image"
)

// collectable is the image service as the collector sees it.
type collectable struct {
	images *image.Service
	root   string // on the file system that holds the images
}

// Unused implements gc.Store.
func (c collectable) Unused(ctx context.Context) ([]gc.Image, error) {
	list, err := c.images.Unused(ctx)
	out := make([]gc.Image, len(list))
	for i, img := range list {
		out[i] = gc.Image{ID: img.ID, Since: img.Since, Size: img.Size}
	}
	return out, err
}

// Discard implements gc.Store.
func (c collectable) Discard(ctx context.Context, id string) error { return c.images.Discard(ctx, id) }

// Disk implements gc.Store.
func (c collectable) Disk() (gc.Disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(c.root, &st); err != nil {
		return gc.Disk{}, err
	}
	return gc.Disk{Total: int64(st.Blocks) * st.Bsize, Free: int64(st.Bavail) * st.Bsize}, nil
}
