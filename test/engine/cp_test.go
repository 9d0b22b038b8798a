package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lighter/test/harness"
)

// TestCopy moves files between the machine and a container with both command
// lines; the container's side is looked at with exec.
func TestCopy(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		d.OK("run", "-d", "--name", "box", "busybox", "sleep", "1000")
		eachCLI(t, func(t *testing.T, docker string) {
			dir := t.TempDir()
			write := func(name, text string) {
				t.Helper()
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			write("f", "one\n")
			write("d/sub/g", "two\n")
			write("secret", "kept\n")
			if err := os.Symlink("f", filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
			d.OK("exec", "box", "sh", "-c", "rm -rf /w && mkdir -p /w/dir/in /w/trap && echo three >/w/h && echo four >/w/dir/in/k && ln -s h /w/link && ln -s dir /w/dlink")
			l := func(name string) string { return filepath.Join(dir, name) }
			for _, tc := range []struct {
				name     string
				from, to string
				flags    []string
				fails    string            // a part of standard error
				inside   map[string]string // files of the container
				outside  map[string]string // files of the machine
			}{
				{name: "file in under a new name", from: l("f"), to: "box:/w/new", inside: map[string]string{"/w/new": "one"}},
				{name: "file into a directory", from: l("f"), to: "box:/w/dir", inside: map[string]string{"/w/dir/f": "one"}},
				{name: "file through a link to a directory", from: l("f"), to: "box:/w/dlink", inside: map[string]string{"/w/dir/f": "one"}},
				{name: "file to a directory that is missing", from: l("f"), to: "box:/w/none/", fails: "no such directory"},
				{name: "directory in under a new name", from: l("d"), to: "box:/w/copy", inside: map[string]string{"/w/copy/sub/g": "two"}},
				{name: "directory into a directory", from: l("d"), to: "box:/w/dir", inside: map[string]string{"/w/dir/d/sub/g": "two"}},
				{name: "contents", from: l("d") + "/.", to: "box:/w/dir", inside: map[string]string{"/w/dir/sub/g": "two"}},
				{name: "directory over a file", from: l("d"), to: "box:/w/h", fails: "cannot copy directory"},
				{name: "followed link in", from: l("link"), to: "box:/w/dir", flags: []string{"-L"}, inside: map[string]string{"/w/dir/link": "one"}},
				{name: "missing source", from: l("none"), to: "box:/w", fails: "no such file or directory"},
				{name: "file out under a new name", from: "box:/w/h", to: l("out"), outside: map[string]string{"out": "three"}},
				{name: "file out into a directory", from: "box:/w/h", to: l("d"), outside: map[string]string{"d/h": "three"}},
				{name: "directory out", from: "box:/w/dir", to: l("tree"), outside: map[string]string{"tree/in/k": "four"}},
				{name: "directory out into a directory", from: "box:/w/dir", to: l("d"), outside: map[string]string{"d/dir/in/k": "four"}},
				{name: "contents out", from: "box:/w/dir/.", to: l("d"), outside: map[string]string{"d/in/k": "four"}},
				{name: "followed link out", from: "box:/w/link", to: l("through"), flags: []string{"-L"}, outside: map[string]string{"through": "three"}},
				{name: "missing in the container", from: "box:/none", to: l("x"), fails: "Could not find the file /none in container box"},
				{name: "missing parent", from: "box:/w/h", to: l("none/x"), fails: "does not exist"},
			} {
				t.Run(tc.name, func(t *testing.T) {
					r := d.CLI(docker, "", append(append([]string{"cp"}, tc.flags...), tc.from, tc.to)...)
					if tc.fails != "" {
						if r.Code != 1 || !strings.Contains(r.Stderr, tc.fails) {
							t.Errorf("exit code %d, %q; want 1 and %q", r.Code, r.Stderr, tc.fails)
						}
						return
					}
					if r.Code != 0 || r.Stdout != "" {
						t.Fatalf("exit code %d, %q, %q", r.Code, r.Stdout, r.Stderr)
					}
					for path, want := range tc.inside {
						if got := d.OK("exec", "box", "cat", path); got != want {
							t.Errorf("%s in the container = %q, want %q", path, got, want)
						}
					}
					for path, want := range tc.outside {
						if got, err := os.ReadFile(l(path)); string(got) != want+"\n" {
							t.Errorf("%s = %q, %v, want %q", path, got, err, want)
						}
					}
				})
			}
			archive := d.CLI(docker, "", "cp", "box:/w/dir/in", "-")
			if archive.Code != 0 {
				t.Fatalf("an archive out: %+v", archive.Stderr)
			}
			if r := d.CLI(docker, archive.Stdout, "cp", "-", "box:/w/trap"); r.Code != 0 {
				t.Errorf("an archive in: %d %q", r.Code, r.Stderr)
			}
			if got := d.OK("exec", "box", "cat", "/w/trap/in/k"); got != "four" {
				t.Errorf("a file of the archive = %q", got)
			}
		})
		// A link that waits in the destination must not lead the copy away.
		dir := t.TempDir()
		outside := filepath.Join(dir, "outside")
		dst := filepath.Join(dir, "dst")
		for _, p := range []string{outside, filepath.Join(dst, "dir")} {
			if err := os.MkdirAll(p, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(outside, filepath.Join(dst, "dir", "in")); err != nil {
			t.Fatal(err)
		}
		d.Docker("cp", "box:/w/dir", dst)
		if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
			t.Errorf("the copy followed a link out of its destination: %v, %v", left, err)
		}
	})
}
