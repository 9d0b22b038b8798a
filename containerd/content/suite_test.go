package content_test

import (
	"context"
	"maps"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/testsuite"
	"github.com/opencontainers/go-digest"

	local "lighter/containerd/content"
)

// memoryLabels keeps labels for the suite; in the product package metadata does.
type memoryLabels struct {
	mu sync.Mutex // guards the field below
	m  map[digest.Digest]map[string]string
}

func (l *memoryLabels) Labels(d digest.Digest) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.m[d]), nil
}

func (l *memoryLabels) SetLabels(d digest.Digest, labels map[string]string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.m[d] = maps.Clone(labels)
	return nil
}

func TestUpstreamSuite(t *testing.T) {
	testsuite.ContentSuite(t, "content", func(ctx context.Context, root string) (context.Context, content.Store, func() error, error) {
		s, err := local.Open(root, &memoryLabels{m: make(map[digest.Digest]map[string]string)})
		return ctx, s, func() error { return nil }, err
	})
}
