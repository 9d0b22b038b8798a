package metadata

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ingestLife is how long an ingest without a lease is kept after its last Writer.
const ingestLife = 24 * time.Hour

// contentStore is a namespace's view of the blobs: a blob is there once the
// namespace has a record of it, with labels of its own.
type contentStore struct{ db *DB }

var _ content.Store = contentStore{}

// Content returns the content store. Namespaces share blobs: writing one whose
// digest is announced and which another namespace has takes no bytes, unless
// Config.Isolated.
func (db *DB) Content() content.Store { return contentStore{db} }

// Info returns the record of a blob.
func (s contentStore) Info(ctx context.Context, dgst digest.Digest) (content.Info, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return content.Info{}, err
	}
	var rec contentRecord
	err = s.db.view(func(t *tx) error {
		rec, err = loadContent(t, ns, dgst)
		return err
	})
	if err != nil {
		return content.Info{}, err
	}
	return rec.info(dgst), nil
}

// Update replaces labels: all, or the fields "labels" and "labels.<key>".
func (s contentStore) Update(ctx context.Context, info content.Info, fieldpaths ...string) (content.Info, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return content.Info{}, err
	}
	if len(fieldpaths) == 0 {
		fieldpaths = []string{"labels"}
	}
	var rec contentRecord
	err = s.db.update(ctx, func(t *tx) error {
		if rec, err = loadContent(t, ns, info.Digest); err != nil {
			return err
		}
		for _, path := range fieldpaths {
			if !maskMap(&rec.Labels, info.Labels, "labels", path) {
				return fmt.Errorf("update content %s: field %q cannot be changed: %w", info.Digest, path, errdefs.ErrInvalidArgument)
			}
		}
		rec.Labels = compact(rec.Labels)
		if err := checkLabels(rec.Labels); err != nil {
			return fmt.Errorf("update content %s: %w", info.Digest, err)
		}
		rec.Updated = time.Now().UTC()
		return store(t, bktContent, join(ns, info.Digest.String()), rec)
	})
	if err != nil {
		return content.Info{}, err
	}
	s.db.collectSoon() // a reference may have gone
	return rec.info(info.Digest), nil
}

// Walk calls fn for each blob of the namespace that matches any of the filters.
func (s contentStore) Walk(ctx context.Context, fn content.WalkFunc, fs ...string) error {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	filter, err := parseFilters(fs)
	if err != nil {
		return fmt.Errorf("walk content: %w", err)
	}
	var list []content.Info // fn may take its time or write, a transaction must not wait
	err = s.db.view(func(t *tx) error {
		return scanRecords(t, bktContent, under(ns), func(dgst string, rec contentRecord) error {
			if info := rec.info(digest.Digest(dgst)); filter.Match(content.AdaptInfo(info)) {
				list = append(list, info)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	for _, info := range list {
		if err := fn(info); err != nil {
			return err
		}
	}
	return nil
}

// Delete removes the namespace's record; the bytes go when no namespace has one.
func (s contentStore) Delete(ctx context.Context, dgst digest.Digest) error {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	err = s.db.update(ctx, func(t *tx) error {
		if _, err := loadContent(t, ns, dgst); err != nil {
			return err
		}
		if err := t.unlease(ctx, ns, typeContent, dgst.String()); err != nil {
			return err
		}
		return t.delete(bktContent, join(ns, dgst.String()))
	})
	if err != nil {
		return err
	}
	s.db.gc.doomBlob(dgst)
	s.db.collectSoon()
	s.db.publish(ctx, "/content/delete", contentDeleted(dgst.String()))
	return nil
}

// ReaderAt opens a blob of the namespace.
func (s contentStore) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if _, err := s.Info(ctx, desc.Digest); err != nil {
		return nil, err
	}
	return s.db.blobs.ReaderAt(ctx, desc)
}

// Status describes an ingest of the namespace.
func (s contentStore) Status(ctx context.Context, ref string) (content.Status, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return content.Status{}, err
	}
	var rec ingestRecord
	err = s.db.view(func(t *tx) error {
		rec, err = loadIngest(t, ns, ref)
		return err
	})
	if err != nil {
		return content.Status{}, err
	}
	st, err := s.db.blobs.Status(ctx, rec.Ref)
	if err != nil {
		return content.Status{}, fmt.Errorf("ingest %q: %w", ref, err)
	}
	st.Ref = ref
	return st, nil
}

// ListStatuses describes the ingests that match any of the filters, whose only
// field is ref.
func (s contentStore) ListStatuses(ctx context.Context, fs ...string) ([]content.Status, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	filter, err := parseFilters(fs)
	if err != nil {
		return nil, fmt.Errorf("list ingests: %w", err)
	}
	backends := make(map[string]string) // ref -> ref in the blob store
	err = s.db.view(func(t *tx) error {
		return scanRecords(t, bktIngests, under(ns), func(ref string, rec ingestRecord) error {
			backends[ref] = rec.Ref
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	list := []content.Status{}
	for ref, backend := range backends {
		if !filter.Match(filters.AdapterFunc(func(path []string) (string, bool) {
			return ref, len(path) == 1 && path[0] == "ref"
		})) {
			continue
		}
		st, err := s.db.blobs.Status(ctx, backend)
		if errdefs.IsNotFound(err) {
			continue // no bytes yet
		}
		if err != nil {
			return nil, err
		}
		st.Ref = ref
		list = append(list, st)
	}
	return list, nil
}

// Abort drops an ingest. A writer that is open fails to commit.
func (s contentStore) Abort(ctx context.Context, ref string) error {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	var rec ingestRecord
	err = s.db.update(ctx, func(t *tx) error {
		if rec, err = loadIngest(t, ns, ref); err != nil {
			return err
		}
		if err := t.unlease(ctx, ns, typeIngests, ref); err != nil {
			return err
		}
		return t.delete(bktIngests, join(ns, ref))
	})
	if err != nil {
		return err
	}
	if rec.Expected != "" {
		s.db.gc.doomBlob(rec.Expected)
		s.db.collectSoon()
	}
	if err := s.db.blobs.Abort(ctx, rec.Ref); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// Writer opens an ingest of the namespace.
//
// Errors: as content.Ingester says; AlreadyExists adds the blob to the context's
// lease.
func (s contentStore) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkName("ref", o.Ref); err != nil {
		return nil, fmt.Errorf("write content: %w", err)
	}
	stored := false // with the size announced
	if d := o.Desc.Digest; d != "" {
		if err := d.Validate(); err != nil {
			return nil, fmt.Errorf("write content: digest %q: %w: %w", string(d), err, errdefs.ErrInvalidArgument)
		}
		defer s.db.pins.pin(d)()
		info, err := s.db.blobs.Info(ctx, d)
		stored = err == nil && (o.Desc.Size <= 0 || o.Desc.Size == info.Size)
		if stored {
			o.Desc.Size = info.Size
		}
	}
	done := s.db.writing.add(ns, o.Ref)
	w, err := s.open(ctx, ns, o, stored)
	if err != nil {
		done()
		return nil, err
	}
	w.done = done
	return w, nil
}

// open records the ingest, then opens it in the blob store. stored says that the
// blob is there, perhaps in another namespace.
func (s contentStore) open(ctx context.Context, ns string, o content.WriterOpts, stored bool) (*contentWriter, error) {
	var (
		exists, shared bool
		rec            ingestRecord
		dgst           = o.Desc.Digest.String()
	)
	err := s.db.update(ctx, func(t *tx) error {
		var err error
		exists = dgst != "" && t.has(bktContent, join(ns, dgst))
		if exists {
			_, err = t.lease(ctx, ns, typeContent, dgst)
			return err
		}
		var expected digest.Digest
		if shared = stored && (!s.db.isolated || t.shareable(dgst)); shared {
			expected = o.Desc.Digest
		}
		rec, err = t.recordIngest(ctx, ns, o.Ref, expected)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("write content %q: %w", o.Ref, err)
	}
	if exists {
		return nil, fmt.Errorf("content %s: %w", dgst, errdefs.ErrAlreadyExists)
	}
	s.db.at("ingest recorded")
	w := &contentWriter{db: s.db, ctx: context.WithoutCancel(ctx), ns: ns, ref: o.Ref, backend: rec.Ref, desc: o.Desc, started: time.Now()}
	if !shared {
		if err := w.unshare(ctx, 0); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// recordIngest makes or renews the record of an ingest. Its ref in the blob store
// is never used twice, so an ingest there without a record is garbage.
func (t *tx) recordIngest(ctx context.Context, ns, ref string, expected digest.Digest) (ingestRecord, error) {
	rec, ok, err := load[ingestRecord](t, bktIngests, join(ns, ref))
	if err != nil {
		return rec, err
	}
	if err := t.ensureNamespace(ns); err != nil {
		return rec, err
	}
	if !ok {
		t.wrote = true
		seq, err := t.bucket(bktIngests).NextSequence()
		if err != nil {
			return rec, err
		}
		rec.Ref = backendRef(ns, seq, ref)
	}
	leased, err := t.lease(ctx, ns, typeIngests, ref)
	if err != nil {
		return rec, err
	}
	rec.Expected, rec.Expire = expected, time.Time{}
	if !leased {
		rec.Expire = time.Now().UTC().Add(ingestLife)
	}
	return rec, store(t, bktIngests, join(ns, ref), rec)
}

// A namespace has no slash, so that splitBackendRef undoes backendRef.
func backendRef(ns string, seq uint64, ref string) string {
	return ns + "/" + strconv.FormatUint(seq, 10) + "/" + ref
}

func splitBackendRef(s string) (ns, ref string, ok bool) {
	parts := strings.SplitN(s, "/", 3)
	if len(parts) != 3 {
		return "", "", false
	}
	return parts[0], parts[2], true
}

// shareable reports whether a namespace that is labelled so has the blob.
func (t *tx) shareable(dgst string) bool {
	found := false
	err := scanRecords(t, bktNamespaces, nil, func(ns string, rec namespaceRecord) error {
		if rec.Labels[labels.LabelSharedNamespace] == "true" && t.has(bktContent, join(ns, dgst)) {
			found = true
			return errStop
		}
		return nil
	})
	return found && err == nil
}

func (r contentRecord) info(dgst digest.Digest) content.Info {
	return content.Info{Digest: dgst, Size: r.Size, Labels: r.Labels, CreatedAt: r.Created, UpdatedAt: r.Updated}
}

func loadContent(t *tx, ns string, dgst digest.Digest) (contentRecord, error) {
	rec, ok, err := load[contentRecord](t, bktContent, join(ns, dgst.String()))
	if err == nil && !ok {
		err = fmt.Errorf("content %s: %w", dgst, errdefs.ErrNotFound)
	}
	return rec, err
}

func loadIngest(t *tx, ns, ref string) (ingestRecord, error) {
	rec, ok, err := load[ingestRecord](t, bktIngests, join(ns, ref))
	if err == nil && !ok {
		err = fmt.Errorf("ingest %q: %w", ref, errdefs.ErrNotFound)
	}
	return rec, err
}
