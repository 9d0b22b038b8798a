package image

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Exported is an image to write to an archive.
type Exported struct {
	Target ocispec.Descriptor
	Names  []string // normalized references, possibly none
}

// Export writes an archive of the given images to w: an OCI image layout that is
// also readable as one of docker save, for which manifest.json describes the
// manifest that match prefers. The same content gives the same bytes. Of an
// index, what the store does not have is left out; nothing else may miss.
//
// Errors: NotFound for missing content.
func Export(ctx context.Context, store content.Store, w io.Writer, list []Exported, match platforms.MatchComparer) error {
	e := exporter{store: store, match: match, blobs: map[digest.Digest]int64{}}
	for _, x := range list {
		if err := e.add(ctx, x); err != nil {
			return fmt.Errorf("export image %s: %w", x.Target.Digest, err)
		}
	}
	if err := e.write(ctx, w); err != nil {
		return fmt.Errorf("export images: %w", err)
	}
	return nil
}

type exporter struct {
	store content.Store
	match platforms.MatchComparer

	blobs  map[digest.Digest]int64 // sizes
	index  []ocispec.Descriptor
	docker []dockerImage
}

func (e *exporter) add(ctx context.Context, x Exported) error {
	if err := e.collect(ctx, x.Target, 0); err != nil {
		return err
	}
	if len(x.Names) == 0 {
		e.index = append(e.index, x.Target)
	}
	for _, name := range x.Names {
		d := x.Target
		d.Annotations = joinLabels(d.Annotations, map[string]string{images.AnnotationImageName: name})
		if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
			d.Annotations[ocispec.AnnotationRefName] = name[i+1:]
		}
		e.index = append(e.index, d)
	}
	return e.addDocker(ctx, x)
}

// addDocker describes the preferred manifest in manifest.json, if there is one.
func (e *exporter) addDocker(ctx context.Context, x Exported) error {
	all, err := Manifests(ctx, e.store, x.Target)
	if err != nil {
		return err
	}
	var best *Manifest
	var bestPlatform ocispec.Platform
	for _, m := range all {
		if !m.Present || !IsImage(m.Document) || IsAttestation(m.Desc) {
			continue
		}
		var cfg ocispec.Image
		if err := ReadConfig(ctx, e.store, m.Document.Config, &cfg); err != nil {
			if errdefs.IsNotFound(err) {
				continue
			}
			return err
		}
		p := platforms.Normalize(cfg.Platform)
		single := len(all) == 1
		if (single || e.match.Match(p)) && (best == nil || e.match.Less(p, bestPlatform)) {
			best, bestPlatform = &m, p
		}
	}
	if best == nil {
		return nil
	}
	img := dockerImage{Config: blobPath(best.Document.Config.Digest), RepoTags: familiar(x.Names), Layers: []string{}}
	for _, l := range best.Document.Layers {
		img.Layers = append(img.Layers, blobPath(l.Digest))
	}
	for i := range e.docker {
		if e.docker[i].Config == img.Config && slices.Equal(e.docker[i].Layers, img.Layers) {
			e.docker[i].RepoTags = append(e.docker[i].RepoTags, img.RepoTags...)
			return nil
		}
	}
	e.docker = append(e.docker, img)
	return nil
}

// familiar shortens names of Docker Hub, as manifest.json has them.
func familiar(names []string) []string {
	var out []string
	for _, n := range names {
		n = strings.TrimPrefix(n, "docker.io/")
		out = append(out, strings.TrimPrefix(n, "library/"))
	}
	return out
}

// collect notes the blobs that d leads to.
func (e *exporter) collect(ctx context.Context, d ocispec.Descriptor, depth int) error {
	if _, ok := e.blobs[d.Digest]; ok {
		return nil
	}
	if depth > maxDepth {
		return invalid("indexes nest too deep")
	}
	if !images.IsIndexType(d.MediaType) && !images.IsManifestType(d.MediaType) {
		if images.IsNonDistributable(d.MediaType) {
			return nil
		}
		info, err := e.store.Info(ctx, d.Digest)
		if err == nil {
			e.blobs[d.Digest] = info.Size
		}
		return err
	}
	doc, err := ReadDocument(ctx, e.store, d)
	if err != nil {
		return err
	}
	for _, c := range doc.Children() {
		// An index may list what was never pulled.
		if err := e.collect(ctx, c, depth+1); err != nil && (doc.Index == nil || !errdefs.IsNotFound(err)) {
			return err
		}
	}
	e.blobs[d.Digest] = d.Size
	return nil
}

func blobPath(d digest.Digest) string {
	return path.Join("blobs", d.Algorithm().String(), d.Encoded())
}

func (e *exporter) write(ctx context.Context, w io.Writer) error {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: e.index}
	if index.Manifests == nil {
		index.Manifests = []ocispec.Descriptor{}
	}
	files := map[string][]byte{}
	for name, v := range map[string]any{
		"index.json":            index,
		"manifest.json":         e.docker,
		ocispec.ImageLayoutFile: ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion},
	} {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		files[name] = b
	}
	if len(e.docker) == 0 {
		delete(files, "manifest.json")
	}
	buf := bufio.NewWriterSize(w, copyBuffer)
	tw := tar.NewWriter(buf)
	dirs := map[string]bool{"blobs": true}
	byPath := map[string]digest.Digest{}
	for d := range e.blobs {
		byPath[blobPath(d)] = d
		dirs[path.Join("blobs", d.Algorithm().String())] = true
	}
	var names []string
	for n := range dirs {
		names = append(names, n+"/")
	}
	for n := range byPath {
		names = append(names, n)
	}
	for n := range files {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		var err error
		switch {
		case strings.HasSuffix(n, "/"):
			err = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: n, Mode: 0o755})
		case files[n] != nil:
			err = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: n, Mode: 0o644, Size: int64(len(files[n]))})
			if err == nil {
				_, err = tw.Write(files[n])
			}
		default:
			err = e.writeBlob(ctx, tw, n, byPath[n])
		}
		if err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return buf.Flush()
}

func (e *exporter) writeBlob(ctx context.Context, tw *tar.Writer, name string, d digest.Digest) error {
	ra, err := e.store.ReaderAt(ctx, ocispec.Descriptor{Digest: d})
	if err != nil {
		return err
	}
	defer ra.Close()
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o444, Size: ra.Size()}); err != nil {
		return err
	}
	src := io.NewSectionReader(ra, 0, ra.Size())
	_, err = io.CopyBuffer(writerOnly{tw}, ctxReader{ctx, src}, make([]byte, copyBuffer))
	return err
}
