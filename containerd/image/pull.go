package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"lighter/containerd"
	"lighter/internal/registry"
)

// PullOptions qualify Pull.
type PullOptions struct {
	Resolver remotes.Resolver // required; see package registry
	// Platform is wanted; nil means the host's, for which an image of another
	// platform will do when the reference names nothing else.
	Platform    *ocispec.Platform
	Snapshotter string // "" means containerd.DefaultSnapshotter
	NoUnpack    bool
	// MaxDownloads bounds the layers fetched at once; 0 means 3.
	MaxDownloads int
	// Attempts bounds how often a transfer is tried; 0 means 5.
	Attempts int
	Progress Progress
	// Record writes the image record, under the pull's lease; nil means the
	// package's Record under the name given to Pull.
	Record func(ctx context.Context, r Pulled) error
}

// Pulled is a pulled image.
type Pulled struct {
	Name     string
	Target   ocispec.Descriptor // index or manifest
	Manifest ocispec.Descriptor // of the platform
	ChainID  digest.Digest      // "" if not unpacked or without layers
}

// Pull brings the image ref ("docker.io/library/busybox:latest") into the
// store, unpacks it, and records it. Commit point: Record. A pull that fails
// leaves parts that the next one resumes from, until the collector takes them.
//
// Errors: NotFound when the registry has no such image or none for the
// platform; Unauthenticated and PermissionDenied from the registry;
// InvalidArgument for an image that is malformed.
func Pull(ctx context.Context, svc *containerd.Services, ref string, o PullOptions) (Pulled, error) {
	ctx, release, err := withLease(ctx, svc) // outlives the process: the next pull goes on
	if err != nil {
		return Pulled{}, fmt.Errorf("pull %q: %w", ref, err)
	}
	ctx = registry.Silent(ctx)
	p, err := pull(ctx, svc, ref, o)
	if err != nil {
		err = fmt.Errorf("pull %q: %w", ref, err)
	}
	return p, errors.Join(err, release())
}

func pull(ctx context.Context, svc *containerd.Services, ref string, o PullOptions) (Pulled, error) {
	progress := serial(o.Progress)
	name, target, err := o.Resolver.Resolve(ctx, ref)
	if err != nil {
		return Pulled{}, err
	}
	remote, err := o.Resolver.Fetcher(ctx, name)
	if err != nil {
		return Pulled{}, err
	}
	target = ocispec.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size: target.Size}
	progress(Event{Phase: Resolved, Desc: target})
	f := &fetcher{svc: svc, remote: remote, labels: sourceLabel(ref), progress: progress, attempts: o.Attempts}
	m, desc, err := f.choose(ctx, target, o.Platform)
	if err != nil {
		return Pulled{}, err
	}
	progress(Event{Phase: Selected, Desc: desc})
	p := Pulled{Name: ref, Target: target, Manifest: desc}
	if p.ChainID, err = f.image(ctx, m, o); err != nil {
		return Pulled{}, err
	}
	if o.Record != nil {
		return p, o.Record(ctx, p)
	}
	_, err = Record(ctx, svc, images.Image{Name: ref, Target: target})
	return p, err
}

// sourceLabel says which repository blobs come from, for mounting across
// repositories when they are pushed.
func sourceLabel(ref string) map[string]string {
	host, repo, ok := strings.Cut(ref, "/")
	if !ok {
		return nil
	}
	repo, _, _ = strings.Cut(repo, "@")
	if i := strings.LastIndexByte(repo, ':'); i > strings.LastIndexByte(repo, '/') {
		repo = repo[:i]
	}
	return map[string]string{"containerd.io/distribution.source." + host: repo}
}

// choose fetches indexes until the manifest for the platform.
func (f *fetcher) choose(ctx context.Context, target ocispec.Descriptor, platform *ocispec.Platform) (ocispec.Manifest, ocispec.Descriptor, error) {
	match := platforms.Default()
	if platform != nil {
		match = platforms.Only(*platform)
	}
	budget := maxManifests
	seen := map[digest.Digest]bool{}
	var visit func(d ocispec.Descriptor, depth int) (*ocispec.Manifest, ocispec.Descriptor, error)
	visit = func(d ocispec.Descriptor, depth int) (*ocispec.Manifest, ocispec.Descriptor, error) {
		if budget--; budget < 0 || depth > maxDepth {
			return nil, d, invalid("index %s refers to too many manifests", target.Digest)
		}
		if seen[d.Digest] {
			return nil, d, nil
		}
		seen[d.Digest] = true
		doc, err := f.document(ctx, d)
		if err != nil {
			return nil, d, err
		}
		if doc.Manifest != nil {
			ok, err := f.suits(ctx, d, *doc.Manifest, match, depth == 0 && platform == nil)
			if err != nil || !ok {
				return nil, d, err
			}
			return doc.Manifest, d, nil
		}
		for _, c := range sortByPlatform(doc.Index.Manifests, match) {
			if !images.IsManifestType(c.MediaType) && !images.IsIndexType(c.MediaType) {
				continue
			}
			if m, d, err := visit(c, depth+1); err != nil || m != nil {
				return m, d, err
			}
		}
		return nil, d, nil
	}
	m, desc, err := visit(target, 0)
	if err != nil {
		return ocispec.Manifest{}, desc, err
	}
	if m == nil {
		want := platforms.DefaultSpec()
		if platform != nil {
			want = *platform
		}
		return ocispec.Manifest{}, desc, fmt.Errorf("no matching manifest for %s in the manifest list entries: %w", platforms.FormatAll(want), errdefs.ErrNotFound)
	}
	return *m, desc, nil
}

// suits reports whether the manifest is an image for the platform. One whose
// platform the index has stated is believed; any will do if nothing else can.
func (f *fetcher) suits(ctx context.Context, d ocispec.Descriptor, m ocispec.Manifest, match platforms.Matcher, any bool) (bool, error) {
	if !IsImage(m) {
		if any {
			return false, invalid("unsupported media type %q: the manifest does not describe an image", m.Config.MediaType)
		}
		return false, nil
	}
	if d.Platform != nil || any {
		return true, nil
	}
	b, err := f.small(ctx, m.Config)
	if err != nil {
		return false, err
	}
	var cfg ocispec.Image
	if err := strictJSON(b, &cfg); err != nil {
		return false, fmt.Errorf("parse config %s: %w", m.Config.Digest, err)
	}
	return match.Match(platforms.Normalize(cfg.Platform)), nil
}

// image fetches config and layers of a manifest, and unpacks the layers while
// they arrive.
func (f *fetcher) image(ctx context.Context, m ocispec.Manifest, o PullOptions) (chain digest.Digest, err error) {
	raw, err := f.small(ctx, m.Config)
	if err != nil {
		return "", err
	}
	var cfg ocispec.Image
	if err := strictJSON(raw, &cfg); err != nil {
		return "", fmt.Errorf("parse config %s: %w", m.Config.Digest, err)
	}
	if err := checkConfig(cfg, m); err != nil {
		return "", err
	}
	if err := f.store(ctx, m.Config, raw, nil); err != nil {
		return "", err
	}
	for _, l := range m.Layers {
		f.progress(Event{Phase: Waiting, Desc: l, Total: l.Size})
	}
	limit := o.MaxDownloads
	if limit <= 0 {
		limit = 3
	}
	src := newArrivingLayers(f, m.Layers)
	defer src.close()
	group, ctx := errgroup.WithContext(ctx)
	if !o.NoUnpack {
		group.Go(func() (err error) {
			u := unpacker{svc: f.svc, name: o.Snapshotter, progress: f.progress}
			chain, err = u.layers(ctx, m, cfg.RootFS.DiffIDs, src)
			return err
		})
	}
	slots := make(chan struct{}, limit) // one value per running download
	for _, l := range src.distinct {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return "", errors.Join(context.Cause(ctx), group.Wait())
		}
		group.Go(func() error {
			defer func() { <-slots }()
			return f.blob(ctx, l, src.arrivals[l.Digest])
		})
	}
	err = group.Wait()
	return chain, err
}

// arrivingLayers are the layers of an image that is being fetched.
type arrivingLayers struct {
	layers   []ocispec.Descriptor
	distinct []ocispec.Descriptor // each blob once, in the order of layers
	arrivals map[digest.Digest]*arrival
	store    storedLayers
}

func newArrivingLayers(f *fetcher, layers []ocispec.Descriptor) *arrivingLayers {
	a := &arrivingLayers{layers: layers, arrivals: map[digest.Digest]*arrival{}, store: storedLayers{f.svc.Content, layers}}
	for _, l := range layers {
		if a.arrivals[l.Digest] == nil {
			a.arrivals[l.Digest] = newArrival()
			a.distinct = append(a.distinct, l)
		}
	}
	return a
}

func (a *arrivingLayers) open(ctx context.Context, i int) (io.ReadCloser, error) {
	r, err := a.arrivals[a.layers[i].Digest].reader(ctx)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return a.store.open(ctx, i)
	}
	return io.NopCloser(r), nil
}

func (a *arrivingLayers) stored(ctx context.Context, i int) error {
	return a.arrivals[a.layers[i].Digest].wait(ctx)
}

func (a *arrivingLayers) close() {
	for _, x := range a.arrivals {
		x.close()
	}
}
