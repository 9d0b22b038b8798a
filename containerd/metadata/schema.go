package metadata

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"lighter/containerd/snapshot"
)

// The tree of buckets, of schema version 1. All are at the top level; the parts of a
// key are separated by NUL. A test compares this text with buckets().
//
//	meta        version                             decimal schema version
//	namespaces  NS                                  JSON namespaceRecord
//	images      NS NAME                             JSON imageRecord
//	containers  NS ID                               JSON containerRecord
//	anys        NS ID FIELD                         TYPEURL NUL VALUE; FIELD is spec, runtime or extension/KEY
//	leases      NS LEASE                            JSON leaseRecord
//	leased      NS LEASE TYPE RESOURCE              empty
//	content     NS DIGEST                           JSON contentRecord
//	ingests     NS REF                              JSON ingestRecord
//	snapshots   NS SNAPSHOTTER KEY                  JSON snapshotRecord
//	children    NS SNAPSHOTTER PARENT KEY           empty
//	deferred    NS SNAPSHOTTER KEY                  boot in which the snapshot was left unsynced
//
// A version that changes the meaning of a key or drops one increments
// schemaVersion and adds a step to migrate. New optional fields of a record need neither: a
// program keeps the fields that it does not know.
const schemaVersion = 1

type bucket string

const (
	bktMeta       bucket = "meta"
	bktNamespaces bucket = "namespaces"
	bktImages     bucket = "images"
	bktContainers bucket = "containers"
	bktAnys       bucket = "anys"
	bktLeases     bucket = "leases"
	bktLeased     bucket = "leased"
	bktContent    bucket = "content"
	bktIngests    bucket = "ingests"
	bktSnapshots  bucket = "snapshots"
	bktChildren   bucket = "children"
	bktDeferred   bucket = "deferred"
)

// layout is a line of the tree above.
type layout struct {
	name       bucket
	key, value string
}

func buckets() []layout {
	return []layout{
		{bktMeta, "version", "decimal schema version"},
		{bktNamespaces, "NS", recordName[namespaceRecord]()},
		{bktImages, "NS NAME", recordName[imageRecord]()},
		{bktContainers, "NS ID", recordName[containerRecord]()},
		{bktAnys, "NS ID FIELD", "TYPEURL NUL VALUE; FIELD is spec, runtime or extension/KEY"},
		{bktLeases, "NS LEASE", recordName[leaseRecord]()},
		{bktLeased, "NS LEASE TYPE RESOURCE", "empty"},
		{bktContent, "NS DIGEST", recordName[contentRecord]()},
		{bktIngests, "NS REF", recordName[ingestRecord]()},
		{bktSnapshots, "NS SNAPSHOTTER KEY", recordName[snapshotRecord]()},
		{bktChildren, "NS SNAPSHOTTER PARENT KEY", "empty"},
		{bktDeferred, "NS SNAPSHOTTER KEY", "boot in which the snapshot was left unsynced"},
	}
}

func recordName[T any]() string { return "JSON " + reflect.TypeFor[T]().Name() }

type (
	namespaceRecord struct {
		Labels map[string]string `json:"labels,omitempty"`
	}

	imageRecord struct {
		MediaType   string            `json:"mediaType"`
		Digest      digest.Digest     `json:"digest"`
		Size        int64             `json:"size"`
		Annotations map[string]string `json:"annotations,omitempty"`
		Labels      map[string]string `json:"labels,omitempty"`
		Created     time.Time         `json:"created"`
		Updated     time.Time         `json:"updated"`
	}

	containerRecord struct {
		Labels      map[string]string `json:"labels,omitempty"`
		Image       string            `json:"image,omitempty"`
		Runtime     string            `json:"runtime"`
		Snapshotter string            `json:"snapshotter,omitempty"`
		SnapshotKey string            `json:"snapshotKey,omitempty"`
		SandboxID   string            `json:"sandboxID,omitempty"`
		Created     time.Time         `json:"created"`
		Updated     time.Time         `json:"updated"`
	}

	leaseRecord struct {
		Labels  map[string]string `json:"labels,omitempty"`
		Created time.Time         `json:"created"`
	}

	contentRecord struct {
		Size    int64             `json:"size"`
		Labels  map[string]string `json:"labels,omitempty"`
		Created time.Time         `json:"created"`
		Updated time.Time         `json:"updated"`
	}

	ingestRecord struct {
		Ref      string        `json:"ref"`                // in the blob store
		Expected digest.Digest `json:"expected,omitempty"` // a stored blob that the ingest stands for
		Expire   time.Time     `json:"expire,omitzero"`    // zero: while a lease holds it
	}

	snapshotRecord struct {
		ID      snapshot.ID       `json:"id"`
		Kind    snapshots.Kind    `json:"kind"`
		Parent  string            `json:"parent,omitempty"` // key of the parent
		Labels  map[string]string `json:"labels,omitempty"`
		Size    int64             `json:"size,omitempty"`   // bytes, once committed
		Inodes  int64             `json:"inodes,omitempty"` // once committed
		Created time.Time         `json:"created"`
		Updated time.Time         `json:"updated"`
	}
)

var keyVersion = []byte("version")

// initialise makes the buckets of a new database.
func initialise(b *bolt.Tx) error {
	for _, l := range buckets() {
		if _, err := b.CreateBucketIfNotExists([]byte(l.name)); err != nil {
			return err
		}
	}
	return b.Bucket([]byte(bktMeta)).Put(keyVersion, []byte(strconv.Itoa(schemaVersion)))
}

// checkVersion refuses a database that this program cannot read. There is one
// version so far and nothing to migrate.
func checkVersion(b *bolt.Tx) error {
	meta := b.Bucket([]byte(bktMeta))
	if meta == nil {
		return fmt.Errorf("no bucket %q; move the file away to start empty: %w", bktMeta, errdefs.ErrDataLoss)
	}
	v, err := strconv.Atoi(string(meta.Get(keyVersion)))
	if err != nil {
		return fmt.Errorf("schema version: %w: %w", err, errdefs.ErrDataLoss)
	}
	if v > schemaVersion {
		return fmt.Errorf("schema version %d is newer than %d: run the program that wrote it or a later one: %w", v, schemaVersion, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// sep separates the parts of a key; checkName keeps it out of them.
const sep = "\x00"

func join(parts ...string) []byte { return []byte(strings.Join(parts, sep)) }

// under is the prefix of the keys that begin with parts.
func under(parts ...string) []byte { return []byte(strings.Join(parts, sep) + sep) }

// maxName bounds names, keys and refs, in bytes, well below bbolt's limit for a key.
const maxName = 4096

// checkName refuses what cannot be part of a key.
func checkName(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s must not be empty: %w", what, errdefs.ErrInvalidArgument)
	case len(name) > maxName:
		return fmt.Errorf("%s has %d bytes, the most is %d: %w", what, len(name), maxName, errdefs.ErrInvalidArgument)
	case strings.Contains(name, sep):
		return fmt.Errorf("%s %q contains NUL: %w", what, name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// tx is a transaction of either kind. What it returns is copied.
type tx struct {
	b     *bolt.Tx
	wrote bool // something was put or deleted
}

func (t *tx) bucket(name bucket) *bolt.Bucket { return t.b.Bucket([]byte(name)) }

func (t *tx) has(name bucket, key []byte) bool { return t.bucket(name).Get(key) != nil }

// load reads a record; ok is false if there is none.
func load[T any](t *tx, name bucket, key []byte) (rec T, ok bool, err error) {
	v := t.bucket(name).Get(key)
	if v == nil {
		return rec, false, nil
	}
	if err := json.Unmarshal(v, &rec); err != nil {
		return rec, false, fmt.Errorf("read %s %q: %w: %w", name, key, err, errdefs.ErrDataLoss)
	}
	return rec, true, nil
}

// store writes a record and keeps the fields of the old one that T does not have.
func store[T any](t *tx, name bucket, key []byte, rec T) error {
	v, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if old := t.bucket(name).Get(key); old != nil {
		if v, err = keepUnknown[T](old, v); err != nil {
			return fmt.Errorf("update %s %q: %w", name, key, err)
		}
	}
	return t.put(name, key, v)
}

func (t *tx) put(name bucket, key, value []byte) error {
	t.wrote = true
	return t.bucket(name).Put(key, value)
}

func (t *tx) delete(name bucket, key []byte) error {
	if !t.has(name, key) {
		return nil
	}
	t.wrote = true
	return t.bucket(name).Delete(key)
}

// deleteAll deletes every key with the prefix.
func (t *tx) deleteAll(name bucket, prefix []byte) error {
	var keys [][]byte // a cursor does not survive deletions
	err := t.scan(name, prefix, func(rest string, _ []byte) error {
		keys = append(keys, append(bytes.Clone(prefix), rest...))
		return nil
	})
	for _, key := range keys {
		err = errors.Join(err, t.delete(name, key))
	}
	return err
}

// scan calls fn for each key with the prefix, in order, with the rest of the key and
// the value, which is valid during the call. fn must not write. errStop ends it.
func (t *tx) scan(name bucket, prefix []byte, fn func(rest string, value []byte) error) error {
	c := t.bucket(name).Cursor()
	for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		if err := fn(string(k[len(prefix):]), v); err != nil {
			if errors.Is(err, errStop) {
				return nil
			}
			return err
		}
	}
	return nil
}

var errStop = errors.New("stop")

// any reports whether a key with the prefix exists.
func (t *tx) any(name bucket, prefix []byte) bool {
	k, _ := t.bucket(name).Cursor().Seek(prefix)
	return k != nil && bytes.HasPrefix(k, prefix)
}

// scanRecords is scan with the values decoded.
func scanRecords[T any](t *tx, name bucket, prefix []byte, fn func(rest string, rec T) error) error {
	return t.scan(name, prefix, func(rest string, v []byte) error {
		var rec T
		if err := json.Unmarshal(v, &rec); err != nil {
			return fmt.Errorf("read %s %q: %w: %w", name, string(prefix)+rest, err, errdefs.ErrDataLoss)
		}
		return fn(rest, rec)
	})
}

// keepUnknown adds to the object v the fields of old that T does not have.
func keepUnknown[T any](old, v []byte) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(old, &fields); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	}
	for f := range reflect.TypeFor[T]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		delete(fields, name)
	}
	if len(fields) == 0 {
		return v, nil
	}
	var merged map[string]json.RawMessage
	if err := json.Unmarshal(v, &merged); err != nil {
		return nil, err
	}
	for name, value := range fields {
		merged[name] = value
	}
	return json.Marshal(merged)
}
