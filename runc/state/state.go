// Package state keeps what the runtime knows of its containers: a directory per
// container, <root>/<id>, with
//
//	state.json    the Record
//	config.json   the configuration that the container was created from
//	exec.fifo     read by init before it executes the program; gone once started
//	exec.status   where init reports a failed execve
//
// The directory is locked by flock(2) on itself. It is on a tmpfs, usually, and
// worthless after a reboot: nothing is synced.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/internal/atomicfile"
)

// Names of the files in a container's directory.
const (
	recordFile = "state.json"
	// ConfigFile is the copy of config.json.
	ConfigFile = "config.json"
	// GateFile is the fifo that holds a created container back.
	GateFile = "exec.fifo"
	// StatusFile is the fifo through which a failed execve is reported.
	StatusFile = "exec.status"
)

// Record is the stored state of a container.
type Record struct {
	OCIVersion string    `json:"ociVersion"`
	ID         string    `json:"id"`
	Bundle     string    `json:"bundle"`
	Rootfs     string    `json:"rootfs"`
	Created    time.Time `json:"created"`
	// PID of init, 0 while there is none; StartTime is field 22 of its
	// /proc/PID/stat and tells it from a later process with its pid.
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"`
	// UID is the user who created the container.
	UID         int               `json:"uid"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// Cgroups are the container's control group directories.
	Cgroups map[string]string `json:"cgroups,omitempty"`
	// OwnPIDs says that init made its pid namespace: nothing of it outlives init.
	OwnPIDs bool `json:"ownPids,omitempty"`
	// Program is the first argument of init. StartHooks says that Start has hooks
	// to run.
	Program    string `json:"program"`
	StartHooks bool   `json:"startHooks,omitempty"`
	// Poststop are the hooks that Delete runs.
	Poststop []specs.Hook `json:"poststop,omitempty"`
	// NoNewKeyring is as the container was created with.
	NoNewKeyring bool `json:"noNewKeyring,omitempty"`
}

// Dir is a container's directory, open and locked. Close unlocks it.
type Dir struct {
	path string
	f    *os.File
}

// ValidateID checks a container ID: it is used as a file name. The error is
// InvalidArgument.
func ValidateID(id string) error {
	if id == "" || id == "." || id == ".." || len(id) > 255 {
		return fmt.Errorf("invalid container id %q: %w", id, errdefs.ErrInvalidArgument)
	}
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '+', c == '-', c == '.':
		default:
			return fmt.Errorf("invalid container id %q: letters, digits and _+-. are allowed: %w", id, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// Create makes the directory of a new container and locks it. The error is
// AlreadyExists if the ID is taken.
func Create(root, id string) (*Dir, error) {
	if err := ValidateID(id); err != nil {
		return nil, err
	}
	path := filepath.Join(root, id)
	err := os.Mkdir(path, 0o700)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(root, 0o700); err != nil {
			return nil, fmt.Errorf("create state directory: %w", err)
		}
		err = os.Mkdir(path, 0o700)
	}
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("container with given ID already exists: %q: %w", id, errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return nil, fmt.Errorf("create state directory: %w", err)
	}
	return open(path, id)
}

// Open locks the directory of a container. The error is NotFound if there is
// none.
func Open(root, id string) (*Dir, error) {
	if err := ValidateID(id); err != nil {
		return nil, err
	}
	return open(filepath.Join(root, id), id)
}

func open(path, id string) (*Dir, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			return nil, notFound(id)
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		d := &Dir{path: path, f: os.NewFile(uintptr(fd), path)}
		for err = unix.EINTR; err == unix.EINTR; {
			err = unix.Flock(fd, unix.LOCK_EX)
		}
		if err != nil {
			d.Close()
			return nil, &os.PathError{Op: "flock", Path: path, Err: err}
		}
		// It may have been removed, and made again, while we waited.
		var held, now unix.Stat_t
		if err := unix.Fstat(fd, &held); err != nil {
			d.Close()
			return nil, &os.PathError{Op: "fstat", Path: path, Err: err}
		}
		err = unix.Lstat(path, &now)
		if err == nil && now.Ino == held.Ino && now.Dev == held.Dev {
			return d, nil
		}
		d.Close()
		if err != nil {
			return nil, notFound(id)
		}
	}
}

func notFound(id string) error {
	// Docker compatibility: "does not exist" is what callers of runc look for.
	return fmt.Errorf("container %q does not exist: %w", id, errdefs.ErrNotFound)
}

// Read returns the record of a container without locking it: records are replaced
// whole. The error is NotFound if there is none.
func Read(root, id string) (*Record, error) {
	if err := ValidateID(id); err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(filepath.Join(root, id, recordFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, notFound(id)
	}
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	r := &Record{}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("read state of %q: %w: %w", id, err, errdefs.ErrDataLoss)
	}
	return r, nil
}

// Config returns the stored config.json of a container.
func Config(root, id string) ([]byte, error) {
	raw, err := os.ReadFile(filepath.Join(root, id, ConfigFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, notFound(id)
	}
	return raw, err
}

// List returns the IDs of all containers, sorted. A missing root is no container.
func List(root string) ([]string, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && ValidateID(e.Name()) == nil {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// Path returns the path of a file in the directory.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, name) }

// Save replaces the record.
func (d *Dir) Save(r *Record) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	if err := atomicfile.WriteVolatile(d.Path(recordFile), raw, 0o600); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	return nil
}

// SaveConfig stores config.json, once and before the record is: nobody reads it
// before there is a record.
func (d *Dir) SaveConfig(raw []byte) error {
	f, err := os.OpenFile(d.Path(ConfigFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	_, err = f.Write(raw)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	return nil
}

// Fifo makes a fifo in the directory and opens it for reading and writing, so
// that neither waits for a peer. The caller closes it.
func (d *Dir) Fifo(name string) (*os.File, error) {
	path := d.Path(name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Remove deletes the directory and unlocks it. Nothing of the container must be
// left by then: it is the record of what there is to clean up.
func (d *Dir) Remove() error {
	err := os.RemoveAll(d.path)
	d.Close()
	if err != nil {
		return fmt.Errorf("remove state: %w", err)
	}
	return nil
}

// Close unlocks the directory.
func (d *Dir) Close() error { return d.f.Close() }

// Started reports whether the container has been started: its gate is gone.
func Started(root, id string) bool {
	_, err := os.Lstat(filepath.Join(root, id, GateFile))
	return errors.Is(err, os.ErrNotExist)
}

// Alive reports whether init of r is running: not gone, not a zombie, and not
// another process that has got its pid.
func (r *Record) Alive() bool {
	if r.PID <= 0 {
		return false
	}
	p, err := ReadProcess(r.PID)
	return err == nil && p.StartTime == r.StartTime && !p.Dead
}

// OCI returns the record as the state of the runtime specification.
func (r *Record) OCI(status specs.ContainerState) specs.State {
	s := specs.State{
		Version: r.OCIVersion, ID: r.ID, Status: status, Pid: r.PID, Bundle: r.Bundle, Annotations: r.Annotations,
	}
	if status == specs.StateStopped {
		s.Pid = 0
	}
	return s
}
