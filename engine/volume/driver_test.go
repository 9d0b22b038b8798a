package volume

import (
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	api "github.com/moby/moby/api/types/volume"

	"lighter/engine/plugin"
)

// fakePlugin serves the volume protocol and notes the calls.
type fakePlugin struct {
	mu    sync.Mutex
	calls []string
	fail  string // method that answers with an error
	dir   string
	have  []remoteVolume // made elsewhere
}

func (f *fakePlugin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	method := r.URL.Path[1:]
	if method == "Plugin.Activate" {
		w.Write([]byte(`{"Implements":["VolumeDriver"]}`))
		return
	}
	var in struct{ Name, ID string }
	json.NewDecoder(r.Body).Decode(&in)
	out := map[string]any{"Err": "", "Mountpoint": f.dir}
	switch method {
	case "VolumeDriver." + f.fail:
		out = map[string]any{"Err": "no luck"}
	case "VolumeDriver.List":
		out["Volumes"] = f.have
	case "VolumeDriver.Get":
		if i := slices.IndexFunc(f.have, func(v remoteVolume) bool { return v.Name == in.Name }); i >= 0 {
			out["Volume"] = f.have[i]
		}
	}
	if method != "VolumeDriver.List" && method != "VolumeDriver.Get" {
		f.calls = append(f.calls, method+" "+in.Name+" "+in.ID)
	}
	json.NewEncoder(w).Encode(out)
}

func (f *fakePlugin) set(fail string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

func TestPluginVolumes(t *testing.T) {
	dir := t.TempDir()
	f := &fakePlugin{dir: t.TempDir()}
	l, err := net.Listen("unix", filepath.Join(dir, "fake.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: f}
	go srv.Serve(l)
	defer srv.Close()
	root := t.TempDir()
	s := open(t, root)
	s.plugins = plugin.Dirs{Sockets: dir}

	f.set("Create")
	if _, err := s.Create(bg, api.CreateRequest{Name: "vol", Driver: "fake"}); err == nil || err.Error() != `create volume "vol": VolumeDriver.Create: no luck` {
		t.Errorf("a create that fails: %v", err)
	}
	if list, _ := s.List(bg, nil); len(list.Volumes) != 0 {
		t.Errorf("it leaves %v", list.Volumes)
	}
	f.set("")
	v, err := s.Create(bg, api.CreateRequest{Name: "vol", Driver: "fake", DriverOpts: map[string]string{"any": "thing"}})
	if err != nil || v.Driver != "fake" || v.Mountpoint != f.dir {
		t.Fatalf("created %+v, %v", v, err)
	}
	s = open(t, root) // over a restart
	s.plugins = plugin.Dirs{Sockets: dir}
	if list, _ := s.List(bg, map[string]map[string]bool{"driver": {"fake": true}}); len(list.Volumes) != 1 {
		t.Errorf("volumes of the driver: %v", list.Volumes)
	}
	if path, err := s.Mount(bg, "vol", "c1"); err != nil || path != f.dir {
		t.Errorf("mounted %q, %v", path, err)
	}
	for range 2 { // the second has nothing to take back
		if err := s.Unmount("vol", "c1"); err != nil {
			t.Error(err)
		}
	}
	f.set("Mount")
	if _, err := s.Mount(bg, "vol", "c2"); err == nil || err.Error() != "error while mounting volume '"+f.dir+"': VolumeDriver.Mount: no luck" {
		t.Errorf("a mount that fails: %v", err)
	}
	f.set("Remove")
	if err := s.Remove(bg, "vol", false); err == nil {
		t.Error("a remove that fails succeeds")
	}
	f.set("")
	if err := s.Rename(bg, "vol", "other"); !errdefs.IsNotImplemented(err) {
		t.Errorf("rename: %v", err)
	}
	if err := s.Remove(bg, "vol", false); err != nil {
		t.Error(err)
	}
	want := []string{
		"VolumeDriver.Create vol ", "VolumeDriver.Create vol ", "VolumeDriver.Path vol ", "VolumeDriver.Mount vol c1", "VolumeDriver.Unmount vol c1",
		"VolumeDriver.Mount vol c2", "VolumeDriver.Remove vol ", "VolumeDriver.Remove vol ",
	}
	if !slices.Equal(f.calls, want) {
		t.Errorf("calls %q, want %q", f.calls, want)
	}
	if _, err := s.Create(bg, api.CreateRequest{Name: "vol", Driver: "none"}); !errdefs.IsNotFound(err) || err.Error() != `error looking up volume plugin none: plugin "none" not found` {
		t.Errorf("an unknown driver: %v", err)
	}
}

// TestVolumesElsewhere: volumes that a plugin has without the engine are listed and
// shown with their status, used without being made, and removed.
func TestVolumesElsewhere(t *testing.T) {
	dir := t.TempDir()
	f := &fakePlugin{dir: t.TempDir(), have: []remoteVolume{
		{Name: "theirs", Mountpoint: "/there", CreatedAt: "2020-01-02T03:04:05Z", Status: map[string]any{"size": "1G"}},
		{Name: "both"}, {Name: "../escape"},
	}}
	l, err := net.Listen("unix", filepath.Join(dir, "fake.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: f}
	go srv.Serve(l)
	defer srv.Close()
	s := open(t, t.TempDir())
	if _, err := s.Create(bg, api.CreateRequest{Name: "both", Labels: map[string]string{"a": "b"}}); err != nil {
		t.Fatal(err)
	}
	s.plugins = plugin.Dirs{Sockets: dir}
	list, err := s.List(bg, nil)
	if err != nil || len(list.Volumes) != 2 || list.Volumes[0].Driver != "local" || list.Volumes[1].Name != "theirs" || list.Volumes[1].Driver != "fake" {
		t.Fatalf("list %+v, %v", list, err)
	}
	for name, filter := range map[string]map[string]map[string]bool{
		"label":    {"label": {"x": true}},
		"driver":   {"driver": {"other": true}},
		"name":     {"name": {"nothing": true}},
		"in use":   {"dangling": {"false": true}},
		"in use 0": {"dangling": {"0": true}, "driver": {"fake": true}},
	} {
		if list, err := s.List(bg, filter); err != nil || len(list.Volumes) != 0 {
			t.Errorf("%s: %+v, %v", name, list.Volumes, err)
		}
	}
	if v, err := s.Inspect(bg, "theirs"); err != nil || v.Mountpoint != "/there" || v.Status["size"] != "1G" || v.CreatedAt != "2020-01-02T03:04:05Z" {
		t.Errorf("inspect %+v, %v", v, err)
	}
	if _, err := s.Inspect(bg, "nobodys"); !errdefs.IsNotFound(err) {
		t.Errorf("an unknown one: %v", err)
	}
	if u, err := s.Usages(bg); err != nil || len(u) != 2 || u[1].UsageData.Size != -1 {
		t.Errorf("usage %+v, %v", u, err)
	}
	if v, created, err := s.Acquire(bg, api.CreateRequest{Name: "theirs"}, "c1"); err != nil || created || v.Driver != "fake" {
		t.Fatalf("acquired %+v, %v, %v", v, created, err)
	}
	if path, err := s.Mount(bg, "theirs", "c1"); err != nil || path != f.dir {
		t.Errorf("mounted %q, %v", path, err)
	}
	if err := s.Unmount("theirs", "c1"); err != nil {
		t.Error(err)
	}
	if v, err := s.Inspect(bg, "theirs"); err != nil || v.Status["size"] != "1G" || v.CreatedAt != "2020-01-02T03:04:05Z" {
		t.Errorf("taken over, it is %+v, %v", v, err)
	}
	if got := s.Drivers(); !slices.Equal(got, []string{"fake", "local"}) {
		t.Errorf("drivers %q", got)
	}
	s.Release("theirs", "c1")
	if err := s.Remove(bg, "theirs", false); err != nil {
		t.Error(err)
	}
	if want := []string{"VolumeDriver.Mount theirs c1", "VolumeDriver.Unmount theirs c1", "VolumeDriver.Remove theirs "}; !slices.Equal(f.calls, want) {
		t.Errorf("calls %q, want %q", f.calls, want)
	}
	f.set("List")
	if list, err := s.List(bg, nil); err != nil || len(list.Volumes) != 1 || len(list.Warnings) != 1 {
		t.Errorf("a plugin that fails: %+v, %v", list, err)
	}
}
