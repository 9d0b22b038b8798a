package engine

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// A container runs with a volume of a plugin, which is asked to mount and unmount
// it.
func TestVolumePlugin(t *testing.T) {
	testenv.Need(t, testenv.Root)
	const dir = "/run/docker/plugins" // fixed by the protocol
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("lighter-volume-%d", os.Getpid())
	l, err := net.Listen("unix", filepath.Join(dir, name+".sock")) // closing it removes the file
	if err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	var mu sync.Mutex
	var calls []string
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method := strings.TrimPrefix(r.URL.Path, "/")
		if method == "Plugin.Activate" {
			w.Write([]byte(`{"Implements":["VolumeDriver"]}`))
			return
		}
		if method == "VolumeDriver.List" || method == "VolumeDriver.Get" {
			volume := map[string]any{"Name": "elsewhere", "Mountpoint": data, "Status": map[string]string{"state": "fine"}}
			var in struct{ Name string }
			if json.NewDecoder(r.Body).Decode(&in) == nil && in.Name != "" && in.Name != "elsewhere" {
				volume = nil
			}
			json.NewEncoder(w).Encode(map[string]any{"Volumes": []any{volume}, "Volume": volume})
			return
		}
		mu.Lock()
		calls = append(calls, strings.TrimPrefix(method, "VolumeDriver."))
		mu.Unlock()
		json.NewEncoder(w).Encode(map[string]string{"Mountpoint": data, "Err": ""})
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	d.OK("run", "--rm", "--volume-driver", name, "-v", "vol:/v", "busybox", "sh", "-c", "echo kept > /v/file")
	if got, err := os.ReadFile(data + "/file"); err != nil || string(got) != "kept\n" {
		t.Errorf("the plugin's directory holds %q, %v", got, err)
	}
	if got := d.OK("volume", "inspect", "--format", "{{.Driver}} {{.Mountpoint}}", "vol"); got != name+" "+data {
		t.Errorf("inspect shows %q", got)
	}
	d.OK("volume", "rm", "vol")
	if got := d.OK("volume", "ls", "--filter", "driver="+name, "--format", "{{.Name}}"); got != "elsewhere" {
		t.Errorf("volumes of the plugin: %q", got)
	}
	if got := d.OK("volume", "inspect", "--format", "{{.Driver}} {{.Status.state}}", "elsewhere"); got != name+" fine" {
		t.Errorf("inspect shows %q", got)
	}
	mu.Lock()
	defer mu.Unlock()
	// Once for what the image holds, once for the run.
	if got, want := strings.Join(calls, " "), "Create Path Mount Unmount Mount Unmount Remove"; got != want {
		t.Errorf("calls %q, want %q", got, want)
	}
	calls = nil
	mu.Unlock()
	if got := d.OK("run", "--rm", "-v", "elsewhere:/v", "busybox", "cat", "/v/file"); got != "kept" {
		t.Errorf("a volume made elsewhere holds %q", got)
	}
	if got := d.OK("info", "--format", "{{.Plugins.Volume}}"); got != "["+name+" local]" {
		t.Errorf("drivers %s", got)
	}
	mu.Lock()
	if slices.Contains(calls, "Create") || !slices.Contains(calls, "Mount") {
		t.Errorf("calls for a volume that is there: %q", calls)
	}
	if r := d.Docker("volume", "create", "-d", "nope", "x"); r.Code != 1 || !strings.Contains(r.Stderr, `error looking up volume plugin nope: plugin "nope" not found`) {
		t.Errorf("an unknown driver: %d, %q", r.Code, r.Stderr)
	}
}
