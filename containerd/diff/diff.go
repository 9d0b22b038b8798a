// Package diff applies layers to mounts and computes layers from them.
//
// No mount(2) is made in the host's namespace. A layer for an overlay mount is
// put straight into its upper directory, in overlayfs's own form, and read from
// there; a bind mount is worked on where its source is. Only a comparison of
// two unrelated overlays needs their merged views, for which detached mounts are
// made that disappear with their descriptors.
package diff

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"os"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"lighter/containerd"
	"lighter/internal/compression"
	"lighter/internal/tarball"
)

// LabelUncompressed holds the digest of a compressed layer's tar, its diff ID.
const LabelUncompressed = "containerd.io/uncompressed"

// maxLayerBytes bounds the decompressed size of a layer with all its padding.
const maxLayerBytes = tarball.DefaultMaxBytes

// Service implements diff.Applier and diff.Comparer over a content store. It is
// safe for concurrent use.
type Service struct {
	store content.Store
	log   *slog.Logger
}

var (
	_ diff.Applier          = (*Service)(nil)
	_ diff.Comparer         = (*Service)(nil)
	_ containerd.StreamDiff = (*Service)(nil)
)

// New returns a Service that reads layers from and writes them to store.
func New(store content.Store, log *slog.Logger) *Service {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Service{store: store, log: log.With("component", "diff")}
}

// Apply extracts the layer desc into mounts, of which there must be one, an
// overlay or a bind mount that is writable. It returns the descriptor of the
// uncompressed layer, whose digest, the diff ID, covers every byte of the
// decompressed stream. A failure leaves what was extracted so far.
//
// Errors: NotFound for missing content; NotImplemented for other media types
// and mounts; InvalidArgument for a layer that is broken, hostile or too large.
func (s *Service) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (_ ocispec.Descriptor, err error) {
	var cfg diff.ApplyConfig
	for _, opt := range opts {
		if err := opt(ctx, desc, &cfg); err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("apply layer %s: %w", desc.Digest, err)
		}
	}
	fail := func(err error) (ocispec.Descriptor, error) {
		return ocispec.Descriptor{}, fmt.Errorf("apply layer %s: %w", desc.Digest, err)
	}
	if _, err := images.DiffCompression(ctx, desc.MediaType); err != nil {
		return fail(err)
	}
	if len(cfg.ProcessorPayloads) > 0 {
		return fail(fmt.Errorf("stream processors: %w", errdefs.ErrNotImplemented))
	}
	ra, err := s.store.ReaderAt(ctx, desc)
	if err != nil {
		return fail(err)
	}
	defer ra.Close()
	plain, err := s.apply(ctx, desc, content.NewReader(ra), mounts, containerd.StreamOptions{Progress: cfg.Progress}, cfg.SyncFs)
	if err != nil {
		return fail(err)
	}
	return plain, nil
}

// ApplyStream implements containerd.StreamDiff.
func (s *Service) ApplyStream(ctx context.Context, desc ocispec.Descriptor, r io.Reader, mounts []mount.Mount, o containerd.StreamOptions) (ocispec.Descriptor, error) {
	_, err := images.DiffCompression(ctx, desc.MediaType)
	plain := ocispec.Descriptor{}
	if err == nil {
		plain, err = s.apply(ctx, desc, r, mounts, o, false)
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("apply layer %s: %w", desc.Digest, err)
	}
	return plain, nil
}

func (s *Service) apply(ctx context.Context, desc ocispec.Descriptor, r io.Reader, mounts []mount.Mount, o containerd.StreamOptions, syncFs bool) (_ ocispec.Descriptor, err error) {
	fail := func(err error) (ocispec.Descriptor, error) { return ocispec.Descriptor{}, err }
	target, err := openTarget(mounts)
	if err != nil {
		return fail(err)
	}
	defer target.Close()
	if o.Progress == nil {
		o.Progress = func(int64) {}
	}
	o.Progress(0)
	src := &countingReader{r: r, progress: o.Progress}
	plain, _, err := compression.NewReader(src)
	if err != nil {
		return fail(err)
	}
	defer plain.Close()
	sum := newHasher(compression.ReadAhead(io.LimitReader(plain, maxLayerBytes+1)))
	defer sum.Close()
	stats, err := tarball.Extract(ctx, target.root, sum, target.options(ctx, o.Lower))
	if err == nil {
		// The digest covers the padding after the end marker as well.
		_, err = io.Copy(io.Discard, contextReader{ctx, sum})
	}
	if err == nil && sum.n > maxLayerBytes {
		err = fmt.Errorf("%w: decompresses to more than %d bytes", errdefs.ErrInvalidArgument, int64(maxLayerBytes))
	}
	if err != nil {
		return fail(err)
	}
	if stats.SkippedXattrs > 0 {
		s.log.Warn("file system does not support extended attributes of layer", "digest", desc.Digest, "skipped", stats.SkippedXattrs)
	}
	if syncFs {
		if err := target.sync(); err != nil {
			return fail(err)
		}
	}
	o.Progress(desc.Size)
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayer,
		Size:      sum.n,
		Digest:    digest.NewDigest(digest.SHA256, sum.h),
	}, nil
}

// sync makes what was extracted durable.
func (t *target) sync() error {
	f, err := os.Open(t.path) // syncfs does not take a descriptor for paths only
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd())))
}

type countingReader struct {
	r        io.Reader
	n        int64
	progress func(int64)
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.progress(c.n)
	return n, err
}

// hasher is a ReadCloser that hashes what is read.
type hasher struct {
	io.ReadCloser
	h hash.Hash
	n int64
}

func newHasher(r io.ReadCloser) *hasher { return &hasher{ReadCloser: r, h: sha256.New()} }

func (s *hasher) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	s.h.Write(p[:n])
	s.n += int64(n)
	return n, err
}

// contextReader ends a long read when its operation does.
type contextReader struct {
	ctx context.Context // of the call that reads
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// Compare writes the layer that makes upper out of lower, both single overlay or
// bind mounts, lower possibly none, into the content store. Media types without
// a compression, with gzip (the default) and with zstd are known. The layer
// carries the given labels and LabelUncompressed.
//
// Errors: NotImplemented for other media types and mounts.
func (s *Service) Compare(ctx context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (ocispec.Descriptor, error) {
	desc, err := s.compare(ctx, lower, upper, opts)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("compare mounts: %w", err)
	}
	return desc, nil
}

func (s *Service) compare(ctx context.Context, lower, upper []mount.Mount, opts []diff.Opt) (_ ocispec.Descriptor, err error) {
	var cfg diff.Config
	for _, opt := range opts {
		if err := opt(&cfg); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	if cfg.MediaType == "" {
		if cfg.Compressor != nil {
			return ocispec.Descriptor{}, fmt.Errorf("a compressor needs a media type: %w", errdefs.ErrInvalidArgument)
		}
		cfg.MediaType = ocispec.MediaTypeImageLayerGzip
	}
	kind, err := compressionOf(cfg.MediaType)
	if err != nil && cfg.Compressor == nil {
		return ocispec.Descriptor{}, err
	}
	random := cfg.Reference == ""
	if random {
		cfg.Reference = "diff-" + uniqueID()
	}
	w, err := content.OpenWriter(ctx, s.store, content.WithRef(cfg.Reference), content.WithDescriptor(ocispec.Descriptor{MediaType: cfg.MediaType}))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer func() {
		w.Close()
		if err != nil && random {
			if aerr := s.store.Abort(context.WithoutCancel(ctx), cfg.Reference); aerr != nil && !errdefs.IsNotFound(aerr) {
				s.log.Warn("cannot abort ingest of layer", "ref", cfg.Reference, "err", aerr)
			}
		}
	}()
	if err := w.Truncate(0); err != nil {
		return ocispec.Descriptor{}, err
	}
	var zw io.WriteCloser
	if cfg.Compressor != nil {
		zw, err = cfg.Compressor(w, cfg.MediaType)
	} else {
		zw, err = compression.NewWriter(w, kind)
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	sum := sha256.New()
	if err := writeDiff(ctx, io.MultiWriter(zw, sum), lower, upper, tarball.WriterOptions{Latest: cfg.SourceDateEpoch}); err != nil {
		return ocispec.Descriptor{}, errors.Join(err, zw.Close())
	}
	if err := zw.Close(); err != nil {
		return ocispec.Descriptor{}, err
	}
	labels := map[string]string{LabelUncompressed: digest.NewDigest(digest.SHA256, sum).String()}
	for k, v := range cfg.Labels {
		labels[k] = v
	}
	status, err := w.Status()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	dgst := w.Digest()
	if err := w.Commit(ctx, status.Offset, dgst, content.WithLabels(labels)); err != nil {
		if !errdefs.IsAlreadyExists(err) {
			return ocispec.Descriptor{}, err
		}
		if err := s.relabel(ctx, dgst, labels); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	return ocispec.Descriptor{MediaType: cfg.MediaType, Digest: dgst, Size: status.Offset}, nil
}

// relabel adds labels to content that was there before.
func (s *Service) relabel(ctx context.Context, dgst digest.Digest, labels map[string]string) error {
	info := content.Info{Digest: dgst, Labels: labels}
	var fields []string
	for k := range labels {
		fields = append(fields, "labels."+k)
	}
	_, err := s.store.Update(ctx, info, fields...)
	return err
}

func compressionOf(mediaType string) (compression.Kind, error) {
	switch mediaType {
	case ocispec.MediaTypeImageLayer, images.MediaTypeDockerSchema2Layer:
		return compression.None, nil
	case ocispec.MediaTypeImageLayerGzip, images.MediaTypeDockerSchema2LayerGzip:
		return compression.Gzip, nil
	case ocispec.MediaTypeImageLayerZstd, images.MediaTypeDockerSchema2LayerZstd:
		return compression.Zstd, nil
	}
	return compression.None, fmt.Errorf("layer of media type %q: %w", mediaType, errdefs.ErrNotImplemented)
}

// writeDiff writes the tar of the difference to w.
func writeDiff(ctx context.Context, w io.Writer, lower, upper []mount.Mount, o tarball.WriterOptions) error {
	up, err := parseMounts(upper)
	if err != nil {
		return err
	}
	low := layout{}
	if len(lower) > 0 {
		if low, err = parseMounts(lower); err != nil {
			return err
		}
	}
	if layers, ok := up.above(low); ok {
		root, err := openDir(layers)
		if err != nil {
			return err
		}
		defer root.Close()
		o.Upper, o.UserXattr = up.overlay, up.userXattr
		tw := tarball.NewWriter(w, o)
		if err := tw.Add(ctx, root, "", ""); err != nil {
			return err
		}
		return tw.Close()
	}
	uroot, err := up.view()
	if err != nil {
		return err
	}
	defer uroot.Close()
	tw := tarball.NewWriter(w, o)
	if len(low.layers) == 0 {
		err = tw.Add(ctx, uroot, "", "")
	} else {
		var lroot *os.File
		if lroot, err = low.view(); err != nil {
			return err
		}
		defer lroot.Close()
		err = tw.AddDiff(ctx, lroot, uroot)
	}
	if err != nil {
		return err
	}
	return tw.Close()
}
