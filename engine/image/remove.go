package image

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	cimage "lighter/containerd/image"
)

// RemoveOptions qualify Remove.
type RemoveOptions struct {
	Force     bool
	NoPrune   bool               // keep dangling parents
	Platforms []ocispec.Platform // remove only these variants; needs Force
}

// Remove removes the name ref, and the image with it when that was its last
// name; or, given an ID, the image with its names.
//
//	                          by name                by ID
//	other names are left      untag                  conflict, or with force all go
//	used, stopped container   conflict, or dangling  conflict, or with force all go
//	used, running container   conflict, or dangling  conflict
//
// Errors: NotFound; Conflict with Docker's texts.
func (s *Service) Remove(ctx context.Context, ref string, o RemoveOptions) ([]image.DeleteResponse, error) {
	ctx = s.ctx(ctx)
	if len(o.Platforms) > 0 && !o.Force {
		return nil, invalid("Content will be removed from all images referencing this variant. Use --force to force delete.")
	}
	img, err := s.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	if len(o.Platforms) > 0 {
		return s.removePlatforms(ctx, img, ref, o.Platforms)
	}
	all, err := s.byDigest(ctx, img.Target.Digest)
	if err != nil {
		return nil, err
	}
	id := img.Target.Digest
	if isDangling(img) || isIDPrefix(id, ref) && !namedExactly(img, ref) {
		several := !o.Force && len(sameRefs(nil, all)) != len(all)
		return s.removeAll(ctx, id, all, o, several)
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, invalid("%s", err)
	}
	same := sameRefs(named, all)
	if len(same) != len(all) {
		return s.untag(ctx, same)
	}
	users := s.inUse(id.String())
	if len(users) == 0 {
		return s.removeAll(ctx, id, all, o, false)
	}
	name := reference.FamiliarString(reference.TagNameOnly(named))
	if !o.Force {
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf(
			"conflict: unable to delete %s (must be forced) - container %s is using its referenced image %s",
			name, shortID(users[0].ID), shortID(id.String())))
	}
	if err := s.keepUsed(ctx, img); err != nil {
		return nil, err
	}
	return s.untag(ctx, same)
}

// namedExactly reports whether ref is the record's tag rather than an ID that
// looks alike.
func namedExactly(img images.Image, ref string) bool {
	named, err := reference.ParseNormalizedNamed(ref)
	return err == nil && reference.TagNameOnly(named).String() == img.Name
}

// keepUsed makes the dangling record that a container's image lives on under.
func (s *Service) keepUsed(ctx context.Context, img images.Image) error {
	_, err := s.images().Create(ctx, images.Image{Name: danglingName(img.Target.Digest), Target: img.Target, Labels: img.Labels})
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("keep image %s without a name: %w", img.Target.Digest, err)
	}
	return nil
}

// sameRefs returns those of all records that go when named does: the tag, and
// the digests of a repository that has no other tag. With a digest, all of the
// repository; with nil, those that belong to the first name.
func sameRefs(named reference.Named, all []images.Image) []images.Image {
	tag := ""
	everyTag := false
	if named != nil {
		if _, ok := named.(reference.Digested); ok {
			everyTag = true
		} else if t, ok := reference.TagNameOnly(named).(reference.Tagged); ok {
			tag = t.Tag()
		}
	}
	var same, digests []images.Image
	otherTag := false
	for _, img := range all {
		if isDangling(img) {
			same = append(same, img)
			continue
		}
		n, err := reference.ParseNormalizedNamed(img.Name)
		if err != nil {
			continue
		}
		if named == nil {
			named = n
		}
		if n.Name() != named.Name() {
			continue
		}
		t, tagged := n.(reference.Tagged)
		switch {
		case everyTag:
			same = append(same, img)
		case !tagged:
			digests = append(digests, img)
		case tag == "" || t.Tag() == tag:
			tag = t.Tag()
			same = append(same, img)
		default:
			otherTag = true
		}
	}
	if !otherTag {
		same = append(same, digests...)
	}
	return same
}

// untag deletes records of an image that others keep.
func (s *Service) untag(ctx context.Context, refs []images.Image) ([]image.DeleteResponse, error) {
	out := []image.DeleteResponse{}
	for _, img := range refs {
		if isDangling(img) {
			continue
		}
		if err := s.images().Delete(ctx, img.Name); err != nil && !errdefs.IsNotFound(err) {
			return out, fmt.Errorf("delete image %q: %w", img.Name, err)
		}
		name := familiarName(img)
		s.events(events.ActionUnTag, img.Target.Digest.String(), map[string]string{"name": name})
		out = append(out, image.DeleteResponse{Untagged: name})
	}
	return out, nil
}

// removeAll deletes an image with all its records.
func (s *Service) removeAll(ctx context.Context, id digest.Digest, all []images.Image, o RemoveOptions, several bool) ([]image.DeleteResponse, error) {
	conflict := func(forced, why string) error {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("conflict: unable to delete %s (%s) - %s", shortID(id.String()), forced, why))
	}
	for _, c := range s.inUse(id.String()) {
		if c.Running {
			return nil, conflict("cannot be forced", "image is being used by running container "+shortID(c.ID))
		}
	}
	if users := s.inUse(id.String()); len(users) > 0 && !o.Force {
		return nil, conflict("must be forced", "image is being used by stopped container "+shortID(users[0].ID))
	}
	if several {
		return nil, conflict("must be forced", "image is referenced in multiple repositories")
	}
	parents := s.parents(ctx, all)
	children, err := s.children(ctx, id)
	if err != nil {
		return nil, err
	}
	out := []image.DeleteResponse{}
	if len(children) > 0 {
		// Images built on it need it as a step.
		if err := s.keepUsed(ctx, all[0]); err != nil {
			return nil, err
		}
		return s.untag(ctx, all)
	}
	for i, img := range all {
		var opts []images.DeleteOpt
		if i == len(all)-1 {
			opts = append(opts, images.SynchronousDelete())
		}
		if err := s.images().Delete(ctx, img.Name, opts...); err != nil && !errdefs.IsNotFound(err) {
			return out, fmt.Errorf("delete image %q: %w", img.Name, err)
		}
		if !isDangling(img) {
			name := familiarName(img)
			s.events(events.ActionUnTag, id.String(), map[string]string{"name": name})
			out = append(out, image.DeleteResponse{Untagged: name})
		}
	}
	s.events(events.ActionDelete, id.String(), map[string]string{"name": id.String()})
	out = append(out, image.DeleteResponse{Deleted: id.String()})
	if o.NoPrune {
		return out, nil
	}
	return append(out, s.removeParents(ctx, parents)...), nil
}

// removeParents removes what an image was built on, as long as nothing else
// needs it. It stops at the first that has to stay.
func (s *Service) removeParents(ctx context.Context, parents []digest.Digest) []image.DeleteResponse {
	var out []image.DeleteResponse
	for _, id := range parents {
		all, err := s.byDigest(ctx, id)
		if err != nil || len(all) != 1 || !isDangling(all[0]) || len(s.inUse(id.String())) > 0 {
			return out
		}
		if c, err := s.children(ctx, id); err != nil || len(c) > 0 {
			return out
		}
		if err := s.images().Delete(ctx, all[0].Name, images.SynchronousDelete()); err != nil {
			s.log.Warn("cannot delete parent image", "image", id, "err", err)
			return out
		}
		s.events(events.ActionDelete, id.String(), map[string]string{"name": id.String()})
		out = append(out, image.DeleteResponse{Deleted: id.String()})
	}
	return out
}

// maxParents bounds the chain of parent labels.
const maxParents = 1000

// parents returns the IDs that records say they were built on, nearest first.
func (s *Service) parents(ctx context.Context, all []images.Image) []digest.Digest {
	var out []digest.Digest
	seen := map[digest.Digest]bool{}
	for len(out) < maxParents {
		var next digest.Digest
		for _, img := range all {
			if p := img.Labels[labelParent]; strings.HasPrefix(p, "sha256:") {
				next = digest.Digest(p)
			}
		}
		if next == "" || next.Validate() != nil || seen[next] {
			return out
		}
		seen[next] = true
		out = append(out, next)
		var err error
		if all, err = s.byDigest(ctx, next); err != nil {
			return out
		}
	}
	return out
}

// children returns the records of images built on id.
func (s *Service) children(ctx context.Context, id digest.Digest) ([]images.Image, error) {
	all, err := s.images().List(ctx, fmt.Sprintf("labels.%q==%q", labelParent, id))
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	return all, nil
}

// removePlatforms deletes the content of variants that no other image has.
func (s *Service) removePlatforms(ctx context.Context, img images.Image, ref string, list []ocispec.Platform) ([]image.DeleteResponse, error) {
	out := []image.DeleteResponse{}
	for _, p := range list {
		v, err := s.choose(ctx, img, ref, &p)
		if err != nil {
			return out, err
		}
		id := v.manifest.Desc.Digest
		shared, err := s.contentOfOthers(ctx, id)
		if err != nil {
			return out, err
		}
		blobs := append([]ocispec.Descriptor{v.manifest.Document.Config}, v.manifest.Document.Layers...)
		for _, d := range append(blobs, v.manifest.Desc) {
			if shared[d.Digest] {
				continue
			}
			if err := s.content().Delete(ctx, d.Digest); err != nil && !errdefs.IsNotFound(err) {
				return out, fmt.Errorf("delete platform %s of image %q: %w", platforms.Format(p), ref, err)
			}
			s.cache.drop(d.Digest)
		}
		out = append(out, image.DeleteResponse{Deleted: id.String()})
	}
	return out, nil
}

// contentOfOthers returns the blobs that manifests other than id refer to.
func (s *Service) contentOfOthers(ctx context.Context, id digest.Digest) (map[digest.Digest]bool, error) {
	all, err := s.images().List(ctx)
	if err != nil {
		return nil, err
	}
	used := map[digest.Digest]bool{}
	for _, img := range all {
		manifests, err := cimage.Manifests(ctx, s.cachedContent(), img.Target)
		if err != nil {
			return nil, err
		}
		for _, m := range manifests {
			if m.Desc.Digest == id || !m.Present {
				continue
			}
			used[m.Document.Config.Digest] = true
			for _, l := range m.Document.Layers {
				used[l.Digest] = true
			}
		}
	}
	return used, nil
}
