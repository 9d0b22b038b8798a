package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	continuity "github.com/containerd/continuity/fs"
)

// ID names the directory of a snapshot. Short decimal names keep the lowerdir
// option of many layers within a page, as mount(2) wants it. Zero is no ID.
type ID uint64

// String returns the name of the directory.
func (id ID) String() string { return strconv.FormatUint(uint64(id), 10) }

// dirs is the directory that overlay and native share: <root>/snapshots/<id>/fs.
type dirs struct {
	root  string
	files *syncer
}

func openDirs(root string) (*dirs, error) {
	d := &dirs{root: filepath.Join(root, "snapshots")}
	if err := os.MkdirAll(d.root, 0o700); err != nil {
		return nil, err
	}
	dtype, err := continuity.SupportsDType(root)
	if err != nil {
		return nil, fmt.Errorf("probe %q for d_type: %w", root, err)
	}
	if !dtype {
		return nil, fmt.Errorf("the file system of %q has no d_type; format xfs with ftype=1: %w", root, errdefs.ErrNotImplemented)
	}
	d.files, err = openSyncer(d.root)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (d *dirs) dir(id ID) string  { return filepath.Join(d.root, id.String()) }
func (d *dirs) path(id ID) string { return filepath.Join(d.dir(id), "fs") }

// create makes the directory of id with an fs in it that fill may work on.
func (d *dirs) create(id ID, fill func(dir string) error) (err error) {
	dir := d.dir(id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make snapshot %s: %w", id, errdefs.ErrAlreadyExists)
		}
		return fmt.Errorf("make snapshot %s: %w", id, err)
	}
	if err := fill(dir); err != nil {
		return errors.Join(fmt.Errorf("make snapshot %s: %w", id, err), os.RemoveAll(dir))
	}
	return nil
}

// mkdir makes a directory with exactly the mode, whatever the umask.
func mkdir(path string, mode os.FileMode) error {
	if err := os.Mkdir(path, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

func (d *dirs) Usage(ctx context.Context, id ID) (snapshots.Usage, error) {
	du, err := continuity.DiskUsage(ctx, d.path(id))
	if err != nil {
		return snapshots.Usage{}, fmt.Errorf("measure snapshot %s: %w", id, err)
	}
	return snapshots.Usage(du), nil
}

func (d *dirs) Remove(_ context.Context, id ID) error {
	if err := os.RemoveAll(d.dir(id)); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	return nil
}

func (d *dirs) IDs() ([]ID, error) {
	f, err := os.Open(d.root)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	ids := make([]ID, 0, len(names))
	for _, name := range names {
		if n, err := strconv.ParseUint(name, 10, 64); err == nil && n > 0 {
			ids = append(ids, ID(n))
		}
	}
	return ids, nil
}

func (d *dirs) Sync(ctx context.Context) error { return d.files.Sync(ctx) }
func (d *dirs) Close() error                   { return d.files.Close() }

// chownRoot gives fs, the root of a snapshot, its owner: the one that the labels
// map uid and gid 0 to, else that of the nearest parent's root.
func (d *dirs) chownRoot(path string, s Snapshot) error {
	uid, gid, ok, err := mappedRoot(s.Labels)
	if err != nil {
		return err
	}
	if !ok {
		if len(s.Parents) == 0 {
			return nil
		}
		if uid, gid, err = owner(d.path(s.Parents[0])); err != nil {
			return err
		}
	}
	return os.Lchown(path, uid, gid)
}
