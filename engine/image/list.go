package image

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/image"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	cimage "lighter/containerd/image"
)

// labelParent holds the ID of the image that a committed or built one came from.
const labelParent = "org.mobyproject.image.parent"

// ListOptions select what List returns.
type ListOptions struct {
	All        bool // also intermediate images of builds
	Filters    Filters
	SharedSize bool
	Manifests  bool
}

// List returns the images, newest first, each ID once.
//
// Errors: InvalidArgument for a bad filter; NotFound for an image that a filter
// names.
func (s *Service) List(ctx context.Context, o ListOptions) ([]image.Summary, error) {
	ctx = s.ctx(ctx)
	keep, err := s.filter(ctx, o.Filters, listFilters)
	if err != nil {
		return nil, err
	}
	all, err := s.images().List(ctx)
	if err != nil {
		return nil, err
	}
	parents := map[string]bool{}
	for _, img := range all {
		if p := img.Labels[labelParent]; p != "" {
			parents[p] = true
		}
	}
	byID := map[digest.Digest][]images.Image{}
	var order []digest.Digest
	for _, img := range all {
		id := img.Target.Digest
		if isDangling(img) && !o.All && parents[id.String()] {
			continue
		}
		if !keep(img) {
			continue
		}
		if byID[id] == nil {
			order = append(order, id)
		}
		byID[id] = append(byID[id], img)
	}
	sizes := s.snapshotSizes()
	list := make([]image.Summary, 0, len(order))
	var chains [][]digest.Digest
	for _, id := range order {
		sum, chain, err := s.summary(ctx, byID[id], sizes, o.Manifests)
		if err != nil {
			return nil, err
		}
		list = append(list, sum)
		chains = append(chains, chain)
	}
	if o.SharedSize {
		if err := sharedSizes(ctx, list, chains, sizes); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(list, func(a, b image.Summary) int { return int(min(max(b.Created-a.Created, -1), 1)) })
	return list, nil
}

// summary describes the image of records, which share their target. It also
// returns the chain IDs of all its layers.
func (s *Service) summary(ctx context.Context, records []images.Image, sizes *sizer, manifests bool) (image.Summary, []digest.Digest, error) {
	target := records[0].Target
	sum := image.Summary{
		ID:          target.Digest.String(),
		RepoTags:    tagsOf(records),
		RepoDigests: digestsOf(records),
		Labels:      map[string]string{},
		Descriptor:  &target,
		SharedSize:  -1,
		Containers:  -1,
	}
	for _, r := range records {
		if p := r.Labels[labelParent]; p != "" {
			sum.ParentID = p
		}
	}
	d, err := s.describe(ctx, target, sizes, platforms.Default())
	if err != nil {
		s.log.Warn("cannot read image", "image", target.Digest, "err", err)
		return sum, nil, nil
	}
	sum.Size = d.size
	if manifests {
		sum.Manifests = d.manifests
	}
	if d.best != nil {
		cfg := d.best.config
		if cfg.Created != nil {
			sum.Created = cfg.Created.Unix()
		}
		if cfg.Config.Labels != nil {
			sum.Labels = cfg.Config.Labels
		}
		sum.Containers = int64(len(s.inUse(sum.ID)))
	}
	return sum, d.chains, nil
}

// description is what the manifests of an image amount to.
type description struct {
	manifests []image.ManifestSummary
	chains    []digest.Digest
	size      int64 // of content and snapshots
	best      *variant
}

func (s *Service) describe(ctx context.Context, target ocispec.Descriptor, sizes *sizer, match platforms.MatchComparer) (description, error) {
	var d description
	store := s.cachedContent()
	all, err := cimage.Manifests(ctx, store, target)
	if err != nil {
		return d, err
	}
	for _, m := range all {
		sum := image.ManifestSummary{ID: m.Desc.Digest.String(), Descriptor: m.Desc, Kind: image.ManifestKindUnknown}
		if sum.Available, err = s.available(ctx, m); err != nil {
			return d, err
		}
		if m.Present {
			sum.Size.Content = s.presentSize(ctx, m)
			sum.Size.Total = sum.Size.Content
		}
		switch {
		case cimage.IsAttestation(m.Desc):
			if of, err := digest.Parse(m.Desc.Annotations["vnd.docker.reference.digest"]); err == nil {
				sum.Kind = image.ManifestKindAttestation
				sum.AttestationData = &image.AttestationProperties{For: of}
			}
		case m.Present && !cimage.IsImage(m.Document):
		default:
			sum.Kind = image.ManifestKindImage
			sum.ImageData = &image.ImageProperties{Containers: []string{}}
			if m.Desc.Platform != nil {
				sum.ImageData.Platform = *m.Desc.Platform
			}
			if err := s.describeVariant(ctx, &d, &sum, m, target, sizes, match); err != nil {
				return d, err
			}
		}
		d.size += sum.Size.Total
		d.manifests = append(d.manifests, sum)
	}
	return d, nil
}

func (s *Service) describeVariant(ctx context.Context, d *description, sum *image.ManifestSummary, m cimage.Manifest, target ocispec.Descriptor, sizes *sizer, match platforms.MatchComparer) error {
	if !m.Present {
		return nil
	}
	v := &variant{manifest: m}
	err := cimage.ReadConfig(ctx, s.cachedContent(), m.Document.Config, &v.config)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	v.platform = v.config.Platform
	if m.Desc.Platform != nil {
		v.platform = *m.Desc.Platform
	}
	sum.ImageData.Platform = v.platform
	v.platform = platforms.Normalize(v.platform)
	chains := identity.ChainIDs(slices.Clone(v.config.RootFS.DiffIDs))
	for _, c := range chains {
		n, err := sizes.size(ctx, c)
		if err != nil {
			return err
		}
		sum.ImageData.Size.Unpacked += n
	}
	sum.Size.Total += sum.ImageData.Size.Unpacked
	d.chains = append(d.chains, chains...)
	if !sum.Available {
		return nil
	}
	for _, c := range s.inUse(target.Digest.String()) {
		sum.ImageData.Containers = append(sum.ImageData.Containers, c.ID)
	}
	better := d.best == nil
	if !better {
		mine, theirs := match.Match(v.platform), match.Match(d.best.platform)
		better = mine && !theirs || mine == theirs && match.Less(v.platform, d.best.platform)
	}
	if better {
		d.best = v
	}
	return nil
}

// presentSize sums the blobs of a manifest that are in the store.
func (s *Service) presentSize(ctx context.Context, m cimage.Manifest) int64 {
	total := m.Desc.Size
	seen := map[digest.Digest]bool{}
	for _, d := range append([]ocispec.Descriptor{m.Document.Config}, m.Document.Layers...) {
		if seen[d.Digest] {
			continue
		}
		seen[d.Digest] = true
		if info, err := s.content().Info(ctx, d.Digest); err == nil {
			total += info.Size
		}
	}
	return total
}

// sizer remembers the sizes of snapshots during one request.
type sizer struct {
	s    *Service
	seen map[digest.Digest]int64
}

func (s *Service) snapshotSizes() *sizer { return &sizer{s, map[digest.Digest]int64{}} }

// size returns what the snapshot adds to its parent, 0 for one that is not
// there. Snapshotters keep this number for committed snapshots.
func (z *sizer) size(ctx context.Context, chain digest.Digest) (int64, error) {
	if n, ok := z.seen[chain]; ok {
		return n, nil
	}
	sn := z.s.svc.Snapshotter(z.s.snapshotter)
	if sn == nil {
		return 0, nil
	}
	usage, err := sn.Usage(ctx, chain.String())
	if err != nil && !errdefs.IsNotFound(err) {
		return 0, err
	}
	z.seen[chain] = usage.Size
	return usage.Size, nil
}

// sharedSizes fills in what each image shares with others of the list.
func sharedSizes(ctx context.Context, list []image.Summary, chains [][]digest.Digest, sizes *sizer) error {
	users := map[digest.Digest]int{}
	for _, c := range chains {
		for _, id := range c {
			users[id]++
		}
	}
	for i := range list {
		list[i].SharedSize = 0
		for _, id := range chains[i] {
			if users[id] < 2 {
				continue
			}
			n, err := sizes.size(ctx, id)
			if err != nil {
				return err
			}
			list[i].SharedSize += n
		}
	}
	return nil
}

// InspectOptions qualify Inspect.
type InspectOptions struct {
	Platform  *ocispec.Platform // nil for the variant that Resolve would take
	Manifests bool
}

// Inspect describes one image.
func (s *Service) Inspect(ctx context.Context, ref string, o InspectOptions) (image.InspectResponse, error) {
	ctx = s.ctx(ctx)
	record, err := s.find(ctx, ref)
	if err != nil {
		return image.InspectResponse{}, err
	}
	all, err := s.byDigest(ctx, record.Target.Digest)
	if err != nil {
		return image.InspectResponse{}, err
	}
	match := platforms.Default()
	if o.Platform != nil {
		match = platforms.OnlyStrict(*o.Platform)
	}
	d, err := s.describe(ctx, record.Target, s.snapshotSizes(), match)
	if err != nil {
		return image.InspectResponse{}, err
	}
	target := record.Target
	if o.Platform != nil {
		if d.best == nil || !match.Match(d.best.platform) {
			_, err := s.choose(ctx, record, ref, o.Platform)
			if err == nil {
				err = errdefs.ErrNotFound.WithMessage("image with reference " + ref + " was found but its content is incomplete")
			}
			return image.InspectResponse{}, err
		}
		target = d.best.manifest.Desc
	}
	r := image.InspectResponse{
		ID:          target.Digest.String(),
		RepoTags:    tagsOf(all),
		RepoDigests: digestsOf(all),
		Descriptor:  &target,
		Size:        d.size,
	}
	for _, img := range all {
		if img.UpdatedAt.After(r.Metadata.LastTagTime) {
			r.Metadata.LastTagTime = img.UpdatedAt
		}
	}
	if o.Manifests {
		r.Manifests = d.manifests
	}
	if d.best == nil {
		return r, nil
	}
	cfg := d.best.config
	r.Author, r.Config = cfg.Author, &cfg.Config
	r.Architecture, r.Variant, r.Os, r.OsVersion = cfg.Architecture, cfg.Variant, cfg.OS, cfg.OSVersion
	if n := len(cfg.History); n > 0 {
		r.Comment = cfg.History[n-1].Comment
	}
	if cfg.Created != nil {
		r.Created = cfg.Created.Format(time.RFC3339Nano)
	}
	r.RootFS.Type = cfg.RootFS.Type
	for _, id := range cfg.RootFS.DiffIDs {
		r.RootFS.Layers = append(r.RootFS.Layers, id.String())
	}
	r.Size = s.variantSize(ctx, target, d.best)
	return r, nil
}

// variantSize is the size of the content of one platform, with the documents
// that lead to it.
func (s *Service) variantSize(ctx context.Context, target ocispec.Descriptor, v *variant) int64 {
	total := s.presentSize(ctx, v.manifest)
	if target.Digest != v.manifest.Desc.Digest {
		total += target.Size
	}
	return total
}

// History returns the steps that made the image, newest first.
func (s *Service) History(ctx context.Context, ref string, platform *ocispec.Platform) ([]image.HistoryResponseItem, error) {
	ctx = s.ctx(ctx)
	record, err := s.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	v, err := s.choose(ctx, record, ref, platform)
	if err != nil {
		return nil, err
	}
	chains := identity.ChainIDs(slices.Clone(v.config.RootFS.DiffIDs))
	sizes := s.snapshotSizes()
	items := make([]image.HistoryResponseItem, 0, len(v.config.History))
	for _, h := range v.config.History {
		item := image.HistoryResponseItem{ID: "<missing>", Comment: h.Comment, CreatedBy: h.CreatedBy, Tags: nil}
		if h.Created != nil {
			item.Created = h.Created.Unix()
		}
		if !h.EmptyLayer && len(chains) > 0 {
			if item.Size, err = sizes.size(ctx, chains[0]); err != nil {
				return nil, err
			}
			chains = chains[1:]
		}
		items = append(items, item)
	}
	slices.Reverse(items)
	// The images that are steps of this one are known by their parent labels.
	for i := range items {
		items[i].ID = record.Target.Digest.String()
		all, err := s.byDigest(ctx, record.Target.Digest)
		if err != nil {
			return nil, err
		}
		if tags := tagsOf(all); len(tags) > 0 {
			items[i].Tags = tags
		}
		parent := ""
		for _, img := range all {
			if p := img.Labels[labelParent]; p != "" {
				parent = p
			}
		}
		if !strings.HasPrefix(parent, "sha256:") {
			break
		}
		next, err := s.byDigest(ctx, digest.Digest(parent))
		if err != nil || len(next) == 0 {
			break
		}
		record = next[0]
	}
	return items, nil
}
