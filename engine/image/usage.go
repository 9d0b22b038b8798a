package image

import (
	"context"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/image"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	cimage "lighter/containerd/image"
)

// Usage returns what the images take on the disk, in bytes of compressed content
// and of unpacked layers. What images share counts once; what an image with
// containers needs is not reclaimable.
func (s *Service) Usage(ctx context.Context) (image.DiskUsage, error) {
	list, err := s.List(ctx, ListOptions{All: true, SharedSize: true})
	if err != nil {
		return image.DiskUsage{}, err
	}
	ctx = s.ctx(ctx)
	u := image.DiskUsage{TotalCount: int64(len(list)), Items: list}
	all, used := map[digest.Digest]int64{}, map[digest.Digest]int64{}
	sizes := s.snapshotSizes()
	for _, img := range list {
		sets := []map[digest.Digest]int64{all}
		if img.Containers > 0 {
			u.ActiveCount++
			sets = append(sets, used)
		}
		if err := s.addParts(ctx, *img.Descriptor, sizes, sets); err != nil {
			return u, err
		}
	}
	for d, n := range all {
		u.TotalSize += n
		if _, ok := used[d]; !ok {
			u.Reclaimable += n
		}
	}
	return u, nil
}

// addParts adds the sizes of the blobs and snapshots of an image to sets: a blob
// by its digest, a snapshot by its chain ID with a prefix, since that of a lowest
// layer is the digest of the layer too.
func (s *Service) addParts(ctx context.Context, target ocispec.Descriptor, sizes *sizer, sets []map[digest.Digest]int64) error {
	add := func(key digest.Digest, n int64) {
		for _, set := range sets {
			set[key] = n
		}
	}
	blob := func(d digest.Digest) {
		if info, err := s.content().Info(ctx, d); err == nil {
			add(d, info.Size)
		}
	}
	manifests, err := cimage.Manifests(ctx, s.cachedContent(), target)
	if err != nil {
		s.log.Warn("cannot measure image", "image", target.Digest, "err", err)
		return nil
	}
	for _, m := range manifests {
		if !m.Present {
			continue
		}
		blob(m.Desc.Digest)
		blob(m.Document.Config.Digest)
		for _, l := range m.Document.Layers {
			blob(l.Digest)
		}
		var config ocispec.Image
		if !cimage.IsImage(m.Document) || cimage.ReadConfig(ctx, s.cachedContent(), m.Document.Config, &config) != nil {
			continue
		}
		for _, chain := range identity.ChainIDs(slices.Clone(config.RootFS.DiffIDs)) {
			n, err := sizes.size(ctx, chain)
			if err != nil {
				return err
			}
			add("snapshot-"+chain, n)
		}
	}
	return nil
}

// UnusedImage is an image that no container uses.
type UnusedImage struct {
	ID    string
	Since time.Time // when it came, or got a name, last
	Size  int64     // bytes that it shares with no other image
}

// Unused returns the images that no container uses.
func (s *Service) Unused(ctx context.Context) ([]UnusedImage, error) {
	list, err := s.List(ctx, ListOptions{All: true, SharedSize: true})
	if err != nil {
		return nil, err
	}
	records, err := s.images().List(s.ctx(ctx))
	if err != nil {
		return nil, err
	}
	since := map[string]time.Time{}
	for _, r := range records {
		id := r.Target.Digest.String()
		for _, at := range []time.Time{r.CreatedAt, r.UpdatedAt} {
			if at.After(since[id]) {
				since[id] = at
			}
		}
	}
	var unused []UnusedImage
	for _, img := range list {
		if len(s.inUse(img.ID)) == 0 {
			unused = append(unused, UnusedImage{ID: img.ID, Since: since[img.ID], Size: img.Size - max(img.SharedSize, 0)})
		}
	}
	return unused, nil
}

// Discard removes an image with all its names unless a container uses it.
//
// Errors: Conflict when one does.
func (s *Service) Discard(ctx context.Context, id string) error {
	if users := s.inUse(id); len(users) > 0 {
		return errdefs.ErrConflict.WithMessage("container " + users[0].ID + " uses the image " + id)
	}
	_, err := s.Remove(ctx, id, RemoveOptions{Force: true})
	return err
}
