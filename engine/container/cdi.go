package container

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	api "github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// gpuKinds are the vendors whose GPUs --gpus means, by the names of their CDI
// kinds, in the order in which they are looked for.
var gpuKinds = []struct{ driver, kind string }{
	{"nvidia", "nvidia.com/gpu"}, {"amd", "amd.com/gpu"}, {"intel", "intel.com/gpu"},
}

// checkDeviceRequests refuses what no device could answer.
func checkDeviceRequests(requests []api.DeviceRequest) error {
	for _, r := range requests {
		known := r.Driver == "" || r.Driver == "cdi" || slices.ContainsFunc(gpuKinds, func(k struct{ driver, kind string }) bool {
			return r.Driver == k.driver || r.Driver == k.driver+".cdi"
		})
		switch {
		case !known:
			return noDriver(r)
		case r.Driver == "cdi" && r.Count != 0:
			return invalid("unexpected count in CDI device request")
		case r.Driver == "cdi" && len(r.Options) > 0:
			return invalid("unexpected options in CDI device request")
		case r.Driver == "cdi":
			for _, name := range r.DeviceIDs {
				if kind, device, ok := strings.Cut(name, "="); !ok || device == "" || !strings.Contains(kind, "/") {
					return invalid("CDI device injection failed: unqualified device %q: vendor/class=name is wanted", name)
				}
			}
		case r.Count != 0 && len(r.DeviceIDs) > 0:
			return invalid("cannot set both Count and DeviceIDs on device request")
		case !asksForGPU(r):
			return noDriver(r)
		}
	}
	return nil
}

func noDriver(r api.DeviceRequest) error {
	return invalid("could not select device driver %q with capabilities: %v", r.Driver, r.Capabilities)
}

// asksForGPU reports whether one of the alternatives of capabilities holds "gpu".
func asksForGPU(r api.DeviceRequest) bool {
	return slices.ContainsFunc(r.Capabilities, func(all []string) bool { return slices.Contains(all, "gpu") })
}

// deviceCache reads the CDI specifications of the host as they are now.
func (m *Manager) deviceCache() (*cdi.Cache, error) {
	if len(m.cfg.CDISpecDirs) == 0 {
		return nil, invalid("CDI device injection failed: no CDI specification directories specified")
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(m.cfg.CDISpecDirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return nil, fmt.Errorf("read CDI specifications: %w", err)
	}
	for dir, errs := range cache.GetErrors() {
		for _, err := range errs {
			if !errors.Is(err, os.ErrNotExist) {
				m.Log.Warn("CDI specification", "path", dir, "err", err)
			}
		}
	}
	return cache, nil
}

// CDIDevices returns the names of the devices that a container can ask for.
func (m *Manager) CDIDevices() []string {
	if len(m.cfg.CDISpecDirs) == 0 {
		return nil
	}
	cache, err := m.deviceCache()
	if err != nil {
		m.Log.Warn("cannot list CDI devices", "err", err)
		return nil
	}
	return cache.ListDevices()
}

// injectDevices adds the devices that r asks for by request to its spec: nodes,
// mounts, variables and hooks, as the host's CDI specifications say. Nothing of
// an image reaches this.
func (m *Manager) injectDevices(s *specs.Spec, r *record) error {
	requests := r.HostConfig.DeviceRequests
	if len(requests) == 0 {
		return nil
	}
	cache, err := m.deviceCache()
	if err != nil {
		return err
	}
	var names []string
	for _, req := range requests {
		if req.Driver == "cdi" {
			names = append(names, req.DeviceIDs...)
			continue
		}
		gpus, err := gpuNames(req, cache.ListDevices())
		if err != nil {
			return err
		}
		names = append(names, gpus...)
	}
	if len(names) == 0 {
		return nil
	}
	if missing, err := cache.InjectDevices(s, names...); err != nil {
		if len(missing) > 0 {
			return invalid("CDI device injection failed: %s (known: %s)", err, known(cache.ListDevices()))
		}
		return fmt.Errorf("CDI device injection failed: %w", err)
	}
	return nil
}

func known(devices []string) string {
	if len(devices) == 0 {
		return "none"
	}
	return strings.Join(devices, ", ")
}

// gpuNames returns the CDI names of the GPUs that req asks for, of the first
// vendor that has any among devices.
func gpuNames(req api.DeviceRequest, devices []string) ([]string, error) {
	for _, k := range gpuKinds {
		if req.Driver != "" && strings.TrimSuffix(req.Driver, ".cdi") != k.driver {
			continue
		}
		if !slices.ContainsFunc(devices, func(d string) bool { return strings.HasPrefix(d, k.kind+"=") }) {
			continue
		}
		var names []string
		switch {
		case len(req.DeviceIDs) > 0:
			for _, id := range req.DeviceIDs {
				if !strings.Contains(id, "=") {
					id = k.kind + "=" + id
				}
				names = append(names, id)
			}
		case req.Count < 0:
			names = []string{k.kind + "=all"}
		default:
			for n := range req.Count {
				names = append(names, k.kind+"="+strconv.Itoa(n))
			}
		}
		return names, nil
	}
	return nil, invalid("could not select device driver %q with capabilities: %v: no GPU is described in the CDI specifications of this host (see https://github.com/cncf-tags/container-device-interface; for NVIDIA: nvidia-ctk cdi generate)", req.Driver, req.Capabilities)
}
