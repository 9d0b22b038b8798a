// Package rootfs prepares, in the parent, the mounts that a container's child
// attaches: its root, the trees of its bind mounts, the device of masks. All are
// detached: they are in no mount namespace until the child moves them into its
// own, and vanish if it does not.
package rootfs

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/internal/linux/mount"
	"lighter/runc/plan"
)

// Mount describes a mount in the words of mount(8).
type Mount struct {
	Type, Source, Target string
	Options              []string
}

// Root returns the detached root of a container: a copy of the tree at dir, or
// what mounts describe. The caller closes it.
//
// Errors: NotImplemented for a list of mounts that is more than one file system.
func Root(dir string, mounts []Mount) (*os.File, error) {
	if len(mounts) == 0 {
		tree, err := mount.CloneTree(dir, true)
		if err != nil {
			return nil, fmt.Errorf("open root: %w", err)
		}
		return private(tree, mount.Attr{})
	}
	if len(mounts) > 1 || mounts[0].Target != "" {
		return nil, fmt.Errorf("mount root: %d mounts, the first on %q: %w", len(mounts), mounts[0].Target, errdefs.ErrNotImplemented)
	}
	m := mounts[0]
	o, err := plan.ParseOptions(&specs.Mount{Destination: "/", Type: m.Type, Options: m.Options})
	if err != nil {
		return nil, fmt.Errorf("mount root: %w", err)
	}
	if o.Bind {
		tree, err := mount.CloneTree(m.Source, o.Recursive)
		if err != nil {
			return nil, fmt.Errorf("mount root: %w", err)
		}
		set, clear := o.BindAttr()
		return private(tree, mount.Attr{Set: set, Clear: clear})
	}
	tree, err := newFS(m.Type, m.Source, o, true)
	if errors.Is(err, unix.EINVAL) && m.Type == "overlay" {
		// Linux before 6.5 has no "lowerdir+".
		tree, err = newFS(m.Type, m.Source, o, false)
	}
	if err != nil {
		return nil, fmt.Errorf("mount root: %w", err)
	}
	return tree, nil
}

// private cuts a cloned tree off from the peer groups of its source, from which
// it still receives.
func private(tree *os.File, a mount.Attr) (*os.File, error) {
	err := mount.SetAttr(tree, true, mount.Attr{Propagation: unix.MS_SLAVE})
	if err == nil && a.Set|a.Clear != 0 {
		err = mount.SetAttr(tree, false, a)
	}
	if err != nil {
		tree.Close()
		return nil, fmt.Errorf("mount root: %w", err)
	}
	return tree, nil
}

// newFS mounts a new file system. With split the layers of an overlay are added
// one by one: a string option holds 255 bytes at most.
func newFS(fstype, source string, o plan.MountOptions, split bool) (*os.File, error) {
	c, err := mount.Open(fstype)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if source != "" {
		if err := c.String("source", source); err != nil {
			return nil, err
		}
	}
	for _, f := range o.Super {
		if err := c.Flag(f); err != nil {
			return nil, err
		}
	}
	for _, d := range o.Data {
		key, value, hasValue := strings.Cut(d, "=")
		switch {
		case key == "lowerdir" && hasValue && fstype == "overlay" && split && !strings.Contains(value, "::"):
			for _, layer := range splitLayers(value) {
				if err := c.String("lowerdir+", layer); err != nil {
					return nil, err
				}
			}
		case hasValue:
			err = c.String(key, value)
		default:
			err = c.Flag(key)
		}
		if err != nil {
			return nil, err
		}
	}
	return c.Mount(o.Set)
}

// splitLayers splits a lowerdir option, in which a backslash escapes a colon.
func splitLayers(s string) []string {
	var layers []string
	var cur strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			cur.WriteByte(s[i])
		case s[i] == ':':
			layers = append(layers, cur.String())
			cur.Reset()
		default:
			cur.WriteByte(s[i])
		}
	}
	return append(layers, cur.String())
}

// Bind returns the detached tree of a bind mount with its attributes set, and
// whether it is a directory. rootfs is linux.rootfsPropagation; userNS is the
// namespace of its id mapping, or nil. The caller closes the tree.
//
// A container in a user namespace (locks) cannot have attributes of the source
// taken away.
func Bind(m *specs.Mount, o *plan.MountOptions, rootfs string, userNS *os.File, locks bool) (*os.File, bool, error) {
	tree, err := mount.CloneTree(m.Source, o.Recursive)
	if err != nil {
		return nil, false, fmt.Errorf("mount %q on %q: %w", m.Source, m.Destination, err)
	}
	if locks {
		if err := Lock(tree, m, o); err != nil {
			tree.Close()
			return nil, false, err
		}
	}
	dir, err := prepare(tree, o, rootfs, userNS)
	if err != nil {
		tree.Close()
		return nil, false, fmt.Errorf("mount %q on %q: %w", m.Source, m.Destination, err)
	}
	return tree, dir, nil
}

// Lock makes o obey the locks on the attributes of tree, the source of m.
func Lock(tree *os.File, m *specs.Mount, o *plan.MountOptions) error {
	var st unix.Statfs_t
	c, err := tree.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := c.Control(func(fd uintptr) { err = unix.Fstatfs(int(fd), &st) }); cerr != nil {
		err = cerr
	}
	if err == nil {
		err = o.Lock(st.Flags)
	}
	if err != nil {
		// Docker compatibility: the words are runc's.
		return fmt.Errorf("unable to start container process: error during container init: error mounting %q to rootfs at %q: %w",
			m.Source, m.Destination, err)
	}
	return nil
}

func prepare(tree *os.File, o *plan.MountOptions, rootfs string, userNS *os.File) (bool, error) {
	for _, p := range plan.BindPropagation(o, rootfs) {
		if err := mount.SetAttr(tree, p.Recursive, mount.Attr{Propagation: p.Type}); err != nil {
			return false, err
		}
	}
	if set, clear := o.BindAttr(); set|clear != 0 {
		if err := mount.SetAttr(tree, false, mount.Attr{Set: set, Clear: clear}); err != nil {
			return false, err
		}
	}
	if o.RecSet|o.RecClear != 0 {
		if err := mount.SetAttr(tree, true, mount.Attr{Set: o.RecSet, Clear: o.RecClear}); err != nil {
			return false, err
		}
	}
	if userNS != nil {
		if err := mount.SetAttr(tree, o.RecIDMap, mount.Attr{Set: unix.MOUNT_ATTR_IDMAP, UserNS: userNS}); err != nil {
			return false, err
		}
	}
	return IsDir(tree)
}

// Tree returns a detached tree of path with the attributes attrs.
func Tree(path string, attrs uint64) (*os.File, error) {
	tree, err := mount.CloneTree(path, false)
	if err != nil {
		return nil, err
	}
	if err := mount.SetAttr(tree, false, mount.Attr{Set: attrs, Propagation: unix.MS_PRIVATE}); err != nil {
		tree.Close()
		return nil, err
	}
	return tree, nil
}

// HeldDevice are the attributes of a mount that shows a device of the host. Data
// still passes in both directions; what read-only keeps the container's root from
// is changing the mode, owner or times of the host's device, of which it is the
// owner too.
const HeldDevice = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC

// Null returns a detached tree of the host's /dev/null with the attributes
// HeldDevice. It is verified to be that device (CVE-2025-31133).
func Null() (*os.File, error) {
	tree, err := Tree("/dev/null", HeldDevice)
	if err != nil {
		return nil, fmt.Errorf("open /dev/null: %w", err)
	}
	if err := verifyNull(tree); err != nil {
		tree.Close()
		return nil, err
	}
	return tree, nil
}

// OpenNull opens /dev/null for reading and writing and verifies it. For root the
// descriptor belongs to a mount with the attributes HeldDevice: fchmod(2) by a
// container that has it does not reach the host. Nobody else owns the device.
func OpenNull() (*os.File, error) {
	path := "/dev/null"
	if os.Geteuid() == 0 {
		tree, err := Null()
		if err != nil {
			return nil, err
		}
		defer tree.Close()
		path = fmt.Sprintf("/proc/self/fd/%d", tree.Fd())
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/null", Err: err}
	}
	f := os.NewFile(uintptr(fd), "/dev/null")
	if err := verifyNull(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// IsNull reports whether st is of the null device.
func IsNull(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}

func verifyNull(f *os.File) error {
	st, err := stat(f)
	if err != nil {
		return err
	}
	if !IsNull(&st) {
		return fmt.Errorf("open /dev/null: it is not the null device")
	}
	return nil
}

// IsDir reports whether f is a directory.
func IsDir(f *os.File) (bool, error) {
	st, err := stat(f)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR, err
}

func stat(f *os.File) (unix.Stat_t, error) {
	var st unix.Stat_t
	c, err := f.SyscallConn()
	if err != nil {
		return st, err
	}
	if cerr := c.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &st) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return st, &os.PathError{Op: "fstat", Path: f.Name(), Err: err}
	}
	return st, nil
}
