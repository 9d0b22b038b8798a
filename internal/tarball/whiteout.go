package tarball

import (
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// whiteout handles the entry base of dir if it is a whiteout; done says that
// there is nothing to make. A whiteout concerns the layers below, whatever its
// place in the archive: what the archive itself makes stays.
func (x *extractor) whiteout(dir, base string) (done bool, err error) {
	if strings.Contains(dir, whiteoutPrefix) {
		for c := range strings.SplitSeq(dir, "/") {
			if strings.HasPrefix(c, whiteoutMeta) {
				return true, nil // of aufs
			}
			if strings.HasPrefix(c, whiteoutPrefix) {
				return false, invalid("entry below a whiteout")
			}
		}
	}
	name, ok := strings.CutPrefix(base, whiteoutPrefix)
	if !ok {
		return false, nil
	}
	opaque := base == whiteoutOpaque
	if !opaque && strings.HasPrefix(base, whiteoutMeta) {
		return true, nil
	}
	if !opaque && (name == "" || name == "." || name == "..") {
		return false, invalid("whiteout of %q", name)
	}
	d, err := x.tree.dir(dir, x.o.Whiteouts == Overlay)
	if err != nil {
		if x.o.Whiteouts == Delete && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)) {
			return true, nil
		}
		return false, err
	}
	switch {
	case x.o.Whiteouts == Overlay && opaque:
		return true, x.hideAll(d)
	case x.o.Whiteouts == Overlay:
		return true, x.hide(d, name)
	case opaque:
		return true, x.clean(d, ".", dir)
	default:
		return true, x.delete(d, name, path.Join(dir, name))
	}
}

// hide makes an overlay whiteout, or an opaque directory where the archive has
// made a directory of that name before.
func (x *extractor) hide(d *dir, name string) error {
	err := retry(func() error { return unix.Mknodat(d.fd, name, unix.S_IFCHR, 0) })
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	fd, err := openAt(d.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		return nil // another kind of file hides as well
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return x.tree.setOpaque(fd)
}

// hideAll makes d opaque. Overlayfs does not look at the root's attribute: its
// entries are hidden one by one.
func (x *extractor) hideAll(d *dir) error {
	if d == x.tree.root {
		lowers, err := x.tree.lower()
		if err != nil {
			return err
		}
		for _, l := range lowers {
			fd, err := openAt(l, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
			if err != nil {
				return err
			}
			names, err := readNames(fd)
			unix.Close(fd)
			if err != nil {
				return err
			}
			for _, name := range names {
				if err := x.hide(d, name); err != nil {
					return err
				}
			}
		}
		return nil
	}
	fd, err := openAt(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return x.tree.setOpaque(fd)
}

// mark records that the archive has made p, and with it its parents.
func (x *extractor) mark(p string) {
	for p != "" && !x.made.has(p) {
		x.made.add(p)
		p, _ = split(p)
	}
}

// delete removes what the layers below have at p.
func (x *extractor) delete(d *dir, name, p string) error {
	if x.made.has(p) {
		return x.clean(d, name, p)
	}
	x.tree.forget()
	return removeTree(d.fd, name)
}

// clean removes from the directory p what the layers below have in it. A
// directory is visited once, however many whiteouts ask for it.
func (x *extractor) clean(d *dir, name, p string) error {
	if x.cleaned.has(p) {
		return nil
	}
	x.cleaned.add(p)
	x.tree.forget()
	return removeInside(d.fd, name, p, func(sub string) (keep, enter bool) {
		if !x.made.has(sub) {
			return false, false
		}
		enter = !x.cleaned.has(sub)
		if enter {
			x.cleaned.add(sub)
		}
		return true, enter
	})
}
