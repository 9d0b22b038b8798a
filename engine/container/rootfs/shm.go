package rootfs

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// MountShm mounts a tmpfs of the given size at dir, which it creates, for POSIX
// shared memory that several containers see. One that is there already stays.
func MountShm(dir string, bytes int64) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if Mounted(dir) {
		return nil
	}
	err := unix.Mount("shm", dir, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=1777,size=%d", bytes))
	if err != nil {
		return fmt.Errorf("mounting shm tmpfs: %w", err)
	}
	return nil
}

// MountView mounts mounts, the answer of a snapshotter, read-only at dir, which it
// creates. One that is there already stays.
func MountView(mounts []mount.Mount, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if Mounted(dir) {
		return nil
	}
	root, err := View(mounts)
	if err != nil {
		return err
	}
	defer root.Close()
	err = unix.MoveMount(int(root.dir.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
	return os.NewSyscallError("move_mount", err)
}

// Unmount undoes MountShm and MountView. It is idempotent.
func Unmount(dir string) error {
	if !Mounted(dir) {
		return nil
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}
