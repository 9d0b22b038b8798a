// Package imagetest makes images, archives of them, and services to keep them
// in, for tests. Only tests may import it.
package imagetest

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/klauspost/compress/gzip"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/containerd"
	"lighter/containerd/diff"
	"lighter/containerd/local"
)

// Services are storage in a directory of the test, without tasks and events.
func Services(t testing.TB) (*containerd.Services, *local.Storage) {
	t.Helper()
	st, err := local.OpenStorage(local.StorageConfig{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	s := containerd.Services{
		Namespaces: st.Namespaces, Content: st.Content, Images: st.Images,
		Containers: st.Containers, Leases: st.Leases, Diff: diff.New(st.Content, nil),
	}
	return s.WithSnapshotters(st.Snapshotters), st
}

// File is a file of a layer.
type File struct {
	Name, Body string
	Link       string // makes it a symbolic link
}

// Layer returns the tar of a layer.
func Layer(t testing.TB, files ...File) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.Name, Mode: 0o644, Size: int64(len(f.Body)), ModTime: time.Unix(1700000000, 0)}
		if f.Link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(tw, f.Body)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Image is an image with its blobs.
type Image struct {
	Config   ocispec.Image
	Layers   [][]byte // tars
	Manifest ocispec.Descriptor
	Blobs    map[digest.Digest][]byte
	Doc      ocispec.Manifest
}

// New makes an image for the host's platform from tars, compressed with gzip.
func New(t testing.TB, cfg ocispec.ImageConfig, layers ...[]byte) Image {
	t.Helper()
	when := time.Unix(1700000000, 0).UTC()
	img := Image{Layers: layers, Blobs: map[digest.Digest][]byte{}}
	img.Config = ocispec.Image{Created: &when, Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, Config: cfg}
	img.Config.RootFS.Type = "layers"
	img.Doc = ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	for i, l := range layers {
		var buf bytes.Buffer
		zw := gzip.NewWriter(&buf)
		zw.Write(l)
		zw.Close()
		img.Doc.Layers = append(img.Doc.Layers, img.add(ocispec.MediaTypeImageLayerGzip, buf.Bytes()))
		img.Config.RootFS.DiffIDs = append(img.Config.RootFS.DiffIDs, digest.FromBytes(l))
		img.Config.History = append(img.Config.History, ocispec.History{Created: &when, CreatedBy: fmt.Sprintf("layer %d", i)})
	}
	img.Doc.Config = img.add(ocispec.MediaTypeImageConfig, mustJSON(t, img.Config))
	img.Manifest = img.add(ocispec.MediaTypeImageManifest, mustJSON(t, img.Doc))
	return img
}

func (i *Image) add(mediaType string, b []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	i.Blobs[d.Digest] = b
	return d
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Archive is the tar of files in order.
func Archive(t testing.TB, files ...File) []byte { return Layer(t, files...) }

// Docker returns the archive of docker save before the OCI layout, with plain
// layers.
func (i Image) Docker(t testing.TB, tags ...string) []byte {
	t.Helper()
	cfg := mustJSON(t, i.Config)
	name := digest.FromBytes(cfg).Encoded() + ".json"
	entry := map[string]any{"Config": name, "RepoTags": tags, "Layers": []string{}}
	files := []File{}
	var layers []string
	for n, l := range i.Layers {
		p := fmt.Sprintf("%d/layer.tar", n)
		layers = append(layers, p)
		files = append(files, File{Name: p, Body: string(l)}, File{Name: fmt.Sprintf("%d/VERSION", n), Body: "1.0"})
	}
	entry["Layers"] = layers
	files = append(files, File{Name: name, Body: string(cfg)}, File{Name: "manifest.json", Body: string(mustJSON(t, []any{entry}))})
	return Archive(t, files...)
}

// OCI returns the archive of an OCI layout that names the image so.
func (i Image) OCI(t testing.TB, name string) []byte {
	t.Helper()
	d := i.Manifest
	if name != "" {
		d.Annotations = map[string]string{"io.containerd.image.name": name}
	}
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{d}}
	files := []File{{Name: "index.json", Body: string(mustJSON(t, idx))}, {Name: "oci-layout", Body: `{"imageLayoutVersion":"1.0.0"}`}}
	for d, b := range i.Blobs {
		files = append(files, File{Name: "blobs/" + d.Algorithm().String() + "/" + d.Encoded(), Body: string(b)})
	}
	return Archive(t, files...)
}

// Registry runs Debian's docker-registry and returns its host and port.
func Registry(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {addr: %s}\n", dir, addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-registry", "serve", config)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	ready := time.NewTicker(20 * time.Millisecond)
	defer ready.Stop()
	for range 500 {
		if resp, err := http.Get("http://" + addr + "/v2/"); err == nil {
			resp.Body.Close()
			return addr
		}
		<-ready.C
	}
	t.Fatal("registry does not answer")
	return ""
}

// Apply stores the first layer of img and puts it into mounts.
func Apply(t testing.TB, ctx context.Context, store content.Store, img Image, mounts []mount.Mount) {
	t.Helper()
	d := img.Doc.Layers[0]
	if err := content.WriteBlob(ctx, store, d.Digest.String(), bytes.NewReader(img.Blobs[d.Digest]), d); err != nil {
		t.Fatal(err)
	}
	if _, err := diff.New(store, nil).Apply(ctx, d, mounts); err != nil {
		t.Fatal(err)
	}
}

// WithLayer returns img with its only layer replaced by the blob b, which d
// describes and which unpacks to the same.
func WithLayer(t testing.TB, img Image, d ocispec.Descriptor, b []byte) Image {
	t.Helper()
	img.Doc.Layers = []ocispec.Descriptor{d}
	img.Blobs = map[digest.Digest][]byte{d.Digest: b, img.Doc.Config.Digest: img.Blobs[img.Doc.Config.Digest]}
	img.Manifest = img.add(ocispec.MediaTypeImageManifest, mustJSON(t, img.Doc))
	return img
}
