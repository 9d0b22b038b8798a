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
	f.calls = append(f.calls, method+" "+in.Name+" "+in.ID)
	out := map[string]string{"Err": "", "Mountpoint": f.dir}
	if method == "VolumeDriver."+f.fail {
		out = map[string]string{"Err": "no luck"}
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
