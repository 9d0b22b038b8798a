package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/auxprogress"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	cimage "lighter/containerd/image"
	registries "lighter/internal/registry"
)

// Push sends the image named ref with tag to its registry; without a tag, all
// tags of the repository that are here. With platform only that variant is
// sent; an index of which only one variant is here is replaced by that variant,
// which an aux message tells.
func (s *Service) Push(ctx context.Context, ref, tag string, platform *ocispec.Platform, auth *registry.AuthConfig, out Progress) error {
	ctx = s.ctx(ctx)
	named, err := transferRef(ref, tag)
	if err != nil {
		return err
	}
	out(jsonstream.Message{Status: "The push refers to repository [" + named.Name() + "]"})
	if !reference.IsNameOnly(named) {
		return s.pushOne(ctx, named, platform, auth, out)
	}
	all, err := s.images().List(ctx)
	if err != nil {
		return err
	}
	found := false
	for _, img := range all {
		n, err := reference.ParseNormalizedNamed(img.Name)
		if err != nil || n.Name() != named.Name() {
			continue
		}
		if _, ok := n.(reference.Tagged); !ok {
			continue
		}
		found = true
		if err := s.pushOne(ctx, n, platform, auth, out); err != nil {
			return err
		}
	}
	if !found {
		return errdefs.ErrNotFound.WithMessage("An image does not exist locally with the tag: " + reference.FamiliarName(named))
	}
	return nil
}

func (s *Service) pushOne(ctx context.Context, named reference.Named, platform *ocispec.Platform, auth *registry.AuthConfig, out Progress) error {
	img, err := s.images().Get(ctx, named.String())
	if errdefs.IsNotFound(err) {
		return errdefs.ErrNotFound.WithMessage("tag does not exist: " + reference.FamiliarString(named))
	}
	if err != nil {
		return err
	}
	target := img.Target
	if platform != nil {
		v, err := s.choose(ctx, img, reference.FamiliarString(named), platform)
		if err != nil {
			return err
		}
		target = v.manifest.Desc
	}
	push := func(target ocispec.Descriptor) error {
		show := &pushMessages{out: out}
		return cimage.Push(ctx, s.svc, named.String(), target, cimage.PushOptions{
			Resolver:   registries.NewResolver(ctx, s.registryOptions(named, auth)),
			MaxUploads: s.settings.Load().MaxUploads,
			Progress:   show.event,
		})
	}
	err = push(target)
	if errors.Is(err, cimage.ErrContentMissing) && platform == nil && images.IsIndexType(target.MediaType) {
		only, oerr := s.onlyVariant(ctx, img)
		if oerr != nil {
			return oerr
		}
		if err = push(only); err == nil {
			err = aux(out, auxprogress.ManifestPushedInsteadOfIndex{
				ManifestPushedInsteadOfIndex: true, OriginalIndex: target, SelectedManifest: only,
			})
			target = only
		}
	}
	if errors.Is(err, cimage.ErrContentMissing) {
		return errors.Join(err, aux(out, auxprogress.ContentMissing{ContentMissing: true, Desc: target}))
	}
	if err != nil {
		return registryError(named, err)
	}
	if t, ok := named.(reference.Tagged); ok {
		out(jsonstream.Message{Status: fmt.Sprintf("%s: digest: %s size: %d", t.Tag(), target.Digest, target.Size)})
	}
	s.event(ctx, events.ActionPush, target, reference.FamiliarString(named), reference.FamiliarName(named))
	return nil
}

// onlyVariant returns the manifest to push in place of an index that is not
// here as a whole.
func (s *Service) onlyVariant(ctx context.Context, img images.Image) (ocispec.Descriptor, error) {
	all, err := s.variants(ctx, img.Target)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	host := platforms.Default()
	var whole []variant
	for _, v := range all {
		ok, err := s.available(ctx, v.manifest)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		if ok {
			whole = append(whole, v)
		}
	}
	if len(whole) == 0 {
		return ocispec.Descriptor{}, errdefs.ErrNotFound.WithMessage("image with reference " + familiarName(img) + " was found but does not provide any platform")
	}
	if len(whole) == 1 {
		return whole[0].manifest.Desc, nil
	}
	for _, v := range whole {
		if host.Match(v.platform) {
			return v.manifest.Desc, nil
		}
	}
	return ocispec.Descriptor{}, errdefs.ErrConflict.WithMessage("multiple matching manifests found but no specific platform requested")
}

// aux sends v as out-of-band data.
func aux(out Progress, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	raw := json.RawMessage(b)
	out(jsonstream.Message{Aux: &raw})
	return nil
}

// pushMessages turns events into Docker's messages.
type pushMessages struct {
	out Progress

	mu   sync.Mutex // guards last, and calls of out
	last map[digest.Digest]time.Time
}

func (p *pushMessages) event(e cimage.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		p.last = map[digest.Digest]time.Time{}
	}
	if images.IsManifestType(e.Desc.MediaType) || images.IsIndexType(e.Desc.MediaType) {
		return
	}
	m := jsonstream.Message{ID: shortID(e.Desc.Digest.String())}
	switch e.Phase {
	case cimage.Waiting:
		m.Status = "Waiting"
	case cimage.Uploading:
		t := time.Now()
		if t.Sub(p.last[e.Desc.Digest]) < progressPause {
			return
		}
		p.last[e.Desc.Digest] = t
		m.Status, m.Progress = "Pushing", &jsonstream.Progress{Current: e.Current, Total: e.Total}
	case cimage.Exists:
		m.Status = "Layer already exists"
	case cimage.Pushed:
		m.Status = "Pushed"
	default:
		return
	}
	p.out(m)
}
