package metadata

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"lighter/containerd"
)

// contentWriter writes an ingest of a namespace. While w is nil it stands for a
// blob that is stored already.
type contentWriter struct {
	db      *DB
	ctx     context.Context // of Writer without its end: Write, which has none, may open the ingest
	ns      string
	ref     string
	backend string // ref in the blob store
	desc    ocispec.Descriptor
	started time.Time
	w       content.Writer
	done    func() // ends the protection of the ingest
}

var (
	_ content.Syncer      = (*contentWriter)(nil)
	_ containerd.Follower = (*contentWriter)(nil)
)

// unshare opens the ingest in the blob store and, if it stood for a blob, copies the
// first size bytes of that.
func (w *contentWriter) unshare(ctx context.Context, size int64) (err error) {
	inner, err := w.db.blobs.Writer(ctx, content.WithRef(w.backend),
		content.WithDescriptor(ocispec.Descriptor{MediaType: w.desc.MediaType, Size: w.desc.Size}))
	if err != nil {
		return fmt.Errorf("write content %q: %w", w.ref, err)
	}
	if size > 0 {
		err = w.copyBlob(ctx, inner, size)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write content %q: %w", w.ref, err), inner.Close())
	}
	w.w = inner
	return nil
}

func (w *contentWriter) copyBlob(ctx context.Context, inner content.Writer, size int64) error {
	ra, err := w.db.blobs.ReaderAt(ctx, w.desc)
	if err != nil {
		return err
	}
	return errors.Join(content.CopyReaderAt(inner, ra, size), ra.Close())
}

func (w *contentWriter) Write(p []byte) (int, error) {
	if w.w == nil {
		if len(p) == 0 {
			return 0, nil
		}
		if err := w.unshare(w.ctx, w.desc.Size); err != nil {
			return 0, err
		}
	}
	n, err := w.w.Write(p)
	if errors.Is(err, unix.ENOSPC) {
		w.db.collectSoon() // at once, for the disk is full; the caller may try again
	}
	return n, err
}

func (w *contentWriter) Truncate(size int64) error {
	if w.w == nil {
		return w.unshare(w.ctx, min(size, w.desc.Size))
	}
	return w.w.Truncate(size)
}

func (w *contentWriter) Sync() error {
	if s, ok := w.w.(content.Syncer); ok {
		return s.Sync()
	}
	return nil
}

// Follow implements containerd.Follower. It is not possible while the ingest stands
// for a blob that is stored already.
func (w *contentWriter) Follow() (*os.File, error) {
	if f, ok := w.w.(containerd.Follower); ok {
		return f.Follow()
	}
	return nil, fmt.Errorf("follow ingest %q: %w", w.ref, errdefs.ErrNotImplemented)
}

func (w *contentWriter) Digest() digest.Digest {
	if w.w == nil {
		return w.desc.Digest
	}
	return w.w.Digest()
}

func (w *contentWriter) Status() (content.Status, error) {
	st := content.Status{
		Offset: w.desc.Size, Total: w.desc.Size, Expected: w.desc.Digest, StartedAt: w.started, UpdatedAt: w.started,
	}
	if w.w != nil {
		var err error
		if st, err = w.w.Status(); err != nil {
			return st, err
		}
	}
	st.Ref = w.ref
	return st, nil
}

func (w *contentWriter) Close() error {
	defer w.done()
	if w.w == nil {
		return nil
	}
	return w.w.Close()
}

// Commit stores the bytes, then records them in the namespace, in the context's
// lease if there is one.
//
// Errors: as content.Writer says.
// Commit point: the transaction. A crash before it leaves a blob without a
// record, which the start-up sweep removes.
func (w *contentWriter) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	defer w.done()
	ctx = inNamespace(ctx, w.ns)
	rec, err := newContentRecord(opts)
	if err != nil {
		return errors.Join(fmt.Errorf("commit ingest %q: %w", w.ref, err), w.Close())
	}
	dgst := w.Digest()
	if expected != "" {
		dgst = expected // its algorithm may be another
	}
	defer w.db.pins.pin(dgst)()
	if rec.Size, err = w.commitBlob(ctx, size, expected); err != nil {
		return err
	}
	dgst = w.Digest()
	w.db.at("blob committed")
	exists := false
	err = w.db.update(ctx, func(t *tx) error {
		key := join(w.ns, dgst.String())
		if exists = t.has(bktContent, key); !exists {
			rec.Created = time.Now().UTC()
			rec.Updated = rec.Created
			if err := store(t, bktContent, key, rec); err != nil {
				return err
			}
		}
		if err := t.delete(bktIngests, join(w.ns, w.ref)); err != nil {
			return err
		}
		if err := t.unlease(ctx, w.ns, typeIngests, w.ref); err != nil {
			return err
		}
		_, err := t.lease(ctx, w.ns, typeContent, dgst.String())
		return err
	})
	if err != nil {
		w.db.gc.doomBlob(dgst)
		w.db.collectSoon()
		return fmt.Errorf("commit ingest %q: %w", w.ref, err)
	}
	if exists {
		return fmt.Errorf("content %s: %w", dgst, errdefs.ErrAlreadyExists)
	}
	w.db.publish(ctx, "/content/create", contentCreated(dgst.String(), rec.Size, w.desc.MediaType))
	return nil
}

// commitBlob has the blob in the blob store and returns its size.
func (w *contentWriter) commitBlob(ctx context.Context, size int64, expected digest.Digest) (int64, error) {
	if w.w == nil {
		if size != 0 && size != w.desc.Size {
			return 0, fmt.Errorf("commit ingest %q: size is %d, want %d: %w", w.ref, w.desc.Size, size, errdefs.ErrFailedPrecondition)
		}
		if expected != "" && expected != w.desc.Digest {
			return 0, fmt.Errorf("commit ingest %q: digest is %s, want %s: %w", w.ref, w.desc.Digest, expected, errdefs.ErrFailedPrecondition)
		}
		// It may have gone if the ingest was aborted meanwhile.
		info, err := w.db.blobs.Info(ctx, w.desc.Digest)
		return info.Size, err
	}
	st, err := w.w.Status()
	if err != nil {
		return 0, errors.Join(err, w.w.Close())
	}
	if err := w.w.Commit(ctx, size, expected); err != nil && !errdefs.IsAlreadyExists(err) {
		return 0, err
	}
	return st.Offset, nil
}

func newContentRecord(opts []content.Opt) (contentRecord, error) {
	var info content.Info
	for _, opt := range opts {
		if err := opt(&info); err != nil {
			return contentRecord{}, err
		}
	}
	return contentRecord{Labels: compact(info.Labels)}, checkLabels(info.Labels)
}
