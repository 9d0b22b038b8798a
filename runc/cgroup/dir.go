package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxFile bounds what is read of one file. The largest, memory.numa_stat and
// cgroup.procs of a busy group, are well under it.
const maxFile = 8 << 20 // bytes

// dir is an open group directory (O_PATH). Who gets it from openDir closes it.
type dir struct {
	fd   int
	path string // for messages
}

// openDir opens a group's directory without following a link at its end.
func openDir(path string) (dir, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return dir{}, &fileError{op: "open", path: path, err: err, class: classOf(err, errdefs.ErrNotFound)}
	}
	return dir{fd, path}, nil
}

func (d dir) close() { unix.Close(d.fd) }

// openFile opens a file of the group.
func (d dir) openFile(name string, flags int) (int, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(d.fd, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return -1, &fileError{op: "open", path: d.path + "/" + name, err: err, class: classOf(err, errdefs.ErrNotImplemented)}
	}
	return fd, nil
}

// write writes value to the file name in one write(2), which is how the kernel
// takes it. A file that does not exist is NotImplemented: the kernel does not
// have that knob or the controller is not enabled for the group.
func (d dir) write(name, value string) error {
	fd, err := d.openFile(name, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return d.writeFD(fd, name, value)
}

// writeFD is write on a file that is open.
func (d dir) writeFD(fd int, name, value string) error {
	_, err := retry(func() (int, error) { return unix.Write(fd, []byte(value)) })
	if err != nil {
		return &fileError{op: "write", path: d.path + "/" + name, value: value, err: err, class: classOf(err, nil)}
	}
	return nil
}

func (d dir) writeInt(name string, value int64) error {
	return d.write(name, strconv.FormatInt(value, 10))
}

func (d dir) writeUint(name string, value uint64) error {
	return d.write(name, strconv.FormatUint(value, 10))
}

// read returns the contents of the file name.
func (d dir) read(name string) ([]byte, error) {
	fd, err := d.openFile(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return d.readFD(fd, name)
}

// readFD is read on a file that is open, from where it is.
func (d dir) readFD(fd int, name string) ([]byte, error) {
	buf := make([]byte, 0, 4096)
	for {
		if len(buf) == cap(buf) {
			if len(buf) >= maxFile {
				return nil, &fileError{op: "read", path: d.path + "/" + name, err: unix.EFBIG}
			}
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := retry(func() (int, error) { return unix.Read(fd, buf[len(buf):cap(buf)]) })
		if err != nil {
			return nil, &fileError{op: "read", path: d.path + "/" + name, err: err, class: classOf(err, nil)}
		}
		if n == 0 {
			return buf, nil
		}
		buf = buf[:len(buf)+n]
	}
}

// readString returns the contents of a file of one line.
func (d dir) readString(name string) (string, error) {
	b, err := d.read(name)
	return string(bytes.TrimSpace(b)), err
}

// readUint returns the number in the file name; "max" is math.MaxUint64 and so
// is v1's way to say it, the largest int64 in whole pages.
func (d dir) readUint(name string) (uint64, error) {
	s, err := d.readString(name)
	if err != nil {
		return 0, err
	}
	n, err := parseUint(s)
	if err != nil {
		return 0, fmt.Errorf("parse %s/%s: %w", d.path, name, err)
	}
	return n, nil
}

func parseUint(s string) (uint64, error) {
	if s == "max" {
		return math.MaxUint64, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, err
	}
	if n <= math.MaxInt64 && n > math.MaxInt64-(64<<10) {
		return math.MaxUint64, nil
	}
	return n, nil
}

// children returns the names of the groups below d.
func (d dir) children() ([]string, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd, "", &st, unix.AT_EMPTY_PATH); err != nil {
		return nil, &fileError{op: "stat", path: d.path, err: err, class: classOf(err, errdefs.ErrNotFound)}
	}
	if st.Nlink <= 2 { // kernfs counts sub-directories as links
		return nil, nil
	}
	return d.list(true)
}

// files returns the names of the files of the group.
func (d dir) files() ([]string, error) { return d.list(false) }

func (d dir) list(directories bool) ([]string, error) {
	fd, err := d.openFile(".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), d.path)
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() == directories {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// child opens the group name below d.
func (d dir) child(name string) (dir, error) {
	fd, err := d.openFile(name, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return dir{}, err
	}
	return dir{fd, d.path + "/" + name}, nil
}

// pids adds the processes of d and the groups below it to set. A group that
// goes away meanwhile has none.
func (d dir) pids(set map[int]bool) error {
	b, err := d.read("cgroup.procs")
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV):
		return nil
	case errors.Is(err, unix.EOPNOTSUPP): // a threaded group: its processes are in an ancestor
	case err != nil:
		return err
	}
	for line := range bytes.Lines(b) {
		pid, err := strconv.Atoi(string(bytes.TrimSpace(line)))
		if err != nil {
			return fmt.Errorf("parse %s/cgroup.procs: %w", d.path, err)
		}
		if pid > 0 { // 0 is a process that our pid namespace cannot see
			set[pid] = true
		}
	}
	names, err := d.children()
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	for _, name := range names {
		c, err := d.child(name)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return err
		}
		err = c.pids(set)
		c.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// pidsOf returns the processes in the group at path and below, in no order.
func pidsOf(path string) ([]int, error) {
	d, err := openDir(path)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.close()
	set := make(map[int]bool)
	if err := d.pids(set); err != nil {
		return nil, err
	}
	pids := make([]int, 0, len(set))
	for pid := range set {
		pids = append(pids, pid)
	}
	return pids, nil
}

// makeDirs makes the directory path and missing parents. It returns those it
// made, the outermost first, also with an error.
func makeDirs(path string) (made []string, err error) {
	for range 8 { // someone may remove a parent that we found
		err = mkdir(path)
		if err == nil {
			return append(made, path), nil
		}
		if errors.Is(err, unix.EEXIST) {
			return made, nil
		}
		if !errors.Is(err, unix.ENOENT) {
			return made, err
		}
		parents, perr := makeDirs(filepath.Dir(path))
		made = append(made, parents...)
		if perr != nil {
			return made, perr
		}
	}
	return made, err
}

func mkdir(path string) error {
	_, err := retry(func() (int, error) { return 0, unix.Mkdir(path, 0o755) })
	if err != nil {
		return &fileError{op: "make", path: path, err: err, class: classOf(err, nil)}
	}
	return nil
}

// rmdir removes the directory path; that there is none is success.
func rmdir(path string) error {
	_, err := retry(func() (int, error) { return 0, unix.Rmdir(path) })
	if err != nil && err != unix.ENOENT {
		return &fileError{op: "remove", path: path, err: err, class: classOf(err, nil)}
	}
	return nil
}

// retry calls f again while it is interrupted by a signal.
func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// fileError is a failed operation on a file or directory of a group. It unwraps
// to the errno and, if there is one, to an errdefs class.
type fileError struct {
	op, path string
	value    string // what was written
	hint     string // what the kernel means by err
	err      error
	class    error // may be nil
}

func (e *fileError) Error() string {
	var b strings.Builder
	b.WriteString(e.op)
	if e.op == "write" {
		fmt.Fprintf(&b, " %q to", e.value)
	}
	fmt.Fprintf(&b, " %s: %v", e.path, e.err)
	if e.hint != "" {
		fmt.Fprintf(&b, " (%s)", e.hint)
	}
	return b.String()
}

func (e *fileError) Unwrap() []error {
	if e.class == nil {
		return []error{e.err}
	}
	return []error{e.class, e.err}
}

// classOf returns the errdefs class of an errno; missing is that of ENOENT.
func classOf(err error, missing error) error {
	switch err {
	case unix.ENOENT:
		return missing
	case unix.ENODEV: // the group was removed while the file was open
		return errdefs.ErrNotFound
	case unix.EACCES, unix.EPERM, unix.EROFS:
		return errdefs.ErrPermissionDenied
	case unix.EINVAL, unix.ERANGE:
		return errdefs.ErrInvalidArgument
	case unix.EBUSY:
		return errdefs.ErrFailedPrecondition
	case unix.ENOSPC, unix.EAGAIN:
		return errdefs.ErrResourceExhausted
	}
	return nil
}

// explain adds to err, if it is a fileError for errno without a hint, what the
// kernel means by that errno in this place.
func explain(err error, errno unix.Errno, hint string, args ...any) error {
	fe, ok := err.(*fileError)
	if !ok || fe.err != error(errno) || fe.hint != "" {
		return err
	}
	c := *fe
	c.hint = fmt.Sprintf(hint, args...)
	return &c
}
