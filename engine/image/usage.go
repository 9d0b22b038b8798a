package image

import (
	"context"
	"slices"

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
