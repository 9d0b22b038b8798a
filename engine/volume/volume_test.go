package volume

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	api "github.com/moby/moby/api/types/volume"
)

type recorder struct {
	mu      sync.Mutex
	actions []events.Action
}

func (r *recorder) Publish(_ events.Type, a events.Action, _ events.Actor) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.actions = append(r.actions, a)
}

var bg = context.Background()

func open(t *testing.T, root string) *Store {
	t.Helper()
	s, err := Open(root, &recorder{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCreateSurvivesRestart(t *testing.T) {
	root := filepath.Join(t.TempDir(), "volumes")
	s := open(t, root)
	v, err := s.Create(bg, api.CreateRequest{Name: "data", Labels: map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	if v.Mountpoint != filepath.Join(root, "data", "_data") || v.Driver != "local" || v.Scope != "local" {
		t.Errorf("volume = %+v", v)
	}
	if err := os.WriteFile(filepath.Join(v.Mountpoint, "f"), []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := s.Create(bg, api.CreateRequest{Name: "data"})
	if err != nil || again.Labels["a"] != "b" {
		t.Errorf("second Create() = %+v, %v", again, err)
	}
	// What a crash leaves: a volume on its way out, one half made.
	if err := os.MkdirAll(filepath.Join(root, ".removed-1", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "half"), 0o700); err != nil {
		t.Fatal(err)
	}
	s = open(t, root)
	got, err := s.Inspect(bg, "data")
	if err != nil || got.Labels["a"] != "b" || got.CreatedAt != v.CreatedAt {
		t.Errorf("after restart: %+v, %v", got, err)
	}
	if u, err := s.Usage(bg, "data"); err != nil || u.Size != blocks(t, v.Mountpoint)+blocks(t, filepath.Join(v.Mountpoint, "f")) || u.RefCount != 0 {
		t.Errorf("Usage() = %+v, %v", u, err)
	}
	if _, err := os.Stat(filepath.Join(root, ".removed-1")); err == nil {
		t.Error("the removed volume was not swept")
	}
	if list, err := s.List(bg, nil); err != nil || len(list.Volumes) != 1 {
		t.Errorf("List() = %+v, %v", list, err)
	}
}

func TestUseKeepsAVolume(t *testing.T) {
	s := open(t, t.TempDir())
	v, created, err := s.Acquire(bg, api.CreateRequest{}, "c1")
	if err != nil || !created {
		t.Fatal(v, created, err)
	}
	if _, ok := v.Labels[AnonymousLabel]; !ok || len(v.Name) != 64 {
		t.Errorf("anonymous volume = %+v", v)
	}
	if err := s.Remove(bg, v.Name, true); !errdefs.IsConflict(err) || err.Error() != "remove "+v.Name+": volume is in use - [c1]" {
		t.Errorf("Remove() in use = %v", err)
	}
	if r, err := s.Prune(bg, nil); err != nil || len(r.VolumesDeleted) != 0 {
		t.Errorf("Prune() in use = %+v, %v", r, err)
	}
	s.Release(v.Name, "c1")
	if _, err := s.Create(bg, api.CreateRequest{Name: "named"}); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Prune(bg, nil); err != nil || len(r.VolumesDeleted) != 1 || r.VolumesDeleted[0] != v.Name {
		t.Errorf("Prune() = %+v, %v", r, err)
	}
	if r, err := s.Prune(bg, map[string]map[string]bool{"all": {"true": true}}); err != nil || len(r.VolumesDeleted) != 1 {
		t.Errorf("Prune(all) = %+v, %v", r, err)
	}
	if err := s.Remove(bg, "named", false); !errdefs.IsNotFound(err) || err.Error() != "get named: no such volume" {
		t.Errorf("Remove() of none = %v", err)
	}
	if err := s.Remove(bg, "named", true); err != nil {
		t.Errorf("forced Remove() of none = %v", err)
	}
}

func TestCreateRefuses(t *testing.T) {
	s := open(t, t.TempDir())
	for _, req := range []api.CreateRequest{
		{Name: "a"}, {Name: "../x"}, {Name: "a/b"}, {Name: ".hidden"},
		{Name: "ok", DriverOpts: map[string]string{"bogus": "1"}},
	} {
		if _, err := s.Create(bg, req); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Create(%+v) = %v", req, err)
		}
	}
	if _, err := s.Create(bg, api.CreateRequest{Name: "ok", DriverOpts: map[string]string{"type": "nfs"}}); !errdefs.IsInvalidArgument(err) || err.Error() != `create ok: missing required option: "device"` {
		t.Errorf("mount options: %v", err)
	}
	if _, err := s.Create(bg, api.CreateRequest{Name: "ok", Driver: "nope"}); !errdefs.IsNotFound(err) {
		t.Errorf("unknown driver: %v", err)
	}
}

func TestListFilters(t *testing.T) {
	s := open(t, t.TempDir())
	for name, labels := range map[string]map[string]string{"one": {"a": "1"}, "two": {"a": "2"}} {
		if _, err := s.Create(bg, api.CreateRequest{Name: name, Labels: labels}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Retain("two", "c"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		key, value string
		want       []string
	}{
		{"name", "on", []string{"one"}},
		{"label", "a=2", []string{"two"}},
		{"label", "a", []string{"one", "two"}},
		{"dangling", "true", []string{"one"}},
		{"dangling", "0", []string{"two"}},
		{"driver", "local", []string{"one", "two"}},
		{"driver", "x", nil},
	} {
		list, err := s.List(bg, map[string]map[string]bool{tt.key: {tt.value: true}})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, v := range list.Volumes {
			got = append(got, v.Name)
		}
		if len(got) != len(tt.want) || len(got) > 0 && got[0] != tt.want[0] {
			t.Errorf("%s=%s: %v, want %v", tt.key, tt.value, got, tt.want)
		}
	}
	if _, err := s.List(bg, map[string]map[string]bool{"bogus": nil}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("unknown filter: %v", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	s := open(t, t.TempDir())
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				s.Acquire(bg, api.CreateRequest{Name: "shared"}, "c")
				s.Release("shared", "c")
				s.Remove(bg, "shared", true)
				s.List(bg, nil)
			}
		})
	}
	all.Wait()
}

// blocks is what a file takes on the disk, in bytes.
func blocks(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// What a process made that was killed before it could name a volume is no volume.
func TestOpenSweepsEmptyDirectory(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "half"), 0o701); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(root, nil, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
