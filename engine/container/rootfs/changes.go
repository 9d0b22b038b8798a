package rootfs

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Kind says how a path differs.
type Kind uint8

// The kinds, with the numbers of the Engine API.
const (
	Modified Kind = iota
	Added
	Deleted
)

// Change is a path of Layers.Upper that differs from what is below.
type Change struct {
	Kind Kind
	Path string // absolute in the root
}

// Changes returns what the upper directory changes, by path. A directory with a
// change below it counts as modified, as overlay copies it up.
func (l Layers) Changes(ctx context.Context) ([]Change, error) {
	if l.Upper == "" {
		return nil, nil
	}
	upper, err := os.OpenFile(l.Upper, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer upper.Close()
	c := comparison{ctx: ctx}
	for _, dir := range l.Lower {
		f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		c.lower = append(c.lower, f)
	}
	if err := c.walk(upper, "/", 0); err != nil {
		return nil, err
	}
	slices.SortFunc(c.found, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return c.found, nil
}

type comparison struct {
	ctx   context.Context // of the call to Changes
	lower []*os.File      // the top first
	found []Change
}

func (c *comparison) walk(dir *os.File, name string, depth int) error {
	if depth > maxDepth {
		return errors.New("the directory is too deep")
	}
	if err := c.ctx.Err(); err != nil {
		return context.Cause(c.ctx)
	}
	for {
		names, err := dir.Readdirnames(256)
		for _, n := range names {
			if err := c.entry(dir, n, path.Join(name, n), depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (c *comparison) entry(dir *os.File, base, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil // the container works on
		}
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 { // overlay's whiteout
		if c.below(name) {
			c.found = append(c.found, Change{Deleted, name})
		}
		return nil
	}
	kind := Added
	if c.below(name) {
		kind = Modified
	}
	c.found = append(c.found, Change{kind, name})
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	sub, err := openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer sub.Close()
	return c.walk(sub, name, depth+1)
}

// below reports whether the layers below show name: the topmost that has it or
// hides it decides.
func (c *comparison) below(name string) bool {
	for _, dir := range c.lower {
		how := unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
		parts := strings.Split(strings.Trim(name, "/"), "/")
		hidden := false
		for i := range parts {
			fd, err := unix.Openat2(int(dir.Fd()), path.Join(parts[:i+1]...), &how)
			if err != nil {
				break
			}
			var st unix.Stat_t
			err = unix.Fstat(fd, &st)
			opaque := make([]byte, 1)
			n, _ := unix.Getxattr("/proc/self/fd/"+strconv.Itoa(fd), "trusted.overlay.opaque", opaque)
			unix.Close(fd)
			if err != nil {
				break
			}
			if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
				return false
			}
			if i == len(parts)-1 {
				return true
			}
			if st.Mode&unix.S_IFMT != unix.S_IFDIR {
				return false
			}
			hidden = hidden || n == 1 && opaque[0] == 'y'
		}
		if hidden {
			return false // an opaque directory without it hides those further down
		}
	}
	return false
}

// Stat describes a file.
type Stat struct {
	Name       string
	Size       int64
	Mode       os.FileMode
	ModTime    time.Time
	LinkTarget string // of a link: the path in the root that it leads to
}

// Lstat describes what name means, and for a link also where it leads.
func (r *Root) Lstat(name string) (Stat, error) {
	clean := path.Clean("/" + name)
	dir, err := r.OpenFile(path.Dir(clean), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return Stat{}, err
	}
	defer dir.Close()
	base := path.Base(clean)
	if clean == "/" {
		base = "."
	}
	fd, err := unix.Openat(int(dir.Fd()), base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return Stat{}, &os.PathError{Op: "lstat", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), path.Base(clean))
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return Stat{}, err
	}
	st := Stat{Name: path.Base(clean), Size: fi.Size(), Mode: fi.Mode(), ModTime: fi.ModTime()}
	if fi.Mode()&os.ModeSymlink == 0 {
		return st, nil
	}
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", target)
	if err != nil {
		return Stat{}, &os.PathError{Op: "readlink", Path: name, Err: err}
	}
	st.LinkTarget = string(target[:n])
	if !path.IsAbs(st.LinkTarget) {
		st.LinkTarget = path.Join(path.Dir(clean), st.LinkTarget)
	}
	st.LinkTarget = path.Clean("/" + st.LinkTarget)
	return st, nil
}

// File returns the root's directory, open for path operations only. It stays the
// Root's.
func (r *Root) File() *os.File { return r.dir }
