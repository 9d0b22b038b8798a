package image

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var errLater = fmt.Errorf("image operation: %w", errdefs.ErrNotImplemented)

type blobCache struct{}

func newBlobCache() *blobCache { return nil }

type keyLock struct{}

// Filters are the parsed filters of a list or prune request: key, then the set of values.
type Filters map[string]map[string]bool

// ListOptions select what List returns.
type ListOptions struct {
	All        bool
	Filters    Filters
	SharedSize bool
	Manifests  bool
	Identity   bool
}

// RemoveOptions qualify Remove.
type RemoveOptions struct {
	Force     bool
	NoPrune   bool
	Platforms []ocispec.Platform
}

// PruneReport is what Prune did.
type PruneReport struct {
	ImagesDeleted  []image.DeleteResponse
	SpaceReclaimed uint64
}

// InspectOptions qualify Inspect.
type InspectOptions struct {
	Platform  *ocispec.Platform
	Manifests bool
}

func (s *Service) Resolve(ctx context.Context, ref string, platform *ocispec.Platform) (Image, error) {
	return Image{}, errLater
}
func (s *Service) Unpack(ctx context.Context, img Image) error { return errLater }
func (s *Service) List(ctx context.Context, o ListOptions) ([]image.Summary, error) {
	return nil, errLater
}
func (s *Service) Inspect(ctx context.Context, ref string, o InspectOptions) (image.InspectResponse, error) {
	return image.InspectResponse{}, errLater
}
func (s *Service) History(ctx context.Context, ref string, platform *ocispec.Platform) ([]image.HistoryResponseItem, error) {
	return nil, errLater
}
func (s *Service) Tag(ctx context.Context, source, repo, tag string) error { return errLater }
func (s *Service) Remove(ctx context.Context, ref string, o RemoveOptions) ([]image.DeleteResponse, error) {
	return nil, errLater
}
func (s *Service) Pull(ctx context.Context, ref, tag string, platform *ocispec.Platform, auth *registry.AuthConfig, out Progress) error {
	return errLater
}
func (s *Service) Push(ctx context.Context, ref, tag string, platform *ocispec.Platform, auth *registry.AuthConfig, out Progress) error {
	return errLater
}
func (s *Service) Load(ctx context.Context, r io.Reader, platforms []ocispec.Platform, quiet bool, out Progress) error {
	return errLater
}
func (s *Service) Save(ctx context.Context, names []string, platforms []ocispec.Platform, w io.Writer) error {
	return errLater
}
func (s *Service) Import(ctx context.Context, in ImportInput, out Progress) (string, error) {
	return "", errLater
}
func (s *Service) Commit(ctx context.Context, in CommitInput) (string, error) { return "", errLater }
func (s *Service) Prune(ctx context.Context, f Filters) (PruneReport, error) {
	return PruneReport{}, errLater
}
