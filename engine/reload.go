package engine

import (
	"context"
	"encoding/json"
	"maps"
	"os"

	eventtypes "github.com/moby/moby/api/types/events"
	networktypes "github.com/moby/moby/api/types/network"

	"lighter/engine/container"
	"lighter/engine/image"
	"lighter/engine/network"
)

// Reload takes over what may change in a Config while the engine works, and
// tells it to those who watch events; attributes describe the configuration.
func (e *Engine) Reload(cfg Config, attributes map[string]string) {
	e.containers.Reload(func(c *container.Config) {
		c.LiveRestore = cfg.Container.LiveRestore
		c.DefaultStopTimeout = cfg.Container.DefaultStopTimeout
		c.DefaultShmBytes = cfg.Container.DefaultShmBytes
		c.DefaultIPCMode = cfg.Container.DefaultIPCMode
		c.DefaultCgroupNS = cfg.Container.DefaultCgroupNS
		c.Runtimes = cfg.Container.Runtimes
		c.DefaultRuntime = cfg.Container.DefaultRuntime
		c.LogLimit = cfg.Container.LogLimit
	})
	e.keep.Store(cfg.Container.LiveRestore)
	e.images.Reload(image.Settings{Registry: cfg.Registry, MaxDownloads: cfg.MaxDownloads, MaxUploads: cfg.MaxUploads, DownloadAttempts: cfg.DownloadAttempts})
	e.system.Reload(cfg.System)
	// A reload is also how an administrator asks for the rules after a change of
	// the host's firewall; it is harmless when nothing is missing.
	if err := e.networks.Reapply(context.Background()); err != nil {
		e.log.Error("restore firewall", "err", err)
	}
	all := map[string]string{}
	if hostname, err := os.Hostname(); err == nil {
		all["name"] = hostname
	}
	maps.Copy(all, attributes)
	e.events.Publish(eventtypes.DaemonEventType, eventtypes.ActionReload, eventtypes.Actor{ID: e.system.ID(), Attributes: all})
}

// ReloadAttributes describe in an event what Reload takes over, with the names of
// the configuration's keys. values are encoded as JSON but for text.
func ReloadAttributes(values map[string]any) map[string]string {
	out := make(map[string]string, len(values))
	for key, v := range values {
		if s, ok := v.(string); ok {
			out[key] = s
			continue
		}
		raw, err := json.Marshal(v)
		if err != nil {
			panic("configuration value of " + key + " is not JSON: " + err.Error()) // it came from JSON
		}
		out[key] = string(raw)
	}
	return out
}

// defaultedNetworks adds the daemon's default options to networks that are made.
type defaultedNetworks struct {
	*network.Manager
	options map[string]map[string]string // by driver
}

// Create implements server.Networks.
func (n defaultedNetworks) Create(ctx context.Context, req networktypes.CreateRequest) (networktypes.CreateResponse, error) {
	driver := req.Driver
	if driver == "" || driver == "default" {
		driver = "bridge"
	}
	if defaults := n.options[driver]; len(defaults) > 0 {
		options := maps.Clone(defaults)
		maps.Copy(options, req.Options)
		req.Options = options
	}
	return n.Manager.Create(ctx, req)
}
