package container

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	ctrdcontainers "github.com/containerd/containerd/v2/core/containers"
	coreevents "github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/containerd"
	"lighter/engine/container/rootfs"
	"lighter/engine/events"
	"lighter/engine/volume"
)

// world is a host without a kernel: what outlives a Manager.
type world struct {
	t        *testing.T
	dir      string
	tasks    *fakeTasks
	specs    *fakeSpecs
	snaps    *fakeSnapshots
	networks *fakeNetworks
	bus      *events.Bus
	cfg      Config
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), networks: &fakeNetworks{held: map[string]bool{}}, bus: events.New()}
	w.specs = &fakeSpecs{m: map[string]ctrdcontainers.Container{}}
	w.tasks = &fakeTasks{t: t, specs: w.specs, m: map[string]*fakeTask{}, wedged: map[string]chan struct{}{}}
	w.snaps = &fakeSnapshots{dir: filepath.Join(w.dir, "snapshots"), m: map[string]snapshots.Info{"chain": {Name: "chain", Kind: snapshots.KindCommitted}}}
	w.cfg = Config{DataRoot: filepath.Join(w.dir, "data"), ExecRoot: filepath.Join(w.dir, "run")}
	for _, d := range []string{"chain/etc", "chain/data", "chain/work"} {
		if err := os.MkdirAll(filepath.Join(w.snaps.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(w.snaps.dir, "chain/etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/sh\n")
	write(t, filepath.Join(w.snaps.dir, "chain/etc/group"), "root:x:0:\nweb:x:34:\nwheel:x:10:root,web\n")
	write(t, filepath.Join(w.snaps.dir, "chain/data/seed"), "from the image")
	return w
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// open starts an engine in the world.
func (w *world) open() *Manager {
	w.t.Helper()
	log := slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	volumes, err := volume.Open(filepath.Join(w.dir, "data", "volumes"), w.bus, log)
	if err != nil {
		w.t.Fatal(err)
	}
	services := containerd.Services{Containers: w.specs, Tasks: w.tasks, Events: noEvents{}}
	m := &Manager{
		Deps: Deps{
			Services: services.WithSnapshotters(map[string]snapshots.Snapshotter{containerd.DefaultSnapshotter: w.snaps}),
			Images:   fakeImages{}, Networks: w.networks, Volumes: volumes, Events: w.bus, Log: log,
		},
		cfg:  w.cfg.withDefaults(),
		byID: map[string]*entry{}, names: map[string]string{}, execs: map[string]*exec{},
	}
	m.kernel = ableKernel
	m.view = w.show
	m.open = w.show
	m.compose = func(mounts []mount.Mount, _ []rootfs.Attachment, _ bool) (*rootfs.Root, error) { return w.show(mounts) }
	// The fake's processes are this one, which is in no container's control group.
	m.ofProcess = func(int, string) (*rootfs.Root, error) { return rootfs.Dir("/") }
	if err := m.load(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	return m
}

// ableKernel can do all that a container may ask for.
var ableKernel = kernel{
	memory: true, swap: true, swappiness: true, reservation: true, oomDisable: true,
	pids: true, cpuShares: true, cpuCFS: true, cpuset: true, blkioWeight: true, blkioWeightDevice: true,
	blkioReadBps: true, blkioWriteBps: true, blkioReadIOps: true, blkioWriteIOps: true, cgroupNS: true, forwarding: true,
}

// show stands in for a mount: the directory of the snapshot's parent.
func (w *world) show([]mount.Mount) (*rootfs.Root, error) {
	return rootfs.Dir(filepath.Join(w.snaps.dir, "chain"))
}

func (w *world) close(m *Manager) {
	w.t.Helper()
	if err := m.Close(context.Background()); err != nil {
		w.t.Errorf("Close() = %v", err)
	}
}

// crash ends an engine as kill -9 does: nothing more is written, tasks go on.
func (w *world) crash(m *Manager) {
	m.end()
	m.wg.Wait()
	m.store.mu.Lock()
	m.store.pending = map[string]*record{}
	m.store.mu.Unlock()
	if err := m.store.close(); err != nil {
		w.t.Error(err)
	}
}

func (w *world) create(m *Manager, name string, cmd ...string) string {
	w.t.Helper()
	return w.createWith(m, name, func(*api.Config, *api.HostConfig) {}, cmd...)
}

func (w *world) createWith(m *Manager, name string, edit func(*api.Config, *api.HostConfig), cmd ...string) string {
	w.t.Helper()
	c, h := &api.Config{Image: "img", Cmd: cmd}, &api.HostConfig{}
	edit(c, h)
	resp, err := m.Create(context.Background(), CreateOptions{Name: name, Config: c, HostConfig: h})
	if err != nil {
		w.t.Fatalf("create %s: %v", name, err)
	}
	return resp.ID
}

func (w *world) start(m *Manager, ref string) {
	w.t.Helper()
	if _, err := m.Start(context.Background(), ref); err != nil {
		w.t.Fatalf("start %s: %v", ref, err)
	}
}

// wait returns how ref ends.
func (w *world) wait(m *Manager, ref string, c api.WaitCondition) WaitResult {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ch, err := m.Wait(ctx, ref, c)
	if err != nil {
		w.t.Fatal(err)
	}
	res, ok := <-ch
	if !ok {
		w.t.Fatalf("wait for %s: nothing happened", ref)
	}
	return res
}

func (w *world) state(m *Manager, ref string) State {
	w.t.Helper()
	e, err := m.lookup(ref)
	if err != nil {
		w.t.Fatal(err)
	}
	return e.rec.Load().State
}

// --- images, networks, specs, events

type fakeImages struct{}

func (fakeImages) Resolve(_ context.Context, ref string, _ *ocispec.Platform) (*Image, error) {
	if ref != "img" {
		return nil, errdefs.ErrNotFound.WithMessage("No such image: " + ref + ":latest")
	}
	img := &Image{ID: "sha256:1111", Name: "img:latest", ChainID: "chain"}
	img.Config.OS, img.Config.Architecture = "linux", "amd64"
	img.Config.Config = dockerspec.DockerOCIImageConfig{ImageConfig: ocispec.ImageConfig{
		Env: []string{"PATH=/bin", "FROM=image"}, Cmd: []string{"sleep"}, Labels: map[string]string{"img": "yes"},
	}}
	return img, nil
}

type fakeNetworks struct {
	mu       sync.Mutex
	held     map[string]bool
	restored map[string]int
	fail     error
	failOnce error
}

func (f *fakeNetworks) Allocate(_ context.Context, req NetworkRequest) (*NetworkAllocation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return nil, f.fail
	}
	if err := f.failOnce; err != nil {
		f.failOnce = nil
		return nil, err
	}
	f.held[req.ID] = true
	return &NetworkAllocation{
		SandboxID: req.ID[:4], Hosts: []byte("127.0.0.1 localhost\n"), ResolvConf: []byte("nameserver 10.0.0.1\n"),
		Networks: map[string]*network.EndpointSettings{"bridge": {NetworkID: "b123"}},
	}, nil
}
func (f *fakeNetworks) Connect(context.Context, string, int) error { return nil }
func (f *fakeNetworks) Release(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.held, id)
	return nil
}
func (f *fakeNetworks) Restore(_ context.Context, live map[string]int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.restored = live
	for id := range f.held {
		if _, ok := live[id]; !ok {
			delete(f.held, id)
		}
	}
	return nil
}
func (f *fakeNetworks) NetworkName(_ context.Context, ref string) (string, error) {
	return ref, nil
}

func (f *fakeNetworks) Rename(context.Context, string, string) error { return nil }
func (f *fakeNetworks) ConnectRunning(_ context.Context, _ string, _ int, ref string, s *network.EndpointSettings) (*NetworkAllocation, error) {
	return &NetworkAllocation{Networks: map[string]*network.EndpointSettings{"bridge": {}, ref: s}}, nil
}
func (f *fakeNetworks) DisconnectRunning(context.Context, string, int, string, bool) (*NetworkAllocation, error) {
	return &NetworkAllocation{Networks: map[string]*network.EndpointSettings{"bridge": {}}}, nil
}
func (f *fakeNetworks) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.held)
}

type fakeSpecs struct {
	mu sync.Mutex
	m  map[string]ctrdcontainers.Container
}

func (f *fakeSpecs) Get(_ context.Context, id string) (ctrdcontainers.Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := f.m[id]
	if !ok {
		return c, errdefs.ErrNotFound
	}
	return c, nil
}
func (f *fakeSpecs) List(context.Context, ...string) ([]ctrdcontainers.Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []ctrdcontainers.Container
	for _, c := range f.m {
		all = append(all, c)
	}
	return all, nil
}
func (f *fakeSpecs) Create(_ context.Context, c ctrdcontainers.Container) (ctrdcontainers.Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.m[c.ID]; ok {
		return c, errdefs.ErrAlreadyExists
	}
	f.m[c.ID] = c
	return c, nil
}
func (f *fakeSpecs) Update(_ context.Context, c ctrdcontainers.Container, _ ...string) (ctrdcontainers.Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.m[c.ID]; !ok {
		return c, errdefs.ErrNotFound
	}
	f.m[c.ID] = c
	return c, nil
}
func (f *fakeSpecs) Delete(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.m[id]; !ok {
		return errdefs.ErrNotFound
	}
	delete(f.m, id)
	return nil
}

type noEvents struct{}

func (noEvents) Publish(context.Context, string, coreevents.Event) error { return nil }
func (noEvents) Forward(context.Context, *coreevents.Envelope) error     { return nil }
func (noEvents) Subscribe(ctx context.Context, _ ...string) (<-chan *coreevents.Envelope, <-chan error) {
	return make(chan *coreevents.Envelope), make(chan error)
}

// --- snapshots

type fakeSnapshots struct {
	snapshots.Snapshotter
	dir string
	mu  sync.Mutex
	m   map[string]snapshots.Info
}

func (f *fakeSnapshots) Prepare(_ context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.m[parent]; !ok && parent != "" {
		return nil, errdefs.ErrNotFound
	}
	info := snapshots.Info{Name: key, Parent: parent, Kind: snapshots.KindActive, Created: time.Now()}
	for _, o := range opts {
		if err := o(&info); err != nil {
			return nil, err
		}
	}
	f.m[key] = info
	return []mount.Mount{{Type: "bind", Source: f.dir}}, nil
}
func (f *fakeSnapshots) Mounts(_ context.Context, key string) ([]mount.Mount, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.m[key]; !ok {
		return nil, errdefs.ErrNotFound
	}
	return []mount.Mount{{Type: "bind", Source: f.dir}}, nil
}
func (f *fakeSnapshots) Remove(_ context.Context, key string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.m[key]; !ok {
		return errdefs.ErrNotFound
	}
	delete(f.m, key)
	return nil
}
func (f *fakeSnapshots) Stat(_ context.Context, key string) (snapshots.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, ok := f.m[key]
	if !ok {
		return info, errdefs.ErrNotFound
	}
	return info, nil
}
func (f *fakeSnapshots) Usage(_ context.Context, key string) (snapshots.Usage, error) {
	if _, err := f.Stat(context.Background(), key); err != nil {
		return snapshots.Usage{}, err
	}
	return snapshots.Usage{Size: 10}, nil
}
func (f *fakeSnapshots) Walk(ctx context.Context, fn snapshots.WalkFunc, _ ...string) error {
	f.mu.Lock()
	var all []snapshots.Info
	for _, info := range f.m {
		all = append(all, info)
	}
	f.mu.Unlock()
	for _, info := range all {
		if err := fn(ctx, info); err != nil {
			return err
		}
	}
	return nil
}
func (f *fakeSnapshots) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.m) - 1 // the image's
}
