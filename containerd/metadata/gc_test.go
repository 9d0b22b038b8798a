package metadata

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The table writes resources as one line each: "kind name [label=value]...".
// A value of @x stands for the digest of content x. Snapshots are "snapshot name
// [^parent]" and committed, images "image name @content", containers
// "container id $snapshot", leases "lease id [+type:resource]", ingests "ingest ref".
func TestCollectionFollowsLabels(t *testing.T) {
	past := "containerd.io/gc.expire=" + time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	future := "containerd.io/gc.expire=" + time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	hourAgo := "containerd.io/gc.cond.value-usedat=" + time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	for name, tt := range map[string]struct {
		have, want []string // want: those that stay
	}{
		"nothing refers to content or snapshots": {
			have: []string{"content a", "snapshot s"},
		},
		"an image keeps its target and what that refers to": {
			have: []string{
				"content layer", "content config", "content other",
				"content manifest containerd.io/gc.ref.content.0=@layer containerd.io/gc.ref.content/c=@config containerd.io/gc.ref.contentbad=@other",
				"image i @manifest",
			},
			want: []string{"content layer", "content config", "content manifest", "image i"},
		},
		"an image keeps a snapshot by label and with it the parents": {
			have: []string{
				"content m", "snapshot base", "snapshot top ^base", "snapshot odd",
				"image i @m containerd.io/gc.ref.snapshot.fake=top containerd.io/gc.ref.snapshot.none=odd",
			},
			want: []string{"content m", "snapshot base", "snapshot top", "image i"},
		},
		"a snapshot label may have a suffix": {
			have: []string{"content m", "snapshot s", "image i @m containerd.io/gc.ref.snapshot.fake/linux=s"},
			want: []string{"content m", "snapshot s", "image i"},
		},
		"an image keeps an image, expired or not": {
			have: []string{"content a", "content b", "image x @a " + past, "image y @b containerd.io/gc.ref.image.base=x"},
			want: []string{"content a", "content b", "image x", "image y"},
		},
		"an expired image goes with its content, one to come stays": {
			have: []string{"content a", "content b", "image x @a " + past, "image y @b " + future},
			want: []string{"content b", "image y"},
		},
		"an image with a broken time stays": {
			have: []string{"content a", "image x @a containerd.io/gc.expire=tomorrow"},
			want: []string{"content a", "image x"},
		},
		"roots": {
			have: []string{"content a containerd.io/gc.root=now", "snapshot base", "snapshot s ^base containerd.io/gc.root=now", "content c"},
			want: []string{"content a", "snapshot base", "snapshot s"},
		},
		"content and snapshots stay until they expire": {
			have: []string{"content a " + future, "content b " + past, "snapshot s " + future, "snapshot r " + past},
			want: []string{"content a", "snapshot s"},
		},
		"a container keeps its snapshot and what its labels name": {
			have: []string{
				"content a", "snapshot base", "snapshot s ^base", "snapshot other",
				"container c $s containerd.io/gc.ref.content=@a",
			},
			want: []string{"content a", "snapshot base", "snapshot s", "container c"},
		},
		"a lease keeps what it names and what that refers to": {
			have: []string{
				"content a", "content b containerd.io/gc.ref.content=@a", "snapshot base", "snapshot s ^base", "ingest r", "ingest q",
				"lease l +content:@b +snapshots/fake:s +ingests:r",
			},
			want: []string{"content a", "content b", "snapshot base", "snapshot s", "ingest r", "lease l"},
		},
		"a flat lease keeps what it names and parents only": {
			have: []string{
				"content a", "content b containerd.io/gc.ref.content=@a", "content c", "snapshot base",
				"snapshot s ^base containerd.io/gc.ref.content=@a",
				"image i @c containerd.io/gc.ref.content=@a " + past,
				"lease l containerd.io/gc.flat=1 +content:@b +snapshots/fake:s +images:i",
			},
			want: []string{"content b", "content c", "snapshot base", "snapshot s", "image i", "lease l"},
		},
		"an expired lease goes with what it held": {
			have: []string{"content a", "content b", "lease l " + past + " +content:@a", "lease m " + future + " +content:@b"},
			want: []string{"content b", "lease m"},
		},
		"a lease may name what is not there": {
			have: []string{"lease l +content:@a +images:none"},
			want: []string{"lease l"},
		},
		"back references": {
			have: []string{
				"content m", "image i @m", "snapshot s containerd.io/gc.root=1", "container c $none",
				"content a containerd.io/gc.bref.image=i", "content b containerd.io/gc.bref.content.x=@a",
				"content d containerd.io/gc.bref.container=c", "content e containerd.io/gc.bref.snapshot.fake=s",
				"content f containerd.io/gc.bref.image=none",
				"image j @f " + past + " containerd.io/gc.bref.image=i",
			},
			want: []string{"content m", "image i", "snapshot s", "container c", "content a", "content b", "content d", "content e", "content f", "image j"},
		},
		"cycles are garbage": {
			have: []string{"content a containerd.io/gc.ref.content=@b", "content b containerd.io/gc.ref.content=@a"},
		},
		"conditions": {
			have: []string{
				"content m", "image i @m containerd.io/gc.cond.snapshot.fake=usedat<2h|s containerd.io/gc.cond.snapshot.fake/x=usedat<10m|r",
				"snapshot s " + hourAgo, "snapshot r " + hourAgo,
			},
			want: []string{"content m", "image i", "snapshot s"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, never)
			ctx := inNS(t, "ns")
			for _, line := range tt.have {
				w.add(t, ctx, line)
			}
			if err := w.GC(ctx); err != nil {
				t.Fatal(err)
			}
			got := w.list(t, ctx)
			slices.Sort(tt.want)
			if !slices.Equal(got, tt.want) {
				t.Errorf("left:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(tt.want, "\n  "))
			}
			w.checkFiles(t)
		})
	}
}

func (w *world) add(t *testing.T, ctx context.Context, line string) {
	t.Helper()
	words := strings.Fields(line)
	kind, name := words[0], words[1]
	var (
		labels map[string]string
		refs   []string
		err    error
	)
	for _, word := range words[2:] {
		if k, v, ok := strings.Cut(word, "="); ok && word[0] != '+' {
			if labels == nil {
				labels = make(map[string]string)
			}
			labels[k] = expand(v)
			continue
		}
		refs = append(refs, word)
	}
	switch kind {
	case "content":
		write(t, ctx, w.Content(), name, labels)
	case "snapshot":
		parent := ""
		for _, r := range refs {
			parent = r[1:]
		}
		sn := w.Snapshotter("fake")
		if _, err = sn.Prepare(ctx, name+"-active", parent); err == nil {
			err = sn.Commit(ctx, name, name+"-active", snapshots.WithLabels(labels))
		}
	case "image":
		_, err = w.Images().Create(ctx, image(name, refs[0][1:], labels))
	case "container":
		_, err = w.Containers().Create(ctx, container(name, refs[0][1:], labels))
	case "lease":
		if _, err = w.Leases().Create(ctx, leases.WithID(name), leases.WithLabels(labels)); err != nil {
			break
		}
		for _, r := range refs {
			typ, id, _ := strings.Cut(r[1:], ":")
			err = w.Leases().AddResource(ctx, leases.Lease{ID: name}, leases.Resource{Type: typ, ID: expand(id)})
		}
	case "ingest":
		var cw content.Writer
		if cw, err = w.Content().Writer(ctx, content.WithRef(name)); err == nil {
			err = cw.Close()
		}
		// Without a lease it would expire tomorrow.
		if err == nil {
			err = w.update(ctx, func(t *tx) error {
				rec, err := loadIngest(t, "ns", name)
				rec.Expire = time.Now().Add(-time.Minute)
				if err != nil {
					return err
				}
				return store(t, bktIngests, join("ns", name), rec)
			})
		}
	default:
		t.Fatalf("unknown kind %q", kind)
	}
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
}

func expand(v string) string {
	if name, ok := strings.CutPrefix(v, "@"); ok {
		return digest.FromString(name).String()
	}
	return v
}

func image(name, target string, labels map[string]string) images.Image {
	return images.Image{Name: name, Labels: labels, Target: ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(target), Size: 1,
	}}
}

func container(id, snapshotKey string, labels map[string]string) containers.Container {
	return containers.Container{
		ID: id, Labels: labels, Runtime: containers.RuntimeInfo{Name: "runc"}, Snapshotter: "fake", SnapshotKey: snapshotKey,
		Spec: opaque{url: "spec", value: []byte("{}")},
	}
}

// list returns what the database holds, as the table writes it, without leased
// things.
func (w *world) list(t *testing.T, ctx context.Context) []string {
	t.Helper()
	names := make(map[digest.Digest]string)
	for c := 'a'; c <= 'z'; c++ {
		names[digest.FromString(string(c))] = string(c)
	}
	for _, n := range []string{"layer", "config", "other", "manifest"} {
		names[digest.FromString(n)] = n
	}
	var list []string
	err := w.Content().Walk(ctx, func(i content.Info) error {
		list = append(list, "content "+names[i.Digest])
		return nil
	})
	if err == nil {
		err = w.Snapshotter("fake").Walk(ctx, func(_ context.Context, i snapshots.Info) error {
			list = append(list, "snapshot "+i.Name)
			return nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	is, err := w.Images().List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range is {
		list = append(list, "image "+i.Name)
	}
	cs, err := w.Containers().List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cs {
		list = append(list, "container "+c.ID)
	}
	ls, err := w.Leases().List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range ls {
		list = append(list, "lease "+l.ID)
	}
	sts, err := w.Content().ListStatuses(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range sts {
		list = append(list, "ingest "+st.Ref)
	}
	slices.Sort(list)
	return list
}

// checkFiles reports files without a record and records without files.
func (w *world) checkFiles(t *testing.T) {
	t.Helper()
	blobs, ids := make(map[string]bool), make(map[uint64]bool)
	err := w.view(func(tx *tx) error {
		if err := scanRecords(tx, bktContent, nil, func(rest string, _ contentRecord) error {
			_, d, _ := strings.Cut(rest, sep)
			blobs[d] = true
			return nil
		}); err != nil {
			return err
		}
		return scanRecords(tx, bktSnapshots, nil, func(_ string, r snapshotRecord) error {
			ids[uint64(r.ID)] = true
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	gotBlobs, gotIDs := make(map[string]bool), make(map[uint64]bool)
	if err := w.blobs.Digests(t.Context(), func(d digest.Digest) error { gotBlobs[d.String()] = true; return nil }); err != nil {
		t.Fatal(err)
	}
	list, err := w.drivers["fake"].IDs()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range list {
		gotIDs[uint64(id)] = true
	}
	if !maps.Equal(gotBlobs, blobs) {
		t.Errorf("blobs on disk = %v, recorded %v", gotBlobs, blobs)
	}
	if !maps.Equal(gotIDs, ids) {
		t.Errorf("snapshot files = %v, recorded %v", gotIDs, ids)
	}
}

func TestCollectionKeepsOpenIngest(t *testing.T) {
	w := newWorld(t, never)
	ctx := inNS(t, "ns")
	w.add(t, ctx, "ingest r")
	cw, err := w.Content().Writer(ctx, content.WithRef("r"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cw.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	err = w.update(ctx, func(t *tx) error { // as if it were open for longer than ingests live
		return store(t, bktIngests, join("ns", "r"), ingestRecord{Ref: "ns/1/r", Expire: time.Now().Add(-time.Minute)})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.GC(ctx); err != nil {
		t.Fatal(err)
	}
	if err := cw.Commit(ctx, 1, ""); err != nil {
		t.Errorf("commit after a collection: %v", err)
	}
}

func TestBlobStaysWhileOneNamespaceHasIt(t *testing.T) {
	w := newWorld(t, never)
	a, b := inNS(t, "a"), inNS(t, "b")
	root := map[string]string{labelRoot: "1"}
	d := write(t, a, w.Content(), "x", root)
	write(t, b, w.Content(), "x", root)
	for _, step := range []struct {
		ctx   context.Context
		blobs int
	}{{a, 1}, {b, 0}} {
		if err := w.Content().Delete(step.ctx, d); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Content().Info(step.ctx, d); !errdefs.IsNotFound(err) {
			t.Errorf("Info after Delete = %v, want NotFound", err)
		}
		if err := w.GC(step.ctx); err != nil {
			t.Fatal(err)
		}
		n := 0
		if err := w.blobs.Digests(t.Context(), func(digest.Digest) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		if n != step.blobs {
			t.Errorf("%d blobs left, want %d", n, step.blobs)
		}
	}
}

func TestDeletionCollectsSoon(t *testing.T) {
	w := newWorld(t, time.Millisecond)
	ctx := leased(inNS(t, "ns"), w.DB)
	w.add(t, ctx, "snapshot s")
	w.add(t, ctx, "content m")
	w.add(t, ctx, "image i @m containerd.io/gc.ref.snapshot.fake=s")
	if err := w.Leases().Delete(ctx, leases.Lease{ID: "keep"}); err != nil {
		t.Fatal(err)
	}
	if err := w.Images().Delete(ctx, "i"); err != nil {
		t.Fatal(err)
	}
	for topic := range w.events.signal {
		if topic == "ns/snapshot/remove" {
			break
		}
	}
	if err := w.GC(ctx); err != nil { // waits for the collection that published
		t.Fatal(err)
	}
	w.checkFiles(t)
}

func TestExpiryCollectsByItself(t *testing.T) {
	w := newWorld(t, time.Millisecond)
	ctx := inNS(t, "ns")
	w.add(t, ctx, "content m containerd.io/gc.root=1")
	// RFC 3339 has seconds, so this is at most a second ahead.
	at := time.Now().Add(time.Second).UTC().Format(time.RFC3339)
	w.add(t, ctx, "image i @m containerd.io/gc.expire="+at)
	for topic := range w.events.signal {
		if topic == "ns/images/delete" {
			break
		}
	}
	if _, err := w.Images().Get(ctx, "i"); !errdefs.IsNotFound(err) {
		t.Errorf("Get of the expired image = %v, want NotFound", err)
	}
}

func TestSynchronousDelete(t *testing.T) {
	w := newWorld(t, never)
	ctx := leased(inNS(t, "ns"), w.DB)
	w.add(t, ctx, "content m")
	w.add(t, ctx, "image i @m")
	if err := w.Leases().Delete(ctx, leases.Lease{ID: "keep"}, leases.SynchronousDelete); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Content().Info(ctx, digest.FromString("m")); err != nil {
		t.Errorf("the image's content is gone with the lease: %v", err)
	}
	if err := w.Images().Delete(inNS(t, "ns"), "i", images.SynchronousDelete()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.blobs.Info(ctx, digest.FromString("m")); !errdefs.IsNotFound(err) {
		t.Errorf("blob after a synchronous deletion: %v, want NotFound", err)
	}
}

// TestCollectionBetweenFileAndRecord sweeps while a blob has its file and not yet
// its record.
func TestCollectionBetweenFileAndRecord(t *testing.T) {
	w := newWorld(t, never)
	ctx := inNS(t, "ns")
	d := digest.FromString("x")
	w.failpoint = func(point string) {
		if point != "blob committed" {
			return
		}
		w.gc.doomBlob(d)
		if err := w.GC(ctx); err != nil {
			t.Error(err)
		}
	}
	write(t, ctx, w.Content(), "x", map[string]string{labelRoot: "1"})
	w.checkFiles(t)
	if _, err := w.blobs.Info(ctx, d); err != nil {
		t.Errorf("the blob: %v", err)
	}
}

// TestWritersAndCollectionsRace has namespaces write and delete one blob while
// collections run: a record must never lose its bytes.
func TestWritersAndCollectionsRace(t *testing.T) {
	w := newWorld(t, never)
	stop := make(chan struct{})
	collected := make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				collected <- nil
				return
			default:
			}
			if err := w.GC(context.Background()); err != nil {
				collected <- err
				return
			}
		}
	}()
	writers := make(chan error)
	for _, ns := range []string{"a", "b", "c"} {
		go func() { writers <- writeAndDelete(inNS(t, ns), w, 40) }()
	}
	for range 3 {
		if err := <-writers; err != nil {
			t.Error(err)
		}
	}
	close(stop)
	if err := <-collected; err != nil {
		t.Error(err)
	}
	if err := w.GC(t.Context()); err != nil {
		t.Error(err)
	}
	w.checkFiles(t)
}

func writeAndDelete(ctx context.Context, w *world, rounds int) error {
	const data = "shared"
	d := digest.FromString(data)
	cs := w.Content()
	for range rounds {
		err := content.WriteBlob(ctx, cs, "ref", strings.NewReader(data), ocispec.Descriptor{Digest: d, Size: int64(len(data))},
			content.WithLabels(map[string]string{labelRoot: "1"}))
		if err != nil {
			return err
		}
		b, err := content.ReadBlob(ctx, cs, ocispec.Descriptor{Digest: d})
		if err != nil || string(b) != data {
			return err
		}
		if err := cs.Delete(ctx, d); err != nil {
			return err
		}
	}
	return nil
}
