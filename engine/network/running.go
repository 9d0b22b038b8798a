package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"lighter/engine/network/bridge"
)

// ConnectRunning joins a running container, which Connect was called for, to
// another network. The allocation returned replaces the former one: its hosts
// file has the new address, and default gateway and published ports may have
// moved to the new network.
//
// Errors: NotFound; PermissionDenied if it is connected already; InvalidArgument
// for what does not go together. After an error nothing has changed.
func (m *Manager) ConnectRunning(ctx context.Context, containerID string, pid int, networkRef string, settings *network.EndpointSettings) (*Allocation, error) {
	defer m.containers.lock(containerID)()
	sb, ns, err := m.running(containerID, pid)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	before := sb.rec
	ep, err := m.addEndpoint(sb, networkRef, settings)
	if err != nil {
		return nil, err
	}
	undo := func(err error) error {
		m.setRecord(sb, before)
		m.withdrawNames(ep)
		m.announceNames(sb)
		n := m.network(ep.NetworkID)
		err = errors.Join(err, m.store.putSandbox(before), n.driver.detach(context.WithoutCancel(ctx), ns, n, ep))
		m.mu.Lock()
		defer m.mu.Unlock()
		m.freeEndpointLocked(ep)
		return err
	}
	if err := m.store.putSandbox(sb.rec); err != nil {
		return nil, undo(fmt.Errorf("record network of container: %w", err))
	}
	if err := m.attach(ns, sb, ep, m.exitsOf(sb.rec)); err != nil {
		return nil, undo(err)
	}
	if err := m.startResolver(sb, ns); err != nil {
		return nil, undo(err)
	}
	if err := m.publish(ctx, sb); err != nil {
		return nil, undo(err)
	}
	m.announceEndpoints(events.ActionConnect, containerID, ep)
	return m.allocation(sb.rec)
}

// DisconnectRunning takes a running container off a network. The allocation
// returned replaces the former one. force does not matter to networks that are
// of this host alone.
//
// Errors: NotFound for the network; without a class if the container is not
// connected to it; InvalidArgument for the networks host and none.
func (m *Manager) DisconnectRunning(ctx context.Context, containerID string, pid int, networkRef string, force bool) (*Allocation, error) {
	defer m.containers.lock(containerID)()
	sb, ns, err := m.running(containerID, pid)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	m.mu.Lock()
	n, err := m.findLocked(networkRef)
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if n.Network.Driver == "host" {
		return nil, errHostNetwork
	}
	i := slices.IndexFunc(sb.rec.Endpoints, func(e *endpointRecord) bool { return e.NetworkID == n.Network.ID })
	if i < 0 {
		return nil, fmt.Errorf("container %s is not connected to network %s", containerID, n.Network.Name)
	}
	if n.driver == nil {
		return nil, errNoNetwork
	}
	ep := sb.rec.Endpoints[i]
	// Deleted while the container waits: its interface must be gone when the
	// user hears of it.
	if err := n.driver.detach(ctx, ns, n, ep); err != nil {
		return nil, err
	}
	rec := *sb.rec
	rec.Endpoints = slices.Delete(slices.Clone(rec.Endpoints), i, i+1)
	m.mu.Lock()
	sb.rec = &rec
	m.freeEndpointLocked(ep)
	m.mu.Unlock()
	m.withdrawNames(ep)
	m.announceNames(sb)
	m.announceEndpoints(events.ActionDisconnect, containerID, ep)
	errs := []error{m.store.putSandbox(&rec)}
	var routes []bridge.Route
	x := m.exitsOf(&rec)
	if x.v4 != nil {
		routes = append(routes, m.routeOf(x.v4, x.v4.Gateway))
	}
	if x.v6 != nil {
		routes = append(routes, m.routeOf(x.v6, x.v6.Gateway6))
	}
	if len(routes) > 0 {
		errs = append(errs, bridge.DefaultRoutes(ns, routes...))
	}
	errs = append(errs, m.publish(ctx, sb))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return m.allocation(&rec)
}

func (m *Manager) routeOf(ep *endpointRecord, gateway netip.Addr) bridge.Route {
	n := m.network(ep.NetworkID)
	return bridge.Route{Name: ep.IfName, Gateway: gateway, OnLink: n.driver.traits(n).onLink}
}

// running returns the sandbox of a container and its network namespace, which the
// caller closes.
func (m *Manager) running(containerID string, pid int) (*sandbox, *os.File, error) {
	sb := m.sandbox(containerID)
	if sb == nil || !sb.connected {
		return nil, nil, &classed{fmt.Sprintf("container %s is not connected to any network of its own", containerID), errdefs.ErrFailedPrecondition}
	}
	ns, err := openNamespace(pid)
	return sb, ns, err
}

// addEndpoint reserves an endpoint for a sandbox and adds it to the record.
func (m *Manager) addEndpoint(sb *sandbox, networkRef string, settings *network.EndpointSettings) (*endpointRecord, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.findLocked(networkRef)
	if err != nil {
		return nil, err
	}
	for _, ep := range sb.rec.Endpoints {
		switch have := m.networks[ep.NetworkID]; {
		case have.Network.Driver == "host" || n.Network.Driver == "host":
			return nil, errHostNetwork
		case have.driver == nil || n.driver == nil:
			return nil, errNoNetwork
		case have == n:
			return nil, forbidden("endpoint with name %s already exists in network %s", ownerName(&sb.rec.Request), n.Network.Name)
		}
	}
	if n.driver == nil {
		return nil, errNoNetwork
	}
	s := settings.Copy()
	if s == nil {
		s = &network.EndpointSettings{}
	}
	ep, err := m.endpointLocked(sb.rec, n, s)
	if err != nil {
		return nil, err
	}
	rec := *sb.rec
	rec.Endpoints = append(slices.Clone(rec.Endpoints), ep)
	sb.rec = &rec
	return ep, nil
}

// allocation returns what a sandbox has.
func (m *Manager) allocation(rec *sandboxRecord) (*Allocation, error) {
	if len(rec.Endpoints) == 0 {
		a := &Allocation{}
		m.fill(a, rec)
		return a, nil
	}
	a, err := m.files(rec)
	if err != nil {
		return nil, err
	}
	m.fill(a, rec)
	return a, nil
}
