package rootfs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"lighter/internal/testenv"
)

// TestCompose: what is attached is seen at its target, also through links that
// stay inside, also where the target has to be made, and nowhere on the host.
func TestCompose(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	at := func(p ...string) string { return filepath.Join(append([]string{dir}, p...)...) }
	for _, d := range []string{"lower/data", "upper", "work", "volume/sub", "image"} {
		if err := os.MkdirAll(at(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, at("lower/data/hidden"), "below")
	put(t, at("volume/sub/f"), "of the volume")
	put(t, at("image/i"), "of the image")
	put(t, at("host"), "of the host")
	for link, to := range map[string]string{"lower/link": "/data", "lower/out": "../../.." + at("volume")} {
		if err := os.Symlink(to, at(link)); err != nil {
			t.Fatal(err)
		}
	}
	snapshot := []mount.Mount{{Type: "overlay", Options: []string{
		"lowerdir=" + at("lower"), "upperdir=" + at("upper"), "workdir=" + at("work"),
	}}}
	attachments := []Attachment{
		{Source: at("volume"), Target: "/link"},
		{Source: at("volume"), Subpath: "sub", Target: "/new/part", ReadOnly: true},
		{Layers: []mount.Mount{{Type: "bind", Source: at("image"), Options: []string{"ro", "rbind"}}}, Target: "/img"},
		{Source: at("host"), Target: "/etc/file"},
		{Source: at("none"), Target: "/none"},
	}
	for _, writable := range []bool{false, true} {
		r, err := Compose(snapshot, attachments, writable)
		if err != nil {
			t.Fatalf("Compose(writable %v) = %v", writable, err)
		}
		for name, want := range map[string]string{
			"/data/sub/f": "of the volume", "/link/sub/f": "of the volume", "/new/part/f": "of the volume",
			"/img/i": "of the image", "/etc/file": "of the host",
		} {
			if got, err := r.ReadFile(name, 100); err != nil || string(got) != want {
				t.Errorf("writable %v: ReadFile(%s) = %q, %v", writable, name, got, err)
			}
		}
		if got, err := r.ReadFile("/out/sub/f", 100); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a link out of the root gives %q, %v", got, err)
		}
		if _, err := r.ReadFile("/data/hidden", 100); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what the volume covers is seen: %v", err)
		}
		for name, want := range map[string]error{"/data": nil, "/new/part": unix.EROFS, "/img": unix.EROFS} {
			d, err := r.OpenFile(name, unix.O_PATH)
			if err != nil {
				t.Fatal(err)
			}
			err = unix.Mkdirat(int(d.Fd()), "made", 0o755)
			d.Close()
			if !writable {
				want = unix.EROFS
			}
			if !errors.Is(err, want) {
				t.Errorf("writable %v: mkdir in %s = %v, want %v", writable, name, err, want)
			}
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(at("upper/new")); writable == (err != nil) {
			t.Errorf("writable %v: the made mount point in the layer: %v", writable, err)
		}
	}
	if _, err := os.Stat(at("volume/made")); err != nil {
		t.Errorf("what was written to the volume is not there: %v", err)
	}
	if left, err := os.ReadDir(at("lower/data")); err != nil || len(left) != 1 {
		t.Errorf("the layer below has %v, %v", left, err)
	}
	if r, err := Compose(snapshot, []Attachment{{Source: at("host"), Target: "/data"}}, true); err == nil {
		r.Close()
		t.Error("a file was mounted over a directory")
	}
}

func TestMountView(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := t.TempDir() // one file system for both: no device number tells them apart
	put(t, filepath.Join(dir, "layer/f"), "text")
	layers := []mount.Mount{{Type: "bind", Source: filepath.Join(dir, "layer"), Options: []string{"ro"}}}
	at := filepath.Join(dir, "at")
	for range 2 {
		if err := MountView(layers, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(at, "f")); !errors.Is(err, unix.EROFS) {
		t.Errorf("remove from the view = %v, want EROFS", err)
	}
	for range 2 {
		if err := Unmount(at); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(at); err != nil || len(left) != 0 {
		t.Errorf("after Unmount: %v, %v", left, err)
	}
}
