package tarball

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// xattrs sets the extended attributes that an archive may decide about. Those
// of overlayfs would redirect lookups, and security labels are the host's.
func (x *extractor) xattrs(hdr *tar.Header, set func(name string, value []byte) error) error {
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || !allowedXattr(name) {
			continue
		}
		err := retry(func() error { return set(name, []byte(value)) })
		if errors.Is(err, unix.EOPNOTSUPP) {
			x.stats.SkippedXattrs++
			continue
		}
		if errors.Is(err, unix.EPERM) && strings.HasPrefix(name, "user.") {
			x.stats.SkippedXattrs++ // not for links and devices
			continue
		}
		if err != nil {
			return fmt.Errorf("set attribute %.64q: %w", name, err)
		}
	}
	return nil
}

func allowedXattr(name string) bool {
	if len(name) > 255 {
		return false
	}
	ns, rest, ok := strings.Cut(name, ".")
	if !ok || rest == "" {
		return false
	}
	switch ns {
	case "user", "trusted":
		return rest != "overlay" && !strings.HasPrefix(rest, "overlay.")
	case "security":
		return rest == "capability" || rest == "ima" || rest == "evm"
	case "system":
		return rest == "posix_acl_access" || rest == "posix_acl_default"
	}
	return false
}

// readXattrs returns the attributes of the open file that belong in an archive.
func readXattrs(fd int) (map[string]string, error) {
	return xattrsWith(
		func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(name string, b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) })
}

// readXattrsAt is readXattrs for the entry name of dir, not followed.
func readXattrsAt(dir int, name string) (map[string]string, error) {
	p := procPath(dir, name)
	return xattrsWith(
		func(b []byte) (int, error) { return unix.Llistxattr(p, b) },
		func(name string, b []byte) (int, error) { return unix.Lgetxattr(p, name, b) })
}

func xattrsWith(list func([]byte) (int, error), get func(string, []byte) (int, error)) (map[string]string, error) {
	var small [1024]byte
	names := small[:]
	n, err := list(names)
	if errors.Is(err, unix.ERANGE) {
		names = make([]byte, 64<<10) // the kernel's bound
		n, err = list(names)
	}
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("listxattr", err)
	}
	attrs := map[string]string{}
	var buf [4096]byte
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if !allowedXattr(name) {
			continue
		}
		value := buf[:]
		n, err := get(name, value)
		if errors.Is(err, unix.ERANGE) {
			value = make([]byte, 64<<10)
			n, err = get(name, value)
		}
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("getxattr", err)
		}
		attrs[name] = string(value[:n])
	}
	return attrs, nil
}
