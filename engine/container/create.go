package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"lighter/internal/cleanup"
)

const (
	// labelContainer marks what belongs to a container in containerd's stores.
	labelContainer = "lighter.engine/container"
	// labelRoot keeps an object from containerd's garbage collection.
	labelRoot = "containerd.io/gc.root"

	// undoLimit bounds the clean-up of a failed operation.
	undoLimit = 30 * time.Second
)

// Create makes a container that Start can run. Errors: InvalidArgument for what
// cannot be, NotFound for a missing image, Conflict for a taken name,
// NotImplemented for an option that this engine does not have.
//
// Commit point: the record in the store. Before it everything is undone on an
// error or a cancelled ctx; a crash leaves what Open sweeps.
func (m *Manager) Create(ctx context.Context, opts CreateOptions) (resp api.CreateResponse, err error) {
	if opts.Config == nil {
		return resp, invalid("config cannot be empty in order to create a container")
	}
	if m.isClosing() {
		return resp, errdefs.ErrUnavailable.WithMessage("the engine is shutting down")
	}
	r := &record{ID: newID(), Created: time.Now().UTC(), Snapshotter: m.cfg.Snapshotter}
	if r.Config, r.HostConfig, err = copyConfigs(opts.Config, opts.HostConfig); err != nil {
		return resp, err
	}
	warnings, err := m.settle(r, opts.NetworkingConfig)
	if err != nil {
		return resp, err
	}
	ctx = m.in(ctx)
	if err := m.applyImage(ctx, r, opts, &warnings); err != nil {
		return resp, err
	}
	if r.Name, err = m.reserveName(r.ID, opts.Name); err != nil {
		return resp, err
	}
	undo := cleanup.Make(func() error { m.releaseName(r.ID, r.Name); return nil })
	defer func() {
		if undoErr := undo.Run(); undoErr != nil {
			m.Log.Error("cannot undo a failed create", "container", r.ID, "err", undoErr)
		}
	}()
	if r.Config.Hostname == "" {
		r.Config.Hostname = r.ID[:12]
		if r.HostConfig.NetworkMode.IsHost() {
			if r.Config.Hostname, err = os.Hostname(); err != nil {
				return resp, err
			}
		}
	}
	if err := m.materialize(ctx, r, undo); err != nil {
		return resp, err
	}
	if err := m.insert(ctx, r); err != nil {
		return resp, err
	}
	undo.Release()
	m.publish(r, events.ActionCreate)
	if warnings == nil {
		warnings = []string{}
	}
	return api.CreateResponse{ID: r.ID, Warnings: warnings}, nil
}

// copyConfigs returns deep copies, as the caller's may be shared and ours are
// completed.
func copyConfigs(c *api.Config, h *api.HostConfig) (*api.Config, *api.HostConfig, error) {
	if h == nil {
		h = &api.HostConfig{}
	}
	data, err := json.Marshal(struct {
		C *api.Config
		H *api.HostConfig
	}{c, h})
	if err != nil {
		return nil, nil, invalid("invalid configuration: %s", err)
	}
	var out struct {
		C *api.Config
		H *api.HostConfig
	}
	if err := json.Unmarshal(data, &out); err != nil {
		return nil, nil, invalid("invalid configuration: %s", err)
	}
	return out.C, out.H, nil
}

// settle validates the request and fills in the engine's defaults.
func (m *Manager) settle(r *record, networking *network.NetworkingConfig) ([]string, error) {
	h := r.HostConfig
	if h.RestartPolicy.Name == "" {
		h.RestartPolicy.Name = api.RestartPolicyDisabled
	}
	if err := settlePolicy(h); err != nil {
		return nil, err
	}
	if err := checkConfig(r.Config); err != nil {
		return nil, err
	}
	warnings := m.kernel.adapt(&h.Resources)
	more, err := checkHostConfig(r.Config, h)
	if err != nil {
		return nil, err
	}
	warnings = append(warnings, more...)
	if h.Runtime == "" {
		h.Runtime = m.defaultRuntimeName()
	}
	if m.runtimeName(h.Runtime) == "" {
		return nil, invalid("unknown or invalid runtime name: %s", h.Runtime)
	}
	if h.Memory > 0 && h.MemorySwap == 0 {
		h.MemorySwap = h.Memory * 2
	}
	if h.ShmSize == 0 {
		h.ShmSize = m.settings().DefaultShmBytes
	}
	if h.IpcMode.IsEmpty() {
		h.IpcMode = m.settings().DefaultIPCMode
	}
	if h.CgroupnsMode.IsEmpty() {
		h.CgroupnsMode = m.settings().DefaultCgroupNS
		if h.Privileged && !cgroupV2() {
			h.CgroupnsMode = api.CgroupnsModeHost
		}
	}
	if h.NetworkMode == "" || h.NetworkMode.IsDefault() {
		h.NetworkMode = network.NetworkBridge
	}
	if err := m.resolvePeers(h); err != nil {
		return nil, err
	}
	if err := checkSysctls(r.Config, h); err != nil {
		return nil, err
	}
	warnings = append(warnings, m.kernel.hostWarnings(h)...)
	if m.wantsInit(r) && m.cfg.InitPath == "" {
		return nil, notImplemented("the container asks for an init, but no docker-init was found next to the engine")
	}
	if err := m.settleLog(h); err != nil {
		return nil, err
	}
	r.LogDriver = h.LogConfig.Type
	r.Endpoints = endpoints(r, networking)
	if err := m.resolveLinks(r); err != nil {
		return nil, err
	}
	return warnings, nil
}

// resolvePeers replaces the name in "container:name" by the container's ID, so
// that a rename does not break the tie. An unknown one is InvalidArgument, not
// NotFound, which clients take for a missing image.
func (m *Manager) resolvePeers(h *api.HostConfig) error {
	byID := func(mode string) (string, error) {
		ref, ok := strings.CutPrefix(mode, "container:")
		if !ok {
			return mode, nil
		}
		e, err := m.lookup(ref)
		if err != nil {
			return "", invalid("%s", err)
		}
		return "container:" + e.id, nil
	}
	pid, err := byID(string(h.PidMode))
	if err != nil {
		return wrap("failed to join PID namespace", err)
	}
	ipc, err := byID(string(h.IpcMode))
	if err != nil {
		return wrap("failed to join IPC namespace", err)
	}
	net, err := byID(string(h.NetworkMode))
	if err != nil {
		return wrap("joining network namespace of container", err)
	}
	h.PidMode, h.IpcMode, h.NetworkMode = api.PidMode(pid), api.IpcMode(ipc), api.NetworkMode(net)
	return nil
}

// endpoints returns the networks that r joins, by name or ID as they were asked
// for.
func endpoints(r *record, networking *network.NetworkingConfig) map[string]*network.EndpointSettings {
	mode := r.HostConfig.NetworkMode
	if mode.IsContainer() || r.Config.NetworkDisabled {
		return nil
	}
	all := map[string]*network.EndpointSettings{}
	if networking != nil {
		for name, settings := range networking.EndpointsConfig {
			if name == network.NetworkDefault {
				name = network.NetworkBridge
			}
			if settings == nil {
				settings = &network.EndpointSettings{}
			}
			all[name] = settings.Copy()
		}
	}
	if _, ok := all[string(mode)]; !ok {
		all[string(mode)] = &network.EndpointSettings{}
	}
	return all
}

// applyImage resolves the image and merges its configuration.
func (m *Manager) applyImage(ctx context.Context, r *record, opts CreateOptions, warnings *[]string) error {
	r.Platform = "linux"
	if r.Config.Image != "" {
		img, err := m.Images.Resolve(ctx, r.Config.Image, opts.Platform)
		if err != nil {
			return err
		}
		r.ImageID, r.ChainID, r.Manifest = img.ID, img.ChainID, img.Descriptor
		if img.Config.OS != "" {
			r.Platform = img.Config.OS
		}
		if w := platformWarning(img, opts); w != "" {
			*warnings = append(*warnings, w)
		}
		if err := mergeImage(r.Config, &img.Config.Config); err != nil {
			return err
		}
	}
	switch {
	case len(r.Config.Entrypoint) > 0:
		r.Path, r.Args = r.Config.Entrypoint[0], slices.Concat(r.Config.Entrypoint[1:], r.Config.Cmd)
	case len(r.Config.Cmd) > 0:
		r.Path, r.Args = r.Config.Cmd[0], r.Config.Cmd[1:]
	}
	if r.Path == "" && len(r.Config.Entrypoint) == 0 && len(r.Config.Cmd) == 0 {
		return invalid("no command specified")
	}
	return nil
}

func platformWarning(img *Image, opts CreateOptions) string {
	p := img.Config.Platform
	if opts.Platform != nil || p.OS == "" || platforms.Only(platforms.DefaultSpec()).Match(p) {
		return ""
	}
	return fmt.Sprintf("The requested image's platform (%s) does not match the detected host platform (%s) and no specific platform was requested",
		platforms.FormatAll(p), platforms.FormatAll(platforms.DefaultSpec()))
}

// mergeImage completes c with what the image says.
func mergeImage(c *api.Config, img *dockerspec.DockerOCIImageConfig) error {
	if c.User == "" {
		c.User = img.User
	}
	for port := range img.ExposedPorts {
		p, err := network.ParsePort(port)
		if err != nil {
			return invalid("the image exposes an invalid port: %s", err)
		}
		if c.ExposedPorts == nil {
			c.ExposedPorts = network.PortSet{}
		}
		c.ExposedPorts[p] = struct{}{}
	}
	for _, env := range img.Env {
		key, _, _ := strings.Cut(env, "=")
		if !slices.ContainsFunc(c.Env, func(e string) bool { k, _, _ := strings.Cut(e, "="); return k == key }) {
			c.Env = append(c.Env, env)
		}
	}
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	for key, value := range img.Labels {
		if _, ok := c.Labels[key]; !ok {
			c.Labels[key] = value
		}
	}
	if len(c.Entrypoint) == 0 {
		if len(c.Cmd) == 0 {
			c.Cmd = img.Cmd
		}
		if c.Entrypoint == nil {
			c.Entrypoint = img.Entrypoint
		}
	}
	// Docker compatibility: [""] on the command line empties the entrypoint.
	if len(c.Entrypoint) == 1 && c.Entrypoint[0] == "" {
		c.Entrypoint = nil
	}
	c.Healthcheck = mergeHealth(c.Healthcheck, img.Healthcheck)
	if c.WorkingDir == "" {
		c.WorkingDir = img.WorkingDir
	}
	for dest := range img.Volumes {
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		c.Volumes[dest] = struct{}{}
	}
	if c.StopSignal == "" {
		c.StopSignal = img.StopSignal
	}
	if len(c.Shell) == 0 {
		c.Shell = img.Shell
	}
	return checkConfig(c)
}

func mergeHealth(own, img *api.HealthConfig) *api.HealthConfig {
	if own == nil || img == nil {
		if own == nil {
			return img
		}
		return own
	}
	h := *own
	if len(h.Test) == 0 {
		h.Test = img.Test
	}
	for _, p := range []struct {
		own *time.Duration
		img time.Duration
	}{{&h.Interval, img.Interval}, {&h.Timeout, img.Timeout}, {&h.StartPeriod, img.StartPeriod}, {&h.StartInterval, img.StartInterval}} {
		if *p.own == 0 {
			*p.own = p.img
		}
	}
	if h.Retries == 0 {
		h.Retries = img.Retries
	}
	return &h
}

// materialize makes what the record will refer to: directory, volumes, snapshot,
// and what the image holds where a volume is empty.
func (m *Manager) materialize(ctx context.Context, r *record, undo *cleanup.Stack) (err error) {
	if r.Mounts, err = m.mountPoints(r); err != nil {
		return err
	}
	dir := m.dir(r.ID)
	if err := os.Mkdir(dir, 0o710); err != nil {
		return fmt.Errorf("create container directory: %w", err)
	}
	undo.Add(func() error { return os.RemoveAll(dir) })

	undo.Add(func() error {
		ctx, cancel := m.detached(ctx, undoLimit)
		defer cancel()
		return m.releaseVolumes(ctx, r, true)
	})
	if err := m.acquireVolumes(ctx, r); err != nil {
		return err
	}

	if err := m.acquireImages(ctx, r, undo); err != nil {
		return err
	}
	sn, err := m.snapshotter(r)
	if err != nil {
		return err
	}
	mounts, err := sn.Prepare(ctx, r.ID, r.ChainID, snapshots.WithLabels(map[string]string{
		labelContainer: r.ID,
		labelRoot:      r.Created.Format(time.RFC3339),
	}))
	if err != nil {
		return fmt.Errorf("prepare file system: %w", err)
	}
	undo.Add(func() error {
		ctx, cancel := m.detached(ctx, undoLimit)
		defer cancel()
		return sn.Remove(ctx, r.ID)
	})
	return m.copyUp(ctx, r, mounts)
}

// copyUp fills the empty volumes of r with what its file system, which mounts
// makes, has at their places.
func (m *Manager) copyUp(ctx context.Context, r *record, mounts []mount.Mount) (err error) {
	if !slices.ContainsFunc(r.Mounts, func(p mountPoint) bool { return p.CopyUp }) {
		return nil
	}
	root, err := m.view(mounts)
	if err != nil {
		return err
	}
	defer root.Close()
	defer func() { err = errors.Join(err, m.unmountVolumes(r)) }()
	ready, err := m.mountVolumes(ctx, r)
	if err != nil {
		return err
	}
	for _, p := range ready.Mounts {
		if !p.CopyUp {
			continue
		}
		if _, err := root.CopyUp(p.Destination, p.Source, p.subpath()); err != nil {
			return err
		}
	}
	return nil
}

// insert stores r and makes it visible.
func (m *Manager) insert(ctx context.Context, r *record) error {
	e := newEntry(r)
	b := m.store.put(r.ID, r)
	if err := m.store.flush(context.WithoutCancel(ctx), b); err != nil {
		m.store.put(r.ID, nil)
		return fmt.Errorf("store container: %w", err)
	}
	m.mu.Lock()
	m.byID[r.ID] = e
	m.mu.Unlock()
	return nil
}

func isConflict(err error) bool { return errdefs.IsConflict(err) }

// isNotFound reports whether err says that the object does not exist, so that
// removing it is done.
func isNotFound(err error) bool { return errdefs.IsNotFound(err) || errors.Is(err, os.ErrNotExist) }
