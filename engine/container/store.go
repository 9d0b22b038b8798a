package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"lighter/internal/atomicfile"
	"lighter/internal/headroom"
)

// The schema of containers.db:
//
//	containers
//	  <id>     record as JSON
//	meta
//	  version  "1"
var (
	bucketContainers = []byte("containers")
	bucketMeta       = []byte("meta")
	keyVersion       = []byte("version")
)

const (
	schemaVersion = "1"
	// lazyDelay is how long a change that nobody waits for may stay unwritten.
	lazyDelay = 20 * time.Millisecond
	// dbOpenTimeout bounds the wait for another engine on the same data root.
	dbOpenTimeout = 2 * time.Second
)

// store writes records. Changes collect in memory and one goroutine writes all
// of them in one transaction: at once when someone waits (flush), else within
// lazyDelay.
type store struct {
	db  *bolt.DB
	log *slog.Logger

	urgent chan struct{} // capacity 1: someone waits
	lazy   chan struct{} // capacity 1: something is pending
	quit   chan struct{}
	done   chan struct{}

	mu      sync.Mutex         // guards the fields below; no I/O under it
	pending map[string]*record // nil deletes
	batch   *batch             // what pending will be written as
}

// batch is a transaction to come.
type batch struct {
	done chan struct{} // closed when it was tried
	err  error         // valid then
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// openStore opens the database at path, made whole before it gets its name, and
// returns its records.
func openStore(path string, log *slog.Logger) (*store, []*record, error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := createDB(path); err != nil {
			return nil, nil, fmt.Errorf("create %s: %w", path, err)
		}
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: dbOpenTimeout, NoFreelistSync: true, OpenFile: headroom.OpenFile})
	if err != nil {
		if errors.Is(err, bolterrors.ErrTimeout) {
			err = errors.New("another engine uses this data root")
		}
		return nil, nil, fmt.Errorf("open %s: %w", path, err)
	}
	records, err := loadRecords(db, log)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("load %s: %w", path, err), db.Close())
	}
	s := &store{
		db: db, log: log,
		urgent: make(chan struct{}, 1), lazy: make(chan struct{}, 1),
		quit: make(chan struct{}), done: make(chan struct{}),
		pending: make(map[string]*record), batch: newBatch(),
	}
	go s.run()
	return s, records, nil
}

// createDB makes an empty database elsewhere and renames it to path: power lost
// while bbolt initialises a file leaves one that it cannot open.
func createDB(path string) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := bolt.Open(tmp, 0o600, &bolt.Options{Timeout: dbOpenTimeout})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		if _, err := tx.CreateBucket(bucketContainers); err != nil {
			return err
		}
		meta, err := tx.CreateBucket(bucketMeta)
		if err != nil {
			return err
		}
		return meta.Put(keyVersion, []byte(schemaVersion))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}

func loadRecords(db *bolt.DB, log *slog.Logger) ([]*record, error) {
	var records []*record
	err := db.View(func(tx *bolt.Tx) error {
		meta, containers := tx.Bucket(bucketMeta), tx.Bucket(bucketContainers)
		if meta == nil || containers == nil {
			return errors.New("it is not a database of containers")
		}
		if v := string(meta.Get(keyVersion)); v != schemaVersion {
			return fmt.Errorf("its version is %q, this engine knows %q: use the engine that wrote it or a newer one", v, schemaVersion)
		}
		return containers.ForEach(func(id, data []byte) error {
			r := new(record)
			if err := json.Unmarshal(data, r); err != nil || r.ID != string(id) || len(r.Name) < 2 || r.Config == nil || r.HostConfig == nil {
				log.Error("skip a damaged container record", "container", string(id), "err", err)
				return nil
			}
			records = append(records, r)
			return nil
		})
	})
	return records, err
}

// put queues r, which must not change any more. It does not block. Callers keep
// the puts of one container in order.
func (s *store) put(id string, r *record) *batch {
	s.mu.Lock()
	s.pending[id] = r
	b := s.batch
	s.mu.Unlock()
	notify(s.lazy)
	return b
}

// flush writes b now and waits for it. When ctx ends first the write goes on.
func (s *store) flush(ctx context.Context, b *batch) error {
	notify(s.urgent)
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (s *store) run() {
	defer close(s.done)
	timer := time.NewTimer(lazyDelay)
	timer.Stop()
	armed := false
	for {
		select {
		case <-s.urgent:
			s.write()
			timer.Stop()
			armed = false
		case <-timer.C:
			s.write()
			armed = false
		case <-s.lazy:
			if !armed {
				timer.Reset(lazyDelay)
				armed = true
			}
		case <-s.quit:
			s.write()
			return
		}
	}
}

// write tries one transaction over all that is pending. What could not be
// written stays pending, unless it changed since.
func (s *store) write() {
	s.mu.Lock()
	pending, b := s.pending, s.batch
	s.pending, s.batch = make(map[string]*record), newBatch()
	s.mu.Unlock()
	defer close(b.done)
	if len(pending) == 0 {
		return
	}
	b.err = s.update(pending)
	if b.err == nil {
		return
	}
	s.log.Error("cannot write container records", "err", b.err)
	s.mu.Lock()
	for id, r := range pending {
		if _, newer := s.pending[id]; !newer {
			s.pending[id] = r
		}
	}
	s.mu.Unlock()
}

func (s *store) update(pending map[string]*record) error {
	encoded := make(map[string][]byte, len(pending))
	for id, r := range pending {
		if r == nil {
			continue
		}
		data, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("encode container %s: %w", id, err)
		}
		encoded[id] = data
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(bucketContainers)
		for id, r := range pending {
			var err error
			if r == nil {
				err = bucket.Delete([]byte(id))
			} else {
				err = bucket.Put([]byte(id), encoded[id])
			}
			if err != nil {
				return fmt.Errorf("store container %s: %w", id, err)
			}
		}
		return nil
	})
}

// close writes what is pending and closes the database.
func (s *store) close() error {
	close(s.quit)
	<-s.done
	s.mu.Lock()
	lost := len(s.pending)
	s.mu.Unlock()
	err := s.db.Close()
	if lost > 0 {
		err = errors.Join(err, fmt.Errorf("%d container records could not be written", lost))
	}
	return err
}
