package volume

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	api "github.com/moby/moby/api/types/volume"

	"lighter/engine/plugin"
)

// askTimeout bounds a question that goes to all plugins: one that hangs must not
// hold up what others answer.
const askTimeout = 5 * time.Second

// remoteVolume is a volume as its plugin describes it.
type remoteVolume struct {
	Name, Mountpoint, CreatedAt string
	Status                      map[string]any
}

func (d *volumeDriver) list(ctx context.Context) ([]remoteVolume, error) {
	var out struct {
		remoteError
		Volumes []remoteVolume
	}
	err := d.call(ctx, "List", map[string]any{}, &out, &out.remoteError)
	return out.Volumes, err
}

// get describes one volume.
//
// Errors: NotFound when the plugin answers without one.
func (d *volumeDriver) get(ctx context.Context, name string) (remoteVolume, error) {
	var out struct {
		remoteError
		Volume *remoteVolume
	}
	if err := d.call(ctx, "Get", map[string]any{"Name": name}, &out, &out.remoteError); err != nil {
		return remoteVolume{}, err
	}
	if out.Volume == nil || out.Volume.Name != name {
		return remoteVolume{}, notFound(name)
	}
	return *out.Volume, nil
}

// Drivers are the drivers that volumes have: the local one and the plugins of
// those that the engine has made or taken over.
func (s *Store) Drivers() []string {
	names := map[string]struct{}{driverName: {}}
	s.mu.Lock()
	for _, e := range s.volumes {
		names[e.meta.driver()] = struct{}{}
	}
	s.mu.Unlock()
	return slices.Sorted(maps.Keys(names))
}

// ask calls f with every volume plugin at once and returns why some could not be
// asked. f is called from several goroutines.
func (s *Store) ask(ctx context.Context, f func(ctx context.Context, d *volumeDriver) error) (warnings []string) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var group sync.WaitGroup
	var mu sync.Mutex // guards warnings
	for _, name := range plugin.Names(s.plugins) {
		group.Go(func() {
			d, err := s.driverWithin(ctx, name, askTimeout)
			if errdefs.IsNotFound(err) {
				return // a plugin of another kind
			}
			if err == nil {
				err = f(ctx, d)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				warnings = append(warnings, fmt.Sprintf("error reading volumes of driver %s: %v", name, err))
			}
		})
	}
	group.Wait()
	slices.Sort(warnings)
	return warnings
}

// elsewhere lists what the plugins have and describes, by the volume's name, with
// Status. A name that is no volume's is left out.
func (s *Store) elsewhere(ctx context.Context) (map[string]api.Volume, []string) {
	found := map[string]api.Volume{}
	var mu sync.Mutex // guards found
	warnings := s.ask(ctx, func(ctx context.Context, d *volumeDriver) error {
		list, err := d.list(ctx)
		mu.Lock()
		defer mu.Unlock()
		for _, v := range list {
			if old, dup := found[v.Name]; CheckName(v.Name) == nil && (!dup || old.Driver > d.name) {
				found[v.Name] = v.view(d.name)
			}
		}
		return err
	})
	return found, warnings
}

func (v remoteVolume) view(driver string) api.Volume {
	return api.Volume{
		Name: v.Name, Driver: driver, Mountpoint: v.Mountpoint, CreatedAt: v.CreatedAt, Status: v.Status, Scope: "local",
		Labels: map[string]string{}, Options: map[string]string{},
	}
}

// find asks the plugins for a volume that the engine has not made.
//
// Errors: NotFound.
func (s *Store) find(ctx context.Context, name string) (api.Volume, error) {
	if CheckName(name) != nil {
		return api.Volume{}, notFound(name)
	}
	var all []api.Volume
	var mu sync.Mutex // guards all
	s.ask(ctx, func(ctx context.Context, d *volumeDriver) error {
		v, err := d.get(ctx, name)
		if err == nil {
			mu.Lock()
			all = append(all, v.view(d.name))
			mu.Unlock()
		}
		return nil // Docker's protocol has no word for "not here"
	})
	if len(all) == 0 {
		return api.Volume{}, notFound(name)
	}
	return slices.MinFunc(all, func(a, b api.Volume) int {
		if a.Driver < b.Driver {
			return -1
		}
		return 1
	}), nil
}

// takeOver records a volume that a plugin has under name, if there is one, so that
// containers can refer to it.
//
// Errors: NotFound.
func (s *Store) takeOver(ctx context.Context, name string) error {
	s.mu.Lock()
	_, known := s.volumes[name]
	s.mu.Unlock()
	if known {
		return nil
	}
	v, err := s.find(ctx, name)
	if err != nil {
		return err
	}
	e, created, err := s.reserve(name, "")
	if err != nil || !created {
		return err
	}
	meta := metadata{Name: name, CreatedAt: time.Now(), Driver: v.Driver, Mountpoint: v.Mountpoint}
	if at, err := time.Parse(time.RFC3339, v.CreatedAt); err == nil {
		meta.CreatedAt = at
	}
	err = s.write(meta)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.volumes, name)
		return err
	}
	e.meta, e.busy = meta, false
	return nil
}

// status is what the plugin of a volume says of it; nil for a local volume and a
// plugin that says nothing.
func (s *Store) status(ctx context.Context, driver, name string) map[string]any {
	if driver == driverName {
		return nil
	}
	d, err := s.driverWithin(ctx, driver, askTimeout)
	if err != nil {
		return nil // Docker compatibility: a volume is shown without its plugin
	}
	v, err := d.get(ctx, name)
	if err != nil {
		return nil
	}
	return v.Status
}
