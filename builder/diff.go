package builder

import (
	"context"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/containerd"
)

// namespacedDiff makes calls in a containerd namespace.
type namespacedDiff struct {
	containerd.Diff
	namespace string
}

// Apply implements diff.Applier.
func (d namespacedDiff) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	return d.Diff.Apply(namespaces.WithNamespace(ctx, d.namespace), desc, mounts, opts...)
}

// Compare implements diff.Comparer.
func (d namespacedDiff) Compare(ctx context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (ocispec.Descriptor, error) {
	return d.Diff.Compare(namespaces.WithNamespace(ctx, d.namespace), lower, upper, opts...)
}
