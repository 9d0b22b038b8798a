package diff

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"lighter/internal/tarball"
)

// layout is what mounts show: the directories of an overlay, or one directory.
type layout struct {
	overlay   bool
	writable  bool
	layers    []string // topmost first; with an upper directory that is the first
	upper     bool
	userXattr bool
}

// parseMounts understands one overlay or bind mount.
func parseMounts(mounts []mount.Mount) (layout, error) {
	if len(mounts) != 1 {
		return layout{}, fmt.Errorf("%d mounts instead of one: %w", len(mounts), errdefs.ErrNotImplemented)
	}
	m := mounts[0]
	switch {
	case m.Type == "overlay":
		return parseOverlay(m)
	case m.Type == "bind" || m.Type == "rbind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind"):
		if m.Target != "" {
			return layout{}, fmt.Errorf("mount at %q instead of the root: %w", m.Target, errdefs.ErrNotImplemented)
		}
		return layout{layers: []string{m.Source}, writable: !slices.Contains(m.Options, "ro")}, nil
	}
	return layout{}, fmt.Errorf("mount of type %q: %w", m.Type, errdefs.ErrNotImplemented)
}

func parseOverlay(m mount.Mount) (layout, error) {
	l := layout{overlay: true}
	upper := ""
	for _, o := range m.Options {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "upperdir":
			upper = unescape(value)
		case "lowerdir":
			for _, dir := range splitLower(value) {
				if dir == "" { // "::" introduces data-only layers
					return layout{}, fmt.Errorf("data-only lower layers: %w", errdefs.ErrNotImplemented)
				}
				l.layers = append(l.layers, dir)
			}
		case "lowerdir+":
			l.layers = append(l.layers, value)
		case "userxattr":
			l.userXattr = true
		}
	}
	if upper != "" {
		l.upper, l.writable = true, !slices.Contains(m.Options, "ro")
		l.layers = append([]string{upper}, l.layers...)
	}
	if len(l.layers) == 0 {
		return layout{}, fmt.Errorf("overlay mount without directories: %w", errdefs.ErrInvalidArgument)
	}
	return l, nil
}

// splitLower splits a lowerdir option at colons that are not escaped.
func splitLower(s string) (dirs []string) {
	start := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case ':':
			dirs = append(dirs, unescape(s[start:i]))
			start = i + 1
		}
	}
	return append(dirs, unescape(s[start:]))
}

func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// above returns the directory that alone holds the difference to low: the
// upper directory of an overlay whose other layers are those of low.
func (l layout) above(low layout) (string, bool) {
	if !l.upper || len(l.layers) == 0 {
		return "", false
	}
	if low.upper {
		return "", false // low may be changing too
	}
	return l.layers[0], slices.Equal(l.layers[1:], low.layers)
}

// view opens the merged directory. Close ends it.
func (l layout) view() (*os.File, error) {
	if !l.overlay || len(l.layers) == 1 && !l.upper {
		return openDir(l.layers[0])
	}
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen overlay", err)
	}
	defer unix.Close(fd)
	layers := l.layers
	if len(layers) == 1 { // an overlay that is only read needs two
		empty, err := os.MkdirTemp("", "lighter-diff-")
		if err != nil {
			return nil, err
		}
		defer os.Remove(empty)
		layers = append(layers[:1:1], empty)
	}
	escaped := make([]string, len(layers))
	for i, dir := range layers {
		escaped[i] = strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(dir)
	}
	if err := unix.FsconfigSetString(fd, "lowerdir", strings.Join(escaped, ":")); err != nil {
		// One string is limited to 256 bytes; since Linux 6.5 layers can be added singly.
		for _, dir := range layers {
			if err := unix.FsconfigSetString(fd, "lowerdir+", dir); err != nil {
				return nil, fmt.Errorf("view overlay of %d layers: %w", len(layers), os.NewSyscallError("fsconfig", err))
			}
		}
	}
	if l.userXattr {
		if err := unix.FsconfigSetFlag(fd, "userxattr"); err != nil {
			return nil, os.NewSyscallError("fsconfig userxattr", err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return nil, os.NewSyscallError("fsconfig create", err)
	}
	mnt, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	return os.NewFile(uintptr(mnt), "overlay"), nil
}

func openDir(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// target is where a layer is extracted to.
type target struct {
	layout
	path  string
	root  *os.File
	lower []*os.File
}

// openTarget opens the writable directory of mounts and the layers below.
func openTarget(mounts []mount.Mount) (*target, error) {
	l, err := parseMounts(mounts)
	if err != nil {
		return nil, err
	}
	if !l.writable {
		return nil, fmt.Errorf("mount is read-only: %w", errdefs.ErrInvalidArgument)
	}
	t := &target{layout: l, path: l.layers[0]}
	if t.root, err = openDir(t.path); err != nil {
		return nil, err
	}
	for _, dir := range l.layers[1:] {
		f, err := openDir(dir)
		if err != nil {
			t.Close()
			return nil, err
		}
		t.lower = append(t.lower, f)
	}
	return t, nil
}

// options are those for extracting into t. lower may be nil; see
// containerd.StreamOptions.
func (t *target) options(ctx context.Context, lower func(context.Context) ([]mount.Mount, error)) tarball.Options {
	o := tarball.Options{Whiteouts: tarball.Delete, MaxBytes: maxLayerBytes}
	if !t.overlay {
		return o
	}
	o.Whiteouts, o.Lower, o.UserXattr = tarball.Overlay, t.lower, t.userXattr
	if lower != nil {
		o.LowerFunc = func() ([]*os.File, error) { return t.openLower(ctx, lower) }
	}
	return o
}

func (t *target) openLower(ctx context.Context, lower func(context.Context) ([]mount.Mount, error)) ([]*os.File, error) {
	mounts, err := lower(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		l, err := parseMounts([]mount.Mount{m})
		if err != nil {
			return nil, err
		}
		for _, dir := range l.layers {
			f, err := openDir(dir)
			if err != nil {
				return nil, err
			}
			t.lower = append(t.lower, f)
		}
	}
	return t.lower, nil
}

func (t *target) Close() {
	t.root.Close()
	for _, f := range t.lower {
		f.Close()
	}
}

func uniqueID() string { return rand.Text() }
