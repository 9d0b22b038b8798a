package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/containerd/image/imagetest"
	"lighter/containerd/local"
	"lighter/engine/image"
	"lighter/internal/testenv"
)

// engine is a Service with what it reports.
type engine struct {
	*image.Service
	storage *local.Storage

	mu     sync.Mutex // guards the fields below
	events []string
	inUse  map[string][]image.ContainerRef
}

func newEngine(t testing.TB) *engine {
	t.Helper()
	svc, st := imagetest.Services(t)
	e := &engine{storage: st, inUse: map[string][]image.ContainerRef{}}
	snapshotter := "overlayfs"
	if svc.Snapshotter(snapshotter) == nil {
		snapshotter = "native"
	}
	e.Service = image.New(image.Deps{
		Services: svc, Snapshotter: snapshotter,
		Events: func(a events.Action, id string, attrs map[string]string) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.events = append(e.events, string(a)+" "+attrs["name"])
		},
		InUse: func(id string) []image.ContainerRef {
			e.mu.Lock()
			defer e.mu.Unlock()
			return e.inUse[id]
		},
	})
	return e
}

func (e *engine) ctx(t testing.TB) context.Context {
	return namespaces.WithNamespace(t.Context(), "moby")
}

// messages collects progress.
type messages []string

func (m *messages) add(j jsonstream.Message) {
	line := strings.TrimSuffix(j.Status+j.Stream, "\n")
	if j.ID != "" {
		line = j.ID + ": " + line
	}
	*m = append(*m, line)
}

func none(jsonstream.Message) {}

func loadImage(t testing.TB, e *engine, archive []byte) string {
	t.Helper()
	var m messages
	if err := e.Load(t.Context(), bytes.NewReader(archive), nil, true, m.add); err != nil {
		t.Fatal(err)
	}
	list, err := e.List(t.Context(), image.ListOptions{All: true})
	if err != nil || len(list) == 0 {
		t.Fatalf("list %v, %v", list, err)
	}
	return list[0].ID
}

func simple(t testing.TB, body string) imagetest.Image {
	return imagetest.New(t, ocispec.ImageConfig{Cmd: []string{"sh"}, Labels: map[string]string{"from": "test"}},
		imagetest.Layer(t, imagetest.File{Name: "f", Body: body}))
}

func TestLoadListInspect(t *testing.T) {
	testenv.Need(t, testenv.Root)
	e := newEngine(t)
	img := simple(t, "1")
	var m messages
	if err := e.Load(t.Context(), bytes.NewReader(img.OCI(t, "docker.io/library/busybox:latest")), nil, false, m.add); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(m, []string{"Loaded image: busybox:latest"}) {
		t.Errorf("messages %q", m)
	}
	if err := e.storage.GC(e.ctx(t)); err != nil {
		t.Fatal(err)
	}
	id := img.Manifest.Digest.String()
	list, err := e.List(t.Context(), image.ListOptions{Manifests: true, SharedSize: true})
	if err != nil || len(list) != 1 {
		t.Fatalf("list %v, %v", list, err)
	}
	got := list[0]
	if got.ID != id || !slices.Equal(got.RepoTags, []string{"busybox:latest"}) || !slices.Equal(got.RepoDigests, []string{"busybox@" + id}) ||
		got.Created != 1700000000 || got.Labels["from"] != "test" || got.Size <= 0 || len(got.Manifests) != 1 || !got.Manifests[0].Available {
		t.Errorf("summary %+v", got)
	}
	for _, ref := range []string{"busybox", "busybox:latest", "docker.io/library/busybox", id, id[7:19], "busybox@" + id} {
		in, err := e.Inspect(t.Context(), ref, image.InspectOptions{})
		if err != nil {
			t.Errorf("inspect %q: %v", ref, err)
		} else if in.ID != id || in.Config.Cmd[0] != "sh" || len(in.RootFS.Layers) != 1 || in.Architecture == "" {
			t.Errorf("inspect %q: %+v", ref, in)
		}
	}
	r, err := e.Resolve(t.Context(), "busybox", nil)
	if err != nil || !r.Unpacked || r.ChainID == "" || r.Name != "docker.io/library/busybox:latest" {
		t.Errorf("resolve %+v, %v", r, err)
	}
	h, err := e.History(t.Context(), "busybox", nil)
	if err != nil || len(h) != 1 || h[0].ID != id || h[0].CreatedBy != "layer 0" || h[0].Tags[0] != "busybox:latest" {
		t.Errorf("history %+v, %v", h, err)
	}
}

// TestNotFound holds the texts that clients match on.
func TestNotFound(t *testing.T) {
	e := newEngine(t)
	for ref, want := range map[string]string{
		"foo":           "No such image: foo:latest",
		"foo:1":         "No such image: foo:1",
		"reg.local:5/a": "No such image: reg.local:5/a:latest",
		"deadbeef":      "No such image: deadbeef:latest",
		"docker.io/a/b": "No such image: a/b:latest",
	} {
		_, err := e.Resolve(t.Context(), ref, nil)
		if !errdefs.IsNotFound(err) || err.Error() != want {
			t.Errorf("%q: got %v", ref, err)
		}
	}
	for _, ref := range []string{"", "UPPER", "a b", "-x", "a:" + strings.Repeat("t", 200)} {
		if _, err := e.Resolve(t.Context(), ref, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %v, want InvalidArgument", ref, err)
		}
	}
}

func TestTagRemove(t *testing.T) {
	testenv.Need(t, testenv.Root)
	e := newEngine(t)
	first := loadImage(t, e, simple(t, "1").OCI(t, "docker.io/library/x:1"))
	tag := func(repo, tag string) {
		t.Helper()
		if err := e.Tag(t.Context(), "x:1", repo, tag); err != nil {
			t.Fatal(err)
		}
	}
	removed := func(ref string, o image.RemoveOptions) string {
		t.Helper()
		list, err := e.Remove(t.Context(), ref, o)
		if err != nil {
			return err.Error()
		}
		var out []string
		for _, r := range list {
			out = append(out, strings.TrimSuffix("untagged "+r.Untagged+" deleted "+r.Deleted, " deleted "))
		}
		return strings.ReplaceAll(strings.Join(out, ", "), "untagged  ", "")
	}
	short := first[7:19]
	tag("x", "2")
	tag("y", "")
	if got := removed("x:2", image.RemoveOptions{}); got != "untagged x:2" {
		t.Errorf("untag: %q", got)
	}
	if got := removed(first, image.RemoveOptions{}); got != "conflict: unable to delete "+short+" (must be forced) - image is referenced in multiple repositories" {
		t.Errorf("by ID: %q", got)
	}
	if got := removed("y", image.RemoveOptions{}); got != "untagged y:latest" {
		t.Errorf("untag: %q", got)
	}
	e.inUse[first] = []image.ContainerRef{{ID: "0123456789abcdef", Image: "x:1"}}
	if got := removed("x:1", image.RemoveOptions{}); got != "conflict: unable to delete x:1 (must be forced) - container 0123456789ab is using its referenced image "+short {
		t.Errorf("in use: %q", got)
	}
	if got := removed(short, image.RemoveOptions{}); got != "conflict: unable to delete "+short+" (must be forced) - image is being used by stopped container 0123456789ab" {
		t.Errorf("in use by ID: %q", got)
	}
	if got := removed("x:1", image.RemoveOptions{Force: true}); got != "untagged x:1" {
		t.Errorf("forced: %q", got)
	}
	list, err := e.List(t.Context(), image.ListOptions{Filters: image.Filters{"dangling": {"true": true}}})
	if err != nil || len(list) != 1 || list[0].ID != first || len(list[0].RepoTags) != 0 || list[0].RepoTags == nil {
		t.Errorf("dangling %+v, %v", list, err)
	}
	e.inUse[first][0].Running = true
	if got := removed(first, image.RemoveOptions{Force: true}); got != "conflict: unable to delete "+short+" (cannot be forced) - image is being used by running container 0123456789ab" {
		t.Errorf("running: %q", got)
	}
	delete(e.inUse, first)
	if got := removed(first, image.RemoveOptions{}); got != "deleted "+first {
		t.Errorf("delete: %q", got)
	}
	if _, err := e.Inspect(t.Context(), first, image.InspectOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("after delete: %v", err)
	}
	for _, bad := range [][2]string{{"", ""}, {"sha256", "x"}, {"UPPER", ""}, {"x", "bad tag"}, {"x@" + first, ""}} {
		if err := e.Tag(t.Context(), "x:1", bad[0], bad[1]); !errdefs.IsInvalidArgument(err) {
			t.Errorf("tag %q: %v", bad, err)
		}
	}
}

// TestReplaceKeeps: an image that loses its name to another becomes dangling,
// and goes by prune.
func TestReplaceKeeps(t *testing.T) {
	testenv.Need(t, testenv.Root)
	e := newEngine(t)
	first := loadImage(t, e, simple(t, "1").OCI(t, "x:1"))
	second := simple(t, "2")
	loadImage(t, e, second.OCI(t, "x:1"))
	list, err := e.List(t.Context(), image.ListOptions{})
	if err != nil || len(list) != 2 {
		t.Fatalf("list %v, %v", list, err)
	}
	r, err := e.Prune(t.Context(), image.Filters{})
	if err != nil || r.SpaceReclaimed == 0 || len(r.ImagesDeleted) != 2 || r.ImagesDeleted[1].Deleted != first {
		t.Errorf("prune %+v, %v", r, err)
	}
	if _, err := e.Resolve(t.Context(), "x:1", nil); err != nil {
		t.Error(err)
	}
	r, err = e.Prune(t.Context(), image.Filters{"dangling": {"false": true}})
	if err != nil || len(r.ImagesDeleted) != 2 || r.ImagesDeleted[0].Untagged != "x:1" {
		t.Errorf("prune all %+v, %v", r, err)
	}
}

func TestFilters(t *testing.T) {
	testenv.Need(t, testenv.Root)
	e := newEngine(t)
	loadImage(t, e, simple(t, "1").OCI(t, "a/x:1"))
	if err := e.Tag(t.Context(), "a/x:1", "a/y", "2"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		key, value string
		want       int
	}{
		{"label", "from", 1}, {"label", "from=test", 1}, {"label", "from=no", 0}, {"label!", "from", 0}, {"label", "from!=no", 1},
		{"reference", "a/*", 1}, {"reference", "a/y:2", 1}, {"reference", "b/*", 0}, {"dangling", "true", 0}, {"dangling", "0", 1},
		{"until", "1h", 0}, {"since", "a/x:1", 0},
	} {
		list, err := e.List(t.Context(), image.ListOptions{Filters: image.Filters{tt.key: {tt.value: true}}})
		if err != nil || len(list) != tt.want {
			t.Errorf("%s=%s: %d images, %v", tt.key, tt.value, len(list), err)
		}
	}
	for key, value := range map[string]string{"nope": "x", "dangling": "maybe", "until": "soon", "reference": "["} {
		if _, err := e.List(t.Context(), image.ListOptions{Filters: image.Filters{key: {value: true}}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s=%s: %v", key, value, err)
		}
	}
}

func TestImportCommitSave(t *testing.T) {
	testenv.Need(t, testenv.Root)
	e := newEngine(t)
	var m messages
	id, err := e.Import(t.Context(), image.ImportInput{
		Source: bytes.NewReader(imagetest.Layer(t, imagetest.File{Name: "bin/sh", Body: "#!"}, imagetest.File{Name: "gone", Body: "x"})),
		Ref:    "base", Message: "imported", Changes: []string{`CMD ["sh"]`, "ENV A=1"},
	}, m.add)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(m, []string{id}) {
		t.Errorf("messages %q", m)
	}
	base, err := e.Resolve(t.Context(), "base", nil)
	if err != nil || base.ID.String() != id || base.Config.Config.Cmd[0] != "sh" || base.Config.Config.Env[0] != "A=1" || !base.Unpacked {
		t.Fatalf("resolve %+v, %v", base, err)
	}
	ctx := e.ctx(t)
	sn := e.storage.Snapshotters[base.Snapshotter]
	// A container's record would keep it.
	root := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "1"})
	if _, err := sn.Prepare(ctx, "container", base.ChainID.String(), root); err != nil {
		t.Fatal(err)
	}
	// Without a change there is no layer.
	empty, err := e.Commit(t.Context(), image.CommitInput{SnapshotKey: "container", Parent: id, Config: base.Config.Config, Ref: "same:1", ContainerID: "c"})
	if err != nil {
		t.Fatal(err)
	}
	in, err := e.Inspect(t.Context(), empty, image.InspectOptions{})
	if err != nil || len(in.RootFS.Layers) != 1 {
		t.Errorf("empty commit %+v, %v", in, err)
	}
	change := imagetest.New(t, ocispec.ImageConfig{}, imagetest.Layer(t, imagetest.File{Name: ".wh.gone"}, imagetest.File{Name: "new", Body: "n"}))
	applyTo(t, e, ctx, change, "container")
	done, err := e.Commit(t.Context(), image.CommitInput{
		SnapshotKey: "container", Parent: id, Config: base.Config.Config, Changes: []string{"USER 5"}, Author: "me", Comment: "why", CreatedBy: "sh", ContainerID: "c",
	})
	if err != nil {
		t.Fatal(err)
	}
	in, err = e.Inspect(t.Context(), done, image.InspectOptions{})
	if err != nil || len(in.RootFS.Layers) != 2 || in.Config.User != "5" || in.Author != "me" || in.Comment != "why" || len(in.RepoTags) != 0 {
		t.Errorf("commit %+v, %v", in, err)
	}
	h, err := e.History(t.Context(), done, nil)
	if err != nil || len(h) != 2 || h[0].Comment != "why" || h[1].Comment != "imported" || h[1].ID != id {
		t.Errorf("history %+v, %v", h, err)
	}
	if err := sn.Remove(ctx, "container"); err != nil {
		t.Fatal(err)
	}

	var archive bytes.Buffer
	if err := e.Save(t.Context(), []string{"base", done, "same:1"}, nil, &archive); err != nil {
		t.Fatal(err)
	}
	members := map[string]bool{}
	tr := tar.NewReader(bytes.NewReader(archive.Bytes()))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.IsZero() && h.ModTime.Unix() != 0 {
			t.Errorf("%s has the time %v", h.Name, h.ModTime)
		}
		members[h.Name] = true
	}
	for _, n := range []string{"index.json", "manifest.json", "oci-layout"} {
		if !members[n] {
			t.Errorf("archive without %s", n)
		}
	}
	other := newEngine(t)
	m = nil
	if err := other.Load(t.Context(), bytes.NewReader(archive.Bytes()), nil, true, m.add); err != nil {
		t.Fatal(err)
	}
	slices.Sort(m)
	if !slices.Equal(m, []string{"Loaded image ID: " + done, "Loaded image: base:latest", "Loaded image: same:1"}) {
		t.Errorf("loaded %q", m)
	}
	if _, err := other.Import(t.Context(), image.ImportInput{Source: strings.NewReader(strings.Repeat("not a tar", 100))}, none); !errdefs.IsInvalidArgument(err) {
		t.Errorf("import of garbage: %v", err)
	}
	if _, err := other.Import(t.Context(), image.ImportInput{Source: bytes.NewReader(imagetest.Layer(t)), Changes: []string{"RUN x"}}, none); !errdefs.IsInvalidArgument(err) {
		t.Errorf("import with a bad change: %v", err)
	}
}

// applyTo puts a layer into an active snapshot, as a container would.
func applyTo(t testing.TB, e *engine, ctx context.Context, img imagetest.Image, key string) {
	t.Helper()
	svc := e.storage
	sn := "overlayfs"
	if svc.Snapshotters[sn] == nil {
		sn = "native"
	}
	mounts, err := svc.Snapshotters[sn].Mounts(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	imagetest.Apply(t, ctx, svc.Content, img, mounts)
}

func TestPullPush(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Program("docker-registry", "docker-registry"))
	host := imagetest.Registry(t)
	img := simple(t, "1")
	from := newEngine(t)
	ref := host + "/team/app"
	id := loadImage(t, from, img.OCI(t, ref+":v1"))
	var m messages
	if err := from.Push(t.Context(), ref, "v1", nil, nil, m.add); err != nil {
		t.Fatal(err)
	}
	if m[0] != "The push refers to repository ["+ref+"]" || !strings.HasPrefix(m[len(m)-1], "v1: digest: "+id+" size: ") {
		t.Errorf("push messages %q", m)
	}
	e := newEngine(t)
	pull := func(tag string) (messages, error) {
		var m messages
		err := e.Pull(t.Context(), ref, tag, nil, nil, m.add)
		return m, err
	}
	got, err := pull("v1")
	if err != nil {
		t.Fatal(err)
	}
	layer := img.Doc.Layers[0].Digest.Encoded()[:12]
	for _, want := range []string{"v1: Pulling from team/app", layer + ": Pulling fs layer", layer + ": Download complete", layer + ": Pull complete", "Digest: " + id, "Status: Downloaded newer image for " + ref + ":v1"} {
		if !slices.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if err := e.storage.GC(e.ctx(t)); err != nil {
		t.Fatal(err)
	}
	got, err = pull("v1")
	if err != nil || !slices.Equal(got, []string{"v1: Pulling from team/app", "Digest: " + id, "Status: Image is up to date for " + ref + ":v1"}) {
		t.Errorf("second pull %q, %v", got, err)
	}
	if got, err = pull(id); err != nil || got[0] != id+": Pulling from team/app" {
		t.Errorf("pull by digest %q, %v", got, err)
	}
	if got, err = pull(""); err != nil || len(got) == 0 {
		t.Errorf("pull all tags %q, %v", got, err)
	}
	if _, err = pull("none"); !errdefs.IsNotFound(err) {
		t.Errorf("missing tag: %v", err)
	}
	if err := e.Pull(t.Context(), "scratch", "", nil, nil, none); !errdefs.IsPermissionDenied(err) {
		t.Errorf("scratch: %v", err)
	}
	if err := e.Push(t.Context(), ref, "none", nil, nil, none); !errdefs.IsNotFound(err) || err.Error() != "tag does not exist: "+ref+":none" {
		t.Errorf("push of a missing tag: %v", err)
	}
	if !slices.Contains(e.events, "pull "+ref) {
		t.Errorf("events %q", e.events)
	}
}

func TestConcurrentPulls(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Program("docker-registry", "docker-registry"))
	host := imagetest.Registry(t)
	ref := host + "/app"
	from := newEngine(t)
	loadImage(t, from, simple(t, "1").OCI(t, ref+":v1"))
	if err := from.Push(t.Context(), ref, "v1", nil, nil, none); err != nil {
		t.Fatal(err)
	}
	e := newEngine(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := e.Pull(t.Context(), ref, "v1", nil, nil, none); err != nil {
				t.Error(err)
			}
			if r, err := e.Resolve(t.Context(), ref+":v1", nil); err != nil || !r.Unpacked {
				t.Errorf("resolve %+v, %v", r, err)
			}
		})
	}
	wg.Wait()
}
