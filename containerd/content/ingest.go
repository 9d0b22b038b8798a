package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"lighter/internal/atomicfile"
)

// maxRef bounds a ref, in bytes: it comes from clients and is kept on disk.
const maxRef = 8 << 10

// Names in the directory of an ingest; see the package comment.
const (
	fileRef       = "ref"
	fileData      = "data"
	fileTotal     = "total"
	fileStartedAt = "startedat"
	fileUpdatedAt = "updatedat"
	fileSynced    = "synced"
)

// Status describes the ingest called ref, whether a writer is open or not.
func (s *Store) Status(_ context.Context, ref string) (content.Status, error) {
	st, err := readIngest(s.ingestDir(ref))
	if errors.Is(err, fs.ErrNotExist) {
		return content.Status{}, fmt.Errorf("ingest %q: %w", ref, errdefs.ErrNotFound)
	}
	if err != nil {
		return content.Status{}, fmt.Errorf("ingest %q: %w", ref, err)
	}
	return st, nil
}

// ListStatuses describes the ingests that match any of the filters, whose only
// field is "ref".
func (s *Store) ListStatuses(_ context.Context, fs ...string) ([]content.Status, error) {
	filter, err := filters.ParseAll(fs...)
	if err != nil {
		return nil, fmt.Errorf("list ingests: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	dirs, err := os.ReadDir(s.ingestsDir())
	if err != nil {
		return nil, fmt.Errorf("list ingests: %w", err)
	}
	var list []content.Status
	for _, dir := range dirs {
		st, err := readIngest(filepath.Join(s.ingestsDir(), dir.Name()))
		if err != nil {
			continue // committed or aborted meanwhile, or half made by a crash
		}
		match := filter.Match(filters.AdapterFunc(func(path []string) (string, bool) {
			return st.Ref, len(path) == 1 && path[0] == "ref"
		}))
		if match {
			list = append(list, st)
		}
	}
	return list, nil
}

// Abort removes the ingest called ref. A writer that is still open for it fails
// to commit.
func (s *Store) Abort(_ context.Context, ref string) error {
	dir := s.ingestDir(ref)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ingest %q: %w", ref, errdefs.ErrNotFound)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("abort ingest %q: %w", ref, err)
	}
	return nil
}

// SweepIngests removes every ingest whose ref keep refuses, and those without a
// readable ref, which a crash left. An ingest with an open writer stays.
// It returns how many were removed.
func (s *Store) SweepIngests(ctx context.Context, keep func(ref string) (bool, error)) (int, error) {
	dirs, err := os.ReadDir(s.ingestsDir())
	if err != nil {
		return 0, fmt.Errorf("sweep ingests: %w", err)
	}
	removed := 0
	for _, d := range dirs {
		if err := context.Cause(ctx); err != nil {
			return removed, err
		}
		dir := filepath.Join(s.ingestsDir(), d.Name())
		gone, err := s.sweepIngest(dir, keep)
		if err != nil {
			return removed, fmt.Errorf("sweep ingest %q: %w", dir, err)
		}
		if gone {
			removed++
		}
	}
	return removed, nil
}

// sweepIngest holds the ref's lock while it decides, so that no writer opens the
// ingest between the decision and the removal.
func (s *Store) sweepIngest(dir string, keep func(string) (bool, error)) (bool, error) {
	// An open writer's directory may not have its ref yet; its lock tells.
	b, err := os.ReadFile(filepath.Join(dir, fileRef))
	ref := string(b)
	if err != nil || s.ingestDir(ref) != dir {
		if s.lockedDir(dir) {
			return false, nil
		}
		return true, os.RemoveAll(dir)
	}
	if s.lock(ref) != nil {
		return false, nil
	}
	defer s.unlock(ref)
	kept, err := keep(ref)
	if kept || err != nil {
		return false, err
	}
	return true, os.RemoveAll(dir)
}

// recoverIngests cuts ingests back after a reboot, see the package comment.
func (s *Store) recoverIngests() error {
	path := filepath.Join(s.root, "boot")
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("read the boot's id: %w", err)
	}
	last, err := os.ReadFile(path)
	if err == nil && string(last) == string(boot) {
		return nil
	}
	dirs, err := os.ReadDir(s.ingestsDir())
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if err := cutToSynced(filepath.Join(s.ingestsDir(), d.Name())); err != nil {
			return err
		}
	}
	return atomicfile.Write(path, boot, 0o600)
}

func cutToSynced(dir string) error {
	data := filepath.Join(dir, fileData)
	fi, err := os.Lstat(data)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if synced := readInt(filepath.Join(dir, fileSynced)); synced < fi.Size() {
		return os.Truncate(data, synced)
	}
	return nil
}

// ingestDir names the directory of an ingest by a hash of its ref, which may be
// long and hold any bytes.
func (s *Store) ingestDir(ref string) string {
	return filepath.Join(s.ingestsDir(), digest.FromString(ref).Encoded())
}

// readIngest reads the status of an ingest from its directory. A missing or
// unreadable time is replaced by the data's, for a crash may have left it so.
func readIngest(dir string) (content.Status, error) {
	fi, err := os.Stat(filepath.Join(dir, fileData))
	if err != nil {
		return content.Status{}, err
	}
	ref, err := os.ReadFile(filepath.Join(dir, fileRef))
	if err != nil {
		return content.Status{}, err
	}
	st := content.Status{
		Ref:       string(ref),
		Offset:    fi.Size(),
		Total:     readInt(filepath.Join(dir, fileTotal)),
		StartedAt: readTime(filepath.Join(dir, fileStartedAt)),
		UpdatedAt: readTime(filepath.Join(dir, fileUpdatedAt)),
	}
	if st.StartedAt.IsZero() {
		st.StartedAt = fi.ModTime()
	}
	if fi.ModTime().After(st.UpdatedAt) {
		st.UpdatedAt = fi.ModTime() // updatedat is written when a writer opens or closes only
	}
	return st, nil
}

func readTime(path string) time.Time {
	b, err := readShort(path)
	if err != nil {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, b)
	if err != nil {
		return time.Time{}
	}
	return t
}

// readInt reads a decimal number, 0 if there is none.
func readInt(path string) int64 {
	b, err := readShort(path)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(b, 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

func readShort(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64))
	return strings.TrimSpace(string(b)), err
}

// The small files of an ingest are not synced: without them, or with old ones,
// an ingest is merely restarted.
func writeTime(dir, name string, t time.Time) error {
	return atomicfile.WriteVolatile(filepath.Join(dir, name), t.AppendFormat(nil, time.RFC3339Nano), 0o600)
}

func writeInt(dir, name string, n int64) error {
	return atomicfile.WriteVolatile(filepath.Join(dir, name), strconv.AppendInt(nil, n, 10), 0o600)
}

// lock takes ref for one writer.
func (s *Store) lock(ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if since, ok := s.locks[ref]; ok {
		return fmt.Errorf("ingest %q is being written since %s: %w", ref, since, errdefs.ErrUnavailable)
	}
	s.locks[ref] = time.Now().UTC().Format(time.RFC3339)
	return nil
}

func (s *Store) unlock(ref string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.locks, ref)
}

// lockedDir reports whether dir is the directory of a ref that is locked.
func (s *Store) lockedDir(dir string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ref := range s.locks {
		if s.ingestDir(ref) == dir {
			return true
		}
	}
	return false
}
