package container

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/moby/moby/api/types/network"
)

// ConnectNetwork joins the container to a network, at once when it runs and at
// its starts from now on. The network manager announces it. A network that does
// not exist is NotFound.
func (m *Manager) ConnectNetwork(ctx context.Context, ref, networkRef string, settings *network.EndpointSettings) error {
	if settings == nil {
		settings = &network.EndpointSettings{}
	}
	if _, err := m.lookup(ref); err != nil {
		return err
	}
	networkRef, err := m.Networks.NetworkName(ctx, networkRef)
	if err != nil {
		return err
	}
	return m.changeNetworks(ctx, ref, func(ctx context.Context, r *record) (*NetworkAllocation, error) {
		if r.hasEndpoint(networkRef) != "" {
			return nil, permissionDenied(fmt.Sprintf("endpoint with name %s already exists in network %s", r.name(), networkRef))
		}
		if !r.State.hasTask() {
			return nil, nil
		}
		return m.Networks.ConnectRunning(ctx, r.ID, r.Pid, networkRef, settings)
	}, func(endpoints map[string]*network.EndpointSettings) {
		endpoints[networkRef] = settings.Copy()
	})
}

// DisconnectNetwork takes the container off a network, which need not exist any
// more when the container does not run.
func (m *Manager) DisconnectNetwork(ctx context.Context, ref, networkRef string, force bool) error {
	name := ""
	return m.changeNetworks(ctx, ref, func(ctx context.Context, r *record) (*NetworkAllocation, error) {
		known, err := m.Networks.NetworkName(ctx, networkRef)
		if err == nil {
			networkRef = known
		}
		if name = r.hasEndpoint(networkRef); name == "" {
			if err != nil {
				return nil, err
			}
			return nil, notConnected(r, networkRef)
		}
		if !r.State.hasTask() {
			return nil, nil
		}
		return m.Networks.DisconnectRunning(ctx, r.ID, r.Pid, networkRef, force)
	}, func(endpoints map[string]*network.EndpointSettings) {
		delete(endpoints, name)
	})
}

func notConnected(r *record, networkRef string) error {
	return conflict("container %s is not connected to the network %s", r.ID, networkRef)
}

// hasEndpoint returns the key in Endpoints of the network that ref means, "" for
// none.
func (r *record) hasEndpoint(ref string) string {
	if _, ok := r.Endpoints[ref]; ok {
		return ref
	}
	if r.Network == nil {
		return ""
	}
	// By ID, or asked for by ID and named now.
	for name, s := range r.Network.Networks {
		if name != ref && (s.NetworkID == "" || !strings.HasPrefix(s.NetworkID, ref)) {
			continue
		}
		for key := range r.Endpoints {
			if key == name || s.NetworkID != "" && strings.HasPrefix(s.NetworkID, key) {
				return key
			}
		}
	}
	return ""
}

func (m *Manager) changeNetworks(ctx context.Context, ref string, apply func(context.Context, *record) (*NetworkAllocation, error), edit func(map[string]*network.EndpointSettings)) error {
	e, err := m.lookup(ref)
	if err != nil {
		return err
	}
	if err := e.acquire(ctx); err != nil {
		return err
	}
	defer e.release()
	r := e.rec.Load()
	switch {
	case r.State == Removing || r.State == Dead:
		return conflict("Container %s is marked for removal and cannot be connected or disconnected to the network", r.ID)
	case r.HostConfig.NetworkMode.IsContainer():
		return invalid("container sharing network namespace with another container or host cannot be connected to any other network")
	case r.HostConfig.NetworkMode.IsHost():
		return invalid("cannot connect or disconnect container to host network - container must be created in host network mode")
	}
	ctx, cancel := m.detached(ctx, startLimit)
	defer cancel()
	got, err := apply(ctx, r)
	if err != nil {
		return err
	}
	if got != nil {
		if err := m.writeNetworkFilesInPlace(r.ID, got); err != nil {
			m.Log.Warn("cannot update the network files of a container", "container", r.ID, "err", err)
		}
	}
	_, err = m.commit(ctx, e, func(r *record) error {
		r.Endpoints = maps.Clone(r.Endpoints)
		if r.Endpoints == nil {
			r.Endpoints = map[string]*network.EndpointSettings{}
		}
		edit(r.Endpoints)
		if got != nil {
			r.Network = got
		}
		return nil
	})
	return err
}
