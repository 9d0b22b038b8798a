package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"lighter/containerd"
	"lighter/internal/registry"
)

// PushOptions qualify Push.
type PushOptions struct {
	Resolver   remotes.Resolver
	MaxUploads int // 0 means 5
	Progress   Progress
}

// ErrContentMissing is wrapped by the error of a push of something that the
// store has only in part; the error's class is NotFound.
var ErrContentMissing = errors.New("content is not available locally")

// Push sends target and all that it refers to to the repository and tag ref.
// Blobs go first, in parallel; what refers to them follows.
func Push(ctx context.Context, svc *containerd.Services, ref string, target ocispec.Descriptor, o PushOptions) error {
	ctx = registry.Silent(ctx)
	// The digest has only the root of the push tagged.
	pusher, err := o.Resolver.Pusher(ctx, ref+"@"+target.Digest.String())
	if err != nil {
		return fmt.Errorf("push %q: %w", ref, err)
	}
	p := &push{store: svc.Content, pusher: pusher, progress: serial(o.Progress)}
	if err := p.collect(ctx, target, 0); err != nil {
		return fmt.Errorf("push %q: %w", ref, err)
	}
	limit := o.MaxUploads
	if limit <= 0 {
		limit = 5
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(limit)
	for _, d := range p.blobs {
		p.progress(Event{Phase: Waiting, Desc: d, Total: d.Size})
	}
	for _, d := range p.blobs {
		group.Go(func() error { return p.blob(gctx, d) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("push %q: %w", ref, err)
	}
	for _, d := range p.documents {
		if err := p.blob(ctx, d); err != nil {
			return fmt.Errorf("push %q: %w", ref, err)
		}
	}
	return nil
}

type push struct {
	store     content.Store
	pusher    remotes.Pusher
	progress  Progress
	blobs     []ocispec.Descriptor
	documents []ocispec.Descriptor // children before parents
	seen      map[digest.Digest]bool
}

// collect lists what is to be sent, all of which must be in the store.
func (p *push) collect(ctx context.Context, d ocispec.Descriptor, depth int) error {
	if p.seen == nil {
		p.seen = map[digest.Digest]bool{}
	}
	if p.seen[d.Digest] {
		return nil
	}
	p.seen[d.Digest] = true
	if depth > maxDepth {
		return invalid("indexes nest too deep")
	}
	if !images.IsIndexType(d.MediaType) && !images.IsManifestType(d.MediaType) {
		if images.IsNonDistributable(d.MediaType) {
			return nil
		}
		if _, err := p.store.Info(ctx, d.Digest); err != nil {
			return missing(d, err)
		}
		p.blobs = append(p.blobs, d)
		return nil
	}
	doc, err := ReadDocument(ctx, p.store, d)
	if err != nil {
		return missing(d, err)
	}
	for _, c := range doc.Children() {
		if err := p.collect(ctx, c, depth+1); err != nil {
			return err
		}
	}
	p.documents = append(p.documents, d)
	return nil
}

func missing(d ocispec.Descriptor, err error) error {
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("%s: %w: %w", d.Digest, ErrContentMissing, err)
	}
	return err
}

func (p *push) blob(ctx context.Context, d ocispec.Descriptor) error {
	err := retry(ctx, 0, func() error { return p.tryBlob(ctx, d) })
	if errdefs.IsAlreadyExists(err) {
		p.progress(Event{Phase: Exists, Desc: d})
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", d.Digest, err)
	}
	p.progress(Event{Phase: Pushed, Desc: d, Current: d.Size, Total: d.Size})
	return nil
}

func (p *push) tryBlob(ctx context.Context, d ocispec.Descriptor) error {
	// The labels name other repositories that the registry may have it in.
	info, err := p.store.Info(ctx, d.Digest)
	if err != nil {
		return err
	}
	send := d
	send.Annotations = joinLabels(d.Annotations, info.Labels)
	w, err := p.pusher.Push(ctx, send)
	if err != nil {
		return err
	}
	defer w.Close()
	ra, err := p.store.ReaderAt(ctx, d)
	if err != nil {
		return err
	}
	defer ra.Close()
	src := &pushReader{r: content.NewReader(ra), ctx: ctx, report: func(n int64) {
		p.progress(Event{Phase: Uploading, Desc: d, Current: n, Total: d.Size})
	}}
	return content.Copy(ctx, w, src, d.Size, d.Digest)
}

type pushReader struct {
	ctx    context.Context // of the push
	r      io.Reader
	n      int64
	report func(int64)
}

func (r *pushReader) Read(b []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	n, err := r.r.Read(b)
	r.n += int64(n)
	r.report(r.n)
	return n, err
}

// Seek lets the client start again when the registry asks for that.
func (r *pushReader) Seek(offset int64, whence int) (int64, error) {
	s, ok := r.r.(io.Seeker)
	if !ok {
		return 0, fmt.Errorf("seek in blob: %w", errdefs.ErrNotImplemented)
	}
	n, err := s.Seek(offset, whence)
	r.n = n
	return n, err
}
