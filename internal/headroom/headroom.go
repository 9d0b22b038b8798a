// Package headroom opens database files with disk blocks in reserve, so that the
// small writes that give space back, as the removal of a container does, succeed
// on a full disk.
package headroom

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// bytes is how much a file may grow before it needs blocks that are not its own.
const bytes = 2 << 20

// OpenFile is os.OpenFile for a file that is written to: it reserves blocks
// beyond the end of the file, whose size stays. A file system that can't, or has
// no room, gets no error: the file then is as any other. It fits
// bbolt.Options.OpenFile.
func OpenFile(name string, flag int, perm os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil || flag&(os.O_WRONLY|os.O_RDWR) == 0 {
		return f, err
	}
	if err := reserve(f); err != nil {
		return nil, errors.Join(fmt.Errorf("reserve space for %s: %w", name, err), f.Close())
	}
	return f, nil
}

func reserve(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	for {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, info.Size()+bytes)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EFBIG),
		errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
		return nil
	}
	return os.NewSyscallError("fallocate", err)
}
