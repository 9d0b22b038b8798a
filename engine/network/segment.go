package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/moby/api/types/network"

	"lighter/engine/network/ipam"
	"lighter/internal/atomicfile"
)

// segment is the part of a network in one address family.
type segment struct {
	addr   netip.Prefix // the gateway's, with the length of the subnet
	config network.IPAMConfig
	chosen bool // the user chose the subnet, and may choose addresses
	mode   gatewayMode
	pool   *ipam.Pool // guarded by Manager.mu
}

// newSegment returns the segment of a record, nil if addr is not valid.
func newSegment(r *networkRecord, addr netip.Prefix, chosen bool, mode gatewayMode) (*segment, error) {
	if !addr.IsValid() {
		return nil, nil
	}
	s := &segment{addr: addr, chosen: chosen, mode: mode}
	for _, c := range r.Network.IPAM.Config {
		if c.Subnet == addr.Masked() {
			s.config = c
		}
	}
	var err error
	if s.pool, err = ipam.NewPool(addr, s.config.IPRange); err != nil {
		return nil, err
	}
	reserved := slices.Collect(maps.Values(s.config.AuxAddress))
	reserved = append(reserved, addr.Addr(), s.config.Gateway)
	slices.SortFunc(reserved, netip.Addr.Compare)
	for _, a := range slices.Compact(reserved) {
		if !a.IsValid() {
			continue
		}
		if err := s.pool.Reserve(a); err != nil {
			return nil, fmt.Errorf("reserve %s: %w", a, err)
		}
	}
	return s, nil
}

// gateway is the default gateway of containers.
func (s *segment) gateway() netip.Addr {
	for _, aux := range []string{auxDefaultGateway, auxDefaultGateway6} {
		if gw, ok := s.config.AuxAddress[aux]; ok {
			return gw
		}
	}
	if s.config.Gateway.IsValid() {
		return s.config.Gateway
	}
	return s.addr.Addr()
}

// take reserves want, or any address if want is not valid. The caller holds
// Manager.mu.
func (s *segment) take(want netip.Addr) (netip.Prefix, error) {
	var err error
	switch {
	case !want.IsValid():
		want, err = s.pool.Take()
	case !s.chosen:
		err = errNoSubnetIP
	case !s.addr.Contains(want):
		err = invalid("no configured subnet contains IP address %s", want)
	default:
		err = s.pool.Reserve(want)
	}
	return netip.PrefixFrom(want, s.addr.Bits()), err
}

// takeAgain is take, which prefers the first of keep that is free when any address
// would do.
func (s *segment) takeAgain(want netip.Addr, keep []netip.Addr) (netip.Prefix, error) {
	if !want.IsValid() {
		for _, addr := range keep {
			if s.addr.Contains(addr) && s.pool.Reserve(addr) == nil {
				return netip.PrefixFrom(addr, s.addr.Bits()), nil
			}
		}
	}
	return s.take(want)
}

// segments returns those that n has, IPv4 first.
func (n *netw) segments() []*segment {
	return slices.DeleteFunc([]*segment{n.v4, n.v6}, func(s *segment) bool { return s == nil })
}

// of returns the segment of the address's family, which may be nil.
func (n *netw) of(a netip.Addr) *segment {
	if a.Is4() {
		return n.v4
	}
	return n.v6
}

// release frees the addresses of an endpoint. The caller holds Manager.mu.
func (n *netw) release(ep *endpointRecord) {
	for _, p := range ep.prefixes() {
		if s := n.of(p.Addr()); s != nil {
			s.pool.Release(p.Addr())
		}
	}
}

// requestedIPAM returns the configurations of a request by family, checked.
func requestedIPAM(req *network.IPAM) (v4, v6 network.IPAMConfig, err error) {
	if req == nil {
		return v4, v6, nil
	}
	const bad = "invalid network config:\n"
	for _, cfg := range req.Config {
		if !cfg.Subnet.IsValid() {
			if cfg.IPRange.IsValid() || cfg.Gateway.IsValid() || len(cfg.AuxAddress) > 0 {
				return v4, v6, invalid(bad + "invalid subnet : a range, gateway or address needs one")
			}
			continue
		}
		is4 := cfg.Subnet.Addr().Is4()
		switch {
		case cfg.Subnet != cfg.Subnet.Masked():
			return v4, v6, invalid(bad+"invalid subnet %s: it should be %s", cfg.Subnet, cfg.Subnet.Masked())
		case cfg.Subnet.Addr().BitLen()-cfg.Subnet.Bits() < 2:
			return v4, v6, invalid(bad+"invalid subnet %s: no room for a gateway and a container", cfg.Subnet)
		case cfg.IPRange.IsValid() && (cfg.IPRange.Addr().Is4() != is4 || cfg.IPRange.Bits() < cfg.Subnet.Bits() || !cfg.Subnet.Contains(cfg.IPRange.Addr())):
			return v4, v6, invalid(bad+"invalid ip-range %s: parent subnet is %s", cfg.IPRange, cfg.Subnet)
		case cfg.IPRange.IsValid() && cfg.IPRange != cfg.IPRange.Masked():
			return v4, v6, invalid(bad+"invalid ip-range %s: it should be %s", cfg.IPRange, cfg.IPRange.Masked())
		case cfg.Gateway.IsValid() && !cfg.Subnet.Contains(cfg.Gateway):
			return v4, v6, invalid(bad+"invalid gateway %s: parent subnet is %s", cfg.Gateway, cfg.Subnet)
		}
		for name, a := range cfg.AuxAddress {
			if !cfg.Subnet.Contains(a) {
				return v4, v6, invalid(bad+"invalid auxiliary address %s (%s): parent subnet is %s", a, name, cfg.Subnet)
			}
		}
		into := &v6
		if is4 {
			into = &v4
		}
		if into.Subnet.IsValid() {
			return v4, v6, forbidden("bridge driver doesn't support multiple subnets: %s and %s", into.Subnet, cfg.Subnet)
		}
		*into = cfg
	}
	return v4, v6, nil
}

// chooseSubnet fills in the subnet and gateway that cfg does not have. warning
// tells of a subnet of the user's choice that the host routes elsewhere.
func (m *Manager) chooseSubnet(cfg *network.IPAMConfig, ipv6 bool) (warning string, err error) {
	networks := m.snapshot()
	if cfg.Subnet.IsValid() {
		for _, n := range networks {
			if s := n.of(cfg.Subnet.Addr()); s != nil && s.addr.Overlaps(cfg.Subnet) {
				return "", forbidden("invalid pool request: Pool overlaps with other one on this address space: subnet %s is network %s's", s.addr.Masked(), n.Network.Name)
			}
		}
		// Overlapping a route of the host is the user's decision, as with Docker.
		routes, err := m.links.Subnets(m.bridges(networks)...)
		if err != nil {
			return "", err
		}
		if i := slices.IndexFunc(routes, cfg.Subnet.Overlaps); i >= 0 {
			warning = fmt.Sprintf("subnet %s overlaps %s, which the host has a route to: one of them will not be reachable", cfg.Subnet, routes[i])
		}
	} else {
		taken, err := m.takenSubnets(networks, "")
		if err != nil {
			return "", err
		}
		blocks, err := m.blocks(ipv6)
		if err != nil {
			return "", err
		}
		if cfg.Subnet, err = ipam.Choose(blocks, taken); err != nil {
			return "", invalid("%v", err)
		}
	}
	if cfg.Gateway.IsValid() {
		return warning, nil
	}
	// The first address of the range, or of the subnet.
	from := cfg.Subnet
	if cfg.IPRange.IsValid() {
		from = cfg.IPRange
	}
	pool, err := ipam.NewPool(cfg.Subnet, from)
	if err != nil {
		return "", err
	}
	for _, a := range cfg.AuxAddress {
		if err := pool.Reserve(a); err != nil {
			return "", err
		}
	}
	cfg.Gateway, err = pool.Take()
	return warning, err
}

// blocks are the address pools of a family: those configured, or for IPv6 one of
// unique local addresses that is this daemon's alone.
func (m *Manager) blocks(ipv6 bool) ([]ipam.Block, error) {
	blocks := slices.DeleteFunc(slices.Clone(m.cfg.DefaultAddressPools), func(b ipam.Block) bool { return b.Base.Addr().Is6() != ipv6 })
	if len(blocks) > 0 || !ipv6 {
		return blocks, nil
	}
	base, err := m.store.uniqueLocal()
	if err != nil {
		return nil, err
	}
	return []ipam.Block{{Base: base, Bits: 64}}, nil
}

// uniqueLocal returns the daemon's unique local prefix (RFC 4193 section 3.1):
// fd, 40 random bits that are kept, /48.
func (s *store) uniqueLocal() (netip.Prefix, error) {
	path := filepath.Join(s.dir, "ula")
	data, err := os.ReadFile(path)
	if err == nil {
		if p, err := netip.ParsePrefix(string(data)); err == nil && p.Addr().Is6() && p.Bits() == 48 {
			return p, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return netip.Prefix{}, fmt.Errorf("read unique local prefix: %w", err)
	}
	a := [16]byte{0xfd}
	rand.Read(a[1:6]) // never fails
	p := netip.PrefixFrom(netip.AddrFrom16(a), 48)
	if err := atomicfile.Write(path, []byte(p.String()), 0o600); err != nil {
		return netip.Prefix{}, fmt.Errorf("record unique local prefix: %w", err)
	}
	return p, nil
}
