package metadata

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"

	"lighter/containerd/snapshot"
)

// backend is a driver with the IDs it may use next.
type backend struct {
	snapshot.Driver
	name string
	last atomic.Uint64 // ID given out last; see recoverSnapshots
}

// snapshotter is a namespaced snapshotter: records here, files in the driver.
//
// A snapshot's record names its parent by key. Its directory has an ID that is
// used once, so files of a record that was removed never serve another.
type snapshotter struct {
	db *DB
	*backend
}

var (
	_ snapshots.Snapshotter = (*snapshotter)(nil)
	_ snapshot.Syncer       = (*snapshotter)(nil)
)

// errParentUnsynced asks for a Sync before a snapshot is recorded on a parent
// whose files may not be on disk.
var errParentUnsynced = errors.New("the parent is not synced")

// Stat describes a snapshot.
func (s *snapshotter) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return snapshots.Info{}, err
	}
	var rec snapshotRecord
	err = s.db.view(func(t *tx) error {
		rec, err = s.load(t, ns, key)
		return err
	})
	if err != nil {
		return snapshots.Info{}, err
	}
	return rec.info(key), nil
}

// Update replaces labels: all, or the fields "labels" and "labels.<key>".
func (s *snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return snapshots.Info{}, err
	}
	if info.Name == "" {
		return snapshots.Info{}, fmt.Errorf("update snapshot: the name is missing: %w", errdefs.ErrInvalidArgument)
	}
	if len(fieldpaths) == 0 {
		fieldpaths = []string{"labels"}
	}
	var rec snapshotRecord
	err = s.db.update(ctx, func(t *tx) error {
		if rec, err = s.load(t, ns, info.Name); err != nil {
			return err
		}
		for _, path := range fieldpaths {
			if !maskMap(&rec.Labels, info.Labels, "labels", path) {
				return fmt.Errorf("update snapshot %q: field %q cannot be changed: %w", info.Name, path, errdefs.ErrInvalidArgument)
			}
		}
		rec.Labels = compact(rec.Labels)
		if err := checkLabels(rec.Labels); err != nil {
			return fmt.Errorf("update snapshot %q: %w", info.Name, err)
		}
		rec.Updated = time.Now().UTC()
		return store(t, bktSnapshots, s.key(ns, info.Name), rec)
	})
	if err != nil {
		return snapshots.Info{}, err
	}
	s.db.collectSoon() // a reference may have gone
	return rec.info(info.Name), nil
}

// Usage returns what a snapshot uses without its parents. For an active snapshot
// its files are counted, which takes time.
func (s *snapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return snapshots.Usage{}, err
	}
	var rec snapshotRecord
	err = s.db.view(func(t *tx) error {
		rec, err = s.load(t, ns, key)
		return err
	})
	if err != nil {
		return snapshots.Usage{}, err
	}
	if rec.Kind == snapshots.KindActive {
		return s.Driver.Usage(ctx, rec.ID)
	}
	return snapshots.Usage{Size: rec.Size, Inodes: rec.Inodes}, nil
}

// Mounts returns the mounts of an active snapshot or a view.
//
// Errors: NotFound; FailedPrecondition for a committed snapshot.
func (s *snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	var snap snapshot.Snapshot
	err = s.db.view(func(t *tx) error {
		rec, err := s.load(t, ns, key)
		if err != nil {
			return err
		}
		if rec.Kind == snapshots.KindCommitted {
			return fmt.Errorf("mounts of snapshot %q: it is committed; prepare a snapshot on it: %w", key, errdefs.ErrFailedPrecondition)
		}
		snap, err = s.resolve(t, ns, rec)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.Driver.Mounts(snap), nil
}

// Prepare makes the active snapshot key on parent ("" means empty).
//
// Errors: AlreadyExists if key is taken, or the snapshot that the label
// containerd.io/snapshot.ref names is there (it is added to the context's lease);
// NotFound if parent is missing; InvalidArgument if parent is not committed.
// Commit point: the transaction. A crash before it leaves files that the
// start-up sweep removes.
func (s *snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	mounts, err := s.make(ctx, snapshots.KindActive, key, parent, opts)
	if err != nil {
		return nil, fmt.Errorf("prepare snapshot %q: %w", key, err)
	}
	s.db.publish(ctx, "/snapshot/prepare", snapshotPrepared(s.name, key, parent))
	return mounts, nil
}

// View makes the read-only snapshot key of parent. Errors as for Prepare.
func (s *snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	mounts, err := s.make(ctx, snapshots.KindView, key, parent, opts)
	if err != nil {
		return nil, fmt.Errorf("view snapshot %q: %w", key, err)
	}
	return mounts, nil
}

func (s *snapshotter) make(ctx context.Context, kind snapshots.Kind, key, parent string, opts []snapshots.Opt) ([]mount.Mount, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkName("key", key); err != nil {
		return nil, err
	}
	info, deferred, err := applyOpts(opts)
	if err != nil {
		return nil, err
	}
	created := time.Now().UTC()
	rec := snapshotRecord{
		ID: snapshot.ID(s.last.Add(1)), Kind: kind, Parent: parent, Labels: info.Labels, Created: created, Updated: created,
	}
	snap, err := s.plan(ctx, ns, key, rec)
	if err != nil {
		return nil, err
	}
	if err := s.Driver.Create(ctx, snap); err != nil {
		// The parent's files may have been removed under it; then say so.
		_, again := s.plan(ctx, ns, key, rec)
		return nil, errors.Join(again, err)
	}
	s.db.at("snapshot created")
	for {
		err = s.insert(ctx, ns, key, rec, deferred)
		if !errors.Is(err, errParentUnsynced) {
			break
		}
		if err = s.Sync(ctx); err != nil {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.Driver.Remove(context.WithoutCancel(ctx), rec.ID))
	}
	s.db.at("snapshot recorded")
	return s.Driver.Mounts(snap), nil
}

// plan finds the parents of a snapshot to be and refuses it early if it exists.
func (s *snapshotter) plan(ctx context.Context, ns, key string, rec snapshotRecord) (snap snapshot.Snapshot, err error) {
	var taken string
	err = s.db.view(func(t *tx) error {
		if taken = s.taken(t, ns, key, rec.Labels); taken != "" {
			return nil
		}
		snap, err = s.resolve(t, ns, rec)
		return err
	})
	if err != nil || taken == "" {
		return snap, err
	}
	err = s.db.update(ctx, func(t *tx) error {
		_, err := t.lease(ctx, ns, typeSnapshots+"/"+s.name, taken)
		return err
	})
	if err != nil {
		return snap, err
	}
	return snap, fmt.Errorf("snapshot %q: %w", taken, errdefs.ErrAlreadyExists)
}

// taken returns the snapshot whose existence makes Prepare unnecessary: the one that
// the labels name as its target, or that with the key.
func (s *snapshotter) taken(t *tx, ns, key string, labels map[string]string) string {
	if target := labels[snapshots.LabelSnapshotRef]; target != "" && t.has(bktSnapshots, s.key(ns, target)) {
		return target
	}
	if t.has(bktSnapshots, s.key(ns, key)) {
		return key
	}
	return ""
}

func (s *snapshotter) insert(ctx context.Context, ns, key string, rec snapshotRecord, deferred bool) error {
	return s.db.update(ctx, func(t *tx) error {
		if taken := s.taken(t, ns, key, rec.Labels); taken != "" {
			return fmt.Errorf("snapshot %q: %w", taken, errdefs.ErrAlreadyExists)
		}
		if err := s.link(t, ns, key, rec.Parent, deferred); err != nil {
			return err
		}
		if err := t.ensureNamespace(ns); err != nil {
			return err
		}
		if _, err := t.lease(ctx, ns, typeSnapshots+"/"+s.name, key); err != nil {
			return err
		}
		return store(t, bktSnapshots, s.key(ns, key), rec)
	})
}

// link puts key below parent and marks it if its files are not to be trusted after
// a power cut.
func (s *snapshotter) link(t *tx, ns, key, parent string, deferred bool) error {
	if parent != "" {
		rec, err := s.load(t, ns, parent)
		if err != nil {
			return fmt.Errorf("parent: %w", err)
		}
		if rec.Kind != snapshots.KindCommitted {
			return fmt.Errorf("parent %q is not committed: %w", parent, errdefs.ErrInvalidArgument)
		}
		if !deferred && t.has(bktDeferred, s.key(ns, parent)) {
			return errParentUnsynced
		}
		if err := t.put(bktChildren, join(ns, s.name, parent, key), []byte{}); err != nil {
			return err
		}
	}
	if deferred {
		return t.put(bktDeferred, s.key(ns, key), []byte(s.db.boot))
	}
	return t.delete(bktDeferred, s.key(ns, key))
}

// Commit turns the active snapshot key into the committed snapshot name, with the
// labels given and, if it has no parent, with the one of snapshots.WithParent.
//
// Errors: NotFound without key or parent; FailedPrecondition if key is a view;
// AlreadyExists if name is taken (it is added to the context's lease);
// InvalidArgument if the parent would change.
// Commit point: the transaction, before which the files are on disk; see
// snapshot.LabelDeferSync.
func (s *snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	if err := s.commit(ctx, name, key, opts); err != nil {
		return fmt.Errorf("commit snapshot %q as %q: %w", key, name, err)
	}
	s.db.publish(ctx, "/snapshot/commit", snapshotCommitted(s.name, key, name))
	return nil
}

func (s *snapshotter) commit(ctx context.Context, name, key string, opts []snapshots.Opt) error {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	if err := checkName("name", name); err != nil {
		return err
	}
	info, deferred, err := applyOpts(opts)
	if err != nil {
		return err
	}
	var active snapshotRecord
	err = s.db.view(func(t *tx) error {
		if t.has(bktSnapshots, s.key(ns, name)) {
			return nil // the transaction says so and leases it
		}
		active, err = s.loadActive(t, ns, key)
		return err
	})
	if err != nil {
		return err
	}
	var usage snapshots.Usage
	if active.ID != 0 {
		if usage, err = s.Driver.Usage(ctx, active.ID); err != nil {
			return err
		}
	}
	for {
		if active.ID != 0 && !deferred {
			if err := s.Sync(ctx); err != nil {
				return err
			}
		}
		s.db.at("snapshot synced")
		err := s.rename(ctx, ns, key, name, active.ID, info, usage, deferred)
		if !errors.Is(err, errParentUnsynced) {
			return err
		}
	}
}

// rename is the transaction of Commit. id is what was measured and synced.
func (s *snapshotter) rename(ctx context.Context, ns, key, name string, id snapshot.ID, info snapshots.Info, usage snapshots.Usage, deferred bool) error {
	exists := false
	err := s.db.update(ctx, func(t *tx) error {
		if exists = t.has(bktSnapshots, s.key(ns, name)); exists {
			_, err := t.lease(ctx, ns, typeSnapshots+"/"+s.name, name)
			return err
		}
		rec, err := s.loadActive(t, ns, key)
		if err != nil {
			return err
		}
		if rec.ID != id {
			return fmt.Errorf("snapshot %q was replaced meanwhile: %w", key, errdefs.ErrConflict)
		}
		if info.Parent != "" && rec.Parent != "" && info.Parent != rec.Parent {
			return fmt.Errorf("parent is %q and cannot become %q: %w", rec.Parent, info.Parent, errdefs.ErrInvalidArgument)
		}
		if err := s.drop(ctx, t, ns, key, rec); err != nil {
			return err
		}
		if rec.Parent == "" {
			rec.Parent = info.Parent
		}
		if err := s.link(t, ns, name, rec.Parent, deferred); err != nil {
			return err
		}
		if _, err := t.lease(ctx, ns, typeSnapshots+"/"+s.name, name); err != nil {
			return err
		}
		created := time.Now().UTC()
		return store(t, bktSnapshots, s.key(ns, name), snapshotRecord{
			ID: rec.ID, Kind: snapshots.KindCommitted, Parent: rec.Parent, Labels: info.Labels,
			Size: usage.Size, Inodes: usage.Inodes, Created: created, Updated: created,
		})
	})
	if err == nil && exists {
		return fmt.Errorf("snapshot %q: %w", name, errdefs.ErrAlreadyExists)
	}
	return err
}

// Remove removes a snapshot; its files go shortly after.
//
// Errors: NotFound; FailedPrecondition if it is the parent of another.
func (s *snapshotter) Remove(ctx context.Context, key string) error {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	var rec snapshotRecord
	err = s.db.update(ctx, func(t *tx) error {
		if rec, err = s.load(t, ns, key); err != nil {
			return err
		}
		if t.any(bktChildren, under(ns, s.name, key)) {
			return fmt.Errorf("it is the parent of another: %w", errdefs.ErrFailedPrecondition)
		}
		return s.drop(ctx, t, ns, key, rec)
	})
	if err != nil {
		return fmt.Errorf("remove snapshot %q: %w", key, err)
	}
	s.db.at("snapshot removed")
	s.db.gc.doomSnapshot(s.backend, rec.ID)
	s.db.collectSoon()
	s.db.publish(ctx, "/snapshot/remove", snapshotRemoved(s.name, key))
	return nil
}

// Walk calls fn for each snapshot that matches any of the filters, whose fields are
// name, parent, kind and labels.
func (s *snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, fs ...string) error {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	filter, err := parseFilters(fs)
	if err != nil {
		return fmt.Errorf("walk snapshots: %w", err)
	}
	var list []snapshots.Info // fn may take its time or write, a transaction must not wait
	err = s.db.view(func(t *tx) error {
		return scanRecords(t, bktSnapshots, under(ns, s.name), func(key string, rec snapshotRecord) error {
			if filter.Match(rec.fields(key)) {
				list = append(list, rec.info(key))
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	for _, info := range list {
		if err := fn(ctx, info); err != nil {
			return err
		}
	}
	return nil
}

// Close does nothing; see DB.Snapshotter.
func (s *snapshotter) Close() error { return nil }

func (s *snapshotter) key(ns, key string) []byte { return join(ns, s.name, key) }

func (s *snapshotter) load(t *tx, ns, key string) (snapshotRecord, error) {
	rec, ok, err := load[snapshotRecord](t, bktSnapshots, s.key(ns, key))
	if err == nil && !ok {
		err = fmt.Errorf("snapshot %q: %w", key, errdefs.ErrNotFound)
	}
	return rec, err
}

func (s *snapshotter) loadActive(t *tx, ns, key string) (snapshotRecord, error) {
	rec, err := s.load(t, ns, key)
	if err == nil && rec.Kind != snapshots.KindActive {
		err = fmt.Errorf("snapshot %q is not active: %w", key, errdefs.ErrFailedPrecondition)
	}
	return rec, err
}

// resolve follows the parents of a record.
func (s *snapshotter) resolve(t *tx, ns string, rec snapshotRecord) (snapshot.Snapshot, error) {
	snap := snapshot.Snapshot{ID: rec.ID, Kind: rec.Kind, Labels: rec.Labels}
	for key := rec.Parent; key != ""; {
		parent, err := s.load(t, ns, key)
		if err != nil {
			return snap, fmt.Errorf("parent: %w", err)
		}
		if parent.Kind != snapshots.KindCommitted {
			return snap, fmt.Errorf("parent %q is not committed: %w", key, errdefs.ErrInvalidArgument)
		}
		snap.Parents = append(snap.Parents, parent.ID)
		key = parent.Parent
	}
	return snap, nil
}

// drop deletes a record and all that points to it from the context's lease and
// its parent.
func (s *snapshotter) drop(ctx context.Context, t *tx, ns, key string, rec snapshotRecord) error {
	if err := t.unlease(ctx, ns, typeSnapshots+"/"+s.name, key); err != nil {
		return err
	}
	return t.dropSnapshot(ns, s.name, key, rec)
}

func (t *tx) dropSnapshot(ns, name, key string, rec snapshotRecord) error {
	if rec.Parent != "" {
		if err := t.delete(bktChildren, join(ns, name, rec.Parent, key)); err != nil {
			return err
		}
	}
	if err := t.delete(bktDeferred, join(ns, name, key)); err != nil {
		return err
	}
	return t.delete(bktSnapshots, join(ns, name, key))
}

// applyOpts returns the info that opts make and whether the sync is deferred.
func applyOpts(opts []snapshots.Opt) (info snapshots.Info, deferred bool, err error) {
	for _, opt := range opts {
		if err := opt(&info); err != nil {
			return info, false, err
		}
	}
	if err := checkLabels(info.Labels); err != nil {
		return info, false, err
	}
	_, deferred = info.Labels[snapshot.LabelDeferSync]
	if deferred {
		info.Labels = maps.Clone(info.Labels)
		delete(info.Labels, snapshot.LabelDeferSync)
	}
	info.Labels = compact(info.Labels)
	return info, deferred, nil
}

func (r snapshotRecord) info(name string) snapshots.Info {
	return snapshots.Info{
		Kind: r.Kind, Name: name, Parent: r.Parent, Labels: r.Labels, Created: r.Created, Updated: r.Updated,
	}
}

func (r snapshotRecord) fields(name string) fields {
	kinds := map[snapshots.Kind]string{
		snapshots.KindActive: "active", snapshots.KindView: "view", snapshots.KindCommitted: "committed",
	}
	return fields{
		values: map[string]string{"name": name, "parent": r.Parent, "kind": kinds[r.Kind]},
		maps:   map[string]map[string]string{"labels": r.Labels},
	}
}
