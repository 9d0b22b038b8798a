package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	cimage "lighter/containerd/image"
)

// PruneReport is what Prune did.
type PruneReport struct {
	ImagesDeleted  []image.DeleteResponse
	SpaceReclaimed uint64 // bytes of content
}

// Prune removes the dangling images that no container uses; with the filter
// dangling=false all images that no container uses.
//
// Errors: InvalidArgument for a bad filter; Conflict while another prune runs.
func (s *Service) Prune(ctx context.Context, f Filters) (PruneReport, error) {
	ctx = s.ctx(ctx)
	if !s.pruning.CompareAndSwap(false, true) {
		return PruneReport{}, errdefs.ErrConflict.WithMessage("a prune operation is already running")
	}
	defer s.pruning.Store(false)
	onlyDangling, err := f.boolean("dangling", true)
	if err != nil {
		return PruneReport{}, err
	}
	f = maps.Clone(f)
	delete(f, "dangling")
	keep, err := s.filter(ctx, f, pruneFilters)
	if err != nil {
		return PruneReport{}, err
	}
	all, err := s.images().List(ctx)
	if err != nil {
		return PruneReport{}, err
	}
	names := map[digest.Digest]int{} // how many an image has left
	for _, img := range all {
		names[img.Target.Digest]++
	}
	slices.SortFunc(all, func(a, b images.Image) int { return strings.Compare(a.Name, b.Name) })
	report := PruneReport{ImagesDeleted: []image.DeleteResponse{}}
	var errs []error
	for _, img := range all {
		if ctx.Err() != nil {
			return report, errors.Join(append(errs, context.Cause(ctx))...)
		}
		id := img.Target.Digest
		if onlyDangling && !isDangling(img) || !keep(img) || s.needed(img, names[id] == 1) {
			continue
		}
		if err := s.pruneOne(ctx, img, &report); err != nil {
			errs = append(errs, err)
			continue
		}
		names[id]--
	}
	return report, errors.Join(errs...)
}

// needed reports whether a container uses the image by this name, or by its ID
// when this is the last name.
func (s *Service) needed(img images.Image, last bool) bool {
	id := img.Target.Digest
	for _, c := range s.inUse(id.String()) {
		if isDangling(img) || last && (isIDPrefix(id, c.Image) || strings.HasSuffix(c.Image, "@"+id.String())) {
			return true
		}
		named, err := reference.ParseNormalizedNamed(c.Image)
		if err != nil {
			if last {
				return true
			}
			continue
		}
		if reference.TagNameOnly(named).String() == img.Name {
			return true
		}
		if tagged, ok := named.(reference.NamedTagged); ok {
			if n, err := reference.WithTag(reference.TrimNamed(named), tagged.Tag()); err == nil && n.String() == img.Name {
				return true
			}
		}
		if last {
			return true
		}
	}
	return false
}

func (s *Service) pruneOne(ctx context.Context, img images.Image, report *PruneReport) error {
	blobs := []ocispec.Descriptor{img.Target}
	manifests, err := cimage.Manifests(ctx, s.cachedContent(), img.Target)
	if err != nil {
		return fmt.Errorf("prune image %q: %w", img.Name, err)
	}
	for _, m := range manifests {
		if !m.Present {
			continue
		}
		if m.Desc.Digest != img.Target.Digest {
			blobs = append(blobs, m.Desc)
		}
		blobs = append(append(blobs, m.Document.Config), m.Document.Layers...)
	}
	present := blobs[:0:0]
	seen := map[digest.Digest]bool{}
	for _, d := range blobs {
		if _, err := s.content().Info(ctx, d.Digest); err == nil && !seen[d.Digest] {
			present = append(present, d)
		}
		seen[d.Digest] = true
	}
	if err := s.images().Delete(ctx, img.Name, images.SynchronousDelete()); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("prune image %q: %w", img.Name, err)
	}
	name := familiarName(img)
	s.events(events.ActionUnTag, img.Target.Digest.String(), map[string]string{"name": name})
	report.ImagesDeleted = append(report.ImagesDeleted, image.DeleteResponse{Untagged: name})
	deleted := false
	for _, d := range present {
		if _, err := s.content().Info(ctx, d.Digest); !errdefs.IsNotFound(err) {
			continue
		}
		report.SpaceReclaimed += uint64(d.Size)
		if images.IsManifestType(d.MediaType) || images.IsIndexType(d.MediaType) {
			deleted = true
			report.ImagesDeleted = append(report.ImagesDeleted, image.DeleteResponse{Deleted: d.Digest.String()})
		}
	}
	if deleted {
		s.events(events.ActionDelete, img.Target.Digest.String(), map[string]string{"name": name})
	}
	return nil
}
