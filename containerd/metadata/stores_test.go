package metadata

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/go-digest"
)

func TestErrorClasses(t *testing.T) {
	w := newWorld(t, never)
	ctx := inNS(t, "ns")
	w.add(t, ctx, "content m")
	w.add(t, ctx, "image i @m")
	w.add(t, ctx, "container c $s")
	w.add(t, ctx, "lease l")
	w.add(t, ctx, "snapshot s")
	long := map[string]string{"k": strings.Repeat("v", 4096)}
	is, cs, ls, sn, blobs, nss := w.Images(), w.Containers(), w.Leases(), w.Snapshotter("fake"), w.Content(), w.Namespaces()
	for name, tt := range map[string]struct {
		do    func() error
		class func(error) bool
	}{
		"image without namespace":  {func() error { _, err := is.Get(t.Context(), "i"); return err }, errdefs.IsFailedPrecondition},
		"image missing":            {func() error { _, err := is.Get(ctx, "x"); return err }, errdefs.IsNotFound},
		"image in other namespace": {func() error { _, err := is.Get(inNS(t, "other"), "i"); return err }, errdefs.IsNotFound},
		"image exists":             {func() error { _, err := is.Create(ctx, image("i", "m", nil)); return err }, errdefs.IsAlreadyExists},
		"image without name":       {func() error { _, err := is.Create(ctx, image("", "m", nil)); return err }, errdefs.IsInvalidArgument},
		"image name with NUL":      {func() error { _, err := is.Create(ctx, image("a\x00b", "m", nil)); return err }, errdefs.IsInvalidArgument},
		"image without target":     {func() error { _, err := is.Create(ctx, images.Image{Name: "x"}); return err }, errdefs.IsInvalidArgument},
		"image label too long":     {func() error { _, err := is.Create(ctx, image("x", "m", long)); return err }, errdefs.IsInvalidArgument},
		"image update field":       {func() error { _, err := is.Update(ctx, image("i", "m", nil), "name"); return err }, errdefs.IsInvalidArgument},
		"image update missing":     {func() error { _, err := is.Update(ctx, image("x", "m", nil)); return err }, errdefs.IsNotFound},
		"image delete missing":     {func() error { return is.Delete(ctx, "x") }, errdefs.IsNotFound},
		"image delete other target": {func() error {
			target := image("i", "other", nil).Target
			return is.Delete(ctx, "i", images.DeleteTarget(&target))
		}, errdefs.IsNotFound},
		"image filter": {func() error { _, err := is.List(ctx, "name=="); return err }, errdefs.IsInvalidArgument},
		"image lease missing": {func() error {
			_, err := is.Create(leases.WithLease(ctx, "none"), image("x", "m", map[string]string{labelExpire: "2040-01-01T00:00:00Z"}))
			return err
		}, errdefs.IsNotFound},

		"container missing":      {func() error { _, err := cs.Get(ctx, "x"); return err }, errdefs.IsNotFound},
		"container exists":       {func() error { _, err := cs.Create(ctx, container("c", "", nil)); return err }, errdefs.IsAlreadyExists},
		"container ID":           {func() error { _, err := cs.Create(ctx, container("../x", "", nil)); return err }, errdefs.IsInvalidArgument},
		"container label":        {func() error { _, err := cs.Create(ctx, container("x", "", long)); return err }, errdefs.IsInvalidArgument},
		"container without spec": {func() error { c := container("x", "", nil); c.Spec = nil; _, err := cs.Create(ctx, c); return err }, errdefs.IsInvalidArgument},
		"container without runtime": {func() error {
			c := container("x", "", nil)
			c.Runtime.Name = ""
			_, err := cs.Create(ctx, c)
			return err
		}, errdefs.IsInvalidArgument},
		"container without snapshotter": {func() error {
			c := container("x", "s", nil)
			c.Snapshotter = ""
			_, err := cs.Create(ctx, c)
			return err
		}, errdefs.IsInvalidArgument},
		"container new runtime": {func() error {
			c := container("c", "s", nil)
			c.Runtime.Name = "other"
			_, err := cs.Update(ctx, c)
			return err
		}, errdefs.IsInvalidArgument},
		"container field":  {func() error { _, err := cs.Update(ctx, container("c", "", nil), "runtime"); return err }, errdefs.IsInvalidArgument},
		"container delete": {func() error { return cs.Delete(ctx, "x") }, errdefs.IsNotFound},

		"lease exists":         {func() error { _, err := ls.Create(ctx, leases.WithID("l")); return err }, errdefs.IsAlreadyExists},
		"lease without ID":     {func() error { _, err := ls.Create(ctx); return err }, errdefs.IsInvalidArgument},
		"lease delete missing": {func() error { return ls.Delete(ctx, leases.Lease{ID: "x"}) }, errdefs.IsNotFound},
		"lease resource type": {func() error {
			return ls.AddResource(ctx, leases.Lease{ID: "l"}, leases.Resource{ID: "x", Type: "volumes"})
		}, errdefs.IsNotImplemented},
		"lease snapshot without snapshotter": {func() error {
			return ls.AddResource(ctx, leases.Lease{ID: "l"}, leases.Resource{ID: "x", Type: "snapshots"})
		}, errdefs.IsInvalidArgument},
		"lease content digest": {func() error {
			return ls.AddResource(ctx, leases.Lease{ID: "l"}, leases.Resource{ID: "x", Type: "content"})
		}, errdefs.IsInvalidArgument},
		"lease list missing": {func() error { _, err := ls.ListResources(ctx, leases.Lease{ID: "x"}); return err }, errdefs.IsNotFound},

		"content missing":        {func() error { _, err := blobs.Info(ctx, digest.FromString("x")); return err }, errdefs.IsNotFound},
		"content delete missing": {func() error { return blobs.Delete(ctx, digest.FromString("x")) }, errdefs.IsNotFound},
		"content without ref":    {func() error { _, err := blobs.Writer(ctx); return err }, errdefs.IsInvalidArgument},
		"content field": {func() error {
			_, err := blobs.Update(ctx, content.Info{Digest: digest.FromString("m")}, "size")
			return err
		}, errdefs.IsInvalidArgument},
		"ingest missing": {func() error { _, err := blobs.Status(ctx, "x"); return err }, errdefs.IsNotFound},
		"abort missing":  {func() error { return blobs.Abort(ctx, "x") }, errdefs.IsNotFound},

		"snapshot missing":       {func() error { _, err := sn.Stat(ctx, "x"); return err }, errdefs.IsNotFound},
		"snapshot exists":        {func() error { _, err := sn.Prepare(ctx, "s", ""); return err }, errdefs.IsAlreadyExists},
		"snapshot parent":        {func() error { _, err := sn.Prepare(ctx, "y", "x"); return err }, errdefs.IsNotFound},
		"snapshot commit absent": {func() error { return sn.Commit(ctx, "x", "y") }, errdefs.IsNotFound},
		"snapshot commit twice":  {func() error { return sn.Commit(ctx, "x", "s") }, errdefs.IsFailedPrecondition},
		"snapshot mounts":        {func() error { _, err := sn.Mounts(ctx, "s"); return err }, errdefs.IsFailedPrecondition},
		"snapshot label":         {func() error { _, err := sn.Prepare(ctx, "x", "", snapshots.WithLabels(long)); return err }, errdefs.IsInvalidArgument},
		"snapshot remove":        {func() error { return sn.Remove(ctx, "x") }, errdefs.IsNotFound},

		"namespace exists":         {func() error { return nss.Create(ctx, "ns", nil) }, errdefs.IsAlreadyExists},
		"namespace name":           {func() error { return nss.Create(ctx, "a/b", nil) }, errdefs.IsInvalidArgument},
		"namespace label":          {func() error { return nss.Create(ctx, "x", long) }, errdefs.IsInvalidArgument},
		"namespace delete missing": {func() error { return nss.Delete(ctx, "x") }, errdefs.IsNotFound},
		"namespace not empty":      {func() error { return nss.Delete(ctx, "ns") }, errdefs.IsFailedPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tt.do(); !tt.class(err) {
				t.Errorf("error = %v, of another class", err)
			}
		})
	}
}

func TestFieldMasks(t *testing.T) {
	w := newWorld(t, never)
	ctx := inNS(t, "ns")
	w.add(t, ctx, "content m")
	w.add(t, ctx, "image i @m a=1 b=2")
	next := image("i", "other", map[string]string{"b": "", "c": "3"})
	next.Target.Annotations = map[string]string{"x": "y"}
	for _, tt := range []struct {
		paths       []string
		labels      map[string]string
		target      string
		annotations map[string]string
	}{
		{[]string{"labels.c"}, map[string]string{"a": "1", "b": "2", "c": "3"}, "m", nil},
		{[]string{"labels.b"}, map[string]string{"a": "1", "c": "3"}, "m", nil},
		{[]string{"annotations.x"}, map[string]string{"a": "1", "c": "3"}, "m", map[string]string{"x": "y"}},
		{[]string{"target"}, map[string]string{"a": "1", "c": "3"}, "other", map[string]string{"x": "y"}},
		{[]string{"labels"}, map[string]string{"c": "3"}, "other", map[string]string{"x": "y"}},
		{nil, map[string]string{"c": "3"}, "other", map[string]string{"x": "y"}},
	} {
		if _, err := w.Images().Update(ctx, next, tt.paths...); err != nil {
			t.Fatal(err)
		}
		got, err := w.Images().Get(ctx, "i")
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(got.Labels, tt.labels) || got.Target.Digest != digest.FromString(tt.target) || !maps.Equal(got.Target.Annotations, tt.annotations) {
			t.Errorf("after %v: %+v, want labels %v, target %s, annotations %v", tt.paths, got, tt.labels, tt.target, tt.annotations)
		}
	}
}

func TestContainerRoundTrip(t *testing.T) {
	w := newWorld(t, never)
	ctx := inNS(t, "ns")
	c := container("c", "key", map[string]string{"l": "v"})
	c.Image, c.SandboxID = "img", "pod"
	c.Runtime.Options = opaque{"opts", []byte("o\x00o")}
	c.Extensions = map[string]typeurl.Any{"e/1": opaque{"ext", []byte{0, 1}}, "e2": opaque{"ext", nil}}
	created, err := w.Containers().Create(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	check := func(want containers.Container) {
		t.Helper()
		got, err := w.Containers().Get(ctx, "c")
		if err != nil {
			t.Fatal(err)
		}
		list, err := w.Containers().List(ctx, `labels.l==v`)
		if err != nil || len(list) != 1 {
			t.Fatalf("List = %v, %v", list, err)
		}
		for _, g := range []containers.Container{got, list[0]} {
			if g.Image != want.Image || g.SnapshotKey != want.SnapshotKey || g.SandboxID != want.SandboxID ||
				!g.CreatedAt.Equal(want.CreatedAt) || !sameAny(g.Spec, want.Spec) || !sameAny(g.Runtime.Options, want.Runtime.Options) ||
				!maps.EqualFunc(g.Extensions, want.Extensions, sameAny) {
				t.Errorf("container = %+v, want %+v", g, want)
			}
		}
	}
	check(created)
	next := c
	next.Extensions = map[string]typeurl.Any{"e2": opaque{"ext", []byte("new")}}
	next.Spec = opaque{"spec", []byte("2")}
	want := created
	want.Extensions = map[string]typeurl.Any{"e2": next.Extensions["e2"]}
	want.Spec = next.Spec
	if _, err := w.Containers().Update(ctx, next, "extensions.e/1", "extensions.e2", "spec"); err != nil {
		t.Fatal(err)
	}
	check(want)
	if err := w.Containers().Delete(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	err = w.view(func(tx *tx) error {
		if tx.any(bktAnys, nil) {
			t.Error("opaque parts outlive the container")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func sameAny(a, b typeurl.Any) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.GetTypeUrl() == b.GetTypeUrl() && string(a.GetValue()) == string(b.GetValue())
}

func TestEventsFollowCommits(t *testing.T) {
	w := newWorld(t, never)
	ctx := inNS(t, "ns")
	sn := w.Snapshotter("fake")
	for _, tt := range []struct {
		do   func() error
		want []string
	}{
		{func() error { return w.Namespaces().Create(ctx, "n2", nil) }, []string{"n2/namespaces/create"}},
		{func() error { return w.Namespaces().SetLabel(ctx, "n2", "k", "v") }, []string{"n2/namespaces/update"}},
		{func() error { return w.Namespaces().Delete(ctx, "n2") }, []string{"n2/namespaces/delete"}},
		{func() error { write(t, ctx, w.Content(), "m", nil); return nil }, []string{"ns/content/create"}},
		{func() error { _, err := w.Images().Create(ctx, image("i", "m", nil)); return err }, []string{"ns/images/create"}},
		{func() error { _, err := w.Images().Update(ctx, image("i", "m", nil)); return err }, []string{"ns/images/update"}},
		{func() error { return w.Images().Delete(ctx, "i") }, []string{"ns/images/delete"}},
		{func() error { return w.Images().Delete(ctx, "i") }, nil},
		{func() error { return w.Content().Delete(ctx, digest.FromString("m")) }, []string{"ns/content/delete"}},
		{func() error { _, err := w.Containers().Create(ctx, container("c", "", nil)); return err }, []string{"ns/containers/create"}},
		{func() error { _, err := w.Containers().Update(ctx, container("c", "", nil)); return err }, []string{"ns/containers/update"}},
		{func() error { return w.Containers().Delete(ctx, "c") }, []string{"ns/containers/delete"}},
		{func() error { _, err := sn.Prepare(ctx, "a", ""); return err }, []string{"ns/snapshot/prepare"}},
		{func() error { return sn.Commit(ctx, "s", "a") }, []string{"ns/snapshot/commit"}},
		{func() error { return sn.Remove(ctx, "s") }, []string{"ns/snapshot/remove"}},
	} {
		err := tt.do()
		if got := w.events.take(); !slices.Equal(got, tt.want) {
			t.Errorf("events = %v (error %v), want %v", got, err, tt.want)
		}
	}
}

func TestNamespacesComeAndGo(t *testing.T) {
	w := newWorld(t, never)
	ctx := inNS(t, "ns")
	labels, err := w.Namespaces().Labels(ctx, "ns")
	if err != nil || len(labels) != 0 {
		t.Errorf("labels of a namespace that is not there = %v, %v", labels, err)
	}
	w.add(t, ctx, "lease l")
	names, err := w.Namespaces().List(ctx)
	if err != nil || !slices.Equal(names, []string{"ns"}) {
		t.Errorf("namespaces = %v, %v, want the one written to", names, err)
	}
	if err := w.Namespaces().Delete(ctx, "ns"); err != nil {
		t.Errorf("Delete of a namespace with a lease only: %v", err)
	}
	if ls, err := w.Leases().List(ctx); err != nil || len(ls) != 0 {
		t.Errorf("leases = %v, %v, want none", ls, err)
	}
}

func TestLeaseFollowsContext(t *testing.T) {
	w := newWorld(t, never)
	ctx := leased(inNS(t, "ns"), w.DB)
	sn := w.Snapshotter("fake")
	resources := func() []string {
		t.Helper()
		rs, err := w.Leases().ListResources(ctx, leases.Lease{ID: "keep"})
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, r := range rs {
			list = append(list, r.Type+" "+r.ID)
		}
		return list
	}
	d := digest.FromString("x")
	for _, tt := range []struct {
		name string
		do   func() error
		want []string
	}{
		{"open", func() error { cw, err := w.Content().Writer(ctx, content.WithRef("ref-x")); cw.Close(); return err }, []string{"ingests ref-x"}},
		{"write", func() error { write(t, ctx, w.Content(), "x", nil); return nil }, []string{"content " + d.String()}},
		{"prepare", func() error { _, err := sn.Prepare(ctx, "a", ""); return err }, []string{"content " + d.String(), "snapshots/fake a"}},
		{"commit", func() error { return sn.Commit(ctx, "s", "a") }, []string{"content " + d.String(), "snapshots/fake s"}},
		{"remove", func() error { return sn.Remove(ctx, "s") }, []string{"content " + d.String()}},
		{"delete", func() error { return w.Content().Delete(ctx, d) }, nil},
	} {
		if err := tt.do(); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if got := resources(); !slices.Equal(got, tt.want) {
			t.Errorf("%s: lease holds %v, want %v", tt.name, got, tt.want)
		}
	}
	// What exists already is leased too, by the error.
	other := inNS(t, "ns")
	write(t, other, w.Content(), "y", nil)
	w.add(t, other, "snapshot t")
	for name, err := range map[string]error{
		"writer":  func() error { _, err := w.Content().Writer(ctx, content.WithRef("r"), withDigest("y")); return err }(),
		"prepare": func() error { _, err := sn.Prepare(ctx, "t", ""); return err }(),
		"target": func() error {
			_, err := sn.Prepare(ctx, "new", "", snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: "t"}))
			return err
		}(),
	} {
		if !errdefs.IsAlreadyExists(err) {
			t.Errorf("%s = %v, want AlreadyExists", name, err)
		}
	}
	if got, want := resources(), []string{"content " + digest.FromString("y").String(), "snapshots/fake t"}; !slices.Equal(got, want) {
		t.Errorf("lease holds %v, want %v", got, want)
	}
}

func withDigest(data string) content.WriterOpt {
	return func(o *content.WriterOpts) error {
		o.Desc.Digest = digest.FromString(data)
		return nil
	}
}

func TestAbortedWriterCannotCommit(t *testing.T) {
	w := newWorld(t, never)
	ctx := inNS(t, "ns")
	cw, err := w.Content().Writer(ctx, content.WithRef("r"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cw.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := w.Content().Abort(ctx, "r"); err != nil {
		t.Fatal(err)
	}
	if err := cw.Commit(context.WithoutCancel(ctx), 1, ""); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Commit = %v, want FailedPrecondition", err)
	}
	w.checkFiles(t)
}
