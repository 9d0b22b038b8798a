// Package atomicfile replaces files so that a reader, and a machine that lost
// power, sees either the whole old content or the whole new one.
package atomicfile

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Write replaces the file at path with data and mode perm. On return without an
// error the new content and its name are on disk: the file is synced before the
// rename and the directory after it.
//
// A crash may leave a file named ".tmp-*" in the directory; nothing reads it and
// the next start-up sweep of the owner may remove it.
func Write(path string, data []byte, perm os.FileMode) error {
	return WriteFrom(path, perm, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// WriteFrom is Write with the content produced by fill.
func WriteFrom(path string, perm os.FileMode, fill func(io.Writer) error) error {
	return replace(path, perm, fill, true)
}

// WriteVolatile replaces the file at path like Write but without syncing. It is
// for state on tmpfs, which a power cut empties anyway.
func WriteVolatile(path string, data []byte, perm os.FileMode) error {
	return replace(path, perm, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}, false)
}

func replace(path string, perm os.FileMode, fill func(io.Writer) error, durable bool) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".tmp-*")
	if err != nil {
		return fmt.Errorf("replace %q: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("replace %q: %w", path, err)
		}
	}()
	if err := fill(f); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if durable {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	if durable {
		return SyncDir(dir)
	}
	return nil
}

// SyncDir flushes the entries of the directory at path: names made, renamed or
// removed in it survive a power cut from here on.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
