// Package selfexec keeps the program's own file out of reach of the containers it
// makes.
//
// A forked child that has not exec'ed yet has its parent's program as
// /proc/PID/exe, and an entry point of /proc/self/exe runs that program inside the
// container. Through either, a privileged container could open the host's binary
// and, once nothing runs it, write to it (CVE-2019-5736). Seal makes that file one
// that cannot be opened for writing.
package selfexec

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"lighter/internal/linux/mount"
)

// guard is set in the environment of the sealed program, to notice a Seal that
// does not take.
const guard = "_LIGHTER_SEALED"

const self = "/proc/self/exe"

// Seal executes the running program again, with the same arguments, environment
// and descriptors, from a read-only private mount of its file, or where that is
// not permitted from a sealed copy in memory. It returns nil, at once, if the
// program already runs from such a file or from a read-only file system, and
// otherwise only returns with an error.
//
// Call it at the very beginning of main: nothing of the process but its
// descriptors survives.
func Seal() error {
	sealed, err := isSealed()
	if err != nil {
		return fmt.Errorf("seal own program: %w", err)
	}
	if sealed {
		return os.Unsetenv(guard)
	}
	if os.Getenv(guard) != "" {
		return errors.New("seal own program: the sealed copy can be written to")
	}
	f, err := readonlyMount()
	if err != nil {
		if f, err = memoryCopy(); err != nil {
			return fmt.Errorf("seal own program: %w", err)
		}
	}
	err = execFile(f)
	f.Close()
	return fmt.Errorf("seal own program: %w", err)
}

// isSealed reports whether /proc/self/exe cannot be opened for writing by anybody.
func isSealed() (bool, error) {
	fd, err := unix.Open(self, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, &os.PathError{Op: "open", Path: self, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return false, os.NewSyscallError("fstatfs", err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return true, nil
	}
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	return err == nil && seals&unix.F_SEAL_WRITE != 0, nil
}

// readonlyMount returns the program through a detached, read-only mount that
// nothing else can reach or make writable.
func readonlyMount() (*os.File, error) {
	tree, err := mount.CloneTree(self, false)
	if err != nil {
		return nil, err
	}
	if err := mount.SetAttr(tree, false, mount.Attr{Set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE}); err != nil {
		tree.Close()
		return nil, err
	}
	return tree, nil
}

// memoryCopy returns a sealed copy of the program.
func memoryCopy() (*os.File, error) {
	src, err := os.Open(self)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	fd, err := unix.MemfdCreate("lighter", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("lighter", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	dst := os.NewFile(uintptr(fd), "lighter")
	if _, err = io.Copy(dst, src); err == nil {
		const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		dst.Close()
		return nil, err
	}
	return dst, nil
}

// execFile is fexecve(3).
func execFile(f *os.File) error {
	argv, err := syscall.SlicePtrFromStrings(os.Args)
	if err != nil {
		return err
	}
	envv, err := syscall.SlicePtrFromStrings(append(os.Environ(), guard+"=1"))
	if err != nil {
		return err
	}
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var empty [1]byte
	var errno syscall.Errno
	err = c.Control(func(fd uintptr) {
		_, _, errno = unix.RawSyscall6(unix.SYS_EXECVEAT, fd, uintptr(unsafe.Pointer(&empty)), uintptr(unsafe.Pointer(&argv[0])),
			uintptr(unsafe.Pointer(&envv[0])), unix.AT_EMPTY_PATH, 0)
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("execveat", errno)
}

// RestoreLimits puts back the soft limit of open files, which the Go runtime
// raises when a program starts. A raw fork passes the limit on; programs that use
// select(2), or close every possible descriptor, want the one that the user set.
// Only main may call it: it changes the process.
func RestoreLimits() {
	// syscall.Exec puts the limit back before it calls execve, and no API does
	// only that. An empty path cannot be executed.
	_ = syscall.Exec("", nil, nil)
}
