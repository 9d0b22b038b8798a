package content

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func open(t *testing.T, root string) *Store {
	t.Helper()
	s, err := Open(root, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start opens ref and writes data to it.
func start(t *testing.T, s *Store, ref, data string, opts ...content.WriterOpt) *Writer {
	t.Helper()
	w, err := s.Writer(t.Context(), append(opts, content.WithRef(ref))...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, data); err != nil {
		t.Fatal(err)
	}
	return w.(*Writer)
}

func read(t *testing.T, s *Store, d digest.Digest) string {
	t.Helper()
	b, err := content.ReadBlob(t.Context(), s, ocispec.Descriptor{Digest: d})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestErrorClasses(t *testing.T) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	missing := digest.FromString("missing")
	busy := start(t, s, "busy", "x")
	defer busy.Close()
	if err := start(t, s, "blob", "blob").Commit(ctx, 0, ""); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		do    func() error
		class func(error) bool
	}{
		"info of a missing blob":   {func() error { _, err := s.Info(ctx, missing); return err }, errdefs.IsNotFound},
		"info of a path":           {func() error { _, err := s.Info(ctx, "sha256:../../../etc/passwd"); return err }, errdefs.IsInvalidArgument},
		"open of a missing blob":   {func() error { _, err := s.ReaderAt(ctx, ocispec.Descriptor{Digest: missing}); return err }, errdefs.IsNotFound},
		"delete of a missing blob": {func() error { return s.Delete(ctx, missing) }, errdefs.IsNotFound},
		"update without labels":    {func() error { _, err := s.Update(ctx, content.Info{Digest: missing}); return err }, errdefs.IsFailedPrecondition},
		"filter":                   {func() error { return s.Walk(ctx, nil, "digest==") }, errdefs.IsInvalidArgument},
		"no ref":                   {func() error { _, err := s.Writer(ctx); return err }, errdefs.IsInvalidArgument},
		"long ref":                 {func() error { _, err := s.Writer(ctx, content.WithRef(strings.Repeat("r", maxRef+1))); return err }, errdefs.IsInvalidArgument},
		"busy ref":                 {func() error { _, err := s.Writer(ctx, content.WithRef("busy")); return err }, errdefs.IsUnavailable},
		"stored digest": {func() error {
			_, err := s.Writer(ctx, content.WithRef("r"), content.WithDescriptor(ocispec.Descriptor{Digest: digest.FromString("blob")}))
			return err
		}, errdefs.IsAlreadyExists},
		"status of a missing ingest": {func() error { _, err := s.Status(ctx, "r"); return err }, errdefs.IsNotFound},
		"abort of a missing ingest":  {func() error { return s.Abort(ctx, "r") }, errdefs.IsNotFound},
		"truncate to the middle":     {func() error { return busy.Truncate(1) }, errdefs.IsInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tt.do(); !tt.class(err) {
				t.Errorf("error = %v, of another class", err)
			}
		})
	}
}

func TestCommitVerifies(t *testing.T) {
	const data = "the data"
	for name, tt := range map[string]struct {
		size     int64
		expected digest.Digest
		class    func(error) bool
	}{
		"nothing known":       {0, "", nil},
		"all known":           {8, digest.FromString(data), nil},
		"another algorithm":   {0, digest.SHA512.FromString(data), nil},
		"short":               {9, "", errdefs.IsFailedPrecondition},
		"wrong digest":        {0, digest.FromString("other"), errdefs.IsFailedPrecondition},
		"wrong, other sha512": {0, digest.SHA512.FromString("other"), errdefs.IsFailedPrecondition},
		"broken digest":       {0, "sha256:12", errdefs.IsInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			w := start(t, s, "r", data)
			err := w.Commit(t.Context(), tt.size, tt.expected)
			if _, lockErr := s.Writer(t.Context(), content.WithRef("r")); lockErr != nil {
				t.Errorf("the ref is locked after Commit: %v", lockErr)
			}
			if tt.class != nil {
				if !tt.class(err) {
					t.Errorf("Commit = %v", err)
				}
				if blobs := digests(t, s); len(blobs) != 0 {
					t.Errorf("blobs = %v, want none", blobs)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := read(t, s, w.Digest()); got != data {
				t.Errorf("blob = %q", got)
			}
			path, _ := s.blobPath(w.Digest())
			if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o444 {
				t.Errorf("mode = %v, %v, want 0444", fi.Mode(), err)
			}
			if tt.expected != "" && w.Digest() != tt.expected {
				t.Errorf("digest = %s, want %s", w.Digest(), tt.expected)
			}
		})
	}
}

func digests(t *testing.T, s *Store) (list []digest.Digest) {
	t.Helper()
	if err := s.Digests(t.Context(), func(d digest.Digest) error { list = append(list, d); return nil }); err != nil {
		t.Fatal(err)
	}
	return list
}

// TestReopen has the process or the machine stop in an ingest and resumes it.
func TestReopen(t *testing.T) {
	for name, tt := range map[string]struct {
		stop func(t *testing.T, s *Store, w *Writer)
		want string // what the resumed ingest holds
	}{
		"killed": {func(*testing.T, *Store, *Writer) {}, "first"},
		"closed": {func(t *testing.T, _ *Store, w *Writer) {
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		}, "first"},
		"power cut": {func(t *testing.T, s *Store, _ *Writer) { otherBoot(t, s) }, ""},
		"closed, power cut": {func(t *testing.T, s *Store, w *Writer) {
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			otherBoot(t, s)
		}, "first"},
		"closed, written, power cut": {func(t *testing.T, s *Store, w *Writer) {
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			start(t, s, "r", " and more")
			otherBoot(t, s)
		}, "first"},
		"closed, truncated, written, power cut": {func(t *testing.T, s *Store, w *Writer) {
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			w = start(t, s, "r", "")
			if err := w.Truncate(0); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(w, "unsynced"); err != nil {
				t.Fatal(err)
			}
			otherBoot(t, s)
		}, ""},
		"closed, truncated, closed, power cut": {func(t *testing.T, s *Store, w *Writer) {
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			w = start(t, s, "r", "")
			if err := errors.Join(w.Truncate(0), w.Close()); err != nil {
				t.Fatal(err)
			}
			start(t, s, "r", "unsynced")
			otherBoot(t, s)
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			s := open(t, root)
			tt.stop(t, s, start(t, s, "r", "first"))
			s = open(t, root) // no lock survives
			w := start(t, s, "r", "")
			if st, err := w.Status(); err != nil || st.Offset != int64(len(tt.want)) || w.Digest() != digest.FromString(tt.want) {
				t.Errorf("resumed at %d with digest %s, %v, want %q", st.Offset, w.Digest(), err, tt.want)
			}
			if _, err := io.WriteString(w, ", last"); err != nil {
				t.Fatal(err)
			}
			whole := digest.FromString(tt.want + ", last")
			if err := w.Commit(t.Context(), 0, whole); err != nil {
				t.Fatal(err)
			}
			if got := read(t, s, whole); got != tt.want+", last" {
				t.Errorf("blob = %q", got)
			}
		})
	}
}

// otherBoot makes the store believe that it was last open in another boot.
func otherBoot(t *testing.T, s *Store) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.root, "boot"), []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOtherSizeStartsOver(t *testing.T) {
	s := open(t, t.TempDir())
	size := func(n int64) content.WriterOpt { return content.WithDescriptor(ocispec.Descriptor{Size: n}) }
	if err := start(t, s, "r", "one", size(5)).Close(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ total, offset int64 }{{0, 3}, {5, 3}, {6, 0}} {
		w := start(t, s, "r", "", size(tt.total))
		st, err := w.Status()
		if err != nil || st.Offset != tt.offset {
			t.Errorf("offset for total %d = %d, %v, want %d", tt.total, st.Offset, err, tt.offset)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFailedSyncDropsTheIngest: the kernel says once that pages were lost; a retry
// must not commit them.
func TestFailedSyncDropsTheIngest(t *testing.T) {
	lost := errors.New("pages lost")
	for name, end := range map[string]func(w *Writer) error{
		"commit": func(w *Writer) error { return w.Commit(t.Context(), 0, "") },
		"close":  (*Writer).Close,
		"sync, then commit": func(w *Writer) error {
			if err := w.Sync(); !errors.Is(err, lost) {
				t.Errorf("Sync = %v", err)
			}
			w.fsync = (*os.File).Sync // the lie
			return w.Commit(t.Context(), 0, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			w := start(t, s, "r", "data")
			w.fsync = func(*os.File) error { return lost }
			if err := end(w); !errors.Is(err, lost) {
				t.Errorf("error = %v, want %v", err, lost)
			}
			if _, err := s.Status(t.Context(), "r"); !errdefs.IsNotFound(err) {
				t.Errorf("ingest after a failed sync: %v, want NotFound", err)
			}
			if len(digests(t, s)) != 0 {
				t.Error("a blob that was not synced is visible")
			}
		})
	}
}

// TestConcurrentWritersOfOneDigest: one succeeds, the others learn that it exists,
// and readers see the whole blob or none.
func TestConcurrentWritersOfOneDigest(t *testing.T) {
	s := open(t, t.TempDir())
	data := strings.Repeat("0123456789", 10000)
	d := digest.FromString(data)
	var mu sync.Mutex
	committed := 0
	var group sync.WaitGroup
	for _, ref := range []string{"a", "b", "c", "d"} {
		group.Go(func() {
			w := start(t, s, ref, data)
			err := w.Commit(t.Context(), int64(len(data)), d)
			if err != nil && !errdefs.IsAlreadyExists(err) {
				t.Errorf("Commit = %v", err)
			}
			if got := read(t, s, d); got != data {
				t.Errorf("blob has %d bytes, want %d", len(got), len(data))
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				committed++
			}
		})
	}
	group.Wait()
	if committed != 1 {
		t.Errorf("%d writers committed, want 1", committed)
	}
	if sts, err := s.ListStatuses(t.Context()); err != nil || len(sts) != 0 {
		t.Errorf("ingests = %v, %v, want none", sts, err)
	}
}

func TestSweepIngests(t *testing.T) {
	s := open(t, t.TempDir())
	for _, ref := range []string{"keep", "drop"} {
		if err := start(t, s, ref, "x").Close(); err != nil {
			t.Fatal(err)
		}
	}
	busy := start(t, s, "busy", "x")
	half := filepath.Join(s.ingestsDir(), digest.FromString("half").Encoded())
	if err := os.Mkdir(half, 0o700); err != nil { // a crash before the ref was written
		t.Fatal(err)
	}
	removed, err := s.SweepIngests(t.Context(), func(ref string) (bool, error) { return ref == "keep", nil })
	if err != nil || removed != 2 {
		t.Errorf("SweepIngests = %d, %v, want 2", removed, err)
	}
	sts, err := s.ListStatuses(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var refs []string
	for _, st := range sts {
		refs = append(refs, st.Ref)
	}
	slices.Sort(refs)
	if want := []string{"busy", "keep"}; !slices.Equal(refs, want) {
		t.Errorf("ingests = %v, want %v", refs, want)
	}
	if err := busy.Commit(t.Context(), 0, ""); err != nil {
		t.Errorf("Commit of the open ingest: %v", err)
	}
}

func TestAbortWhileWriting(t *testing.T) {
	s := open(t, t.TempDir())
	w := start(t, s, "r", "x")
	if err := s.Abort(t.Context(), "r"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "y"); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), 0, ""); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Commit = %v, want FailedPrecondition", err)
	}
	if len(digests(t, s)) != 0 {
		t.Error("an aborted ingest became a blob")
	}
}

func TestReaderOutlivesDelete(t *testing.T) {
	s := open(t, t.TempDir())
	w := start(t, s, "r", "data")
	if err := w.Commit(t.Context(), 0, ""); err != nil {
		t.Fatal(err)
	}
	ra, err := s.ReaderAt(t.Context(), ocispec.Descriptor{Digest: w.Digest()})
	if err != nil {
		t.Fatal(err)
	}
	defer ra.Close()
	if err := s.Delete(t.Context(), w.Digest()); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4)
	if _, err := ra.ReadAt(b, 0); err != nil || !bytes.Equal(b, []byte("data")) {
		t.Errorf("read after Delete = %q, %v", b, err)
	}
}

func BenchmarkWriter(b *testing.B) {
	s, err := Open(b.TempDir(), nil)
	if err != nil {
		b.Fatal(err)
	}
	block := make([]byte, 1<<20)
	b.SetBytes(64 << 20)
	b.ReportAllocs()
	for b.Loop() {
		w, err := s.Writer(b.Context(), content.WithRef("r"))
		if err != nil {
			b.Fatal(err)
		}
		for range 64 {
			if _, err := w.Write(block); err != nil {
				b.Fatal(err)
			}
		}
		if err := w.Commit(b.Context(), 0, ""); err != nil {
			b.Fatal(err)
		}
		if err := s.Delete(b.Context(), w.Digest()); err != nil {
			b.Fatal(err)
		}
	}
}
