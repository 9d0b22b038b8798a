package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"lighter/engine/network/bridge"
	"lighter/engine/network/firewall"
	"lighter/engine/network/portmap"
	"lighter/internal/cleanup"
)

// Connect makes the links of an allocated container in the network namespace of
// pid, which is its created process or any other in the namespace and must not
// exit before Connect returns. It takes about two milliseconds.
//
// After an error the container's links are gone and its allocation stays.
func (m *Manager) Connect(ctx context.Context, containerID string, pid int) (err error) {
	defer m.containers.lock(containerID)()
	sb := m.sandbox(containerID)
	if sb == nil {
		return fmt.Errorf("connect container %q: it has no allocation: %w", containerID, errdefs.ErrNotFound)
	}
	if sb.connected {
		return nil
	}
	ns, err := openNamespace(pid)
	if err != nil {
		return fmt.Errorf("connect container %q: %w", containerID, err)
	}
	defer ns.Close()
	if err := m.connect(ctx, sb, ns); err != nil {
		return fmt.Errorf("connect container %q: %w", containerID, err)
	}
	m.announceEndpoints(events.ActionConnect, containerID, sb.rec.Endpoints...)
	if key := m.sandboxKey(sb.rec); key != "" {
		if err := linkNamespace(key, pid); err != nil {
			m.log.Warn("link network namespace", "container", containerID, "err", err)
		}
	}
	return nil
}

// ConnectNamespace is Connect for a network namespace that no container's process
// has to be in: that of a build's step. The caller keeps ns.
func (m *Manager) ConnectNamespace(ctx context.Context, id string, ns *os.File) error {
	defer m.containers.lock(id)()
	sb := m.sandbox(id)
	if sb == nil {
		return fmt.Errorf("connect %q: it has no allocation: %w", id, errdefs.ErrNotFound)
	}
	if sb.connected {
		return nil
	}
	if err := m.connect(ctx, sb, ns); err != nil {
		return fmt.Errorf("connect %q: %w", id, err)
	}
	return nil
}

func (m *Manager) connect(ctx context.Context, sb *sandbox, ns *os.File) error {
	if m.network(sb.rec.Endpoints[0].NetworkID).Network.Driver == "host" {
		sb.connected = true
		return nil
	}
	if err := notOurs(ns); err != nil {
		return err
	}
	undo := &cleanup.Stack{}
	defer undo.Run()
	x := m.exitsOf(sb.rec)
	attached := false
	for _, ep := range sb.rec.Endpoints {
		if ep.IfName == "" {
			continue
		}
		if err := m.attach(ns, sb, ep, x); err != nil {
			return err
		}
		n := m.network(ep.NetworkID)
		undo.Add(func() error { return n.driver.detach(context.WithoutCancel(ctx), ns, n, ep) })
		attached = true
	}
	if !attached {
		if err := bridge.Loopback(ns); err != nil {
			return err
		}
	}
	if err := m.startResolver(sb, ns); err != nil {
		return err
	}
	undo.Add(func() error { return m.stopResolver(sb) })
	if err := m.publish(ctx, sb); err != nil {
		return err
	}
	undo.Release()
	sb.connected = true
	return nil
}

// attach makes the link of one endpoint. x are the container's exits, which it may
// be one of.
func (m *Manager) attach(ns *os.File, sb *sandbox, ep *endpointRecord, x exits) error {
	n := m.network(ep.NetworkID)
	sysctls, err := endpointSysctls(ep.Settings, ep.IfName)
	if err != nil {
		return err
	}
	l := link{
		endpointID: ep.EndpointID,
		hostName:   ep.Link,
		name:       ep.IfName,
		mac:        net.HardwareAddr(ep.MAC),
		addrs:      append(ep.prefixes(), linkLocal(ep.Settings)...),
		sysctls:    sysctls,
		published:  len(sb.rec.Bindings) > 0,
	}
	if ep == x.v4 {
		l.gateways = append(l.gateways, ep.Gateway)
	}
	if ep == x.v6 {
		l.gateways = append(l.gateways, ep.Gateway6)
	}
	err = n.driver.attach(ns, n, l)
	if !errors.Is(err, errNotMade) {
		return err
	}
	if err := m.repair(n); err != nil {
		return err
	}
	return n.driver.attach(ns, n, l)
}

// linkLocal are the further addresses that an endpoint was asked to have.
func linkLocal(s *network.EndpointSettings) []netip.Prefix {
	if s.IPAMConfig == nil {
		return nil
	}
	var all []netip.Prefix
	for _, a := range s.IPAMConfig.LinkLocalIPs {
		bits := 16 // 169.254.0.0/16
		if a.Is6() {
			bits = 64
		}
		all = append(all, netip.PrefixFrom(a, bits))
	}
	return all
}

// publish sends the traffic of the sandbox's host ports to its exits, wherever it
// went before.
func (m *Manager) publish(ctx context.Context, sb *sandbox) error {
	x := m.exitsOf(sb.rec)
	if !x.any() || len(sb.sockets) == 0 {
		return m.unpublish(ctx, sb)
	}
	want := m.firewallPorts(sb.rec)
	if m.table != nil && !slices.Equal(want, sb.published) {
		if x.v4 != nil {
			if err := m.routeLocalnet(m.network(x.v4.NetworkID)); err != nil {
				return fmt.Errorf("allow published ports on loopback addresses: %w", err)
			}
		}
		if err := m.unpublish(ctx, sb); err != nil {
			return err
		}
		sb.published = want
		if err := m.table.Publish(ctx, want...); err != nil {
			return err
		}
		if err := firewall.ForgetUDP(want, false); err != nil {
			m.log.Warn("old UDP flows may not reach the container", "container", sb.rec.Request.ContainerID, "err", err)
		}
	}
	for _, s := range sb.sockets {
		if target := x.target(s.HostIP); target.IsValid() {
			s.Serve(target)
		}
	}
	return nil
}

// routeLocalnet lets the host's loopback addresses reach ports that a container on
// n publishes.
func (m *Manager) routeLocalnet(n *netw) error {
	if n.Bridge == "" {
		return nil
	}
	return bridge.RouteLocalnet(n.Bridge)
}

// target is the container's address that traffic for a host address is forwarded
// to: one of the same family if there is one.
func (x exits) target(hostIP netip.Addr) netip.Addr {
	if ep := x.of(hostIP); ep != nil {
		return ep.addrOf(hostIP)
	}
	if x.v4 != nil {
		return x.v4.Addr.Addr()
	}
	return x.v6.Addr6.Addr()
}

// addrOf returns the endpoint's address of the family of a.
func (ep *endpointRecord) addrOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return ep.Addr.Addr()
	}
	return ep.Addr6.Addr()
}

// unpublish takes the sandbox's ports out of the firewall.
func (m *Manager) unpublish(ctx context.Context, sb *sandbox) error {
	if m.table == nil || len(sb.published) == 0 {
		return nil
	}
	if err := m.table.Unpublish(ctx, sb.published...); err != nil {
		return err
	}
	if err := firewall.ForgetUDP(sb.published, true); err != nil {
		m.log.Warn("UDP flows to a container that is gone may linger", "container", sb.rec.Request.ContainerID, "err", err)
	}
	sb.published = nil
	return nil
}

// firewallPorts returns what of rec the firewall translates or lets pass.
func (m *Manager) firewallPorts(rec *sandboxRecord) []firewall.Port {
	x := m.exitsOf(rec)
	var ports []firewall.Port
	for _, b := range rec.Bindings {
		ep := x.of(b.HostIP)
		if b.Forward || ep == nil || !m.network(ep.NetworkID).driver.publishes() {
			continue
		}
		p := firewall.Port{Proto: protocol(b.Proto), HostIP: b.HostIP, HostPort: b.HostPort, Addr: ep.addrOf(b.HostIP), Port: b.Port}
		open := firewall.Port{Proto: p.Proto, Addr: p.Addr, Port: p.Port}
		if !b.Route {
			ports = append(ports, p)
		}
		direct := b.Route || m.cfg.DirectRouting || len(m.network(ep.NetworkID).opts.trusted) > 0
		if direct && !slices.Contains(ports, open) {
			ports = append(ports, open)
		}
	}
	return ports
}

func protocol(p network.IPProtocol) uint8 {
	switch p {
	case network.UDP:
		return unix.IPPROTO_UDP
	case network.SCTP:
		return unix.IPPROTO_SCTP
	}
	return unix.IPPROTO_TCP
}

// Release returns all that Allocate and Connect took. The addresses and ports are
// free when it returns; the links are cut off, and deleted in the background
// unless the network namespace went first. It is idempotent, and a container
// that has nothing is no error.
func (m *Manager) Release(ctx context.Context, containerID string) error {
	defer m.containers.lock(containerID)()
	sb := m.sandbox(containerID)
	if sb == nil {
		return nil
	}
	ctx = context.WithoutCancel(ctx) // half a release helps nobody
	// The name server first: it holds the namespace.
	errs := []error{m.stopResolver(sb), portmap.CloseAll(sb.sockets), m.unpublish(ctx, sb)}
	sb.sockets = nil
	if sb.connected {
		errs = append(errs, m.links.Disable(linksOf(sb.rec.Endpoints)...), m.leave(ctx, sb.rec.Endpoints))
	}
	if sb.connected {
		m.announceEndpoints(events.ActionDisconnect, containerID, sb.rec.Endpoints...)
	}
	path := m.store.sandboxPath(sb.rec.SandboxID)
	// The record is retired last: what comes before it is done again after a crash.
	errs = append(errs, m.unlinkNamespace(sb.rec), m.store.retire(path))
	m.unreserve(containerID)
	m.reap(path, linksOf(sb.rec.Endpoints))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("release network of container %q: %w", containerID, err)
	}
	return nil
}

// leave tells drivers that the container of the endpoints is gone.
func (m *Manager) leave(ctx context.Context, eps []*endpointRecord) error {
	var errs []error
	for _, ep := range eps {
		if n := m.network(ep.NetworkID); n != nil && ep.IfName != "" {
			errs = append(errs, n.driver.detach(ctx, nil, n, ep))
		}
	}
	return errors.Join(errs...)
}

func linksOf(eps []*endpointRecord) []string {
	var links []string
	for _, ep := range eps {
		if ep.Link != "" {
			links = append(links, ep.Link)
		}
	}
	return links
}

// reap deletes links and then the retired record that tells of them; "" means
// none. Close waits for it.
func (m *Manager) reap(record string, links []string) {
	m.reaper.Go(func() {
		for _, l := range links {
			if err := m.links.Detach(l); err != nil {
				m.log.Warn("delete link", "link", l, "err", err)
				return // the record stays for the next start
			}
		}
		if record == "" {
			return
		}
		if err := m.store.forget(record); err != nil {
			m.log.Warn("delete network record", "err", err)
		}
	})
}

func (m *Manager) sandbox(containerID string) *sandbox {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sandboxes[containerID]
}

// openNamespace opens the network namespace of pid.
func openNamespace(pid int) (*os.File, error) {
	if pid <= 0 {
		return nil, invalid("process ID %d is not valid", pid)
	}
	return os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
}

// notOurs refuses the host's network namespace: a container that was started in
// it by mistake must not have its links made there.
func notOurs(ns *os.File) error {
	theirs, err := ns.Stat()
	if err != nil {
		return err
	}
	ours, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	if os.SameFile(theirs, ours) {
		return fmt.Errorf("its process is in the host's network namespace: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// linkNamespace makes path lead to the network namespace of pid. It is a symbolic
// link, not a mount: nothing holds the namespace, and nothing is left to unmount.
func linkNamespace(path string, pid int) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(fmt.Sprintf("/proc/%d/ns/net", pid), path)
}

func (m *Manager) unlinkNamespace(rec *sandboxRecord) error {
	key := m.sandboxKey(rec)
	if key == "" {
		return nil
	}
	if err := os.Remove(key); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// HostGateway is what "host-gateway" means in extra hosts.
func (m *Manager) HostGateway() []netip.Addr { return m.hostGateway() }
