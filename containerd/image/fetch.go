package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/containerd"
)

const (
	fetchAttempts = 5
	fetchPause    = 200 * time.Millisecond // before the second attempt, doubling
	copyBuffer    = 1 << 20
)

// fetcher brings blobs into the content store.
type fetcher struct {
	svc      *containerd.Services
	remote   remotes.Fetcher
	labels   map[string]string // given to every blob
	progress Progress
	attempts int // 0 means fetchAttempts
}

// document fetches, verifies and parses an index or manifest.
func (f *fetcher) document(ctx context.Context, desc ocispec.Descriptor) (Document, error) {
	b, err := f.small(ctx, desc)
	if err != nil {
		return Document{}, err
	}
	doc, err := ParseDocument(b, desc)
	if err != nil {
		return Document{}, err
	}
	return doc, f.store(ctx, desc, b, doc.GCLabels())
}

// small returns the verified bytes of a small blob, from the store or from the
// registry. It does not store them.
func (f *fetcher) small(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	if b, err := ReadBlob(ctx, f.svc.Content, desc); err == nil {
		return b, nil
	} else if errdefs.IsDataLoss(err) { // a pull repairs
		if err := f.svc.Content.Delete(ctx, desc.Digest); err != nil && !errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("remove damaged blob %s: %w", desc.Digest, err)
		}
	}
	return download(ctx, f.remote, desc, f.attempts)
}

// download returns the verified bytes of a small blob of the registry.
func download(ctx context.Context, remote remotes.Fetcher, desc ocispec.Descriptor, attempts int) ([]byte, error) {
	if err := checkDescriptor(desc); err != nil {
		return nil, err
	}
	if desc.Size > maxDocument {
		return nil, invalid("document %s has %d bytes, more than %d", desc.Digest, desc.Size, maxDocument)
	}
	var b []byte
	err := retry(ctx, attempts, func() error {
		rc, err := open(ctx, remote, desc)
		if err != nil {
			return err
		}
		defer rc.Close()
		b, err = io.ReadAll(io.LimitReader(rc, maxDocument+1))
		if err != nil {
			return err
		}
		if desc.Size > 0 && int64(len(b)) < desc.Size {
			return io.ErrUnexpectedEOF
		}
		if got := desc.Digest.Algorithm().FromBytes(b); got != desc.Digest {
			return fmt.Errorf("%w: registry sent %d bytes with the digest %s", errdefs.ErrFailedPrecondition, len(b), got)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", desc.Digest, err)
	}
	return b, nil
}

// store writes verified bytes with labels, adding the labels to a blob that is
// there.
func (f *fetcher) store(ctx context.Context, desc ocispec.Descriptor, b []byte, labels map[string]string) error {
	return writeSmall(ctx, f.svc.Content, desc, b, joinLabels(f.labels, labels))
}

// writeSmall stores the blob b with labels, which it adds to one that is there.
// A blob that another caller is just storing is waited for.
func writeSmall(ctx context.Context, store content.Store, desc ocispec.Descriptor, b []byte, labels map[string]string) error {
	err := retry(ctx, 0, func() error { return tryWriteSmall(ctx, store, desc, b, labels) })
	if errdefs.IsAlreadyExists(err) {
		return addLabels(ctx, store, desc, labels)
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", desc.Digest, err)
	}
	return nil
}

// tryWriteSmall is one attempt of writeSmall. It fails with Unavailable while
// another caller commits the blob: the ingest opens on the blob that is there,
// and can't be written until the other has let go.
func tryWriteSmall(ctx context.Context, store content.Store, desc ocispec.Descriptor, b []byte, labels map[string]string) error {
	w, err := content.OpenWriter(ctx, store, content.WithRef(remotes.MakeRefKey(ctx, desc)), content.WithDescriptor(desc))
	if err != nil {
		return err
	}
	defer w.Close()
	if err := w.Truncate(0); err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	return w.Commit(ctx, int64(len(b)), desc.Digest, content.WithLabels(labels))
}

// addLabels sets labels of a blob, unless it has them.
func addLabels(ctx context.Context, store content.Manager, desc ocispec.Descriptor, labels map[string]string) error {
	info, err := store.Info(ctx, desc.Digest)
	if err != nil {
		return fmt.Errorf("label blob %s: %w", desc.Digest, err)
	}
	var fields []string
	for k, v := range labels {
		if info.Labels[k] != v {
			fields = append(fields, "labels."+k)
		}
	}
	if len(fields) == 0 {
		return nil
	}
	if _, err := store.Update(ctx, content.Info{Digest: desc.Digest, Labels: labels}, fields...); err != nil {
		return fmt.Errorf("label blob %s: %w", desc.Digest, err)
	}
	return nil
}

// open starts reading a blob from the registry. The URLs that a descriptor may
// carry are not used: they would have the engine ask hosts of the image's
// choosing (CVE-2020-15157).
func open(ctx context.Context, remote remotes.Fetcher, desc ocispec.Descriptor) (io.ReadCloser, error) {
	desc.URLs = nil
	return remote.Fetch(ctx, desc)
}

// blob fetches a blob into the store, going on where an interrupted attempt
// ended. Two callers for one blob take turns: the second finds it there.
//
// The bytes can be read at a, which may be nil, while they come.
func (f *fetcher) blob(ctx context.Context, desc ocispec.Descriptor, a *arrival) error {
	err := f.fetchBlob(ctx, desc, a)
	a.end(err)
	return err
}

func (f *fetcher) fetchBlob(ctx context.Context, desc ocispec.Descriptor, a *arrival) error {
	if err := checkDescriptor(desc); err != nil {
		return err
	}
	err := retry(ctx, f.attempts, func() error { return f.tryBlob(ctx, desc, a) })
	if errdefs.IsAlreadyExists(err) {
		f.progress(Event{Phase: Exists, Desc: desc})
		return addLabels(ctx, f.svc.Content, desc, f.labels)
	}
	if err != nil {
		return fmt.Errorf("fetch %s: %w", desc.Digest, err)
	}
	f.progress(Event{Phase: Downloaded, Desc: desc, Current: desc.Size, Total: desc.Size})
	return nil
}

func (f *fetcher) tryBlob(ctx context.Context, desc ocispec.Descriptor, a *arrival) (err error) {
	ref := remotes.MakeRefKey(ctx, desc)
	w, err := content.OpenWriter(ctx, f.svc.Content, content.WithRef(ref), content.WithDescriptor(desc))
	if err != nil {
		return err
	}
	defer w.Close()
	status, err := w.Status()
	if err != nil {
		return err
	}
	offset := status.Offset
	if offset > desc.Size {
		if err := w.Truncate(0); err != nil {
			return err
		}
		offset = 0
		a.restart()
	}
	a.begin(w, offset)
	resumed := offset > 0
	if offset < desc.Size || desc.Size == 0 {
		if err := f.copy(ctx, w, desc, offset, a); err != nil {
			if errdefs.IsFailedPrecondition(err) {
				w.Close()
				err = errors.Join(err, f.abort(ctx, ref))
			}
			return err
		}
	}
	err = w.Commit(ctx, desc.Size, desc.Digest, content.WithLabels(f.labels))
	if err == nil || errdefs.IsAlreadyExists(err) {
		return err
	}
	// What was received is not the blob: never resume from it.
	err = errors.Join(err, f.abort(ctx, ref))
	if resumed && ctx.Err() == nil {
		return errRestart{err}
	}
	return err
}

// errRestart wraps the failure of a blob of which a part came from an earlier
// attempt, and may be to blame.
type errRestart struct{ error }

func (e errRestart) Unwrap() error { return e.error }

// abort drops a partial ingest.
func (f *fetcher) abort(ctx context.Context, ref string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if err := f.svc.Content.Abort(ctx, ref); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("abort ingest %q: %w", ref, err)
	}
	return nil
}

// copy appends the blob from offset on to w.
func (f *fetcher) copy(ctx context.Context, w io.Writer, desc ocispec.Descriptor, offset int64, a *arrival) error {
	rc, err := open(ctx, f.remote, desc)
	if err != nil {
		return err
	}
	defer rc.Close()
	if offset > 0 {
		if s, ok := rc.(io.Seeker); ok {
			_, err = s.Seek(offset, io.SeekStart)
		} else {
			_, err = io.CopyN(io.Discard, rc, offset)
		}
		if err != nil {
			return err
		}
	}
	buf := make([]byte, min(copyBuffer, desc.Size-offset+1))
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, rerr := io.ReadFull(rc, buf)
		if offset+int64(n) > desc.Size {
			return fmt.Errorf("%w: registry sent more than the %d bytes of the blob", errdefs.ErrFailedPrecondition, desc.Size)
		}
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			offset += int64(n)
			a.advance(offset)
			f.progress(Event{Phase: Downloading, Desc: desc, Current: offset, Total: desc.Size})
		}
		if rerr == nil {
			continue
		}
		if errors.Is(rerr, io.EOF) || errors.Is(rerr, io.ErrUnexpectedEOF) {
			if offset < desc.Size {
				return fmt.Errorf("registry sent %d of %d bytes: %w", offset, desc.Size, io.ErrUnexpectedEOF)
			}
			return nil
		}
		return rerr
	}
}

// retry calls try until it succeeds, fails for good, or has failed attempts
// times; 0 means fetchAttempts.
func retry(ctx context.Context, attempts int, try func() error) error {
	if attempts <= 0 {
		attempts = fetchAttempts
	}
	pause := fetchPause
	for attempt := 1; ; attempt++ {
		err := try()
		if err == nil || ctx.Err() != nil || attempt == attempts || !transient(err) {
			return err
		}
		t := time.NewTimer(pause + rand.N(pause/2))
		select {
		case <-ctx.Done():
			t.Stop()
			return errors.Join(err, context.Cause(ctx))
		case <-t.C:
		}
		pause *= 2
	}
}

// transient reports whether another attempt may help.
func transient(err error) bool {
	if _, ok := errors.AsType[errRestart](err); ok {
		return true
	}
	switch {
	case errdefs.IsAlreadyExists(err), errdefs.IsNotFound(err), errdefs.IsInvalidArgument(err),
		errdefs.IsFailedPrecondition(err), errdefs.IsPermissionDenied(err), errdefs.IsUnauthorized(err),
		errdefs.IsNotImplemented(err), errdefs.IsResourceExhausted(err):
		return false
	case errors.Is(err, io.ErrUnexpectedEOF):
		return true
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true // refused, reset, timed out
	}
	return errdefs.IsUnavailable(err)
}
