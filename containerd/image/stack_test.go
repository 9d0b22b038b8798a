package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"lighter/containerd"
	"lighter/containerd/image"
	"lighter/containerd/image/imagetest"
	"lighter/internal/testenv"
)

func rawLayer(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range entries {
		body := []byte(h.Name)
		if h.Typeflag != tar.TypeReg {
			body = nil
		}
		h.Size, h.ModTime = int64(len(body)), time.Unix(1600000000, 0)
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// dependent is an image whose layers need those below: directories that only
// they describe, links through theirs, hard links to their files, whiteouts.
func dependent(t *testing.T) imagetest.Image {
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o640} }
	dir := func(name string, mode int64) tar.Header {
		return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, Uid: 7, Gid: 8}
	}
	return imagetest.New(t, ocispec.ImageConfig{},
		rawLayer(t, dir("./", 0o755), dir("etc/", 0o700), file("etc/a"), dir("usr/", 0o750), dir("usr/lib/", 0o711), file("usr/lib/l"),
			tar.Header{Typeflag: tar.TypeSymlink, Name: "lib", Linkname: "usr/lib"}),
		rawLayer(t, file("etc/b"), tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: "usr/lib/l"}),
		rawLayer(t, file("lib/through"), file("usr/.wh.lib"), dir("usr/lib/", 0o755), file("usr/lib/new")),
		rawLayer(t, file(".wh.etc"), file("plain")),
		rawLayer(t, file("etc/c"), file("usr/lib/.wh..wh..opq")),
		rawLayer(t, file(".wh..wh..opq"), file("last")))
}

// listing describes all that is below dir.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		opaque := make([]byte, 8)
		n, err := unix.Lgetxattr(p, "trusted.overlay.opaque", opaque)
		if err != nil {
			n = 0
		}
		body := ""
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			raw, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			body = string(raw)
		case unix.S_IFLNK:
			if body, err = os.Readlink(p); err != nil {
				return err
			}
		}
		mtime := st.Mtim.Sec
		if mtime > 1600000000 {
			mtime = 0 // of a directory that no layer describes
		}
		fmt.Fprintf(&b, "%s %o %d:%d dev %d time %d links %d opaque %q %q\n", strings.TrimPrefix(p, dir), st.Mode, st.Uid, st.Gid, st.Rdev, mtime, nlink(st), opaque[:n], body)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func nlink(st unix.Stat_t) uint64 {
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return 0
	}
	return uint64(st.Nlink)
}

// layersOf lists the directories of the image chain, topmost first.
func layersOf(t *testing.T, svc *containerd.Services, chain string) (all []string) {
	t.Helper()
	mounts, err := svc.Snapshotter("").View(testCtx(t), "view", chain)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range mounts[0].Options {
		if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
			for dir := range strings.SplitSeq(dirs, ":") {
				all = append(all, listing(t, dir))
			}
		}
	}
	return all
}

// TestStackEqualsSequence: layers unpacked at the same time give the files that
// they give one after the other, on an empty base and on layers that are there.
func TestStackEqualsSequence(t *testing.T) {
	testenv.Need(t, testenv.Root)
	img := dependent(t)
	srv := httptest.NewServer(&liar{img: img})
	defer srv.Close()
	ref := strings.TrimPrefix(srv.URL, "http://") + "/r:latest"

	oneByOne, _ := imagetest.Services(t)
	// Without containerd.StreamDiff, as over gRPC.
	oneByOne.Diff = struct{ containerd.Diff }{oneByOne.Diff}
	p, err := image.Pull(testCtx(t), oneByOne, ref, image.PullOptions{Resolver: resolver(t)})
	if err != nil {
		t.Fatal(err)
	}
	want := layersOf(t, oneByOne, p.ChainID.String())
	if len(want) != len(img.Layers) {
		t.Fatalf("%d layers, want %d", len(want), len(img.Layers))
	}
	for _, have := range []int{0, 1, 3} {
		t.Run(fmt.Sprintf("on %d", have), func(t *testing.T) {
			svc, st := imagetest.Services(t)
			if have > 0 {
				base := imagetest.New(t, ocispec.ImageConfig{}, img.Layers[:have]...)
				srv := httptest.NewServer(&liar{img: base})
				defer srv.Close()
				if _, err := image.Pull(testCtx(t), svc, strings.TrimPrefix(srv.URL, "http://")+"/base:latest", image.PullOptions{Resolver: resolver(t)}); err != nil {
					t.Fatal(err)
				}
			}
			p, err := image.Pull(testCtx(t), svc, ref, image.PullOptions{Resolver: resolver(t)})
			if err != nil {
				t.Fatal(err)
			}
			if err := st.GC(testCtx(t)); err != nil {
				t.Fatal(err)
			}
			got := layersOf(t, svc, p.ChainID.String())
			if len(got) != len(want) {
				t.Fatalf("%d layers, want %d", len(got), len(want))
			}
			for i := range want {
				if got[i] != want[i] {
					t.Errorf("layer %d from the top:\n%s\nwant:\n%s", i, got[i], want[i])
				}
			}
		})
	}
}

// TestUnpackWhileFetching: a layer is unpacked before its last byte is there, and
// again when the fetch turns out to have brought other bytes.
func TestUnpackWhileFetching(t *testing.T) {
	testenv.Need(t, testenv.Root)
	noise := make([]byte, 4<<20)
	for i := range noise {
		noise[i] = byte(i*i>>7 ^ i>>3)
	}
	img := imagetest.New(t, ocispec.ImageConfig{}, imagetest.Layer(t, imagetest.File{Name: "a", Body: string(noise)}))
	// The layer goes uncompressed: what half of it holds is then half of the file.
	plain := img.Layers[0]
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(plain), Size: int64(len(plain))}
	img = imagetest.WithLayer(t, img, d, plain)
	extracting := make(chan struct{})
	var seen bool
	l := &liar{img: img, tamper: func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, d.Digest.String()) {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.Write(body[:2<<20])
		http.NewResponseController(w).Flush()
		select {
		case <-extracting:
		case <-time.After(30 * time.Second):
			return true // the pull reports the cut
		}
		w.Write(body[2<<20:])
		return true
	}}
	srv := httptest.NewServer(l)
	defer srv.Close()
	svc, _ := imagetest.Services(t)
	ctx, cancel := context.WithTimeout(testCtx(t), time.Minute)
	defer cancel()
	ref := strings.TrimPrefix(srv.URL, "http://") + "/r:latest"
	_, err := image.Pull(ctx, svc, ref, image.PullOptions{Resolver: resolver(t), Progress: func(e image.Event) {
		if e.Phase == image.Extracting && e.Current >= 1<<20 && !seen {
			seen = true
			close(extracting)
		}
	}})
	if err != nil || !seen || l.gets.Load() > 3 {
		t.Fatalf("pull: %v, unpacked while fetching: %v, %d requests", err, seen, l.gets.Load())
	}
}
