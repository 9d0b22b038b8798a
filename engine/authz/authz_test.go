package authz

import (
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"lighter/engine/plugin"
)

// serve starts a plugin that answers each method with the text.
func serve(t *testing.T, dir, name string, answers map[string]string) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, name+".sock"))
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := answers[r.URL.Path[1:]]
		switch {
		case !ok:
			w.WriteHeader(http.StatusNotFound)
		case text == "hang":
			select {
			case <-release:
			case <-r.Context().Done():
			}
		case text == "endless":
			for {
				if _, err := io.WriteString(w, strings.Repeat("x", 1<<20)); err != nil {
					return
				}
			}
		default:
			io.WriteString(w, text)
		}
	})}
	go srv.Serve(l)
	t.Cleanup(func() { close(release); srv.Close() })
}

// A plugin that says no, hangs, lies or goes away denies.
func TestChainFailsClosed(t *testing.T) {
	const activate = `{"Implements":["authz"]}`
	for name, tc := range map[string]struct {
		answers map[string]string
		denied  bool // rather than failed
		want    string
	}{
		"yes":     {map[string]string{"AuthZPlugin.AuthZReq": `{"Allow":true}`}, false, ""},
		"no":      {map[string]string{"AuthZPlugin.AuthZReq": `{"Allow":false,"Msg":"not you"}`}, true, "authorization denied by plugin no: not you"},
		"error":   {map[string]string{"AuthZPlugin.AuthZReq": `{"Allow":true,"Err":"broken"}`}, false, "plugin error failed with error: broken"},
		"empty":   {map[string]string{"AuthZPlugin.AuthZReq": ``}, false, "plugin empty failed with error: AuthZPlugin.AuthZReq: decode"},
		"list":    {map[string]string{"AuthZPlugin.AuthZReq": `[]`}, false, "plugin list failed with error"},
		"nothing": {map[string]string{"AuthZPlugin.AuthZReq": `{}`}, true, "authorization denied by plugin nothing: "},
		"absent":  {map[string]string{}, false, "plugin absent failed with error: AuthZPlugin.AuthZReq: plugin absent answered with status 404 Not Found"},
		"hanging": {map[string]string{"AuthZPlugin.AuthZReq": "hang"}, false, "plugin hanging failed with error: AuthZPlugin.AuthZReq: plugin hanging did not answer"},
		"endless": {map[string]string{"AuthZPlugin.AuthZReq": "endless"}, false, "answered more than"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			tc.answers["Plugin.Activate"] = activate
			serve(t, dir, name, tc.answers)
			timeout := 10 * time.Second
			if name == "hanging" {
				timeout = 50 * time.Millisecond
			}
			c := NewChain(plugin.Dirs{Sockets: dir}, timeout)
			if c.Snapshot() != nil {
				t.Error("an empty chain asks")
			}
			if err := c.Set(t.Context(), []string{name, name}); err != nil {
				t.Fatal(err)
			}
			err := c.Snapshot().Before(t.Context(), &Request{})
			if tc.want == "" {
				if err != nil {
					t.Errorf("Before() = %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) || errdefs.IsPermissionDenied(err) != tc.denied {
				t.Errorf("Before() = %v, want %q", err, tc.want)
			}
		})
	}
}

func TestChainRefusesPlugins(t *testing.T) {
	dir := t.TempDir()
	serve(t, dir, "volumes", map[string]string{"Plugin.Activate": `{"Implements":["VolumeDriver"]}`})
	c := NewChain(plugin.Dirs{Sockets: dir, Specs: []string{dir}}, 0)
	for name, want := range map[string]string{
		"volumes": "does not implement the requested subsystem authz",
		"ghost":   `plugin "ghost" not found`,
		"../up":   "invalid plugin name",
		"":        "invalid plugin name",
	} {
		if err := c.Set(t.Context(), []string{name}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Set(%q) = %v, want %q", name, err, want)
		}
	}
}
