package tarball

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/testenv"
)

func create(t testing.TB, root string, o WriterOptions) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := NewWriter(&buf, o)
	if err := w.Add(t.Context(), openRoot(t, root), "", ""); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func names(t testing.TB, archive []byte) []string {
	t.Helper()
	var out []string
	tr := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, h.Name)
	}
}

// TestRoundTrip: a tree, its archive and what is extracted from it are equal.
func TestRoundTrip(t *testing.T) {
	testenv.Need(t, testenv.Root)
	src, dst := t.TempDir(), t.TempDir()
	archive := archiveOf(t, dirEntry("a").mode(0o1777), file("a/f", "text").mode(0o4711), symlink("a/l", "../b"),
		hardlink("b", "a/f"), entry{tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}, ""},
		entry{tar.Header{Typeflag: tar.TypeFifo, Name: "p", Mode: 0o600}, ""}, file("u\u00fcml", "\x00bin"), file("long/"+strings.Repeat("n", 250), ""))
	if err := extract(t, src, archive, Options{}); err != nil {
		t.Fatal(err)
	}
	when := time.Unix(1650000000, 987654321)
	if err := os.Chtimes(filepath.Join(src, "a/f"), when, when); err != nil {
		t.Fatal(err)
	}
	if err := unix.Lsetxattr(filepath.Join(src, "null"), "trusted.x", []byte("y\x00z"), 0); err != nil {
		t.Fatal(err)
	}
	first := create(t, src, WriterOptions{})
	if err := extract(t, dst, first, Options{}); err != nil {
		t.Fatal(err)
	}
	if a, b := snapshot(t, src), snapshot(t, dst); !maps.Equal(a, b) {
		t.Errorf("trees differ:\n%v\n%v", a, b)
	}
	if second := create(t, dst, WriterOptions{}); !bytes.Equal(first, second) {
		t.Error("the archive of the copy differs")
	}
	buf := make([]byte, 8)
	if n, err := unix.Lgetxattr(filepath.Join(dst, "null"), "trusted.x", buf); err != nil || string(buf[:n]) != "y\x00z" {
		t.Errorf("attribute %q, %v", buf[:n], err)
	}
}

// TestUpper writes overlay's own form as a layer.
func TestUpper(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	layer := archiveOf(t, dirEntry("d"), file("d/.wh..wh..opq", ""), file("d/f", ""), file(".wh.gone", ""))
	if err := extract(t, dir, layer, Options{Whiteouts: Overlay}); err != nil {
		t.Fatal(err)
	}
	got := names(t, create(t, dir, WriterOptions{Upper: true}))
	want := []string{"d/", "d/.wh..wh..opq", "d/f", ".wh.gone"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDiff(t *testing.T) {
	lower, upper := t.TempDir(), t.TempDir()
	base := archiveOf(t, file("same/f", "1"), file("d/changed", "1"), file("d/gone", ""), dirEntry("d/e/deep"), file("d/e/deep/x", "x"),
		file("kind", ""), symlink("l", "a"))
	for _, dir := range []string{lower, upper} {
		if err := extract(t, dir, base, own(Options{})); err != nil {
			t.Fatal(err)
		}
	}
	change := archiveOf(t, file("d/changed", "2"), file("d/.wh.gone", ""), file("d/e/deep/new", ""), dirEntry("kind"), symlink("l", "b"))
	if err := extract(t, upper, change, own(Options{Whiteouts: Delete})); err != nil {
		t.Fatal(err)
	}
	when := time.Unix(1700000000, 0)
	for _, p := range []string{"same", "d", "d/e", "d/e/deep"} {
		for _, dir := range []string{lower, upper} {
			if err := os.Chtimes(filepath.Join(dir, p), when, when); err != nil {
				t.Fatal(err)
			}
		}
	}
	var buf bytes.Buffer
	w := NewWriter(&buf, WriterOptions{})
	if err := w.AddDiff(t.Context(), openRoot(t, lower), openRoot(t, upper)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got := names(t, buf.Bytes())
	want := []string{"d/", "d/changed", "d/e/", "d/e/deep/", "d/e/deep/new", "d/.wh.gone", "kind/", "l"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := extract(t, lower, buf.Bytes(), own(Options{Whiteouts: Delete})); err != nil {
		t.Fatal(err)
	}
	if a, b := snapshot(t, lower), snapshot(t, upper); !maps.Equal(a, b) {
		t.Errorf("applied diff differs:\n%v\n%v", a, b)
	}
}

func TestEmptyArchive(t *testing.T) {
	if b := create(t, t.TempDir(), WriterOptions{}); len(b) != 1024 {
		t.Errorf("archive of nothing has %d bytes", len(b))
	}
}
