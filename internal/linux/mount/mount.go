// Package mount holds thin typed wrappers of the file-descriptor based mount
// system calls (fsopen, fsmount, open_tree, move_mount, mount_setattr) and of
// openat2. Every descriptor it returns is an *os.File that the caller closes and
// is close-on-exec. EINTR is retried here; errors are *os.SyscallError or, where
// a path is known, *os.PathError.
package mount

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Context is a file system that is being configured (fsopen(2)). Its file may be
// closed once Mount has returned.
type Context struct {
	f      *os.File
	fstype string
}

// Open starts the configuration of a file system of type fstype.
func Open(fstype string) (*Context, error) {
	name, err := unix.BytePtrFromString(fstype)
	if err != nil {
		return nil, fmt.Errorf("open file system type %q: %w", fstype, err)
	}
	fd, err := retry(func() (uintptr, unix.Errno) {
		r, _, e := unix.Syscall(unix.SYS_FSOPEN, uintptr(unsafe.Pointer(name)), unix.FSOPEN_CLOEXEC, 0)
		return r, e
	})
	if err != nil {
		return nil, &os.PathError{Op: "fsopen", Path: fstype, Err: err}
	}
	return &Context{f: os.NewFile(fd, "fs:"+fstype), fstype: fstype}, nil
}

// Close gives the context up. Mounts made from it stay.
func (c *Context) Close() error { return c.f.Close() }

// String sets the option key to value.
func (c *Context) String(key, value string) error {
	return c.wrap(key+"="+value, unix.FsconfigSetString(fd(c.f), key, value))
}

// Flag sets the option key, which takes no value.
func (c *Context) Flag(key string) error {
	return c.wrap(key, unix.FsconfigSetFlag(fd(c.f), key))
}

// Mount creates the superblock and returns it as a detached mount with the
// MOUNT_ATTR_* attributes attrs. The mount goes away with the file unless it is
// attached by MoveTo.
func (c *Context) Mount(attrs uint64) (*os.File, error) {
	if err := unix.FsconfigCreate(fd(c.f)); err != nil {
		return nil, c.wrap("create", err)
	}
	m, err := retry(func() (uintptr, unix.Errno) {
		r, _, e := unix.Syscall(unix.SYS_FSMOUNT, uintptr(fd(c.f)), unix.FSMOUNT_CLOEXEC, uintptr(attrs))
		return r, e
	})
	runtime.KeepAlive(c.f)
	if err != nil {
		return nil, &os.PathError{Op: "fsmount", Path: c.fstype, Err: err}
	}
	return os.NewFile(m, "mount:"+c.fstype), nil
}

// wrap adds what the kernel's message queue says about err: file systems explain
// refused options there.
func (c *Context) wrap(what string, err error) error {
	runtime.KeepAlive(c.f)
	if err == nil {
		return nil
	}
	var log [256]byte
	if n, rerr := unix.Read(fd(c.f), log[:]); rerr == nil && n > 2 {
		return fmt.Errorf("configure %s: %s: %w (%s)", c.fstype, what, err, trim(log[2:n]))
	}
	return fmt.Errorf("configure %s: %s: %w", c.fstype, what, err)
}

// CloneTree returns a detached copy of the mount that path lies on, rooted at
// path; recursive copies what is mounted below it, too. The path is resolved as
// the caller's own: symbolic links are followed.
func CloneTree(path string, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return openTree(unix.AT_FDCWD, path, flags)
}

// CloneFile is CloneTree for what f refers to.
func CloneFile(f *os.File, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	defer runtime.KeepAlive(f)
	return openTree(fd(f), "", flags)
}

func openTree(dirfd int, path string, flags uint) (*os.File, error) {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	r, err := retry(func() (uintptr, unix.Errno) {
		r, _, e := unix.Syscall(unix.SYS_OPEN_TREE, uintptr(dirfd), uintptr(unsafe.Pointer(p)), uintptr(flags))
		return r, e
	})
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return os.NewFile(r, "tree:"+path), nil
}

// Attr is a change of mount attributes: MOUNT_ATTR_* bits to set and to clear,
// a propagation type (MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE or 0 to leave
// it), and for MOUNT_ATTR_IDMAP a user namespace.
type Attr struct {
	Set, Clear  uint64
	Propagation uint64
	UserNS      *os.File
}

// SetAttr changes the attributes of the mount tree; recursive includes the mounts
// below it. Linux 5.12 or newer.
func SetAttr(tree *os.File, recursive bool, a Attr) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	attr := unix.MountAttr{Attr_set: a.Set, Attr_clr: a.Clear, Propagation: a.Propagation}
	if a.UserNS != nil {
		attr.Userns_fd = uint64(fd(a.UserNS))
	}
	err := unix.MountSetattr(fd(tree), "", flags, &attr)
	runtime.KeepAlive(tree)
	runtime.KeepAlive(a.UserNS)
	if errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("mount_setattr: %w: needs Linux 5.12 or newer", err)
	}
	return os.NewSyscallError("mount_setattr", err)
}

// Attach puts the detached tree on dir, which it covers.
func Attach(tree, dir *os.File) error {
	defer runtime.KeepAlive(dir)
	defer runtime.KeepAlive(tree)
	err := unix.MoveMount(fd(tree), "", fd(dir), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	return os.NewSyscallError("move_mount", err)
}

// OpenInRoot opens path below root as if root were "/": neither "..", nor an
// absolute symbolic link, nor a magic link leads out of it. flags are open(2)
// flags; O_CLOEXEC is added.
func OpenInRoot(root *os.File, path string, flags int, mode os.FileMode) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Mode:    uint64(mode.Perm()),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	if flags&(unix.O_CREAT|unix.O_TMPFILE) == 0 {
		how.Mode = 0
	}
	// EAGAIN: a rename or mount raced with the walk of "..".
	for range 128 {
		r, err := unix.Openat2(fd(root), path, &how)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		runtime.KeepAlive(root)
		if err != nil {
			return nil, &os.PathError{Op: "openat2", Path: path, Err: err}
		}
		return os.NewFile(uintptr(r), path), nil
	}
	return nil, &os.PathError{Op: "openat2", Path: path, Err: unix.EAGAIN}
}

// fd returns f's descriptor without changing its blocking mode, as f.Fd would.
func fd(f *os.File) int {
	n := -1
	if c, err := f.SyscallConn(); err == nil {
		_ = c.Control(func(v uintptr) { n = int(v) })
	}
	return n
}

func retry(call func() (uintptr, unix.Errno)) (uintptr, error) {
	for {
		r, e := call()
		switch e {
		case 0:
			return r, nil
		case unix.EINTR:
		default:
			return r, e
		}
	}
}

func trim(b []byte) string {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == 0) {
		b = b[:len(b)-1]
	}
	return string(b)
}
