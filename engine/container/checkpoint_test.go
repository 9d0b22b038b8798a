package container

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/checkpoint"
	api "github.com/moby/moby/api/types/container"
)

func TestCheckpoints(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	id := w.create(m, "cc", "sleep")
	w.createWith(m, "tty", func(c *api.Config, _ *api.HostConfig) { c.Tty = true }, "sleep")
	if list, err := m.Checkpoints(bg, "cc", ""); err != nil || list == nil || len(list) != 0 {
		t.Errorf("of a fresh container: %v, %v", list, err)
	}
	// One checkpoint, a directory that is none, and a link to one.
	outside := filepath.Join(t.TempDir(), "outside")
	own := filepath.Join(m.dir(id), "checkpoints")
	for _, dir := range []string{outside, filepath.Join(own, "one"), filepath.Join(own, "empty")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(outside, "config.json"), "{}")
	write(t, filepath.Join(own, "one/config.json"), "{}")
	if err := os.Symlink(outside, filepath.Join(own, "link")); err != nil {
		t.Fatal(err)
	}
	if list, err := m.Checkpoints(bg, "cc", ""); err != nil || len(list) != 1 || list[0].Name != "one" {
		t.Errorf("checkpoints %v, %v", list, err)
	}
	if list, err := m.Checkpoints(bg, "cc", filepath.Dir(outside)); err != nil || len(list) != 1 || list[0].Name != "outside" {
		t.Errorf("checkpoints of a directory: %v, %v", list, err)
	}
	if _, err := m.Checkpoints(bg, "cc", "relative"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("of a relative directory: %v", err)
	}

	if err := m.CreateCheckpoint(bg, "cc", checkpoint.CreateRequest{CheckpointID: "two"}); !errdefs.IsConflict(err) {
		t.Errorf("of one that does not run: %v", err)
	}
	w.start(m, "cc")
	w.start(m, "tty")
	for _, c := range []struct {
		ref, id string
		is      func(error) bool
	}{
		{"tty", "two", errdefs.IsInvalidArgument},
		{"cc", "../two", errdefs.IsInvalidArgument},
		{"cc", "one", errdefs.IsConflict},
		{"cc", "two", errdefs.IsNotImplemented},
		{"unknown", "two", errdefs.IsNotFound},
	} {
		if err := m.CreateCheckpoint(bg, c.ref, checkpoint.CreateRequest{CheckpointID: c.id}); !c.is(err) {
			t.Errorf("create %s of %s: %v", c.id, c.ref, err)
		}
	}
	if err := m.StartFromCheckpoint(bg, "cc", "one", ""); !errdefs.IsConflict(err) {
		t.Errorf("restore one that runs: %v", err)
	}

	for _, id := range []string{"link", "empty", "..", "../..", "", "none"} {
		if err := m.RemoveCheckpoint(bg, "cc", id, ""); !errdefs.IsNotFound(err) {
			t.Errorf("remove %q: %v", id, err)
		}
	}
	if err := m.RemoveCheckpoint(bg, "cc", "one", ""); err != nil {
		t.Error(err)
	}
	if list, err := m.Checkpoints(bg, "cc", ""); err != nil || len(list) != 0 {
		t.Errorf("after the removal: %v, %v", list, err)
	}
}
