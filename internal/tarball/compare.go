package tarball

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// AddDiff writes the layer that makes the tree upper out of the tree lower.
// Files are the same if their attributes and times are; contents are compared
// only where a time without nanoseconds proves too little. A directory is
// written when it or something in it has changed.
func (w *Writer) AddDiff(ctx context.Context, lower, upper Dir) error {
	c := comparer{ctx: ctx, w: w}
	return c.dirs(int(lower.Fd()), int(upper.Fd()), "")
}

// Dir is an open directory; an *os.File.
type Dir interface{ Fd() uintptr }

type comparer struct {
	ctx     context.Context // of the call to AddDiff
	w       *Writer
	pending []pendingDir // unchanged parents, written before the first change below
}

type pendingDir struct {
	fd   int
	name string
}

// flush writes the parents of a change.
func (c *comparer) flush() error {
	for _, d := range c.pending {
		if d.name == "" {
			continue
		}
		if err := c.w.dir(d.fd, d.name); err != nil {
			return err
		}
	}
	for i := range c.pending {
		c.pending[i].name = ""
	}
	return nil
}

// dirs compares the contents of two directories, given by descriptors that
// may be open for path operations only.
func (c *comparer) dirs(lower, upper int, name string) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	lfd, err := openAt(lower, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(lfd)
	ufd, err := openAt(upper, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ufd)
	lnames, err := readNames(lfd)
	if err != nil {
		return err
	}
	unames, err := readNames(ufd)
	if err != nil {
		return err
	}
	all := slices.Concat(lnames, unames)
	slices.Sort(all)
	for _, n := range slices.Compact(all) {
		if err := c.entry(lfd, ufd, n, path.Join(name, n)); err != nil {
			return err
		}
	}
	return nil
}

func (c *comparer) entry(lfd, ufd int, base, name string) error {
	lst, lerr := statAt(lfd, base)
	ust, uerr := statAt(ufd, base)
	for _, err := range []error{lerr, uerr} {
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("compare %q: %w", name, err)
		}
	}
	switch {
	case lerr != nil && uerr != nil:
		return nil
	case uerr != nil:
		if err := c.flush(); err != nil {
			return err
		}
		return c.w.whiteout(name)
	case lerr != nil:
		if err := c.flush(); err != nil {
			return err
		}
		return c.w.tree(c.ctx, ufd, base, name, &ust)
	}
	same, err := c.same(lfd, ufd, base, &lst, &ust)
	if err != nil {
		return fmt.Errorf("compare %q: %w", name, err)
	}
	isDir := func(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }
	if !isDir(&lst) || !isDir(&ust) {
		if same {
			return nil
		}
		if err := c.flush(); err != nil {
			return err
		}
		return c.w.tree(c.ctx, ufd, base, name, &ust)
	}
	ldir, err := openAt(lfd, base, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ldir)
	udir, err := openAt(ufd, base, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(udir)
	c.pending = append(c.pending, pendingDir{udir, name})
	defer func() { c.pending = c.pending[:len(c.pending)-1] }()
	if !same {
		if err := c.flush(); err != nil {
			return err
		}
	}
	return c.dirs(ldir, udir, name)
}

// same reports whether an entry of both trees has not changed.
func (c *comparer) same(lfd, ufd int, base string, a, b *unix.Stat_t) (bool, error) {
	if a.Dev == b.Dev && a.Ino == b.Ino {
		return true, nil
	}
	kind := a.Mode & unix.S_IFMT
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Rdev != b.Rdev {
		return false, nil
	}
	if kind != unix.S_IFDIR && (a.Size != b.Size || a.Mtim != b.Mtim) {
		return false, nil
	}
	ax, err := readXattrsAt(lfd, base)
	if err != nil {
		return false, err
	}
	bx, err := readXattrsAt(ufd, base)
	if err != nil {
		return false, err
	}
	if !maps.Equal(ax, bx) {
		return false, nil
	}
	switch {
	case kind == unix.S_IFLNK:
		al, bl := make([]byte, unix.PathMax), make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(lfd, base, al)
		if err != nil {
			return false, err
		}
		m, err := unix.Readlinkat(ufd, base, bl)
		return err == nil && bytes.Equal(al[:n], bl[:m]), err
	case kind == unix.S_IFREG && a.Mtim.Nsec == 0 && a.Size > 0:
		return sameContents(lfd, ufd, base)
	}
	return true, nil
}

func sameContents(lfd, ufd int, base string) (bool, error) {
	a, err := openAt(lfd, base, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(a)
	b, err := openAt(ufd, base, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(b)
	abuf, bbuf := make([]byte, 128<<10), make([]byte, 128<<10)
	for off := int64(0); ; {
		n, err := unix.Pread(a, abuf, off)
		if err != nil {
			return false, err
		}
		m, err := unix.Pread(b, bbuf, off)
		if err != nil {
			return false, err
		}
		if n != m || !bytes.Equal(abuf[:n], bbuf[:m]) {
			return false, nil
		}
		if n == 0 {
			return true, nil
		}
		off += int64(n)
	}
}
