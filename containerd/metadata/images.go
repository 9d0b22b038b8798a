package metadata

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/epoch"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

type imageStore struct{ db *DB }

var _ images.Store = imageStore{}

// Images returns the store of images. Of a target it keeps media type, digest,
// size and annotations.
func (db *DB) Images() images.Store { return imageStore{db} }

// Get returns the image called name.
func (s imageStore) Get(ctx context.Context, name string) (images.Image, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return images.Image{}, err
	}
	var image images.Image
	err = s.db.view(func(t *tx) error {
		rec, err := loadImage(t, ns, name)
		image = rec.image(name)
		return err
	})
	if err != nil {
		return images.Image{}, err
	}
	return image, nil
}

// List returns the images that match any of the filters, whose fields are name,
// target.digest, target.mediatype, labels and annotations.
func (s imageStore) List(ctx context.Context, fs ...string) ([]images.Image, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	filter, err := parseFilters(fs)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var list []images.Image
	err = s.db.view(func(t *tx) error {
		return scanRecords(t, bktImages, under(ns), func(name string, rec imageRecord) error {
			match := filter.Match(fields{
				values: map[string]string{
					"name": name, "target.digest": rec.Digest.String(), "target.mediatype": rec.MediaType,
				},
				maps: map[string]map[string]string{"labels": rec.Labels, "annotations": rec.Annotations},
			})
			if match {
				list = append(list, rec.image(name))
			}
			return nil
		})
	})
	return list, err
}

// Create adds an image. Its times are set here.
func (s imageStore) Create(ctx context.Context, image images.Image) (images.Image, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return images.Image{}, err
	}
	image.CreatedAt = now(ctx)
	image.UpdatedAt = image.CreatedAt
	rec := newImageRecord(image)
	if err := checkImage(image.Name, rec); err != nil {
		return images.Image{}, fmt.Errorf("create image: %w", err)
	}
	err = s.db.update(ctx, func(t *tx) error {
		if t.has(bktImages, join(ns, image.Name)) {
			return fmt.Errorf("image %q: %w", image.Name, errdefs.ErrAlreadyExists)
		}
		if err := t.ensureNamespace(ns); err != nil {
			return err
		}
		if err := t.leaseImage(ctx, ns, image.Name, rec.Labels); err != nil {
			return err
		}
		return store(t, bktImages, join(ns, image.Name), rec)
	})
	if err != nil {
		return images.Image{}, err
	}
	s.db.collectSoonIfExpires(rec.Labels)
	s.db.publish(ctx, "/images/create", imageCreated(image))
	return image, nil
}

// Update replaces labels and target, or the fields named: "target", "labels",
// "annotations", "labels.<key>", "annotations.<key>".
func (s imageStore) Update(ctx context.Context, image images.Image, fieldpaths ...string) (images.Image, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return images.Image{}, err
	}
	if err := checkName("image name", image.Name); err != nil {
		return images.Image{}, fmt.Errorf("update image: %w", err)
	}
	var rec imageRecord
	err = s.db.update(ctx, func(t *tx) error {
		old, err := loadImage(t, ns, image.Name)
		if err != nil {
			return err
		}
		if rec, err = maskImage(old, newImageRecord(image), fieldpaths); err != nil {
			return fmt.Errorf("update image %q: %w", image.Name, err)
		}
		rec.Created, rec.Updated = old.Created, now(ctx)
		if err := checkImage(image.Name, rec); err != nil {
			return fmt.Errorf("update image: %w", err)
		}
		if err := t.leaseImage(ctx, ns, image.Name, rec.Labels); err != nil {
			return err
		}
		return store(t, bktImages, join(ns, image.Name), rec)
	})
	if err != nil {
		return images.Image{}, err
	}
	s.db.collectSoon() // the old target may be garbage now
	updated := rec.image(image.Name)
	s.db.publish(ctx, "/images/update", imageUpdated(updated))
	return updated, nil
}

// Delete removes the image's record. What only it referenced is removed shortly
// after, or before the return with images.SynchronousDelete.
//
// Errors: NotFound, also if the image is not the one of images.DeleteTarget.
func (s imageStore) Delete(ctx context.Context, name string, opts ...images.DeleteOpt) error {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	var o images.DeleteOptions
	for _, opt := range opts {
		if err := opt(ctx, &o); err != nil {
			return err
		}
	}
	err = s.db.update(ctx, func(t *tx) error {
		rec, err := loadImage(t, ns, name)
		if err != nil {
			return err
		}
		if o.Target != nil && o.Target.Digest != "" && o.Target.Digest != rec.Digest {
			return fmt.Errorf("image %q has target %s, not %s: %w", name, rec.Digest, o.Target.Digest, errdefs.ErrNotFound)
		}
		if err := t.unlease(ctx, ns, typeImages, name); err != nil {
			return err
		}
		return t.delete(bktImages, join(ns, name))
	})
	if err != nil {
		return err
	}
	s.db.publish(ctx, "/images/delete", imageDeleted(name))
	if o.Synchronous {
		return s.db.GC(ctx)
	}
	s.db.collectSoon()
	return nil
}

func loadImage(t *tx, ns, name string) (imageRecord, error) {
	rec, ok, err := load[imageRecord](t, bktImages, join(ns, name))
	if err == nil && !ok {
		err = fmt.Errorf("image %q: %w", name, errdefs.ErrNotFound)
	}
	return rec, err
}

func newImageRecord(i images.Image) imageRecord {
	return imageRecord{
		MediaType: i.Target.MediaType, Digest: i.Target.Digest, Size: i.Target.Size,
		Annotations: compact(i.Target.Annotations), Labels: compact(i.Labels),
		Created: i.CreatedAt, Updated: i.UpdatedAt,
	}
}

func (r imageRecord) image(name string) images.Image {
	return images.Image{
		Name: name, Labels: r.Labels, CreatedAt: r.Created, UpdatedAt: r.Updated,
		Target: ocispec.Descriptor{MediaType: r.MediaType, Digest: r.Digest, Size: r.Size, Annotations: r.Annotations},
	}
}

func maskImage(old, next imageRecord, fieldpaths []string) (imageRecord, error) {
	if len(fieldpaths) == 0 {
		return next, nil
	}
	rec := old
	for _, path := range fieldpaths {
		switch {
		case path == "target":
			rec.MediaType, rec.Digest, rec.Size, rec.Annotations = next.MediaType, next.Digest, next.Size, next.Annotations
		case maskMap(&rec.Labels, next.Labels, "labels", path):
		case maskMap(&rec.Annotations, next.Annotations, "annotations", path):
		default:
			return rec, fmt.Errorf("field %q cannot be changed: %w", path, errdefs.ErrInvalidArgument)
		}
	}
	rec.Labels, rec.Annotations = compact(rec.Labels), compact(rec.Annotations)
	return rec, nil
}

func checkImage(name string, rec imageRecord) error {
	if err := checkName("image name", name); err != nil {
		return err
	}
	if err := checkLabels(rec.Labels); err != nil {
		return fmt.Errorf("image %q: %w", name, err)
	}
	if err := rec.Digest.Validate(); err != nil {
		return fmt.Errorf("image %q: target digest %q: %w: %w", name, string(rec.Digest), err, errdefs.ErrInvalidArgument)
	}
	if rec.Size <= 0 {
		return fmt.Errorf("image %q: target size %d must be positive: %w", name, rec.Size, errdefs.ErrInvalidArgument)
	}
	if rec.MediaType == "" {
		return fmt.Errorf("image %q: target has no media type: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// now is the time of a change: SOURCE_DATE_EPOCH if the context carries one.
func now(ctx context.Context) time.Time {
	if t := epoch.FromContext(ctx); t != nil {
		return t.UTC()
	}
	return time.Now().UTC()
}
