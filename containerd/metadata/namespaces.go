package metadata

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
)

type namespaceStore struct{ db *DB }

var _ namespaces.Store = namespaceStore{}

// Namespaces returns the store of namespaces. The first write in a namespace
// makes it; Create is for those that need labels.
func (db *DB) Namespaces() namespaces.Store { return namespaceStore{db} }

// Create adds a namespace.
func (s namespaceStore) Create(ctx context.Context, ns string, l map[string]string) error {
	if err := identifiers.Validate(ns); err != nil {
		return fmt.Errorf("create namespace: %w", err)
	}
	if err := checkLabels(l); err != nil {
		return fmt.Errorf("create namespace %q: %w", ns, err)
	}
	err := s.db.update(ctx, func(t *tx) error {
		if t.has(bktNamespaces, join(ns)) {
			return fmt.Errorf("namespace %q: %w", ns, errdefs.ErrAlreadyExists)
		}
		return store(t, bktNamespaces, join(ns), namespaceRecord{Labels: compact(l)})
	})
	if err != nil {
		return err
	}
	s.db.publish(inNamespace(ctx, ns), "/namespaces/create", namespaceCreated(ns, l))
	return nil
}

// Labels returns the labels of a namespace. One that does not exist yet has none:
// clients ask before their first write.
func (s namespaceStore) Labels(_ context.Context, ns string) (map[string]string, error) {
	out := map[string]string{}
	err := s.db.view(func(t *tx) error {
		rec, _, err := load[namespaceRecord](t, bktNamespaces, join(ns))
		maps.Copy(out, rec.Labels)
		return err
	})
	return out, err
}

// SetLabel sets a label, or removes it if value is "".
func (s namespaceStore) SetLabel(ctx context.Context, ns, key, value string) error {
	if err := identifiers.Validate(ns); err != nil {
		return fmt.Errorf("label namespace: %w", err)
	}
	if err := labels.Validate(key, value); err != nil {
		return fmt.Errorf("label namespace %q: %w", ns, err)
	}
	var updated map[string]string
	err := s.db.update(ctx, func(t *tx) error {
		rec, _, err := load[namespaceRecord](t, bktNamespaces, join(ns))
		if err != nil {
			return err
		}
		maskMap(&rec.Labels, map[string]string{key: value}, "labels", "labels."+key)
		rec.Labels = compact(rec.Labels)
		updated = rec.Labels
		return store(t, bktNamespaces, join(ns), rec)
	})
	if err != nil {
		return err
	}
	s.db.publish(inNamespace(ctx, ns), "/namespaces/update", namespaceUpdated(ns, updated))
	return nil
}

// List returns the names of all namespaces.
func (s namespaceStore) List(context.Context) ([]string, error) {
	var names []string
	err := s.db.view(func(t *tx) error {
		return t.scan(bktNamespaces, nil, func(ns string, _ []byte) error {
			names = append(names, ns)
			return nil
		})
	})
	return names, err
}

// Delete removes a namespace that holds no images, content, containers or
// snapshots; leases and ingests go with it.
//
// Errors: NotFound; FailedPrecondition with what it still holds.
func (s namespaceStore) Delete(ctx context.Context, ns string, opts ...namespaces.DeleteOpts) error {
	info := &namespaces.DeleteInfo{Name: ns}
	for _, opt := range opts {
		if err := opt(ctx, info); err != nil {
			return err
		}
	}
	err := s.db.update(ctx, func(t *tx) error {
		if !t.has(bktNamespaces, join(ns)) {
			return fmt.Errorf("namespace %q: %w", ns, errdefs.ErrNotFound)
		}
		var held []string
		for _, b := range []bucket{bktImages, bktContent, bktContainers, bktSnapshots} {
			if t.any(b, under(ns)) {
				held = append(held, string(b))
			}
		}
		if len(held) > 0 {
			return fmt.Errorf("delete namespace %q: it still has %s: %w", ns, strings.Join(held, ", "), errdefs.ErrFailedPrecondition)
		}
		for _, b := range []bucket{bktLeases, bktLeased, bktIngests} {
			if err := t.deleteAll(b, under(ns)); err != nil {
				return err
			}
		}
		return t.delete(bktNamespaces, join(ns))
	})
	if err != nil {
		return err
	}
	s.db.publish(inNamespace(ctx, ns), "/namespaces/delete", namespaceDeleted(ns))
	return nil
}

// ensureNamespace makes the namespace of a write.
func (t *tx) ensureNamespace(ns string) error {
	if t.has(bktNamespaces, join(ns)) {
		return nil
	}
	return store(t, bktNamespaces, join(ns), namespaceRecord{})
}
