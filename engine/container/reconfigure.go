package container

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
)

// Reconfiguration is what Manager.Reconfigure changes of a container. What is to
// be removed need not exist; what is in both lists is replaced.
type Reconfiguration struct {
	// Publish says where these ports are published from now on, and exposes them.
	Publish   network.PortMap
	Unpublish []network.Port

	Env       []string // name=value
	EnvRemove []string // names

	Labels       map[string]string
	LabelsRemove []string

	// Binds, Mounts and Volumes (anonymous ones, by their destination) are as in
	// a request to create a container. Each takes the place of what is mounted at
	// its destination.
	Binds   []string
	Mounts  []mount.Mount
	Volumes []string
	Unmount []string // destinations
}

func (c *Reconfiguration) mounts() bool {
	return len(c.Binds)+len(c.Mounts)+len(c.Volumes)+len(c.Unmount) > 0
}

// live reports whether the change needs no new processes.
func (c *Reconfiguration) live() bool {
	return !c.mounts() && len(c.Publish)+len(c.Unpublish)+len(c.Env)+len(c.EnvRemove) == 0
}

// former is how a container was before a change that is under way.
type former struct {
	Config     *api.Config     `json:"config"`
	HostConfig *api.HostConfig `json:"hostConfig"`
	Mounts     []mountPoint    `json:"mounts,omitempty"`
	Addresses  []netip.Addr    `json:"addresses,omitempty"`
	Running    bool            `json:"running,omitempty"` // it ran, and is to run again
}

func newFormer(r *record) *former {
	f := &former{Config: r.Config, HostConfig: r.HostConfig, Mounts: r.Mounts, Running: r.State == Running}
	if r.Network != nil {
		for _, name := range slices.Sorted(maps.Keys(r.Network.Networks)) {
			for _, a := range []netip.Addr{r.Network.Networks[name].IPAddress, r.Network.Networks[name].GlobalIPv6Address} {
				if a.IsValid() {
					f.Addresses = append(f.Addresses, a)
				}
			}
		}
	}
	return f
}

// addresses may be called on nil.
func (f *former) addresses() []netip.Addr {
	if f == nil {
		return nil
	}
	return f.Addresses
}

// restore makes r what it was.
func (f *former) restore(r *record) {
	r.Config, r.HostConfig, r.Mounts = f.Config, f.HostConfig, f.Mounts
}

// reconfigureTries bounds how often a container that somebody starts meanwhile is
// stopped to be changed.
const reconfigureTries = 5

// Reconfigure changes published ports, environment, labels and mounts of a
// container, which a running program cannot follow: one that runs is stopped and
// its processes are made anew. The container stays the same one, with its ID,
// name, addresses, volumes and writable layer. One that does not run is changed
// and not started; labels alone change at once. Volumes that are no longer mounted
// are kept.
//
// When the container does not start with the change it is started as it was, and
// the error says why. An engine that dies in between finds the former
// configuration in the record and goes back to it at its next start.
//
// Errors: InvalidArgument for what cannot be; Conflict in a state that does not
// allow a restart. A cancelled ctx has no effect once the change is found valid.
func (m *Manager) Reconfigure(ctx context.Context, ref string, change Reconfiguration) (warnings []string, err error) {
	e, err := m.lookup(ref)
	if err != nil {
		return nil, err
	}
	if _, _, _, err := m.changed(e.rec.Load(), &change); err != nil {
		return nil, err
	}
	ctx = m.in(context.WithoutCancel(ctx))
	e.setRestarts(true)
	defer e.setRestarts(false)
	if err := m.acquireForChange(ctx, e, &change); err != nil {
		return nil, err
	}
	defer e.release()
	if change.live() {
		return nil, m.relabel(ctx, e, &change)
	}
	old := e.rec.Load()
	warnings, err = m.reconfigure(ctx, e, &change)
	if err == nil {
		r, err := m.commit(ctx, e, func(r *record) error { r.Former = nil; return nil })
		if err != nil {
			return warnings, err
		}
		m.releaseUnmounted(old.Mounts, r)
		m.publish(r, events.ActionUpdate)
		return warnings, nil
	}
	if backErr := m.goBack(ctx, e); backErr != nil {
		return nil, errors.Join(err, fmt.Errorf("start container %s as it was: %w", ref, backErr))
	}
	return nil, fmt.Errorf("Cannot update container %s, which is as it was: %w", ref, err)
}

// acquireForChange takes e's operation slot of a container without processes,
// whose record knows what it was. A live change does not need that.
func (m *Manager) acquireForChange(ctx context.Context, e *entry, change *Reconfiguration) error {
	mine := false
	for try := 1; ; try++ {
		if err := e.acquire(ctx); err != nil {
			return err
		}
		r := e.rec.Load()
		refuse := func(err error) error {
			if mine { // nobody else ends it
				m.change(e, func(r *record) error { r.Former = nil; return nil })
			}
			e.release()
			return err
		}
		switch {
		case m.unknown(e) || r.State == Removing || r.State == Dead:
			return refuse(conflict("Cannot update container %s: container is marked for removal and cannot be \"update\".", r.ID))
		case r.Former != nil && !mine:
			return refuse(conflict("Cannot update container %s: another update is under way", r.ID))
		case change.live():
			return nil
		case r.State == Paused || r.State == Restarting || try > reconfigureTries:
			return refuse(conflict("Cannot update container %s: container is %s, and must be running or stopped", r.ID, r.State))
		}
		if !mine {
			if _, err := m.commit(ctx, e, func(r *record) error { r.Former = newFormer(r); return nil }); err != nil {
				mine = true
				return refuse(err)
			}
			mine = true
		}
		if r.State != Running {
			return nil
		}
		e.release()
		if _, err := m.stop(ctx, e, StopOptions{}, true); err != nil {
			m.change(e, func(r *record) error { r.Former = nil; return nil })
			return err
		}
	}
}

func (m *Manager) relabel(ctx context.Context, e *entry, change *Reconfiguration) error {
	next, _, _, err := m.changed(e.rec.Load(), change)
	if err != nil {
		return err
	}
	r, err := m.commit(ctx, e, func(r *record) error { r.Config = next.Config; return nil })
	if err != nil {
		return err
	}
	m.publish(r, events.ActionUpdate)
	return nil
}

// reconfigure changes and starts a container that is at rest. The caller holds the
// operation slot and goes back after an error.
func (m *Manager) reconfigure(ctx context.Context, e *entry, change *Reconfiguration) (warnings []string, err error) {
	r := e.rec.Load()
	next, added, warnings, err := m.changed(r, change)
	if err != nil {
		return nil, err
	}
	if len(added) > 0 {
		fresh := *next
		fresh.Mounts = added
		if err := m.acquireAdded(ctx, &fresh); err != nil {
			m.releaseAdded(ctx, &fresh, r)
			return nil, err
		}
		defer func() {
			if err != nil {
				m.releaseAdded(ctx, &fresh, r)
			}
		}()
		next.Mounts = append(next.Mounts, fresh.Mounts...)
		sortMounts(next.Mounts)
	}
	_, err = m.commit(ctx, e, func(r *record) error {
		r.Config, r.HostConfig, r.Mounts = next.Config, next.HostConfig, next.Mounts
		return nil
	})
	if err == nil && r.Former.Running {
		_, err = m.startHeld(ctx, e, true)
	}
	if err != nil {
		// Before the volumes are released: the record must not refer to them.
		if _, backErr := m.commit(ctx, e, func(r *record) error { r.Former.restore(r); return nil }); backErr != nil {
			err = errors.Join(err, backErr)
		}
	}
	return warnings, err
}

// goBack ends a failed change: the container is what it was, and runs if it did.
func (m *Manager) goBack(ctx context.Context, e *entry) error {
	var err error
	if e.rec.Load().Former.Running {
		_, err = m.startHeld(ctx, e, true) // with the addresses of before
	}
	_, commitErr := m.commit(ctx, e, func(r *record) error { r.Former = nil; return nil })
	return errors.Join(err, commitErr)
}

// acquireAdded makes or finds the volumes of r, all of whose mounts are new, and
// fills the empty ones from the container's file system.
func (m *Manager) acquireAdded(ctx context.Context, r *record) error {
	if err := m.acquireVolumes(ctx, r); err != nil {
		return err
	}
	sn, err := m.snapshotter(r)
	if err != nil {
		return err
	}
	layers, err := sn.Mounts(ctx, r.ID)
	if err != nil {
		return fmt.Errorf("find the file system of container %s: %w", r.ID, err)
	}
	return m.copyUp(ctx, r, layers)
}

// releaseAdded undoes acquireAdded, but for volumes that old uses too.
func (m *Manager) releaseAdded(ctx context.Context, fresh, old *record) {
	undo := *fresh
	undo.Mounts = slices.DeleteFunc(slices.Clone(fresh.Mounts), func(p mountPoint) bool { return usesVolume(old.Mounts, p.Name) })
	if err := m.releaseVolumes(ctx, &undo, true); err != nil {
		m.Log.Error("cannot undo the mounts of a failed update", "container", old.ID, "err", err)
	}
}

// releaseUnmounted forgets r's use of the volumes in old that it has no more.
func (m *Manager) releaseUnmounted(old []mountPoint, r *record) {
	for _, p := range old {
		if p.Type == mount.TypeVolume && !usesVolume(r.Mounts, p.Name) {
			m.Volumes.Release(p.Name, r.ID)
		}
	}
}

func usesVolume(mounts []mountPoint, name string) bool {
	return slices.ContainsFunc(mounts, func(p mountPoint) bool { return p.Type == mount.TypeVolume && p.Name == name })
}

// settleFormer ends, at the engine's start, a change that was under way. With a
// task that runs there is nothing to go back to. What it returns, nil for nothing,
// starts a container that ran, once all are known.
func (m *Manager) settleFormer(e *entry, runs bool) func() {
	f := e.rec.Load().Former
	if f == nil {
		return nil
	}
	m.change(e, func(r *record) error {
		r.Former = nil
		if !runs {
			f.restore(r)
		}
		return nil
	})
	if runs || !f.Running || f.HostConfig.AutoRemove {
		return nil
	}
	return func() { m.startAtBoot(e, true) }
}

// changed returns r with the change, but for the mounts that are new: those are
// added, and nothing of them exists yet.
func (m *Manager) changed(r *record, change *Reconfiguration) (next *record, added []mountPoint, warnings []string, err error) {
	c := *r
	next = &c
	if next.Config, next.HostConfig, err = copyConfigs(r.Config, r.HostConfig); err != nil {
		return nil, nil, nil, err
	}
	next.Config.Env = changedEnv(next.Config.Env, change)
	if next.Config.Labels == nil {
		next.Config.Labels = map[string]string{}
	}
	for _, key := range change.LabelsRemove {
		delete(next.Config.Labels, key)
	}
	maps.Copy(next.Config.Labels, change.Labels)
	if err := publishChanged(next, change); err != nil {
		return nil, nil, nil, err
	}
	if change.mounts() {
		if added, err = m.changedMounts(next, change); err != nil {
			return nil, nil, nil, err
		}
	}
	if err := checkConfig(next.Config); err != nil {
		return nil, nil, nil, err
	}
	warnings, err = checkHostConfig(next.Config, next.HostConfig)
	return next, added, warnings, err
}

// changedEnv keeps the order of what is replaced.
func changedEnv(env []string, change *Reconfiguration) []string {
	name := func(kv string) string { n, _, _ := strings.Cut(kv, "="); return n }
	env = slices.DeleteFunc(env, func(kv string) bool { return slices.Contains(change.EnvRemove, name(kv)) })
	for _, kv := range change.Env {
		if i := slices.IndexFunc(env, func(have string) bool { return name(have) == name(kv) }); i >= 0 {
			env[i] = kv
			continue
		}
		env = append(env, kv)
	}
	return env
}

func publishChanged(r *record, change *Reconfiguration) error {
	if len(change.Publish)+len(change.Unpublish) == 0 {
		return nil
	}
	if len(change.Publish) > 0 && r.HostConfig.NetworkMode.IsContainer() {
		return invalid("conflicting options: port publishing and the container type network mode")
	}
	if r.HostConfig.PortBindings == nil {
		r.HostConfig.PortBindings = network.PortMap{}
	}
	if r.Config.ExposedPorts == nil {
		r.Config.ExposedPorts = network.PortSet{}
	}
	for _, port := range change.Unpublish {
		delete(r.HostConfig.PortBindings, port)
	}
	for port, bindings := range change.Publish {
		r.HostConfig.PortBindings[port] = bindings
		r.Config.ExposedPorts[port] = struct{}{}
	}
	return nil
}

// changedMounts takes what is unmounted or replaced out of r, records what is
// asked for, and returns the new mounts.
func (m *Manager) changedMounts(r *record, change *Reconfiguration) ([]mountPoint, error) {
	asked := &record{ID: r.ID, Config: &api.Config{Volumes: map[string]struct{}{}}, HostConfig: &api.HostConfig{Binds: change.Binds, Mounts: change.Mounts}}
	for _, dest := range change.Volumes {
		asked.Config.Volumes[dest] = struct{}{}
	}
	for i := range change.Mounts {
		if err := checkMount(&change.Mounts[i], true); err != nil {
			return nil, err
		}
	}
	added, err := m.mountPoints(asked)
	if err != nil {
		return nil, err
	}
	isImage := func(p mountPoint) bool { return p.Type == mount.TypeImage }
	if slices.ContainsFunc(added, isImage) || slices.ContainsFunc(r.Mounts, isImage) {
		return nil, notImplemented("mounts of a container with a mounted image cannot be changed: create it anew")
	}
	var given []string
	for _, dest := range change.Unmount {
		given = append(given, path.Clean(dest))
	}
	for _, p := range added {
		given = append(given, p.Destination)
	}
	gone := func(dest string) bool { return slices.Contains(given, path.Clean(dest)) }
	h := r.HostConfig
	h.Binds = slices.DeleteFunc(h.Binds, func(raw string) bool {
		p, err := parseBind(raw)
		return err == nil && gone(p.Destination)
	})
	h.Mounts = slices.DeleteFunc(h.Mounts, func(m mount.Mount) bool { return gone(m.Target) })
	maps.DeleteFunc(h.Tmpfs, func(dest, _ string) bool { return gone(dest) })
	maps.DeleteFunc(r.Config.Volumes, func(dest string, _ struct{}) bool { return gone(dest) })
	r.Mounts = slices.DeleteFunc(slices.Clone(r.Mounts), func(p mountPoint) bool { return gone(p.Destination) })
	h.Binds, h.Mounts = append(h.Binds, change.Binds...), append(h.Mounts, change.Mounts...)
	if r.Config.Volumes == nil {
		r.Config.Volumes = map[string]struct{}{}
	}
	maps.Copy(r.Config.Volumes, asked.Config.Volumes)
	return added, nil
}
