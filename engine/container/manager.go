package container

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/moby/moby/api/types/events"

	"lighter/engine/container/rootfs"
)

// Defaults of Config.
const (
	defaultNamespace   = "moby"
	defaultRuntime     = "io.containerd.runc.v2"
	defaultCgroup      = "/docker"
	defaultLogDriver   = "json-file"
	defaultShmBytes    = 64 << 20
	defaultStopTimeout = 10 * time.Second
)

// Manager keeps the containers of one engine. Make it with Open; it is safe for
// concurrent use.
type Manager struct {
	Deps
	cfg      Config
	live     atomic.Pointer[Config] // what Reload has made of cfg, nil before
	store    *store
	profiles seccompProfiles
	users    userCache
	kernel   kernel
	boot     *boot // of this Manager; not changed after Open

	// view and open show a snapshot, compose one with what is mounted into it,
	// ofProcess the root of a container's process: rootfs.View, rootfs.Open,
	// rootfs.Compose and rootfs.OfProcess but in tests.
	view, open func([]mount.Mount) (*rootfs.Root, error)
	compose    func([]mount.Mount, []rootfs.Attachment, bool) (*rootfs.Root, error)
	ofProcess  func(pid int, id string) (*rootfs.Root, error)

	// life is the Manager's own context, in its containerd namespace; it ends
	// with Close. Goroutines of the Manager run in it and are counted by wg.
	life context.Context
	end  context.CancelFunc
	wg   sync.WaitGroup

	deliveries deliveries // of remote log drivers

	mu      sync.RWMutex      // guards the fields below; no I/O under it
	byID    map[string]*entry // by full ID
	names   map[string]string // name with slash -> ID; holds reservations too
	execs   map[string]*exec  // by exec ID
	closing bool
}

func (c Config) withDefaults() Config {
	set := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	set(&c.Namespace, defaultNamespace)
	set(&c.Runtime, defaultRuntime)
	set(&c.CgroupParent, defaultCgroup)
	set(&c.DefaultLogDriver, defaultLogDriver)
	set((*string)(&c.DefaultIPCMode), "private")
	if c.DefaultCgroupNS == "" {
		c.DefaultCgroupNS = "host"
		if cgroupV2() {
			c.DefaultCgroupNS = "private"
		}
	}
	if c.DefaultShmBytes == 0 {
		c.DefaultShmBytes = defaultShmBytes
	}
	if c.DefaultStopTimeout == 0 {
		c.DefaultStopTimeout = defaultStopTimeout
	}
	return c
}

// cgroupV2 reports whether the host uses the unified hierarchy alone.
func cgroupV2() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// dir is the container's durable directory, runDir its directory on tmpfs.
func (m *Manager) dir(id string) string    { return filepath.Join(m.cfg.DataRoot, "containers", id) }
func (m *Manager) runDir(id string) string { return filepath.Join(m.cfg.ExecRoot, "containers", id) }

func (m *Manager) attachSocket(id string) string { return filepath.Join(m.runDir(id), "io.sock") }

// in returns ctx in the Manager's containerd namespace.
func (m *Manager) in(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, m.cfg.Namespace)
}

// detached returns a context for work past a commit point: it is not cancelled
// with ctx but ends after limit.
func (m *Manager) detached(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(m.in(context.WithoutCancel(ctx)), limit)
}

func (m *Manager) snapshotter(r *record) (snapshots.Snapshotter, error) {
	sn := m.Services.Snapshotter(r.Snapshotter)
	if sn == nil {
		return nil, fmt.Errorf("snapshotter %q does not exist", r.Snapshotter)
	}
	return sn, nil
}

// lookup finds a container by full ID, name, or unique ID prefix.
func (m *Manager) lookup(ref string) (*entry, error) {
	if ref == "" {
		return nil, invalid("invalid name or ID supplied: %q", ref)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if e, ok := m.byID[ref]; ok {
		return e, nil
	}
	if e, ok := m.byID[m.names["/"+strings.TrimPrefix(ref, "/")]]; ok {
		return e, nil
	}
	var found *entry
	for id, e := range m.byID {
		if !strings.HasPrefix(id, ref) {
			continue
		}
		if found != nil {
			return nil, invalid("multiple IDs found with provided prefix: %s", ref)
		}
		found = e
	}
	if found == nil {
		return nil, notFound("No such container: %s", ref)
	}
	return found, nil
}

// entries returns all containers, the last created first.
func (m *Manager) entries() []*entry {
	m.mu.RLock()
	all := slices.Collect(maps.Values(m.byID))
	m.mu.RUnlock()
	slices.SortFunc(all, func(a, b *entry) int {
		ra, rb := a.rec.Load(), b.rec.Load()
		if c := rb.Created.Compare(ra.Created); c != 0 {
			return c
		}
		return strings.Compare(ra.ID, rb.ID)
	})
	return all
}

// change applies fn to a copy of e's record, publishes it and queues it to be
// written. When fn fails nothing changes. fn must not block.
func (m *Manager) change(e *entry, fn func(*record) error) (*record, error) {
	r, _, err := m.changeBatch(e, fn)
	return r, err
}

func (m *Manager) changeBatch(e *entry, fn func(*record) error) (*record, *batch, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	next := *e.rec.Load()
	if err := fn(&next); err != nil {
		return nil, nil, err
	}
	e.rec.Store(&next)
	return &next, m.store.put(e.id, &next), nil
}

// commit is change, and the record is on disk when it returns without an error.
// With an error of the disk the change is in memory all the same.
func (m *Manager) commit(ctx context.Context, e *entry, fn func(*record) error) (*record, error) {
	r, b, err := m.changeBatch(e, fn)
	if err != nil {
		return nil, err
	}
	if err := m.store.flush(ctx, b); err != nil {
		return r, fmt.Errorf("store container %s: %w", e.id, err)
	}
	return r, nil
}

// acquire takes e's operation slot; release gives it back.
func (e *entry) acquire(ctx context.Context) error {
	select {
	case e.op <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (e *entry) release() { <-e.op }

// publish sends an event of the container with its labels, name and image, and
// the pairs of attrs.
func (m *Manager) publish(r *record, action events.Action, attrs ...string) {
	all := make(map[string]string, len(r.Config.Labels)+2+len(attrs)/2)
	maps.Copy(all, r.Config.Labels)
	if r.Config.Image != "" {
		all["image"] = r.Config.Image
	}
	all["name"] = r.name()
	for i := 0; i+1 < len(attrs); i += 2 {
		all[attrs[i]] = attrs[i+1]
	}
	m.Events.Publish(events.ContainerEventType, action, events.Actor{ID: r.ID, Attributes: all})
}

func (m *Manager) isClosing() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.closing
}

// Count returns how many containers are in which state.
func (m *Manager) Count() Counts {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c := Counts{Total: len(m.byID)}
	for _, e := range m.byID {
		switch e.rec.Load().State {
		case Running, Restarting:
			c.Running++
		case Paused:
			c.Paused++
		default:
			c.Stopped++
		}
	}
	return c
}
