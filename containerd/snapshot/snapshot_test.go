package snapshot

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// overlayIn is an overlay driver without the probe, which needs root.
func overlayIn(t *testing.T, options ...string) *Overlay {
	t.Helper()
	d, err := openDirs(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return &Overlay{dirs: d, options: options}
}

func TestOverlayMounts(t *testing.T) {
	o := overlayIn(t, "index=off")
	path := func(id, sub string) string { return filepath.Join(o.root, id, sub) }
	bindOf := func(id, access string, options ...string) []mount.Mount {
		return []mount.Mount{{Type: "bind", Source: path(id, "fs"), Options: append(options, access, "rbind")}}
	}
	labels := map[string]string{snapshots.LabelSnapshotUIDMapping: "0:1000:10", snapshots.LabelSnapshotGIDMapping: "0:2000:10"}
	for name, tt := range map[string]struct {
		s     Snapshot
		remap bool
		want  []mount.Mount
	}{
		"active, empty":          {s: Snapshot{ID: 1, Kind: snapshots.KindActive}, want: bindOf("1", "rw")},
		"view, empty":            {s: Snapshot{ID: 1, Kind: snapshots.KindView}, want: bindOf("1", "ro")},
		"view of one layer":      {s: Snapshot{ID: 2, Kind: snapshots.KindView, Parents: []ID{1}}, want: bindOf("1", "ro")},
		"remapped":               {s: Snapshot{ID: 1, Kind: snapshots.KindActive, Labels: labels}, remap: true, want: bindOf("1", "rw", "uidmap=0:1000:10", "gidmap=0:2000:10")},
		"remapped, not asked to": {s: Snapshot{ID: 1, Kind: snapshots.KindActive, Labels: labels}, want: bindOf("1", "rw")},
		"active on layers": {s: Snapshot{ID: 3, Kind: snapshots.KindActive, Parents: []ID{2, 1}}, want: []mount.Mount{{
			Type: "overlay", Source: "overlay", Options: []string{
				"workdir=" + path("3", "work"), "upperdir=" + path("3", "fs"),
				"lowerdir=" + path("2", "fs") + ":" + path("1", "fs"), "index=off",
			},
		}}},
		"view of layers": {s: Snapshot{ID: 3, Kind: snapshots.KindView, Parents: []ID{2, 1}}, want: []mount.Mount{{
			Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + path("2", "fs") + ":" + path("1", "fs"), "index=off"},
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			o := *o
			o.remap = tt.remap
			if got := o.Mounts(tt.s); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Mounts = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestDriverLifecycle(t *testing.T) {
	native, err := OpenNative(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer native.Close()
	for name, d := range map[string]Driver{"overlay": overlayIn(t), "native": native} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			if err := d.Create(ctx, Snapshot{ID: 7, Kind: snapshots.KindActive}); err != nil {
				t.Fatal(err)
			}
			if err := d.Create(ctx, Snapshot{ID: 7, Kind: snapshots.KindActive}); !errdefs.IsAlreadyExists(err) {
				t.Errorf("second Create = %v, want AlreadyExists", err)
			}
			root := d.Mounts(Snapshot{ID: 7, Kind: snapshots.KindActive})[0].Source
			if err := os.WriteFile(filepath.Join(root, "f"), make([]byte, 10000), 0o600); err != nil {
				t.Fatal(err)
			}
			if u, err := d.Usage(ctx, 7); err != nil || u.Inodes != 2 || u.Size < 10000 {
				t.Errorf("Usage = %+v, %v, want 2 inodes and 10000 bytes or more", u, err)
			}
			if err := d.Create(ctx, Snapshot{ID: 8, Kind: snapshots.KindActive, Parents: []ID{7}}); err != nil {
				t.Fatal(err)
			}
			// A parent whose files are gone leaves nothing behind.
			if err := d.Create(ctx, Snapshot{ID: 9, Kind: snapshots.KindActive, Parents: []ID{5}}); err == nil {
				t.Error("Create without the parent's files succeeded")
			}
			ids, err := d.IDs()
			slices.Sort(ids)
			if want := []ID{7, 8}; err != nil || !slices.Equal(ids, want) {
				t.Errorf("IDs = %v, %v, want %v", ids, err, want)
			}
			if err := d.Sync(ctx); err != nil {
				t.Error(err)
			}
			for _, id := range []ID{7, 8, 7} { // also one that is not there
				if err := d.Remove(ctx, id); err != nil {
					t.Error(err)
				}
			}
			if ids, err := d.IDs(); err != nil || len(ids) != 0 {
				t.Errorf("IDs after Remove = %v, %v", ids, err)
			}
		})
	}
}

func TestNativeCopiesParent(t *testing.T) {
	n, err := OpenNative(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.Create(t.Context(), Snapshot{ID: 1, Kind: snapshots.KindActive}); err != nil {
		t.Fatal(err)
	}
	// A link out of the tree is copied, not followed.
	if err := os.Symlink("/etc/passwd", filepath.Join(n.path(1), "link")); err != nil {
		t.Fatal(err)
	}
	if err := n.Create(t.Context(), Snapshot{ID: 2, Kind: snapshots.KindActive, Parents: []ID{1}}); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(filepath.Join(n.path(2), "link")); err != nil || to != "/etc/passwd" {
		t.Errorf("the copy's link = %q, %v", to, err)
	}
}

func TestMappedRoot(t *testing.T) {
	for _, tt := range []struct {
		uids, gids string
		uid, gid   int
		ok         bool
	}{
		{"0:1000:65536", "0:2000:65536", 1000, 2000, true},
		{"1:1:5,0:7:1", "0:8:1", 7, 8, true},
		{"", "0:8:1", 0, 0, false},
		{"1:1:5", "0:8:1", 0, 0, false},
		{"0:1000", "0:8:1", 0, 0, false},
		{"0:-1:1", "0:8:1", 0, 0, false},
		{"0:9999999999:1", "0:8:1", 0, 0, false},
	} {
		labels := map[string]string{snapshots.LabelSnapshotUIDMapping: tt.uids, snapshots.LabelSnapshotGIDMapping: tt.gids}
		uid, gid, ok, err := mappedRoot(labels)
		if ok != tt.ok || tt.ok && (uid != tt.uid || gid != tt.gid) || !ok && !errdefs.IsInvalidArgument(err) {
			t.Errorf("mappedRoot(%q, %q) = %d, %d, %v, %v", tt.uids, tt.gids, uid, gid, ok, err)
		}
	}
	if _, _, ok, err := mappedRoot(nil); ok || err != nil {
		t.Errorf("mappedRoot(nil) = %v, %v, want nothing", ok, err)
	}
}

// TestSyncIsShared has callers come while a sync runs: they share the next one.
func TestSyncIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, goOn := make(chan struct{}), make(chan error)
		s := &syncer{syncFS: func() error { began <- struct{}{}; return <-goOn }}
		results := make(chan error)
		call := func() { results <- s.Sync(t.Context()) }
		go call()
		<-began
		for range 3 {
			go call()
		}
		synctest.Wait() // all three wait
		goOn <- nil
		if err := <-results; err != nil {
			t.Errorf("first Sync = %v", err)
		}
		<-began
		goOn <- os.ErrInvalid
		for range 3 {
			if err := <-results; err != os.ErrInvalid {
				t.Errorf("shared Sync = %v, want its error", err)
			}
		}
		// Nobody waits: no further sync ran. The next caller gets one of its own.
		go call()
		<-began
		goOn <- nil
		if err := <-results; err != nil {
			t.Errorf("last Sync = %v", err)
		}
	})
}

func TestSyncCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan error)
		s := &syncer{syncFS: func() error { return <-goOn }}
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error)
		go func() { result <- s.Sync(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-result; err != context.Canceled {
			t.Errorf("Sync = %v, want Canceled", err)
		}
		goOn <- nil
	})
}

func TestProbeOverlay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making an overlay needs root")
	}
	root := t.TempDir()
	// What a probe left that was killed goes too.
	if err := os.MkdirAll(filepath.Join(root, ".probe", "lower"), 0o700); err != nil {
		t.Fatal(err)
	}
	o, err := OpenOverlay(root, OverlayOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for _, option := range o.options {
		if key, _, _ := strings.Cut(option, "="); !slices.Contains([]string{"index", "metacopy", "redirect_dir", "userxattr"}, key) {
			t.Errorf("unexpected option %q", option)
		}
	}
	entries, err := os.ReadDir(root)
	if err != nil || len(entries) != 1 {
		t.Errorf("the probe left %v, %v", entries, err)
	}
	if err := tryOverlay(root, []string{"nonsense=1"}); err == nil {
		t.Error("the probe accepts any option")
	}
	// procfs cannot hold an upper directory.
	if _, err := OpenOverlay("/proc/self/nothing", OverlayOptions{}); err == nil {
		t.Error("OpenOverlay succeeded on procfs")
	}
}
