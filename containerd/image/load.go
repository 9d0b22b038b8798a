package image

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/containerd"
	"lighter/internal/compression"
)

// Bounds of an archive of images.
const (
	maxArchiveEntries = 200000
	maxArchiveBytes   = 1 << 40
)

// Loaded is an image found in an archive.
type Loaded struct {
	Names  []string // as the archive has them, possibly none or invalid
	Target ocispec.Descriptor
}

// Import stores the images of the archive r, compressed or not, and returns
// them. It knows the OCI image layout (index.json) and the format of docker save
// before that (manifest.json); of an archive that is both, the layout counts.
// An image of several platforms may be there in part.
//
// The caller holds the lease that ctx carries until it has recorded the images;
// without one they are left to the collector. Blobs named by a digest are
// verified. r is read to its end.
//
// Errors: InvalidArgument for an archive that is neither, or malformed.
func Import(ctx context.Context, svc *containerd.Services, r io.Reader) ([]Loaded, error) {
	_, loaded, err := importArchive(ctx, svc, r)
	return loaded, err
}

// ImportIndex is Import that also stores the index of the whole archive: that of
// an OCI image layout as it is, else one with the names as containerd writes them.
func ImportIndex(ctx context.Context, svc *containerd.Services, r io.Reader) (ocispec.Descriptor, []Loaded, error) {
	a, loaded, err := importArchive(ctx, svc, r)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	index, err := a.index(ctx, loaded)
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("import index: %w", err)
	}
	return index, loaded, nil
}

func importArchive(ctx context.Context, svc *containerd.Services, r io.Reader) (*archive, []Loaded, error) {
	plain, _, err := compression.NewReader(r)
	if err != nil {
		return nil, nil, fmt.Errorf("import images: %w", err)
	}
	defer plain.Close()
	a := &archive{store: svc.Content, small: map[string][]byte{}, blobs: map[string]archived{}, links: map[string]string{}}
	if err := a.read(ctx, plain); err != nil {
		return nil, nil, fmt.Errorf("import images: %w", err)
	}
	if _, err := io.Copy(io.Discard, ctxReader{ctx, r}); err != nil { // padding
		return nil, nil, fmt.Errorf("import images: %w", err)
	}
	loaded, err := a.images(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("import images: %w", err)
	}
	return a, loaded, nil
}

// index stores the index of the archive that held the images.
func (a *archive) index(ctx context.Context, loaded []Loaded) (ocispec.Descriptor, error) {
	if raw, ok := a.small["index.json"]; ok {
		doc, err := parseDocument(raw, ocispec.MediaTypeImageIndex)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		return WriteJSONBlob(ctx, a.store, ocispec.MediaTypeImageIndex, raw, doc.GCLabels())
	}
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, l := range loaded {
		if len(l.Names) == 0 {
			idx.Manifests = append(idx.Manifests, l.Target)
		}
		for _, name := range l.Names {
			d := l.Target
			d.Annotations = map[string]string{images.AnnotationImageName: name}
			idx.Manifests = append(idx.Manifests, d)
		}
	}
	raw, err := json.Marshal(idx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return WriteJSONBlob(ctx, a.store, idx.MediaType, raw, Document{Index: &idx}.GCLabels())
}

type ctxReader struct {
	ctx context.Context // of the call that reads
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// archive is what has been read of one.
type archive struct {
	store content.Store
	small map[string][]byte   // the documents at the root
	blobs map[string]archived // everything else, stored
	links map[string]string   // symbolic links of old archives: name to name
}

type archived struct {
	digest digest.Digest
	size   int64
	kind   compression.Kind
}

func (a *archive) read(ctx context.Context, r io.Reader) error {
	tr := tar.NewReader(bufio.NewReaderSize(r, 256<<10))
	var total int64
	for entries := 0; ; entries++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return invalid("read archive: %w", err)
		}
		if entries >= maxArchiveEntries {
			return invalid("archive has more than %d entries", maxArchiveEntries)
		}
		if total += hdr.Size; hdr.Size < 0 || total > maxArchiveBytes {
			return invalid("archive expands to more than %d bytes", int64(maxArchiveBytes))
		}
		name := path.Clean(strings.TrimLeft(hdr.Name, "/"))
		if name == ".." || strings.HasPrefix(name, "../") {
			return invalid("entry %.80q leads out of the archive", hdr.Name)
		}
		switch hdr.Typeflag {
		case tar.TypeReg:
			err = a.file(ctx, name, hdr.Size, tr)
		case tar.TypeSymlink:
			a.links[name] = path.Join(path.Dir(name), hdr.Linkname)
		case tar.TypeLink:
			a.links[name] = path.Clean(hdr.Linkname)
		}
		if err != nil {
			return fmt.Errorf("entry %.80q: %w", hdr.Name, err)
		}
	}
}

func (a *archive) file(ctx context.Context, name string, size int64, r io.Reader) error {
	switch name {
	case "index.json", "manifest.json", "oci-layout", "repositories":
		if size > maxDocument {
			return invalid("document of %d bytes, more than %d", size, maxDocument)
		}
		b, err := io.ReadAll(r)
		a.small[name] = b
		return err
	}
	switch path.Base(name) {
	case "VERSION", "json": // of old docker save, not used
		return nil
	}
	want := digest.Digest("")
	if alg, hex, ok := strings.Cut(strings.TrimPrefix(name, "blobs/"), "/"); ok && strings.HasPrefix(name, "blobs/") {
		want = digest.NewDigestFromEncoded(digest.Algorithm(alg), hex)
		if err := checkDescriptor(ocispec.Descriptor{Digest: want}); err != nil {
			return err
		}
	}
	b, err := a.blob(ctx, want, size, r)
	if err != nil {
		return err
	}
	a.blobs[name] = b
	return nil
}

// blob stores one file. want may be "", for one that has no digest yet.
func (a *archive) blob(ctx context.Context, want digest.Digest, size int64, r io.Reader) (archived, error) {
	head := bufio.NewReaderSize(r, 64<<10)
	magic, err := head.Peek(10)
	if err != nil && !errors.Is(err, io.EOF) {
		return archived{}, err
	}
	b := archived{digest: want, size: size, kind: compression.Detect(magic)}
	ref := "import-" + uniqueID()
	w, err := content.OpenWriter(ctx, a.store, content.WithRef(ref), content.WithDescriptor(ocispec.Descriptor{Digest: want, Size: size}))
	if errdefs.IsAlreadyExists(err) {
		return b, verify(ctxReader{ctx, head}, want)
	}
	if err != nil {
		return archived{}, err
	}
	defer w.Close()
	st, err := w.Status()
	if err == nil && st.Offset == size && size > 0 {
		// Another namespace has the blob: the archive proves that it has it too.
		err = verify(ctxReader{ctx, head}, want)
	} else if err == nil {
		var n int64
		n, err = io.CopyBuffer(writerOnly{w}, ctxReader{ctx, head}, make([]byte, min(copyBuffer, size+1)))
		if err == nil && n != size {
			err = io.ErrUnexpectedEOF
		}
	}
	if err == nil {
		if b.digest == "" {
			b.digest = w.Digest()
		}
		if err = w.Commit(ctx, size, b.digest); errdefs.IsAlreadyExists(err) {
			return b, nil
		}
	}
	if err != nil {
		w.Close()
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		if aerr := a.store.Abort(cctx, ref); aerr != nil && !errdefs.IsNotFound(aerr) {
			err = errors.Join(err, aerr)
		}
	}
	return b, err
}

// verify reports an archive that gives other bytes for a blob that is stored.
func verify(r io.Reader, want digest.Digest) error {
	v := want.Verifier()
	if _, err := io.Copy(v, r); err != nil {
		return err
	}
	if !v.Verified() {
		return invalid("contents do not match the digest %s", want)
	}
	return nil
}

// writerOnly hides ReadFrom and the like, so that the given buffer is used.
type writerOnly struct{ io.Writer }

// images finds the images in what was read.
func (a *archive) images(ctx context.Context) ([]Loaded, error) {
	if raw, ok := a.small["oci-layout"]; ok {
		var layout ocispec.ImageLayout
		if err := strictJSON(raw, &layout); err != nil {
			return nil, fmt.Errorf("parse oci-layout: %w", err)
		}
		if layout.Version != ocispec.ImageLayoutVersion {
			return nil, invalid("OCI layout version %q is not supported", layout.Version)
		}
		if _, ok := a.small["index.json"]; !ok {
			return nil, invalid("OCI layout without index.json")
		}
		return a.layout(ctx)
	}
	if _, ok := a.small["manifest.json"]; ok {
		return a.docker(ctx)
	}
	if _, ok := a.small["index.json"]; ok {
		return a.layout(ctx)
	}
	return nil, invalid("unrecognized image format: neither index.json nor manifest.json is in the archive")
}

// layout reads an OCI image layout.
func (a *archive) layout(ctx context.Context) ([]Loaded, error) {
	doc, err := parseDocument(a.small["index.json"], ocispec.MediaTypeImageIndex)
	if err != nil {
		return nil, fmt.Errorf("parse index.json: %w", err)
	}
	var loaded []Loaded
	at := map[digest.Digest]int{}
	for _, d := range doc.Index.Manifests {
		if _, ok := d.Annotations[images.AnnotationManifestSubject]; ok {
			continue
		}
		name := d.Annotations[images.AnnotationImageName]
		if name == "" {
			name = d.Annotations[ocispec.AnnotationRefName]
		}
		if !images.IsIndexType(d.MediaType) && !images.IsManifestType(d.MediaType) {
			return nil, invalid("index.json refers to %s of media type %q", d.Digest, d.MediaType)
		}
		if err := a.keepChildren(ctx, d, 0); err != nil {
			return nil, err
		}
		delete(d.Annotations, images.AnnotationImageName)
		delete(d.Annotations, ocispec.AnnotationRefName)
		if len(d.Annotations) == 0 {
			d.Annotations = nil
		}
		i, ok := at[d.Digest]
		if !ok {
			i = len(loaded)
			at[d.Digest] = i
			loaded = append(loaded, Loaded{Target: d})
		}
		if name != "" {
			loaded[i].Names = append(loaded[i].Names, name)
		}
	}
	return loaded, nil
}

// keepChildren labels the documents that d leads to for the collector. Parts
// of an index may be missing, d itself may not.
func (a *archive) keepChildren(ctx context.Context, d ocispec.Descriptor, depth int) error {
	if depth > maxDepth {
		return invalid("indexes nest too deep")
	}
	doc, err := ReadDocument(ctx, a.store, d)
	if err != nil {
		return err
	}
	if err := addLabels(ctx, a.store, d, doc.GCLabels()); err != nil {
		return err
	}
	if doc.Index == nil {
		return nil
	}
	for _, c := range doc.Index.Manifests {
		if !images.IsIndexType(c.MediaType) && !images.IsManifestType(c.MediaType) {
			continue
		}
		if err := a.keepChildren(ctx, c, depth+1); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// dockerImage is an entry of manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// docker reads an archive of docker save, and makes the manifests it lacks.
func (a *archive) docker(ctx context.Context) ([]Loaded, error) {
	var entries []dockerImage
	if err := strictJSON(a.small["manifest.json"], &entries); err != nil {
		return nil, fmt.Errorf("parse manifest.json: %w", err)
	}
	if len(entries) > maxManifests {
		return nil, invalid("manifest.json lists %d images", len(entries))
	}
	var loaded []Loaded
	for _, e := range entries {
		target, err := a.dockerManifest(ctx, e)
		if err != nil {
			return nil, err
		}
		loaded = append(loaded, Loaded{Names: e.RepoTags, Target: target})
	}
	return loaded, nil
}

func (a *archive) dockerManifest(ctx context.Context, e dockerImage) (ocispec.Descriptor, error) {
	none := ocispec.Descriptor{}
	cfg, err := a.find(e.Config)
	if err != nil {
		return none, fmt.Errorf("config %.80q: %w", e.Config, err)
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: images.MediaTypeDockerSchema2Manifest,
		Config:    ocispec.Descriptor{MediaType: images.MediaTypeDockerSchema2Config, Digest: cfg.digest, Size: cfg.size},
		Layers:    []ocispec.Descriptor{},
	}
	if len(e.Layers) > maxLayers {
		return none, invalid("image of %d layers", len(e.Layers))
	}
	for _, name := range e.Layers {
		l, err := a.find(name)
		if err != nil {
			return none, fmt.Errorf("layer %.80q: %w", name, err)
		}
		d := ocispec.Descriptor{Digest: l.digest, Size: l.size}
		switch l.kind {
		case compression.None:
			d.MediaType = images.MediaTypeDockerSchema2Layer
		case compression.Gzip:
			d.MediaType = images.MediaTypeDockerSchema2LayerGzip
		case compression.Zstd:
			d.MediaType = images.MediaTypeDockerSchema2LayerZstd
		default:
			return none, fmt.Errorf("layer %.80q is compressed with %s: %w", name, l.kind, errdefs.ErrNotImplemented)
		}
		m.Layers = append(m.Layers, d)
	}
	var img ocispec.Image
	if err := ReadConfig(ctx, a.store, m.Config, &img); err != nil {
		return none, err
	}
	if err := checkConfig(img, m); err != nil {
		return none, err
	}
	b, err := json.Marshal(m)
	if err != nil {
		return none, err
	}
	desc, err := WriteJSONBlob(ctx, a.store, m.MediaType, b, Document{Manifest: &m}.GCLabels())
	if err != nil {
		return none, err
	}
	p := platforms.Normalize(img.Platform)
	desc.Platform = &p
	return desc, nil
}

// find returns the stored file called name, following the archive's links.
func (a *archive) find(name string) (archived, error) {
	name = path.Clean(name)
	for range maxDepth {
		if b, ok := a.blobs[name]; ok {
			return b, nil
		}
		next, ok := a.links[name]
		if !ok {
			break
		}
		name = next
	}
	return archived{}, invalid("%.80q is not in the archive", name)
}
