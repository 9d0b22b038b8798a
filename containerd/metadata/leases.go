package metadata

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

type leaseManager struct{ db *DB }

var _ leases.Manager = leaseManager{}

// Leases returns the manager of leases.
func (db *DB) Leases() leases.Manager { return leaseManager{db} }

// The types of resources that a lease holds; of snapshots it is
// "snapshots/<snapshotter>".
const (
	typeContent   = "content"
	typeIngests   = "ingests"
	typeImages    = "images"
	typeSnapshots = "snapshots"
)

// Create adds a lease; an option must name it.
func (m leaseManager) Create(ctx context.Context, opts ...leases.Opt) (leases.Lease, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return leases.Lease{}, err
	}
	var l leases.Lease
	for _, opt := range opts {
		if err := opt(&l); err != nil {
			return leases.Lease{}, err
		}
	}
	if err := checkName("lease ID", l.ID); err != nil {
		return leases.Lease{}, fmt.Errorf("create lease: %w", err)
	}
	if err := checkLabels(l.Labels); err != nil {
		return leases.Lease{}, fmt.Errorf("create lease %q: %w", l.ID, err)
	}
	l.CreatedAt = time.Now().UTC()
	err = m.db.update(ctx, func(t *tx) error {
		if t.has(bktLeases, join(ns, l.ID)) {
			return fmt.Errorf("lease %q: %w", l.ID, errdefs.ErrAlreadyExists)
		}
		if err := t.ensureNamespace(ns); err != nil {
			return err
		}
		return store(t, bktLeases, join(ns, l.ID), leaseRecord{Labels: compact(l.Labels), Created: l.CreatedAt})
	})
	if err != nil {
		return leases.Lease{}, err
	}
	m.db.collectSoonIfExpires(l.Labels)
	return l, nil
}

// Delete ends a lease. What only it held is removed shortly after, or before the
// return with leases.SynchronousDelete.
func (m leaseManager) Delete(ctx context.Context, l leases.Lease, opts ...leases.DeleteOpt) error {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	var o leases.DeleteOptions
	for _, opt := range opts {
		if err := opt(ctx, &o); err != nil {
			return err
		}
	}
	err = m.db.update(ctx, func(t *tx) error {
		if err := checkLease(t, ns, l.ID); err != nil {
			return err
		}
		return t.deleteLease(ns, l.ID)
	})
	if err != nil {
		return err
	}
	if o.Synchronous {
		return m.db.GC(ctx)
	}
	m.db.collectSoon()
	return nil
}

// List returns the leases that match any of the filters, whose fields are id and
// labels.
func (m leaseManager) List(ctx context.Context, fs ...string) ([]leases.Lease, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	filter, err := parseFilters(fs)
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	var list []leases.Lease
	err = m.db.view(func(t *tx) error {
		return scanRecords(t, bktLeases, under(ns), func(id string, rec leaseRecord) error {
			match := filter.Match(fields{
				values: map[string]string{"id": id},
				maps:   map[string]map[string]string{"labels": rec.Labels},
			})
			if match {
				list = append(list, leases.Lease{ID: id, CreatedAt: rec.Created, Labels: rec.Labels})
			}
			return nil
		})
	})
	return list, err
}

// AddResource has the lease hold r, which need not exist.
//
// Errors: NotFound without the lease; NotImplemented for an unknown type;
// InvalidArgument for a broken digest or snapshotter.
func (m leaseManager) AddResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	return m.change(ctx, l, r, func(t *tx, key []byte) error { return t.put(bktLeased, key, []byte{}) })
}

// DeleteResource has the lease let go of r; if it does not hold it that is fine.
func (m leaseManager) DeleteResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	err := m.change(ctx, l, r, func(t *tx, key []byte) error { return t.delete(bktLeased, key) })
	if err == nil {
		m.db.collectSoon()
	}
	return err
}

func (m leaseManager) change(ctx context.Context, l leases.Lease, r leases.Resource, fn func(*tx, []byte) error) error {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	if err := checkResource(r); err != nil {
		return fmt.Errorf("lease %q: %w", l.ID, err)
	}
	return m.db.update(ctx, func(t *tx) error {
		if err := checkLease(t, ns, l.ID); err != nil {
			return err
		}
		return fn(t, join(ns, l.ID, r.Type, r.ID))
	})
}

// ListResources returns what the lease holds.
func (m leaseManager) ListResources(ctx context.Context, l leases.Lease) ([]leases.Resource, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	var list []leases.Resource
	err = m.db.view(func(t *tx) error {
		if err := checkLease(t, ns, l.ID); err != nil {
			return err
		}
		return t.scan(bktLeased, under(ns, l.ID), func(rest string, _ []byte) error {
			typ, id, _ := strings.Cut(rest, sep)
			list = append(list, leases.Resource{ID: id, Type: typ})
			return nil
		})
	})
	return list, err
}

func checkLease(t *tx, ns, id string) error {
	if !t.has(bktLeases, join(ns, id)) {
		return fmt.Errorf("lease %q: %w", id, errdefs.ErrNotFound)
	}
	return nil
}

func checkResource(r leases.Resource) error {
	if err := checkName("resource ID", r.ID); err != nil {
		return err
	}
	snapshotter, isSnapshot := strings.CutPrefix(r.Type, typeSnapshots+"/")
	switch {
	case r.Type == typeContent:
		if _, err := digest.Parse(r.ID); err != nil {
			return fmt.Errorf("content %q: %w: %w", r.ID, err, errdefs.ErrInvalidArgument)
		}
		return nil
	case r.Type == typeIngests, r.Type == typeImages:
		return nil
	case isSnapshot && snapshotter != "" && !strings.ContainsAny(snapshotter, "/"+sep):
		return nil
	case r.Type == typeSnapshots || isSnapshot:
		return fmt.Errorf("resource type %q names no snapshotter: %w", r.Type, errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("resource type %q: %w", r.Type, errdefs.ErrNotImplemented)
}

func (t *tx) deleteLease(ns, id string) error {
	if err := t.deleteAll(bktLeased, under(ns, id)); err != nil {
		return err
	}
	return t.delete(bktLeases, join(ns, id))
}

// lease adds a resource to the lease that ctx carries, if any, and reports
// whether it does.
//
// Errors: NotFound if that lease does not exist.
func (t *tx) lease(ctx context.Context, ns, typ, id string) (bool, error) {
	l, ok := leases.FromContext(ctx)
	if !ok {
		return false, nil
	}
	if err := checkLease(t, ns, l); err != nil {
		return false, err
	}
	key := join(ns, l, typ, id)
	if t.has(bktLeased, key) {
		return true, nil
	}
	return true, t.put(bktLeased, key, []byte{})
}

// unlease removes a resource from the lease that ctx carries, if any.
func (t *tx) unlease(ctx context.Context, ns, typ, id string) error {
	if l, ok := leases.FromContext(ctx); ok {
		return t.delete(bktLeased, join(ns, l, typ, id))
	}
	return nil
}

// leaseImage leases an image that can expire; others keep themselves.
func (t *tx) leaseImage(ctx context.Context, ns, name string, labels map[string]string) error {
	if _, ok := labels[labelExpire]; !ok {
		return nil
	}
	_, err := t.lease(ctx, ns, typeImages, name)
	return err
}
