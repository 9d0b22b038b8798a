package rootfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/internal/linux/mount"
	"lighter/runc/plan"
)

// CopyUp returns a detached tmpfs with a copy of what the root has at m's
// destination. The source is hostile: it is walked by descriptor, and links in it
// are copied, never followed.
func CopyUp(root *os.File, m *specs.Mount, o *plan.MountOptions) (*os.File, error) {
	fail := func(err error) (*os.File, error) {
		return nil, fmt.Errorf("copy up %q: %w", m.Destination, err)
	}
	opts := *o
	src, err := mount.OpenInRoot(root, strings.TrimPrefix(m.Destination, "/"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	missing := errors.Is(err, unix.ENOENT)
	if err != nil && !missing {
		return fail(err)
	}
	readonly := opts.Set & unix.MOUNT_ATTR_RDONLY
	opts.Set &^= readonly
	dst, err := newFS("tmpfs", m.Source, opts, false)
	if err != nil {
		return fail(err)
	}
	if !missing {
		defer src.Close()
		if err := copyInto(src, dst, opts.Data); err != nil {
			dst.Close()
			return fail(err)
		}
	}
	if readonly != 0 {
		if err := mount.SetAttr(dst, false, mount.Attr{Set: readonly}); err != nil {
			dst.Close()
			return fail(err)
		}
	}
	return dst, nil
}

func copyInto(src, dst *os.File, data []string) error {
	out, err := openAt(dst, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer out.Close()
	st, err := stat(src)
	if err != nil {
		return err
	}
	for _, d := range data {
		if strings.HasPrefix(d, "mode=") {
			st.Mode = 0
		}
	}
	if st.Mode != 0 {
		if err := unix.Fchmod(int(out.Fd()), st.Mode&0o7777); err != nil {
			return os.NewSyscallError("fchmod", err)
		}
	}
	return copyDir(src, out)
}

// copyDir copies the entries of src to dst.
func copyDir(src, dst *os.File) error {
	names, err := src.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := copyEntry(src, dst, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func copyEntry(src, dst *os.File, name string) error {
	var st unix.Stat_t
	sfd, dfd := int(src.Fd()), int(dst.Fd())
	if err := unix.Fstatat(sfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fstatat", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := unix.Mkdirat(dfd, name, 0o700); err != nil {
			return os.NewSyscallError("mkdirat", err)
		}
		in, err := openAt(src, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := openAt(dst, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer out.Close()
		if err := copyDir(in, out); err != nil {
			return err
		}
		return own(out, &st)
	case unix.S_IFREG:
		in, err := openAt(src, name, unix.O_RDONLY|unix.O_NONBLOCK)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := openAt(dst, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
		if err != nil {
			return err
		}
		defer out.Close()
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
		return own(out, &st)
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(sfd, name, buf)
		if err != nil {
			return os.NewSyscallError("readlinkat", err)
		}
		if err := unix.Symlinkat(string(buf[:n]), dfd, name); err != nil {
			return os.NewSyscallError("symlinkat", err)
		}
	default:
		if err := unix.Mknodat(dfd, name, st.Mode, int(st.Rdev)); err != nil {
			return os.NewSyscallError("mknodat", err)
		}
	}
	return os.NewSyscallError("fchownat", unix.Fchownat(dfd, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW))
}

// own gives f the owner and mode of st, in this order: chown clears set-id bits.
func own(f *os.File, st *unix.Stat_t) error {
	if err := unix.Fchown(int(f.Fd()), int(st.Uid), int(st.Gid)); err != nil {
		return os.NewSyscallError("fchown", err)
	}
	return os.NewSyscallError("fchmod", unix.Fchmod(int(f.Fd()), st.Mode&0o7777))
}

// openAt opens an entry of dir without following a link.
func openAt(dir *os.File, name string, flags int) (*os.File, error) {
	c, err := dir.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	if cerr := c.Control(func(d uintptr) {
		fd, err = unix.Openat(int(d), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	}); cerr != nil {
		err = cerr
	}
	if err != nil {
		return nil, &os.PathError{Op: "openat", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}
