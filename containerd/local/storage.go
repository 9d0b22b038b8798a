package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	corecontent "github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"lighter/containerd/content"
	"lighter/containerd/metadata"
	"lighter/containerd/snapshot"
)

// StorageConfig says where the storage is.
type StorageConfig struct {
	Root   string           // directory, made with mode 0700 if it is missing
	Log    *slog.Logger     // nil: no log
	Events events.Publisher // nil: no events
	// RemapIDs has the overlay snapshotter emit the mount options uidmap and
	// gidmap for snapshots that carry the mapping labels.
	RemapIDs bool
}

// Storage is all of containerd that is on disk:
//
//	<root>/lock                 held by the process that uses the root, with its pid
//	<root>/meta.db              package metadata
//	<root>/content/             package content
//	<root>/snapshots/<name>/    package snapshot
//
// Its fields are safe for concurrent use. They publish the events of images,
// containers, snapshots, content and namespaces themselves.
type Storage struct {
	Content      corecontent.Store
	Images       images.Store
	Containers   containers.Store
	Leases       leases.Manager
	Namespaces   namespaces.Store
	Snapshotters map[string]snapshots.Snapshotter // "overlayfs", unless the host cannot, and "native"

	db      *metadata.DB
	drivers map[string]snapshot.Driver
	lock    *os.File
}

// Names of the snapshotters, which are also those of their directories.
const (
	overlayName = "overlayfs"
	nativeName  = "native"
)

// OpenStorage locks the root, opens what is in it, and brings it in line after a
// crash. The caller closes the Storage.
//
// A host without overlayfs gets a warning and no snapshotter of that name.
//
// Errors: Unavailable while another process uses the root, with its pid.
func OpenStorage(cfg StorageConfig) (_ *Storage, err error) {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Storage{Snapshotters: make(map[string]snapshots.Snapshotter), drivers: make(map[string]snapshot.Driver)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open storage %q: %w", cfg.Root, err), s.Close())
		}
	}()
	if err := os.MkdirAll(cfg.Root, 0o700); err != nil {
		return nil, err
	}
	if s.lock, err = lockRoot(cfg.Root); err != nil {
		return nil, err
	}
	blobs, err := content.Open(filepath.Join(cfg.Root, "content"), nil)
	if err != nil {
		return nil, err
	}
	if err := s.openDrivers(cfg, log); err != nil {
		return nil, err
	}
	s.db, err = metadata.Open(context.Background(), metadata.Config{
		Path: filepath.Join(cfg.Root, "meta.db"), Blobs: blobs, Snapshotters: s.drivers, Events: cfg.Events, Log: log,
	})
	if err != nil {
		return nil, err
	}
	for name := range s.drivers {
		s.Snapshotters[name] = s.db.Snapshotter(name)
	}
	s.Content, s.Images, s.Containers = s.db.Content(), s.db.Images(), s.db.Containers()
	s.Leases, s.Namespaces = s.db.Leases(), s.db.Namespaces()
	return s, nil
}

func (s *Storage) openDrivers(cfg StorageConfig, log *slog.Logger) error {
	dir := func(name string) (string, error) {
		path := filepath.Join(cfg.Root, "snapshots", name)
		return path, os.MkdirAll(path, 0o700)
	}
	path, err := dir(overlayName)
	if err != nil {
		return err
	}
	overlay, err := snapshot.OpenOverlay(path, snapshot.OverlayOptions{RemapIDs: cfg.RemapIDs})
	switch {
	case err == nil:
		s.drivers[overlayName] = overlay
	case errdefs.IsNotImplemented(err):
		log.Warn("snapshotter not available", "snapshotter", overlayName, "err", err)
	default:
		return err
	}
	if path, err = dir(nativeName); err != nil {
		return err
	}
	native, err := snapshot.OpenNative(path)
	if err != nil {
		return err
	}
	s.drivers[nativeName] = native
	return nil
}

// GC removes what nothing references and returns when it is gone.
func (s *Storage) GC(ctx context.Context) error { return s.db.GC(ctx) }

// Close waits for changes under way and gives up the root. Close what uses the
// fields first.
func (s *Storage) Close() error {
	var errs []error
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	for _, d := range s.drivers {
		errs = append(errs, d.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	s.db, s.drivers, s.lock = nil, nil, nil
	return errors.Join(errs...)
}

// lockRoot takes the root for this process. The lock ends with the file, so a
// process that dies leaves none.
func lockRoot(root string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(root, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(f, 32))
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("process %s uses it: stop it or choose another root: %w", strings.TrimSpace(string(holder)), errdefs.ErrUnavailable)
		}
		return nil, os.NewSyscallError("flock", err)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(strconv.AppendInt(nil, int64(os.Getpid()), 10), 0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
