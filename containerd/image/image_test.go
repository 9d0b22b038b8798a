package image_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/containerd"
	"lighter/containerd/image"
	"lighter/containerd/image/imagetest"
	"lighter/internal/registry"
	"lighter/internal/testenv"
)

var timeZero time.Time

func testCtx(t testing.TB) context.Context { return namespaces.WithNamespace(t.Context(), "test") }

func resolver(t testing.TB) remotes.Resolver {
	return registry.NewResolver(t.Context(), registry.Options{})
}

func twoLayers(t testing.TB) imagetest.Image {
	return imagetest.New(t, ocispec.ImageConfig{Cmd: []string{"sh"}},
		imagetest.Layer(t, imagetest.File{Name: "etc/a", Body: "1"}, imagetest.File{Name: "lib", Link: "usr/lib"}, imagetest.File{Name: "usr/lib/x", Body: "x"}),
		imagetest.Layer(t, imagetest.File{Name: "etc/.wh.a"}, imagetest.File{Name: "lib/y", Body: "y"}))
}

// load imports an archive and records its images under a lease.
func load(t testing.TB, svc *containerd.Services, archive []byte) []image.Loaded {
	t.Helper()
	ctx, release, err := image.WithLease(testCtx(t), svc)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	loaded, err := image.Import(ctx, svc, bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range loaded {
		for _, n := range l.Names {
			if _, err := image.Record(ctx, svc, images.Image{Name: n, Target: l.Target}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return loaded
}

func TestLoadExport(t *testing.T) {
	img := twoLayers(t)
	for name, archive := range map[string][]byte{"docker": img.Docker(t, "docker.io/library/x:1"), "oci": img.OCI(t, "docker.io/library/x:1")} {
		t.Run(name, func(t *testing.T) {
			svc, st := imagetest.Services(t)
			ctx := testCtx(t)
			loaded := load(t, svc, archive)
			if len(loaded) != 1 || loaded[0].Names[0] != "docker.io/library/x:1" {
				t.Fatalf("loaded %v", loaded)
			}
			if name == "oci" && loaded[0].Target.Digest != img.Manifest.Digest {
				t.Errorf("target %s, want %s", loaded[0].Target.Digest, img.Manifest.Digest)
			}
			// Nothing that the record needs goes with the lease.
			if err := st.GC(ctx); err != nil {
				t.Fatal(err)
			}
			var first, second bytes.Buffer
			out := []image.Exported{{Target: loaded[0].Target, Names: loaded[0].Names}}
			if err := image.Export(ctx, svc.Content, &first, out, platforms.Default()); err != nil {
				t.Fatal(err)
			}
			svc2, _ := imagetest.Services(t)
			again := load(t, svc2, first.Bytes())
			if len(again) != 1 || again[0].Target.Digest != loaded[0].Target.Digest {
				t.Fatalf("loaded again %v", again)
			}
			if err := image.Export(ctx, svc2.Content, &second, out, platforms.Default()); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(first.Bytes(), second.Bytes()) {
				t.Error("exports of one image differ")
			}
		})
	}
}

func TestUnpack(t *testing.T) {
	testenv.Need(t, testenv.Root)
	svc, st := imagetest.Services(t)
	ctx := testCtx(t)
	loaded := load(t, svc, twoLayers(t).Docker(t, "x:1"))
	for _, sn := range []string{"overlayfs", "native"} {
		if svc.Snapshotter(sn) == nil {
			continue
		}
		chain, err := image.Unpack(ctx, svc, loaded[0].Target, sn, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := st.GC(ctx); err != nil {
			t.Fatal(err)
		}
		mounts, err := svc.Snapshotter(sn).Prepare(ctx, "c-"+sn, chain.String())
		if err != nil {
			t.Fatalf("%s: snapshot did not survive the collector: %v", sn, err)
		}
		if sn != "native" {
			continue
		}
		root := mounts[0].Source
		if b, err := os.ReadFile(filepath.Join(root, "usr/lib/y")); err != nil || string(b) != "y" {
			t.Errorf("file through link of the layer below: %q, %v", b, err)
		}
		if _, err := os.Lstat(filepath.Join(root, "etc/a")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("whiteout: %v", err)
		}
	}
}

// TestHostileArchives: an archive that lies about what is in it is refused, and
// an image that is there does not change.
func TestHostileArchives(t *testing.T) {
	img := twoLayers(t)
	good := img.OCI(t, "x:1")
	layer := img.Doc.Layers[0].Digest
	f := func(files ...imagetest.File) []byte { return imagetest.Archive(t, files...) }
	layout := imagetest.File{Name: "oci-layout", Body: `{"imageLayoutVersion":"1.0.0"}`}
	index := func(manifests string) imagetest.File {
		return imagetest.File{Name: "index.json", Body: `{"schemaVersion":2,"manifests":[` + manifests + `]}`}
	}
	desc := func(d digest.Digest, size int, mt string) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mt, d, size)
	}
	loop := `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[]}`
	both := `{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`
	cases := map[string][]byte{
		"empty":            f(),
		"not a tar":        []byte("hello"),
		"wrong blob":       f(imagetest.File{Name: "blobs/sha256/" + layer.Encoded(), Body: "lie"}, layout, index("")),
		"blob path escape": f(imagetest.File{Name: "blobs/sha256/../../etc/x", Body: "x"}, imagetest.File{Name: "../x"}),
		"short digest":     f(imagetest.File{Name: "blobs/sha256/abcd", Body: "x"}),
		"odd algorithm":    f(imagetest.File{Name: "blobs/md5/d41d8cd98f00b204e9800998ecf8427e", Body: ""}),
		"huge index":       f(layout, imagetest.File{Name: "index.json", Body: strings.Repeat(" ", 9<<20)}),
		"missing blob":     f(layout, index(desc(digest.FromString("no"), 2, ocispec.MediaTypeImageManifest))),
		"digest in index":  f(layout, index(`{"mediaType":"`+ocispec.MediaTypeImageManifest+`","digest":"sha256:../../x","size":1}`)),
		"manifest and index": f(layout, imagetest.File{Name: "blobs/sha256/" + digest.FromString(both).Encoded(), Body: both},
			index(desc(digest.FromString(both), len(both), ocispec.MediaTypeImageManifest))),
		"type disagrees": f(layout, imagetest.File{Name: "blobs/sha256/" + digest.FromString(loop).Encoded(), Body: loop},
			index(desc(digest.FromString(loop), len(loop), ocispec.MediaTypeImageManifest))),
		"manifest.json escape":  f(imagetest.File{Name: "manifest.json", Body: `[{"Config":"../../etc/passwd","Layers":["/etc/shadow"]}]`}),
		"manifest.json null":    f(imagetest.File{Name: "manifest.json", Body: `[null]`}),
		"link to outside":       f(imagetest.File{Name: "c.json", Link: "/etc/passwd"}, imagetest.File{Name: "manifest.json", Body: `[{"Config":"c.json"}]`}),
		"link loop":             f(imagetest.File{Name: "c.json", Link: "c.json"}, imagetest.File{Name: "manifest.json", Body: `[{"Config":"c.json"}]`}),
		"config without layers": f(imagetest.File{Name: "c.json", Body: `{"rootfs":{"diff_ids":["sha256:x"]}}`}, imagetest.File{Name: "manifest.json", Body: `[{"Config":"c.json"}]`}),
		"layout version":        f(imagetest.File{Name: "oci-layout", Body: `{"imageLayoutVersion":"9.0.0"}`}, index("")),
	}
	svc, _ := imagetest.Services(t)
	load(t, svc, good)
	for name, archive := range cases {
		t.Run(name, func(t *testing.T) {
			ctx, release, err := image.WithLease(testCtx(t), svc)
			if err != nil {
				t.Fatal(err)
			}
			defer release()
			if _, err := image.Import(ctx, svc, bytes.NewReader(archive)); err == nil {
				t.Error("accepted")
			}
			b, err := image.ReadBlob(ctx, svc.Content, img.Doc.Layers[0])
			if err != nil || digest.FromBytes(b) != layer {
				t.Errorf("stored layer: %v", err)
			}
			left, err := svc.Content.ListStatuses(ctx)
			if err != nil || len(left) != 0 {
				t.Errorf("ingests left: %v, %v", left, err)
			}
		})
	}
}

// TestRegistry pushes to a real registry and pulls from it, many at once.
func TestRegistry(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Program("docker-registry", "docker-registry"))
	host := imagetest.Registry(t)
	ref := host + "/some/repo:tag"
	img := twoLayers(t)
	from, _ := imagetest.Services(t)
	loaded := load(t, from, img.OCI(t, ref))
	ctx := testCtx(t)
	if err := image.Push(ctx, from, ref, loaded[0].Target, image.PushOptions{Resolver: resolver(t)}); err != nil {
		t.Fatal(err)
	}
	var existed atomic.Int32
	again := image.PushOptions{Resolver: resolver(t), Progress: func(e image.Event) {
		if e.Phase == image.Exists {
			existed.Add(1)
		}
	}}
	if err := image.Push(ctx, from, ref, loaded[0].Target, again); err != nil {
		t.Fatal(err)
	}
	if existed.Load() < 3 {
		t.Errorf("second push found %d blobs there", existed.Load())
	}
	svc, st := imagetest.Services(t)
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			p, err := image.Pull(ctx, svc, ref, image.PullOptions{Resolver: resolver(t)})
			if err != nil {
				t.Error(err)
			} else if p.Target.Digest != img.Manifest.Digest || p.ChainID == "" {
				t.Errorf("pulled %+v", p)
			}
		})
	}
	wg.Wait()
	if err := st.GC(ctx); err != nil {
		t.Fatal(err)
	}
	got, err := svc.Images.Get(ctx, ref)
	if err != nil || got.Target.Digest != img.Manifest.Digest {
		t.Errorf("record %v, %v", got, err)
	}
	tags, err := image.Tags(ctx, registry.Options{}, host+"/some/repo")
	if err != nil || len(tags) != 1 || tags[0] != "tag" {
		t.Errorf("tags %v, %v", tags, err)
	}
	if _, err := image.Pull(ctx, svc, host+"/some/repo:other", image.PullOptions{Resolver: resolver(t)}); !errdefs.IsNotFound(err) {
		t.Errorf("missing tag: %v", err)
	}
	arm := ocispec.Platform{OS: "linux", Architecture: "s390x"}
	if _, err := image.Pull(ctx, svc, ref, image.PullOptions{Resolver: resolver(t), Platform: &arm}); !errdefs.IsNotFound(err) {
		t.Errorf("wrong platform: %v", err)
	}
}

// liar is a registry that serves an image, changed by tamper.
type liar struct {
	img    imagetest.Image
	tamper func(w http.ResponseWriter, r *http.Request, body []byte) bool // true: it has answered
	gets   atomic.Int32
}

func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	if name == "latest" {
		name = l.img.Manifest.Digest.String()
	}
	body, ok := l.img.Blobs[digest.Digest(name)]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if strings.Contains(r.URL.Path, "/manifests/") {
		w.Header().Set("Content-Type", l.img.Manifest.MediaType)
	}
	w.Header().Set("Docker-Content-Digest", name)
	if r.Method == http.MethodGet {
		l.gets.Add(1)
	}
	if l.tamper != nil && l.tamper(w, r, body) {
		return
	}
	http.ServeContent(w, r, "", timeZero, bytes.NewReader(body))
}

// TestLyingRegistry: what a registry sends that is not what was asked for is an
// error, and never committed (F34, F35).
func TestLyingRegistry(t *testing.T) {
	testenv.Need(t, testenv.Root)
	img := twoLayers(t)
	layer := img.Doc.Layers[1].Digest
	isLayer := func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, layer.String())
	}
	var cuts atomic.Int32
	cases := map[string]struct {
		tamper func(w http.ResponseWriter, r *http.Request, body []byte) bool
		ok     bool
	}{
		"honest": {nil, true},
		"wrong layer": {func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if isLayer(r) {
				w.Write(bytes.Repeat([]byte("x"), len(body)))
			}
			return isLayer(r)
		}, false},
		"short layer": {func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if isLayer(r) {
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
				w.Write(body[:len(body)/2])
			}
			return isLayer(r)
		}, false},
		"long layer": {func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if isLayer(r) {
				w.Write(append(bytes.Clone(body), "more"...))
			}
			return isLayer(r)
		}, false},
		"cut once, then ranges": {func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if isLayer(r) && cuts.Add(1) == 1 {
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
				w.Write(body[:len(body)/2])
				return true
			}
			return false
		}, true},
		"html for layer": {func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if isLayer(r) {
				w.Header().Set("Content-Type", "text/html")
				fmt.Fprint(w, "<html>login</html>")
			}
			return isLayer(r)
		}, false},
		"html for manifest": {func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if strings.Contains(r.URL.Path, "/manifests/") {
				w.Header().Set("Content-Type", "text/html")
				w.Header().Del("Docker-Content-Digest")
				fmt.Fprint(w, "<html>login</html>")
				return true
			}
			return false
		}, false},
		"wrong manifest": {func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
				w.Write(append(bytes.Clone(body), ' '))
				return true
			}
			return false
		}, false},
		"wrong config": {func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if strings.HasSuffix(r.URL.Path, img.Doc.Config.Digest.String()) {
				w.Write(bytes.ReplaceAll(body, []byte("sh"), []byte("zz")))
				return true
			}
			return false
		}, false},
		"redirect loop": {func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if isLayer(r) {
				http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
			}
			return isLayer(r)
		}, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			l := &liar{img: img, tamper: c.tamper}
			srv := httptest.NewServer(l)
			defer srv.Close()
			svc, _ := imagetest.Services(t)
			ctx := testCtx(t)
			ref := strings.TrimPrefix(srv.URL, "http://") + "/r:latest"
			_, err := image.Pull(ctx, svc, ref, image.PullOptions{Resolver: resolver(t)})
			if c.ok != (err == nil) {
				t.Fatalf("error %v", err)
			}
			t.Logf("%v", err)
			if l.gets.Load() > 40 {
				t.Errorf("%d requests", l.gets.Load())
			}
			if c.ok {
				return
			}
			if list, _ := svc.Images.List(ctx); len(list) != 0 {
				t.Errorf("listed: %v", list)
			}
			if _, err := svc.Content.Info(ctx, layer); strings.HasSuffix(name, "layer") && !errdefs.IsNotFound(err) {
				t.Errorf("bad layer is in the store: %v", err)
			}
			// The same store serves a good registry afterwards.
			l.tamper = nil
			if _, err := image.Pull(ctx, svc, ref, image.PullOptions{Resolver: resolver(t)}); err != nil {
				t.Errorf("pull after the lie: %v", err)
			}
		})
	}
}

// TestBadLayers: layers that verify but do not unpack, or to something else than
// the config says, fail the pull soon (CVE-2021-20291, GHSA-f2v9-hprr-32q3).
func TestBadLayers(t *testing.T) {
	testenv.Need(t, testenv.Root)
	swapped := twoLayers(t)
	swapped.Config.RootFS.DiffIDs[0], swapped.Config.RootFS.DiffIDs[1] = swapped.Config.RootFS.DiffIDs[1], swapped.Config.RootFS.DiffIDs[0]
	for name, archive := range map[string][]byte{
		"random":       imagetest.New(t, ocispec.ImageConfig{}, bytes.Repeat([]byte("garbage"), 1000)).OCI(t, "x:1"),
		"other diffID": swapped.Docker(t, "x:1"),
		"traversal":    imagetest.New(t, ocispec.ImageConfig{}, imagetest.Layer(t, imagetest.File{Name: "../../x", Body: "x"})).OCI(t, "x:1"),
	} {
		t.Run(name, func(t *testing.T) {
			svc, _ := imagetest.Services(t)
			ctx := testCtx(t)
			loaded := load(t, svc, archive)
			if _, err := image.Unpack(ctx, svc, loaded[0].Target, "", nil); !errdefs.IsInvalidArgument(err) {
				t.Errorf("got %v, want InvalidArgument", err)
			}
		})
	}
}

// TestNoDowngrade: a registry that is not listed as insecure is never spoken to
// in the clear, nor is a token server (CVE-2014-5277, CVE-2019-10214).
func TestNoDowngrade(t *testing.T) {
	var heard atomic.Int32
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { heard.Add(1) }))
	defer plain.Close()
	r := registry.NewResolver(t.Context(), registry.Options{Host: "registry.invalid", User: "u", Secret: "s"})
	if _, _, err := r.Resolve(testCtx(t), "registry.invalid/x:1"); err == nil {
		t.Error("resolved")
	}
	if heard.Load() != 0 {
		t.Error("plain HTTP was used")
	}
}

func FuzzParseDocument(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"sha256:x"},"layers":[]}`), ocispec.MediaTypeImageManifest)
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":null}]}`), ocispec.MediaTypeImageIndex)
	f.Fuzz(func(t *testing.T, b []byte, mediaType string) {
		doc, err := image.ParseDocument(b, ocispec.Descriptor{MediaType: mediaType})
		if err == nil {
			for _, c := range doc.Children() {
				if c.Digest.Validate() != nil || c.Size < 0 {
					t.Errorf("accepted %v", c)
				}
			}
		}
	})
}

// What a killed process held for itself is garbage at the next start.
func TestAbandon(t *testing.T) {
	svc, _ := imagetest.Services(t)
	ctx := testCtx(t)
	if _, _, err := image.WithLease(ctx, svc); err != nil {
		t.Fatal(err)
	}
	if _, err := svc.Leases.Create(ctx, leases.WithID("foreign")); err != nil {
		t.Fatal(err)
	}
	if err := image.Abandon(ctx, svc); err != nil {
		t.Fatal(err)
	}
	left, err := svc.Leases.List(ctx)
	if err != nil || len(left) != 1 || left[0].ID != "foreign" {
		t.Errorf("leases = %v, %v, want the foreign one", left, err)
	}
}
