package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	cimage "lighter/containerd/image"
)

// danglingPrefix begins the names of records for images without a tag.
const danglingPrefix = "moby-dangling@"

func danglingName(d digest.Digest) string { return danglingPrefix + d.String() }

func isDangling(img images.Image) bool { return img.Name == danglingName(img.Target.Digest) }

// invalid returns an InvalidArgument error.
func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// noSuchImage is Docker's error for an image that does not exist.
func noSuchImage(ref reference.Reference) error {
	if named, ok := ref.(reference.Named); ok {
		return errdefs.ErrNotFound.WithMessage("No such image: " + reference.FamiliarString(reference.TagNameOnly(named)))
	}
	return errdefs.ErrNotFound.WithMessage("No such image: " + ref.String())
}

// parseAny parses a reference or ID as users write them.
func parseAny(ref string) (reference.Reference, error) {
	parsed, err := reference.ParseAnyReference(ref)
	if err != nil {
		return nil, invalid("%s", err)
	}
	return parsed, nil
}

// hexPrefix returns ref without "sha256:" if it may be an ID or the beginning of
// one, else "".
func hexPrefix(ref string) string {
	hex := strings.TrimPrefix(ref, "sha256:")
	if len(hex) < 4 || len(hex) > 64 {
		return ""
	}
	for _, c := range hex {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
	}
	return hex
}

// isIDPrefix reports whether ref is the ID or the beginning of it.
func isIDPrefix(id digest.Digest, ref string) bool {
	return ref != "" && (strings.HasPrefix(id.String(), ref) || strings.HasPrefix(id.Encoded(), ref))
}

// byDigest returns the records that target d, by name.
func (s *Service) byDigest(ctx context.Context, d digest.Digest) ([]images.Image, error) {
	all, err := s.images().List(ctx, "target.digest=="+d.String())
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	return all, nil
}

// byPrefix returns the records whose ID begins with hex.
func (s *Service) byPrefix(ctx context.Context, hex string) ([]images.Image, error) {
	all, err := s.images().List(ctx, "target.digest~="+strconv.Quote("^sha256:"+hex))
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	return all, nil
}

// find returns the record that ref names: by tag, by digest, or by ID or its
// beginning. A tag that looks like an ID comes first.
//
// Errors: InvalidArgument for a malformed reference, NotFound.
func (s *Service) find(ctx context.Context, ref string) (images.Image, error) {
	if strings.HasPrefix(ref, danglingPrefix) {
		img, err := s.images().Get(ctx, ref)
		if errdefs.IsNotFound(err) {
			return img, errdefs.ErrNotFound.WithMessage("No such image: " + ref)
		}
		return img, err
	}
	parsed, err := parseAny(ref)
	if err != nil {
		return images.Image{}, err
	}
	if digested, ok := parsed.(reference.Digested); ok {
		all, err := s.byDigest(ctx, digested.Digest())
		if err != nil {
			return images.Image{}, err
		}
		named, isNamed := parsed.(reference.Named)
		for _, img := range all {
			if !isNamed {
				return img, nil
			}
			// Another repository's image does not count, be it the same.
			if n, err := reference.ParseNormalizedNamed(img.Name); err == nil && n.Name() == named.Name() {
				return img, nil
			}
		}
		return images.Image{}, noSuchImage(parsed)
	}
	name := reference.TagNameOnly(parsed.(reference.Named)).String()
	img, err := s.images().Get(ctx, name)
	if err == nil || !errdefs.IsNotFound(err) {
		return img, err
	}
	if hex := hexPrefix(ref); hex != "" {
		all, err := s.byPrefix(ctx, hex)
		if err != nil {
			return images.Image{}, err
		}
		for _, img := range all {
			if img.Target.Digest != all[0].Target.Digest {
				return images.Image{}, errdefs.ErrNotFound.WithMessage("ambiguous reference: " + ref)
			}
		}
		if len(all) > 0 {
			return all[0], nil
		}
	}
	return images.Image{}, noSuchImage(parsed)
}

// variant is the manifest of an image for one platform.
type variant struct {
	manifest cimage.Manifest
	config   dockerspec.DockerOCIImage
	platform ocispec.Platform
}

// variants returns the image manifests of target whose config is in the store.
func (s *Service) variants(ctx context.Context, target ocispec.Descriptor) ([]variant, error) {
	store := s.cachedContent()
	all, err := cimage.Manifests(ctx, store, target)
	if err != nil {
		return nil, err
	}
	var out []variant
	for _, m := range all {
		if !m.Present || !cimage.IsImage(m.Document) || cimage.IsAttestation(m.Desc) {
			continue
		}
		v := variant{manifest: m}
		err := cimage.ReadConfig(ctx, store, m.Document.Config, &v.config)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		v.platform = v.config.Platform
		if m.Desc.Platform != nil {
			v.platform = *m.Desc.Platform
		}
		v.platform = platforms.Normalize(v.platform)
		out = append(out, v)
	}
	return out, nil
}

// choose returns the variant for platform; with nil the one for the host, or any
// if there is none.
func (s *Service) choose(ctx context.Context, img images.Image, ref string, platform *ocispec.Platform) (variant, error) {
	all, err := s.variants(ctx, img.Target)
	if err != nil {
		return variant{}, err
	}
	match := platforms.Default()
	if platform != nil {
		match = platforms.OnlyStrict(*platform)
	}
	slices.SortStableFunc(all, func(a, b variant) int {
		switch am, bm := match.Match(a.platform), match.Match(b.platform); {
		case am != bm && am:
			return -1
		case am != bm:
			return 1
		case match.Less(a.platform, b.platform):
			return -1
		case match.Less(b.platform, a.platform):
			return 1
		}
		return 0
	})
	if len(all) > 0 && (platform == nil || match.Match(all[0].platform)) {
		return all[0], nil
	}
	msg := "image with reference " + ref + " was found but "
	if platform != nil {
		msg += "does not provide the specified platform (" + platforms.FormatAll(*platform) + ")"
	} else {
		msg += "does not provide any platform"
	}
	return variant{}, errdefs.ErrNotFound.WithMessage(msg)
}

// available reports whether all content of a manifest is in the store.
func (s *Service) available(ctx context.Context, m cimage.Manifest) (bool, error) {
	if !m.Present {
		return false, nil
	}
	for _, d := range append([]ocispec.Descriptor{m.Document.Config}, m.Document.Layers...) {
		if images.IsNonDistributable(d.MediaType) {
			continue
		}
		if _, err := s.content().Info(ctx, d.Digest); err != nil {
			if errdefs.IsNotFound(err) {
				return false, nil
			}
			return false, err
		}
	}
	return true, nil
}

// chainID returns the name of the snapshot that holds all layers, "" for none.
func chainID(diffIDs []digest.Digest) digest.Digest {
	return identity.ChainID(slices.Clone(diffIDs))
}

// Resolve finds the image ref for the creation of a container. With platform nil
// the host's variant is preferred, and any is taken.
//
// Errors: InvalidArgument for a malformed reference; NotFound with Docker's text
// for an image or platform that is not there.
func (s *Service) Resolve(ctx context.Context, ref string, platform *ocispec.Platform) (Image, error) {
	ctx = s.ctx(ctx)
	record, err := s.find(ctx, ref)
	if err != nil {
		return Image{}, err
	}
	v, err := s.choose(ctx, record, ref, platform)
	if err != nil {
		return Image{}, err
	}
	img := Image{
		ID:          record.Target.Digest,
		Name:        record.Name,
		Target:      record.Target,
		Manifest:    v.manifest.Desc,
		Config:      v.config,
		Platform:    v.platform,
		ChainID:     chainID(v.config.RootFS.DiffIDs),
		Snapshotter: s.snapshotter,
		Labels:      record.Labels,
	}
	if isDangling(record) || isIDPrefix(img.ID, ref) {
		img.Name = ""
	}
	all, err := s.byDigest(ctx, img.ID)
	if err != nil {
		return Image{}, err
	}
	img.Names = tagsOf(all)
	img.Unpacked = true
	if img.ChainID != "" {
		sn := s.svc.Snapshotter(s.snapshotter)
		if sn == nil {
			return Image{}, fmt.Errorf("snapshotter %q: %w", s.snapshotter, errdefs.ErrNotFound)
		}
		_, err := sn.Stat(ctx, img.ChainID.String())
		if err != nil && !errdefs.IsNotFound(err) {
			return Image{}, fmt.Errorf("stat snapshot %q: %w", img.ChainID, err)
		}
		img.Unpacked = err == nil
	}
	return img, nil
}

// Unpack makes the snapshots of img, so that a container can be made on top of
// ChainID.
func (s *Service) Unpack(ctx context.Context, img Image) error {
	_, err := cimage.Unpack(s.ctx(ctx), s.svc, img.Manifest, s.snapshotter, nil)
	return err
}

// tagsOf returns the familiar names of records that have a tag or digest.
func tagsOf(all []images.Image) []string {
	tags := make([]string, 0, len(all))
	for _, img := range all {
		if !isDangling(img) {
			tags = append(tags, familiarName(img))
		}
	}
	return unique(tags)
}

// digestsOf returns the names of records with their digest instead of a tag.
func digestsOf(all []images.Image) []string {
	digests := make([]string, 0, len(all))
	for _, img := range all {
		if isDangling(img) {
			continue
		}
		named, err := reference.ParseNormalizedNamed(img.Name)
		if err != nil {
			continue
		}
		if _, ok := named.(reference.Digested); !ok {
			if named, err = reference.WithDigest(reference.TrimNamed(named), img.Target.Digest); err != nil {
				continue
			}
		}
		digests = append(digests, reference.FamiliarString(named))
	}
	return unique(digests)
}

func unique(list []string) []string {
	seen := map[string]bool{}
	return slices.DeleteFunc(list, func(s string) bool {
		dup := seen[s]
		seen[s] = true
		return dup
	})
}

// familiarName is the record's name as users write it, its ID when dangling.
func familiarName(img images.Image) string {
	if isDangling(img) {
		return img.Target.Digest.String()
	}
	if named, err := reference.ParseNormalizedNamed(img.Name); err == nil {
		return reference.FamiliarString(named)
	}
	return img.Name
}

// repoTag parses the "repo" and "tag" of a request into a name with a tag, as
// Docker does; with an empty repo it returns nil.
func repoTag(repo, tag string) (reference.Named, error) {
	if repo == "" {
		return nil, nil
	}
	named, err := reference.ParseNormalizedNamed(repo)
	if err != nil {
		return nil, invalid("%s", err)
	}
	if _, ok := named.(reference.Digested); ok {
		return nil, invalid("cannot import digest reference")
	}
	if tag != "" {
		if named, err = reference.WithTag(reference.TrimNamed(named), tag); err != nil {
			return nil, invalid("%s", err)
		}
	}
	if reference.FamiliarName(named) == string(digest.Canonical) {
		return nil, invalid("refusing to create an ambiguous tag using digest algorithm as name")
	}
	return reference.TagNameOnly(named), nil
}

// record names a target, which takes the name from another image; that is kept
// as dangling if it has no other name. A dangling record of the target goes.
// Commit point: the record.
func (s *Service) record(ctx context.Context, img images.Image) error {
	old, err := s.images().Get(ctx, img.Name)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("look up image %q: %w", img.Name, err)
	}
	if err == nil && old.Target.Digest != img.Target.Digest {
		if err := s.keep(ctx, old); err != nil {
			return err
		}
	}
	if _, err := cimage.Record(ctx, s.svc, img); err != nil {
		return err
	}
	if isDangling(img) {
		return nil
	}
	err = s.images().Delete(context.WithoutCancel(ctx), danglingName(img.Target.Digest))
	if err != nil && !errdefs.IsNotFound(err) {
		s.log.Warn("cannot delete dangling record of a named image", "image", img.Name, "err", err)
	}
	return nil
}

// keep makes a dangling record for an image about to lose the name of img,
// unless it has another.
func (s *Service) keep(ctx context.Context, img images.Image) error {
	all, err := s.byDigest(ctx, img.Target.Digest)
	if err != nil {
		return err
	}
	if len(all) > 1 {
		return nil
	}
	labels := map[string]string{}
	for k, v := range img.Labels {
		if k != images.AnnotationImageName && k != ocispec.AnnotationRefName {
			labels[k] = v
		}
	}
	_, err = s.images().Create(ctx, images.Image{Name: danglingName(img.Target.Digest), Target: img.Target, Labels: labels})
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("keep image %s without a name: %w", img.Target.Digest, err)
	}
	return nil
}

// withLease runs f with ctx under a lease.
func (s *Service) withLease(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, release, err := cimage.WithLease(ctx, s.svc)
	if err != nil {
		return err
	}
	return errors.Join(f(ctx), release())
}
