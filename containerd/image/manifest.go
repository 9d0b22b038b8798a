package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds of documents from outside.
const (
	maxDocument  = 8 << 20 // bytes of an index, manifest or config
	maxManifests = 1000    // of an index
	maxLayers    = 10000
	maxDepth     = 4 // of nested indexes
)

// Document is a parsed index or manifest: one of the two is set.
type Document struct {
	Index    *ocispec.Index
	Manifest *ocispec.Manifest
}

// Children returns the descriptors that the document refers to.
func (d Document) Children() []ocispec.Descriptor {
	if d.Index != nil {
		return d.Index.Manifests
	}
	return append([]ocispec.Descriptor{d.Manifest.Config}, d.Manifest.Layers...)
}

// GCLabels are the labels that make the collector keep the children.
func (d Document) GCLabels() map[string]string {
	labels := map[string]string{}
	if d.Index != nil {
		for i, m := range d.Index.Manifests {
			labels[fmt.Sprintf("containerd.io/gc.ref.content.m.%d", i)] = m.Digest.String()
		}
		return labels
	}
	labels["containerd.io/gc.ref.content.config"] = d.Manifest.Config.Digest.String()
	for i, l := range d.Manifest.Layers {
		labels[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", i)] = l.Digest.String()
	}
	return labels
}

// ParseDocument parses the index or manifest b, which desc describes. What it
// is must be the same by desc, by its own mediaType and by its fields
// (CVE-2021-41190), and all digests must be well-formed (CVE-2024-3727).
func ParseDocument(b []byte, desc ocispec.Descriptor) (Document, error) {
	doc, err := parseDocument(b, desc.MediaType)
	if err != nil {
		return Document{}, fmt.Errorf("parse %s: %w", desc.Digest, err)
	}
	return doc, nil
}

func parseDocument(b []byte, mediaType string) (Document, error) {
	isIndex := images.IsIndexType(mediaType)
	if !isIndex && !images.IsManifestType(mediaType) {
		if mediaType == images.MediaTypeDockerSchema1Manifest || mediaType == "application/vnd.docker.distribution.manifest.v1+json" {
			return Document{}, invalid("manifests of schema version 1 are not supported")
		}
		return Document{}, invalid("media type %q is neither a manifest nor an index", mediaType)
	}
	var shape struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
		FSLayers      json.RawMessage `json:"fsLayers"`
		Manifests     json.RawMessage `json:"manifests"`
	}
	if err := strictJSON(b, &shape); err != nil {
		return Document{}, err
	}
	if shape.MediaType != "" && shape.MediaType != mediaType {
		return Document{}, invalid("document of type %q calls itself %q", mediaType, shape.MediaType)
	}
	if shape.SchemaVersion != 2 {
		return Document{}, invalid("schema version %d is not supported", shape.SchemaVersion)
	}
	if shape.FSLayers != nil || (shape.Manifests != nil) && (shape.Config != nil || shape.Layers != nil) {
		return Document{}, invalid("document is both an index and a manifest")
	}
	if isIndex {
		if shape.Manifests == nil {
			return Document{}, invalid("index without manifests")
		}
		var idx ocispec.Index
		if err := strictJSON(b, &idx); err != nil {
			return Document{}, err
		}
		if len(idx.Manifests) > maxManifests {
			return Document{}, invalid("index of %d manifests", len(idx.Manifests))
		}
		return checked(Document{Index: &idx})
	}
	if shape.Config == nil {
		return Document{}, invalid("manifest without config")
	}
	var m ocispec.Manifest
	if err := strictJSON(b, &m); err != nil {
		return Document{}, err
	}
	if len(m.Layers) > maxLayers {
		return Document{}, invalid("manifest of %d layers", len(m.Layers))
	}
	return checked(Document{Manifest: &m})
}

func checked(d Document) (Document, error) {
	for _, c := range d.Children() {
		if err := checkDescriptor(c); err != nil {
			return Document{}, err
		}
	}
	return d, nil
}

// strictJSON decodes the one document that b must be.
func strictJSON(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(v); err != nil {
		return invalid("%w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return invalid("data after the JSON document")
	}
	return nil
}

// ReadBlob returns the verified bytes of a small blob.
//
// Errors: NotFound when it is missing; DataLoss when it is damaged.
func ReadBlob(ctx context.Context, store content.Provider, desc ocispec.Descriptor) ([]byte, error) {
	if err := checkDescriptor(desc); err != nil {
		return nil, err
	}
	ra, err := store.ReaderAt(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", desc.Digest, err)
	}
	defer ra.Close()
	if ra.Size() > maxDocument {
		return nil, invalid("blob %s has %d bytes, more than %d", desc.Digest, ra.Size(), maxDocument)
	}
	b := make([]byte, ra.Size())
	if _, err := io.ReadFull(io.NewSectionReader(ra, 0, ra.Size()), b); err != nil {
		return nil, fmt.Errorf("read blob %s: %w", desc.Digest, err)
	}
	if desc.Digest.Algorithm().FromBytes(b) != desc.Digest {
		return nil, fmt.Errorf("read blob %s: stored data does not match its digest: %w", desc.Digest, errdefs.ErrDataLoss)
	}
	return b, nil
}

// ReadDocument reads and parses an index or manifest of the store.
func ReadDocument(ctx context.Context, store content.Provider, desc ocispec.Descriptor) (Document, error) {
	b, err := ReadBlob(ctx, store, desc)
	if err != nil {
		return Document{}, err
	}
	return ParseDocument(b, desc)
}

// ReadConfig reads the image config of a manifest into v.
func ReadConfig(ctx context.Context, store content.Provider, desc ocispec.Descriptor, v any) error {
	b, err := ReadBlob(ctx, store, desc)
	if err != nil {
		return err
	}
	if err := strictJSON(b, v); err != nil {
		return fmt.Errorf("parse config %s: %w", desc.Digest, err)
	}
	return nil
}

// Manifest is a manifest found by Manifests.
type Manifest struct {
	Desc     ocispec.Descriptor
	Present  bool // the manifest itself; its children may be missing
	Document ocispec.Manifest
}

// Manifests returns the manifests that target leads to, in the order of its
// indexes, each once. Manifests and indexes that are not in the store are listed
// as not Present.
func Manifests(ctx context.Context, store content.Provider, target ocispec.Descriptor) ([]Manifest, error) {
	var all []Manifest
	seen := map[digest.Digest]bool{}
	var visit func(d ocispec.Descriptor, depth int) error
	visit = func(d ocispec.Descriptor, depth int) error {
		if seen[d.Digest] {
			return nil
		}
		seen[d.Digest] = true
		if len(seen) > maxManifests || depth > maxDepth {
			return invalid("index %s refers to too many manifests", target.Digest)
		}
		if !images.IsIndexType(d.MediaType) && !images.IsManifestType(d.MediaType) {
			return nil
		}
		doc, err := ReadDocument(ctx, store, d)
		if errdefs.IsNotFound(err) {
			if images.IsManifestType(d.MediaType) {
				all = append(all, Manifest{Desc: d})
			}
			return nil
		}
		if err != nil {
			return err
		}
		if doc.Manifest != nil {
			all = append(all, Manifest{Desc: d, Present: true, Document: *doc.Manifest})
			return nil
		}
		for _, m := range doc.Index.Manifests {
			if err := visit(m, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	if err := visit(target, 0); err != nil {
		return nil, err
	}
	return all, nil
}

// IsAttestation reports whether the manifest of an index is not an image but
// says something of one.
func IsAttestation(d ocispec.Descriptor) bool {
	return d.Annotations["vnd.docker.reference.type"] == "attestation-manifest"
}

// IsImage reports whether the manifest describes a runnable image.
func IsImage(m ocispec.Manifest) bool { return images.IsConfigType(m.Config.MediaType) }

// sortByPlatform orders the manifests of an index that match, best first.
// Those without a platform come last: only their config can tell.
func sortByPlatform(manifests []ocispec.Descriptor, m platforms.MatchComparer) []ocispec.Descriptor {
	var known, unknown []ocispec.Descriptor
	for _, d := range manifests {
		switch {
		case IsAttestation(d):
		case d.Platform == nil:
			unknown = append(unknown, d)
		case m.Match(*d.Platform):
			known = append(known, d)
		}
	}
	sort.SliceStable(known, func(i, j int) bool { return m.Less(*known[i].Platform, *known[j].Platform) })
	return append(known, unknown...)
}

// checkConfig validates an image config against its manifest.
func checkConfig(cfg ocispec.Image, m ocispec.Manifest) error {
	if len(cfg.RootFS.DiffIDs) != len(m.Layers) {
		return invalid("config lists %d layers, the manifest %d", len(cfg.RootFS.DiffIDs), len(m.Layers))
	}
	for _, d := range cfg.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return invalid("diff ID %.80q: %w", d, err)
		}
	}
	return nil
}
