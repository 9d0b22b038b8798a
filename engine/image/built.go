package image

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"

	"lighter/internal/buildlink"
)

// RecordBuilt gives an image that a build has stored its names; without one it
// is dangling. An image that had a name before keeps the others, or becomes
// dangling. The caller holds the content until RecordBuilt returns.
func (s *Service) RecordBuilt(ctx context.Context, req buildlink.RecordRequest) error {
	ctx = s.ctx(ctx)
	id := req.Target.Digest
	if err := id.Validate(); err != nil {
		return invalid("%v", err)
	}
	names := []string{danglingName(id)}
	if len(req.Names) > 0 {
		names = req.Names
	} else if all, err := s.byDigest(ctx, id); err != nil || len(all) > 0 {
		return err // it has a name, which is not for a build to take away
	}
	for _, name := range names {
		dangling := len(req.Names) == 0
		if !dangling {
			named, err := reference.ParseNormalizedNamed(name)
			if err != nil {
				return invalid("invalid name %q: %v", name, err)
			}
			name = reference.TagNameOnly(named).String()
		}
		err := s.withLease(ctx, func(ctx context.Context) error {
			return s.record(ctx, images.Image{Name: name, Target: req.Target, Labels: req.Labels})
		})
		if err != nil {
			return fmt.Errorf("record built image: %w", err)
		}
		if dangling {
			s.event(ctx, events.ActionCreate, req.Target, id.String(), "")
		} else {
			s.event(ctx, events.ActionTag, req.Target, id.String(), familiarName(images.Image{Name: name}))
		}
	}
	return nil
}

// ResolveLocal finds an image by name, ID, or the beginning of an ID.
func (s *Service) ResolveLocal(ctx context.Context, ref string) (buildlink.ResolveResponse, error) {
	img, err := s.find(s.ctx(ctx), ref)
	if err != nil {
		return buildlink.ResolveResponse{}, err
	}
	return buildlink.ResolveResponse{Name: img.Name, Target: img.Target, ID: img.Target.Digest}, nil
}
