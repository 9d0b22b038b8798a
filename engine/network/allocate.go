package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"lighter/engine/network/etc"
	"lighter/engine/network/portmap"
	"lighter/internal/cleanup"
)

// Request is what a container asks of the network. The Manager does not change
// it and keeps no reference to its maps.
type Request struct {
	ContainerID string
	Name        string // without the leading slash
	Hostname    string
	DomainName  string
	// Mode is default, bridge, host, none, a network's name or ID, or
	// container:ID, which allocates nothing: such a container uses the network
	// namespace and files of the other one. "" means default.
	Mode container.NetworkMode
	// Endpoints are the networks to join by name or ID. The network of Mode is
	// joined with or without an entry here.
	Endpoints    map[string]*network.EndpointSettings
	ExposedPorts network.PortSet
	PortBindings network.PortMap
	PublishAll   bool         // publish ExposedPorts on ephemeral host ports
	DNS          []netip.Addr // nil means the daemon's or the host's, as the two below
	DNSSearch    []string
	DNSOptions   []string
	ExtraHosts   []string // "name:address"; the address may be "host-gateway"
	// MacAddress is for the endpoint of Mode, unless its settings have one.
	MacAddress network.HardwareAddr
	// Keep are addresses that the container had: where they are free it gets them
	// again, unless its settings ask for others.
	Keep []netip.Addr `json:",omitempty"`
}

// Allocation is what a container got. It is a copy, the caller's to keep.
type Allocation struct {
	SandboxID string
	// SandboxKey is a path that opens the network namespace once connected; ""
	// if Config.SandboxDir is.
	SandboxKey string
	// Endpoints by network name, complete as inspect shows them.
	Endpoints map[string]*network.EndpointSettings
	// Ports as inspect shows them: one entry per address family; nil slices for
	// ports that are exposed and not published.
	Ports network.PortMap
	// Hosts and ResolvConf are the contents of /etc/hosts and /etc/resolv.conf.
	Hosts, ResolvConf []byte
	Warnings          []string
}

// Docker's texts for what does not go together.
var (
	errHostNetwork = invalid("container cannot be disconnected from host network or connected to host network")
	errNoNetwork   = invalid("container cannot be connected to multiple networks with one of the networks in private (none) mode")
	errShared      = invalid("container sharing network namespace with another container or host cannot be connected to any other network")
	errDefaultIP   = invalid("user specified IP address is supported on user defined networks only")
	errNoSubnetIP  = invalid("user specified IP address is supported only when connecting to networks with user configured subnets")
	errAlias       = invalid("network-scoped alias is supported only for containers in user defined networks")
)

// Allocate reserves the addresses and host ports of a container that is about to
// start, and records them. Release undoes it.
//
// Errors: NotFound for a network; Conflict if the container has an allocation;
// InvalidArgument for what does not go together; those of Docker's texts for
// ports that are taken, without a class. After an error nothing is reserved.
func (m *Manager) Allocate(ctx context.Context, req Request) (_ *Allocation, err error) {
	if req.ContainerID == "" {
		return nil, invalid("container ID is empty")
	}
	if req.Mode.IsContainer() {
		if len(req.Endpoints) > 0 {
			return nil, errShared
		}
		return &Allocation{Endpoints: map[string]*network.EndpointSettings{}, Ports: network.PortMap{}}, nil
	}
	defer m.containers.lock(req.ContainerID)()

	undo := &cleanup.Stack{}
	defer undo.Run()
	sb, err := m.reserve(req)
	if err != nil {
		return nil, err
	}
	undo.Add(func() error { m.unreserve(req.ContainerID); return nil })

	alloc, err := m.files(sb.rec)
	if err != nil {
		return nil, err
	}
	if err := m.bindPorts(ctx, sb); err != nil {
		return nil, err
	}
	undo.Add(func() error { return portmap.CloseAll(sb.sockets) })
	if err := m.store.putSandbox(sb.rec); err != nil {
		return nil, fmt.Errorf("record network of container: %w", err)
	}
	undo.Release()
	m.fill(alloc, sb.rec)
	return alloc, nil
}

// reserve makes the sandbox of req with its addresses.
func (m *Manager) reserve(req Request) (*sandbox, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sandboxes[req.ContainerID] != nil {
		return nil, conflict("container %s has a network already: release it first", req.ContainerID)
	}
	wanted, err := m.wantedLocked(&req)
	if err != nil {
		return nil, err
	}
	rec := &sandboxRecord{SandboxID: newID(), Request: req}
	for _, w := range wanted {
		ep, err := m.endpointLocked(rec, w.n, w.settings)
		if err != nil {
			m.freeLocked(rec)
			return nil, err
		}
		rec.Endpoints = append(rec.Endpoints, ep)
	}
	sb := m.newSandbox(rec)
	m.sandboxes[req.ContainerID] = sb
	return sb, nil
}

// unreserve frees the addresses of a container and forgets it.
func (m *Manager) unreserve(containerID string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if sb := m.sandboxes[containerID]; sb != nil {
		m.freeLocked(sb.rec)
		delete(m.sandboxes, containerID)
	}
}

func (m *Manager) freeLocked(rec *sandboxRecord) {
	for _, ep := range rec.Endpoints {
		m.freeEndpointLocked(ep)
	}
}

func (m *Manager) freeEndpointLocked(ep *endpointRecord) {
	if n := m.networks[ep.NetworkID]; n != nil {
		n.release(ep)
	}
}

// want is a network to join.
type want struct {
	n        *netw
	settings *network.EndpointSettings // a copy, never nil
}

// wantedLocked resolves the networks of req, the one that becomes eth0 first, and
// keeps in req only what the sandbox has use for later.
func (m *Manager) wantedLocked(req *Request) ([]want, error) {
	mode := string(req.Mode)
	if mode == "" || mode == network.NetworkDefault {
		mode = network.NetworkBridge
	}
	if mode == network.NetworkBridge && m.cfg.Bridge == disabledBridge {
		mode = network.NetworkNone
	}
	own, err := m.findLocked(mode)
	if err != nil {
		return nil, err
	}
	byID := map[string]want{own.Network.ID: {own, &network.EndpointSettings{}}}
	for ref, settings := range req.Endpoints {
		if ref == network.NetworkDefault || ref == network.NetworkBridge {
			ref = mode
			if own.driver != nil {
				ref = network.NetworkBridge
			}
		}
		n, err := m.findLocked(ref)
		if err != nil {
			return nil, err
		}
		s := settings.Copy()
		if s == nil {
			s = &network.EndpointSettings{}
		}
		byID[n.Network.ID] = want{n, s}
	}
	if len(byID) > 1 {
		for _, w := range byID {
			switch w.n.Network.Driver {
			case "host":
				return nil, errHostNetwork
			case "null":
				return nil, errNoNetwork
			}
		}
	}
	if w := byID[own.Network.ID]; len(w.settings.MacAddress) == 0 {
		w.settings.MacAddress = req.MacAddress
	}
	req.Endpoints = nil // kept with the endpoints
	return slices.SortedFunc(maps.Values(byID), func(a, b want) int {
		return compareGateways(a.n, a.settings, b.n, b.settings)
	}), nil
}

// compareGateways sorts by preference as the default gateway: the highest
// priority, then by name; networks that lead nowhere last.
func compareGateways(a *netw, sa *network.EndpointSettings, b *netw, sb *network.EndpointSettings) int {
	if c := boolInt(a.Network.Internal) - boolInt(b.Network.Internal); c != 0 {
		return c
	}
	if c := cmp.Compare(sb.GwPriority, sa.GwPriority); c != 0 {
		return c
	}
	return cmp.Compare(a.Network.Name, b.Network.Name)
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// exits are the endpoints that have the default gateways of a container, which
// are also those that ports are published on; nil for a family without one.
type exits struct{ v4, v6 *endpointRecord }

// of returns the exit for addresses of the family of a.
func (x exits) of(a netip.Addr) *endpointRecord {
	if a.Is4() {
		return x.v4
	}
	return x.v6
}

// any reports whether there is a way out at all.
func (x exits) any() bool { return x.v4 != nil || x.v6 != nil }

func (m *Manager) exitsOf(rec *sandboxRecord) exits {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exitsLocked(rec)
}

func (m *Manager) exitsLocked(rec *sandboxRecord) exits {
	var x exits
	for _, ep := range m.byPreferenceLocked(rec.Endpoints) {
		if x.v4 == nil && ep.Gateway.IsValid() {
			x.v4 = ep
		}
		if x.v6 == nil && ep.Gateway6.IsValid() {
			x.v6 = ep
		}
	}
	return x
}

// bindPorts binds the host ports that the sandbox's container publishes.
func (m *Manager) bindPorts(ctx context.Context, sb *sandbox) error {
	req := &sb.rec.Request
	x := m.exitsOf(sb.rec)
	if !x.any() || len(req.PortBindings) == 0 && !req.PublishAll {
		return nil
	}
	var bindIP netip.Addr
	main := x.v4
	if main == nil {
		main = x.v6
	}
	n := m.network(main.NetworkID)
	if !n.driver.publishes() {
		return nil
	}
	bindIP = n.opts.bindIP
	if n.isDefaultBridge() && m.cfg.DefaultBindIP.IsValid() && !m.cfg.DefaultBindIP.IsUnspecified() {
		bindIP = m.cfg.DefaultBindIP
	}
	wants, err := portmap.Wants(req.PortBindings, req.ExposedPorts, req.PublishAll, bindIP)
	if err != nil || len(wants) == 0 {
		return err
	}
	for i := range wants {
		wants[i].V4, wants[i].V6 = m.way(x.v4, false), m.way(x.v6, true)
		if x.v6 == nil {
			wants[i].V6 = portmap.Forward // to the container's IPv4 address
		}
	}
	sockets, err := m.ports.Allocate(ctx, portmap.Owner{ID: req.ContainerID, Name: ownerName(req)}, wants)
	if err != nil {
		return fmt.Errorf("driver failed programming external connectivity on endpoint %s (%s): %w", ownerName(req), main.EndpointID, err)
	}
	rec := *sb.rec
	for _, s := range sockets {
		rec.Bindings = append(rec.Bindings, s.Binding)
	}
	sb.sockets = sockets
	m.setRecord(sb, &rec)
	return nil
}

// way is how traffic for host addresses of one family gets to the endpoint.
func (m *Manager) way(ep *endpointRecord, ipv6 bool) portmap.Way {
	if ep == nil {
		return portmap.None
	}
	n := m.network(ep.NetworkID)
	s := n.v4
	if ipv6 {
		s = n.v6
	}
	switch {
	case !n.driver.publishes():
		return portmap.None
	case m.table == nil, m.cfg.RespectInput && s.mode != modeRouted:
		return portmap.Forward
	case s.mode == modeRouted:
		return portmap.Route
	}
	return portmap.Translate
}

func ownerName(req *Request) string {
	if req.Name == "" {
		return shortID(req.ContainerID)
	}
	return req.Name
}

func shortID(id string) string { return id[:min(len(id), 12)] }

// setRecord replaces the record of a sandbox.
func (m *Manager) setRecord(sb *sandbox, rec *sandboxRecord) {
	m.mu.Lock()
	defer m.mu.Unlock()
	sb.rec = rec
}

// network returns the network of that ID, which an endpoint keeps from being
// removed.
func (m *Manager) network(id string) *netw {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.networks[id]
}

// fill sets what inspect shows of rec.
func (m *Manager) fill(a *Allocation, rec *sandboxRecord) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a.SandboxID = rec.SandboxID
	a.SandboxKey = m.sandboxKey(rec)
	a.Ports = network.PortMap{}
	if m.exitsLocked(rec).any() {
		a.Ports = portmap.Map(rec.Bindings, rec.Request.ExposedPorts)
	}
	a.Endpoints = make(map[string]*network.EndpointSettings, len(rec.Endpoints))
	for _, ep := range rec.Endpoints {
		n := m.networks[ep.NetworkID]
		s := ep.Settings.Copy()
		s.NetworkID, s.EndpointID = ep.NetworkID, ep.EndpointID
		if n.driver != nil {
			s.Gateway, s.IPv6Gateway = ep.Gateway, ep.Gateway6
			if ep.Addr.IsValid() {
				s.IPAddress, s.IPPrefixLen = ep.Addr.Addr(), ep.Addr.Bits()
			}
			if ep.Addr6.IsValid() {
				s.GlobalIPv6Address, s.GlobalIPv6PrefixLen = ep.Addr6.Addr(), ep.Addr6.Bits()
			}
			s.MacAddress = slices.Clone(ep.MAC)
			if n.hasNames() {
				s.DNSNames = dnsNames(&rec.Request, s.Aliases)
			}
		}
		a.Endpoints[n.Network.Name] = s
	}
}

// dnsNames are the names that a container has on a user-defined network.
func dnsNames(req *Request, aliases []string) []string {
	var names []string
	for _, n := range slices.Concat([]string{req.Name}, aliases, []string{shortID(req.ContainerID), req.Hostname}) {
		if n != "" && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

// sandboxKey is the path of the link to the network namespace.
func (m *Manager) sandboxKey(rec *sandboxRecord) string {
	if m.cfg.SandboxDir == "" {
		return ""
	}
	return filepath.Join(m.cfg.SandboxDir, shortID(rec.SandboxID))
}

// maxHostsBytes bounds what is copied of the host's /etc/hosts.
const maxHostsBytes = 1 << 20

// files generates /etc/hosts and /etc/resolv.conf.
func (m *Manager) files(rec *sandboxRecord) (*Allocation, error) {
	a := &Allocation{}
	req := &rec.Request
	host := m.network(rec.Endpoints[0].NetworkID).Network.Driver == "host"
	if host && len(req.PortBindings) > 0 {
		a.Warnings = append(a.Warnings, "Published ports are discarded when using host network mode")
	}
	var err error
	if host && len(req.ExtraHosts) == 0 {
		if a.Hosts, err = readBounded(m.cfg.HostsPath, maxHostsBytes); err != nil {
			return nil, fmt.Errorf("read the host's names: %w", err)
		}
	} else {
		var records []etc.Record
		for _, x := range req.ExtraHosts {
			r, err := etc.ParseExtra(x, m.hostGateway())
			if err != nil {
				return nil, err
			}
			records = append(records, r...)
		}
		if names := etc.OwnNames(req.Hostname, req.DomainName); names != nil {
			for _, ep := range rec.Endpoints {
				for _, a := range ep.addrs() {
					records = append(records, etc.Record{Addr: a, Names: names})
				}
			}
		}
		if a.Hosts, err = etc.Hosts(records); err != nil {
			return nil, err
		}
	}

	if m.needsResolver(rec) {
		a.ResolvConf, _, err = m.internalResolvConf(req)
		return a, err
	}
	r := m.resolver(req)
	path := m.cfg.ResolvConfPath
	conf, err := readBounded(path, maxHostsBytes)
	if err != nil {
		return nil, fmt.Errorf("read the host's resolver configuration: %w", err)
	}
	if host {
		a.ResolvConf, err = etc.HostResolvConf(conf, path, r)
		return a, err
	}
	if etc.UsesSystemdStub(conf) {
		if real, err := readBounded(etc.SystemdStub, maxHostsBytes); err == nil && real != nil {
			path, conf = etc.SystemdStub, real
		}
	}
	var usedDefault bool
	a.ResolvConf, usedDefault, err = etc.ResolvConf(conf, path, r, m.exitsOf(rec).v6 != nil)
	if usedDefault {
		m.log.Debug("no usable name server on the host, using public ones", "container", req.ContainerID)
	}
	return a, err
}

// hostGateway is what "host-gateway" means.
func (m *Manager) hostGateway() []netip.Addr {
	if m.cfg.HostGatewayIPs != nil {
		return m.cfg.HostGatewayIPs
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var addrs []netip.Addr
	if n := m.byNameLocked(network.NetworkBridge); n != nil {
		for _, s := range n.segments() {
			addrs = append(addrs, s.addr.Addr())
		}
	}
	return addrs
}

// readBounded reads a file of the host, at most limit bytes of it. One that does
// not exist is empty.
func readBounded(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, 0, 4096)
	for len(buf) < limit {
		buf = slices.Grow(buf, 1)
		n, err := f.Read(buf[len(buf):min(cap(buf), limit)])
		buf = buf[:len(buf)+n]
		if n == 0 || err != nil {
			break
		}
	}
	return buf, nil
}
