package manifest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/cli/session"
	"lighter/internal/registry"
)

const (
	certsDir = "/etc/docker/certs.d"
	// hub is the key of Docker Hub's credentials.
	hub = "https://index.docker.io/v1/"
	// maxDocument bounds a manifest or config, in bytes.
	maxDocument = 8 << 20
)

// remote is the registry of a reference.
type remote struct {
	s        *session.Session
	resolver remotes.Resolver
	err      error // why there is none
}

func newRemote(ctx context.Context, s *session.Session, ref reference.Named, insecure bool) *remote {
	host := reference.Domain(ref)
	key := host
	if host == "docker.io" {
		key = hub
	}
	auth, err := s.Config().GetAuthConfig(key)
	if err != nil {
		return &remote{err: fmt.Errorf("get credentials of %q: %w", key, err)}
	}
	o := registry.Options{CertsDir: certsDir, UserAgent: "Docker-Client", Host: host, User: auth.Username, Secret: auth.Password, Token: auth.RegistryToken}
	if auth.IdentityToken != "" {
		o.User, o.Secret = "", auth.IdentityToken
	}
	for name, value := range s.Config().HTTPHeaders {
		if o.Header == nil {
			o.Header = map[string][]string{}
		}
		o.Header.Set(name, value)
	}
	if insecure {
		o.Insecure = []string{host}
	}
	return &remote{s: s, resolver: registry.NewResolver(ctx, o)}
}

// document is an image manifest, or a list of manifests.
type document struct {
	raw       []byte
	MediaType string               `json:"mediaType"`
	Config    *ocispec.Descriptor  `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
	Manifests []ocispec.Descriptor `json:"manifests"`
}

// blobs are what a manifest needs of its repository.
func (d document) blobs() []ocispec.Descriptor {
	return append([]ocispec.Descriptor{*d.Config}, d.Layers...)
}

// parseDocument reads what a registry or a file calls mediaType. Of a document
// that could be taken for both kinds it takes neither (CVE-2021-41190).
func parseDocument(raw []byte, mediaType string) (document, error) {
	d := document{raw: raw}
	if err := json.Unmarshal(raw, &d); err != nil {
		return d, fmt.Errorf("parse manifest: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	if d.MediaType != "" && d.MediaType != mediaType {
		return d, fmt.Errorf("manifest says %s, its registry %s: %w", d.MediaType, mediaType, errdefs.ErrInvalidArgument)
	}
	var ok bool
	switch mediaType {
	case dockerManifest, ocispec.MediaTypeImageManifest:
		ok = d.Config != nil && d.Manifests == nil
	case dockerList, ocispec.MediaTypeImageIndex:
		ok = d.Config == nil && d.Layers == nil
		if d.Manifests == nil {
			d.Manifests = []ocispec.Descriptor{}
		}
	default:
		return d, fmt.Errorf("unsupported manifest format: %s: %w", mediaType, errdefs.ErrInvalidArgument)
	}
	if !ok {
		return d, fmt.Errorf("document is not the %s that its registry says: %w", mediaType, errdefs.ErrInvalidArgument)
	}
	return d, nil
}

// document fetches what ref names.
//
// Errors: NotFound.
func (r *remote) document(ctx context.Context, ref reference.Named) (ocispec.Descriptor, document, error) {
	if r.err != nil {
		return ocispec.Descriptor{}, document{}, r.err
	}
	ctx = registry.Silent(ctx)
	_, desc, err := r.resolver.Resolve(ctx, ref.String())
	if errdefs.IsNotFound(err) {
		return desc, document{}, errdefs.ErrNotFound.WithMessage("no such manifest: " + ref.String())
	} else if err != nil {
		return desc, document{}, err
	}
	raw, err := r.fetch(ctx, ref, desc)
	if err != nil {
		return desc, document{}, err
	}
	doc, err := parseDocument(raw, desc.MediaType)
	return ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: int64(len(raw))}, doc, err
}

// fetch reads a document or config whole and verifies it.
func (r *remote) fetch(ctx context.Context, ref reference.Named, d ocispec.Descriptor) ([]byte, error) {
	fetcher, err := r.resolver.Fetcher(ctx, ref.String())
	if err != nil {
		return nil, err
	}
	body, err := fetcher.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	raw, err := io.ReadAll(io.LimitReader(body, maxDocument+1))
	switch {
	case err != nil:
		return nil, err
	case len(raw) > maxDocument:
		return nil, fmt.Errorf("%s of %s is larger than %d bytes: %w", d.Digest, ref, maxDocument, errdefs.ErrInvalidArgument)
	}
	if found := digest.FromBytes(raw); found != d.Digest {
		return nil, fmt.Errorf("manifest verification failed for digest %s: got %s", d.Digest, found)
	}
	return raw, nil
}

// manifest fetches the one image manifest that ref names.
func (r *remote) manifest(ctx context.Context, ref reference.Named) (record, error) {
	desc, doc, err := r.document(ctx, ref)
	if err != nil {
		return record{}, err
	}
	if doc.Manifests != nil {
		return record{}, fmt.Errorf("%s is a manifest list", ref)
	}
	return r.record(ctx, ref, desc, doc)
}

// record completes a manifest with the platform that its config has.
func (r *remote) record(ctx context.Context, ref reference.Named, desc ocispec.Descriptor, doc document) (record, error) {
	raw, err := r.fetch(registry.Silent(ctx), ref, *doc.Config)
	if err != nil {
		return record{}, fmt.Errorf("get config of %s: %w", ref, err)
	}
	desc.Platform = &ocispec.Platform{}
	if err := json.Unmarshal(raw, desc.Platform); err != nil {
		return record{}, fmt.Errorf("parse config of %s: %w", ref, err)
	}
	out := record{Ref: ref.String(), Descriptor: desc, Raw: doc.raw}
	if desc.MediaType == dockerManifest {
		out.SchemaV2Manifest = doc.raw
	} else {
		out.OCIManifest = doc.raw
	}
	return out, nil
}

// members fetches the manifests of a list; the list's word on platforms counts.
func (r *remote) members(ctx context.Context, ref reference.Named, list document) ([]record, error) {
	records := make([]record, 0, len(list.Manifests))
	for _, d := range list.Manifests {
		member, err := reference.WithDigest(ref, d.Digest)
		if err != nil {
			return nil, err
		}
		raw, err := r.fetch(registry.Silent(ctx), ref, d)
		if err != nil {
			return nil, err
		}
		doc, err := parseDocument(raw, d.MediaType)
		if err != nil {
			return nil, err
		}
		if doc.Config == nil {
			return nil, fmt.Errorf("unsupported manifest type: %s", d.MediaType)
		}
		desc := ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: int64(len(raw))}
		found, err := r.record(ctx, member, desc, doc)
		if err != nil {
			return nil, err
		}
		if d.Platform != nil {
			found.Descriptor.Platform = d.Platform
		}
		records = append(records, found)
	}
	return records, nil
}
