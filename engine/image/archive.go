package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	cimage "lighter/containerd/image"
)

// Load stores the images of an archive of docker save or in the OCI layout, and
// unpacks their variants for the host, or for the given platforms, which each
// image must have then. quiet is accepted as in Docker: nothing but the names
// is reported either way. r is read to its end.
func (s *Service) Load(ctx context.Context, r io.Reader, want []ocispec.Platform, quiet bool, out Progress) error {
	return s.withLease(s.ctx(ctx), func(ctx context.Context) error {
		loaded, err := cimage.Import(ctx, s.svc, r)
		if err != nil {
			return err
		}
		for _, l := range loaded {
			if err := s.loadOne(ctx, l, want, out); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Service) loadOne(ctx context.Context, l cimage.Loaded, want []ocispec.Platform, out Progress) error {
	variants, err := s.variants(ctx, l.Target)
	if err != nil {
		return err
	}
	var unpack []variant
	for _, v := range variants {
		ok, err := s.available(ctx, v.manifest)
		if err != nil {
			return err
		}
		match := platforms.Default().Match(v.platform)
		if len(want) > 0 {
			match = slices.ContainsFunc(want, func(p ocispec.Platform) bool { return platforms.OnlyStrict(p).Match(v.platform) })
		}
		if ok && match {
			unpack = append(unpack, v)
		}
	}
	for _, p := range want {
		if !slices.ContainsFunc(unpack, func(v variant) bool { return platforms.OnlyStrict(p).Match(v.platform) }) {
			return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("requested platform (%s) not found: image %s does not provide it",
				platforms.FormatAll(p), l.Target.Digest))
		}
	}
	var lines []string
	for _, name := range l.Names {
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			continue // the image is kept without the name
		}
		named = reference.TagNameOnly(named)
		if err := s.record(ctx, images.Image{Name: named.String(), Target: l.Target}); err != nil {
			return err
		}
		lines = append(lines, "Loaded image: "+reference.FamiliarString(named))
	}
	if len(lines) == 0 {
		all, err := s.byDigest(ctx, l.Target.Digest)
		if err != nil {
			return err
		}
		if len(all) == 0 {
			if err := s.record(ctx, images.Image{Name: danglingName(l.Target.Digest), Target: l.Target}); err != nil {
				return err
			}
		}
		lines = append(lines, "Loaded image ID: "+l.Target.Digest.String())
	}
	// The image is there now; that it cannot be unpacked does not undo that.
	var failed error
	for _, v := range unpack {
		if _, err := cimage.Unpack(ctx, s.svc, v.manifest.Desc, s.snapshotter, nil); err != nil {
			if ctx.Err() != nil {
				return err
			}
			failed = errors.Join(failed, err)
		}
	}
	for _, line := range lines {
		out(jsonstream.Message{Stream: line + "\n"})
	}
	if failed != nil {
		out(jsonstream.Message{Stream: fmt.Sprintf("Error unpacking image %s: %v\n", l.Target.Digest, failed)})
	}
	id := l.Target.Digest.String()
	s.event(ctx, events.ActionLoad, l.Target, id, id)
	return nil
}

// Save writes the named images to w as an archive that Load and older engines
// read. A name without a tag means all tags of the repository, an ID saves the
// image without a name. With want only those variants are saved.
func (s *Service) Save(ctx context.Context, names []string, want []ocispec.Platform, w io.Writer) error {
	return s.withLease(s.ctx(ctx), func(ctx context.Context) error {
		var list []cimage.Exported
		var targets []ocispec.Descriptor
		add := func(img images.Image, name string) error {
			exported, err := s.exported(ctx, img, name, want)
			if err != nil {
				return err
			}
			for _, e := range exported {
				i := slices.IndexFunc(list, func(x cimage.Exported) bool { return x.Target.Digest == e.Target.Digest })
				if i < 0 {
					list = append(list, e)
				} else {
					list[i].Names = unique(append(list[i].Names, e.Names...))
				}
			}
			targets = append(targets, img.Target)
			return nil
		}
		for _, name := range names {
			if err := s.selectSaved(ctx, name, add); err != nil {
				return err
			}
		}
		match := platforms.Default()
		if len(want) > 0 {
			match = platforms.Any(want...)
		}
		if err := cimage.Export(ctx, s.content(), w, list, match); err != nil {
			return err
		}
		for _, t := range targets {
			s.event(ctx, events.ActionSave, t, t.Digest.String(), t.Digest.String())
		}
		return nil
	})
}

// selectSaved calls add for the images that an argument of docker save names.
func (s *Service) selectSaved(ctx context.Context, ref string, add func(img images.Image, name string) error) error {
	img, err := s.find(ctx, ref)
	byID := err == nil && isIDPrefix(img.Target.Digest, ref) && !namedExactly(img, ref)
	named, perr := reference.ParseNormalizedNamed(ref)
	if perr == nil && reference.IsNameOnly(named) && !byID {
		all, lerr := s.images().List(ctx)
		if lerr != nil {
			return lerr
		}
		found := false
		for _, img := range all {
			n, nerr := reference.ParseNormalizedNamed(img.Name)
			if nerr != nil || n.Name() != named.Name() {
				continue
			}
			if _, tagged := n.(reference.Tagged); !tagged {
				continue
			}
			found = true
			if err := add(img, img.Name); err != nil {
				return err
			}
		}
		if found {
			return nil
		}
	}
	if err != nil {
		return err
	}
	name := img.Name
	if byID || isDangling(img) || strings.Contains(ref, "@") {
		name = ""
	}
	return add(img, name)
}

// exported returns what to save of an image: its target, or its variants for
// the wanted platforms.
func (s *Service) exported(ctx context.Context, img images.Image, name string, want []ocispec.Platform) ([]cimage.Exported, error) {
	var names []string
	if name != "" {
		names = []string{name}
	}
	if len(want) == 0 {
		return []cimage.Exported{{Target: img.Target, Names: names}}, nil
	}
	var out []cimage.Exported
	for _, p := range want {
		v, err := s.choose(ctx, img, familiarName(img), &p)
		if err != nil {
			return nil, err
		}
		out = append(out, cimage.Exported{Target: v.manifest.Desc, Names: names})
	}
	return out, nil
}
