package container

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"

	"lighter/containerd"
)

// Inspect describes a container from memory. With size it also measures the
// container's file system, which reads the disk.
func (m *Manager) Inspect(ctx context.Context, ref string, size bool) (api.InspectResponse, error) {
	e, err := m.lookup(ref)
	if err != nil {
		return api.InspectResponse{}, err
	}
	r := e.rec.Load()
	snapshotter := r.Snapshotter
	if snapshotter == "" {
		snapshotter = containerd.DefaultSnapshotter
	}
	host := *r.HostConfig
	if host.MaskedPaths == nil {
		host.MaskedPaths = maskedPaths(r)
	}
	if host.ReadonlyPaths == nil {
		host.ReadonlyPaths = readonlyPaths(r)
	}
	if len(r.Links) > 0 {
		host.Links = m.apiLinks(r)
	}
	resp := api.InspectResponse{
		ID:              r.ID,
		Created:         r.Created.Format(time.RFC3339Nano),
		Path:            r.Path,
		Args:            append([]string{}, r.Args...),
		State:           r.apiState(),
		Image:           r.ImageID,
		LogPath:         m.shownLogPath(r),
		Name:            r.Name,
		RestartCount:    r.RestartCount,
		Driver:          snapshotter,
		Platform:        r.Platform,
		ExecIDs:         m.execIDs(r.ID),
		HostConfig:      &host,
		Mounts:          r.apiMounts(),
		Config:          r.Config,
		NetworkSettings: r.networkSettings(),
		Storage: &storage.Storage{RootFS: &storage.RootFSStorage{
			Snapshot: &storage.RootFSStorageSnapshot{Name: snapshotter},
		}},
		ImageManifestDescriptor: r.Manifest,
	}
	if !r.StartedAt.IsZero() || r.State.active() {
		dir := m.dir(r.ID)
		resp.ResolvConfPath = filepath.Join(dir, "resolv.conf")
		resp.HostnamePath = filepath.Join(dir, "hostname")
		resp.HostsPath = filepath.Join(dir, "hosts")
	}
	if size {
		rw, root, err := m.sizes(m.in(ctx), r)
		if err != nil {
			return resp, err
		}
		resp.SizeRw, resp.SizeRootFs = &rw, &root
	}
	return resp, nil
}

func (r *record) apiState() *api.State {
	s := &api.State{
		Status:     api.ContainerState(r.State.String()),
		Running:    r.State.active(),
		Paused:     r.State == Paused,
		Restarting: r.State == Restarting,
		Dead:       r.State == Dead,
		OOMKilled:  r.OOMKilled,
		Pid:        r.Pid,
		ExitCode:   r.ExitCode,
		Error:      r.Error,
		StartedAt:  r.StartedAt.Format(time.RFC3339Nano),
		FinishedAt: r.FinishedAt.Format(time.RFC3339Nano),
	}
	if r.Health != nil {
		h := *r.Health
		h.Log = slices.Clone(h.Log)
		s.Health = &h
	}
	return s
}

func (r *record) apiMounts() []api.MountPoint {
	mounts := []api.MountPoint{}
	for _, p := range r.Mounts {
		a := api.MountPoint{
			Type: p.Type, Name: p.Name, Source: p.Source, Destination: p.Destination,
			Mode: p.Mode, RW: p.RW, Propagation: p.Propagation,
		}
		if p.Type == mount.TypeVolume {
			a.Driver = "local"
		}
		mounts = append(mounts, a)
	}
	return mounts
}

// networkSettings returns the networks that r has, or those that it will join.
func (r *record) networkSettings() *api.NetworkSettings {
	s := &api.NetworkSettings{Ports: network.PortMap{}, Networks: map[string]*network.EndpointSettings{}}
	from := r.Endpoints
	if n := r.Network; n != nil {
		s.SandboxID, s.SandboxKey, from = n.SandboxID, n.SandboxKey, n.Networks
		maps.Copy(s.Ports, n.Ports)
	}
	for name, settings := range from {
		s.Networks[name] = settings.Copy()
	}
	return s
}

// sizes returns the bytes of the container's own layer, and with all layers
// below.
func (m *Manager) sizes(ctx context.Context, r *record) (rw, root int64, err error) {
	sn, err := m.snapshotter(r)
	if err != nil {
		return 0, 0, err
	}
	own, err := sn.Usage(ctx, r.ID)
	if err != nil {
		return 0, 0, fmt.Errorf("measure container %s: %w", r.ID, err)
	}
	root = own.Size
	for key := r.ChainID; key != ""; {
		u, err := sn.Usage(ctx, key)
		if err != nil {
			return 0, 0, fmt.Errorf("measure container %s: %w", r.ID, err)
		}
		root += u.Size
		info, err := sn.Stat(ctx, key)
		if err != nil {
			return 0, 0, fmt.Errorf("measure container %s: %w", r.ID, err)
		}
		key = info.Parent
	}
	return own.Size, root, nil
}
