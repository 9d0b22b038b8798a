package engine

import (
	"archive/tar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// TestAPIAnswers holds details of answers that programs of Docker's depend on.
func TestAPIAnswers(t *testing.T) {
	testenv.Need(t, testenv.Root)
	file := filepath.Join(t.TempDir(), "daemon.json")
	if err := os.WriteFile(file, []byte(`{"features":{"buildkit":false}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	d := harness.Start(t, harness.Options{Args: []string{"--config-file", file}})
	d.Busybox()

	t.Run("builder of the ping", func(t *testing.T) {
		if got := d.Request(t, "GET", "/_ping", "").Header.Get("Builder-Version"); got != "1" {
			t.Errorf("Builder-Version = %q, want 1", got)
		}
	})
	t.Run("names in an archive", func(t *testing.T) {
		d.OK("run", "--name", "box", "busybox", "sh", "-c", "mkdir -p /w/in && echo x >/w/in/f && ln -s in /w/link")
		for name, want := range map[string][]string{
			"/":        {"/", "/w/in/f"},
			".":        {"./", "./w/in/f"},
			"/./":      {"./", "./w/in/f"},
			"w/in":     {"in/", "in/f"},
			"/w/in/.":  {"./", "./f"},
			"/w/link":  {"link"},
			"/w/link/": {"link/", "link/f"},
		} {
			a := d.Request(t, "GET", "/containers/box/archive?path="+url.QueryEscape(name), "")
			var names []string
			for r := tar.NewReader(strings.NewReader(a.Body)); ; {
				h, err := r.Next()
				if err != nil {
					break
				}
				names = append(names, h.Name)
			}
			for _, n := range want {
				if !slices.Contains(names, n) {
					t.Errorf("the archive of %s (%d) lacks %s; it begins %q", name, a.Status, n, names[:min(4, len(names))])
				}
			}
		}
		d.OK("rm", "box")
	})
	t.Run("volume prune before 1.42", func(t *testing.T) {
		d.OK("volume", "create", "named")
		if a := d.Request(t, "POST", "/v1.42/volumes/prune", ""); strings.Contains(a.Body, "named") {
			t.Errorf("1.42 pruned a named volume: %s", a.Body)
		}
		if a := d.Request(t, "POST", "/v1.41/volumes/prune", ""); !strings.Contains(a.Body, `"named"`) {
			t.Errorf("1.41 spared a named volume: %d %s", a.Status, a.Body)
		}
	})
	t.Run("one network before 1.44", func(t *testing.T) {
		badRequest{"POST", "/v1.43/containers/create", `{"Image":"busybox","NetworkingConfig":{"EndpointsConfig":{"b":{},"a":{}}}}`, 400,
			"Container cannot be created with multiple network endpoints: a, b"}.refuse(t, d)
	})
	t.Run("validate beside a working daemon", func(t *testing.T) {
		out, err := exec.Command(harness.Bin(t, "dockerd"), "--validate", "--config-file", file, "--data-root", d.Dir+"/data").CombinedOutput()
		if err != nil || string(out) != "configuration OK\n" {
			t.Errorf("= %v %q", err, out)
		}
	})
}
