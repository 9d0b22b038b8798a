package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// mountsBelow returns the mount points below dir.
func mountsBelow(t *testing.T, dir string) (found []string) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if at := strings.Fields(line)[4]; strings.HasPrefix(at, dir) {
			found = append(found, at)
		}
	}
	return found
}

// A volume with mount options is mounted for its first container and unmounted
// after its last, also when the engine was killed in between.
func TestVolumeMountOptions(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{Args: []string{"--live-restore"}})
	d.Busybox()
	source := filepath.Join(d.Dir, "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(source+"/file", []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	volumes := filepath.Join(d.Dir, "data/volumes")
	d.OK("volume", "create", "--opt", "type=none", "--opt", "o=bind,ro", "--opt", "device="+source, "bound")
	d.OK("volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=1m,uid=7", "memory")
	if got := d.OK("run", "--rm", "-v", "bound:/b", "-v", "memory:/m", "busybox", "sh", "-c", "cat /b/file; echo x 2>/dev/null > /b/new; stat -c %u /m; df -k /m | tail -1 | awk '{print $2}'"); got != "text7\n1024" {
		t.Errorf("the container sees %q", got)
	}
	if left := mountsBelow(t, volumes); len(left) != 0 {
		t.Errorf("still mounted: %q", left)
	}
	d.OK("run", "-d", "--name", "first", "-v", "memory:/m", "busybox", "sh", "-c", "echo kept > /m/file; exec sleep 1000")
	d.OK("run", "-d", "--name", "second", "-v", "memory:/m", "busybox", "sleep", "1000")
	waitFile := func() bool { return d.Docker("exec", "second", "cat", "/m/file").Stdout == "kept\n" }
	harness.Eventually(t, initTimeout, "the shared file", waitFile)
	d.Kill()
	d.StartDockerd()
	d.OK("rm", "-f", "first")
	if left := mountsBelow(t, volumes); len(left) != 1 {
		t.Errorf("mounted with one of two containers: %q", left)
	}
	d.OK("rm", "-f", "second")
	if left := mountsBelow(t, volumes); len(left) != 0 {
		t.Errorf("mounted without containers: %q", left)
	}
	d.OK("volume", "rm", "bound", "memory")
	if got, err := os.ReadFile(source + "/file"); err != nil || string(got) != "text" {
		t.Errorf("removing the volume changed its device: %q, %v", got, err)
	}
	for _, tt := range []struct{ opts, want string }{
		{"type=tmpfs", `create bad: missing required option: "device"`},
		{"o=ro", `create bad: missing required option: "device"`},
		{"bogus=1", `create bad: invalid option: "bogus"`},
		{"size=1g", "create bad: quota size requested but no quota support"},
	} {
		if r := d.Docker("volume", "create", "--opt", tt.opts, "bad"); r.Code != 1 || !strings.Contains(r.Stderr, tt.want) {
			t.Errorf("%s: %d, %q, want %q", tt.opts, r.Code, r.Stderr, tt.want)
		}
	}
	d.OK("volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", "device=/no/such/dir", "missing")
	want := fmt.Sprintf("error while mounting volume '%s/missing/_data': failed to mount local volume: mount /no/such/dir:%s/missing/_data, flags: 0x1000: no such file or directory", volumes, volumes)
	if r := d.Docker("run", "--rm", "-v", "missing:/m", "busybox", "true"); r.Code != 125 || !strings.Contains(r.Stderr, want) {
		t.Errorf("a device that is missing: %d, %q, want %q", r.Code, r.Stderr, want)
	}
}

func TestVolumeCopies(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	d.OK("volume", "create", "--label", "team=a", "one")
	d.OK("run", "--rm", "-v", "one:/v", "busybox", "sh", "-c", "mkdir /v/d; echo text > /v/d/f; ln /v/d/f /v/hard; ln -s /etc/passwd /v/soft; chown -R 5:6 /v; chmod 1751 /v")
	const list = "cd /v; stat -c '%a %u' .; find . ! -name . | sort; stat -c %h hard; readlink soft; cat d/f"
	show := func(name string) string {
		return d.OK("run", "--rm", "-v", name+":/v:nocopy", "busybox", "sh", "-c", list)
	}
	want := show("one")

	if got := d.OK("volume", "clone", "one", "two"); got != "two" || show("two") != want {
		t.Errorf("clone says %q and holds %q, want %q", got, show("two"), want)
	}
	if got := d.OK("volume", "inspect", "--format", "{{.Labels}}", "two"); got != "map[team:a]" {
		t.Errorf("labels of the clone: %s", got)
	}
	archive := filepath.Join(d.Dir, "v.tar.zst")
	d.OK("volume", "export", "--compress", "zstd", "-o", archive, "one")
	if got := d.OK("volume", "import", "three", archive); got != "three" || show("three") != want {
		t.Errorf("import says %q and holds %q, want %q", got, show("three"), want)
	}
	d.OK("volume", "rename", "three", "four")
	if show("four") != want {
		t.Errorf("the renamed volume holds %q", show("four"))
	}
	d.StopDockerd()
	d.StartDockerd()
	if got := d.OK("volume", "ls", "-q"); got != "four\none\ntwo" {
		t.Errorf("volumes after a restart: %q", got)
	}
	d.OK("create", "--name", "user", "-v", "one:/v", "busybox", "true")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"rename", "one", "five"}, "volume is in use - ["},
		{[]string{"rename", "two", "four"}, "a volume named four already exists"},
		{[]string{"rename", "two", "../x"}, "includes invalid characters for a local volume name"},
		{[]string{"rename", "none", "five"}, "get none: no such volume"},
		{[]string{"clone", "one", "two"}, "a volume named two already exists"},
		{[]string{"export", "none"}, "get none: no such volume"},
		{[]string{"export", "--compress", "lzma", "one"}, `invalid compression "lzma"`},
		{[]string{"import", "six", "/proc/self/cmdline"}, "six"},
	} {
		if r := d.Docker(append([]string{"volume"}, tt.args...)...); r.Code == 0 || !strings.Contains(r.Stderr, tt.want) {
			t.Errorf("volume %q: %d, %q, want %q", tt.args, r.Code, r.Stderr, tt.want)
		}
	}
	if got := d.OK("volume", "ls", "-q"); got != "four\none\ntwo" {
		t.Errorf("volumes after what failed: %q", got)
	}
}
