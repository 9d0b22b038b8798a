// Package engine is dockerd as a library: it builds the nouns (containers,
// images, networks, volumes, events) on one containerd and joins them. The
// nouns' packages do not know each other; the adapters between them are here.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"

	api "github.com/moby/moby/api/types/container"
	eventtypes "github.com/moby/moby/api/types/events"

	"lighter/containerd"
	"lighter/engine/build"
	"lighter/engine/container"
	"lighter/engine/events"
	"lighter/engine/gc"
	"lighter/engine/image"
	"lighter/engine/network"
	"lighter/engine/server"
	"lighter/engine/system"
	"lighter/engine/volume"
	"lighter/internal/cleanup"
)

// Config is how an Engine behaves.
type Config struct {
	Container container.Config
	Network   network.Config
	Registry  image.RegistryConfig
	System    system.Facts
	// MaxDownloads, MaxUploads and DownloadAttempts are image.Settings'.
	MaxDownloads, MaxUploads, DownloadAttempts int
	// NetworkOptions are the options that new networks get unless the request
	// has them, by driver.
	NetworkOptions map[string]map[string]string
	// CleanUp removes unused images; the zero value keeps them.
	CleanUp gc.Policy
	// ExternalContainerd says that svc is another process.
	ExternalContainerd bool
	Build              build.Config
}

// Engine is a running engine.
type Engine struct {
	containers *container.Manager
	images     *image.Service
	networks   *network.Manager
	volumes    *volume.Store
	events     *events.Bus
	system     *system.Service
	netOptions map[string]map[string]string
	keep       atomic.Bool // containers outlive Close
	builds     *build.Service
	log        *slog.Logger
	endCleanUp func() // ends the automatic clean-up and waits for it
	meter      *meter
}

// Open builds an engine on svc and restores its containers. Close ends it; svc
// stays the caller's.
func Open(ctx context.Context, cfg Config, svc *containerd.Services, log *slog.Logger) (_ *Engine, err error) {
	var undo cleanup.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, undo.Run())
		}
	}()
	e := &Engine{log: log, events: events.New(), netOptions: cfg.NetworkOptions, meter: newMeter()}
	e.keep.Store(cfg.Container.LiveRestore)
	cfg.Network.Events = func(action eventtypes.Action, id string, attrs map[string]string) {
		e.events.Publish(eventtypes.NetworkEventType, action, eventtypes.Actor{ID: id, Attributes: attrs})
	}
	if e.networks, err = network.Open(ctx, cfg.Network, log.With("component", "network")); err != nil {
		return nil, fmt.Errorf("open networks: %w", err)
	}
	undo.Add(func() error { return e.networks.Close(context.WithoutCancel(ctx), e.keep.Load()) })
	volumes := filepath.Join(cfg.Container.DataRoot, "volumes")
	if e.volumes, err = volume.Open(volumes, e.events, log.With("component", "volume")); err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	e.images = image.New(image.Deps{
		Services:     svc,
		Namespace:    cfg.Container.Namespace,
		Snapshotter:  cfg.Container.Snapshotter,
		Log:          log.With("component", "image"),
		Registry:     cfg.Registry,
		MaxDownloads: cfg.MaxDownloads, MaxUploads: cfg.MaxUploads, DownloadAttempts: cfg.DownloadAttempts,
		Events: func(action eventtypes.Action, id string, attrs map[string]string) {
			e.events.Publish(eventtypes.ImageEventType, action, eventtypes.Actor{ID: id, Attributes: attrs})
		},
		InUse: e.imageUsers,
	})
	if err := e.images.Abandon(ctx); err != nil {
		log.Warn("cannot give up interrupted image operations", "err", err)
	}
	e.containers, err = container.Open(ctx, container.Deps{
		Services: svc,
		Images:   images{e.images},
		Networks: networks{e.networks, e.meter},
		Volumes:  e.volumes,
		Events:   e.events,
		Log:      log.With("component", "container"),

		HealthChecked: e.meter.healthChecked,
	}, cfg.Container)
	if err != nil {
		return nil, fmt.Errorf("open containers: %w", err)
	}
	undo.Add(func() error { return e.containers.Close(context.WithoutCancel(ctx)) })
	for _, a := range e.networks.HostGateway() {
		cfg.Build.Link.HostGateway = append(cfg.Build.Link.HostGateway, a.String())
	}
	e.builds = build.New(cfg.Build, build.Deps{
		Networks: buildNetworks{e.networks},
		Images:   e.images,
		Log:      log.With("component", "build"),
	})
	undo.Add(e.builds.Close)
	sources := system.Sources{
		Counts: e.counts, Meters: e.meters(), CDIDevices: e.containers.CDIDevices, VolumeDrivers: e.volumes.Drivers,
		Warnings: e.networks.Warnings,
	}
	if cfg.ExternalContainerd {
		sources.Containerd = svc.Version.Version
	}
	e.system, err = system.New(cfg.System, sources)
	if err != nil {
		return nil, err
	}
	e.meter.observe(e)
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	var cleaning sync.WaitGroup
	cleaning.Go(func() {
		cfg.CleanUp.Run(life, collectable{e.images, cfg.Container.DataRoot}, log.With("component", "gc"))
	})
	e.endCleanUp = func() { end(); cleaning.Wait() }
	undo.Release()
	return e, nil
}

// Backends are what the Engine API's server calls.
func (e *Engine) Backends() server.Backends {
	return server.Backends{
		Containers: meteredContainers{containers{e.containers, e.images}, e.meter},
		Images:     meteredImages{e.images, e.meter},
		Networks:   defaultedNetworks{e.networks, e.netOptions},
		Volumes:    e.volumes,
		System:     meteredSystem{e.system, e.meter},
		Builds:     e.builds,
		Events:     e.events,
	}
}

// Counts returns how many containers are in which state.
func (e *Engine) Counts() container.Counts { return e.containers.Count() }

// Close stops the containers, unless they are to be restored live, and releases
// what the engine holds on the host.
func (e *Engine) Close(ctx context.Context) error {
	e.endCleanUp()
	err := errors.Join(e.builds.Close(), e.containers.Close(ctx))
	e.events.Close()
	keep := e.keep.Load() && e.containers.Count().Running > 0 // else nothing uses the networks
	return errors.Join(err, e.networks.Close(ctx, keep))
}

// imageUsers returns the containers that were made from an image.
func (e *Engine) imageUsers(imageID string) []image.ContainerRef {
	var users []image.ContainerRef
	list, err := e.containers.List(context.Background(), container.ListOptions{All: true})
	if err != nil {
		return nil
	}
	for _, c := range list {
		if c.ImageID == imageID {
			users = append(users, image.ContainerRef{ID: c.ID, Running: c.State == api.StateRunning, Image: c.Image})
		}
	}
	return users
}

func (e *Engine) meters() system.Meters {
	return system.Meters{
		Images: e.images.Usage,
		Containers: func(ctx context.Context) ([]api.Summary, error) {
			return e.containers.List(ctx, container.ListOptions{All: true, Size: true})
		},
		Volumes:    e.volumes.Usages,
		Logs:       e.logUsage,
		BuildCache: e.buildCache,
	}
}

func (e *Engine) logUsage(ctx context.Context) (system.LogDiskUsage, error) {
	list, err := e.containers.LogUsage(ctx)
	u := system.LogDiskUsage{TotalCount: int64(len(list))}
	for _, l := range list {
		u.Items = append(u.Items, system.LogUsage{Container: l.ID, Name: l.Name, Active: l.Active, Size: l.Size})
		u.TotalSize += l.Size
		if l.Active {
			u.ActiveCount++
		} else {
			u.Reclaimable += l.Size
		}
	}
	return u, err
}

func (e *Engine) counts(ctx context.Context) (system.Counts, error) {
	list, err := e.images.List(ctx, image.ListOptions{})
	if err != nil {
		return system.Counts{}, err
	}
	n := e.containers.Count()
	return system.Counts{
		Containers: n.Total, Running: n.Running, Paused: n.Paused, Stopped: n.Stopped,
		Images: len(list), EventListeners: e.events.Subscribers(),
	}, nil
}
