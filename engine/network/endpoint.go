package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"

	"lighter/engine/network/bridge"
)

// endpointLocked reserves an endpoint of n for the sandbox.
func (m *Manager) endpointLocked(rec *sandboxRecord, n *netw, s *network.EndpointSettings) (*endpointRecord, error) {
	ep := &endpointRecord{NetworkID: n.Network.ID, EndpointID: newID(), Settings: s}
	ipam := s.IPAMConfig
	if ipam == nil {
		ipam = &network.EndpointIPAMConfig{}
	}
	switch {
	case n.Network.ConfigOnly:
		return nil, forbidden("network %s is a configuration network: containers cannot join it", n.Network.Name)
	case !n.hasNames() && (ipam.IPv4Address.IsValid() || ipam.IPv6Address.IsValid()):
		return nil, errDefaultIP
	case !n.hasNames() && len(s.Aliases) > 0:
		return nil, errAlias
	case ipam.IPv4Address.IsValid() && (n.v4 == nil || !ipam.IPv4Address.Is4()), ipam.IPv6Address.IsValid() && (n.v6 == nil || !ipam.IPv6Address.Is6()):
		return nil, errNoSubnetIP
	}
	for _, a := range ipam.LinkLocalIPs {
		if !a.IsLinkLocalUnicast() || a.Zone() != "" {
			return nil, invalid("invalid link-local IP address %s", a)
		}
	}
	if n.driver == nil {
		return ep, nil
	}
	var err error
	if ep.IfName, err = interfaceName(rec, n, s); err != nil {
		return nil, err
	}
	if _, err := endpointSysctls(s, ep.IfName); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		segment *segment
		want    netip.Addr
		addr    *netip.Prefix
		gateway *netip.Addr
	}{{n.v4, ipam.IPv4Address, &ep.Addr, &ep.Gateway}, {n.v6, ipam.IPv6Address, &ep.Addr6, &ep.Gateway6}} {
		if f.segment == nil {
			continue
		}
		addr, err := f.segment.takeAgain(f.want, rec.Request.Keep)
		if err != nil {
			n.release(ep)
			return nil, fmt.Errorf("allocate address on network %s: %w", n.Network.Name, err)
		}
		*f.addr = addr
		if !n.Network.Internal && f.segment.mode != modeIsolated {
			*f.gateway = f.segment.gateway()
		}
	}
	tr := n.driver.traits(n)
	if tr.hostLink {
		ep.Link = "veth" + ep.EndpointID[:maxNameBytes-len("veth")]
	}
	if !tr.ownMAC {
		if len(s.MacAddress) > 0 {
			n.release(ep)
			return nil, invalid("links of driver %s have no hardware address of their own: leave out the MAC address", n.Network.Driver)
		}
		return ep, nil
	}
	if ep.MAC, err = hardwareAddr(s, ep); err != nil {
		n.release(ep)
		return nil, err
	}
	return ep, nil
}

// hardwareAddr is that which was asked for, or follows from the first IP address.
func hardwareAddr(s *network.EndpointSettings, ep *endpointRecord) (network.HardwareAddr, error) {
	switch {
	case len(s.MacAddress) == 0:
		return network.HardwareAddr(bridge.MAC(ep.addrs()[0])), nil
	case len(s.MacAddress) != 6:
		return nil, invalid("invalid MAC address: %s", s.MacAddress)
	case s.MacAddress[0]&1 != 0:
		return nil, invalid("invalid MAC address: %s is a multicast address", s.MacAddress)
	}
	return s.MacAddress, nil
}

// endpointSysctls reads the settings that a user wants for the endpoint's link,
// which is IFNAME in them.
func endpointSysctls(s *network.EndpointSettings, ifName string) ([]bridge.Sysctl, error) {
	value, ok := s.DriverOpts[optEndpointSysctls]
	if !ok {
		return nil, nil
	}
	var list []bridge.Sysctl
	for setting := range strings.SplitSeq(value, ",") {
		key, v, ok := strings.Cut(setting, "=")
		parts := strings.Split(key, ".")
		bad := !ok || v == "" || len(parts) != 5 || parts[0] != "net" || parts[3] != "IFNAME" || strings.ContainsAny(key, "/ ") ||
			!slices.Contains([]string{"ipv4", "ipv6", "mpls"}, parts[1]) || !slices.Contains([]string{"conf", "neigh", "input"}, parts[2]) ||
			strings.Trim(parts[4], ".") == ""
		if parts[0] == "net" && len(parts) == 4 && parts[1] == "mpls" && parts[2] == "IFNAME" || !bad {
			path := strings.Replace(strings.Join(parts, "/"), "IFNAME", ifName, 1)
			list = append(list, bridge.Sysctl{Key: path, Value: v})
			continue
		}
		return nil, invalid("invalid value %q for option %s: settings are like net.ipv4.conf.IFNAME.log_martians=1, separated by commas", setting, optEndpointSysctls)
	}
	return list, nil
}

// interfaceName chooses the name of an endpoint's link in the container.
func interfaceName(rec *sandboxRecord, n *netw, s *network.EndpointSettings) (string, error) {
	taken := func(name string) bool {
		return name == "lo" || slices.ContainsFunc(rec.Endpoints, func(e *endpointRecord) bool { return e.IfName == name })
	}
	for key := range s.DriverOpts {
		if known := []string{optEndpointLink, optEndpointSysctls}; !slices.Contains(known, key) {
			return "", unknownOption("endpoint", key, known)
		}
	}
	if name, ok := s.DriverOpts[optEndpointLink]; ok {
		if err := checkLinkName(name); err != nil {
			return "", err
		}
		if taken(name) {
			return "", invalid("network interface name %q is used twice", name)
		}
		return name, nil
	}
	for i := 0; ; i++ {
		if name := n.opts.ifPrefix + strconv.Itoa(i); !taken(name) {
			return name, nil
		}
	}
}
