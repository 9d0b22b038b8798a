package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	api "github.com/moby/moby/api/types/volume"

	"lighter/internal/atomicfile"
	"lighter/internal/compression"
	"lighter/internal/tarball"
)

// ActionRename is the event of Rename. The volume's old name is its attribute
// oldName.
const ActionRename events.Action = "rename"

// Rename gives the volume called name another name. A volume that containers
// refer to is a Conflict, so is a name that is taken. Commit point: the rename of
// its directory.
func (s *Store) Rename(ctx context.Context, name, to string) error {
	if err := CheckName(to); err != nil {
		return fmt.Errorf("rename %s: %w", name, err)
	}
	e, err := s.claimRename(name, to)
	if err != nil {
		return err
	}
	err = s.renameDir(name, to)
	s.mu.Lock()
	e.busy = false
	if err == nil {
		delete(s.volumes, name)
		e.meta.Name = to
		s.volumes[to] = e
	} else {
		delete(s.volumes, to)
	}
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("rename volume %q: %w", name, err)
	}
	s.publish(ActionRename, to, map[string]string{"oldName": name})
	return nil
}

// claimRename makes e busy under both names.
func (s *Store) claimRename(name, to string) (*entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.volumes[name]
	if !ok || e.busy {
		return nil, notFound(name)
	}
	if e.meta.Driver != "" {
		return nil, errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("rename %s: the volume belongs to the plugin %s, which knows it by its name", name, e.meta.Driver))
	}
	if len(e.users) > 0 {
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("rename %s: volume is in use - %v", name, slices.Sorted(maps.Keys(e.users))))
	}
	if _, taken := s.volumes[to]; taken {
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("rename %s: a volume named %s already exists", name, to))
	}
	e.busy = true
	s.volumes[to] = e
	return e, nil
}

func (s *Store) renameDir(name, to string) error {
	from, dir := filepath.Join(s.root, name), filepath.Join(s.root, to)
	if err := s.detach(name); err != nil {
		return err
	}
	if err := os.Rename(from, dir); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(s.root); err != nil {
		return err
	}
	// The directory's name counts; what follows tidies up.
	file := filepath.Join(dir, metadataFile)
	raw, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var fields map[string]json.RawMessage // those that this version does not know are kept
	if err == nil {
		err = json.Unmarshal(raw, &fields)
	}
	if err == nil {
		if fields["name"], err = json.Marshal(to); err == nil {
			raw, err = json.Marshal(fields)
		}
	}
	if err == nil {
		err = atomicfile.Write(file, raw, 0o600)
	}
	if err != nil {
		s.log.Warn("cannot write a volume's new name", "volume", to, "err", err)
	}
	return nil
}

// Clone makes a volume of the local driver, called to, with the labels and the
// content that name has now. Files that change meanwhile are copied as they are
// found. On an error there is no new volume.
func (s *Store) Clone(ctx context.Context, name, to string) (api.Volume, error) {
	src, err := s.Inspect(ctx, name)
	if err != nil {
		return api.Volume{}, err
	}
	labels := maps.Clone(src.Labels)
	delete(labels, AnonymousLabel) // it has a name
	if to == "" {
		labels = src.Labels
	}
	return s.fill(ctx, api.CreateRequest{Name: to, Labels: labels}, true, func(dir *os.File) error {
		r, w := io.Pipe()
		done := make(chan error, 1)
		go func() { // ends when the archive is written or r is closed
			err := s.Export(ctx, name, w, compression.None)
			w.CloseWithError(err)
			done <- err
		}()
		_, err := tarball.Extract(ctx, dir, r, tarball.Options{})
		if err == nil {
			_, err = io.Copy(io.Discard, r) // what follows the end marker
		}
		r.Close()
		return errors.Join(err, <-done)
	})
}

// Import extracts a tar archive, plain or compressed, into the volume called
// name, which it makes if there is none: then an error leaves none.
func (s *Store) Import(ctx context.Context, name string, archive io.Reader) (api.Volume, error) {
	return s.fill(ctx, api.CreateRequest{Name: name}, false, func(dir *os.File) error {
		r, _, err := compression.NewReader(archive)
		if err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(err.Error())
		}
		defer r.Close()
		_, err = tarball.Extract(ctx, dir, r, tarball.Options{})
		return err
	})
}

// fill makes or finds a volume and has f write into its directory.
func (s *Store) fill(ctx context.Context, req api.CreateRequest, mustBeNew bool, f func(dir *os.File) error) (v api.Volume, err error) {
	var id [8]byte
	user := "copy-" + randomHex(id[:]) // no container's ID; keeps others from removing it
	v, created, err := s.create(ctx, req, user)
	if err != nil {
		return api.Volume{}, err
	}
	name := v.Name
	defer func() {
		s.Release(name, user)
		if err != nil && created {
			err = errors.Join(err, s.Remove(context.WithoutCancel(ctx), name, true))
		}
	}()
	if mustBeNew && !created {
		return api.Volume{}, errdefs.ErrConflict.WithMessage(fmt.Sprintf("a volume named %s already exists", v.Name))
	}
	err = s.with(ctx, v.Name, f)
	if err != nil {
		return api.Volume{}, fmt.Errorf("fill volume %q: %w", v.Name, err)
	}
	return v, nil
}

// Export writes the volume's content to w as a tar archive.
func (s *Store) Export(ctx context.Context, name string, w io.Writer, kind compression.Kind) error {
	return s.with(ctx, name, func(dir *os.File) error {
		z, err := compression.NewWriter(w, kind)
		if err != nil {
			return err
		}
		tw := tarball.NewWriter(z, tarball.WriterOptions{})
		if err := tw.Add(ctx, dir, "/", "."); err != nil {
			return err
		}
		return errors.Join(tw.Close(), z.Close())
	})
}

// with mounts the volume for the time of f.
func (s *Store) with(ctx context.Context, name string, f func(dir *os.File) error) error {
	var id [8]byte
	user := "copy-" + randomHex(id[:])
	path, err := s.Mount(ctx, name, user)
	if err != nil {
		return err
	}
	defer func() {
		if err := s.Unmount(name, user); err != nil {
			s.log.Warn("cannot unmount a volume", "volume", name, "err", err)
		}
	}()
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return f(dir)
}
