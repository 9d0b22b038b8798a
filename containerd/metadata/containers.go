package metadata

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
)

type containerStore struct{ db *DB }

var _ containers.Store = containerStore{}

// Containers returns the store of containers.
func (db *DB) Containers() containers.Store { return containerStore{db} }

// Get returns the container called id.
func (s containerStore) Get(ctx context.Context, id string) (containers.Container, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return containers.Container{}, err
	}
	var c containers.Container
	err = s.db.view(func(t *tx) error {
		c, err = loadContainer(t, ns, id)
		return err
	})
	return c, err
}

// List returns the containers that match any of the filters, whose fields are id,
// image, runtime.name and labels.
func (s containerStore) List(ctx context.Context, fs ...string) ([]containers.Container, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	filter, err := parseFilters(fs)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var list []containers.Container
	err = s.db.view(func(t *tx) error {
		return scanRecords(t, bktContainers, under(ns), func(id string, rec containerRecord) error {
			match := filter.Match(fields{
				values: map[string]string{"id": id, "image": rec.Image, "runtime.name": rec.Runtime},
				maps:   map[string]map[string]string{"labels": rec.Labels},
			})
			if !match {
				return nil
			}
			c := rec.container(id)
			list = append(list, c)
			return loadAnys(t, ns, &list[len(list)-1])
		})
	})
	return list, err
}

// Create adds a container. Its times are set here.
func (s containerStore) Create(ctx context.Context, c containers.Container) (containers.Container, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return containers.Container{}, err
	}
	if err := checkContainer(c); err != nil {
		return containers.Container{}, fmt.Errorf("create container: %w", err)
	}
	c.CreatedAt = time.Now().UTC()
	c.UpdatedAt = c.CreatedAt
	err = s.db.update(ctx, func(t *tx) error {
		if t.has(bktContainers, join(ns, c.ID)) {
			return fmt.Errorf("container %q: %w", c.ID, errdefs.ErrAlreadyExists)
		}
		if err := t.ensureNamespace(ns); err != nil {
			return err
		}
		return storeContainer(t, ns, c)
	})
	if err != nil {
		return containers.Container{}, err
	}
	s.db.publish(ctx, "/containers/create", containerCreated(c))
	return c, nil
}

// Update replaces the mutable fields, or those named: "labels", "spec",
// "extensions", "image", "snapshotkey", "labels.<key>", "extensions.<key>".
func (s containerStore) Update(ctx context.Context, c containers.Container, fieldpaths ...string) (containers.Container, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return containers.Container{}, err
	}
	if c.ID == "" {
		return containers.Container{}, fmt.Errorf("update container: the ID is missing: %w", errdefs.ErrInvalidArgument)
	}
	var updated containers.Container
	err = s.db.update(ctx, func(t *tx) error {
		old, err := loadContainer(t, ns, c.ID)
		if err != nil {
			return err
		}
		if updated, err = maskContainer(old, c, fieldpaths); err != nil {
			return fmt.Errorf("update container %q: %w", c.ID, err)
		}
		if err := checkContainer(updated); err != nil {
			return fmt.Errorf("update container: %w", err)
		}
		updated.UpdatedAt = time.Now().UTC()
		return storeContainer(t, ns, updated)
	})
	if err != nil {
		return containers.Container{}, err
	}
	s.db.collectSoon() // the old snapshot key may be garbage now
	s.db.publish(ctx, "/containers/update", containerUpdated(updated))
	return updated, nil
}

// Delete removes a container's record. Its snapshot, if nothing else keeps it, is
// removed shortly after.
func (s containerStore) Delete(ctx context.Context, id string) error {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	err = s.db.update(ctx, func(t *tx) error {
		if !t.has(bktContainers, join(ns, id)) {
			return fmt.Errorf("container %q in namespace %q: %w", id, ns, errdefs.ErrNotFound)
		}
		if err := t.deleteAll(bktAnys, under(ns, id)); err != nil {
			return err
		}
		return t.delete(bktContainers, join(ns, id))
	})
	if err != nil {
		return err
	}
	s.db.collectSoon()
	s.db.publish(ctx, "/containers/delete", containerDeleted(id))
	return nil
}

func maskContainer(old, next containers.Container, fieldpaths []string) (containers.Container, error) {
	if len(fieldpaths) == 0 {
		if old.Snapshotter != next.Snapshotter {
			return old, fmt.Errorf("the snapshotter cannot be changed: %w", errdefs.ErrInvalidArgument)
		}
		if old.Runtime.Name != next.Runtime.Name {
			return old, fmt.Errorf("the runtime cannot be changed: %w", errdefs.ErrInvalidArgument)
		}
		fieldpaths = []string{"labels", "spec", "extensions", "image", "snapshotkey"}
	}
	c := old
	for _, path := range fieldpaths {
		key, isExtension := strings.CutPrefix(path, "extensions.")
		switch {
		case maskMap(&c.Labels, next.Labels, "labels", path):
			c.Labels = compact(c.Labels)
		case path == "spec":
			c.Spec = next.Spec
		case path == "image":
			c.Image = next.Image
		case path == "snapshotkey":
			c.SnapshotKey = next.SnapshotKey
		case path == "extensions":
			c.Extensions = next.Extensions
		case isExtension:
			extensions := map[string]typeurl.Any{key: next.Extensions[key]}
			for k, v := range c.Extensions {
				if k != key {
					extensions[k] = v
				}
			}
			if extensions[key] == nil {
				delete(extensions, key)
			}
			c.Extensions = extensions
		default:
			return old, fmt.Errorf("field %q cannot be changed: %w", path, errdefs.ErrInvalidArgument)
		}
	}
	return c, nil
}

func checkContainer(c containers.Container) error {
	if err := identifiers.Validate(c.ID); err != nil {
		return fmt.Errorf("ID: %w", err)
	}
	for k := range c.Extensions {
		if err := checkName("extension key", k); err != nil {
			return err
		}
	}
	if err := checkLabels(c.Labels); err != nil {
		return err
	}
	if c.Runtime.Name == "" {
		return fmt.Errorf("container %q has no runtime: %w", c.ID, errdefs.ErrInvalidArgument)
	}
	if c.Spec == nil {
		return fmt.Errorf("container %q has no spec: %w", c.ID, errdefs.ErrInvalidArgument)
	}
	if c.SnapshotKey != "" && c.Snapshotter == "" {
		return fmt.Errorf("container %q has a snapshot key and no snapshotter: %w", c.ID, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (r containerRecord) container(id string) containers.Container {
	return containers.Container{
		ID: id, Labels: r.Labels, Image: r.Image, Runtime: containers.RuntimeInfo{Name: r.Runtime},
		SnapshotKey: r.SnapshotKey, Snapshotter: r.Snapshotter, SandboxID: r.SandboxID,
		CreatedAt: r.Created, UpdatedAt: r.Updated,
	}
}

func loadContainer(t *tx, ns, id string) (containers.Container, error) {
	rec, ok, err := load[containerRecord](t, bktContainers, join(ns, id))
	if err != nil {
		return containers.Container{}, err
	}
	if !ok {
		return containers.Container{}, fmt.Errorf("container %q in namespace %q: %w", id, ns, errdefs.ErrNotFound)
	}
	c := rec.container(id)
	return c, loadAnys(t, ns, &c)
}

// Fields of bktAnys: the opaque parts of a container have keys of their own, for a
// spec is large and neither lists by filter nor collections look at it.
const (
	anySpec      = "spec"
	anyRuntime   = "runtime"
	anyExtension = "extension/"
)

func storeContainer(t *tx, ns string, c containers.Container) error {
	anys := map[string]typeurl.Any{anySpec: c.Spec, anyRuntime: c.Runtime.Options}
	for k, v := range c.Extensions {
		anys[anyExtension+k] = v
	}
	err := t.scan(bktAnys, under(ns, c.ID), func(field string, _ []byte) error {
		if _, ok := anys[field]; !ok {
			anys[field] = nil
		}
		return nil
	})
	if err != nil {
		return err
	}
	for field, a := range anys {
		key := join(ns, c.ID, field)
		if a == nil {
			err = t.delete(bktAnys, key)
		} else if v := join(a.GetTypeUrl(), string(a.GetValue())); !bytes.Equal(v, t.bucket(bktAnys).Get(key)) {
			err = t.put(bktAnys, key, v)
		}
		if err != nil {
			return err
		}
	}
	return store(t, bktContainers, join(ns, c.ID), containerRecord{
		Labels: compact(c.Labels), Image: c.Image, Runtime: c.Runtime.Name, Snapshotter: c.Snapshotter,
		SnapshotKey: c.SnapshotKey, SandboxID: c.SandboxID, Created: c.CreatedAt, Updated: c.UpdatedAt,
	})
}

func loadAnys(t *tx, ns string, c *containers.Container) error {
	return t.scan(bktAnys, under(ns, c.ID), func(field string, v []byte) error {
		url, value, ok := bytes.Cut(v, []byte(sep))
		if !ok {
			return fmt.Errorf("container %q: field %q has no type: %w", c.ID, field, errdefs.ErrDataLoss)
		}
		a := opaque{url: string(url), value: bytes.Clone(value)}
		key, isExtension := strings.CutPrefix(field, anyExtension)
		switch {
		case field == anySpec:
			c.Spec = a
		case field == anyRuntime:
			c.Runtime.Options = a
		case isExtension:
			if c.Extensions == nil {
				c.Extensions = make(map[string]typeurl.Any)
			}
			c.Extensions[key] = a
		}
		return nil
	})
}

// opaque is a typeurl.Any as it was stored.
type opaque struct {
	url   string
	value []byte
}

func (o opaque) GetTypeUrl() string { return o.url }
func (o opaque) GetValue() []byte   { return o.value }
