package rootfs

import (
	"errors"
	"fmt"
	"os"

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

// UnmountShm undoes MountShm. It is idempotent.
func UnmountShm(dir string) error {
	if !Mounted(dir) {
		return nil
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount shm: %w", err)
	}
	return nil
}
