package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/moby/moby/api/types/network"

	"lighter/engine/network/bridge"
	"lighter/engine/network/firewall"
)

// driver makes the links of one kind of network. The Manager does the rest:
// records, addresses, names, published ports, and the order of it all. A network
// without a driver (host, none) has no links.
//
// Methods may be called concurrently, for the same network too.
type driver interface {
	// ensure makes what a network has on the host, or corrects it. It is called
	// when the network is made, at every start and when attach finds it missing.
	ensure(n *netw) error
	// remove removes that. Links of containers that were released may still use it.
	remove(n *netw) error
	// attach makes a container's link in the network namespace ns, up and with its
	// addresses. After an error nothing is left. Errors: errNotMade if what ensure
	// makes is missing.
	attach(ns *os.File, n *netw, l link) error
	// attached reports whether the container in ns has the link of ep.
	attached(ns *os.File, n *netw, ep *endpointRecord) (bool, error)
	// detach removes the link of ep, which may be gone. ns is nil when the
	// container is, and its links with it: then only what the driver keeps on the
	// host is removed, and what the Manager deletes itself (ep.Link) is not.
	detach(ctx context.Context, ns *os.File, n *netw, ep *endpointRecord) error
	// policy is what the firewall has to know of a network; ok is false if
	// nothing of it passes the host's firewall.
	policy(n *netw) (p firewall.Network, ok bool)
	// publishes reports whether ports of containers can be published on the host's
	// addresses.
	publishes() bool
	// traits say what differs for endpoints of the network.
	traits(n *netw) traits
}

// traits of a network's links.
type traits struct {
	hostLink bool // a link has an end on the host
	ownMAC   bool // it has a hardware address of its own
	onLink   bool // the default route leads to the link and not to a gateway
}

// link is a container's connection to a network.
type link struct {
	endpointID string
	hostName   string // of the end on the host
	name       string // in the container
	mac        net.HardwareAddr
	addrs      []netip.Prefix
	gateways   []netip.Addr // default routes, at most one per family
	sysctls    []bridge.Sysctl
	// published says that ports of the container are.
	published bool
}

// errNotMade is returned by driver.attach when somebody removed what the network
// had on the host.
var errNotMade = errors.New("network has no link on the host")

// bridgeDriver is the driver of bridge networks.
type bridgeDriver struct {
	m *Manager
}

var _ driver = bridgeDriver{}

// driverOf returns the driver of a network's record, nil for networks without
// links.
func (m *Manager) driverOf(r *networkRecord) (driver, error) {
	switch {
	case r.Network.ConfigOnly, r.Network.Driver == "host", r.Network.Driver == "null":
		return nil, nil
	}
	switch r.Network.Driver {
	case "bridge":
		return bridgeDriver{m}, nil
	case driverMacvlan, driverIpvlan:
		return childDriver{m, bridge.Kind(r.Network.Driver)}, nil
	}
	return nil, fmt.Errorf("unknown network driver %q", r.Network.Driver)
}

func (d bridgeDriver) ensure(n *netw) error {
	if d.usersLink(n) {
		return nil
	}
	br := bridge.Bridge{
		Name: n.Bridge, MTU: n.opts.mtu, FilterFrames: d.filtersFrames(n),
		MAC: bridge.MAC(n.segments()[0].addr.Addr()), IPv6: n.v6 != nil && n.v6.mode != modeIsolated,
	}
	for _, s := range n.segments() {
		if s.mode != modeIsolated && !(s == n.v4 && n.opts.inhibit4) {
			br.Addrs = append(br.Addrs, netip.PrefixFrom(s.addr.Addr(), s.addr.Bits()))
		}
	}
	created, err := d.m.links.Ensure(br)
	if created {
		d.m.log.Debug("created bridge", "network", n.Network.Name, "link", n.Bridge)
	}
	return err
}

func (d bridgeDriver) remove(n *netw) error { return d.m.links.Detach(n.Bridge) }

func (d bridgeDriver) publishes() bool { return true }

func (d bridgeDriver) traits(*netw) traits { return traits{hostLink: true, ownMAC: true} }

func (d bridgeDriver) attached(_ *os.File, _ *netw, ep *endpointRecord) (bool, error) {
	return d.m.links.Exists(ep.Link)
}

func (d bridgeDriver) detach(_ context.Context, ns *os.File, _ *netw, ep *endpointRecord) error {
	if ns == nil {
		return nil
	}
	if err := d.m.links.Disable(ep.Link); err != nil {
		return err
	}
	return d.m.links.Detach(ep.Link)
}

func (d bridgeDriver) attach(ns *os.File, n *netw, l link) error {
	err := d.m.links.Attach(ns, d.endpoint(n, l))
	if errors.Is(err, bridge.ErrNoBridge) {
		return fmt.Errorf("%w: %w", errNotMade, err)
	}
	return err
}

// endpoint is l as package bridge takes it.
func (d bridgeDriver) endpoint(n *netw, l link) bridge.Endpoint {
	return bridge.Endpoint{
		HostName: l.hostName, Name: l.name, Bridge: n.Bridge, MAC: l.mac, MTU: n.opts.mtu,
		Addrs: l.addrs, Gateways: l.gateways, Sysctls: l.sysctls,
		// With br_netfilter a container that uses its own published port gets its
		// frames back through the port they came from.
		Hairpin:  l.published,
		Isolated: !n.opts.icc && !d.filtersFrames(n),
	}
}

func (d bridgeDriver) policy(n *netw) (firewall.Network, bool) {
	p := firewall.Network{Bridge: n.Bridge, ICC: n.opts.icc, Internal: n.Network.Internal, Trusted: n.opts.trusted}
	family := func(s *segment, source netip.Addr) firewall.Family {
		if s == nil {
			return firewall.Family{}
		}
		return firewall.Family{
			Subnet:      s.addr.Masked(),
			Masquerade:  n.opts.masquerade && (s.mode == modeNAT || s.mode == modeUnprotected),
			Source:      source,
			Unprotected: s.mode == modeUnprotected,
			Routed:      s.mode == modeRouted || d.m.cfg.DirectRouting,
		}
	}
	p.V4, p.V6 = family(n.v4, n.opts.host4), family(n.v6, n.opts.host6)
	return p, true
}

// usersLink reports whether the link of n is the user's, to be used as it is.
func (d bridgeDriver) usersLink(n *netw) bool {
	return n.Network.Name == network.NetworkBridge && n.Bridge != defaultBridge
}

// filtersFrames reports whether the firewall is what keeps containers on n from
// talking to each other. The alternative is that the bridge isolates its ports,
// which also cuts the way over a published port when the kernel translates
// bridged frames.
func (d bridgeDriver) filtersFrames(n *netw) bool {
	return !n.opts.icc && d.m.table != nil && !d.usersLink(n) && d.m.canFilterFrames
}
