package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// TestMountKinds: images, parts of volumes and what other containers have.
func TestMountKinds(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("of the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	d.OK("run", "--name", "maker", "busybox", "sh", "-c", "mkdir -p /srv/deep; echo layered >/srv/deep/f; ln -s /etc /srv/trap")
	d.OK("commit", "maker", "content")
	d.OK("run", "--rm", "-v", "vol:/v", "busybox", "sh", "-c", "mkdir -p /v/a/b; echo part >/v/a/b/f; ln -s ../../../../../../../etc /v/a/up; echo x >/v/file")

	t.Run("image", func(t *testing.T) {
		r := d.Docker("run", "--name", "img", "--mount", "type=image,src=content,dst=/img", "busybox", "sh", "-c",
			"cat /img/srv/deep/f; test -x /img/bin/busybox; touch /img/x 2>/dev/null && echo writable")
		if r.Stdout != "layered\n" {
			t.Errorf("= %d %q %q", r.Code, r.Stdout, r.Stderr)
		}
		if got := d.OK("inspect", "-f", "{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}} {{.RW}}{{end}}", "img"); got != "image content /img false" {
			t.Errorf("inspect = %q", got)
		}
		if got := d.OK("cp", "img:/img/srv/deep/f", "-"); !strings.Contains(got, "layered") {
			t.Errorf("cp out of a mounted image = %q", got)
		}
		d.OK("rm", "img")
	})
	t.Run("image subpath", func(t *testing.T) {
		if got := d.OK("run", "--rm", "--mount", "type=image,src=content,dst=/img,image-subpath=srv/deep", "busybox", "cat", "/img/f"); got != "layered" {
			t.Errorf("= %q", got)
		}
		r := d.Docker("run", "--rm", "--mount", "type=image,src=content,dst=/img,image-subpath=none", "busybox", "true")
		if r.Code == 0 || !strings.Contains(r.Stderr, "cannot access path none") {
			t.Errorf("a part that is missing: %d %q", r.Code, r.Stderr)
		}
	})
	t.Run("missing image", func(t *testing.T) {
		r := d.Docker("create", "--name", "noimg", "--mount", "type=image,src=nothing,dst=/img", "busybox", "true")
		if r.Code == 0 || !strings.Contains(r.Stderr, "No such image: nothing") {
			t.Errorf("= %d %q", r.Code, r.Stderr)
		}
	})
	t.Run("volume subpath", func(t *testing.T) {
		if got := d.OK("run", "--rm", "--mount", "type=volume,src=vol,dst=/d,volume-subpath=a/b", "busybox", "cat", "/d/f"); got != "part" {
			t.Errorf("= %q", got)
		}
		if got := d.OK("run", "--rm", "--mount", "type=volume,src=vol,dst=/d,volume-subpath=file,ro", "busybox", "sh", "-c", "cat /d; echo y >>/d || echo kept"); got != "x\nkept" {
			t.Errorf("a file: %q", got)
		}
		r := d.Docker("run", "--rm", "--mount", "type=volume,src=vol,dst=/d,volume-subpath=a/up", "busybox", "ls", "/d")
		if r.Code == 0 || !strings.Contains(r.Stderr, "path concatenation escapes the base directory") {
			t.Errorf("a link out of the volume: %d %q %q", r.Code, r.Stdout, r.Stderr)
		}
		d.OK("run", "--rm", "-v", "vol:/v", "busybox", "mkdir", "/v/bin")
		if got := d.OK("run", "--rm", "--mount", "type=volume,src=vol,dst=/bin,volume-subpath=bin", "busybox", "ls", "/bin/busybox"); got != "/bin/busybox" {
			t.Errorf("an empty part is not filled from the image: %q", got)
		}
		for _, bad := range []string{"../x", "/abs"} {
			if r := d.Docker("create", "--mount", "type=volume,src=vol,dst=/d,volume-subpath="+bad, "busybox", "true"); r.Code == 0 || !strings.Contains(r.Stderr, "subpath must be a relative path within the volume") {
				t.Errorf("subpath %s: %d %q", bad, r.Code, r.Stderr)
			}
		}
	})
	t.Run("volumes-from", func(t *testing.T) {
		d.OK("create", "--name", "donor", "-v", "vol:/v", "-v", dir+":/host", "busybox", "true")
		if got := d.OK("run", "--rm", "--volumes-from", "donor", "busybox", "sh", "-c", "cat /v/a/b/f /host/f; echo w >/v/w && rm /v/w && echo wrote"); got != "part\nof the host\nwrote" {
			t.Errorf("= %q", got)
		}
		if got := d.OK("run", "--rm", "--volumes-from", "donor:ro,z", "busybox", "sh", "-c", "echo w 2>/dev/null >/v/w || echo kept"); got != "kept" {
			t.Errorf("read-only = %q", got)
		}
		for from, want := range map[string]string{"none": "No such container: none", "donor:bad": "invalid mode"} {
			if r := d.Docker("create", "--volumes-from", from, "busybox", "true"); r.Code == 0 || !strings.Contains(r.Stderr, want) {
				t.Errorf("--volumes-from %s: %d %q", from, r.Code, r.Stderr)
			}
		}
		d.OK("rm", "donor")
	})
	t.Run("copy while stopped", func(t *testing.T) {
		d.OK("create", "--name", "box", "-v", "vol:/v", "-v", dir+":/host:ro", "-v", "/anon", "busybox", "sh", "-c", "cat /anon/f /v/f")
		for _, path := range []string{"/v/a/b/f", "/host/f"} {
			if r := d.Docker("cp", "box:"+path, "-"); r.Code != 0 {
				t.Errorf("cp %s: %s", path, r.Stderr)
			}
		}
		d.OK("cp", filepath.Join(dir, "f"), "box:/v/f")
		d.OK("cp", filepath.Join(dir, "f"), "box:/anon/f")
		if r := d.Docker("cp", filepath.Join(dir, "f"), "box:/host/g"); r.Code == 0 || !strings.Contains(r.Stderr, "read-only") {
			t.Errorf("cp into a read-only mount: %d %q", r.Code, r.Stderr)
		}
		if got := d.OK("start", "-a", "box"); got != "of the host\nof the host" {
			t.Errorf("the copied files = %q", got)
		}
		d.OK("run", "--rm", "-v", "vol:/v", "busybox", "sh", "-c", "ln -s loop /v/loop; ln -s ../../../../../../../.."+dir+" /v/away")
		if r := d.Docker("cp", "box:/v/away/f", "-"); r.Code == 0 || !strings.Contains(r.Stderr, "Could not find the file /v/away/f") {
			t.Errorf("a link led to the host: %d %q", r.Code, r.Stderr)
		}
		if a := d.Request(t, "GET", "/containers/box/archive?path=/v/loop/x", ""); a.Status != 400 {
			t.Errorf("a loop of links = %d %s", a.Status, a.Body)
		}
		d.OK("rm", "-v", "box")
	})
	d.OK("rm", "maker")
	if raw, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(raw), d.Dir) {
		t.Errorf("mounts are left on the host: %v\n%s", err, raw)
	}
}

// TestLinks: a container on the default bridge knows those it is linked to by
// name, also when their address changes.
func TestLinks(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	d.OK("run", "-d", "--name", "db", "--hostname", "dbhost", "busybox", "sleep", "1000")
	d.OK("run", "-d", "--name", "web", "--link", "db:store", "--link", "db", "busybox", "sleep", "1000")
	address := func(c string) string {
		return d.OK("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", c)
	}
	hosts := func() string { return d.OK("exec", "web", "cat", "/etc/hosts") }
	for _, name := range []string{"store", "dbhost", "db"} {
		if want := address("db") + "\t" + name + "\n"; !strings.Contains(hosts(), want) {
			t.Errorf("hosts has no %q:\n%s", want, hosts())
		}
	}
	if got := d.OK("inspect", "-f", "{{.HostConfig.Links}}", "web"); got != "[/db:/web/store /db:/web/db]" {
		t.Errorf("inspect: %s", got)
	}
	if got := d.OK("ps", "--filter", "name=db", "--no-trunc", "--format", "{{.Names}}"); !strings.Contains(got, "db,web/") {
		t.Errorf("ps: %s", got)
	}
	before := address("db")
	d.OK("stop", "-t", "0", "db")
	d.OK("run", "-d", "--name", "taker", "busybox", "sleep", "1000") // has the address now
	d.OK("start", "db")
	if after := address("db"); after == before || !strings.Contains(hosts(), after+"\tstore\n") || strings.Contains(hosts(), before+"\tstore\n") {
		t.Errorf("after a new start at %s, was %s:\n%s", after, before, hosts())
	}
	d.OK("stop", "-t", "0", "web", "db")
	if r := d.Docker("start", "web"); r.Code == 0 || !strings.Contains(r.Stderr, "Cannot link to a non running container: /db AS /web/store") {
		t.Errorf("start with a stopped link: %d %q", r.Code, r.Stderr)
	}
	d.OK("rm", "-l", "web/store")
	d.OK("rm", "-l", "/web/db")
	d.OK("start", "web")
	if strings.Contains(hosts(), "store") {
		t.Errorf("a removed link is in\n%s", hosts())
	}
	for args, want := range map[string]string{
		"--link none":              "could not get container for none: No such container: none",
		"--link db --network=host": "host type networking can't be used with links",
		"--link :x":                "bad format for links: :x",
	} {
		if r := d.Docker(append(append([]string{"create"}, strings.Fields(args)...), "busybox", "true")...); r.Code == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("create %s: %d %q", args, r.Code, r.Stderr)
		}
	}
}
