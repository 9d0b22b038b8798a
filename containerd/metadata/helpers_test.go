package metadata

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	localcontent "lighter/containerd/content"
	"lighter/containerd/snapshot"
)

func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// never is a GCDelay for tests that collect by hand.
const never = 24 * time.Hour

// recorder is a publisher that remembers and announces.
type recorder struct {
	mu     sync.Mutex // guards the field below
	topics []string
	signal chan string // one per event
}

func newRecorder() *recorder { return &recorder{signal: make(chan string, 1000)} }

func (r *recorder) Publish(ctx context.Context, topic string, _ events.Event) error {
	ns, _ := namespaces.Namespace(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.topics = append(r.topics, ns+topic)
	r.signal <- ns + topic
	return nil
}

func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	topics := r.topics
	r.topics = nil
	return topics
}

// fakeDriver keeps no files but remembers what it was asked.
type fakeDriver struct {
	mu    sync.Mutex // guards the fields below
	files map[snapshot.ID]bool
	syncs int
}

func newFakeDriver(ids ...snapshot.ID) *fakeDriver {
	d := &fakeDriver{files: make(map[snapshot.ID]bool)}
	for _, id := range ids {
		d.files[id] = true
	}
	return d
}

func (d *fakeDriver) Create(_ context.Context, s snapshot.Snapshot) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files[s.ID] {
		return fmt.Errorf("snapshot %s: %w", s.ID, errdefs.ErrAlreadyExists)
	}
	d.files[s.ID] = true
	return nil
}

func (d *fakeDriver) Mounts(s snapshot.Snapshot) []mount.Mount {
	return []mount.Mount{{Type: "fake", Source: fmt.Sprint(s.ID, s.Parents)}}
}

func (d *fakeDriver) Usage(context.Context, snapshot.ID) (snapshots.Usage, error) {
	return snapshots.Usage{Size: 7, Inodes: 1}, nil
}

func (d *fakeDriver) Remove(_ context.Context, id snapshot.ID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.files, id)
	return nil
}

func (d *fakeDriver) IDs() ([]snapshot.ID, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []snapshot.ID
	for id := range d.files {
		ids = append(ids, id)
	}
	return ids, nil
}

func (d *fakeDriver) Sync(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.syncs++
	return nil
}

func (d *fakeDriver) Close() error { return nil }

func (d *fakeDriver) count() (files, syncs int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.files), d.syncs
}

// world is a database in a temporary directory with a fake snapshotter "fake".
type world struct {
	*DB
	dir    string
	driver *fakeDriver
	events *recorder
	blobs  *localcontent.Store
}

func newWorld(t *testing.T, gcDelay time.Duration) *world {
	t.Helper()
	w := &world{dir: t.TempDir(), driver: newFakeDriver(), events: newRecorder()}
	w.open(t, gcDelay)
	return w
}

func (w *world) open(t *testing.T, gcDelay time.Duration) {
	t.Helper()
	var err error
	if w.blobs, err = localcontent.Open(filepath.Join(w.dir, "content"), nil); err != nil {
		t.Fatal(err)
	}
	w.DB, err = Open(t.Context(), Config{
		Path: filepath.Join(w.dir, "meta.db"), Blobs: w.blobs, Snapshotters: map[string]snapshot.Driver{"fake": w.driver},
		Events: w.events, Log: testLog(t), GCDelay: gcDelay,
	})
	if err != nil {
		t.Fatal(err)
	}
	db := w.DB
	t.Cleanup(func() { db.Close() })
}

// reopen closes and opens the database as a restart would.
func (w *world) reopen(t *testing.T) {
	t.Helper()
	if err := w.DB.Close(); err != nil {
		t.Fatal(err)
	}
	w.open(t, never)
}

func inNS(t *testing.T, ns string) context.Context {
	return namespaces.WithNamespace(t.Context(), ns)
}

// leased returns ctx with the lease "keep", which is made if it is missing.
func leased(ctx context.Context, db *DB) context.Context {
	if _, err := db.Leases().Create(ctx, leases.WithID("keep")); err != nil && !errdefs.IsAlreadyExists(err) {
		panic(err)
	}
	return leases.WithLease(ctx, "keep")
}

// write stores a blob with labels and returns its digest.
func write(t *testing.T, ctx context.Context, cs content.Store, data string, labels map[string]string) digest.Digest {
	t.Helper()
	d := digest.FromString(data)
	w, err := cs.Writer(ctx, content.WithRef("ref-"+data), content.WithDescriptor(ocispec.Descriptor{Digest: d, Size: int64(len(data))}))
	if err != nil {
		t.Fatal(err)
	}
	st, err := w.Status()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(data)[st.Offset:]); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(ctx, int64(len(data)), d, content.WithLabels(labels)); err != nil {
		t.Fatal(err)
	}
	return d
}
