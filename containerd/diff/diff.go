// Package diff applies layers to mounts and computes layers from them.
package diff

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Service implements diff.Applier and diff.Comparer over a content store.
type Service struct {
	store content.Store
	log   *slog.Logger
}

var (
	_ diff.Applier  = (*Service)(nil)
	_ diff.Comparer = (*Service)(nil)
)

// New returns a Service that reads layers from and writes them to store.
func New(store content.Store, log *slog.Logger) *Service { return &Service{store: store, log: log} }

// Apply implements diff.Applier.
func (s *Service) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, fmt.Errorf("apply: %w", errdefs.ErrNotImplemented)
}

// Compare implements diff.Comparer.
func (s *Service) Compare(ctx context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, fmt.Errorf("compare: %w", errdefs.ErrNotImplemented)
}
