package engine

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	api "github.com/moby/moby/api/types/container"
	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/registry"
	systemtypes "github.com/moby/moby/api/types/system"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/engine/container"
	"lighter/engine/image"
	"lighter/engine/metrics"
	"lighter/engine/server"
	"lighter/engine/system"
	"lighter/internal/version"
)

// meter counts what the engine does. The names are Docker's.
type meter struct {
	set                                    metrics.Set
	container, image, network, host, start *metrics.Timer
	checks, failedChecks                   atomic.Uint64
}

func newMeter() *meter {
	m := &meter{}
	m.container = m.set.Timer("engine_daemon_container_actions_seconds", "The number of seconds it takes to process each container action",
		"action", "changes", "commit", "create", "delete", "start")
	m.image = m.set.Timer("engine_daemon_image_actions_seconds", "The number of seconds it takes to process each image action", "action")
	m.network = m.set.Timer("engine_daemon_network_actions_seconds", "The number of seconds it takes to process each network action", "action")
	m.host = m.set.Timer("engine_daemon_host_info_functions_seconds", "The number of seconds it takes to call functions gathering info about the host", "function")
	m.set.Counter("engine_daemon_health_checks_total", "The total number of health checks", func() float64 { return float64(m.checks.Load()) })
	m.set.Counter("engine_daemon_health_checks_failed_total", "The total number of failed health checks", func() float64 { return float64(m.failedChecks.Load()) })
	m.start = m.set.Timer("engine_daemon_health_check_start_duration_seconds", "The number of seconds it takes to prepare to run health checks", "", "")
	return m
}

// healthChecked is container.Deps.HealthChecked.
func (m *meter) healthChecked(prepared time.Duration, err error) {
	m.checks.Add(1)
	if err != nil {
		m.failedChecks.Add(1)
	}
	m.start.Took("", prepared)
}

// observe adds what the engine is asked for when the metrics are shown.
func (m *meter) observe(e *Engine) {
	host := e.system.Host()
	m.set.Gauges("engine_daemon_engine_info", "The information related to the engine and the OS it is running on", func() []metrics.Sample {
		return []metrics.Sample{{Labels: metrics.Labels(
			"architecture", host.Machine, "commit", version.GitCommit, "daemon_id", host.ID, "graphdriver", host.Snapshotter,
			"kernel", host.Kernel, "os", host.OS, "os_type", "linux", "os_version", host.OSVersion, "version", version.Version), Value: 1}}
	})
	m.set.Gauge("engine_daemon_engine_cpus_cpus", "The number of cpus that the host system of the engine has", func() float64 { return float64(host.CPUs) })
	m.set.Gauge("engine_daemon_engine_memory_bytes", "The number of bytes of memory that the host system of the engine has", func() float64 { return float64(host.MemoryBytes) })
	m.set.Gauges("engine_daemon_container_states_containers", "The count of containers in various states", func() []metrics.Sample {
		n := e.containers.Count()
		return []metrics.Sample{
			{Labels: metrics.Labels("state", "paused"), Value: float64(n.Paused)},
			{Labels: metrics.Labels("state", "running"), Value: float64(n.Running)},
			{Labels: metrics.Labels("state", "stopped"), Value: float64(n.Stopped)},
		}
	})
	m.set.Counter("engine_daemon_events_total", "The number of events logged", func() float64 { return float64(e.events.Published()) })
	m.set.Gauge("engine_daemon_events_subscribers_total", "The number of current subscribers to events", func() float64 { return float64(e.events.Subscribers()) })
	m.set.Process()
}

// Metrics shows what the engine has done in the text format of Prometheus.
func (e *Engine) Metrics() http.Handler { return &e.meter.set }

// meteredContainers measures what is asked of containers.
type meteredContainers struct {
	containers
	meter *meter
}

var _ server.Containers = meteredContainers{}

// Create implements server.Containers.
func (c meteredContainers) Create(ctx context.Context, opts container.CreateOptions) (api.CreateResponse, error) {
	defer c.meter.container.Since("create", time.Now())
	return c.containers.Create(ctx, opts)
}

// Start implements server.Containers.
func (c meteredContainers) Start(ctx context.Context, ref string) (bool, error) {
	defer c.meter.container.Since("start", time.Now())
	return c.containers.Start(ctx, ref)
}

// Remove implements server.Containers.
func (c meteredContainers) Remove(ctx context.Context, ref string, opts container.RemoveOptions) error {
	defer c.meter.container.Since("delete", time.Now())
	return c.containers.Remove(ctx, ref, opts)
}

// Commit implements server.Containers.
func (c meteredContainers) Commit(ctx context.Context, opts server.CommitOptions) (string, error) {
	defer c.meter.container.Since("commit", time.Now())
	return c.containers.Commit(ctx, opts)
}

// Changes implements server.Containers.
func (c meteredContainers) Changes(ctx context.Context, ref string) ([]api.FilesystemChange, error) {
	defer c.meter.container.Since("changes", time.Now())
	return c.containers.Changes(ctx, ref)
}

// meteredImages measures what is asked of images.
type meteredImages struct {
	*image.Service
	meter *meter
}

// Pull implements server.Images.
func (i meteredImages) Pull(ctx context.Context, ref, tag string, platform *ocispec.Platform, auth *registry.AuthConfig, out image.Progress) error {
	defer i.meter.image.Since("pull", time.Now())
	return i.Service.Pull(ctx, ref, tag, platform, auth, out)
}

// Push implements server.Images.
func (i meteredImages) Push(ctx context.Context, ref, tag string, platform *ocispec.Platform, auth *registry.AuthConfig, out image.Progress) error {
	defer i.meter.image.Since("push", time.Now())
	return i.Service.Push(ctx, ref, tag, platform, auth, out)
}

// Load implements server.Images.
func (i meteredImages) Load(ctx context.Context, archive io.Reader, platforms []ocispec.Platform, quiet bool, out image.Progress) error {
	defer i.meter.image.Since("load", time.Now())
	return i.Service.Load(ctx, archive, platforms, quiet, out)
}

// Remove implements server.Images.
func (i meteredImages) Remove(ctx context.Context, ref string, opts image.RemoveOptions) ([]imagetypes.DeleteResponse, error) {
	defer i.meter.image.Since("delete", time.Now())
	return i.Service.Remove(ctx, ref, opts)
}

// meteredSystem measures what is asked of the host.
type meteredSystem struct {
	*system.Service
	meter *meter
}

// Info implements server.System.
func (s meteredSystem) Info(ctx context.Context) (systemtypes.Info, error) {
	defer s.meter.host.Since("system_info", time.Now())
	return s.Service.Info(ctx)
}

// Version implements server.System.
func (s meteredSystem) Version(ctx context.Context) (systemtypes.VersionResponse, error) {
	defer s.meter.host.Since("system_version", time.Now())
	return s.Service.Version(ctx)
}
