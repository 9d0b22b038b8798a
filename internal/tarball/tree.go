package tarball

import (
	"errors"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	maxCachedDirs = 64
	// maxRestarts bounds the links and ".." that descend follows, as the
	// kernel does.
	maxRestarts = 40
)

// tree is where an archive goes: a root directory with cached descriptors of
// the directories below, and the layers under it.
type tree struct {
	root       *dir
	lowers     []int                      // of Options.Lower, not owned; see lower
	lowerFunc  func() ([]*os.File, error) // nil once lowers are known
	overlay    bool
	opaqueAttr string

	dirs  map[string]*dir
	tick  uint64
	stale []int // descriptors that the current entry may still use

	// times are those that directories get in the end, by dir.path.
	times map[string][2]unix.Timespec
}

// dir is an open directory, good for *at calls.
type dir struct {
	fd int
	// path names it from the root; other than the name it was asked by, it
	// holds no link of a lower layer.
	path   string
	setgid bool // new files get its group
	used   uint64
}

func newTree(root int, o Options) *tree {
	t := &tree{
		root:       &dir{fd: root},
		overlay:    o.Whiteouts == Overlay,
		opaqueAttr: "trusted.overlay.opaque",
		dirs:       map[string]*dir{},
		times:      map[string][2]unix.Timespec{},
	}
	if o.UserXattr {
		t.opaqueAttr = "user.overlay.opaque"
	}
	t.setLower(o.Lower)
	t.lowerFunc = o.LowerFunc
	if st, err := statAt(root, ""); err == nil {
		t.root.setgid = st.Mode&unix.S_ISGID != 0
	}
	return t
}

func (t *tree) setLower(files []*os.File) {
	t.lowers = nil
	for _, f := range files {
		t.lowers = append(t.lowers, int(f.Fd()))
	}
}

// lower returns the layers below, topmost first. It may wait for them.
func (t *tree) lower() ([]int, error) {
	if t.lowerFunc != nil {
		files, err := t.lowerFunc()
		if err != nil {
			return nil, err
		}
		t.setLower(files)
		t.lowerFunc = nil
	}
	return t.lowers, nil
}

func (t *tree) close() {
	t.forget()
	t.sweep()
}

// forget drops all cached directories: a name now means something else.
func (t *tree) forget() {
	for _, d := range t.dirs {
		t.stale = append(t.stale, d.fd)
	}
	clear(t.dirs)
}

// sweep closes what was dropped. Only to be called between entries.
func (t *tree) sweep() {
	for _, fd := range t.stale {
		unix.Close(fd)
	}
	t.stale = t.stale[:0]
}

// put caches d, which t then owns, under the name p.
func (t *tree) put(p string, d *dir) {
	if old := t.dirs[p]; old != nil {
		t.stale = append(t.stale, old.fd)
	} else if len(t.dirs) >= maxCachedDirs {
		oldest := ""
		min := ^uint64(0)
		for name, c := range t.dirs {
			if c.used < min {
				oldest, min = name, c.used
			}
		}
		t.stale = append(t.stale, t.dirs[oldest].fd)
		delete(t.dirs, oldest)
	}
	t.tick++
	d.used = t.tick
	t.dirs[p] = d
}

// dir returns the directory p, with create made if it is missing. It is valid
// until the next sweep.
func (t *tree) dir(p string, create bool) (*dir, error) {
	if p == "" {
		return t.root, nil
	}
	if d := t.dirs[p]; d != nil {
		t.tick++
		d.used = t.tick
		return d, nil
	}
	d := &dir{path: p}
	var err error
	d.fd, err = openIn(t.root.fd, p, unix.O_PATH|unix.O_DIRECTORY, 0)
	if create && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)) {
		if t.overlay {
			var pos position
			if pos, err = t.descend(p); err == nil {
				d.fd, d.path = pos.upper, pos.path
				pos.closeLowers()
			}
		} else {
			d.fd, err = t.mkdirAll(p)
		}
	}
	if err != nil {
		return nil, &os.PathError{Op: "open directory", Path: p, Err: err}
	}
	st, err := statAt(d.fd, "")
	if err != nil {
		unix.Close(d.fd)
		return nil, err
	}
	d.setgid = st.Mode&unix.S_ISGID != 0
	t.put(p, d)
	return d, nil
}

// mkdirAll makes p and its parents, and opens it. It follows links inside the
// root, one pass over the components.
func (t *tree) mkdirAll(p string) (int, error) {
	cur, err := openIn(t.root.fd, ".", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	for end := 0; end < len(p); {
		start := end
		if i := strings.IndexByte(p[start:], '/'); i >= 0 {
			end = start + i
		} else {
			end = len(p)
		}
		name := p[start:end]
		next, err := openAt(cur, name, unix.O_PATH|unix.O_DIRECTORY, 0)
		if errors.Is(err, unix.ENOENT) {
			if err = retry(func() error { return unix.Mkdirat(cur, name, 0o755) }); err == nil || errors.Is(err, unix.EEXIST) {
				next, err = openAt(cur, name, unix.O_PATH|unix.O_DIRECTORY, 0)
			}
		} else if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			next, err = openIn(t.root.fd, p[:end], unix.O_PATH|unix.O_DIRECTORY, 0)
		}
		unix.Close(cur)
		if err != nil {
			return -1, err
		}
		cur = next
		end++ // the slash
	}
	return cur, nil
}

// setOpaque hides what the layers below have in the directory.
func (t *tree) setOpaque(fd int) error {
	return os.NewSyscallError("fsetxattr", unix.Fsetxattr(fd, t.opaqueAttr, []byte("y"), 0))
}

// position is a directory of the merged view of an upper directory and the
// layers below it.
type position struct {
	upper  int    // -1 if it does not exist there
	lowers []int  // the same directory in the layers where it shows through
	path   string // without links
}

func (p *position) close() {
	if p.upper >= 0 {
		unix.Close(p.upper)
	}
	p.closeLowers()
}

func (p *position) closeLowers() {
	for _, fd := range p.lowers {
		unix.Close(fd)
	}
	p.lowers = nil
}

// descend resolves p in the merged view, following its links, and makes the
// directories on the way in the upper directory, as copies of those below.
func (t *tree) descend(p string) (position, error) {
	rest := strings.Split(p, "/")
	for range maxRestarts {
		// First find the way without making what only links lead through.
		pos, next, err := t.walk(rest, false)
		if err != nil {
			return pos, err
		}
		if next != nil {
			rest = next
			continue
		}
		pos.close()
		pos, next, err = t.walk(strings.Split(pos.path, "/"), true)
		if err == nil && next != nil {
			pos, err = position{}, unix.EAGAIN // changed under our hands
		}
		return pos, err
	}
	return position{}, unix.ELOOP
}

// walk goes down names until the end, or until a link or "..": then next is
// the path from the root to go on with. Without create, the upper directory may
// lack the directories.
func (t *tree) walk(names []string, create bool) (pos position, next []string, err error) {
	if pos.upper, err = openIn(t.root.fd, ".", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return pos, nil, err
	}
	defer func() {
		if err != nil || next != nil {
			pos.close()
			pos = position{}
		}
	}()
	lowers, err := t.lower()
	if err != nil {
		return pos, nil, err
	}
	for _, l := range lowers {
		fd, err := openIn(l, ".", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return pos, nil, err
		}
		pos.lowers = append(pos.lowers, fd)
	}
	var done []string
	for i, name := range names {
		switch name {
		case "", ".":
			continue
		case "..":
			return pos, append(done[:max(0, len(done)-1):max(0, len(done)-1)], names[i+1:]...), nil
		}
		target, err := t.step(&pos, name, create)
		if err != nil {
			return pos, nil, err
		}
		if target != "" {
			if !strings.HasPrefix(target, "/") {
				next = append(next, done...)
			}
			next = append(next, strings.Split(target, "/")...)
			next = append(next, names[i+1:]...)
			if len(next) > maxPath {
				return pos, nil, unix.ENAMETOOLONG
			}
			return pos, next, nil
		}
		done = append(done, name)
		pos.path = path.Join(pos.path, name)
	}
	return pos, nil, nil
}

// step moves pos to its child name, made if create is set, or returns the
// target of the link there.
func (t *tree) step(pos *position, name string, create bool) (link string, err error) {
	hide := false // the lower layers' name
	upper := -1
	err = unix.ENOENT
	if pos.upper >= 0 {
		upper, err = openAt(pos.upper, name, unix.O_PATH, 0)
	}
	switch {
	case err == nil:
		st, err := statAt(upper, "")
		if err != nil {
			unix.Close(upper)
			return "", err
		}
		switch {
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			hide = t.isOpaque(pos.upper, name)
		case st.Mode&unix.S_IFMT == unix.S_IFLNK:
			defer unix.Close(upper)
			return readLink(upper)
		case isWhiteout(&st):
			unix.Close(upper)
			if create {
				if err := unix.Unlinkat(pos.upper, name, 0); err != nil {
					return "", err
				}
			}
			upper, hide = -1, true
		default:
			unix.Close(upper)
			return "", unix.ENOTDIR
		}
	case errors.Is(err, unix.ENOENT):
		upper = -1
	default:
		return "", err
	}
	var lowers []int
	fail := func(err error) (string, error) {
		for _, fd := range lowers {
			unix.Close(fd)
		}
		if upper >= 0 {
			unix.Close(upper)
		}
		return "", err
	}
	for _, l := range pos.lowers {
		if hide {
			break
		}
		fd, err := openAt(l, name, unix.O_PATH, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fail(err)
		}
		st, err := statAt(fd, "")
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			lowers = append(lowers, fd)
			hide = t.isOpaque(l, name)
			continue
		}
		defer unix.Close(fd)
		if err != nil {
			return fail(err)
		}
		if upper < 0 && len(lowers) == 0 && !isWhiteout(&st) {
			if st.Mode&unix.S_IFMT == unix.S_IFLNK {
				return readLink(fd)
			}
			return fail(unix.ENOTDIR)
		}
		break
	}
	if upper < 0 && create {
		if err := unix.Mkdirat(pos.upper, name, 0o755); err != nil {
			return fail(err)
		}
		if upper, err = openAt(pos.upper, name, unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
			return fail(err)
		}
		if len(lowers) > 0 {
			ts, err := copyAttrs(lowers[0], upper)
			if err != nil {
				return fail(err)
			}
			t.times[path.Join(pos.path, name)] = ts
		} else if hide {
			if err := t.setOpaque(upper); err != nil {
				return fail(err)
			}
		}
	}
	pos.close()
	pos.upper, pos.lowers = upper, lowers
	return "", nil
}

func (t *tree) isOpaque(dir int, name string) bool {
	var b [1]byte
	n, err := unix.Lgetxattr(procPath(dir, name), t.opaqueAttr, b[:])
	return err == nil && n == 1 && b[0] == 'y'
}

func readLink(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	if n == 0 {
		return "", unix.ENOENT
	}
	return string(buf[:n]), nil
}

// copyAttrs gives the open directory dst the owner, mode and attributes of
// src, and returns src's times.
func copyAttrs(src, dst int) (ts [2]unix.Timespec, err error) {
	in, err := openAt(src, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return ts, err
	}
	defer unix.Close(in)
	return copyAttrsFd(in, dst)
}

// copyAttrsFd is copyAttrs between descriptors open for reading and writing.
func copyAttrsFd(in, dst int) (ts [2]unix.Timespec, err error) {
	st, err := statAt(in, "")
	if err != nil {
		return ts, err
	}
	if err := unix.Fchown(dst, int(st.Uid), int(st.Gid)); err != nil {
		return ts, os.NewSyscallError("fchown", err)
	}
	if err := unix.Fchmod(dst, st.Mode&0o7777); err != nil {
		return ts, os.NewSyscallError("fchmod", err)
	}
	attrs, err := readXattrs(in)
	if err != nil {
		return ts, err
	}
	for name, value := range attrs {
		if err := unix.Fsetxattr(dst, name, []byte(value), 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return ts, os.NewSyscallError("fsetxattr", err)
		}
	}
	return [2]unix.Timespec{st.Atim, st.Mtim}, nil
}

// copyUp copies the regular file name of the layers below into d.
func (t *tree) copyUp(d *dir, name string, buf []byte) (err error) {
	pos, err := t.descend(d.path)
	if err != nil {
		return err
	}
	defer pos.closeLowers()
	defer unix.Close(pos.upper)
	in := -1
	for _, l := range pos.lowers {
		st, err := statAt(l, name)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			break
		}
		if in, err = openAt(l, name, unix.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		break
	}
	if in < 0 {
		return unix.ENOENT
	}
	defer unix.Close(in)
	out, err := openAt(pos.upper, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(out)
	defer func() {
		if err != nil {
			unix.Unlinkat(pos.upper, name, 0)
		}
	}()
	for {
		n, err := readFd(in, buf)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := writeAll(out, buf[:n]); err != nil {
			return err
		}
	}
	ts, err := copyAttrsFd(in, out)
	if err != nil {
		return err
	}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(pos.upper, name, ts[:], unix.AT_SYMLINK_NOFOLLOW))
}

// readFd is read(2) with io.Reader's end.
func readFd(fd int, buf []byte) (n int, err error) {
	err = retry(func() error {
		n, err = unix.Read(fd, buf)
		return err
	})
	if err != nil {
		return 0, os.NewSyscallError("read", err)
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}
