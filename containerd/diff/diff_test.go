package diff_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	corediff "github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/containerd"
	"lighter/containerd/image"
	"lighter/containerd/image/imagetest"
	"lighter/internal/compression"
	"lighter/internal/testenv"
)

func testCtx(t testing.TB) context.Context { return namespaces.WithNamespace(t.Context(), "test") }

func put(t testing.TB, ctx context.Context, svc *containerd.Services, mediaType string, b []byte) ocispec.Descriptor {
	t.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if err := content.WriteBlob(ctx, svc.Content, d.Digest.String(), bytes.NewReader(b), d); err != nil {
		t.Fatal(err)
	}
	return d
}

func compress(t testing.TB, kind compression.Kind, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := compression.NewWriter(&buf, kind)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(b)
	w.Close()
	return buf.Bytes()
}

func bind(dir string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: dir, Options: []string{"rbind", "rw"}}}
}

// TestApplyFormats: each compression gives the same tree and diff ID, which
// covers what follows the archive's end.
func TestApplyFormats(t *testing.T) {
	testenv.Need(t, testenv.Root)
	plain := append(imagetest.Layer(t, imagetest.File{Name: "d/f", Body: "text"}), make([]byte, 100000)...)
	svc, _ := imagetest.Services(t)
	for name, c := range map[string]struct {
		mediaType string
		kind      compression.Kind
	}{
		"plain":           {ocispec.MediaTypeImageLayer, compression.None},
		"gzip":            {ocispec.MediaTypeImageLayerGzip, compression.Gzip},
		"zstd":            {ocispec.MediaTypeImageLayerZstd, compression.Zstd},
		"docker gzip":     {images.MediaTypeDockerSchema2LayerGzip, compression.Gzip},
		"docker mistyped": {images.MediaTypeDockerSchema2LayerGzip, compression.None},
	} {
		t.Run(name, func(t *testing.T) {
			desc := put(t, testCtx(t), svc, c.mediaType, compress(t, c.kind, plain))
			dir := t.TempDir()
			var last int64
			got, err := svc.Diff.Apply(testCtx(t), desc, bind(dir), corediff.WithProgress(func(_ ocispec.Descriptor, n int64) { last = n }), corediff.WithSyncFs(true))
			if err != nil {
				t.Fatal(err)
			}
			if got.Digest != digest.FromBytes(plain) || got.Size != int64(len(plain)) || got.MediaType != ocispec.MediaTypeImageLayer {
				t.Errorf("got %+v", got)
			}
			if last != desc.Size {
				t.Errorf("progress ends at %d of %d", last, desc.Size)
			}
			if b, err := os.ReadFile(filepath.Join(dir, "d/f")); err != nil || string(b) != "text" {
				t.Errorf("file %q, %v", b, err)
			}
		})
	}
}

func TestApplyErrors(t *testing.T) {
	svc, _ := imagetest.Services(t)
	good := put(t, testCtx(t), svc, ocispec.MediaTypeImageLayer, imagetest.Layer(t))
	other := good
	other.MediaType = "application/x-other"
	missing := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("no"), Size: 2}
	gz := compress(t, compression.Gzip, bytes.Repeat([]byte("x"), 1<<20))
	cut := put(t, testCtx(t), svc, ocispec.MediaTypeImageLayerGzip, gz[:len(gz)/2])
	junk := put(t, testCtx(t), svc, ocispec.MediaTypeImageLayerGzip, gz)
	dir := t.TempDir()
	ro := []mount.Mount{{Type: "bind", Source: dir, Options: []string{"rbind", "ro"}}}
	before := runtime.NumGoroutine()
	for name, c := range map[string]struct {
		desc   ocispec.Descriptor
		mounts []mount.Mount
		is     func(error) bool
	}{
		"media type":     {other, bind(dir), errdefs.IsNotImplemented},
		"missing":        {missing, bind(dir), errdefs.IsNotFound},
		"read-only":      {good, ro, errdefs.IsInvalidArgument},
		"mount type":     {good, []mount.Mount{{Type: "tmpfs"}}, errdefs.IsNotImplemented},
		"two mounts":     {good, append(bind(dir), bind(dir)...), errdefs.IsNotImplemented},
		"truncated":      {cut, bind(dir), errdefs.IsInvalidArgument},
		"not an archive": {junk, bind(dir), errdefs.IsInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := svc.Diff.Apply(testCtx(t), c.desc, c.mounts); !c.is(err) {
				t.Errorf("got %v", err)
			}
		})
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines, %d before", after, before)
	}
}

// TestCompare changes a snapshot, takes its layer, applies that elsewhere, and
// compares the trees' archives, for each snapshotter and form of mounts.
func TestCompare(t *testing.T) {
	testenv.Need(t, testenv.Root)
	for _, name := range []string{"overlayfs", "native"} {
		t.Run(name, func(t *testing.T) {
			svc, _ := imagetest.Services(t)
			sn := svc.Snapshotter(name)
			if sn == nil {
				t.Skipf("no %s on this host", name)
			}
			// Nothing refers to what this makes: without a lease it is garbage.
			ctx, release, err := image.WithLease(testCtx(t), svc)
			if err != nil {
				t.Fatal(err)
			}
			defer release()
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			prepare := func(key, parent string, layer []byte) []mount.Mount {
				t.Helper()
				m, err := sn.Prepare(ctx, key, parent)
				must(err)
				if layer != nil {
					_, err = svc.Diff.Apply(ctx, put(t, ctx, svc, ocispec.MediaTypeImageLayer, layer), m)
					must(err)
				}
				return m
			}
			prepare("a", "", imagetest.Layer(t, imagetest.File{Name: "keep", Body: "k"}, imagetest.File{Name: "gone", Body: "g"}, imagetest.File{Name: "d/old", Body: "o"}))
			must(sn.Commit(ctx, "base", "a"))
			prepare("b", "base", imagetest.Layer(t, imagetest.File{Name: "mid", Body: "m"}))
			must(sn.Commit(ctx, "mid", "b"))
			change := imagetest.Layer(t, imagetest.File{Name: ".wh.gone"}, imagetest.File{Name: "d/new", Body: "n"}, imagetest.File{Name: "keep", Body: "changed"})
			upper := prepare("c", "mid", change)
			lower, err := sn.View(ctx, "view", "mid")
			must(err)

			for _, mt := range []string{"", ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerZstd} {
				desc, err := svc.Diff.Compare(ctx, lower, upper, corediff.WithMediaType(mt), corediff.WithLabels(map[string]string{"x": "y"}))
				must(err)
				info, err := svc.Content.Info(ctx, desc.Digest)
				must(err)
				if info.Size != desc.Size || info.Labels["x"] != "y" {
					t.Errorf("descriptor %+v, info %+v", desc, info)
				}
				m := prepare("again"+mt, "mid", nil)
				plain, err := svc.Diff.Apply(ctx, desc, m)
				must(err)
				if plain.Digest.String() != info.Labels["containerd.io/uncompressed"] {
					t.Errorf("diff ID %s, label %q", plain.Digest, info.Labels["containerd.io/uncompressed"])
				}
				same, err := svc.Diff.Compare(ctx, m, upper, corediff.WithMediaType(ocispec.MediaTypeImageLayer))
				must(err)
				if got := list(t, svc, same); len(got) != 0 {
					t.Errorf("%q: trees differ in %q", mt, got)
				}
			}
			// Two unrelated layers of the chain: everything since the base.
			base, err := sn.View(ctx, "view-base", "base")
			must(err)
			desc, err := svc.Diff.Compare(ctx, base, upper, corediff.WithMediaType(ocispec.MediaTypeImageLayer))
			must(err)
			got := list(t, svc, desc)
			got = slices.DeleteFunc(got, func(n string) bool { return n == "d/" })
			slices.Sort(got)
			if want := []string{".wh.gone", "d/new", "keep", "mid"}; !slices.Equal(got, want) {
				t.Errorf("since base: %q, want %q", got, want)
			}
			all, err := svc.Diff.Compare(ctx, nil, base, corediff.WithMediaType(ocispec.MediaTypeImageLayer))
			must(err)
			if got := list(t, svc, all); !slices.Equal(got, []string{"d/", "d/old", "gone", "keep"}) {
				t.Errorf("whole tree: %q", got)
			}
			if left, err := svc.Content.ListStatuses(ctx); err != nil || len(left) > 0 {
				t.Errorf("ingests left: %v %v", left, err)
			}
		})
	}
}

func list(t testing.TB, svc *containerd.Services, desc ocispec.Descriptor) []string {
	t.Helper()
	b, err := content.ReadBlob(testCtx(t), svc.Content, desc)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	tr := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := tr.Next()
		if err != nil {
			return names
		}
		names = append(names, h.Name)
	}
}

func TestCompareErrors(t *testing.T) {
	svc, _ := imagetest.Services(t)
	dir := t.TempDir()
	if _, err := svc.Diff.Compare(testCtx(t), nil, bind(dir), corediff.WithMediaType("text/plain")); !errdefs.IsNotImplemented(err) {
		t.Errorf("media type: %v", err)
	}
	if _, err := svc.Diff.Compare(testCtx(t), nil, bind(filepath.Join(dir, "none"))); err == nil {
		t.Error("missing directory: no error")
	}
	if left, err := svc.Content.ListStatuses(testCtx(t)); err != nil || len(left) > 0 {
		t.Errorf("ingests left: %v %v", left, err)
	}
}

// TestBomb: a stream that decompresses to far more than it is worth stops at
// the bound of its entries, with little memory.
func TestBomb(t *testing.T) {
	svc, _ := imagetest.Services(t)
	var buf bytes.Buffer
	zw, err := compression.NewWriter(&buf, compression.Gzip)
	if err != nil {
		t.Fatal(err)
	}
	// Zeros after the end marker: legal, part of the diff ID, never stored.
	zw.Write(imagetest.Layer(t))
	zeros := make([]byte, 1<<20)
	for range 256 {
		zw.Write(zeros)
	}
	zw.Close()
	desc := put(t, testCtx(t), svc, ocispec.MediaTypeImageLayerGzip, buf.Bytes())
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got, err := svc.Diff.Apply(testCtx(t), desc, bind(t.TempDir()))
	runtime.ReadMemStats(&after)
	if err != nil || got.Size != 256<<20+1024 {
		t.Errorf("size %d, %v", got.Size, err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 32<<20 {
		t.Errorf("allocated %s", fmt.Sprint(n))
	}
}

// BenchmarkApply unpacks a layer of 1000 files and 64 MiB.
func BenchmarkApply(b *testing.B) {
	svc, _ := imagetest.Services(b)
	var files []imagetest.File
	text := bytes.Repeat([]byte("some text of a program, and more\n"), 2000)
	for i := range 1000 {
		files = append(files, imagetest.File{Name: fmt.Sprintf("d%d/f%d", i/20, i), Body: fmt.Sprint(i) + string(text)})
	}
	plain := imagetest.Layer(b, files...)
	desc := put(b, testCtx(b), svc, ocispec.MediaTypeImageLayerGzip, compress(b, compression.Gzip, plain))
	b.SetBytes(int64(len(plain)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := svc.Diff.Apply(testCtx(b), desc, bind(b.TempDir())); err != nil {
			b.Fatal(err)
		}
	}
}
