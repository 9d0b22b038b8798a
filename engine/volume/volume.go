// Package volume is the local volume: a directory below the engine's data root
// that outlives the containers that mount it.
//
// # On disk
//
//	<root>/<name>/_data        what containers see
//	<root>/<name>/volume.json  driver options, labels, creation time
//
// volume.json is written last at Create and removed first at Remove, so a
// directory without it is garbage, which Open sweeps. Directories that an
// earlier engine left, with _data but no volume.json, are adopted instead.
package volume

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	api "github.com/moby/moby/api/types/volume"

	"lighter/engine/plugin"
	"lighter/internal/atomicfile"
)

// AnonymousLabel marks a volume that was made for one container without a name.
const AnonymousLabel = "com.docker.volume.anonymous"

const (
	driverName   = "local"
	dataDir      = "_data"
	metadataFile = "volume.json"
	removedGlob  = ".removed-*" // a renamed directory on its way out
)

// Publisher receives the events of the store. *events.Bus implements it.
type Publisher interface {
	Publish(events.Type, events.Action, events.Actor)
}

// Store keeps the volumes of one engine. Make it with Open. It is safe for
// concurrent use; no method waits for another volume's disk work.
type Store struct {
	root    string
	events  Publisher
	log     *slog.Logger
	plugins plugin.Dirs

	mu      sync.Mutex // guards the fields below
	volumes map[string]*entry
}

// entry is a volume. Its fields are guarded by Store.mu.
type entry struct {
	meta  metadata
	users map[string]struct{} // containers that refer to it
	busy  bool                // being created, removed or renamed

	mounting sync.Mutex          // held over mount and umount; taken before Store.mu
	mounts   map[string]struct{} // containers that run with it, guarded by mounting
}

func newEntry(meta metadata) *entry {
	return &entry{meta: meta, users: map[string]struct{}{}, mounts: map[string]struct{}{}}
}

// metadata is the content of volume.json. Fields that this version does not
// know are kept by never rewriting the file.
type metadata struct {
	Name      string            `json:"name"`
	CreatedAt time.Time         `json:"createdAt"`
	Labels    map[string]string `json:"labels,omitempty"`
	Options   map[string]string `json:"options,omitempty"`
	Driver    string            `json:"driver,omitempty"` // a plugin; "" for the local driver
	// Mountpoint is what a plugin has said.
	Mountpoint string `json:"mountpoint,omitempty"`
}

func (m *metadata) driver() string {
	if m.Driver == "" {
		return driverName
	}
	return m.Driver
}

// Open loads the volumes below root, which it creates, and removes the leftovers
// of interrupted operations.
func Open(root string, publisher Publisher, log *slog.Logger) (*Store, error) {
	s := &Store{root: root, events: publisher, log: log, plugins: plugin.DefaultDirs(), volumes: make(map[string]*entry)}
	if err := os.MkdirAll(root, 0o711); err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	dirs, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	for _, d := range dirs {
		path := filepath.Join(root, d.Name())
		if ok, _ := filepath.Match(removedGlob, d.Name()); ok {
			if err := os.RemoveAll(path); err != nil {
				log.Warn("cannot sweep a removed volume", "path", path, "err", err)
			}
			continue
		}
		if !d.IsDir() || !validName.MatchString(d.Name()) {
			continue
		}
		if os.Remove(path) == nil {
			continue // empty: a creation that was cut short by the end of the process
		}
		meta, err := load(path)
		if err != nil {
			log.Error("cannot load volume", "volume", d.Name(), "err", err)
			continue
		}
		s.volumes[d.Name()] = newEntry(meta)
	}
	return s, nil
}

// load reads a volume's metadata, or makes it up for a volume that has none.
func load(dir string) (metadata, error) {
	meta := metadata{Name: filepath.Base(dir)}
	data, err := os.ReadFile(filepath.Join(dir, metadataFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		fi, err := os.Stat(filepath.Join(dir, dataDir))
		if err != nil {
			return meta, err
		}
		meta.CreatedAt = fi.ModTime()
		return meta, nil
	case err != nil:
		return meta, err
	}
	if err := json.Unmarshal(data, &meta); err != nil {
		return meta, fmt.Errorf("read %s: %w", metadataFile, err)
	}
	meta.Name = filepath.Base(dir) // which a rename changes first
	return meta, nil
}

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// maxNameBytes is what a directory entry can hold.
const maxNameBytes = 255

// CheckName returns an InvalidArgument error with Docker's text when name cannot
// be a volume's.
func CheckName(name string) error {
	switch {
	case len(name) == 1:
		return errdefs.ErrInvalidArgument.WithMessage("volume name is too short, names should be at least two alphanumeric characters")
	case !validName.MatchString(name):
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q includes invalid characters for a local volume name, only %q are allowed. If you intended to pass a host directory, use absolute path", name, "[a-zA-Z0-9][a-zA-Z0-9_.-]"))
	case len(name) > maxNameBytes:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("volume name is too long: %d bytes, at most %d are possible", len(name), maxNameBytes))
	}
	return nil
}

// Create makes the volume that req describes; an empty name generates one and
// marks the volume anonymous. A volume of that name that exists is returned as
// it is. What the options type, device and o name is mounted by Mount. Commit point: the rename of volume.json into place.
func (s *Store) Create(ctx context.Context, req api.CreateRequest) (api.Volume, error) {
	v, _, err := s.create(ctx, req, "")
	return v, err
}

// Acquire is Create followed by Retain for container, in one step that no Remove
// or Prune can come between. created reports that the volume is new.
func (s *Store) Acquire(ctx context.Context, req api.CreateRequest, container string) (v api.Volume, created bool, err error) {
	return s.create(ctx, req, container)
}

func (s *Store) create(ctx context.Context, req api.CreateRequest, user string) (api.Volume, bool, error) {
	var remote *volumeDriver
	if req.Driver != "" && req.Driver != driverName {
		var err error
		if remote, err = s.driver(ctx, req.Driver); err != nil {
			return api.Volume{}, false, err
		}
	}
	if req.ClusterVolumeSpec != nil {
		return api.Volume{}, false, errdefs.ErrNotImplemented.WithMessage("cluster volumes are not supported")
	}
	labels := maps.Clone(req.Labels)
	name := req.Name
	if name == "" {
		var random [32]byte
		name = randomHex(random[:])
		if labels == nil {
			labels = make(map[string]string, 1)
		}
		labels[AnonymousLabel] = ""
	}
	if err := CheckName(name); err != nil {
		return api.Volume{}, false, fmt.Errorf("create %s: %w", name, err)
	}
	if remote == nil {
		if err := checkOptions(req.DriverOpts); err != nil {
			return api.Volume{}, false, fmt.Errorf("create %s: %w", name, err)
		}
	}

	if req.Name != "" && req.Driver == "" {
		if err := s.takeOver(ctx, name); err != nil && !errdefs.IsNotFound(err) {
			return api.Volume{}, false, fmt.Errorf("create volume %q: %w", name, err)
		}
	}
	e, created, err := s.reserve(name, user)
	if err != nil || !created {
		return s.view(e, name), false, err
	}
	meta := metadata{Name: name, CreatedAt: time.Now(), Labels: labels, Options: req.DriverOpts}
	if remote != nil {
		meta.Driver = req.Driver
		err = remote.create(ctx, name, req.DriverOpts)
		if err == nil {
			meta.Mountpoint, _ = remote.path(ctx, name) // what Mount answers counts
		}
	}
	if err == nil {
		if err = s.write(meta); err != nil && remote != nil {
			err = errors.Join(err, remote.remove(context.WithoutCancel(ctx), name))
		}
	}
	if err != nil {
		s.mu.Lock()
		delete(s.volumes, name)
		s.mu.Unlock()
		return api.Volume{}, false, fmt.Errorf("create volume %q: %w", name, err)
	}
	s.mu.Lock()
	e.meta, e.busy = meta, false
	s.mu.Unlock()
	s.publish(events.ActionCreate, name, nil)
	return s.view(e, name), true, nil
}

func randomHex(room []byte) string {
	rand.Read(room) // never fails: crypto/rand
	return hex.EncodeToString(room)
}

// reserve returns the entry of name, retained for user, or a new busy one.
func (s *Store) reserve(name, user string) (e *entry, created bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.volumes[name]
	if ok && e.busy {
		return nil, false, errdefs.ErrConflict.WithMessage(fmt.Sprintf("volume %s is being created or removed: try again", name))
	}
	if !ok {
		e = newEntry(metadata{Name: name})
		e.busy = true
		s.volumes[name] = e
	}
	if user != "" {
		e.users[user] = struct{}{}
	}
	return e, !ok, nil
}

func (s *Store) write(meta metadata) (err error) {
	dir := filepath.Join(s.root, meta.Name)
	if err := os.MkdirAll(filepath.Join(dir, dataDir), 0o701); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := os.Chmod(filepath.Join(dir, dataDir), 0o755); err != nil { // whatever the umask
		return err
	}
	data, err := json.Marshal(meta)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(dir, metadataFile), data, 0o600); err != nil {
		return err
	}
	return atomicfile.SyncDir(s.root)
}

// Inspect returns the volume called name, which may be a plugin's that was made
// elsewhere, or NotFound. The plugin is asked for its status.
func (s *Store) Inspect(ctx context.Context, name string) (api.Volume, error) {
	s.mu.Lock()
	e, ok := s.volumes[name]
	ok = ok && !e.busy
	s.mu.Unlock()
	if !ok {
		return s.find(ctx, name)
	}
	v := s.view(e, name)
	v.Status = s.status(ctx, v.Driver, name)
	return v, nil
}

// Path returns the directory that containers mount for the volume called name.
func (s *Store) Path(name string) string { return filepath.Join(s.root, name, dataDir) }

// Retain records that container refers to the volume, which then cannot be
// removed. It is idempotent.
func (s *Store) Retain(name, container string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.volumes[name]
	if !ok || e.busy {
		return notFound(name)
	}
	e.users[container] = struct{}{}
	return nil
}

// Release takes back Retain. Unknown names are no error.
func (s *Store) Release(name, container string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.volumes[name]; ok {
		delete(e.users, container)
	}
}

// Remove deletes the volume and its content. A volume that containers refer to
// is a Conflict. With force an unknown volume is no error. Commit point: the
// rename of its directory; what follows is finished at the next Open if need be.
func (s *Store) Remove(ctx context.Context, name string, force bool) error {
	if err := s.takeOver(ctx, name); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	e, err := s.claim(name)
	if err != nil {
		if force && errdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
	if e.meta.Driver != "" {
		var d *volumeDriver
		if d, err = s.driver(ctx, e.meta.Driver); err == nil {
			err = d.remove(ctx, name)
		}
	}
	if err == nil {
		err = s.delete(name)
	}
	if err != nil {
		s.mu.Lock()
		e.busy = false
		s.mu.Unlock()
		return fmt.Errorf("remove volume %q: %w", name, err)
	}
	s.publish(events.ActionDestroy, name, map[string]string{"driver": e.meta.driver()})
	return nil
}

func (s *Store) claim(name string) (*entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.volumes[name]
	if !ok || e.busy {
		return nil, notFound(name)
	}
	if len(e.users) > 0 {
		users := slices.Sorted(maps.Keys(e.users))
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("remove %s: volume is in use - %v", name, users))
	}
	e.busy = true
	return e, nil
}

func (s *Store) delete(name string) error {
	if err := s.detach(name); err != nil { // before its files are deleted
		return err
	}
	hidden, err := os.MkdirTemp(s.root, removedGlob)
	if err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(s.root, name), filepath.Join(hidden, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, os.Remove(hidden))
	}
	if err := atomicfile.SyncDir(s.root); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.volumes, name)
	s.mu.Unlock()
	if err := os.RemoveAll(hidden); err != nil {
		s.log.Warn("cannot delete the files of a removed volume; the next start tries again", "volume", name, "err", err)
	}
	return nil
}

// Usage returns the number of containers that refer to the volume and the bytes
// that its files take, which reads all of it.
func (s *Store) Usage(ctx context.Context, name string) (api.UsageData, error) {
	s.mu.Lock()
	e, ok := s.volumes[name]
	refs, remote := 0, false
	if ok {
		refs, remote = len(e.users), e.meta.Driver != ""
	}
	s.mu.Unlock()
	if !ok {
		return api.UsageData{}, notFound(name)
	}
	if remote {
		return api.UsageData{RefCount: int64(refs), Size: -1}, nil
	}
	size, err := dirSize(ctx, s.Path(name))
	if err != nil {
		return api.UsageData{}, fmt.Errorf("measure volume %q: %w", name, err)
	}
	return api.UsageData{RefCount: int64(refs), Size: size}, nil
}

// Usages returns all volumes with the space that their files take and the number
// of containers that refer to them. It reads all of them. A volume that cannot
// be measured has the size -1.
func (s *Store) Usages(ctx context.Context) ([]api.Volume, error) {
	list, err := s.List(ctx, nil)
	if err != nil {
		return nil, err
	}
	for i := range list.Volumes {
		v := &list.Volumes[i]
		u, err := s.Usage(ctx, v.Name)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errdefs.IsNotFound(err): // a plugin's, made elsewhere
			u = api.UsageData{Size: -1}
		case err != nil:
			s.log.Warn("cannot measure volume", "volume", v.Name, "err", err)
			u = api.UsageData{Size: -1}
		}
		v.UsageData = &u
	}
	return list.Volumes, nil
}

func (s *Store) publish(action events.Action, name string, attrs map[string]string) {
	driver := driverName
	s.mu.Lock()
	if e, ok := s.volumes[name]; ok {
		driver = e.meta.driver()
	}
	s.mu.Unlock()
	all := map[string]string{"driver": driver}
	maps.Copy(all, attrs)
	s.events.Publish(events.VolumeEventType, action, events.Actor{ID: name, Attributes: all})
}

// PublishMount and PublishUnmount announce that a container starts or stops
// using the volume at destination.
func (s *Store) PublishMount(name, container, destination string, writable bool) {
	s.publish(events.ActionMount, name, map[string]string{
		"container": container, "destination": destination,
		"read/write": fmt.Sprint(writable), "propagation": "",
	})
}

// PublishUnmount is the counterpart of PublishMount.
func (s *Store) PublishUnmount(name, container string) {
	s.publish(events.ActionUnmount, name, map[string]string{"container": container})
}

func (s *Store) view(e *entry, name string) api.Volume {
	if e == nil {
		return api.Volume{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return api.Volume{
		Name:       name,
		Driver:     e.meta.driver(),
		Mountpoint: s.mountpoint(e, name),
		CreatedAt:  e.meta.CreatedAt.Format(time.RFC3339),
		Labels:     maps.Clone(e.meta.Labels),
		Options:    maps.Clone(e.meta.Options),
		Scope:      "local",
	}
}

// mountpoint is where a volume is found when it is mounted.
func (s *Store) mountpoint(e *entry, name string) string {
	if e.meta.Driver != "" {
		return e.meta.Mountpoint
	}
	return s.Path(name)
}

func notFound(name string) error {
	return errdefs.ErrNotFound.WithMessage("get " + name + ": no such volume")
}

func byName(a, b api.Volume) int { return cmp.Compare(a.Name, b.Name) }
