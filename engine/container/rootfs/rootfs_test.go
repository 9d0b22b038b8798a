package rootfs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"
)

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
}

func TestPathsStayInside(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "outside"), "secret")
	root := filepath.Join(dir, "root")
	put(t, filepath.Join(root, "etc/passwd"), "inside")
	put(t, filepath.Join(root, "outside"), "decoy")
	for link, target := range map[string]string{
		"up": "../../../../../../../.." + filepath.Join(dir, "outside"), "abs": "/etc/passwd", "deep": "etc/../../../outside", "loop": "loop",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Dir(root)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for name, want := range map[string]string{"abs": "inside", "/etc/passwd": "inside", "../../etc/passwd": "inside", "deep": "decoy"} {
		if got, err := r.ReadFile(name, 100); err != nil || string(got) != want {
			t.Errorf("ReadFile(%q) = %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"up", "loop", "fifo", "etc", "/proc/self/exe"} {
		if got, err := r.ReadFile(name, 100); err == nil {
			t.Errorf("ReadFile(%q) = %q", name, got)
		}
	}
	if _, err := r.ReadFile("abs", 3); err == nil {
		t.Error("a file over the limit was read")
	}
	if st, err := r.Lstat("abs"); err != nil || st.LinkTarget != "/etc/passwd" || st.Mode&os.ModeSymlink == 0 {
		t.Errorf("Lstat(abs) = %+v, %v", st, err)
	}
	if st, err := r.Lstat("deep"); err != nil || st.LinkTarget != "/outside" {
		t.Errorf("Lstat(deep) = %+v, %v", st, err)
	}
}

func TestMkdirAll(t *testing.T) {
	root := t.TempDir()
	put(t, filepath.Join(root, "file"), "")
	if err := os.Symlink("/a", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	r, err := Dir(root)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if existed, err := r.MkdirAll("/a/b/c", 0o755); existed || err != nil {
		t.Errorf("MkdirAll() = %v, %v", existed, err)
	}
	if existed, err := r.MkdirAll("/link/b", 0o755); !existed || err != nil {
		t.Errorf("MkdirAll() through a link = %v, %v", existed, err)
	}
	if _, err := r.MkdirAll("/file/x", 0o755); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("MkdirAll() below a file = %v", err)
	}
}

func TestCopyUp(t *testing.T) {
	root, dst := t.TempDir(), t.TempDir()
	put(t, filepath.Join(root, "data/sub/file"), "text")
	if err := os.Symlink("/etc/shadow", filepath.Join(root, "data/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(root, "data"), 0o750|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	r, err := Dir(root)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if found, err := r.CopyUp("/nothing", dst, ""); found || err != nil {
		t.Errorf("CopyUp() of nothing = %v, %v", found, err)
	}
	if found, err := r.CopyUp("/data", dst, ""); !found || err != nil {
		t.Fatalf("CopyUp() = %v, %v", found, err)
	}
	if got, err := os.ReadFile(filepath.Join(dst, "sub/file")); err != nil || string(got) != "text" {
		t.Errorf("copied %q, %v", got, err)
	}
	if target, err := os.Readlink(filepath.Join(dst, "link")); err != nil || target != "/etc/shadow" {
		t.Errorf("the link leads to %q, %v", target, err)
	}
	if fi, err := os.Stat(dst); err != nil || fi.Mode().Perm() != 0o750 || fi.Mode()&os.ModeSticky == 0 {
		t.Errorf("mode = %v, %v", fi.Mode(), err)
	}
	put(t, filepath.Join(root, "data/new"), "")
	if found, err := r.CopyUp("/data", dst, ""); found || err != nil { // not empty any more
		t.Errorf("second CopyUp() = %v, %v", found, err)
	}
}

// layered returns the mounts of an overlay of a given number of lower layers, of
// which the n-th holds the file "n".
func layered(t *testing.T, n int) (mounts []mount.Mount, upper string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	var lower []string
	for i := range n {
		l := filepath.Join(dir, "lower", strings.Repeat("x", 40), string(rune('a'+i)))
		put(t, filepath.Join(l, string(rune('a'+i))), "lower")
		put(t, filepath.Join(l, "etc/all"), string(rune('a'+i)))
		lower = append(lower, l)
	}
	upper = filepath.Join(dir, "upper")
	for _, d := range []string{upper, filepath.Join(dir, "work")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"index=off", "workdir=" + filepath.Join(dir, "work"), "upperdir=" + upper, "lowerdir=" + strings.Join(lower, ":"),
	}}}, upper
}

func TestOverlayIsShownDetached(t *testing.T) {
	mounts, upper := layered(t, 20)
	for name, show := range map[string]func([]mount.Mount) (*Root, error){
		"open": Open, "view": View,
		"in a namespace": func(m []mount.Mount) (*Root, error) {
			l, err := parse(m)
			if err != nil {
				return nil, err
			}
			fd, err := l.overlayInNamespace()
			if err != nil {
				return nil, err
			}
			return &Root{dir: os.NewFile(uintptr(fd), "root")}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := show(mounts)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range []string{"a", "t"} {
				if got, err := r.ReadFile(f, 10); err != nil || string(got) != "lower" {
					t.Errorf("ReadFile(%s) = %q, %v", f, got, err)
				}
			}
			if got, _ := r.ReadFile("etc/all", 10); string(got) != "a" {
				t.Errorf("etc/all is of layer %q, want the topmost", got)
			}
			_, err = r.MkdirAll("/made-"+name, 0o755)
			if readOnly := errors.Is(err, unix.EROFS); readOnly != (name == "view") {
				t.Errorf("MkdirAll() = %v", err)
			}
			if table, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(table), upper) {
				t.Errorf("the mount shows in the mount table (%v)", err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(upper, "made-open")); err != nil {
		t.Errorf("what was written is not in the upper directory: %v", err)
	}
}

func TestChanges(t *testing.T) {
	mounts, upper := layered(t, 2)
	put(t, filepath.Join(upper, "new/file"), "")
	put(t, filepath.Join(upper, "etc/all"), "changed")
	if err := unix.Mknod(filepath.Join(upper, "b"), unix.S_IFCHR, 0); err != nil {
		t.Fatal(err)
	}
	l, err := LayersOf(mounts)
	if err != nil {
		t.Fatal(err)
	}
	got, err := l.Changes(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want := []Change{{Deleted, "/b"}, {Modified, "/etc"}, {Modified, "/etc/all"}, {Added, "/new"}, {Added, "/new/file"}}
	if len(got) != len(want) {
		t.Fatalf("Changes() = %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("change %d = %v, want %v", i, got[i], want[i])
		}
	}
}

func TestShm(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := filepath.Join(t.TempDir(), "shm")
	if err := MountShm(dir, 1<<20); err != nil {
		t.Fatal(err)
	}
	if !Mounted(dir) {
		t.Error("it is not mounted")
	}
	if err := MountShm(dir, 1<<20); err != nil {
		t.Errorf("second MountShm() = %v", err)
	}
	for range 2 {
		if err := Unmount(dir); err != nil {
			t.Error(err)
		}
	}
	if Mounted(dir) {
		t.Error("it is still mounted")
	}
}

func TestOfProcessRefusesAStranger(t *testing.T) {
	// This process is in no container's control group, as one that got the pid of
	// a container's process would not be.
	if root, err := OfProcess(os.Getpid(), strings.Repeat("c0ffee", 10)); !errdefs.IsNotFound(err) {
		t.Errorf("OfProcess of a stranger = %v, %v, want NotFound", root, err)
	}
	if root, err := OfProcess(1<<30, "id"); !errdefs.IsNotFound(err) {
		t.Errorf("OfProcess of nobody = %v, %v, want NotFound", root, err)
	}
}
