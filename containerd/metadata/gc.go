package metadata

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"lighter/containerd/snapshot"
)

// collector removes garbage, one collection at a time.
//
// A collection marks in a read transaction; only if that finds garbage it marks again
// and deletes the records in a write transaction, where nothing can change
// in between. The files of what was deleted wait in doomed: they go after the
// transaction, and what cannot go now is tried again next time. A crash forgets
// doomed and start-up finds the same files by set difference.
type collector struct {
	db    *DB
	delay time.Duration
	full  func() bool   // the disk is
	kick  chan struct{} // capacity 1: a collection is wanted soon, once is enough
	end   context.CancelFunc
	done  chan struct{} // closed when the goroutine has ended

	running sync.Mutex // held for a whole collection, with I/O: that is its purpose; guards swept
	swept   bool       // what an earlier process left is gone or doomed

	mu     sync.Mutex // guards the field below
	doomed doomed
}

// doomed are files that records may not refer to any more.
type doomed struct {
	blobs     map[digest.Digest]struct{}
	ingests   map[string]struct{}
	snapshots map[doomedSnapshot]struct{}
}

type doomedSnapshot struct {
	backend *backend
	id      snapshot.ID
}

func newDoomed() doomed {
	return doomed{
		blobs: make(map[digest.Digest]struct{}), ingests: make(map[string]struct{}),
		snapshots: make(map[doomedSnapshot]struct{}),
	}
}

// retryAfter is how long a background collection that failed waits.
const retryAfter = time.Minute

// pause is the least time between two background collections, in units of what
// the last one took: the collector takes at most 1/pause of the time.
const pause = 20

// start starts the collector's goroutine, which stop ends. It first removes what
// an earlier process left.
func (c *collector) start(db *DB, delay time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background()) // the lifetime of the DB
	c.db, c.delay, c.end = db, delay, cancel
	c.kick, c.done = make(chan struct{}, 1), make(chan struct{})
	if c.doomed.blobs == nil {
		c.doomed = newDoomed()
	}
	go c.run(ctx)
}

func (c *collector) stop() {
	c.end()
	<-c.done
}

func (c *collector) run(ctx context.Context) {
	defer close(c.done)
	c.running.Lock()
	err := c.sweepLeftovers(ctx)
	c.running.Unlock()
	if err != nil && ctx.Err() == nil {
		c.db.log.Error("remains of an earlier run not swept", "err", err)
	}
	due := time.Now().Add(c.delay) // the first collection finds what expired meanwhile
	timer := time.NewTimer(c.delay)
	defer timer.Stop()
	var idleUntil time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.kick:
			at := c.begin(time.Now(), idleUntil)
			if due.IsZero() || at.Before(due) {
				due = at
				timer.Reset(time.Until(at))
			}
		case <-timer.C:
			began := time.Now()
			next, err := c.collectOnce(ctx)
			if err != nil && ctx.Err() == nil {
				c.db.log.Error("garbage not collected", "err", err)
				next = time.Now().Add(retryAfter)
			}
			idleUntil = time.Now().Add(pause * time.Since(began))
			if due = next; !due.IsZero() {
				timer.Reset(max(time.Until(due), time.Until(idleUntil)))
			}
		}
	}
}

// begin returns when a collection that is asked for now begins: after the delay,
// and not before the rest after the last one is over, unless the disk is full. Then
// nothing matters more than space.
func (c *collector) begin(now, idleUntil time.Time) time.Time {
	if c.full() {
		return now
	}
	if at := now.Add(c.delay); at.After(idleUntil) {
		return at
	}
	return idleUntil
}

// A disk with less than this free, in bytes or as a part of its size, whichever is
// less, is full: what failed for want of space has given back some of it.
const (
	fullBytes = 256 << 20
	fullPart  = 50
)

// diskFull returns a function that tells whether the file system of dir is full.
func diskFull(dir string) func() bool {
	return func() bool {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil || st.Bsize <= 0 {
			return false // others will say what is wrong with it
		}
		return st.Bavail < min(fullBytes/uint64(st.Bsize), st.Blocks/fullPart)
	}
}

// collectSoon asks for a collection after the delay.
func (db *DB) collectSoon() {
	select {
	case db.gc.kick <- struct{}{}:
	default:
	}
}

// collectSoonIfExpires has the collector notice a new time to expire.
func (db *DB) collectSoonIfExpires(labels map[string]string) {
	if _, ok := labels[labelExpire]; ok {
		db.collectSoon()
	}
}

func (c *collector) collect(ctx context.Context) error {
	_, err := c.collectOnce(ctx)
	return err
}

// collectOnce collects and returns when something expires next, zero if nothing does.
func (c *collector) collectOnce(ctx context.Context) (next time.Time, err error) {
	c.running.Lock()
	defer c.running.Unlock()
	began := time.Now()
	if err := c.sweepLeftovers(ctx); err != nil {
		return next, err
	}
	removed, next, err := c.mark(ctx, began)
	if err != nil {
		return next, err
	}
	c.db.at("garbage recorded")
	for _, s := range removed.snapshots {
		c.db.publish(inNamespace(ctx, s.ns), "/snapshot/remove", snapshotRemoved(s.snapshotter, s.key))
	}
	for _, n := range removed.images {
		c.db.publish(inNamespace(ctx, n.ns), "/images/delete", imageDeleted(n.key))
	}
	files := c.doom(removed)
	err = c.sweep(ctx, files)
	if removed.nodes > 0 {
		c.db.log.Debug("garbage collected", "records", removed.nodes, "dur", time.Since(began))
	}
	return next, err
}

// mark deletes the records of garbage.
func (c *collector) mark(ctx context.Context, now time.Time) (removed removal, next time.Time, err error) {
	found := false
	err = c.db.view(func(t *tx) error {
		g, err := buildGraph(t, now, c.db.writing.has)
		if err != nil {
			return err
		}
		next, found = g.next, len(g.garbage()) > 0
		return nil
	})
	if err != nil || !found {
		return removal{}, next, err
	}
	err = c.db.update(ctx, func(t *tx) error {
		g, err := buildGraph(t, now, c.db.writing.has)
		if err != nil {
			return err
		}
		next = g.next
		removed, err = t.remove(g.garbage())
		return err
	})
	return removed, next, err
}

func (c *collector) doomBlob(d digest.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.doomed.blobs[d] = struct{}{}
}

// doomSnapshot may be called before start.
func (c *collector) doomSnapshot(b *backend, id snapshot.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.doomed.snapshots == nil {
		c.doomed = newDoomed()
	}
	c.doomed.snapshots[doomedSnapshot{b, id}] = struct{}{}
}

// doom adds the files of a removal and takes all that are doomed.
func (c *collector) doom(r removal) doomed {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range r.blobs {
		c.doomed.blobs[d] = struct{}{}
	}
	for _, ref := range r.ingests {
		c.doomed.ingests[ref] = struct{}{}
	}
	for _, s := range r.snapshots {
		if b, ok := c.db.drivers[s.snapshotter]; ok {
			c.doomed.snapshots[doomedSnapshot{b, s.rec.ID}] = struct{}{}
		}
	}
	files := c.doomed
	c.doomed = newDoomed()
	return files
}

// sweep removes files and puts back those that it could not remove.
func (c *collector) sweep(ctx context.Context, files doomed) error {
	var errs []error
	for s := range files.snapshots {
		err := context.Cause(ctx)
		if err == nil {
			err = s.backend.Remove(ctx, s.id)
		}
		if err == nil {
			c.db.at("snapshot files removed")
			delete(files.snapshots, s)
		}
		errs = append(errs, err)
	}
	for ref := range files.ingests {
		err := context.Cause(ctx)
		if err == nil {
			err = c.db.blobs.Abort(ctx, ref)
		}
		if err == nil || errdefs.IsNotFound(err) {
			delete(files.ingests, ref)
			continue
		}
		errs = append(errs, err)
	}
	for d := range files.blobs {
		gone, err := false, context.Cause(ctx)
		if err == nil {
			gone, err = c.sweepBlob(ctx, d)
		}
		if gone {
			delete(files.blobs, d)
		}
		errs = append(errs, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.Copy(c.doomed.snapshots, files.snapshots)
	maps.Copy(c.doomed.ingests, files.ingests)
	maps.Copy(c.doomed.blobs, files.blobs)
	return errors.Join(errs...)
}

// sweepBlob removes a blob that no record refers to. settled is false if a writer
// has it pinned and it is to be looked at again.
func (c *collector) sweepBlob(ctx context.Context, d digest.Digest) (settled bool, err error) {
	if !c.db.pins.claim(d) {
		return false, nil
	}
	defer c.db.pins.release(d)
	used := false
	err = c.db.view(func(t *tx) error {
		used, err = t.usesBlob(d)
		return err
	})
	if err != nil || used {
		return used, err
	}
	err = c.db.blobs.Delete(ctx, d)
	if err != nil && !errdefs.IsNotFound(err) {
		return false, err
	}
	return true, nil
}

// usesBlob reports whether any namespace refers to the bytes.
func (t *tx) usesBlob(d digest.Digest) (bool, error) {
	used := false
	err := t.scan(bktNamespaces, nil, func(ns string, _ []byte) error {
		if used = t.has(bktContent, join(ns, d.String())); used {
			return errStop
		}
		return nil
	})
	if used || err != nil {
		return used, err
	}
	err = scanRecords(t, bktIngests, nil, func(_ string, rec ingestRecord) error {
		if used = rec.Expected == d; used {
			return errStop
		}
		return nil
	})
	return used, err
}

// sweepLeftovers removes ingests without a record and dooms blobs without one. The
// files of snapshots were compared in recoverSnapshots. It does so once; the
// caller holds running.
func (c *collector) sweepLeftovers(ctx context.Context) error {
	if c.swept {
		return nil
	}
	err := c.db.blobs.Digests(ctx, func(d digest.Digest) error {
		return c.db.view(func(t *tx) error {
			used, err := t.usesBlob(d)
			if err == nil && !used {
				c.doomBlob(d)
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	_, err = c.db.blobs.SweepIngests(ctx, func(backend string) (bool, error) {
		ns, ref, ok := splitBackendRef(backend)
		if !ok {
			return false, nil
		}
		kept := false
		err := c.db.view(func(t *tx) error {
			rec, found, err := load[ingestRecord](t, bktIngests, join(ns, ref))
			kept = found && rec.Ref == backend
			return err
		})
		return kept, err
	})
	c.swept = err == nil
	return err
}
