package harness

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"lighter/internal/testenv"
)

// Disk is a file system of its own, which can be filled.
type Disk struct {
	Dir string
	t   testing.TB
}

// mountDisk makes an ext4 file system of size bytes and mounts it on dir, until
// unmount.
func mountDisk(t testing.TB, dir string, size int64) *Disk {
	t.Helper()
	testenv.Need(t, testenv.Program("mkfs.ext4", "e2fsprogs"), testenv.Program("mount", "mount"))
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	// Nothing is reserved for root, and the journal is small.
	if out, err := exec.Command("mkfs.ext4", "-q", "-m", "0", "-J", "size=4", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	return &Disk{dir, t}
}

func (k *Disk) unmount() {
	if k == nil {
		return
	}
	k.t.Helper()
	if err := unix.Unmount(k.Dir, 0); err != nil {
		k.t.Errorf("unmount %s: %v", k.Dir, err)
	}
}

// Fill leaves no byte free; Free gives the space back.
func (k *Disk) Fill() {
	k.t.Helper()
	f, err := os.OpenFile(k.ballast(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		k.t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			k.t.Fatal(err)
		}
	}
	// Delayed allocation can find no space only now.
	if err := f.Sync(); err != nil && !errors.Is(err, syscall.ENOSPC) {
		k.t.Fatal(err)
	}
}

// Free undoes Fill.
func (k *Disk) Free() {
	k.t.Helper()
	if err := os.Remove(k.ballast()); err != nil {
		k.t.Fatal(err)
	}
}

func (k *Disk) ballast() string { return filepath.Join(k.Dir, "ballast") }
