package builder

import (
	"context"
	"errors"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"

	"lighter/internal/buildlink"
)

// danglingPrefix begins the names of images without one, as the engine has them.
const danglingPrefix = "moby-dangling"

// imageStore is the engine's image store as BuildKit sees it. Reads go to
// containerd; the names of built images are given by dockerd, which keeps the
// image that had the name before, and tells its clients.
type imageStore struct {
	store     images.Store
	namespace string
	host      *host
}

// Get implements images.Store. What is no name may be an image's ID, or the
// beginning of one: FROM accepts both.
func (s *imageStore) Get(ctx context.Context, name string) (images.Image, error) {
	img, err := s.store.Get(namespaces.WithNamespace(ctx, s.namespace), name)
	if !errdefs.IsNotFound(err) {
		return img, err
	}
	id, ok := looksLikeID(name)
	if !ok {
		return images.Image{}, err
	}
	found, herr := s.host.resolve(ctx, buildlink.ResolveRequest{Ref: id})
	if herr != nil || !strings.HasPrefix(found.ID.Encoded(), id) {
		return images.Image{}, err
	}
	return images.Image{Name: name, Target: found.Target}, nil
}

// looksLikeID returns the hexadecimal digits of a name that a normalized
// reference hides: "docker.io/library/4bcff63911fc:latest".
func looksLikeID(name string) (string, bool) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", false
	}
	id := strings.TrimSuffix(reference.FamiliarString(ref), ":latest")
	if id == "sha256" {
		return "", false
	}
	id = strings.TrimPrefix(id, "sha256:")
	if len(id) < 4 || len(id) > 64 || strings.Trim(id, "0123456789abcdef") != "" {
		return "", false
	}
	return id, true
}

// List implements images.Store.
func (s *imageStore) List(ctx context.Context, filters ...string) ([]images.Image, error) {
	return s.store.List(namespaces.WithNamespace(ctx, s.namespace), filters...)
}

// Create implements images.Store.
func (s *imageStore) Create(ctx context.Context, image images.Image) (images.Image, error) {
	return image, s.record(ctx, image)
}

// Update implements images.Store. The exporter calls it first, for new names
// too.
func (s *imageStore) Update(ctx context.Context, image images.Image, _ ...string) (images.Image, error) {
	return image, s.record(ctx, image)
}

func (s *imageStore) record(ctx context.Context, image images.Image) error {
	req := buildlink.RecordRequest{Target: image.Target, Labels: image.Labels}
	if !strings.HasPrefix(image.Name, danglingPrefix+"@") {
		req.Names = []string{image.Name}
	}
	return s.host.record(ctx, req)
}

// Delete implements images.Store. Only the engine deletes images.
func (s *imageStore) Delete(context.Context, string, ...images.DeleteOpt) error {
	return errors.New("delete image: a build must not")
}
