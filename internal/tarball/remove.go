package tarball

import (
	"errors"
	"path"

	"golang.org/x/sys/unix"
)

// frame is a directory that removal is inside of.
type frame struct {
	name     string // in the directory above
	path     string // only for keep
	dev, ino uint64
	names    []string // still to visit
	kept     bool
}

// removeTree removes name from the directory dir, with all below it if it is a
// directory. It follows no link and crosses no mount, and holds one descriptor
// however deep the tree. A name that does not exist is fine.
func removeTree(dir int, name string) error {
	err := retry(func() error { return unix.Unlinkat(dir, name, 0) })
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	err = retry(func() error { return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) })
	if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := removeInside(dir, name, "", nil); err != nil {
		return err
	}
	return retry(func() error { return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) })
}

// removeInside removes what is in the directory name of dir, known as p to
// keep, which may spare an entry and have its contents visited instead. A name
// that is no directory has no contents.
func removeInside(dir int, name, p string, keep func(p string) (keep, enter bool)) error {
	cur, err := openAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { unix.Close(cur) }()
	top, err := newFrame(cur, name, p)
	if err != nil {
		return err
	}
	stack := []*frame{top}
	for {
		f := stack[len(stack)-1]
		if len(f.names) == 0 {
			stack = stack[:len(stack)-1]
			if len(stack) == 0 {
				return nil
			}
			if cur, err = goUp(cur, stack[len(stack)-1]); err != nil {
				return err
			}
			if !f.kept {
				if err := retry(func() error { return unix.Unlinkat(cur, f.name, unix.AT_REMOVEDIR) }); err != nil {
					return err
				}
			}
			continue
		}
		n := f.names[len(f.names)-1]
		f.names = f.names[:len(f.names)-1]
		sub := ""
		kept := false
		if keep != nil {
			sub = path.Join(f.path, n)
			var enter bool
			if kept, enter = keep(sub); kept && !enter {
				continue
			}
		}
		if !kept {
			err := retry(func() error { return unix.Unlinkat(cur, n, 0) })
			if errors.Is(err, unix.EISDIR) {
				err = retry(func() error { return unix.Unlinkat(cur, n, unix.AT_REMOVEDIR) })
			}
			if err == nil || errors.Is(err, unix.ENOENT) {
				continue
			}
			if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
				return err
			}
		}
		down, err := openAt(cur, n, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
		if kept && (errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO)) {
			continue
		}
		if err != nil {
			return err
		}
		next, err := newFrame(down, n, sub)
		if err == nil && next.dev != top.dev {
			err = unix.EXDEV
		}
		if err != nil {
			unix.Close(down)
			return err
		}
		next.kept = kept
		unix.Close(cur)
		cur = down
		stack = append(stack, next)
	}
}

func newFrame(fd int, name, p string) (*frame, error) {
	st, err := statAt(fd, "")
	if err != nil {
		return nil, err
	}
	names, err := readNames(fd)
	if err != nil {
		return nil, err
	}
	return &frame{name: name, path: p, dev: st.Dev, ino: st.Ino, names: names}, nil
}

// goUp returns the parent of cur, which it closes, provided that it still is
// the directory of f.
func goUp(cur int, f *frame) (int, error) {
	up, err := openAt(cur, "..", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return cur, err
	}
	unix.Close(cur)
	st, err := statAt(up, "")
	if err != nil {
		return up, err
	}
	if st.Dev != f.dev || st.Ino != f.ino {
		return up, unix.ESTALE // someone moved it meanwhile
	}
	return up, nil
}

// readNames returns the names in the open directory fd.
func readNames(fd int) (names []string, err error) {
	buf := make([]byte, 32<<10)
	for {
		var n int
		err := retry(func() error {
			n, err = unix.Getdents(fd, buf)
			return err
		})
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}
