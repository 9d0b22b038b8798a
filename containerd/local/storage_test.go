package local

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/containerd/lease"
	"lighter/containerd/snapshot"
)

func openStorage(t *testing.T, root string) *Storage {
	t.Helper()
	s, err := OpenStorage(StorageConfig{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStorageIsOwnedByOneProcess(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	s := openStorage(t, root)
	_, err := OpenStorage(StorageConfig{Root: root})
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("second OpenStorage = %v, want Unavailable and the pid", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close = %v", err)
	}
	openStorage(t, root)
	if fi, err := os.Stat(root); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("mode of the root = %v, %v, want 0700", fi.Mode(), err)
	}
}

// TestStorageKeepsAnImage goes the way of a pull: lease, content, snapshot, one
// sync, image; then restarts, then removes the image.
func TestStorageKeepsAnImage(t *testing.T) {
	root := t.TempDir()
	s := openStorage(t, root)
	ctx := namespaces.WithNamespace(t.Context(), "ns")
	leased, release, err := lease.With(ctx, s.Leases)
	if err != nil {
		t.Fatal(err)
	}
	data := []byte("manifest")
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := content.WriteBlob(leased, s.Content, "ref", bytes.NewReader(data), desc); err != nil {
		t.Fatal(err)
	}
	sn := s.Snapshotters["native"]
	if _, err := sn.Prepare(leased, "extract", "", snapshot.Deferred(sn)...); err != nil {
		t.Fatal(err)
	}
	if err := sn.Commit(leased, "layer", "extract", snapshot.Deferred(sn)...); err != nil {
		t.Fatal(err)
	}
	if err := snapshot.Sync(leased, sn); err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"containerd.io/gc.ref.snapshot.native": "layer"}
	if _, err := s.Images.Create(leased, images.Image{Name: "image", Target: desc, Labels: labels}); err != nil {
		t.Fatal(err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = openStorage(t, root)
	if err := s.GC(ctx); err != nil {
		t.Fatal(err)
	}
	sn = s.Snapshotters["native"]
	if info, err := sn.Stat(ctx, "layer"); err != nil || info.Kind != snapshots.KindCommitted {
		t.Errorf("snapshot after a restart = %+v, %v", info, err)
	}
	if b, err := content.ReadBlob(ctx, s.Content, desc); err != nil || !bytes.Equal(b, data) {
		t.Errorf("content after a restart = %q, %v", b, err)
	}
	if err := s.Images.Delete(ctx, "image", images.SynchronousDelete()); err != nil {
		t.Fatal(err)
	}
	if _, err := sn.Stat(ctx, "layer"); !errdefs.IsNotFound(err) {
		t.Errorf("snapshot after the image = %v, want NotFound", err)
	}
	left, err := filepath.Glob(filepath.Join(root, "snapshots", "native", "snapshots", "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("files left: %v, %v", left, err)
	}
}

func TestStorageSnapshotters(t *testing.T) {
	s := openStorage(t, t.TempDir())
	if s.Snapshotters["native"] == nil {
		t.Error("no native snapshotter")
	}
	if os.Geteuid() == 0 && s.Snapshotters["overlayfs"] == nil {
		t.Error("no overlayfs snapshotter")
	}
}
