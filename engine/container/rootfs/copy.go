package rootfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxDepth bounds how deep a tree is copied or walked: each level holds a
// descriptor.
const maxDepth = 512

// CopyUp copies what the directory name holds into the empty directory dst of
// the host, with owners, modes, times and extended attributes, and gives dst the
// owner and mode of name. It reports whether there was such a directory. A dst
// that is not empty is left alone. With sub, it is that part of dst that is filled;
// one that is missing, no directory or outside of dst counts as not empty.
func (r *Root) CopyUp(name, dst, sub string) (bool, error) {
	src, err := r.OpenFile(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer src.Close()
	whole, err := Dir(dst)
	if err != nil {
		return false, err
	}
	defer whole.Close()
	to, err := whole.OpenWithin(sub, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		if sub != "" && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV)) {
			return false, nil // the start of the container says so
		}
		return false, err
	}
	defer to.Close()
	if _, err := to.Readdirnames(1); !errors.Is(err, io.EOF) {
		return false, err
	}
	if err := copyTree(src, to, 0); err != nil {
		return false, fmt.Errorf("copy %s to a volume: %w", name, err)
	}
	return true, nil
}

// copyTree copies the entries of src into dst, then the attributes of src.
func copyTree(src, dst *os.File, depth int) error {
	if depth > maxDepth {
		return errors.New("the directory is too deep")
	}
	for {
		names, err := src.Readdirnames(128)
		for _, name := range names {
			if err := copyEntry(src, dst, name, depth); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	return copyAttributes(src, dst)
}

func copyEntry(src, dst *os.File, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(src.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := unix.Mkdirat(int(dst.Fd()), name, 0o700); err != nil {
			return err
		}
		from, err := openat(src, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer from.Close()
		to, err := openat(dst, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer to.Close()
		return copyTree(from, to, depth+1)
	case unix.S_IFREG:
		from, err := openat(src, name, unix.O_RDONLY|unix.O_NONBLOCK)
		if err != nil {
			return err
		}
		defer from.Close()
		if err := regular(from); err != nil {
			return err
		}
		to, err := openat(dst, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
		if err != nil {
			return err
		}
		if _, err := io.Copy(to, from); err != nil {
			to.Close()
			return err
		}
		return errors.Join(copyAttributes(from, to), to.Close())
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(int(src.Fd()), name, target)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(string(target[:n]), int(dst.Fd()), name); err != nil {
			return err
		}
	case unix.S_IFIFO, unix.S_IFCHR, unix.S_IFBLK:
		if err := unix.Mknodat(int(dst.Fd()), name, st.Mode, int(st.Rdev)); err != nil {
			return err
		}
	default:
		return nil // a socket means nothing without its process
	}
	if err := unix.Fchownat(int(dst.Fd()), name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return unix.UtimesNanoAt(int(dst.Fd()), name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

func openat(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// copyAttributes gives dst the owner, mode, extended attributes and times of src,
// in the order in which none undoes another.
func copyAttributes(src, dst *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(src.Fd()), &st); err != nil {
		return err
	}
	if err := unix.Fchown(int(dst.Fd()), int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(int(dst.Fd()), st.Mode&0o7777); err != nil {
		return err
	}
	if err := copyXattrs(src, dst); err != nil {
		return err
	}
	times := []unix.Timeval{unix.NsecToTimeval(unix.TimespecToNsec(st.Atim)), unix.NsecToTimeval(unix.TimespecToNsec(st.Mtim))}
	return unix.Futimes(int(dst.Fd()), times)
}

// maxXattrs bounds the list of names and each value, as the kernel does.
const maxXattrs = 64 << 10

func copyXattrs(src, dst *os.File) error {
	list := make([]byte, maxXattrs)
	n, err := unix.Flistxattr(int(src.Fd()), list)
	if errors.Is(err, unix.ENOTSUP) || n == 0 && err == nil {
		return nil
	}
	if err != nil {
		return err
	}
	value := make([]byte, maxXattrs)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if name != "security.capability" && !strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "system.posix_acl_") {
			continue
		}
		size, err := unix.Fgetxattr(int(src.Fd()), name, value)
		if err != nil {
			return fmt.Errorf("read attribute %s: %w", name, err)
		}
		if err := unix.Fsetxattr(int(dst.Fd()), name, value[:size], 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("write attribute %s: %w", name, err)
		}
	}
	return nil
}
