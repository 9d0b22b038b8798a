package metadata

import (
	"context"
	"errors"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"

	"lighter/containerd/snapshot"
)

// Sync brings all files of the snapshotter to the disk and then clears the marks
// of snapshots whose sync was deferred, in all namespaces.
func (s *snapshotter) Sync(ctx context.Context) error { return s.db.syncSnapshots(ctx, s.backend) }

// Stacks reports whether snapshots may get their parent when they are committed;
// see snapshot.LabelStack.
func (s *snapshotter) Stacks() bool {
	d, ok := s.Driver.(snapshot.Stacker)
	return ok && d.Stacks()
}

func (db *DB) syncSnapshots(ctx context.Context, b *backend) error {
	// Only what is marked before the sync began is covered by it. A key may be
	// removed and marked again meanwhile, so the ID is remembered too.
	marked := make(map[string]snapshot.ID)
	err := db.view(func(t *tx) error { return t.deferred(b.name, func(m mark) { marked[string(m.key)] = m.rec.ID }) })
	if err != nil {
		return err
	}
	if err := b.Driver.Sync(ctx); err != nil {
		return err
	}
	if len(marked) == 0 {
		return nil
	}
	db.at("driver synced")
	return db.update(ctx, func(t *tx) error {
		for key, id := range marked {
			rec, ok, err := load[snapshotRecord](t, bktSnapshots, []byte(key))
			if err != nil {
				return err
			}
			if !ok || rec.ID != id {
				continue
			}
			if err := t.delete(bktDeferred, []byte(key)); err != nil {
				return err
			}
		}
		return nil
	})
}

// mark is a snapshot whose sync was deferred.
type mark struct {
	key      []byte // in bktSnapshots
	ns, name string
	boot     string
	rec      snapshotRecord
}

// deferred calls fn for each mark of the snapshotter.
func (t *tx) deferred(snapshotter string, fn func(mark)) error {
	return t.scan(bktDeferred, nil, func(rest string, boot []byte) error {
		parts := strings.SplitN(rest, sep, 3)
		if len(parts) != 3 || parts[1] != snapshotter {
			return nil
		}
		m := mark{key: []byte(rest), ns: parts[0], name: parts[2], boot: string(boot)}
		var err error
		m.rec, _, err = load[snapshotRecord](t, bktSnapshots, m.key)
		if err == nil {
			fn(m)
		}
		return err
	})
}

// recoverSnapshots brings records and files of a snapshotter in line before it is
// used:
//
//   - Marked in this boot: only the process died. The files are synced, the marks
//     cleared.
//   - Marked in an earlier boot: the files may be holes. The records are dropped.
//   - Committed without files: the record is dropped with the committed snapshots and
//     views on it, so that unpacking the image again finds nothing and repairs it.
//     Active snapshots stay: what was written in a container is worth keeping, and it
//     works again once its parent has been unpacked.
//   - Active or view without files: a power cut came right after Prepare, whose
//     directories are not synced. They are made again, empty as they were.
//   - Files without a record: left to the collector.
func (db *DB) recoverSnapshots(ctx context.Context, b *backend) error {
	ids, err := b.IDs()
	if err != nil {
		return err
	}
	files := make(map[snapshot.ID]bool, len(ids))
	for _, id := range ids {
		files[id] = true
		b.last.Store(max(b.last.Load(), uint64(id)))
	}
	synced := false
	err = db.view(func(t *tx) error {
		return t.deferred(b.name, func(m mark) { synced = synced || m.boot == db.boot })
	})
	if err == nil && synced {
		err = b.Driver.Sync(ctx)
	}
	if err != nil {
		return err
	}
	var remake []snapshot.Snapshot
	err = db.update(ctx, func(t *tx) error {
		remake = nil
		if err := db.settleMarks(t, b); err != nil {
			return err
		}
		if err := db.dropLost(t, b, files); err != nil {
			return err
		}
		return scanSnapshots(t, b.name, func(ns, key string, rec snapshotRecord) error {
			b.last.Store(max(b.last.Load(), uint64(rec.ID)))
			if files[rec.ID] {
				delete(files, rec.ID)
				return nil
			}
			snap, err := (&snapshotter{db: db, backend: b}).resolve(t, ns, rec)
			if err != nil {
				db.log.Error("snapshot lost its files and its parent", "snapshot", key, "err", err)
				return nil
			}
			remake = append(remake, snap)
			return nil
		})
	})
	if err != nil {
		return err
	}
	for _, snap := range remake {
		db.log.Warn("snapshot without files made again, empty", "snapshotter", b.name, "dir", snap.ID.String())
		if err := b.Driver.Create(ctx, snap); err != nil {
			return err
		}
	}
	for id := range files {
		db.gc.doomSnapshot(b, id)
	}
	return nil
}

// settleMarks clears the marks of this boot and drops the records of others.
func (db *DB) settleMarks(t *tx, b *backend) error {
	var marks []mark
	if err := t.deferred(b.name, func(m mark) { marks = append(marks, m) }); err != nil {
		return err
	}
	var errs []error
	for _, m := range marks {
		if m.boot == db.boot {
			errs = append(errs, t.delete(bktDeferred, m.key))
			continue
		}
		db.log.Warn("snapshot dropped: it was not synced before the machine stopped", "snapshotter", b.name, "snapshot", m.name)
		errs = append(errs, t.dropSnapshot(m.ns, b.name, m.name, m.rec))
	}
	return errors.Join(errs...)
}

// dropLost drops the committed snapshots without files and what cannot be used
// without them.
func (db *DB) dropLost(t *tx, b *backend, files map[snapshot.ID]bool) error {
	type lost struct {
		ns, key string
		rec     snapshotRecord
	}
	var queue []lost
	err := scanSnapshots(t, b.name, func(ns, key string, rec snapshotRecord) error {
		if rec.Kind == snapshots.KindCommitted && !files[rec.ID] {
			queue = append(queue, lost{ns, key, rec})
		}
		return nil
	})
	if err != nil {
		return err
	}
	for len(queue) > 0 {
		l := queue[0]
		queue = queue[1:]
		if !t.has(bktSnapshots, join(l.ns, b.name, l.key)) {
			continue
		}
		db.log.Error("snapshot dropped: its files or its parent's are gone, unpack the image again", "snapshotter", b.name, "snapshot", l.key)
		if err := t.dropSnapshot(l.ns, b.name, l.key, l.rec); err != nil {
			return err
		}
		err := t.scan(bktChildren, under(l.ns, b.name, l.key), func(child string, _ []byte) error {
			rec, ok, err := load[snapshotRecord](t, bktSnapshots, join(l.ns, b.name, child))
			if ok && rec.Kind != snapshots.KindActive {
				queue = append(queue, lost{l.ns, child, rec})
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// scanSnapshots calls fn for the records of a snapshotter in all namespaces.
func scanSnapshots(t *tx, snapshotter string, fn func(ns, key string, rec snapshotRecord) error) error {
	return scanRecords(t, bktSnapshots, nil, func(rest string, rec snapshotRecord) error {
		parts := strings.SplitN(rest, sep, 3)
		if len(parts) != 3 || parts[1] != snapshotter {
			return nil
		}
		return fn(parts[0], parts[2], rec)
	})
}
