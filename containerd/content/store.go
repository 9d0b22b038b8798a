package content

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Labels remembers the labels of blobs. Package metadata keeps labels by
// namespace itself and passes none.
type Labels interface {
	// Labels returns the labels of a blob, nil if it has none.
	Labels(digest.Digest) (map[string]string, error)
	// SetLabels replaces them.
	SetLabels(digest.Digest, map[string]string) error
}

// Store is a content.Store in a directory. It is safe for concurrent use.
type Store struct {
	root   string
	labels Labels // nil: blobs have no labels

	mu    sync.Mutex        // guards the field below
	locks map[string]string // ref of each open writer -> when it was opened, for messages

	// nameMu makes "is the name free, then take it" one step in blobs/.
	// It is held for two system calls and never together with mu.
	nameMu sync.Mutex
}

var _ content.Store = (*Store)(nil)

// Open opens the store in root, which it makes if it is missing. With nil labels
// Update fails with FailedPrecondition.
//
// In the first Open of a boot the ingests are cut back to what was synced.
func Open(root string, labels Labels) (*Store, error) {
	s := &Store{root: root, labels: labels, locks: make(map[string]string)}
	for _, dir := range []string{root, s.blobsDir(), s.ingestsDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open content store: %w", err)
		}
	}
	if err := s.recoverIngests(); err != nil {
		return nil, fmt.Errorf("open content store %q: %w", root, err)
	}
	return s, nil
}

// Info returns the digest, size, times and labels of a blob.
func (s *Store) Info(_ context.Context, dgst digest.Digest) (content.Info, error) {
	path, err := s.blobPath(dgst)
	if err != nil {
		return content.Info{}, err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return content.Info{}, blobError(dgst, err)
	}
	return s.info(dgst, fi)
}

// Update replaces labels: all of them, or the fields "labels" and "labels.<key>".
func (s *Store) Update(ctx context.Context, info content.Info, fieldpaths ...string) (content.Info, error) {
	if s.labels == nil {
		return content.Info{}, fmt.Errorf("update content %s: the store keeps no labels: %w", info.Digest, errdefs.ErrFailedPrecondition)
	}
	updated, err := s.Info(ctx, info.Digest)
	if err != nil {
		return content.Info{}, err
	}
	if len(fieldpaths) == 0 {
		fieldpaths = []string{"labels"}
	}
	for _, path := range fieldpaths {
		key, isKey := strings.CutPrefix(path, "labels.")
		switch {
		case path == "labels":
			updated.Labels = info.Labels
		case isKey:
			if updated.Labels == nil {
				updated.Labels = make(map[string]string)
			}
			if updated.Labels[key] = info.Labels[key]; updated.Labels[key] == "" {
				delete(updated.Labels, key)
			}
		default:
			return content.Info{}, fmt.Errorf("update content %s: field %q cannot be changed: %w", info.Digest, path, errdefs.ErrInvalidArgument)
		}
	}
	if err := s.labels.SetLabels(info.Digest, updated.Labels); err != nil {
		return content.Info{}, fmt.Errorf("update content %s: %w", info.Digest, err)
	}
	path, err := s.blobPath(info.Digest)
	if err != nil {
		return content.Info{}, err
	}
	updated.UpdatedAt = time.Now()
	if err := os.Chtimes(path, updated.UpdatedAt, updated.CreatedAt); err != nil {
		return content.Info{}, blobError(info.Digest, err)
	}
	return updated, nil
}

// Walk calls fn for each blob that matches any of the filters. Blobs that are
// removed meanwhile may be left out.
func (s *Store) Walk(ctx context.Context, fn content.WalkFunc, fs ...string) error {
	filter, err := filters.ParseAll(fs...)
	if err != nil {
		return fmt.Errorf("walk content: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return s.walk(ctx, func(dgst digest.Digest, path string) error {
		fi, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := s.info(dgst, fi)
		if err != nil {
			return err
		}
		if !filter.Match(content.AdaptInfo(info)) {
			return nil
		}
		return fn(info)
	})
}

// Digests calls fn for each blob's digest, without looking at the blobs.
func (s *Store) Digests(ctx context.Context, fn func(digest.Digest) error) error {
	return s.walk(ctx, func(dgst digest.Digest, _ string) error { return fn(dgst) })
}

// Delete removes a blob. Readers that are open keep reading it. The removal is
// not synced: after a power cut the blob may be back, whole.
func (s *Store) Delete(_ context.Context, dgst digest.Digest) error {
	path, err := s.blobPath(dgst)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return blobError(dgst, err)
	}
	if s.labels == nil {
		return nil
	}
	return s.labels.SetLabels(dgst, nil)
}

// ReaderAt opens a blob by desc.Digest. The caller closes the reader.
func (s *Store) ReaderAt(_ context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	path, err := s.blobPath(desc.Digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, blobError(desc.Digest, err)
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, errors.Join(blobError(desc.Digest, err), f.Close())
	}
	return &blob{File: f, size: fi.Size()}, nil
}

// blob is an open blob.
type blob struct {
	*os.File
	size int64
}

func (b *blob) Size() int64 { return b.size }

func (s *Store) walk(ctx context.Context, fn func(digest.Digest, string) error) error {
	algorithms, err := os.ReadDir(s.blobsDir())
	if err != nil {
		return fmt.Errorf("walk content: %w", err)
	}
	for _, alg := range algorithms {
		if !alg.IsDir() || !digest.Algorithm(alg.Name()).Available() {
			continue
		}
		dir := filepath.Join(s.blobsDir(), alg.Name())
		entries, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("walk content: %w", err)
		}
		for _, e := range entries {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			dgst := digest.NewDigestFromEncoded(digest.Algorithm(alg.Name()), e.Name())
			if dgst.Validate() != nil {
				continue // not ours
			}
			if err := fn(dgst, filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// info describes a blob. Its time of modification is that of its commit, its
// access time that of the last Update: see Update and Writer.Commit.
func (s *Store) info(dgst digest.Digest, fi os.FileInfo) (content.Info, error) {
	info := content.Info{Digest: dgst, Size: fi.Size(), CreatedAt: fi.ModTime(), UpdatedAt: fi.ModTime()}
	if s.labels == nil {
		return info, nil
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		info.UpdatedAt = time.Unix(st.Atim.Unix())
	}
	labels, err := s.labels.Labels(dgst)
	if err != nil {
		return content.Info{}, fmt.Errorf("read labels of content %s: %w", dgst, err)
	}
	info.Labels = labels
	return info, nil
}

func (s *Store) blobsDir() string   { return filepath.Join(s.root, "blobs") }
func (s *Store) ingestsDir() string { return filepath.Join(s.root, "ingest") }

// blobPath returns the path of a blob. The digest is validated first: it comes
// from clients and registries and becomes part of a path.
func (s *Store) blobPath(dgst digest.Digest) (string, error) {
	if err := dgst.Validate(); err != nil {
		return "", fmt.Errorf("digest %q: %w: %w", string(dgst), err, errdefs.ErrInvalidArgument)
	}
	return filepath.Join(s.blobsDir(), dgst.Algorithm().String(), dgst.Encoded()), nil
}

func blobError(dgst digest.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("content %s: %w", dgst, errdefs.ErrNotFound)
	}
	return fmt.Errorf("content %s: %w", dgst, err)
}
