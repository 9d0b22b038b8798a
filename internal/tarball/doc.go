// Package tarball moves trees in and out of tar archives by directory
// descriptor. It is the only extractor of the project: layers, docker load,
// import, cp, ADD and volume copy-up all pass through Extract.
//
// Everything in an archive is hostile, and so is the tree that it is put into.
// A path is resolved by the kernel inside the root (openat2 with
// RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS), as far as the parent directory;
// the last component is then only ever touched relative to that descriptor and
// without following links. No path is checked first and used later. The cost is
// linear in the archive: a directory is emptied at most once for however many
// whiteouts name it, and a subtree is removed by the entries that replace it at
// most as often as it was made. This answers, among others, CVE-2014-6407,
// CVE-2021-32760, CVE-2025-47290, CVE-2026-17106 and CVE-2026-95838.
//
// The layer format is that of the OCI image-spec, layer.md; an overlay upper
// directory is that of the kernel's Documentation/filesystems/overlayfs.rst.
package tarball

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// maxPath is the longest entry name accepted, that of the kernel.
	maxPath = unix.PathMax - 1
	// DefaultMaxBytes bounds the logical size of all files of one archive.
	DefaultMaxBytes = 1 << 40
	// DefaultMaxEntries bounds the number of entries of one archive.
	DefaultMaxEntries = 10 << 20
	// maxSparseBytes bounds the logical size of one sparse file: its holes cost
	// the sender nothing.
	maxSparseBytes = 64 << 30

	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// invalid returns an InvalidArgument error about an archive.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, fmt.Errorf(format, args...))
}

// retry calls f until it returns something other than EINTR.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// openAttempts bounds the retries of openat2, which returns EAGAIN when a
// rename elsewhere raced with "..".
const openAttempts = 64

// openIn opens path inside the directory root, of which no component may lead
// out and no magic link is followed.
func openIn(root int, path string, flags int, resolve uint64) (int, error) {
	if path == "" {
		path = "."
	}
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve,
	}
	var err error
	for range openAttempts {
		var fd int
		fd, err = unix.Openat2(root, path, &how)
		if err == nil {
			return fd, nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return -1, err
		}
	}
	return -1, err
}

// openAt opens name, one component, in the directory dir.
func openAt(dir int, name string, flags int, mode uint32) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, mode)
		return err
	})
	return fd, err
}

// statAt returns the status of name, one component or "" for dir itself.
func statAt(dir int, name string) (st unix.Stat_t, err error) {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	err = retry(func() error { return unix.Fstatat(dir, name, &st, flags) })
	return st, err
}

// isWhiteout reports whether st is an overlay whiteout.
func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// procPath names an entry for the calls that exist only by path (xattrs): the
// descriptor pins the directory, and the l-variants do not follow the entry.
func procPath(dir int, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir, name)
}
