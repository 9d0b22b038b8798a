package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// Attachment is something that a container mounts into its root: a file or
// directory of the host, or an image.
type Attachment struct {
	Source   string        // of the host
	Layers   []mount.Mount // of an image, instead of Source; always read-only
	Subpath  string        // inside Source or the image, resolved confined to it
	Target   string        // in the root
	ReadOnly bool
}

// Compose shows mounts, the answer of a snapshotter, with the attachments on
// their targets, as the container would have them. Without writable all is
// read-only, and the container may run as with View. An attachment whose source
// does not exist is left out; a target that does not exist is made, without
// writable only in the Root's own view.
//
// The mounts are in a mount namespace of the Root's own, which ends with it:
// nothing is seen on the host.
func Compose(mounts []mount.Mount, attachments []Attachment, writable bool) (*Root, error) {
	l, err := parse(mounts)
	if err != nil {
		return nil, err
	}
	if !writable {
		if l.upper != "" {
			l.lower = append([]string{l.upper}, l.lower...)
			l.upper, l.work = "", ""
		}
		l.readOnly = true
	}
	type result struct {
		root *Root
		err  error
	}
	c := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends in its namespace
		root, err := compose(l, attachments)
		c <- result{root, err}
	}()
	r := <-c
	if r.err != nil {
		return nil, fmt.Errorf("show the container's file system: %w", r.err)
	}
	return r.root, nil
}

// compose runs on a thread of its own, whose mount namespace it replaces. Mounts
// are put on top of "/", which does not change what paths of the host mean.
func compose(l layers, attachments []Attachment) (*Root, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, os.NewSyscallError("mount", err)
	}
	ns, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, err
	}
	root, err := l.attach()
	if err == nil {
		err = stack(root.dir)
	}
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	root.ns = ns
	for _, a := range attachments {
		err := root.put(a, l.readOnly)
		if errors.Is(err, errNoTarget) {
			// The rest too: what was attached is gone with the former view.
			root.Close()
			return composeOnScratch(l, attachments)
		}
		if err != nil {
			root.Close()
			return nil, fmt.Errorf("mount %s: %w", a.Target, err)
		}
	}
	return root, nil
}

// errNoTarget says that a target is missing where it cannot be made.
var errNoTarget = errors.New("the mount point does not exist")

// composeOnScratch is compose for a view in which mount points have to be made:
// they go to a layer in memory.
func composeOnScratch(l layers, attachments []Attachment) (_ *Root, err error) {
	ns, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, err
	}
	root := &Root{ns: ns}
	defer func() {
		if err != nil {
			root.Close()
		}
	}()
	scratch, err := tmpfs()
	if err != nil {
		return nil, err
	}
	defer scratch.Close()
	if err := stack(scratch); err != nil {
		return nil, err
	}
	for _, name := range []string{"upper", "work"} {
		if err := unix.Mkdirat(int(scratch.Fd()), name, 0o755); err != nil {
			return nil, os.NewSyscallError("mkdirat", err)
		}
	}
	at := fmt.Sprintf("/proc/thread-self/fd/%d/", scratch.Fd())
	l.upper, l.work, l.readOnly = at+"upper", at+"work", false
	shown, err := l.attach()
	if err != nil {
		return nil, err
	}
	root.dir = shown.dir
	if err := stack(root.dir); err != nil {
		return nil, err
	}
	for _, a := range attachments {
		a.ReadOnly = true
		if err := root.put(a, false); err != nil {
			return nil, fmt.Errorf("mount %s: %w", a.Target, err)
		}
	}
	return root, nil
}

func tmpfs() (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	return os.NewFile(uintptr(fd), "tmpfs"), nil
}

// stack makes the detached mount tree a part of the thread's namespace.
func stack(tree *os.File) error {
	return os.NewSyscallError("move_mount", unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH))
}

// put mounts an attachment in the root, whose namespace is the thread's.
func (r *Root) put(a Attachment, readOnly bool) error {
	source, err := a.open()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer source.Close()
	fd, err := unix.OpenTree(int(source.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	tree := os.NewFile(uintptr(fd), a.Target)
	defer tree.Close()
	if a.ReadOnly || readOnly || a.Layers != nil {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
		if err != nil && (!readOnly || !errors.Is(err, unix.ENOSYS)) { // 5.12; a view is not written to anyway
			return os.NewSyscallError("mount_setattr", err)
		}
	}
	target, err := r.target(a.Target, tree, readOnly)
	if err != nil {
		return err
	}
	defer target.Close()
	return os.NewSyscallError("move_mount", unix.MoveMount(fd, "", int(target.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// open opens the source of an attachment.
func (a Attachment) open() (*os.File, error) {
	if a.Layers == nil {
		if a.Subpath == "" {
			return os.OpenFile(a.Source, unix.O_PATH|unix.O_CLOEXEC, 0)
		}
		dir, err := Dir(a.Source)
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		return dir.OpenWithin(a.Subpath, unix.O_PATH)
	}
	image, err := View(a.Layers)
	if err != nil {
		return nil, err
	}
	if err := stack(image.dir); err != nil || a.Subpath == "" {
		return image.dir, err
	}
	defer image.Close()
	return image.OpenWithin(a.Subpath, unix.O_PATH)
}

// target opens the mount point for tree, and makes it unless readOnly.
func (r *Root) target(name string, tree *os.File, readOnly bool) (*os.File, error) {
	f, err := r.OpenFile(name, unix.O_PATH)
	if err == nil || !errors.Is(err, unix.ENOENT) {
		return f, err
	}
	if readOnly {
		return nil, errNoTarget
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(tree.Fd()), &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	const perm = 0o755
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		_, err = r.MkdirAll(name, perm)
	} else {
		_, err = r.MkdirAll(path.Dir(name), perm)
		if err == nil {
			err = r.touch(name)
		}
	}
	if err != nil {
		return nil, err
	}
	return r.OpenFile(name, unix.O_PATH)
}

// touch makes an empty file in a directory that exists.
func (r *Root) touch(name string) error {
	dir, err := r.OpenFile(path.Dir(name), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	const perm = 0o644
	fd, err := unix.Openat(int(dir.Fd()), path.Base(name), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
	if err != nil {
		return &os.PathError{Op: "create", Path: name, Err: err}
	}
	return unix.Close(fd)
}
