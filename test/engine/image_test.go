package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lighter/test/harness"
)

func TestImages(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		eachCLI(t, func(t *testing.T, docker string) {
			ok := func(args ...string) string {
				t.Helper()
				r := d.CLI(docker, "", args...)
				if r.Code != 0 {
					t.Fatalf("docker %q: code %d\n%s%s", args, r.Code, r.Stdout, r.Stderr)
				}
				return strings.TrimSpace(r.Stdout)
			}
			archive := harness.BusyboxTar(t)
			id := ok("import", "--change", "ENV GREETING=hello", "--change", `CMD ["sh", "-c", "echo $GREETING"]`, archive, "made:1")
			if !strings.HasPrefix(id, "sha256:") {
				t.Errorf("import printed %q, want an ID", id)
			}
			if got := ok("run", "--rm", "made:1"); got != "hello" {
				t.Errorf("the image's command printed %q", got)
			}
			ok("tag", "made:1", "other/name:2")
			if got := ok("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}", "other/name"); got != "other/name:2 "+id {
				t.Errorf("images = %q, want other/name:2 %s", got, id)
			}
			if got := ok("inspect", "--format", "{{.Id}} {{.Os}}", "other/name:2"); got != id+" linux" {
				t.Errorf("inspect = %q", got)
			}
			if got := ok("rmi", "made:1"); got != "Untagged: made:1" {
				t.Errorf("rmi = %q", got)
			}
			saved := filepath.Join(t.TempDir(), "saved.tar")
			ok("save", "-o", saved, "other/name:2")
			if got := ok("rmi", "other/name:2"); !strings.Contains(got, "Deleted: "+id) {
				t.Errorf("rmi = %q", got)
			}
			if r := d.CLI(docker, "", "inspect", "--type", "image", "other/name:2"); r.Code != 1 || !strings.Contains(r.Stderr, "o such image") {
				t.Errorf("inspect of a removed image = %d %q", r.Code, r.Stderr)
			}
			if got := ok("load", "-i", saved); !strings.Contains(got, "Loaded image: other/name:2") {
				t.Errorf("load = %q", got)
			}
			if got := ok("run", "--rm", "other/name:2"); got != "hello" {
				t.Errorf("the loaded image's command printed %q", got)
			}
			ok("rmi", "other/name:2")
		})
	})
}

func TestRegistry(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		ref := harness.Registry(t) + "/team/box:1"
		d.OK("tag", "busybox", ref)
		d.OK("push", ref)
		eachCLI(t, func(t *testing.T, docker string) {
			d.OK("rmi", ref)
			if r := d.CLI(docker, "", "pull", ref); r.Code != 0 || !strings.Contains(r.Stdout, "Digest: sha256:") {
				t.Fatalf("pull = %d\n%s%s", r.Code, r.Stdout, r.Stderr)
			}
			if r := d.CLI(docker, "", "run", "--rm", ref, "echo", "pulled"); r.Stdout != "pulled\n" {
				t.Errorf("run = %+v", r)
			}
			d.OK("rmi", ref)
			// run pulls what is missing
			if r := d.CLI(docker, "", "run", "--rm", ref, "echo", "again"); r.Stdout != "again\n" || !strings.Contains(r.Stderr, "Unable to find image '"+ref+"' locally") {
				t.Errorf("run = %+v", r)
			}
			if r := d.CLI(docker, "", "pull", ref+"9"); r.Code != 1 || !strings.Contains(r.Stderr, "not found") {
				t.Errorf("pull of an unknown tag = %+v", r)
			}
		})
		d.OK("rmi", ref)
	})
}

// Content is collected: what images used is gone when the last one is.
func TestRemovedImagesFreeTheDisk(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		d.OK("run", "--name", "fat", "busybox", "sh", "-c", "head -c 16777216 /dev/urandom >/big")
		d.OK("commit", "fat", "fat:1")
		d.OK("rm", "fat")
		if got := d.OK("run", "--rm", "fat:1", "wc", "-c", "/big"); got != "16777216 /big" {
			t.Errorf("the committed file: %q", got)
		}
		d.OK("rmi", "fat:1", "busybox")
		root := d.Dir + "/data/containerd/daemon"
		if d.External {
			root = d.Dir + "/croot"
		}
		harness.Eventually(t, 10*time.Second, "the content to be collected", func() bool { return size(t, root) < 2<<20 })
		d.Busybox()
	})
}

// size adds up the files below dir, without the databases.
func size(t *testing.T, dir string) int64 {
	t.Helper()
	var n int64
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil // collected meanwhile
			}
			return err
		}
		if fi, err := e.Info(); err == nil && fi.Mode().IsRegular() && !strings.HasSuffix(path, ".db") {
			n += fi.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
