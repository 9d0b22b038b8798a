package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	"lighter/engine/container/rootfs"
	"lighter/internal/tarball"
)

// Source is what an image is committed from.
type Source struct {
	ContainerID string
	Snapshotter string
	SnapshotKey string // active snapshot; diff it against its parent
	ImageID     string // of the image that the container was created from
	Platform    string // operating system
	Config      api.Config
}

// CommitSource returns what an image of the container is made from. With pause a
// running container is frozen until release, which must be called.
func (m *Manager) CommitSource(ctx context.Context, ref string, pause bool) (src *Source, release func(), err error) {
	e, err := m.lookup(ref)
	if err != nil {
		return nil, nil, err
	}
	r := e.rec.Load()
	switch r.State {
	case Removing:
		return nil, nil, conflict("You cannot commit container %s which is being removed", r.ID)
	case Dead:
		return nil, nil, conflict("You cannot commit container %s which is Dead", r.ID)
	}
	release = func() {}
	if pause && r.State == Running {
		if err := m.Pause(ctx, r.ID); err != nil {
			return nil, nil, err
		}
		release = func() {
			ctx, cancel := m.detached(ctx, freezeLimit)
			defer cancel()
			if err := m.Unpause(ctx, r.ID); err != nil && !isNotFound(err) {
				m.Log.Error("cannot thaw a container after a commit", "container", r.ID, "err", err)
			}
		}
	}
	return &Source{
		ContainerID: r.ID, Snapshotter: r.Snapshotter, SnapshotKey: r.ID,
		ImageID: r.ImageID, Platform: r.Platform, Config: *r.Config,
	}, release, nil
}

// root opens the file system of a container with all that is mounted in it: that
// of its process while it runs, else its snapshot with its volumes and binds.
func (m *Manager) root(ctx context.Context, r *record, writable bool) (*rootfs.Root, error) {
	if r.State.hasTask() {
		return m.ofProcess(r.Pid, r.ID)
	}
	sn, err := m.snapshotter(r)
	if err != nil {
		return nil, err
	}
	mounts, err := sn.Mounts(m.in(ctx), r.ID)
	if err != nil {
		return nil, fmt.Errorf("find the file system of container %s: %w", r.ID, err)
	}
	attachments, err := m.attachments(ctx, r)
	if err != nil {
		return nil, err
	}
	switch {
	case len(attachments) > 0:
		return m.compose(mounts, attachments, writable)
	case writable:
		return m.open(mounts)
	}
	return m.view(mounts)
}

// attachments returns what a run of the container would find mounted and has
// files that outlive it.
func (m *Manager) attachments(ctx context.Context, r *record) ([]rootfs.Attachment, error) {
	var all []rootfs.Attachment
	for i, p := range r.Mounts {
		a := rootfs.Attachment{Source: p.Source, Subpath: p.subpath(), Target: p.Destination, ReadOnly: !p.RW}
		switch p.Type {
		case mount.TypeVolume, mount.TypeBind:
		case mount.TypeImage:
			layers, err := m.imageLayers(ctx, r, i)
			if err != nil {
				return nil, err
			}
			a.Source, a.Layers = "", layers
		default:
			continue
		}
		all = append(all, a)
	}
	for _, f := range m.ownFiles(r, r.ID) {
		if !slices.ContainsFunc(r.Mounts, func(p mountPoint) bool { return p.Destination == f.Destination }) {
			all = append(all, rootfs.Attachment{Source: f.Source, Target: f.Destination})
		}
	}
	return all, nil
}

// Changes returns what differs between the container and its image, by path.
func (m *Manager) Changes(ctx context.Context, ref string) ([]api.FilesystemChange, error) {
	e, err := m.lookup(ref)
	if err != nil {
		return nil, err
	}
	r := e.rec.Load()
	sn, err := m.snapshotter(r)
	if err != nil {
		return nil, err
	}
	mounts, err := sn.Mounts(m.in(ctx), r.ID)
	if err != nil {
		return nil, fmt.Errorf("find the file system of container %s: %w", r.ID, err)
	}
	layers, err := rootfs.LayersOf(mounts)
	if err != nil {
		return nil, err
	}
	found, err := layers.Changes(ctx)
	if err != nil {
		return nil, fmt.Errorf("compare container %s with its image: %w", r.ID, err)
	}
	changes := []api.FilesystemChange{}
	for _, c := range withoutMountPoints(found) {
		changes = append(changes, api.FilesystemChange{Kind: api.ChangeType(c.Kind), Path: c.Path})
	}
	return changes, nil
}

// enginePaths are mounted over in every container: what the runtime makes below
// them to mount on is not the container's doing.
var enginePaths = []string{"/dev", "/proc", "/sys", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}

// withoutMountPoints drops the mount points that the runtime made for the engine,
// and the directories that count as modified for no other reason.
func withoutMountPoints(found []rootfs.Change) []rootfs.Change {
	var kept []rootfs.Change
	emptied := map[string]bool{}
	for _, c := range found {
		if c.Kind == rootfs.Added && slices.ContainsFunc(enginePaths, func(p string) bool {
			return c.Path == p || strings.HasPrefix(c.Path, p+"/")
		}) {
			emptied[path.Dir(c.Path)] = true
			continue
		}
		kept = append(kept, c)
	}
	return slices.DeleteFunc(kept, func(c rootfs.Change) bool {
		return emptied[c.Path] && !slices.ContainsFunc(kept, func(o rootfs.Change) bool { return path.Dir(o.Path) == c.Path })
	})
}

// Export writes the container's file system to w as a tar archive.
func (m *Manager) Export(ctx context.Context, ref string, w io.Writer) error {
	e, err := m.lookup(ref)
	if err != nil {
		return err
	}
	r := e.rec.Load()
	switch r.State {
	case Removing:
		return conflict("You cannot export container %s which is being removed", r.ID)
	case Dead:
		return conflict("You cannot export container %s which is dead", r.ID)
	}
	sn, err := m.snapshotter(r)
	if err != nil {
		return err
	}
	mounts, err := sn.Mounts(m.in(ctx), r.ID)
	if err != nil {
		return fmt.Errorf("find the file system of container %s: %w", r.ID, err)
	}
	root, err := m.view(mounts) // without what is mounted into the container
	if err != nil {
		return err
	}
	defer root.Close()
	out := tarball.NewWriter(w, tarball.WriterOptions{})
	if err := errors.Join(out.Add(ctx, root.File(), ".", ""), out.Close()); err != nil {
		return fmt.Errorf("export container %s: %w", r.ID, err)
	}
	m.publish(r, events.ActionExport)
	return nil
}

// ArchiveStat describes the file that path means in the container, itself and not
// what it links to.
func (m *Manager) ArchiveStat(ctx context.Context, ref, name string) (api.PathStat, error) {
	e, err := m.lookup(ref)
	if err != nil {
		return api.PathStat{}, err
	}
	r := e.rec.Load()
	root, err := m.root(ctx, r, false)
	if err != nil {
		return api.PathStat{}, err
	}
	defer root.Close()
	return pathStat(root, ref, name)
}

func pathStat(root *rootfs.Root, ref, name string) (api.PathStat, error) {
	base, err := root.Lstat(name)
	if err != nil {
		return api.PathStat{}, fileError(err, ref, name)
	}
	if dirWanted(name) && base.LinkTarget == "" && !base.Mode.IsDir() {
		return api.PathStat{}, invalid("not a directory: %s", name)
	}
	return api.PathStat{Name: base.Name, Size: base.Size, Mode: base.Mode, Mtime: base.ModTime, LinkTarget: base.LinkTarget}, nil
}

// dirWanted reports whether name is written as that of a directory.
func dirWanted(name string) bool {
	return strings.HasSuffix(name, "/") || name == "." || strings.HasSuffix(name, "/.")
}

// entryName returns how the archive of name calls it: by its last component, which
// is "." for the contents of a directory and "/" for the root.
func entryName(name string) string {
	if base := path.Base(name); base != ".." {
		return base
	}
	return path.Base(path.Clean("/" + name))
}

// fileError words a failure to find a file as clients expect it.
func fileError(err error, ref, name string) error {
	if errors.Is(err, os.ErrNotExist) {
		return notFound("Could not find the file %s in container %s", name, ref)
	}
	for _, errno := range []syscall.Errno{syscall.ENOTDIR, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EINVAL} {
		if errors.Is(err, errno) {
			return invalid("%s: %s", errno, name)
		}
	}
	return err
}

// ArchiveGet returns the file or directory that name means in the container as a
// tar stream, which must be closed, and describes it. The stream's entries begin
// with the last component of name; those of "dir/." with "./", of "/" with "/".
func (m *Manager) ArchiveGet(ctx context.Context, ref, name string) (io.ReadCloser, api.PathStat, error) {
	e, err := m.lookup(ref)
	if err != nil {
		return nil, api.PathStat{}, err
	}
	r := e.rec.Load()
	root, err := m.root(ctx, r, false)
	if err != nil {
		return nil, api.PathStat{}, err
	}
	stat, err := pathStat(root, ref, name)
	if err != nil {
		root.Close()
		return nil, stat, err
	}
	source, entry := path.Clean("/"+name), entryName(name)
	if dirWanted(name) && stat.LinkTarget != "" {
		source = stat.LinkTarget // the directory behind the link
	}
	pr, pw := io.Pipe()
	go func() { // ends when the reader is closed
		defer root.Close()
		w := tarball.NewWriter(pw, tarball.WriterOptions{})
		err := w.Add(ctx, root.File(), source, entry)
		if err == nil {
			err = w.Close()
		}
		pw.CloseWithError(err)
	}()
	m.publish(r, events.ActionArchivePath)
	return pr, stat, nil
}

// ArchivePut extracts the uncompressed tar stream into the directory that name
// means in the container. Nothing in it leads outside, nor into a mount that is
// read-only. keepKinds refuses to replace a directory by a file and the other
// way around; ownedByUser gives all to the container's user.
func (m *Manager) ArchivePut(ctx context.Context, ref, name string, tar io.Reader, keepKinds, ownedByUser bool) error {
	e, err := m.lookup(ref)
	if err != nil {
		return err
	}
	if err := e.acquire(ctx); err != nil { // a start must not mount the snapshot meanwhile
		return err
	}
	defer e.release()
	r := e.rec.Load()
	if r.State == Removing || r.State == Dead {
		return conflict("container %s is being removed", r.ID)
	}
	if r.HostConfig.ReadonlyRootfs && !r.inWritableMount(name) {
		return permissionDenied("container rootfs is marked read-only")
	}
	root, err := m.root(ctx, r, true)
	if err != nil {
		return err
	}
	defer root.Close()
	dir, err := root.OpenFile(name, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fileError(err, ref, name)
	}
	defer dir.Close()
	opts := tarball.Options{KeepKinds: keepKinds}
	if ownedByUser {
		known, err := readAccounts(root)
		if err != nil {
			return err
		}
		u, err := known.user(r.Config.User, nil)
		if err != nil {
			return invalid("%s", err)
		}
		opts.Owner = &tarball.Owner{UID: int(u.UID), GID: int(u.GID)}
	}
	if !r.State.hasTask() && r.StartedAt.IsZero() {
		if _, err := m.change(e, func(r *record) error { r.Touched = true; return nil }); err != nil {
			return err
		}
	}
	if _, err := tarball.Extract(ctx, dir, tar, opts); err != nil {
		err = fmt.Errorf("extract into %s of container %s: %w", name, r.ID, err)
		if errors.Is(err, syscall.EROFS) {
			return permissionDenied("mounted volume is marked read-only: " + err.Error())
		}
		return err
	}
	m.publish(r, events.ActionExtractToDir)
	return nil
}

// inWritableMount reports whether name lies in a mount that can be written.
func (r *record) inWritableMount(name string) bool {
	clean := path.Clean("/" + name)
	return slices.ContainsFunc(r.Mounts, func(p mountPoint) bool {
		return p.RW && (clean == p.Destination || strings.HasPrefix(clean, p.Destination+"/"))
	})
}
