package task

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"lighter/internal/atomicfile"
)

// maxSmallFile bounds what is read of a bundle's own files and of a shim's
// answer, in bytes.
const maxSmallFile = 1 << 20

// bundle is the directory of one task.
type bundle struct {
	path string
}

// makeBundle creates the directory with config.json and rootfs. A bundle left
// there is an error: the caller has made sure that no task has this ID.
func makeBundle(path string, spec []byte) (_ bundle, err error) {
	b := bundle{path: path}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return b, fmt.Errorf("make bundle: %w", err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return b, fmt.Errorf("make bundle: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.remove())
		}
	}()
	if err := os.Mkdir(b.file("rootfs"), 0o700); err != nil {
		return b, fmt.Errorf("make bundle: %w", err)
	}
	// Nothing reads the file before the shim is told of the bundle, and a crash
	// before that removes the bundle: no rename needed.
	if err := os.WriteFile(b.file("config.json"), spec, 0o600); err != nil {
		return b, fmt.Errorf("make bundle: %w", err)
	}
	return b, nil
}

func (b bundle) file(name string) string { return filepath.Join(b.path, name) }

// remove deletes the bundle. What a shim left mounted at rootfs is unmounted
// first, and when that fails nothing is deleted: the files below a mount are not
// ours. Removing what is not there is no error.
func (b bundle) remove() error {
	doomed := filepath.Join(filepath.Dir(b.path), "."+strings.TrimPrefix(filepath.Base(b.path), "."))
	if doomed != b.path {
		if err := unmountAll(b.file("rootfs")); err != nil {
			return fmt.Errorf("remove bundle %q: %w", b.path, err)
		}
		if err := sweep(doomed); err != nil { // of a crash with the same ID
			return err
		}
		if err := os.Rename(b.path, doomed); err != nil {
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return fmt.Errorf("remove bundle: %w", err)
		}
	}
	return sweep(doomed)
}

// sweep deletes a bundle that was renamed to be removed.
func sweep(path string) error {
	if err := unmountAll(filepath.Join(path, "rootfs")); err != nil {
		return fmt.Errorf("remove bundle %q: %w", path, err)
	}
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("remove bundle: %w", err)
	}
	return nil
}

// unmountAll detaches every mount at path.
func unmountAll(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil || errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT):
			return nil // not a mount point, any more
		case errors.Is(err, unix.EPERM):
			// Without the right to unmount nobody of us can have mounted, unless
			// the path says otherwise.
			if mounted, merr := isMountPoint(path); merr == nil && !mounted {
				return nil
			}
		}
		return &os.PathError{Op: "unmount", Path: path, Err: err}
	}
}

func isMountPoint(path string) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		return false, os.NewSyscallError("statx", err)
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false, fmt.Errorf("statx does not report mount points: %w", errdefs.ErrNotImplemented)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// bootstrap says how to reach a shim.
type bootstrap struct {
	Version  int    `json:"version"`
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
}

// parseBootstrap reads what a shim printed at its start: a binary
// bootstrap.v1.BootstrapResult, its JSON form, or of old shims the bare address.
// The three differ in their first byte.
func parseBootstrap(data []byte) (bootstrap, error) {
	var b bootstrap
	if len(data) > 0 && data[0] < ' ' {
		var r bootapi.BootstrapResult
		if err := proto.Unmarshal(data, &r); err != nil {
			return b, fmt.Errorf("parse shim's bootstrap result: %w", err)
		}
		b = bootstrap{Version: int(r.GetVersion()), Address: r.GetAddress(), Protocol: r.GetProtocol()}
	} else if data = bytes.TrimSpace(data); len(data) > 0 && data[0] == '{' {
		if err := json.Unmarshal(data, &b); err != nil {
			return b, fmt.Errorf("parse shim's bootstrap result: %w", err)
		}
	} else {
		b = bootstrap{Version: 2, Address: string(data), Protocol: "ttrpc"}
	}
	if b.Protocol == "" {
		b.Protocol = "ttrpc"
	}
	if b.Address == "" {
		return b, fmt.Errorf("parse shim's bootstrap result: no address in %d bytes: %w", len(data), errdefs.ErrInvalidArgument)
	}
	if b.Version < 2 || b.Version > maxShimVersion {
		return b, fmt.Errorf("parse shim's bootstrap result: version %d, known are 2 and %d: %w", b.Version, maxShimVersion, errdefs.ErrNotImplemented)
	}
	return b, nil
}

func (b bundle) saveBootstrap(boot bootstrap) error {
	data, err := json.Marshal(boot)
	if err != nil {
		return fmt.Errorf("save bootstrap: %w", err)
	}
	return atomicfile.WriteVolatile(b.file("bootstrap.json"), data, 0o600)
}

// loadBootstrap reads bootstrap.json, or the address file of a shim that was
// started and not recorded before a crash.
func (b bundle) loadBootstrap() (bootstrap, error) {
	data, err := readSmall(b.file("bootstrap.json"))
	if errors.Is(err, os.ErrNotExist) {
		data, err = readSmall(b.file("address"))
	}
	if err != nil {
		return bootstrap{}, err
	}
	return parseBootstrap(data)
}

// removeSocket removes what a dead shim listened on, which may lie outside of
// the bundle.
func (b bundle) removeSocket() {
	boot, err := b.loadBootstrap()
	if err != nil {
		return
	}
	path, err := socketPath(boot.Address)
	if err != nil {
		return
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode()&os.ModeSocket != 0 {
		os.Remove(path)
	}
}

// tail returns the last n bytes of the file called name, "" when there is none.
func (b bundle) tail(name string, n int64) string {
	f, err := os.OpenFile(b.file(name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return ""
	}
	data, err := io.ReadAll(io.NewSectionReader(f, max(0, fi.Size()-n), n))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSmallFile+1))
	if err == nil && len(data) > maxSmallFile {
		err = fmt.Errorf("read %q: longer than %d bytes", path, maxSmallFile)
	}
	return data, err
}
