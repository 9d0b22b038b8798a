package tarball

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// WriterOptions qualify NewWriter. The zero value writes a plain archive.
type WriterOptions struct {
	// Upper says that trees are overlay upper directories, to be written as
	// layers: overlay whiteouts become ".wh." entries.
	Upper bool
	// UserXattr selects the user.overlay namespace instead of trusted.overlay.
	UserXattr bool
	// Latest, when set, is the newest time of modification that is written
	// (SOURCE_DATE_EPOCH).
	Latest *time.Time
	// MapOwner, when set, translates owners.
	MapOwner func(Owner) (Owner, error)
	// Skip, when set, leaves out the entry name and what is below.
	Skip func(name string) bool
}

// Writer writes trees into an archive, entries of a directory in the order of
// their names. It belongs to one goroutine.
//
// Each file is opened without following links and examined through its
// descriptor, so that a tree that changes meanwhile cannot lead elsewhere; a
// file that shrinks is padded with zeros, one that vanishes is left out.
// Sockets are left out.
type Writer struct {
	o     WriterOptions
	buf   *bufio.Writer
	tw    *tar.Writer
	copy  []byte
	links map[inode]string // first name of files with several
}

type inode struct{ dev, ino uint64 }

// NewWriter returns a Writer to w. Close finishes the archive, w stays open.
func NewWriter(w io.Writer, o WriterOptions) *Writer {
	buf := bufio.NewWriterSize(w, 128<<10)
	return &Writer{o: o, buf: buf, tw: tar.NewWriter(buf), links: map[inode]string{}}
}

// Close writes the end marker.
func (w *Writer) Close() error {
	if err := w.tw.Close(); err != nil {
		return err
	}
	return w.buf.Flush()
}

// Add writes what p names inside root, its last component not followed, as the
// entry name; a directory with all below it. With name "" only the contents
// of the directory are written; "." and "/" begin the names of all entries.
func (w *Writer) Add(ctx context.Context, root *os.File, p, name string) error {
	dir, base := split(path.Clean("/" + p)[1:])
	fd, err := openIn(int(root.Fd()), dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: p, Err: err}
	}
	defer unix.Close(fd)
	if base == "" {
		base = "."
	}
	if name == "" {
		sub, err := openAt(fd, base, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: p, Err: err}
		}
		defer unix.Close(sub)
		return w.children(ctx, sub, "")
	}
	st, err := statAt(fd, base)
	if err != nil {
		return &os.PathError{Op: "stat", Path: p, Err: err}
	}
	return w.tree(ctx, fd, base, name, &st)
}

// children writes the entries of the open directory.
func (w *Writer) children(ctx context.Context, dir int, name string) error {
	names, err := readNames(dir)
	if err != nil {
		return fmt.Errorf("read directory %q: %w", name, err)
	}
	slices.Sort(names)
	for _, n := range names {
		st, err := statAt(dir, n)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err == nil {
			err = w.tree(ctx, dir, n, below(name, n), &st)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// below names the entry base of the directory name, which "." and "/" stay the
// beginning of.
func below(name, base string) string {
	if name == "" || name == "/" {
		return name + base
	}
	return name + "/" + base
}

// tree writes one entry and, for a directory, those below.
func (w *Writer) tree(ctx context.Context, dir int, base, name string, st *unix.Stat_t) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if w.o.Skip != nil && w.o.Skip(name) {
		return nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if w.o.Upper && isWhiteout(st) {
			return w.whiteout(name)
		}
		return w.leaf(ctx, dir, base, name, st)
	}
	fd, err := openAt(dir, base, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	if err := w.dir(fd, name); err != nil {
		return err
	}
	return w.children(ctx, fd, name)
}

// dir writes the entry of an open directory.
func (w *Writer) dir(fd int, name string) error {
	st, err := statAt(fd, "")
	if err != nil {
		return err
	}
	hdr, err := w.header(below(name, ""), &st)
	if err != nil {
		return err
	}
	hdr.Typeflag = tar.TypeDir
	attrs, err := readXattrs(fd)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	setXattrs(hdr, attrs)
	if err := w.tw.WriteHeader(hdr); err != nil {
		return fmt.Errorf("write entry %q: %w", name, err)
	}
	if !w.o.Upper {
		return nil
	}
	ns := "trusted.overlay."
	if w.o.UserXattr {
		ns = "user.overlay."
	}
	if _, err := unix.Fgetxattr(fd, ns+"redirect", nil); err == nil {
		return fmt.Errorf("directory %q was renamed by overlayfs (redirect_dir): its layer cannot be read from the upper directory", name)
	}
	var b [1]byte
	if n, err := unix.Fgetxattr(fd, ns+"opaque", b[:]); err == nil && n == 1 && b[0] == 'y' {
		return w.whiteoutEntry(path.Join(name, whiteoutOpaque))
	}
	return nil
}

// whiteout writes the entry that hides name.
func (w *Writer) whiteout(name string) error {
	dir, base := path.Split(name)
	return w.whiteoutEntry(dir + whiteoutPrefix + base)
}

func (w *Writer) whiteoutEntry(name string) error {
	err := w.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Format: tar.FormatPAX, ModTime: time.Unix(0, 0)})
	if err != nil {
		return fmt.Errorf("write entry %q: %w", name, err)
	}
	return nil
}

// leaf writes an entry that is not a directory.
func (w *Writer) leaf(ctx context.Context, dir int, base, name string, st *unix.Stat_t) (err error) {
	file := -1
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return nil
	case unix.S_IFREG:
		file, err = openAt(dir, base, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return &os.PathError{Op: "open", Path: name, Err: err}
		}
		defer unix.Close(file)
		opened, err := statAt(file, "")
		if err != nil {
			return err
		}
		if opened.Mode&unix.S_IFMT != unix.S_IFREG {
			return fmt.Errorf("%q changed its kind while being read", name)
		}
		st = &opened
	}
	hdr, err := w.header(name, st)
	if err != nil {
		return err
	}
	if st.Nlink > 1 {
		key := inode{st.Dev, st.Ino}
		if first, ok := w.links[key]; ok {
			hdr.Typeflag, hdr.Linkname, hdr.Size = tar.TypeLink, first, 0
			return w.writeHeader(hdr)
		}
		w.links[key] = name
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		hdr.Typeflag, hdr.Size = tar.TypeReg, st.Size
		attrs, err := readXattrs(file)
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		setXattrs(hdr, attrs)
		if err := w.writeHeader(hdr); err != nil {
			return err
		}
		return w.data(ctx, file, name, st.Size)
	case unix.S_IFLNK:
		hdr.Typeflag = tar.TypeSymlink
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, base, buf)
		if err != nil {
			return &os.PathError{Op: "readlink", Path: name, Err: err}
		}
		hdr.Linkname = string(buf[:n])
	case unix.S_IFCHR, unix.S_IFBLK:
		hdr.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			hdr.Typeflag = tar.TypeBlock
		}
		hdr.Devmajor, hdr.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
	default:
		return fmt.Errorf("%q is of unknown kind %#o", name, st.Mode)
	}
	attrs, err := readXattrsAt(dir, base)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	setXattrs(hdr, attrs)
	return w.writeHeader(hdr)
}

func (w *Writer) writeHeader(hdr *tar.Header) error {
	if err := w.tw.WriteHeader(hdr); err != nil {
		return fmt.Errorf("write entry %q: %w", hdr.Name, err)
	}
	return nil
}

func (w *Writer) header(name string, st *unix.Stat_t) (*tar.Header, error) {
	own := Owner{UID: int(st.Uid), GID: int(st.Gid)}
	if w.o.MapOwner != nil {
		var err error
		if own, err = w.o.MapOwner(own); err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
	}
	mtime := time.Unix(st.Mtim.Sec, st.Mtim.Nsec)
	if w.o.Latest != nil && mtime.After(*w.o.Latest) {
		mtime = *w.o.Latest
	}
	return &tar.Header{
		Format:  tar.FormatPAX,
		Name:    name,
		Mode:    int64(st.Mode & 0o7777),
		Uid:     own.UID,
		Gid:     own.GID,
		ModTime: mtime,
	}, nil
}

func setXattrs(hdr *tar.Header, attrs map[string]string) {
	if len(attrs) == 0 {
		return
	}
	hdr.PAXRecords = make(map[string]string, len(attrs))
	for name, value := range attrs {
		hdr.PAXRecords["SCHILY.xattr."+name] = value
	}
}

func (w *Writer) data(ctx context.Context, fd int, name string, size int64) error {
	if w.copy == nil {
		w.copy = make([]byte, 1<<20)
	}
	for size > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		buf := w.copy[:min(int64(len(w.copy)), size)]
		n, err := readFd(fd, buf)
		if errors.Is(err, io.EOF) {
			clear(buf)
			n, err = len(buf), nil
		}
		if err == nil {
			_, err = w.tw.Write(buf[:n])
		}
		if err != nil {
			return fmt.Errorf("write contents of %q: %w", name, err)
		}
		size -= int64(n)
	}
	return nil
}
