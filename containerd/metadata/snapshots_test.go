package metadata

import (
	"context"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"lighter/containerd/snapshot"
)

func (w *world) marks(t *testing.T) []string {
	t.Helper()
	var names []string
	err := w.view(func(t *tx) error { return t.deferred("fake", func(m mark) { names = append(names, m.name) }) })
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// layers unpacks n layers on one another, syncing later.
func layers(t *testing.T, ctx context.Context, sn snapshots.Snapshotter, names ...string) {
	t.Helper()
	parent := ""
	for _, name := range names {
		if _, err := sn.Prepare(ctx, name+"-active", parent, snapshot.Deferred(sn)...); err != nil {
			t.Fatal(err)
		}
		if err := sn.Commit(ctx, name, name+"-active", snapshot.Deferred(sn)...); err != nil {
			t.Fatal(err)
		}
		parent = name
	}
}

func TestOneSyncForManyLayers(t *testing.T) {
	w := newWorld(t, never)
	ctx := inNS(t, "ns")
	sn := w.Snapshotter("fake")
	layers(t, ctx, sn, "1", "2", "3")
	if _, syncs := w.driver.count(); syncs != 0 {
		t.Errorf("%d syncs before Sync, want 0", syncs)
	}
	if got, want := w.marks(t), []string{"1", "2", "3"}; !slices.Equal(got, want) {
		t.Errorf("marks = %v, want %v", got, want)
	}
	if err := snapshot.Sync(ctx, sn); err != nil {
		t.Fatal(err)
	}
	if _, syncs := w.driver.count(); syncs != 1 || len(w.marks(t)) != 0 {
		t.Errorf("%d syncs, marks %v, want 1 and none", syncs, w.marks(t))
	}
	info, err := sn.Stat(ctx, "3")
	if err != nil || len(info.Labels) != 0 {
		t.Errorf("labels = %v, %v, want none: the option is not stored", info.Labels, err)
	}
}

func TestNothingStandsOnUnsyncedSnapshot(t *testing.T) {
	for name, use := range map[string]func(ctx context.Context, sn snapshots.Snapshotter) error{
		"prepare": func(ctx context.Context, sn snapshots.Snapshotter) error {
			_, err := sn.Prepare(ctx, "c", "1")
			return err
		},
		"view": func(ctx context.Context, sn snapshots.Snapshotter) error {
			_, err := sn.View(ctx, "c", "1")
			return err
		},
		"commit of a deferred one": func(ctx context.Context, sn snapshots.Snapshotter) error {
			if _, err := sn.Prepare(ctx, "c", "1", snapshot.Deferred(sn)...); err != nil {
				return err
			}
			return sn.Commit(ctx, "2", "c")
		},
		"rebase": func(ctx context.Context, sn snapshots.Snapshotter) error {
			if _, err := sn.Prepare(ctx, "c", "", snapshot.Deferred(sn)...); err != nil {
				return err
			}
			return sn.Commit(ctx, "2", "c", snapshots.WithParent("1"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, never)
			ctx := inNS(t, "ns")
			sn := w.Snapshotter("fake")
			layers(t, ctx, sn, "1")
			if err := use(ctx, sn); err != nil {
				t.Fatal(err)
			}
			if _, syncs := w.driver.count(); syncs == 0 || len(w.marks(t)) != 0 {
				t.Errorf("%d syncs, marks %v, want some and none", syncs, w.marks(t))
			}
		})
	}
}

func TestCommitSyncsBeforeItRecords(t *testing.T) {
	w := newWorld(t, never)
	ctx := inNS(t, "ns")
	sn := w.Snapshotter("fake")
	if _, err := sn.Prepare(ctx, "a", ""); err != nil {
		t.Fatal(err)
	}
	synced := false
	w.failpoint = func(point string) {
		if point == "snapshot synced" {
			_, n := w.driver.count()
			_, err := sn.Stat(ctx, "s")
			synced = n == 1 && errdefs.IsNotFound(err)
		}
	}
	if err := sn.Commit(ctx, "s", "a"); err != nil {
		t.Fatal(err)
	}
	if !synced {
		t.Error("the record came before the sync")
	}
}

// TestSyncClearsOnlyWhatItCovered replaces a snapshot while a sync runs.
func TestSyncClearsOnlyWhatItCovered(t *testing.T) {
	w := newWorld(t, never)
	ctx := inNS(t, "ns")
	sn := w.Snapshotter("fake")
	layers(t, ctx, sn, "1")
	w.failpoint = func(point string) {
		if point != "driver synced" {
			return
		}
		if err := sn.Remove(ctx, "1"); err != nil {
			t.Error(err)
		}
		layers(t, ctx, sn, "1", "2")
	}
	if err := snapshot.Sync(ctx, sn); err != nil {
		t.Fatal(err)
	}
	if got, want := w.marks(t), []string{"1", "2"}; !slices.Equal(got, want) {
		t.Errorf("marks = %v, want %v: their files came after the sync", got, want)
	}
}

func TestRestartAfterKillSyncsMarked(t *testing.T) {
	w := newWorld(t, never)
	ctx := inNS(t, "ns")
	layers(t, ctx, w.Snapshotter("fake"), "1", "2")
	w.reopen(t)
	if _, syncs := w.driver.count(); syncs != 1 || len(w.marks(t)) != 0 {
		t.Errorf("%d syncs, marks %v, want 1 and none", syncs, w.marks(t))
	}
	if _, err := w.Snapshotter("fake").Stat(ctx, "2"); err != nil {
		t.Errorf("snapshot after a restart: %v", err)
	}
}

func TestRestartAfterPowerCutDropsMarked(t *testing.T) {
	w := newWorld(t, never)
	ctx := inNS(t, "ns")
	sn := w.Snapshotter("fake")
	w.add(t, ctx, "snapshot old containerd.io/gc.root=1")
	w.boot = "an earlier boot"
	layers(t, ctx, sn, "1", "2")
	if _, err := sn.Prepare(ctx, "extracting", "2", snapshot.Deferred(sn)...); err != nil {
		t.Fatal(err)
	}
	w.reopen(t)
	for _, name := range []string{"1", "2", "extracting"} {
		if _, err := w.Snapshotter("fake").Stat(ctx, name); !errdefs.IsNotFound(err) {
			t.Errorf("Stat(%q) = %v, want NotFound", name, err)
		}
	}
	if err := w.GC(ctx); err != nil {
		t.Fatal(err)
	}
	if got := w.list(t, ctx); !slices.Equal(got, []string{"snapshot old"}) {
		t.Errorf("left: %v", got)
	}
	w.checkFiles(t)
}

func TestRestartRepairsFiles(t *testing.T) {
	w := newWorld(t, never)
	ctx := inNS(t, "ns")
	sn := w.Snapshotter("fake")
	root := " containerd.io/gc.root=1"
	w.add(t, ctx, "snapshot whole"+root)
	w.add(t, ctx, "snapshot lost ^whole"+root)
	w.add(t, ctx, "snapshot above ^lost"+root)
	keep := snapshots.WithLabels(map[string]string{labelRoot: "1"})
	for _, key := range []string{"active", "empty"} {
		parent := map[string]string{"active": "above", "empty": "whole"}[key]
		if _, err := sn.Prepare(ctx, key, parent, keep); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := sn.View(ctx, "view", "lost", keep); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lost", "empty"} {
		w.removeFiles(t, name)
	}
	w.driver.files[99] = true // without a record
	w.reopen(t)
	if err := w.GC(ctx); err != nil {
		t.Fatal(err)
	}
	if got, want := w.list(t, ctx), []string{"snapshot active", "snapshot empty", "snapshot whole"}; !slices.Equal(got, want) {
		t.Errorf("left: %v, want %v", got, want)
	}
	w.checkFiles(t)
	sn = w.Snapshotter("fake")
	if _, err := sn.Mounts(ctx, "empty"); err != nil {
		t.Errorf("Mounts of the snapshot made again: %v", err)
	}
	if _, err := sn.Mounts(ctx, "active"); !errdefs.IsNotFound(err) {
		t.Errorf("Mounts without the parent = %v, want NotFound", err)
	}
	// Unpacking the image again repairs it.
	w.add(t, ctx, "snapshot lost ^whole"+root)
	w.add(t, ctx, "snapshot above ^lost"+root)
	if _, err := sn.Mounts(ctx, "active"); err != nil {
		t.Errorf("Mounts with the parent unpacked again: %v", err)
	}
}

func (w *world) removeFiles(t *testing.T, name string) {
	t.Helper()
	err := w.view(func(t *tx) error {
		rec, _, err := load[snapshotRecord](t, bktSnapshots, join("ns", "fake", name))
		delete(w.driver.files, rec.ID)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestIDsAreNotReused(t *testing.T) {
	w := newWorld(t, never)
	ctx := inNS(t, "ns")
	w.driver.files[41] = true // left by a crash, and not swept yet
	w.reopen(t)
	mounts, err := w.Snapshotter("fake").Prepare(ctx, "a", "")
	if err != nil {
		t.Fatal(err)
	}
	if want := "42 []"; mounts[0].Source != want {
		t.Errorf("ID and parents = %s, want %s", mounts[0].Source, want)
	}
}

func TestCommitWithParent(t *testing.T) {
	w := newWorld(t, never)
	ctx := inNS(t, "ns")
	sn := w.Snapshotter("fake")
	w.add(t, ctx, "snapshot p")
	for _, tt := range []struct {
		name, prepared, rebased string
		class                   func(error) bool
	}{
		{"takes the parent", "", "p", nil},
		{"keeps the same", "p", "p", nil},
		{"refuses another", "p", "q", errdefs.IsInvalidArgument},
		{"refuses a missing one", "", "q", errdefs.IsNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := sn.Prepare(ctx, tt.name, tt.prepared); err != nil {
				t.Fatal(err)
			}
			err := sn.Commit(ctx, "done "+tt.name, tt.name, snapshots.WithParent(tt.rebased))
			if tt.class != nil {
				if !tt.class(err) {
					t.Errorf("Commit = %v", err)
				}
				if info, err := sn.Stat(ctx, tt.name); err != nil || info.Kind != snapshots.KindActive {
					t.Errorf("the active snapshot after a failed commit: %v, %v", info, err)
				}
				return
			}
			if info, statErr := sn.Stat(ctx, "done "+tt.name); err != nil || statErr != nil || info.Parent != "p" {
				t.Errorf("committed = %+v, %v, %v, want parent p", info, err, statErr)
			}
			if err := sn.Remove(ctx, "p"); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("Remove of a parent = %v, want FailedPrecondition", err)
			}
		})
	}
}
