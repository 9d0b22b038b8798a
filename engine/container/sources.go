package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	mounttypes "github.com/moby/moby/api/types/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/engine/container/rootfs"
	"lighter/internal/cleanup"
)

// subpath returns which part of a volume or an image is mounted, "" for all.
func (p mountPoint) subpath() string {
	switch {
	case p.Spec == nil:
	case p.Spec.VolumeOptions != nil:
		return p.Spec.VolumeOptions.Subpath
	case p.Spec.ImageOptions != nil:
		return p.Spec.ImageOptions.Subpath
	}
	return ""
}

// imageKeyInfix stands between a container's ID and the number of the mount.
const imageKeyInfix = "-mount-"

// imageKey is the key of the read-only snapshot that mount i of a container
// shows.
func imageKey(id string, i int) string { return id + imageKeyInfix + strconv.Itoa(i) }

// acquireImages finds the images that r mounts and makes their snapshots, which
// keep the layers for as long as the container exists.
func (m *Manager) acquireImages(ctx context.Context, r *record, undo *cleanup.Stack) error {
	for i := range r.Mounts {
		p := &r.Mounts[i]
		if p.Type != mounttypes.TypeImage {
			continue
		}
		img, err := m.Images.Resolve(ctx, p.Name, nil)
		if err != nil {
			return err
		}
		sn, err := m.snapshotter(r)
		if err != nil {
			return err
		}
		_, err = sn.View(ctx, imageKey(r.ID, i), img.ChainID, snapshots.WithLabels(map[string]string{
			labelContainer: r.ID,
			labelRoot:      r.Created.Format(time.RFC3339),
		}))
		if err != nil {
			return fmt.Errorf("prepare image %s to be mounted: %w", p.Name, err)
		}
		undo.Add(func() error {
			ctx, cancel := m.detached(ctx, undoLimit)
			defer cancel()
			return sn.Remove(ctx, imageKey(r.ID, i))
		})
		p.Image = img.ID
	}
	return nil
}

// releaseImages removes what acquireImages made. It is idempotent.
func (m *Manager) releaseImages(ctx context.Context, r *record) error {
	var errs []error
	for i, p := range r.Mounts {
		if p.Type != mounttypes.TypeImage {
			continue
		}
		sn, err := m.snapshotter(r)
		if err == nil {
			err = sn.Remove(ctx, imageKey(r.ID, i))
		}
		if err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// imageLayers returns the mounts of the image that mount i of r shows.
func (m *Manager) imageLayers(ctx context.Context, r *record, i int) ([]mount.Mount, error) {
	sn, err := m.snapshotter(r)
	if err != nil {
		return nil, err
	}
	mounts, err := sn.Mounts(m.in(ctx), imageKey(r.ID, i))
	if err != nil {
		return nil, fmt.Errorf("find image %s that is mounted on %s: %w", r.Mounts[i].Name, r.Mounts[i].Destination, err)
	}
	return mounts, nil
}

// openSources completes in with the mounts whose source is no plain path: images,
// and parts of volumes and images. A part is opened confined to the whole and
// handed to the runtime as a descriptor, so that nothing that a container puts in
// its way meanwhile changes what is mounted (CVE-2021-25741). The files are the
// caller's to close once the task has been created.
func (m *Manager) openSources(ctx context.Context, r *record, in *specInput) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
		}
	}()
	in.sources = map[string]specs.Mount{}
	for i, p := range r.Mounts {
		whole := p.Source
		if p.Type == mounttypes.TypeImage {
			layers, err := m.imageLayers(ctx, r, i)
			if err != nil {
				return files, err
			}
			if p.subpath() == "" {
				in.sources[p.Destination] = imageMount(p, layers)
				continue
			}
			whole = m.imageDir(r.ID, i)
			if err := rootfs.MountView(layers, whole); err != nil {
				return files, fmt.Errorf("mount image %s: %w", p.Name, err)
			}
		}
		if p.subpath() == "" {
			continue
		}
		f, err := openPart(whole, p.subpath())
		if err != nil {
			return files, fmt.Errorf("failed to mount %s: cannot access path %s: %w", p.Destination, p.subpath(), err)
		}
		files = append(files, f)
		part := specs.Mount{
			Destination: p.Destination, Type: "bind", Options: bindOptions(p),
			Source: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()),
		}
		in.sources[p.Destination] = part
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func openPart(dir, sub string) (*os.File, error) {
	root, err := rootfs.Dir(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenWithin(sub, unix.O_PATH)
	switch {
	case errors.Is(err, unix.EXDEV):
		return nil, invalid("path concatenation escapes the base directory, base: %s, subpath: %s", dir, sub)
	case errors.Is(err, os.ErrNotExist):
		return nil, invalid("%s", err)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return nil, invalid("%s", err)
	}
	return f, err
}

// imageMount is the mount of a whole image, which the runtime makes inside the
// container only.
func imageMount(p mountPoint, layers []mount.Mount) specs.Mount {
	l := layers[0] // of overlay and native snapshotters there is one
	out := specs.Mount{Destination: p.Destination, Type: l.Type, Source: l.Source, Options: slices.Clone(l.Options)}
	if !slices.Contains(out.Options, "ro") {
		out.Options = append(slices.DeleteFunc(out.Options, func(o string) bool { return o == "rw" }), "ro")
	}
	if l.Type != "overlay" {
		out.Type = "bind"
	}
	out.Options = append(out.Options, "nosuid", "nodev", "rprivate")
	return out
}

// imageDir is where an image is mounted on the host of which a container mounts
// a part: beside its shared memory the only mount there, as long as it runs.
func (m *Manager) imageDir(id string, i int) string {
	return filepath.Join(m.runDir(id), "image-"+strconv.Itoa(i))
}
