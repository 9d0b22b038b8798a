package metadata

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"lighter/containerd/snapshot"
	"lighter/internal/atomicfile"
	"lighter/internal/headroom"
)

// Blobs is the store that keeps the bytes of all namespaces; package content
// implements it.
type Blobs interface {
	content.Store
	// Digests calls fn for each blob's digest.
	Digests(ctx context.Context, fn func(digest.Digest) error) error
	// SweepIngests removes the ingests that keep refuses and that no writer has
	// open, and returns how many.
	SweepIngests(ctx context.Context, keep func(ref string) (bool, error)) (int, error)
}

// Config says what a DB is made of. The DB does not close Blobs and Snapshotters.
type Config struct {
	Path         string                     // of the database file; its directory exists
	Blobs        Blobs                      // not used by anything else
	Snapshotters map[string]snapshot.Driver // by the name of the snapshotter; not used by anything else
	Events       events.Publisher           // nil: no events
	Log          *slog.Logger               // nil: no log

	// Isolated makes a namespace prove that it has a blob by writing it, even if
	// another namespace has it, unless that one is labelled shareable.
	Isolated bool
	// GCDelay is how long after a deletion a collection starts, so that it serves
	// many; zero means 100 ms.
	GCDelay time.Duration
}

// DB is the database. Its stores are safe for concurrent use.
type DB struct {
	bolt     *bolt.DB
	commits  committer
	blobs    Blobs
	drivers  map[string]*backend
	events   events.Publisher
	log      *slog.Logger
	isolated bool
	boot     string // id of this boot

	pins    pins       // blobs between a file and its record
	writing ingestRefs // ingests with an open writer

	gc        collector
	failpoint func(point string) // tests: called between the steps that a crash may separate
}

const (
	// gcDelay is the default of Config.GCDelay.
	gcDelay = 100 * time.Millisecond
	// lockTimeout bounds the wait for another process to let go of the file.
	lockTimeout = 5 * time.Second
	// mapSize is mapped ahead, in bytes of address space: bbolt stops all readers to
	// grow a map that has become too small.
	mapSize = 256 << 20
)

// Open opens or makes the database, brings its records and the files in line after a
// crash, and starts the collector. The caller closes the DB.
//
// Errors: FailedPrecondition if a newer program wrote it; Unavailable if another
// process has it open; DataLoss if it is damaged.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	db := &DB{
		blobs: cfg.Blobs, events: cfg.Events, log: cfg.Log, isolated: cfg.Isolated,
		drivers: make(map[string]*backend), writing: ingestRefs{open: make(map[string]int)},
	}
	db.pins.init()
	if db.log == nil {
		db.log = slog.New(slog.DiscardHandler)
	}
	db.log = db.log.With("component", "metadata")
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("open metadata: read the boot's id: %w", err)
	}
	db.boot = strings.TrimSpace(string(boot))
	if err := create(cfg.Path); err != nil {
		return nil, fmt.Errorf("create metadata %q: %w", cfg.Path, err)
	}
	if db.bolt, err = openBolt(cfg.Path); err != nil {
		return nil, fmt.Errorf("open metadata %q: %w", cfg.Path, err)
	}
	db.commits.db = db.bolt
	if err := db.start(ctx, cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("open metadata %q: %w", cfg.Path, err), db.bolt.Close())
	}
	return db, nil
}

func (db *DB) start(ctx context.Context, cfg Config) error {
	if err := db.bolt.View(checkVersion); err != nil {
		return err
	}
	for name, d := range cfg.Snapshotters {
		if err := checkName("snapshotter name", name); err != nil {
			return err
		}
		b := &backend{name: name, Driver: d}
		db.drivers[name] = b
		if err := db.recoverSnapshots(ctx, b); err != nil {
			return fmt.Errorf("recover snapshots of %q: %w", name, err)
		}
	}
	delay := cfg.GCDelay
	if delay == 0 {
		delay = gcDelay
	}
	db.gc.full = diskFull(filepath.Dir(cfg.Path))
	db.gc.start(db, delay)
	return nil
}

// Close stops the collector, waits for it and for transactions under way, and
// closes the file. Operations fail afterwards.
func (db *DB) Close() error {
	db.gc.stop()
	return db.bolt.Close()
}

// GC collects garbage now and returns when its files are gone. What cannot be
// removed now is logged and tried again by later collections.
func (db *DB) GC(ctx context.Context) error { return db.gc.collect(ctx) }

// Snapshotter returns the namespaced snapshotter called name, or nil. It implements
// snapshot.Syncer. Its Close does nothing: the DB is closed instead.
func (db *DB) Snapshotter(name string) snapshots.Snapshotter {
	b, ok := db.drivers[name]
	if !ok {
		return nil
	}
	return &snapshotter{db: db, backend: b}
}

// create makes the file with its schema under another name and renames it: a
// power cut while bbolt writes its first pages would leave a file that it refuses
// (bbolt#567).
func create(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := openBolt(tmp)
	if err != nil {
		return err
	}
	// Close does not sync; Update does.
	if err := errors.Join(b.Update(initialise), b.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}

// openBolt opens the file. The list of free pages is not written with every commit
// but rebuilt here, which the size of this database allows.
func openBolt(path string) (*bolt.DB, error) {
	b, err := bolt.Open(path, 0o600, &bolt.Options{
		Timeout: lockTimeout, NoFreelistSync: true, FreelistType: bolt.FreelistMapType,
		InitialMmapSize: mapSize, NoStatistics: true,
		OpenFile: headroom.OpenFile,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("another process has it open: %w", errdefs.ErrUnavailable)
	}
	if errors.Is(err, bolterrors.ErrInvalid) || errors.Is(err, bolterrors.ErrChecksum) || errors.Is(err, bolterrors.ErrVersionMismatch) {
		return nil, fmt.Errorf("%w; move the file away to start empty: %w", err, errdefs.ErrDataLoss)
	}
	return b, err
}

func (db *DB) view(fn func(*tx) error) error {
	return db.bolt.View(func(b *bolt.Tx) error { return fn(&tx{b: b}) })
}

// update runs fn, perhaps more than once, in a transaction that is on disk when
// it returns without an error.
func (db *DB) update(ctx context.Context, fn func(*tx) error) error {
	return db.commits.do(ctx, fn)
}

// at marks a point between two steps for crash tests.
func (db *DB) at(point string) {
	if db.failpoint != nil {
		db.failpoint(point)
	}
}

// pins keeps a blob from the sweep while its file exists and its record may not
// yet, and a writer from a blob that the sweep is removing.
type pins struct {
	mu    sync.Mutex // guards the fields below
	freed *sync.Cond // a sweep let go of a digest
	held  map[digest.Digest]int
	dying map[digest.Digest]bool
}

func (p *pins) init() {
	p.freed = sync.NewCond(&p.mu)
	p.held = make(map[digest.Digest]int)
	p.dying = make(map[digest.Digest]bool)
}

// pin keeps the blob until unpin is called; it waits out a removal under way.
func (p *pins) pin(d digest.Digest) (unpin func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.dying[d] {
		p.freed.Wait()
	}
	p.held[d]++
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.held[d]--; p.held[d] == 0 {
			delete(p.held, d)
		}
	})
}

// claim takes an unpinned blob for removal. Only after it may the caller look
// whether records refer to the blob; then it calls release.
func (p *pins) claim(d digest.Digest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[d] > 0 || p.dying[d] {
		return false
	}
	p.dying[d] = true
	return true
}

func (p *pins) release(d digest.Digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.dying, d)
	p.freed.Broadcast()
}

// ingestRefs counts the open writers of each ingest.
type ingestRefs struct {
	mu   sync.Mutex     // guards the field below
	open map[string]int // by NS NUL REF
}

// add counts a writer until remove is called.
func (r *ingestRefs) add(ns, ref string) (remove func()) {
	key := string(join(ns, ref))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[key]++
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.open[key]--; r.open[key] == 0 {
			delete(r.open, key)
		}
	})
}

func (r *ingestRefs) has(ns, ref string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open[string(join(ns, ref))] > 0
}
