package tarball

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"math"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Extract makes the entries of the uncompressed archive r below the directory
// root, which may be open for path operations only. It reads r up to the
// archive's end marker, not beyond.
//
// A failure or the end of ctx leaves what was extracted so far. The times of
// directories are set last. Root's own entry ("./") sets its attributes.
//
// Errors: InvalidArgument for an archive that is malformed, leaves its root, or
// exceeds a limit; else those of the system calls.
func Extract(ctx context.Context, root *os.File, r io.Reader, o Options) (Stats, error) {
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.MaxEntries <= 0 {
		o.MaxEntries = DefaultMaxEntries
	}
	x := &extractor{
		ctx:  ctx,
		o:    o,
		tree: newTree(int(root.Fd()), o),
		buf:  make([]byte, 1<<20),
		uid:  os.Geteuid(),
		gid:  os.Getegid(),
	}
	defer x.tree.close()
	if o.Whiteouts == Delete {
		x.made = marks{seed: maphash.MakeSeed(), set: map[uint64]struct{}{}}
		x.cleaned = marks{seed: x.made.seed, set: map[uint64]struct{}{}}
	}
	tr := tar.NewReader(bufio.NewReaderSize(r, 64<<10))
	for {
		if err := ctx.Err(); err != nil {
			return x.stats, context.Cause(ctx)
		}
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return x.stats, fmt.Errorf("read archive: %w", readError(err))
		}
		x.stats.Entries++
		if x.stats.Entries > o.MaxEntries {
			return x.stats, invalid("archive has more than %d entries", o.MaxEntries)
		}
		if err := x.entry(hdr, tr); err != nil {
			return x.stats, fmt.Errorf("extract %.256q: %w", hdr.Name, err)
		}
	}
	if err := x.ownRoot(); err != nil {
		return x.stats, err
	}
	return x.stats, x.setTimes()
}

// ownRoot gives a root that the archive does not describe the owner of the one
// below, when that is known only now.
func (x *extractor) ownRoot() error {
	if x.rootSeen || x.o.LowerFunc == nil {
		return nil
	}
	lowers, err := x.tree.lower()
	if err != nil || len(lowers) == 0 {
		return err
	}
	st, err := statAt(lowers[0], "")
	if err != nil {
		return err
	}
	fd, err := openAt(x.tree.root.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return os.NewSyscallError("fchown", unix.Fchown(fd, int(st.Uid), int(st.Gid)))
}

// readError classifies an error of the tar reader: what it finds wrong is the
// archive's fault, what it passes on is not.
func readError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return invalid("%w", err)
	}
	return err
}

// marks is a set of paths. It holds 64-bit keyed hashes: a collision, which an
// archive cannot arrange, would spare one file from a whiteout.
type marks struct {
	seed maphash.Seed
	set  map[uint64]struct{}
}

func (m marks) add(p string)      { m.set[maphash.String(m.seed, p)] = struct{}{} }
func (m marks) has(p string) bool { _, ok := m.set[maphash.String(m.seed, p)]; return ok }

type extractor struct {
	ctx      context.Context // of the call to Extract
	o        Options
	tree     *tree
	buf      []byte
	base     string // Options.Dir, clean
	stats    Stats
	uid, gid int  // of new files
	rootSeen bool // the archive describes the root

	// For Delete: paths of this archive with their parents, and directories
	// in which nothing older is left.
	made, cleaned marks
}

// name returns where an entry or hard link target goes: a clean relative path,
// "" for the root; skip for an entry that is not to be made.
func (x *extractor) name(raw string) (p string, skip bool, err error) {
	if x.o.Rename != nil {
		renamed, ok := x.o.Rename(raw)
		if !ok {
			return "", true, nil
		}
		raw = renamed
	}
	if strings.IndexByte(raw, 0) >= 0 {
		return "", false, invalid("name contains a NUL byte")
	}
	p = path.Clean(strings.TrimLeft(raw, "/"))
	if p == ".." || strings.HasPrefix(p, "../") {
		return "", false, invalid("name leads out of the archive's root")
	}
	p = path.Join(x.base, p)
	p = strings.TrimLeft(path.Clean("/"+p), "/")
	if len(p) > maxPath {
		return "", false, invalid("name is longer than %d bytes", maxPath)
	}
	return p, false, nil
}

func split(p string) (dir, base string) {
	i := strings.LastIndexByte(p, '/')
	if i < 0 {
		return "", p
	}
	return p[:i], p[i+1:]
}

func (x *extractor) entry(hdr *tar.Header, r io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	p, skip, err := x.name(hdr.Name)
	if err != nil || skip {
		return err
	}
	if hdr.Size < 0 || hdr.Size > x.o.MaxBytes-x.stats.Bytes {
		return invalid("archive expands to more than %d bytes", x.o.MaxBytes)
	}
	x.stats.Bytes += hdr.Size
	if p == x.base && hdr.Typeflag != tar.TypeDir {
		return invalid("the root must be a directory")
	}
	if p == "" {
		x.rootSeen = true
		return x.dirAttrs(x.tree.root.fd, "", hdr)
	}
	x.tree.sweep()
	dir, base := split(p)
	if x.o.Whiteouts != Literal {
		if done, err := x.whiteout(dir, base); done || err != nil {
			return err
		}
	}
	d, err := x.tree.dir(dir, true)
	if err != nil {
		return err
	}
	if x.o.Whiteouts == Delete {
		x.mark(p)
	}
	if hdr.Typeflag != tar.TypeDir {
		delete(x.tree.times, path.Join(d.path, base))
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		return x.mkdir(d, p, base, hdr)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return x.file(d, p, base, hdr, r)
	case tar.TypeLink:
		return x.link(d, p, base, hdr)
	case tar.TypeSymlink:
		if hdr.Linkname == "" || len(hdr.Linkname) > maxPath {
			return invalid("link target of %d bytes", len(hdr.Linkname))
		}
		err = x.make(d, p, base, func() error { return unix.Symlinkat(hdr.Linkname, d.fd, base) })
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		err = x.mknod(d, p, base, hdr)
	default:
		return invalid("entry of unknown type %q", hdr.Typeflag)
	}
	if err != nil {
		return err
	}
	return x.attrsAt(d, base, hdr)
}

// make creates the entry base of d with create, replacing what is there.
func (x *extractor) make(d *dir, p, base string, create func() error) error {
	for range 3 {
		err := retry(create)
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
		if err := x.replace(d, p, base); err != nil {
			return err
		}
	}
	return unix.EEXIST // something keeps making it
}

// replace removes the entry p, which a new one other than a directory takes
// the place of.
func (x *extractor) replace(d *dir, p, base string) error {
	st, err := statAt(d.fd, base)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if x.o.KeepKinds {
			return invalid("cannot overwrite directory %q with non-directory", p)
		}
	}
	x.tree.forget()
	return removeTree(d.fd, base)
}

func (x *extractor) mkdir(d *dir, p, base string, hdr *tar.Header) error {
	opaque := false
	for range 3 {
		err := retry(func() error { return unix.Mkdirat(d.fd, base, 0o700) })
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
		st, err := statAt(d.fd, base)
		if err != nil {
			if errors.Is(err, unix.ENOENT) {
				continue
			}
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			break
		}
		if x.o.KeepKinds {
			return invalid("cannot overwrite non-directory %q with directory", p)
		}
		// The whiteout that came first hides all that is below the new directory.
		opaque = x.o.Whiteouts == Overlay && isWhiteout(&st)
		x.tree.forget()
		if err := retry(func() error { return unix.Unlinkat(d.fd, base, 0) }); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	fd, err := openAt(d.fd, base, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	if opaque {
		err = x.tree.setOpaque(fd)
	}
	if err == nil {
		err = x.dirAttrs(fd, path.Join(d.path, base), hdr)
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	x.tree.put(p, &dir{fd: fd, path: path.Join(d.path, base), setgid: hdr.Mode&unix.S_ISGID != 0})
	return nil
}

// dirAttrs sets the attributes of the open directory, and its times later.
func (x *extractor) dirAttrs(fd int, p string, hdr *tar.Header) error {
	if p == "" {
		var err error
		if fd, err = openAt(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
			return err
		}
		defer unix.Close(fd)
	}
	own, err := x.owner(hdr)
	if err != nil {
		return err
	}
	if err := unix.Fchown(fd, own.UID, own.GID); err != nil {
		return os.NewSyscallError("fchown", err)
	}
	if err := unix.Fchmod(fd, uint32(hdr.Mode&0o7777)); err != nil {
		return os.NewSyscallError("fchmod", err)
	}
	x.tree.times[p] = entryTimes(hdr)
	return x.xattrs(hdr, func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) })
}

func (x *extractor) file(d *dir, p, base string, hdr *tar.Header, r io.Reader) (err error) {
	own, err := x.owner(hdr)
	if err != nil {
		return err
	}
	var fd int
	err = x.make(d, p, base, func() (err error) {
		fd, err = unix.Openat(d.fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(hdr.Mode&0o777))
		return err
	})
	if err != nil {
		return err
	}
	defer func() {
		if cerr := unix.Close(fd); err == nil && cerr != nil {
			err = os.NewSyscallError("close", cerr)
		}
	}()
	if err := x.data(fd, hdr, r); err != nil {
		return err
	}
	if own.UID != x.uid || own.GID != x.gid || d.setgid {
		if err := unix.Fchown(fd, own.UID, own.GID); err != nil {
			return os.NewSyscallError("fchown", err)
		}
	}
	// After chown, which clears the setuid bit.
	if err := unix.Fchmod(fd, uint32(hdr.Mode&0o7777)); err != nil {
		return os.NewSyscallError("fchmod", err)
	}
	if err := x.xattrs(hdr, func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) }); err != nil {
		return err
	}
	ts := entryTimes(hdr)
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(d.fd, base, ts[:], unix.AT_SYMLINK_NOFOLLOW))
}

// data copies the contents of a regular file, leaving the holes of a sparse one.
func (x *extractor) data(fd int, hdr *tar.Header, r io.Reader) error {
	sparse := isSparse(hdr)
	if sparse && hdr.Size > maxSparseBytes {
		return invalid("sparse file of %d bytes", hdr.Size)
	}
	var n, hole int64
	for n < hdr.Size {
		if err := x.ctx.Err(); err != nil {
			return context.Cause(x.ctx)
		}
		buf := x.buf[:min(int64(len(x.buf)), hdr.Size-n)]
		if sparse {
			buf = buf[:min(len(buf), 64<<10)]
		}
		m, err := io.ReadFull(r, buf)
		if err != nil {
			return fmt.Errorf("read archive: %w", readError(err))
		}
		n += int64(m)
		if sparse && allZero(buf) {
			hole += int64(m)
			continue
		}
		if hole > 0 {
			if _, err := unix.Seek(fd, hole, io.SeekCurrent); err != nil {
				return os.NewSyscallError("lseek", err)
			}
			hole = 0
		}
		if err := writeAll(fd, buf); err != nil {
			return err
		}
	}
	if hole > 0 {
		return os.NewSyscallError("ftruncate", retry(func() error { return unix.Ftruncate(fd, hdr.Size) }))
	}
	return nil
}

func isSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range hdr.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("write", err)
		}
		b = b[n:]
	}
	return nil
}

func (x *extractor) link(d *dir, p, base string, hdr *tar.Header) error {
	target, skip, err := x.name(hdr.Linkname)
	if err != nil {
		return fmt.Errorf("hard link to %.256q: %w", hdr.Linkname, err)
	}
	if skip || target == "" {
		return invalid("hard link to %.256q", hdr.Linkname)
	}
	if target == p {
		return nil // a link to itself is what is there
	}
	tdir, tbase := split(target)
	td, err := x.tree.dir(tdir, true)
	if err != nil {
		return fmt.Errorf("hard link to %.256q: %w", hdr.Linkname, err)
	}
	// Never AT_SYMLINK_FOLLOW: a link to a symbolic link is just that.
	create := func() error { return unix.Linkat(td.fd, tbase, d.fd, base, 0) }
	// A whiteout is no file: linking to one would make another.
	if x.o.Whiteouts == Overlay {
		if st, err := statAt(td.fd, tbase); err == nil && isWhiteout(&st) {
			return invalid("hard link to %.256q, which was deleted", hdr.Linkname)
		}
	}
	err = x.make(d, p, base, create)
	if errors.Is(err, unix.ENOENT) {
		lowers, lerr := x.tree.lower()
		if lerr != nil {
			return lerr
		}
		// The target is a file of a layer below.
		if len(lowers) > 0 {
			if err = x.tree.copyUp(td, tbase, x.buf); err == nil {
				err = x.make(d, p, base, create)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("hard link to %.256q: %w", hdr.Linkname, err)
	}
	return nil
}

func (x *extractor) mknod(d *dir, p, base string, hdr *tar.Header) error {
	mode := uint32(hdr.Mode & 0o777)
	dev := 0
	switch hdr.Typeflag {
	case tar.TypeFifo:
		mode |= unix.S_IFIFO
	case tar.TypeChar:
		mode |= unix.S_IFCHR
	case tar.TypeBlock:
		mode |= unix.S_IFBLK
	}
	if hdr.Typeflag != tar.TypeFifo {
		if hdr.Devmajor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor < 0 || hdr.Devminor >= 1<<20 {
			return invalid("device number %d:%d", hdr.Devmajor, hdr.Devminor)
		}
		dev = int(unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor)))
	}
	return x.make(d, p, base, func() error { return unix.Mknodat(d.fd, base, mode, dev) })
}

// attrsAt sets the attributes of a link, device or fifo just made.
func (x *extractor) attrsAt(d *dir, base string, hdr *tar.Header) error {
	own, err := x.owner(hdr)
	if err != nil {
		return err
	}
	if err := unix.Fchownat(d.fd, base, own.UID, own.GID, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fchownat", err)
	}
	if hdr.Typeflag != tar.TypeSymlink {
		if err := chmodAt(d.fd, base, uint32(hdr.Mode&0o7777)); err != nil {
			return err
		}
	}
	if err := x.xattrs(hdr, func(name string, value []byte) error {
		return unix.Lsetxattr(procPath(d.fd, base), name, value, 0)
	}); err != nil {
		return err
	}
	ts := entryTimes(hdr)
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(d.fd, base, ts[:], unix.AT_SYMLINK_NOFOLLOW))
}

// chmodAt sets the mode of name without following it. Before Linux 6.6, which
// has fchmodat2, a descriptor pins the entry instead.
func chmodAt(dir int, name string, mode uint32) error {
	err := unix.Fchmodat(dir, name, mode, unix.AT_SYMLINK_NOFOLLOW)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return os.NewSyscallError("fchmodat2", err)
	}
	fd, err := openAt(dir, name, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	st, err := statAt(fd, "")
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return unix.ELOOP
	}
	return os.NewSyscallError("chmod", unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode))
}

func (x *extractor) owner(hdr *tar.Header) (Owner, error) {
	if x.o.Owner != nil {
		return *x.o.Owner, nil
	}
	o := Owner{UID: hdr.Uid, GID: hdr.Gid}
	// The last value means "do not change" to chown.
	if o.UID < 0 || o.UID >= math.MaxUint32 || o.GID < 0 || o.GID >= math.MaxUint32 {
		return o, invalid("owner %d:%d is out of range", o.UID, o.GID)
	}
	if x.o.MapOwner != nil {
		return x.o.MapOwner(o)
	}
	return o, nil
}

func entryTimes(hdr *tar.Header) [2]unix.Timespec {
	at := hdr.AccessTime
	if at.IsZero() {
		at = hdr.ModTime
	}
	return [2]unix.Timespec{timespec(at), timespec(hdr.ModTime)}
}

// timespec converts t; times before 1970 or after 2262 become 1970, as Docker
// has it.
func timespec(t time.Time) unix.Timespec {
	if t.IsZero() || t.Unix() < 0 || t.Unix() > math.MaxInt64/int64(time.Second) {
		return unix.Timespec{}
	}
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

func (x *extractor) setTimes() error {
	paths := slices.Sorted(maps.Keys(x.tree.times)) // neighbours share a cached parent
	for _, p := range paths {
		x.tree.sweep()
		dir, base := split(p)
		if p == "" {
			base = "."
		}
		d, err := x.tree.dir(dir, false)
		if err == nil {
			ts := x.tree.times[p]
			err = unix.UtimesNanoAt(d.fd, base, ts[:], unix.AT_SYMLINK_NOFOLLOW)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			return fmt.Errorf("set times of %.256q: %w", p, err)
		}
	}
	return nil
}
