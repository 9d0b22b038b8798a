package content

import (
	"context"
	_ "crypto/sha256" // go-digest computes the algorithms that are linked in
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"lighter/containerd"
	"lighter/internal/atomicfile"
)

// copyBuffer is the buffer used to hash again what an ingest holds, in bytes.
const copyBuffer = 1 << 20

// Writer writes one ingest. It belongs to one goroutine.
type Writer struct {
	s         *Store
	f         *os.File // nil once closed
	dir, ref  string
	offset    int64
	total     int64
	digester  digest.Digester
	startedAt time.Time
	updatedAt time.Time
	// syncErr is the first failure to sync. The kernel reports it once and then takes
	// the pages for clean: what was written cannot be trusted to reach the disk any
	// more, however often it is synced. The ingest is dropped.
	syncErr error
	fsync   func(*os.File) error // (*os.File).Sync but in tests
}

var (
	_ content.Writer      = (*Writer)(nil)
	_ content.Syncer      = (*Writer)(nil)
	_ containerd.Follower = (*Writer)(nil)
)

// Follow implements containerd.Follower.
func (w *Writer) Follow() (*os.File, error) {
	if w.f == nil {
		return nil, w.errClosed()
	}
	return os.Open(w.f.Name())
}

// Writer opens the ingest called by content.WithRef, new or where it was left.
// The bytes that a resumed ingest holds are read and hashed first.
//
// An ingest whose announced size differs from the descriptor's starts over.
//
// Errors: InvalidArgument without a ref or with a broken digest; AlreadyExists if
// the descriptor's digest is stored; Unavailable while another writer has the ref.
func (s *Store) Writer(_ context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	if o.Ref == "" || len(o.Ref) > maxRef {
		return nil, fmt.Errorf("write content: the ref has %d bytes, want 1 to %d: %w", len(o.Ref), maxRef, errdefs.ErrInvalidArgument)
	}
	algorithm := digest.Canonical
	if o.Desc.Digest != "" {
		path, err := s.blobPath(o.Desc.Digest)
		if err != nil {
			return nil, err
		}
		if _, err := os.Lstat(path); err == nil {
			return nil, fmt.Errorf("content %s: %w", o.Desc.Digest, errdefs.ErrAlreadyExists)
		}
		algorithm = o.Desc.Digest.Algorithm()
	}
	if err := s.lock(o.Ref); err != nil {
		return nil, err
	}
	w := &Writer{s: s, dir: s.ingestDir(o.Ref), ref: o.Ref, digester: algorithm.Digester(), fsync: (*os.File).Sync}
	if err := w.open(max(o.Desc.Size, 0)); err != nil {
		s.unlock(o.Ref)
		return nil, fmt.Errorf("open ingest %q: %w", o.Ref, err)
	}
	return w, nil
}

// open makes or resumes the ingest; total is 0 if unknown.
func (w *Writer) open(total int64) (err error) {
	if err := os.Mkdir(w.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := os.OpenFile(filepath.Join(w.dir, fileData), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	st, err := readIngest(w.dir)
	if resumable := err == nil && st.Ref == w.ref && (total == 0 || st.Total == 0 || st.Total == total); resumable {
		w.startedAt, w.updatedAt = st.StartedAt, st.UpdatedAt
		w.total = max(total, st.Total)
		w.offset, err = io.CopyBuffer(w.digester.Hash(), onlyReader{f}, make([]byte, min(copyBuffer, st.Offset+1)))
		w.f = f
		return err
	}
	if err := w.restart(f); err != nil {
		return err
	}
	w.startedAt = time.Now()
	w.updatedAt, w.total, w.f = w.startedAt, total, f
	return w.describe()
}

// restart empties the data. Before that, durably, no bytes are known to be synced any
// more: others will take the place of those that were.
func (w *Writer) restart(f *os.File) error {
	path := filepath.Join(w.dir, fileSynced)
	if _, err := os.Lstat(path); err == nil {
		if err := atomicfile.Write(path, []byte("0"), 0o600); err != nil {
			return err
		}
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.Seek(0, io.SeekStart)
	return err
}

// onlyReader hides the other methods of a file, so that a copy uses its buffer.
type onlyReader struct{ io.Reader }

// describe writes the small files of a new ingest, the ref last: an ingest
// without it is a crash's remains.
func (w *Writer) describe() error {
	if err := writeTime(w.dir, fileStartedAt, w.startedAt); err != nil {
		return err
	}
	if err := writeInt(w.dir, fileTotal, w.total); err != nil {
		return err
	}
	return atomicfile.WriteVolatile(filepath.Join(w.dir, fileRef), []byte(w.ref), 0o600)
}

// Write appends p.
func (w *Writer) Write(p []byte) (int, error) {
	if w.f == nil {
		return 0, w.errClosed()
	}
	n, err := w.f.Write(p)
	w.digester.Hash().Write(p[:n])
	w.offset += int64(n)
	w.updatedAt = time.Now()
	return n, err
}

// Digest returns the digest of what was written so far.
func (w *Writer) Digest() digest.Digest { return w.digester.Digest() }

// Status describes the ingest.
func (w *Writer) Status() (content.Status, error) {
	return content.Status{
		Ref: w.ref, Offset: w.offset, Total: w.total, StartedAt: w.startedAt, UpdatedAt: w.updatedAt,
	}, nil
}

// Truncate starts the ingest over; size must be 0.
func (w *Writer) Truncate(size int64) error {
	if size != 0 {
		return fmt.Errorf("truncate ingest %q to %d: only 0 is possible: %w", w.ref, size, errdefs.ErrInvalidArgument)
	}
	if w.f == nil {
		return w.errClosed()
	}
	if err := w.restart(w.f); err != nil {
		return err
	}
	w.offset, w.updatedAt = 0, time.Now()
	w.digester.Hash().Reset()
	return nil
}

// Sync brings what was written to the disk.
func (w *Writer) Sync() error {
	if w.f == nil {
		return nil
	}
	return w.sync(w.f)
}

func (w *Writer) sync(f *os.File) error {
	if w.syncErr == nil {
		w.syncErr = w.fsync(f)
	}
	return w.syncErr
}

// Close ends the writing. What was written so far is synced and can be resumed
// by a new Writer of the same ref; if it cannot be synced the ingest is dropped. A
// second Close does nothing.
func (w *Writer) Close() error {
	if w.f == nil {
		return nil
	}
	defer w.s.unlock(w.ref)
	f := w.f
	w.f = nil
	err := w.sync(f)
	if err != nil {
		return errors.Join(err, f.Close(), os.RemoveAll(w.dir))
	}
	err = writeInt(w.dir, fileSynced, w.offset)
	if err == nil {
		err = writeTime(w.dir, fileUpdatedAt, w.updatedAt)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // the ingest was aborted
	}
	return errors.Join(err, f.Close())
}

// Commit makes the blob visible under the digest of its bytes and closes the
// writer, on an error too. size 0 and expected "" mean unknown.
//
// Errors: FailedPrecondition if size or digest differ from what was written, or if
// the ingest was aborted (the ingest stays, can be resumed or aborted);
// AlreadyExists if the blob is stored, which removes the ingest and promises as
// much as success.
// Commit point: the rename. On return without an error blob and name are on disk.
func (w *Writer) Commit(_ context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	var base content.Info
	for _, opt := range opts {
		if err := opt(&base); err != nil {
			return errors.Join(err, w.Close())
		}
	}
	if w.f == nil {
		return fmt.Errorf("commit ingest %q: %w", w.ref, w.errClosed())
	}
	if err := w.verify(size, expected); err != nil {
		return errors.Join(fmt.Errorf("commit ingest %q: %w", w.ref, err), w.Close())
	}
	defer w.s.unlock(w.ref)
	f := w.f
	w.f = nil
	if err := w.seal(f); err != nil {
		return fmt.Errorf("commit ingest %q: %w", w.ref, err)
	}
	dgst := w.Digest()
	if err := w.rename(dgst); err != nil {
		return fmt.Errorf("commit ingest %q: %w", w.ref, err)
	}
	if w.s.labels != nil && base.Labels != nil {
		if err := w.s.labels.SetLabels(dgst, base.Labels); err != nil {
			return fmt.Errorf("label content %s: %w", dgst, err)
		}
	}
	return nil
}

func (w *Writer) verify(size int64, expected digest.Digest) error {
	if size > 0 && size != w.offset {
		return fmt.Errorf("size is %d, want %d: %w", w.offset, size, errdefs.ErrFailedPrecondition)
	}
	if expected == "" {
		return nil
	}
	if err := expected.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w: %w", string(expected), err, errdefs.ErrInvalidArgument)
	}
	if alg := expected.Algorithm(); alg != w.Digest().Algorithm() {
		// The writer was opened without this digest and hashed with another
		// algorithm.
		d := alg.Digester()
		section := io.NewSectionReader(w.f, 0, w.offset)
		if _, err := io.CopyBuffer(d.Hash(), onlyReader{section}, make([]byte, copyBuffer)); err != nil {
			return err
		}
		w.digester = d
	}
	if got := w.Digest(); got != expected {
		return fmt.Errorf("digest is %s, want %s: %w", got, expected, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// seal gives the data its final mode and time, syncs and closes it. The time is
// set by hand since the kernel's is a few milliseconds old.
func (w *Writer) seal(f *os.File) error {
	now := time.Now()
	err := f.Chmod(0o444)
	if err == nil {
		err = os.Chtimes(f.Name(), now, now)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("the ingest was aborted: %w", errdefs.ErrFailedPrecondition)
	}
	if err == nil {
		err = w.sync(f)
	}
	err = errors.Join(err, f.Close())
	if w.syncErr != nil {
		err = errors.Join(err, os.RemoveAll(w.dir))
	}
	return err
}

// rename moves the data to its name as a blob and removes the ingest.
func (w *Writer) rename(dgst digest.Digest) error {
	target, err := w.s.blobPath(dgst)
	if err != nil {
		return err
	}
	dir := filepath.Dir(target)
	if err := makeBlobDir(dir); err != nil {
		return err
	}
	exists, err := w.takeName(target)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the ingest was aborted: %w", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return err
	}
	// Also for a blob that exists: whoever took the name may not have synced it yet.
	if err := atomicfile.SyncDir(dir); err != nil {
		if !exists {
			err = errors.Join(err, os.Remove(target)) // nobody was told of it
		}
		return err
	}
	if err := os.RemoveAll(w.dir); err != nil {
		return err
	}
	if exists {
		return fmt.Errorf("content %s: %w", dgst, errdefs.ErrAlreadyExists)
	}
	return nil
}

func (w *Writer) takeName(target string) (exists bool, err error) {
	w.s.nameMu.Lock()
	defer w.s.nameMu.Unlock()
	if _, err := os.Lstat(target); err == nil {
		return true, nil
	}
	return false, os.Rename(filepath.Join(w.dir, fileData), target)
}

// makeBlobDir makes the directory of an algorithm once and syncs its name.
func makeBlobDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

func (w *Writer) errClosed() error {
	return fmt.Errorf("the writer of %q is closed: %w", w.ref, errdefs.ErrFailedPrecondition)
}
