package image

import (
	"context"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/moby/moby/api/types/events"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Tag gives the image source another name. The name may be that of another
// image, which keeps the names it has left or becomes dangling.
func (s *Service) Tag(ctx context.Context, source, repo, tag string) error {
	ctx = s.ctx(ctx)
	named, err := repoTag(repo, tag)
	if err != nil {
		return err
	}
	if named == nil {
		return invalid("invalid reference format: a repository name is required")
	}
	img, err := s.find(ctx, source)
	if err != nil {
		return err
	}
	err = s.withLease(ctx, func(ctx context.Context) error {
		return s.record(ctx, images.Image{Name: named.String(), Target: img.Target, Labels: img.Labels})
	})
	if err != nil {
		return err
	}
	s.event(ctx, events.ActionTag, img.Target, img.Target.Digest.String(), familiarName(images.Image{Name: named.String()}))
	return nil
}

// event publishes an event about an image with its labels as attributes.
func (s *Service) event(ctx context.Context, action events.Action, target ocispec.Descriptor, id, name string) {
	attrs := map[string]string{}
	if v, err := s.choose(context.WithoutCancel(ctx), images.Image{Target: target}, name, nil); err == nil {
		for k, v := range v.config.Config.Labels {
			attrs[k] = v
		}
	}
	if name != "" {
		attrs["name"] = name
	}
	s.events(action, id, attrs)
}

// shortID is the part of an ID that people read.
func shortID(id string) string {
	if _, hex, ok := strings.Cut(id, ":"); ok {
		id = hex
	}
	return id[:min(12, len(id))]
}
