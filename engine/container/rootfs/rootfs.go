// Package rootfs is a container's file system as the engine sees it: a detached
// mount that no mount table shows, or the root of a running process, entered
// only with openat2 confined to that root.
//
// Everything below a Root is hostile. Paths are resolved once, to a descriptor,
// with symbolic links that lead no further than the root; content is opened
// without following a link in the last step and without blocking on fifos.
// (CVE-2014-6407, CVE-2018-15664, CVE-2024-9676)
//
// The mount API needs Linux 5.2; overlay options longer than 255 bytes and more
// than a few layers need 6.8, below which a private mount namespace of one
// thread takes its place.
package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Root is the root directory of a container. The owner closes it, which for a
// detached mount also unmounts it.
type Root struct {
	dir *os.File
	ns  *os.File // the mount namespace that keeps what is mounted on dir; nil without
}

// Open shows mounts, the answer of a snapshotter, writable. The container must
// not run: two overlays on one upper directory corrupt each other.
func Open(mounts []mount.Mount) (*Root, error) {
	l, err := parse(mounts)
	if err != nil {
		return nil, err
	}
	return l.attach()
}

// View shows mounts read-only. It does not touch the upper and work directories,
// so the container may run, though it may then miss what is written meanwhile.
func View(mounts []mount.Mount) (*Root, error) {
	l, err := parse(mounts)
	if err != nil {
		return nil, err
	}
	if l.upper != "" {
		l.lower = append([]string{l.upper}, l.lower...)
		l.upper, l.work = "", ""
	}
	l.readOnly = true
	return l.attach()
}

// OfProcess returns the root directory of process pid, which must be in a control
// group of container id, with all that is mounted in it. A process that got the
// pid of a container's that has ended is thus never taken for it: everything is
// read through one descriptor of /proc/PID, which stands for one process.
//
// Errors: NotFound when the process has ended or is not the container's.
func OfProcess(pid int, id string) (*Root, error) {
	proc, err := os.OpenFile("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("find process %d of container %s: %w", pid, id, errdefs.ErrNotFound)
	}
	defer proc.Close()
	root, err := openFrom(proc, "root", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, fmt.Errorf("open root of process %d: %w", pid, err)
	}
	groups, err := readat(proc, "cgroup")
	if err == nil && !bytes.Contains(groups, []byte(id)) {
		err = fmt.Errorf("process %d is not of container %s: %w", pid, id, errdefs.ErrNotFound)
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return &Root{dir: root}, nil
}

func openFrom(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// maxCgroupFile bounds /proc/PID/cgroup, which has a line per hierarchy.
const maxCgroupFile = 1 << 20

func readat(dir *os.File, name string) ([]byte, error) {
	f, err := openFrom(dir, name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxCgroupFile))
}

// Dir returns a Root over an existing directory of the host.
func Dir(name string) (*Root, error) {
	dir, err := os.OpenFile(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &Root{dir: dir}, nil
}

// Close releases the root.
func (r *Root) Close() error {
	var errs []error
	for _, f := range []*os.File{r.dir, r.ns} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Layers are the directories of a snapshot, for comparing them. Upper is "" for
// a snapshot that is not writable.
type Layers struct {
	Upper string
	Lower []string // the top first
}

// LayersOf returns the directories that mounts are made of.
func LayersOf(mounts []mount.Mount) (Layers, error) {
	l, err := parse(mounts)
	return Layers{l.upper, l.lower}, err
}

type layers struct {
	upper, work string
	lower       []string
	options     []string // of overlay, as key=value or flag
	readOnly    bool
}

// parse reads the one mount that overlay and native snapshotters return.
func parse(mounts []mount.Mount) (layers, error) {
	var l layers
	if len(mounts) != 1 {
		return l, fmt.Errorf("show snapshot: %d mounts instead of one", len(mounts))
	}
	m := mounts[0]
	switch m.Type {
	case "bind", "rbind":
		l.upper = m.Source
		for _, o := range m.Options {
			if o == "ro" {
				l.upper, l.lower, l.readOnly = "", []string{m.Source}, true
			}
		}
	case "overlay":
		for _, o := range m.Options {
			key, value, _ := strings.Cut(o, "=")
			switch key {
			case "lowerdir":
				l.lower = strings.Split(value, ":")
			case "upperdir":
				l.upper = value
			case "workdir":
				l.work = value
			case "ro":
				l.readOnly = true
			case "rw":
			default:
				l.options = append(l.options, o)
			}
		}
		if l.upper == "" {
			l.readOnly = true
		}
	default:
		return l, fmt.Errorf("show snapshot: mounts of type %q are not supported", m.Type)
	}
	return l, nil
}

// damage says which directory of the layers is none: the kernel names no layer
// when it refuses them.
func (l layers) damage() error {
	for _, dir := range append([]string{l.upper, l.work}, l.lower...) {
		if dir == "" {
			continue
		}
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return &os.PathError{Op: "stat", Path: dir, Err: unix.ENOTDIR}
		}
	}
	return nil
}

// attach makes the detached mount.
func (l layers) attach() (*Root, error) {
	var fd int
	var err error
	switch {
	case len(l.lower) == 0:
		fd, err = clone(l.upper)
	case l.upper == "" && len(l.lower) == 1:
		fd, err = clone(l.lower[0])
	default:
		fd, err = l.overlay()
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
			fd, err = l.overlayInNamespace()
		}
	}
	if err != nil {
		if damage := l.damage(); damage != nil {
			err = damage
		}
		return nil, fmt.Errorf("show snapshot: %w", err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
	if l.readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil && !errors.Is(err, unix.ENOSYS) { // 5.12
		unix.Close(fd)
		return nil, fmt.Errorf("show snapshot: %w", os.NewSyscallError("mount_setattr", err))
	}
	return &Root{dir: os.NewFile(uintptr(fd), "rootfs")}, nil
}

// clone returns a detached copy of the mount at dir, rooted there.
func clone(dir string) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	return fd, os.NewSyscallError("open_tree", err)
}

func (l layers) overlay() (int, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	for _, dir := range l.lower {
		if err := unix.FsconfigSetString(fs, "lowerdir+", dir); err != nil {
			return -1, os.NewSyscallError("fsconfig", err)
		}
	}
	set := l.options
	if l.upper != "" {
		set = append(set[:len(set):len(set)], "upperdir="+l.upper, "workdir="+l.work)
	}
	for _, o := range set {
		key, value, hasValue := strings.Cut(o, "=")
		if hasValue {
			err = unix.FsconfigSetString(fs, key, value)
		} else {
			err = unix.FsconfigSetFlag(fs, key)
		}
		if err != nil {
			return -1, os.NewSyscallError("fsconfig", err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, os.NewSyscallError("fsconfig", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	return fd, os.NewSyscallError("fsmount", err)
}

// overlayInNamespace mounts with mount(2) in a mount namespace of its own thread
// and clones the result out of it.
func (l layers) overlayInNamespace() (int, error) {
	dir, err := os.MkdirTemp("", "rootfs-*")
	if err != nil {
		return -1, err
	}
	defer os.Remove(dir)
	data := append([]string{"lowerdir=" + strings.Join(l.lower, ":")}, l.options...)
	if l.upper != "" {
		data = append(data, "upperdir="+l.upper, "workdir="+l.work)
	}
	type result struct {
		fd  int
		err error
	}
	c := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			c <- result{-1, os.NewSyscallError("unshare", err)}
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			c <- result{-1, os.NewSyscallError("mount", err)}
			return
		}
		if err := unix.Mount("overlay", dir, "overlay", 0, strings.Join(data, ",")); err != nil {
			c <- result{-1, os.NewSyscallError("mount", err)}
			return
		}
		fd, err := clone(dir)
		c <- result{fd, err}
	}()
	r := <-c
	return r.fd, r.err
}

// resolve is how every path below a root is looked up.
const resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// OpenFile opens the file that name means inside the root. Links lead no further
// than the root. flags may not create files.
func (r *Root) OpenFile(name string, flags int) (*os.File, error) {
	return r.open(name, flags, resolve)
}

// OpenWithin is OpenFile for a path that must lie inside the root as it is: a link
// that leads out, or is absolute, is refused with EXDEV.
func (r *Root) OpenWithin(name string, flags int) (*os.File, error) {
	return r.open(name, flags, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS)
}

func (r *Root) open(name string, flags int, resolve uint64) (*os.File, error) {
	f, err := openat2(r.dir, name, flags, resolve)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return f, nil
}

func openat2(dir *os.File, name string, flags int, resolve uint64) (*os.File, error) {
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: resolve}
	if name = strings.TrimLeft(path.Clean("/"+name), "/"); name == "" {
		name = "."
	}
	for {
		fd, err := unix.Openat2(int(dir.Fd()), name, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN): // EAGAIN: a rename or mount raced
			continue
		}
		return nil, err
	}
}

// ReadFile returns the regular file that name means, or an error when it is
// larger than limit bytes.
func (r *Root) ReadFile(name string, limit int64) ([]byte, error) {
	f, err := r.OpenFile(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := regular(f); err != nil {
		return nil, &os.PathError{Op: "read", Path: name, Err: err}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return data, err
}

func regular(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("not a regular file")
	}
	return nil
}

// MkdirAll makes the directory that name means and its missing parents, owned by
// root, and reports whether the directory was there already. A file in the way
// is ENOTDIR.
func (r *Root) MkdirAll(name string, perm uint32) (existed bool, err error) {
	if d, err := r.OpenFile(name, unix.O_PATH|unix.O_DIRECTORY); err == nil {
		return true, d.Close()
	} else if !errors.Is(err, unix.ENOENT) {
		return false, err
	}
	clean := path.Clean("/" + name)
	parent, base := path.Split(clean)
	if parent != "/" {
		if _, err := r.MkdirAll(parent, perm); err != nil {
			return false, err
		}
	}
	d, err := r.OpenFile(parent, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return false, err
	}
	defer d.Close()
	if err := unix.Mkdirat(int(d.Fd()), base, perm); err != nil && !errors.Is(err, unix.EEXIST) {
		return false, &os.PathError{Op: "mkdir", Path: clean, Err: err}
	}
	again, err := r.OpenFile(clean, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil { // a dangling link stands there
		return false, err
	}
	return false, again.Close()
}

// Mounted reports whether dir is a mount point.
func Mounted(dir string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &st)
	return err == nil && st.Attributes_mask&st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 // Linux 5.8
}
