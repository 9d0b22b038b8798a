package remote_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	eventapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/content"
	contentsuite "github.com/containerd/containerd/v2/core/content/testsuite"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	snapshotsuite "github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/anypb"

	"lighter/containerd"
	"lighter/containerd/event"
	"lighter/containerd/local"
	"lighter/containerd/remote"
	"lighter/containerd/rpc"
)

// peer is a server in this process and its services as a client sees them.
type peer struct {
	near, far *containerd.Services
	tasks     *fakeTasks
	diff      *fakeDiff
	stop      func() // gracefully
	close     func() error
}

func open(ctx context.Context, t *testing.T, root string) (*peer, error) {
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	bus := event.NewBus()
	storage, err := local.OpenStorage(local.StorageConfig{Root: root, Log: log, Events: bus})
	if err != nil {
		return nil, err
	}
	p := &peer{tasks: &fakeTasks{}, diff: &fakeDiff{}}
	p.near = containerd.Services{
		Namespaces: storage.Namespaces, Content: storage.Content, Images: storage.Images, Containers: storage.Containers,
		Leases: storage.Leases, Events: bus, Tasks: p.tasks, Diff: p.diff, Version: fixedVersion{},
	}.WithSnapshotters(storage.Snapshotters)
	var names []string
	for name := range storage.Snapshotters {
		names = append(names, name)
	}
	// Not below root: a socket's path is short, a test's directory is not.
	dir, err := os.MkdirTemp("", "lighter-remote-")
	if err != nil {
		return nil, err
	}
	address := filepath.Join(dir, "s")
	l, err := net.Listen("unix", address)
	if err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(context.Background())
	server := rpc.New(rpc.Config{Services: p.near, Snapshotters: names, Life: life, Log: log})
	p.stop = func() { stop(); server.GracefulStop() }
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	far, conn, err := remote.Dial(ctx, "unix://"+address)
	p.far = far
	p.close = func() error {
		if conn != nil {
			conn.Close()
		}
		stop()
		server.Stop()
		return errors.Join(<-served, storage.Close(), os.RemoveAll(dir))
	}
	return p, err
}

func newPeer(t *testing.T) (context.Context, *peer) {
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), "test"), time.Minute)
	p, err := open(ctx, t, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
	return ctx, p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantNotFound(t *testing.T, what string, err error) {
	t.Helper()
	if !errdefs.IsNotFound(err) {
		t.Errorf("%s = %v, want NotFound", what, err)
	}
}

func TestDialRefusesOrReports(t *testing.T) {
	if _, _, err := remote.Dial(t.Context(), "tcp://1.2.3.4:5"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Dial of TCP = %v, want InvalidArgument", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, _, err := remote.Dial(ctx, filepath.Join(t.TempDir(), "none"))
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("Dial of nothing = %v, want Unavailable with the reason", err)
	}
}

func TestVersion(t *testing.T) {
	ctx, p := newPeer(t)
	if v, r, err := p.far.Version.Version(ctx); err != nil || v != "1.2.3" || r != "abc" {
		t.Errorf("Version = %q, %q, %v", v, r, err)
	}
}

func TestNamespaces(t *testing.T) {
	ctx, p := newPeer(t)
	s := p.far.Namespaces
	must(t, s.Create(ctx, "one", map[string]string{"k": "v"}))
	if err := s.Create(ctx, "one", nil); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second Create = %v, want AlreadyExists", err)
	}
	must(t, s.SetLabel(ctx, "one", "a.b/c", "w"))
	if got, err := s.Labels(ctx, "one"); err != nil || !reflect.DeepEqual(got, map[string]string{"k": "v", "a.b/c": "w"}) {
		t.Errorf("Labels = %v, %v", got, err)
	}
	must(t, s.SetLabel(ctx, "one", "k", ""))
	if got, err := s.Labels(ctx, "one"); err != nil || !reflect.DeepEqual(got, map[string]string{"a.b/c": "w"}) {
		t.Errorf("Labels = %v, %v, want k removed", got, err)
	}
	if got, err := s.List(ctx); err != nil || !slices.Contains(got, "one") {
		t.Errorf("List = %v, %v", got, err)
	}
	must(t, s.Delete(ctx, "one"))
	if got, err := s.List(ctx); err != nil || slices.Contains(got, "one") {
		t.Errorf("List after Delete = %v, %v", got, err)
	}
}

func TestContainers(t *testing.T) {
	ctx, p := newPeer(t)
	s := p.far.Containers
	want := containers.Container{
		ID: "c1", Labels: map[string]string{"k": "v"}, Image: "img",
		Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2", Options: &anypb.Any{TypeUrl: "o", Value: []byte{1}}},
		Spec:    &anypb.Any{TypeUrl: "spec", Value: []byte(`{}`)}, Snapshotter: "native", SnapshotKey: "key",
		Extensions: map[string]typeurl.Any{"x": &anypb.Any{TypeUrl: "e", Value: []byte{2}}},
	}
	created, err := s.Create(ctx, want)
	must(t, err)
	if created.CreatedAt.IsZero() {
		t.Error("no creation time")
	}
	_, err = s.Create(ctx, want)
	if !errdefs.IsAlreadyExists(err) {
		t.Errorf("second Create = %v, want AlreadyExists", err)
	}
	got, err := s.Get(ctx, "c1")
	must(t, err)
	want.CreatedAt, want.UpdatedAt = created.CreatedAt, created.UpdatedAt
	if !equalContainers(got, want) {
		t.Errorf("Get = %+v, want %+v", got, want)
	}
	want.Labels = map[string]string{"k": "w"}
	want.Image = "not updated"
	updated, err := s.Update(ctx, want, "labels.k")
	must(t, err)
	if updated.Labels["k"] != "w" || updated.Image != "img" {
		t.Errorf("Update of one field = %+v", updated)
	}
	for i := range 300 { // more than a batch
		c := want
		c.ID = fmt.Sprint("many", i)
		_, err := s.Create(ctx, c)
		must(t, err)
	}
	if list, err := s.List(ctx); err != nil || len(list) != 301 {
		t.Errorf("List has %d, %v, want 301", len(list), err)
	}
	if list, err := s.List(ctx, "id==c1"); err != nil || len(list) != 1 {
		t.Errorf("List with a filter has %d, %v, want 1", len(list), err)
	}
	if list, err := s.List(namespaces.WithNamespace(ctx, "other")); err != nil || len(list) != 0 {
		t.Errorf("List of another namespace has %d, %v", len(list), err)
	}
	must(t, s.Delete(ctx, "c1"))
	wantNotFound(t, "second Delete", s.Delete(ctx, "c1"))
	_, err = s.Get(ctx, "c1")
	wantNotFound(t, "Get", err)
	if _, err := s.Get(context.Background(), "c1"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Get without a namespace = %v, want FailedPrecondition", err)
	}
}

func equalContainers(a, b containers.Container) bool {
	sameAny := func(x, y typeurl.Any) bool {
		return x.GetTypeUrl() == y.GetTypeUrl() && string(x.GetValue()) == string(y.GetValue())
	}
	ok := sameAny(a.Spec, b.Spec) && sameAny(a.Runtime.Options, b.Runtime.Options) &&
		len(a.Extensions) == len(b.Extensions) && sameAny(a.Extensions["x"], b.Extensions["x"]) &&
		a.CreatedAt.Equal(b.CreatedAt) && a.UpdatedAt.Equal(b.UpdatedAt)
	for _, c := range []*containers.Container{&a, &b} {
		c.Spec, c.Runtime.Options, c.Extensions, c.CreatedAt, c.UpdatedAt = nil, nil, nil, time.Time{}, time.Time{}
	}
	return ok && reflect.DeepEqual(a, b)
}

func TestImages(t *testing.T) {
	ctx, p := newPeer(t)
	s := p.far.Images
	target := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("m"), Size: 5, Annotations: map[string]string{"a": "b"}}
	created, err := s.Create(ctx, images.Image{Name: "img:1", Labels: map[string]string{"k": "v"}, Target: target})
	must(t, err)
	got, err := s.Get(ctx, "img:1")
	must(t, err)
	if got.Target.Digest != target.Digest || got.Target.Size != 5 || got.Labels["k"] != "v" || !got.CreatedAt.Equal(created.CreatedAt) {
		t.Errorf("Get = %+v", got)
	}
	other := target
	other.Digest = digest.FromString("n")
	got, err = s.Update(ctx, images.Image{Name: "img:1", Target: other}, "target")
	must(t, err)
	if got.Target.Digest != other.Digest || got.Labels["k"] != "v" {
		t.Errorf("Update = %+v", got)
	}
	if list, err := s.List(ctx, `name~="img"`); err != nil || len(list) != 1 {
		t.Errorf("List = %v, %v", list, err)
	}
	if _, err := s.Create(ctx, images.Image{Name: "bad", Target: ocispec.Descriptor{Digest: "sha256:../.."}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Create with a bad digest = %v, want InvalidArgument", err)
	}
	if err := s.Delete(ctx, "img:1", images.DeleteTarget(&target)); err == nil {
		t.Error("Delete with another target succeeded")
	}
	must(t, s.Delete(ctx, "img:1", images.SynchronousDelete(), images.DeleteTarget(&other)))
	_, err = s.Get(ctx, "img:1")
	wantNotFound(t, "Get", err)
}

func TestLeases(t *testing.T) {
	ctx, p := newPeer(t)
	s := p.far.Leases
	l, err := s.Create(ctx, leases.WithID("l1"), leases.WithLabel("k", "v"))
	must(t, err)
	if l.ID != "l1" || l.Labels["k"] != "v" || l.CreatedAt.IsZero() {
		t.Errorf("Create = %+v", l)
	}
	if random, err := s.Create(ctx); err != nil || random.ID == "" {
		t.Errorf("Create without an ID = %+v, %v", random, err)
	}
	// What is written under the lease's header belongs to it.
	dgst := write(leases.WithLease(ctx, "l1"), t, p.far.Content, "ref", "leased", nil)
	want := []leases.Resource{{ID: dgst.String(), Type: "content"}}
	if got, err := s.ListResources(ctx, l); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ListResources = %v, %v, want %v", got, err, want)
	}
	must(t, s.DeleteResource(ctx, l, want[0]))
	must(t, s.AddResource(ctx, l, want[0]))
	if got, err := s.List(ctx, "id==l1"); err != nil || len(got) != 1 {
		t.Errorf("List = %v, %v", got, err)
	}
	must(t, s.Delete(ctx, l, leases.SynchronousDelete))
	wantNotFound(t, "second Delete", s.Delete(ctx, l))
	_, err = p.far.Content.Info(ctx, dgst)
	wantNotFound(t, "content after its lease", err)
}

func write(ctx context.Context, t *testing.T, store content.Store, ref, data string, labels map[string]string) digest.Digest {
	t.Helper()
	dgst := digest.FromString(data)
	desc := ocispec.Descriptor{Size: int64(len(data)), Digest: dgst}
	must(t, content.WriteBlob(ctx, store, ref, strings.NewReader(data), desc, content.WithLabels(labels)))
	return dgst
}

func TestContent(t *testing.T) {
	ctx, p := newPeer(t)
	s := p.far.Content
	big := strings.Repeat("0123456789abcdef", 5<<20/16) // several chunks
	root := map[string]string{"containerd.io/gc.root": "now"}
	dgst := write(ctx, t, s, "ref", big, root)
	if got, err := content.ReadBlob(ctx, s, ocispec.Descriptor{Digest: dgst, Size: int64(len(big))}); err != nil || string(got) != big {
		t.Errorf("ReadBlob = %d bytes, %v", len(got), err)
	}
	ra, err := s.ReaderAt(ctx, ocispec.Descriptor{Digest: dgst})
	must(t, err)
	defer ra.Close()
	buf := make([]byte, 20)
	if n, err := ra.ReadAt(buf, ra.Size()-10); n != 10 || err == nil {
		t.Errorf("ReadAt over the end = %d, %v, want 10 and an error", n, err)
	}
	if _, err := ra.ReadAt(buf, ra.Size()+1); !errdefs.IsOutOfRange(err) {
		t.Errorf("ReadAt beyond the end = %v, want OutOfRange", err)
	}
	for i := range 250 {
		write(ctx, t, s, fmt.Sprint("ref", i), fmt.Sprint("data", i), root)
	}
	var n int
	must(t, s.Walk(ctx, func(content.Info) error { n++; return nil }))
	if n != 251 {
		t.Errorf("Walk saw %d, want 251", n)
	}
	w, err := s.Writer(ctx, content.WithRef("again"), content.WithDescriptor(ocispec.Descriptor{Digest: dgst, Size: int64(len(big))}))
	if !errdefs.IsAlreadyExists(err) {
		t.Errorf("Writer of what is there = %v, want AlreadyExists", err)
		w.Close()
	}
	_, err = s.Info(ctx, "sha256:x")
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("Info of a bad digest = %v, want InvalidArgument", err)
	}
	must(t, s.Delete(ctx, dgst))
	_, err = s.Info(ctx, dgst)
	wantNotFound(t, "Info", err)
}

func TestUpstreamContentSuite(t *testing.T) {
	contentsuite.ContentSuite(t, "remote", func(ctx context.Context, root string) (context.Context, content.Store, func() error, error) {
		p, err := open(ctx, t, root)
		if err != nil {
			return nil, nil, nil, err
		}
		n := 0
		ctx = contentsuite.SetContextWrapper(ctx, func(ctx context.Context, shared bool) (context.Context, func(context.Context) error, error) {
			n++
			name := fmt.Sprint("ns", n)
			if err := p.far.Namespaces.Create(ctx, name, nil); err != nil {
				return nil, nil, err
			}
			if shared {
				if err := p.far.Namespaces.SetLabel(ctx, name, labels.LabelSharedNamespace, "true"); err != nil {
					return nil, nil, err
				}
			}
			ctx = namespaces.WithNamespace(ctx, name)
			l, err := p.far.Leases.Create(ctx, leases.WithRandomID())
			if err != nil {
				return nil, nil, err
			}
			return leases.WithLease(ctx, l.ID), func(context.Context) error { return nil }, nil
		})
		return ctx, p.far.Content, p.close, nil
	})
}

func TestUpstreamSnapshotSuite(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	snapshotsuite.SnapshotterSuite(t, containerd.DefaultSnapshotter, func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		p, err := open(namespaces.WithNamespace(ctx, "test"), t, root)
		if err != nil {
			return nil, nil, err
		}
		return p.far.Snapshotter(""), p.close, nil
	})
}

func TestUnknownSnapshotter(t *testing.T) {
	_, p := newPeer(t)
	if s := p.far.Snapshotter("none"); s != nil {
		t.Errorf("Snapshotter = %v, want nil", s)
	}
}

func TestEvents(t *testing.T) {
	ctx, p := newPeer(t)
	sub, cancel := context.WithCancel(ctx)
	ch, errs := p.far.Events.Subscribe(sub, `topic=="/tasks/oom"`)
	must(t, p.far.Events.Publish(ctx, "/tasks/other", &eventapi.TaskOOM{ContainerID: "c0"}))
	must(t, p.far.Events.Publish(ctx, "/tasks/oom", &eventapi.TaskOOM{ContainerID: "c1"}))
	at := time.Unix(5, 6).UTC()
	payload, err := typeurl.MarshalAny(&eventapi.TaskOOM{ContainerID: "c2"})
	must(t, err)
	must(t, p.far.Events.Forward(ctx, &events.Envelope{Timestamp: at, Namespace: "elsewhere", Topic: "/tasks/oom", Event: payload}))
	for _, want := range []struct{ id, namespace string }{{"c1", "test"}, {"c2", "elsewhere"}} {
		env := <-ch
		ev, err := typeurl.UnmarshalAny(env.Event)
		must(t, err)
		if got := ev.(*eventapi.TaskOOM).GetContainerID(); got != want.id || env.Namespace != want.namespace {
			t.Errorf("event of %s in %s, want %v", got, env.Namespace, want)
		}
		if want.id == "c2" && !env.Timestamp.Equal(at) {
			t.Errorf("time = %v, want %v", env.Timestamp, at)
		}
	}
	cancel()
	if err, open := <-errs; err != nil || open {
		t.Errorf("errs = %v, open %v, want closed", err, open)
	}
	_, errs = p.far.Events.Subscribe(ctx, `topic=="`)
	if err := <-errs; !errdefs.IsInvalidArgument(err) {
		t.Errorf("Subscribe with a bad filter = %v, want InvalidArgument", err)
	}
	if err := p.far.Events.Publish(ctx, "bad topic", &eventapi.TaskOOM{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Publish to a bad topic = %v, want InvalidArgument", err)
	}
}

func TestGracefulStopEndsSubscriptions(t *testing.T) {
	ctx, p := newPeer(t)
	_, errs := p.far.Events.Subscribe(ctx)
	p.stop() // would wait for ever
	if err := <-errs; !errdefs.IsUnavailable(err) {
		t.Errorf("errs = %v, want Unavailable", err)
	}
}

func TestDiff(t *testing.T) {
	ctx, p := newPeer(t)
	desc := ocispec.Descriptor{MediaType: "layer", Digest: digest.FromString("l"), Size: 7}
	mounts := []mount.Mount{{Type: "bind", Source: "/a", Options: []string{"ro"}}}
	got, err := p.far.Diff.Apply(ctx, desc, mounts, diff.WithSyncFs(true), diff.WithPayloads(map[string]typeurl.Any{"p": &anypb.Any{TypeUrl: "u", Value: []byte{1}}}))
	must(t, err)
	if !reflect.DeepEqual(got, desc) || !reflect.DeepEqual(p.diff.mounts, mounts) || !p.diff.apply.SyncFs || p.diff.apply.ProcessorPayloads["p"].GetTypeUrl() != "u" {
		t.Errorf("Apply = %+v, called with %+v", got, p.diff)
	}
	at := time.Unix(9, 0).UTC()
	_, err = p.far.Diff.Compare(ctx, nil, mounts, diff.WithMediaType("m"), diff.WithReference("r"), diff.WithLabels(map[string]string{"k": "v"}), diff.WithSourceDateEpoch(&at))
	must(t, err)
	want := diff.Config{MediaType: "m", Reference: "r", Labels: map[string]string{"k": "v"}, SourceDateEpoch: &at}
	if !reflect.DeepEqual(p.diff.compare, want) {
		t.Errorf("Compare called with %+v, want %+v", p.diff.compare, want)
	}
}

func TestTasks(t *testing.T) {
	ctx, p := newPeer(t)
	s := p.far.Tasks
	resources := &anypb.Any{TypeUrl: "r", Value: []byte("res")}
	pid, err := s.Create(ctx, "c1", containerd.TaskCreate{Stdin: "i", Stdout: "o", Stderr: "e", Terminal: true,
		Rootfs: []mount.Mount{{Type: "overlay", Options: []string{"x"}}}, Options: resources, RuntimePath: "/rt"})
	must(t, err)
	if pid != 7 {
		t.Errorf("Create = %d", pid)
	}
	pid, err = s.Start(ctx, "c1", "x1")
	must(t, err)
	if pid != 8 {
		t.Errorf("Start = %d", pid)
	}
	must(t, s.Exec(ctx, "c1", "x1", containerd.TaskExec{Stdout: "o", Terminal: true, Spec: resources}))
	for _, execID := range []string{"", "x1"} {
		if state, err := s.State(ctx, "c1", execID); err != nil || !reflect.DeepEqual(state, fakeState("c1", execID)) {
			t.Errorf("State = %+v, %v, want %+v", state, err, fakeState("c1", execID))
		}
		if exit, err := s.Delete(ctx, "c1", execID); err != nil || exit != fakeExit {
			t.Errorf("Delete = %+v, %v", exit, err)
		}
		want := fakeExit
		want.Pid = 0 // not in the API
		if exit, err := s.Wait(ctx, "c1", execID); err != nil || exit != want {
			t.Errorf("Wait = %+v, %v", exit, err)
		}
	}
	if list, err := s.List(ctx); err != nil || !reflect.DeepEqual(list, []containerd.TaskState{fakeState("c1", "")}) {
		t.Errorf("List = %+v, %v", list, err)
	}
	must(t, s.Kill(ctx, "c1", "x1", syscall.SIGUSR1, true))
	must(t, s.ResizePty(ctx, "c1", "x1", 80, 24))
	must(t, s.CloseStdin(ctx, "c1", "x1"))
	must(t, s.Pause(ctx, "c1"))
	must(t, s.Resume(ctx, "c1"))
	must(t, s.Update(ctx, "c1", resources))
	if pids, err := s.Pids(ctx, "c1"); err != nil || !slices.Equal(pids, []uint32{7, 8}) {
		t.Errorf("Pids = %v, %v", pids, err)
	}
	if m, err := s.Metrics(ctx, "c1"); err != nil || m.GetTypeUrl() != "metrics" {
		t.Errorf("Metrics = %v, %v", m, err)
	}
	_, err = s.Metrics(ctx, "c2")
	wantNotFound(t, "Metrics", err)
	want := []string{
		"Create test c1 i o e true [{overlay   [x]}] r res /rt", "Start c1 x1", "Exec c1 x1 o true r res",
		"State c1 ", "Delete c1 ", "Wait c1 ", "State c1 x1", "Delete c1 x1", "Wait c1 x1", "List",
		"Kill c1 x1 user defined signal 1 true", "ResizePty c1 x1 80 24", "CloseStdin c1 x1", "Pause c1", "Resume c1",
		"Update c1 r res", "Pids c1", "List", "Metrics c1", "List",
	}
	if !slices.Equal(p.tasks.calls, want) {
		t.Errorf("calls:\n%s\nwant:\n%s", strings.Join(p.tasks.calls, "\n"), strings.Join(want, "\n"))
	}
}

type fixedVersion struct{}

func (fixedVersion) Version(context.Context) (string, string, error) { return "1.2.3", "abc", nil }

type fakeDiff struct {
	mounts  []mount.Mount
	apply   diff.ApplyConfig
	compare diff.Config
}

func (d *fakeDiff) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	d.mounts = mounts
	for _, o := range opts {
		if err := o(ctx, desc, &d.apply); err != nil {
			return desc, err
		}
	}
	return desc, nil
}

func (d *fakeDiff) Compare(_ context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (ocispec.Descriptor, error) {
	for _, o := range opts {
		if err := o(&d.compare); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	return ocispec.Descriptor{}, nil
}

var fakeExit = containerd.Exit{Pid: 7, Code: 137, ExitedAt: time.Unix(100, 5).UTC()}

func fakeState(id, execID string) containerd.TaskState {
	return containerd.TaskState{ID: id, ExecID: execID, Pid: 7, Status: containerd.StatusStopped, Stdin: "i", Stdout: "o", Stderr: "e", Terminal: true, Exit: fakeExit}
}

// fakeTasks notes its calls, which come one at a time.
type fakeTasks struct{ calls []string }

func (f *fakeTasks) note(args ...any) {
	f.calls = append(f.calls, strings.TrimSuffix(fmt.Sprintln(args...), "\n"))
}

func (f *fakeTasks) Create(ctx context.Context, id string, o containerd.TaskCreate) (uint32, error) {
	ns, _ := namespaces.Namespace(ctx)
	f.note("Create", ns, id, o.Stdin, o.Stdout, o.Stderr, o.Terminal, o.Rootfs, o.Options.GetTypeUrl(), string(o.Options.GetValue()), o.RuntimePath)
	return 7, nil
}

func (f *fakeTasks) Start(_ context.Context, id, execID string) (uint32, error) {
	f.note("Start", id, execID)
	return 8, nil
}

func (f *fakeTasks) Exec(_ context.Context, id, execID string, o containerd.TaskExec) error {
	f.note("Exec", id, execID, o.Stdout, o.Terminal, o.Spec.GetTypeUrl(), string(o.Spec.GetValue()))
	return nil
}

func (f *fakeTasks) Delete(_ context.Context, id, execID string) (containerd.Exit, error) {
	f.note("Delete", id, execID)
	return fakeExit, nil
}

func (f *fakeTasks) State(_ context.Context, id, execID string) (containerd.TaskState, error) {
	f.note("State", id, execID)
	return fakeState(id, execID), nil
}

func (f *fakeTasks) List(context.Context) ([]containerd.TaskState, error) {
	f.note("List")
	return []containerd.TaskState{fakeState("c1", "")}, nil
}

func (f *fakeTasks) Wait(_ context.Context, id, execID string) (containerd.Exit, error) {
	f.note("Wait", id, execID)
	return fakeExit, nil
}

func (f *fakeTasks) Kill(_ context.Context, id, execID string, sig syscall.Signal, all bool) error {
	f.note("Kill", id, execID, sig, all)
	return nil
}

func (f *fakeTasks) ResizePty(_ context.Context, id, execID string, w, h uint32) error {
	f.note("ResizePty", id, execID, w, h)
	return nil
}

func (f *fakeTasks) CloseStdin(_ context.Context, id, execID string) error {
	f.note("CloseStdin", id, execID)
	return nil
}

func (f *fakeTasks) Pause(_ context.Context, id string) error  { f.note("Pause", id); return nil }
func (f *fakeTasks) Resume(_ context.Context, id string) error { f.note("Resume", id); return nil }

func (f *fakeTasks) Pids(_ context.Context, id string) ([]uint32, error) {
	f.note("Pids", id)
	return []uint32{7, 8}, nil
}

func (f *fakeTasks) Update(_ context.Context, id string, r typeurl.Any) error {
	f.note("Update", id, r.GetTypeUrl(), string(r.GetValue()))
	return nil
}

func (f *fakeTasks) Metrics(_ context.Context, id string) (typeurl.Any, error) {
	f.note("Metrics", id)
	return &anypb.Any{TypeUrl: "metrics"}, nil
}
