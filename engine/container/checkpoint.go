package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/moby/api/types/checkpoint"
)

// checkpointConfig is the file that makes a directory a checkpoint.
const checkpointConfig = "config.json"

// Checkpoints lists the checkpoints of a container that are in dir, "" for the
// engine's own directory. It is never nil.
func (m *Manager) Checkpoints(_ context.Context, ref, dir string) ([]checkpoint.Summary, error) {
	e, err := m.lookup(ref)
	if err != nil {
		return nil, err
	}
	if dir, err = m.checkpointDir(e, dir); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	list := []checkpoint.Summary{}
	for _, entry := range entries {
		if isCheckpoint(filepath.Join(dir, entry.Name())) {
			list = append(list, checkpoint.Summary{Name: entry.Name()})
		}
	}
	return list, nil
}

// CreateCheckpoint stores the state of a running container's processes. No
// runtime of this engine can do that yet: what is asked for is checked, and then
// refused as NotImplemented.
func (m *Manager) CreateCheckpoint(_ context.Context, ref string, req checkpoint.CreateRequest) error {
	e, err := m.lookup(ref)
	if err != nil {
		return err
	}
	r := e.rec.Load()
	switch {
	case !r.State.hasTask():
		return notRunning(ref)
	case r.Config.Tty:
		return invalid("checkpoint not support on containers with tty")
	case !validName.MatchString(req.CheckpointID):
		return invalid("Invalid checkpoint ID (%s), only %s are allowed", req.CheckpointID, validNameChars)
	}
	dir, err := m.checkpointDir(e, req.CheckpointDir)
	if err != nil {
		return err
	}
	if isCheckpoint(filepath.Join(dir, req.CheckpointID)) {
		return conflict("checkpoint with name %s already exists for container %s", req.CheckpointID, r.name())
	}
	return errNoCRIU("checkpoint", ref)
}

// RemoveCheckpoint deletes a checkpoint. It touches nothing that is not one.
func (m *Manager) RemoveCheckpoint(_ context.Context, ref, id, dir string) error {
	e, err := m.lookup(ref)
	if err != nil {
		return err
	}
	path, err := m.findCheckpoint(e, id, dir)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("remove checkpoint %s: %w", id, err)
	}
	return nil
}

// StartFromCheckpoint starts a container with the state of a checkpoint. As
// CreateCheckpoint it checks what is asked for and refuses it.
func (m *Manager) StartFromCheckpoint(_ context.Context, ref, id, dir string) error {
	e, err := m.lookup(ref)
	if err != nil {
		return err
	}
	if s := e.rec.Load().State; s.active() {
		return conflict("container %s is %s: stop it before it is restored", ref, s)
	}
	if _, err := m.findCheckpoint(e, id, dir); err != nil {
		return err
	}
	return errNoCRIU("restore", ref)
}

func errNoCRIU(verb, ref string) error {
	return notImplemented("Cannot %s container %s: its runtime has no support for CRIU, which checkpoints and restores processes", verb, ref)
}

// checkpointDir returns the directory of e's checkpoints: dir, or the engine's own.
func (m *Manager) checkpointDir(e *entry, dir string) (string, error) {
	if dir == "" {
		return filepath.Join(m.dir(e.id), "checkpoints"), nil
	}
	if !filepath.IsAbs(dir) {
		return "", invalid("invalid checkpoint directory %q: an absolute path is wanted", dir)
	}
	return dir, nil
}

// findCheckpoint returns the path of e's checkpoint id.
func (m *Manager) findCheckpoint(e *entry, id, dir string) (string, error) {
	dir, err := m.checkpointDir(e, dir)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, id)
	if !validName.MatchString(id) || !isCheckpoint(path) {
		return "", notFound("checkpoint %s does not exist for container %s", id, e.rec.Load().name())
	}
	return path, nil
}

// isCheckpoint reports whether path, not a link, is a checkpoint.
func isCheckpoint(path string) bool {
	dir, err := os.Lstat(path)
	if err != nil || !dir.IsDir() {
		return false
	}
	config, err := os.Lstat(filepath.Join(path, checkpointConfig))
	return err == nil && config.Mode().IsRegular()
}
