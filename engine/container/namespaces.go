package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/engine/container/rootfs"
)

// joinNamespaces fills in the namespaces that r shares with other containers and
// the shared memory that goes with them. It returns the ID of the container
// whose network files r uses.
func (m *Manager) joinNamespaces(r *record, in *specInput) (fileOwner string, err error) {
	h := r.HostConfig
	fileOwner = r.ID
	if h.NetworkMode.IsContainer() && !r.Config.NetworkDisabled {
		other, err := m.runningPeer(r, h.NetworkMode.ConnectedContainer())
		if err != nil {
			return "", fmt.Errorf("failed to set up container networking: joining network namespace of container: %w", err)
		}
		in.namespaces[specs.NetworkNamespace] = namespacePath(other, "net")
		fileOwner = other.ID
		for other.HostConfig.NetworkMode.IsContainer() { // its files come from further on
			next, err := m.lookup(other.HostConfig.NetworkMode.ConnectedContainer())
			if err != nil || next.id == fileOwner {
				break
			}
			other = next.rec.Load()
			fileOwner = other.ID
		}
	}
	if h.PidMode.IsContainer() {
		other, err := m.runningPeer(r, h.PidMode.Container())
		if err != nil {
			return "", fmt.Errorf("failed to join PID namespace: %w", err)
		}
		in.namespaces[specs.PIDNamespace] = namespacePath(other, "pid")
	}
	switch {
	case h.IpcMode.IsContainer():
		other, err := m.runningPeer(r, h.IpcMode.Container())
		if err != nil {
			return "", fmt.Errorf("failed to join IPC namespace: %w", err)
		}
		if !other.HostConfig.IpcMode.IsShareable() {
			return "", invalid("failed to join IPC namespace: container %s: non-shareable IPC (hint: use IpcMode:shareable for the donor container)", other.ID)
		}
		in.namespaces[specs.IPCNamespace] = namespacePath(other, "ipc")
		in.files = append(in.files, bind(m.shmDir(other.ID), "/dev/shm"))
	case h.IpcMode.IsShareable():
		if err := rootfs.MountShm(m.shmDir(r.ID), h.ShmSize); err != nil {
			return "", err
		}
		in.files = append(in.files, bind(m.shmDir(r.ID), "/dev/shm"))
	case h.IpcMode.IsHost():
		in.files = append(in.files, bind("/dev/shm", "/dev/shm"))
		if _, err := os.Stat("/dev/mqueue"); err == nil {
			in.files = append(in.files, bind("/dev/mqueue", "/dev/mqueue"))
		}
	}
	return fileOwner, nil
}

func bind(source, dest string) specs.Mount {
	return specs.Mount{Destination: dest, Type: "bind", Source: source, Options: []string{"rbind", "rprivate"}}
}

// shmDir is where the shared memory of a container with shareable IPC is
// mounted. It is mounted on the host: other containers join it.
func (m *Manager) shmDir(id string) string { return filepath.Join(m.runDir(id), "shm") }

// removeRunDir removes the container's directory on tmpfs.
func (m *Manager) removeRunDir(id string) error {
	mounted, err := filepath.Glob(filepath.Join(m.runDir(id), "image-*"))
	errs := []error{err, rootfs.Unmount(m.shmDir(id))}
	for _, dir := range mounted {
		errs = append(errs, rootfs.Unmount(dir))
	}
	if err := errors.Join(errs...); err != nil {
		return err // what is mounted must not be removed
	}
	return os.RemoveAll(m.runDir(id))
}

// runningPeer returns the container that r wants to share a namespace with.
func (m *Manager) runningPeer(r *record, ref string) (*record, error) {
	e, err := m.lookup(ref)
	if err != nil {
		return nil, err
	}
	other := e.rec.Load()
	switch {
	case other.ID == r.ID:
		return nil, invalid("cannot join own namespace")
	case other.State == Restarting:
		return nil, refusal(other, evPause)
	case !other.State.hasTask():
		return nil, conflict("cannot join namespace of a non running container: container %s is %s", other.name(), other.State)
	}
	return other, nil
}

func namespacePath(r *record, name string) string {
	return fmt.Sprintf("/proc/%d/ns/%s", r.Pid, name)
}

// settleUser resolves the container's user and makes its working directory. A
// container that has never run looks like its image, so that the answer for the
// image is remembered.
func (m *Manager) settleUser(r *record, layers []mount.Mount) (specs.User, error) {
	c := r.Config
	key := ""
	if r.StartedAt.IsZero() && !r.Touched && r.ChainID != "" {
		key = strings.Join(slices.Concat([]string{r.ChainID, c.User, c.WorkingDir}, r.HostConfig.GroupAdd), "\x00")
		if u, ok := m.users.get(key); ok {
			return u, nil
		}
	}
	root, err := m.view(layers)
	if err != nil {
		return specs.User{}, err
	}
	defer root.Close()
	known, err := readAccounts(root)
	if err != nil {
		return specs.User{}, err
	}
	u, err := known.user(c.User, r.HostConfig.GroupAdd)
	if err != nil {
		return u, err
	}
	existed, err := m.settleWorkdir(r, root, layers)
	if err != nil {
		return u, err
	}
	if key != "" && existed {
		m.users.put(key, u)
	}
	return u, nil
}

// settleWorkdir makes the working directory in the container's own layer when
// view does not have it, and reports whether it does.
func (m *Manager) settleWorkdir(r *record, view *rootfs.Root, layers []mount.Mount) (existed bool, err error) {
	dir := r.Config.WorkingDir
	if dir == "" || dir == "/" || r.mountCovers(dir) {
		return true, nil
	}
	d, err := view.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY)
	if err == nil {
		return true, d.Close()
	}
	if !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("Cannot mkdir: %s is not a directory", dir)
	}
	own, err := m.open(layers)
	if err != nil {
		return false, err
	}
	defer own.Close()
	if _, err := own.MkdirAll(dir, 0o755); err != nil {
		return false, fmt.Errorf("make working directory %s: %w", dir, err)
	}
	return false, nil
}

// mountCovers reports whether dir lies in a mount, where it is not the file
// system's to have.
func (r *record) mountCovers(dir string) bool {
	covers := func(dest string) bool { return dir == dest || strings.HasPrefix(dir, dest+"/") }
	for _, p := range r.Mounts {
		if covers(p.Destination) {
			return true
		}
	}
	for dest := range r.HostConfig.Tmpfs {
		if covers(filepath.Clean(dest)) {
			return true
		}
	}
	return false
}
