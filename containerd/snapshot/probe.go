package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// probeOverlay has the kernel make an overlay of directories in root, attached to
// no mount table, and returns the options that its mounts need:
//
//   - index=off where the kernel knows index: one lower directory is in use by
//     many containers, which an index forbids.
//   - metacopy=off and redirect_dir=off where they are on by default: both
//     leave changes in the upper directory that are no whole files, and a layer
//     made from it would lack them.
//   - userxattr in a user namespace, where trusted.* attributes are refused.
//
// A full disk that has snapshots passes: a daemon must start to make room.
func probeOverlay(root string) ([]string, error) {
	options := overlayOptions()
	err := tryOverlayIn(root, options)
	if errors.Is(err, unix.ENOSPC) {
		if used, globErr := filepath.Glob(filepath.Join(root, "snapshots", "*")); globErr == nil && len(used) > 0 {
			return options, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return options, nil
}

func overlayOptions() (options []string) {
	const parameters = "/sys/module/overlay/parameters"
	if _, err := os.Stat(parameters + "/index"); err == nil {
		options = append(options, "index=off")
	}
	for _, name := range []string{"metacopy", "redirect_dir"} {
		if b, err := os.ReadFile(filepath.Join(parameters, name)); err == nil && strings.TrimSpace(string(b)) == "Y" {
			options = append(options, name+"=off")
		}
	}
	if inUserNamespace() {
		options = append(options, "userxattr")
	}
	return options
}

// tryOverlayIn tries an overlay of directories that it makes in root and removes.
func tryOverlayIn(root string, options []string) (err error) {
	// One name, so that what a killed process left goes with the next probe.
	dir := filepath.Join(root, ".probe")
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("probe overlay: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("probe overlay: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, name := range []string{"lower", "lower2", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return fmt.Errorf("probe overlay: %w", err)
		}
	}
	if err := tryOverlay(dir, options); err != nil {
		return fmt.Errorf("overlay cannot be mounted in %q: %w: %w", root, err, errdefs.ErrNotImplemented)
	}
	return nil
}

// tryOverlay makes the superblock of an overlay and drops it.
func tryOverlay(dir string, options []string) error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fd)
	settings := append([]string{
		"lowerdir=" + filepath.Join(dir, "lower") + ":" + filepath.Join(dir, "lower2"),
		"upperdir=" + filepath.Join(dir, "upper"),
		"workdir=" + filepath.Join(dir, "work"),
	}, options...)
	for _, setting := range settings {
		key, value, hasValue := strings.Cut(setting, "=")
		if hasValue {
			err = unix.FsconfigSetString(fd, key, value)
		} else {
			err = unix.FsconfigSetFlag(fd, key)
		}
		if err != nil {
			return fmt.Errorf("fsconfig %q: %w", setting, err)
		}
	}
	return os.NewSyscallError("fsconfig", unix.FsconfigCreate(fd))
}

// inUserNamespace reports whether the process is not in the initial user
// namespace, whose map is the identity of all ids.
func inUserNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	return strings.Join(strings.Fields(string(b)), " ") != "0 0 4294967295"
}
