package image

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	imagetypes "github.com/moby/moby/api/types/image"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	cimage "lighter/containerd/image"
)

// Annotations of attestations, by BuildKit.
const (
	annotationSubject   = "vnd.docker.reference.digest"
	annotationPredicate = "in-toto.io/predicate-type"
	mediaTypeStatement  = "application/vnd.in-toto+json"
)

// AttestationOptions qualify Attestations.
type AttestationOptions struct {
	Platform  *ocispec.Platform // nil for the host's
	Types     []string          // of predicates, none for all
	Statement bool              // include the statements themselves
}

// Attestations lists the in-toto statements that an index carries for its image of
// a platform. Those that are not in the store are left out.
//
// Errors: NotFound for an unknown image, or one without the platform.
func (s *Service) Attestations(ctx context.Context, ref string, o AttestationOptions) ([]imagetypes.AttestationStatement, error) {
	ctx = s.ctx(ctx)
	img, err := s.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	v, err := s.choose(ctx, img, ref, o.Platform)
	if err != nil {
		return nil, err
	}
	out := []imagetypes.AttestationStatement{}
	if !images.IsIndexType(img.Target.MediaType) {
		return out, nil
	}
	all, err := cimage.Manifests(ctx, s.cachedContent(), img.Target)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if !m.Present || !cimage.IsAttestation(m.Desc) || digest.Digest(m.Desc.Annotations[annotationSubject]) != v.manifest.Desc.Digest {
			continue
		}
		for _, l := range m.Document.Layers {
			kind := l.Annotations[annotationPredicate]
			if l.MediaType != mediaTypeStatement || len(o.Types) > 0 && !slices.Contains(o.Types, kind) {
				continue
			}
			statement := imagetypes.AttestationStatement{Descriptor: l, PredicateType: kind}
			if o.Statement {
				b, err := cimage.ReadBlob(ctx, s.content(), l)
				if errdefs.IsNotFound(err) {
					continue
				}
				if err != nil {
					return nil, err
				}
				if !json.Valid(b) {
					return nil, errdefs.ErrDataLoss.WithMessage("attestation " + l.Digest.String() + " is not JSON")
				}
				raw := json.RawMessage(b)
				statement.Statement = &raw
			} else if _, err := s.content().Info(ctx, l.Digest); errdefs.IsNotFound(err) {
				continue
			} else if err != nil {
				return nil, err
			}
			out = append(out, statement)
		}
	}
	return out, nil
}
