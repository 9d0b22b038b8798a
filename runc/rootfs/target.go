package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"lighter/internal/linux/mount"
)

// maxLinks is how many symbolic links a path may have, as in the kernel.
const maxLinks = 40

// Target looks up dest below root. mode is that of what is there, as in chmod(2),
// or 0. If nothing is there because a symbolic link dangles, target is the path
// that the link means; otherwise it is empty.
//
// The root is hostile and may change: every part is resolved inside of it, and the
// result is no more than a path to be resolved inside of it again.
func Target(root *os.File, dest string) (target string, mode uint32, err error) {
	rel := strings.TrimPrefix(path.Clean("/"+dest), "/")
	f, err := open(root, rel, 0)
	if err == nil {
		defer f.Close()
		st, err := stat(f)
		return "", st.Mode & 0o7777, err
	}
	if !errors.Is(err, unix.ENOENT) {
		return "", 0, nil // the child says what is wrong
	}
	// done is resolved and exists, or is missing and has no links.
	done, rest, links := "/", strings.Split(rel, "/"), 0
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		if part == "" || part == "." {
			continue
		}
		next := path.Join(done, part) // ".." of "/" is "/"
		link, err := readlink(root, strings.TrimPrefix(next, "/"))
		if err != nil {
			return "", 0, fmt.Errorf("look up %q: %w", dest, err)
		}
		if link == "" {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", 0, fmt.Errorf("look up %q: %w", dest, unix.ELOOP)
		}
		if path.IsAbs(link) {
			done = "/"
		}
		rest = append(strings.Split(link, "/"), rest...)
	}
	if links == 0 {
		return "", 0, nil
	}
	return done, 0, nil
}

// open resolves rel below root as a path.
func open(root *os.File, rel string, flags int) (*os.File, error) {
	if rel == "" {
		rel = "."
	}
	return mount.OpenInRoot(root, rel, unix.O_PATH|flags, 0)
}

// readlink returns where the symbolic link rel below root leads, or "" if it is
// something else, or missing.
func readlink(root *os.File, rel string) (string, error) {
	f, err := open(root, rel, unix.O_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := stat(f)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", err
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if err != nil {
		return "", os.NewSyscallError("readlinkat", err)
	}
	return string(buf[:n]), nil
}
