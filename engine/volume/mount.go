package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// The driver's options, and which of the others each of them needs.
var optionNeeds = map[string][]string{
	"type": {"device"}, "device": {"type"}, "o": {"device", "type"}, "size": nil,
}

// checkOptions validates the options of a volume that is to be made.
func checkOptions(opts map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(opts)) {
		needs, ok := optionNeeds[key]
		if !ok {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid option: %q", key))
		}
		for _, need := range needs {
			if opts[need] == "" {
				return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("missing required option: %q", need))
			}
		}
	}
	if size, ok := opts["size"]; ok {
		if _, err := units.RAMInBytes(size); err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(err.Error())
		}
		return errdefs.ErrInvalidArgument.WithMessage("quota size requested but no quota support")
	}
	return nil
}

// mounted reports whether the volume is something mounted, rather than a
// directory of ours.
func mounted(opts map[string]string) bool { return opts["device"] != "" }

// Mount makes the volume ready for user, a container that starts, and returns the
// directory to mount: the first user of a volume with the options type and device
// mounts it. Unmount is its counterpart. It is idempotent.
//
// Errors: NotFound; what the mount fails with, in Docker's words.
func (s *Store) Mount(ctx context.Context, name, user string) (string, error) {
	e, opts, err := s.mountable(name)
	if err != nil {
		return "", err
	}
	path := s.Path(name)
	if e.meta.Driver == "" && !mounted(opts) {
		return path, nil
	}
	e.mounting.Lock() // held over the mount, for this volume only
	defer e.mounting.Unlock()
	if e.meta.Driver != "" {
		d, err := s.driver(ctx, e.meta.Driver)
		if err == nil {
			path, err = d.mount(ctx, name, user)
		}
		if err != nil {
			return "", errdefs.ErrUnknown.WithMessage(fmt.Sprintf("error while mounting volume '%s': %s", e.meta.Mountpoint, err))
		}
		e.mounts[user] = struct{}{}
		return path, nil
	}
	if len(e.mounts) == 0 {
		on, err := isMount(path)
		if err == nil && !on { // else an engine before this one has left it
			err = mountDevice(ctx, opts, path)
		}
		if err != nil {
			return "", errdefs.ErrUnknown.WithMessage(fmt.Sprintf("error while mounting volume '%s': failed to mount local volume: %s", path, err))
		}
	}
	e.mounts[user] = struct{}{}
	return path, nil
}

// Adopt records that user, a container that runs since an engine before this one,
// has the volume mounted.
func (s *Store) Adopt(name, user string) {
	if e, _, err := s.mountable(name); err == nil {
		e.mounting.Lock()
		defer e.mounting.Unlock()
		e.mounts[user] = struct{}{}
	}
}

// Unmount takes back Mount. With the last user of a volume its mount goes.
func (s *Store) Unmount(name, user string) error {
	e, opts, err := s.mountable(name)
	if err != nil || e.meta.Driver == "" && !mounted(opts) {
		return nil
	}
	e.mounting.Lock()
	defer e.mounting.Unlock()
	if e.meta.Driver != "" {
		if _, used := e.mounts[user]; !used {
			return nil
		}
		delete(e.mounts, user)
		ctx := context.Background() // bounded by the plugin's timeout
		d, err := s.driver(ctx, e.meta.Driver)
		if err != nil {
			return err
		}
		return d.unmount(ctx, name, user)
	}
	delete(e.mounts, user)
	if len(e.mounts) > 0 {
		return nil
	}
	return s.detach(name)
}

// Sweep unmounts what no container uses: the rest of an engine that was killed.
// Call it when the containers that run are adopted.
func (s *Store) Sweep() {
	s.mu.Lock()
	names := slices.Collect(maps.Keys(s.volumes))
	s.mu.Unlock()
	for _, name := range names {
		if err := s.Unmount(name, ""); err != nil {
			s.log.Warn("cannot unmount a volume that nothing uses", "volume", name, "err", err)
		}
	}
}

func (s *Store) mountable(name string) (*entry, map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.volumes[name]
	if !ok {
		return nil, nil, notFound(name)
	}
	return e, e.meta.Options, nil
}

// detach unmounts the volume's directory, if something is mounted there.
func (s *Store) detach(name string) error {
	path := s.Path(name)
	on, err := isMount(path)
	if err != nil || !on {
		return err
	}
	if err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount volume %q: %w", name, os.NewSyscallError("umount", err))
	}
	return nil
}

// isMount reports whether something is mounted at path.
func isMount(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// mountFlags are the words of the option o that are flags of mount(2), with what
// they set or, behind a minus, clear.
var mountFlags = map[string]struct {
	flag  uintptr
	clear bool
}{
	"ro": {unix.MS_RDONLY, false}, "rw": {unix.MS_RDONLY, true}, "bind": {unix.MS_BIND, false}, "rbind": {unix.MS_BIND | unix.MS_REC, false},
	"nodev": {unix.MS_NODEV, false}, "dev": {unix.MS_NODEV, true}, "nosuid": {unix.MS_NOSUID, false}, "suid": {unix.MS_NOSUID, true},
	"noexec": {unix.MS_NOEXEC, false}, "exec": {unix.MS_NOEXEC, true}, "sync": {unix.MS_SYNCHRONOUS, false}, "async": {unix.MS_SYNCHRONOUS, true},
	"dirsync": {unix.MS_DIRSYNC, false}, "remount": {unix.MS_REMOUNT, false}, "mand": {unix.MS_MANDLOCK, false}, "nomand": {unix.MS_MANDLOCK, true},
	"atime": {unix.MS_NOATIME, true}, "noatime": {unix.MS_NOATIME, false}, "diratime": {unix.MS_NODIRATIME, true}, "nodiratime": {unix.MS_NODIRATIME, false},
	"relatime": {unix.MS_RELATIME, false}, "norelatime": {unix.MS_RELATIME, true}, "strictatime": {unix.MS_STRICTATIME, false}, "nostrictatime": {unix.MS_STRICTATIME, true},
	"defaults": {0, false},
}

var mountPropagation = map[string]uintptr{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC, "shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
	"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC, "unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// splitOptions reads the option o: flags, propagation, and the file system's own.
func splitOptions(o string) (flags, propagation uintptr, data []string) {
	for word := range strings.SplitSeq(o, ",") {
		if f, ok := mountFlags[word]; ok {
			if f.clear {
				flags &^= f.flag
			} else {
				flags |= f.flag
			}
		} else if p, ok := mountPropagation[word]; ok {
			propagation = p
		} else if word != "" {
			data = append(data, word)
		}
	}
	return flags, propagation, data
}

// mountDevice mounts what the options say at path.
func mountDevice(ctx context.Context, opts map[string]string, path string) error {
	flags, propagation, data := splitOptions(opts["o"])
	device, typ := opts["device"], opts["type"]
	if err := resolveServer(ctx, typ, device, &data); err != nil {
		return fmt.Errorf("error resolving passed in network volume address: %w", err)
	}
	text := strings.Join(data, ",")
	fail := func(err error) error {
		shown := slices.Clone(data)
		for i, word := range shown {
			if strings.HasPrefix(word, "password=") {
				shown[i] = "password=********"
			}
		}
		what := fmt.Sprintf("mount %s:%s, flags: 0x%x", device, path, flags)
		if len(shown) > 0 {
			what += ", data: " + strings.Join(shown, ",")
		}
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := unix.Mount(device, path, typ, flags, text); err != nil {
		return fail(err)
	}
	undo := func(err error) error {
		return errors.Join(fail(err), unix.Unmount(path, unix.MNT_DETACH))
	}
	// A bind mount takes its flags only when it is mounted again.
	const bindOnly = unix.MS_BIND | unix.MS_REC
	if flags&unix.MS_BIND != 0 && flags&^bindOnly != 0 {
		if err := unix.Mount("", path, "", flags&^unix.MS_REC|unix.MS_REMOUNT, ""); err != nil {
			return undo(err)
		}
	}
	if propagation != 0 {
		if err := unix.Mount("", path, "", propagation, ""); err != nil {
			return undo(err)
		}
	}
	return nil
}

// resolveServer replaces the name in addr= by its address: the kernel's network
// file systems know no names. For cifs the name may stand in the device alone.
func resolveServer(ctx context.Context, typ, device string, data *[]string) error {
	if !strings.HasPrefix(typ, "nfs") && typ != "cifs" && typ != "smb3" {
		return nil
	}
	at := slices.IndexFunc(*data, func(word string) bool { return strings.HasPrefix(word, "addr=") })
	host := ""
	if at >= 0 {
		host = strings.TrimPrefix((*data)[at], "addr=")
	} else if typ == "cifs" {
		if u, err := url.Parse(device); err == nil {
			host = u.Hostname()
		}
	}
	if host == "" || at >= 0 && net.ParseIP(host) != nil {
		return nil
	}
	addrs, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return err
	}
	word := "addr=" + addrs[0].String()
	if at >= 0 {
		*data = slices.Clone(*data)
		(*data)[at] = word
	} else {
		*data = append(*data, word)
	}
	return nil
}
