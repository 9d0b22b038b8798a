package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
)

// List returns the networks that filters select, by name, never nil. The filters
// are Docker's: dangling, driver, id, label, name, scope, type.
//
// Errors: InvalidArgument for an unknown filter.
func (m *Manager) List(_ context.Context, filters map[string]map[string]bool) ([]network.Inspect, error) {
	match, err := newFilter(filters)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	list := []network.Inspect{}
	for _, n := range m.networks {
		in := m.inspectLocked(n)
		if match(&in) {
			list = append(list, in)
		}
	}
	slices.SortFunc(list, func(a, b network.Inspect) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Inspect returns the network that ref means: an ID, a name, or the beginning of
// one ID.
//
// Errors: NotFound; InvalidArgument if ref is ambiguous.
func (m *Manager) Inspect(_ context.Context, ref string) (network.Inspect, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.findLocked(ref)
	if err != nil {
		return network.Inspect{}, err
	}
	return m.inspectLocked(n), nil
}

func (m *Manager) inspectLocked(n *netw) network.Inspect {
	in := network.Inspect{Network: n.Network, Containers: map[string]network.EndpointResource{}}
	in.Labels = cloneMap(n.Network.Labels)
	in.Options = cloneMap(n.Network.Options)
	in.IPAM.Config = slices.Clone(n.Network.IPAM.Config)
	for id, sb := range m.sandboxes {
		for _, ep := range sb.rec.Endpoints {
			if ep.NetworkID == n.Network.ID {
				in.Containers[id] = network.EndpointResource{
					Name: sb.rec.Request.Name, EndpointID: ep.EndpointID, MacAddress: ep.MAC, IPv4Address: ep.Addr, IPv6Address: ep.Addr6}
			}
		}
	}
	if n.driver != nil {
		subnets := network.SubnetStatuses{}
		for _, s := range n.segments() {
			subnets[s.pool.Subnet()] = network.SubnetStatus{IPsInUse: s.pool.InUse(), DynamicIPsAvailable: s.pool.Available()}
		}
		in.Status = &network.Status{IPAM: network.IPAMStatus{Subnets: subnets}}
	}
	return in
}

// isDefaultBridge reports whether n is the network that containers join who name
// none.
func (n *netw) isDefaultBridge() bool { return n.Network.Name == network.NetworkBridge }

func cloneMap(in map[string]string) map[string]string {
	out := make(map[string]string, len(in))
	for k, v := range in {
		out[k] = v
	}
	return out
}

// Create creates a network: its record, what it has on the host and its place in
// the firewall.
//
// Commit point: the record. After an error nothing is left.
// Errors: AlreadyExists for the name; PermissionDenied for predefined names, a
// subnet that overlaps another network's, and drivers that need a swarm;
// InvalidArgument; NotFound for an unknown driver; NotImplemented for what
// Docker knows and this does not.
func (m *Manager) Create(ctx context.Context, req network.CreateRequest) (network.CreateResponse, error) {
	m.repairMu.Lock()
	defer m.repairMu.Unlock()
	if err := m.inherit(&req); err != nil {
		return network.CreateResponse{}, err
	}
	if err := checkCreate(&req); err != nil {
		return network.CreateResponse{}, err
	}
	n, warnings, err := m.define(req)
	if err != nil {
		return network.CreateResponse{}, err
	}
	if err := m.store.putNetwork(&n.networkRecord); err != nil {
		return network.CreateResponse{}, fmt.Errorf("create network %s: %w", req.Name, err)
	}
	ctx = context.WithoutCancel(ctx)
	m.mu.Lock()
	m.networks[n.Network.ID] = n
	m.mu.Unlock()
	if err := m.realize(ctx, n); err != nil {
		return network.CreateResponse{}, fmt.Errorf("create network %s: %w", req.Name, joinErr(err, m.undefine(ctx, n)))
	}
	m.announce(events.ActionCreate, n)
	return network.CreateResponse{ID: n.Network.ID, Warning: strings.Join(warnings, "; ")}, nil
}

// realize makes a new network work.
func (m *Manager) realize(ctx context.Context, n *netw) error {
	if n.driver == nil {
		return nil
	}
	// The firewall before the link: no packet passes a network that is not isolated.
	if err := m.applyPolicy(ctx); err != nil {
		return err
	}
	if err := n.driver.ensure(n); err != nil {
		return err
	}
	return m.enableForwarding(ctx)
}

// joinErr adds the failure to clean up to a cause, keeping the cause's class.
func joinErr(err, cleanup error) error {
	if cleanup == nil {
		return err
	}
	return fmt.Errorf("%w (and then: %v)", err, cleanup)
}

// checkCreate refuses what is not a network of this host.
func checkCreate(req *network.CreateRequest) error {
	switch req.Name {
	case network.NetworkBridge, network.NetworkHost, network.NetworkNone, network.NetworkDefault:
		return forbidden("operation is not permitted on predefined %s network ", req.Name)
	}
	if strings.TrimSpace(req.Name) == "" {
		return invalid("invalid name: name is empty")
	}
	if len(req.Name) > 255 || strings.ContainsFunc(req.Name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '/' || r == ':' }) {
		return invalid("invalid name %q: a network's name has no slash, colon or control character", req.Name)
	}
	switch req.Driver {
	case "", network.NetworkDefault, "bridge":
		req.Driver = "bridge"
	case "host", "null":
		return forbidden("only one instance of %q network is allowed", req.Driver)
	case "overlay":
		return forbidden("This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.")
	case driverMacvlan, driverIpvlan:
	default:
		return &classed{fmt.Sprintf("could not find plugin %s in v1 plugin registry: plugin not found", req.Driver), errdefs.ErrNotFound}
	}
	switch {
	case req.Scope != "" && req.Scope != "local":
		return notImplemented("networks of scope %q are not supported", req.Scope)
	case req.Ingress:
		return forbidden("This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.")
	case req.ConfigOnly && (req.Internal || req.Attachable):
		return forbidden("configuration network can only contain network specific fields. Network operator fields like [ ingress | internal | attachable | scope ] are not supported.")
	}
	if req.IPAM == nil {
		return nil
	}
	switch d := req.IPAM.Driver; d {
	case "", "default":
	case "null":
		return invalid("IPAM driver %q has no addresses: a bridge network needs them", d)
	default:
		return &classed{fmt.Sprintf("could not find plugin %s in v1 plugin registry: plugin not found", d), errdefs.ErrNotFound}
	}
	for key := range req.IPAM.Options {
		return unknownOption("IPAM", key, nil)
	}
	return nil
}

// inherit completes req from the configuration-only network that it names.
func (m *Manager) inherit(req *network.CreateRequest) error {
	if req.ConfigFrom == nil || req.ConfigFrom.Network == "" {
		return nil
	}
	if req.ConfigOnly {
		return forbidden("a configuration network cannot depend on another configuration network")
	}
	if req.IPAM != nil && (len(req.IPAM.Config) > 0 || len(req.IPAM.Options) > 0) || req.EnableIPv6 != nil && *req.EnableIPv6 || len(req.Options) > 0 || len(req.Labels) > 0 {
		return forbidden("user specified configurations are not supported if the network depends on a configuration network")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	from, err := m.findLocked(req.ConfigFrom.Network)
	if err != nil {
		return notFound(req.ConfigFrom.Network)
	}
	if !from.Network.ConfigOnly {
		return forbidden("%s is not a configuration network", from.Network.Name)
	}
	ipam := from.Network.IPAM
	ipam.Config = slices.Clone(ipam.Config)
	four, six := from.Network.EnableIPv4, from.Network.EnableIPv6
	req.IPAM, req.EnableIPv4, req.EnableIPv6 = &ipam, &four, &six
	req.Options, req.Labels = cloneMap(from.Network.Options), cloneMap(from.Network.Labels)
	req.ConfigFrom.Network = from.Network.Name
	return nil
}

// define makes the network of a request. The caller holds repairMu, so that no
// other network takes the name or subnet meanwhile.
func (m *Manager) define(req network.CreateRequest) (n *netw, warnings []string, err error) {
	m.mu.Lock()
	taken := m.byNameLocked(req.Name) != nil
	m.mu.Unlock()
	if taken {
		return nil, nil, &classed{fmt.Sprintf("network with name %s already exists", req.Name), errdefs.ErrAlreadyExists}
	}
	opts, err := parseOptions(req.Driver, req.Options)
	if err != nil {
		return nil, nil, err
	}
	if err := opts.checkFamilies(req.Internal || req.ConfigOnly); err != nil {
		return nil, nil, err
	}
	cfg4, cfg6, err := requestedIPAM(req.IPAM)
	if err != nil {
		return nil, nil, err
	}
	want4, want6, err := wantedFamilies(&req, &opts, cfg6.Subnet.IsValid())
	if err != nil {
		return nil, nil, err
	}
	r := &networkRecord{
		Network: network.Network{
			Name: req.Name, ID: newID(), Created: time.Now().UTC(), Scope: "local", Driver: req.Driver,
			EnableIPv4: want4, EnableIPv6: want6,
			IPAM:     network.IPAM{Driver: "default", Options: map[string]string{}, Config: []network.IPAMConfig{}},
			Internal: req.Internal, Attachable: req.Attachable, ConfigOnly: req.ConfigOnly,
			Options: cloneMap(req.Options), Labels: cloneMap(req.Labels),
		},
		UserSubnet: cfg4.Subnet.IsValid(), UserSubnet6: cfg6.Subnet.IsValid(),
	}
	if req.ConfigFrom != nil {
		r.Network.ConfigFrom = *req.ConfigFrom
	}
	for _, f := range []struct {
		want bool
		cfg  *network.IPAMConfig
		addr *netip.Prefix
		ipv6 bool
	}{{want4, &cfg4, &r.Addr, false}, {want6, &cfg6, &r.Addr6, true}} {
		if !f.want {
			if f.cfg.Subnet.IsValid() {
				warnings = append(warnings, fmt.Sprintf("subnet %s is not used: the network does not have its address family", f.cfg.Subnet))
			}
			continue
		}
		if req.ConfigOnly {
			if f.cfg.Subnet.IsValid() {
				r.Network.IPAM.Config = append(r.Network.IPAM.Config, *f.cfg)
			}
			continue
		}
		warning, err := m.chooseSubnet(f.cfg, f.ipv6)
		if err != nil {
			return nil, nil, err
		}
		// Containers with links of their own on the host's are meant to be in its
		// subnets.
		if warning != "" && req.Driver == "bridge" {
			warnings = append(warnings, warning)
		}
		// The bridge has the gateway's address: it is the gateway.
		*f.addr = netip.PrefixFrom(f.cfg.Gateway, f.cfg.Subnet.Bits())
		r.Network.IPAM.Config = append(r.Network.IPAM.Config, *f.cfg)
	}
	if req.ConfigOnly {
		r.Network.Driver = "null"
		n, err = m.newNetwork(r)
		return n, warnings, err
	}
	if err := m.defineLink(r, &opts); err != nil {
		return nil, nil, err
	}
	n, err = m.newNetwork(r)
	return n, warnings, err
}

// defineLink settles what the network is made of on the host.
func (m *Manager) defineLink(r *networkRecord, opts *options) error {
	if r.Network.Driver != "bridge" {
		return m.defineParent(r, opts)
	}
	r.Bridge, r.Made = opts.name, true
	if r.Bridge == "" {
		r.Bridge = "br-" + r.Network.ID[:12]
	}
	return m.checkLink(r.Bridge)
}

// wantedFamilies settles which address families a network has. given6 says that
// the request has a subnet of IPv6.
func wantedFamilies(req *network.CreateRequest, opts *options, given6 bool) (want4, want6 bool, err error) {
	want4, want6 = true, given6
	for _, on := range []*bool{opts.enable4, req.EnableIPv4} {
		if on != nil {
			want4 = *on
		}
	}
	for _, on := range []*bool{opts.enable6, req.EnableIPv6} {
		if on != nil {
			want6 = *on
		}
	}
	if !want4 && !want6 {
		return false, false, invalid("IPv4 or IPv6 must be enabled")
	}
	return want4, want6, nil
}

// checkLink refuses the name of a link that exists.
func (m *Manager) checkLink(name string) error {
	for _, n := range m.snapshot() {
		if n.driver != nil && n.hostLink() == name {
			return forbidden("network interface name %s is already used by network %s", name, n.Network.Name)
		}
	}
	exists, err := m.links.Exists(name)
	if err != nil {
		return err
	}
	if exists {
		return conflict("a network interface named %s exists already", name)
	}
	return nil
}

// Remove removes a network that no container uses.
//
// Commit point: the record. Errors: NotFound; PermissionDenied for a predefined
// network and one that has endpoints.
func (m *Manager) Remove(ctx context.Context, ref string) error {
	m.repairMu.Lock()
	defer m.repairMu.Unlock()
	m.mu.Lock()
	n, err := m.findLocked(ref)
	if err == nil {
		err = m.removableLocked(n)
	}
	if err == nil {
		delete(m.networks, n.Network.ID) // from here on nobody can join it
	}
	m.mu.Unlock()
	if err != nil {
		return err
	}
	if err := m.undefine(context.WithoutCancel(ctx), n); err != nil {
		return fmt.Errorf("error while removing network: %w", err)
	}
	m.announce(events.ActionDestroy, n)
	return nil
}

func (m *Manager) removableLocked(n *netw) error {
	if predefined(n.Network.Name) {
		return forbidden("%s is a pre-defined network and cannot be removed", n.Network.Name)
	}
	for _, user := range m.networks {
		if n.Network.ConfigOnly && user.Network.ConfigFrom.Network == n.Network.Name {
			return forbidden("configuration network %q is in use", n.Network.Name)
		}
	}
	var active []string
	for id, sb := range m.sandboxes {
		for _, ep := range sb.rec.Endpoints {
			if ep.NetworkID == n.Network.ID {
				active = append(active, fmt.Sprintf("name:%q id:%q", ownerName(&sb.rec.Request), shortID(id)))
			}
		}
	}
	if len(active) > 0 {
		slices.Sort(active)
		return forbidden("error while removing network: network %s has active endpoints (%s)", n.Network.Name, strings.Join(active, ", "))
	}
	return nil
}

// undefine removes all traces of a network. The caller holds repairMu.
func (m *Manager) undefine(ctx context.Context, n *netw) error {
	m.mu.Lock()
	delete(m.networks, n.Network.ID)
	m.mu.Unlock()
	path := m.store.networkPath(n.Network.ID)
	if err := m.store.retire(path); err != nil {
		return err
	}
	// The link before the firewall, in the reverse order of Create. The links of
	// released containers may still be ports of it.
	if n.driver != nil {
		if err := n.driver.remove(n); err != nil {
			return err
		}
		if err := m.applyPolicy(ctx); err != nil {
			return err
		}
	}
	return m.store.forget(path)
}

// Prune removes the networks that no container uses and filters (label, label!,
// until) select, except predefined ones.
func (m *Manager) Prune(ctx context.Context, filters map[string]map[string]bool) (network.PruneReport, error) {
	match, err := newPruneFilter(filters, time.Now())
	if err != nil {
		return network.PruneReport{}, err
	}
	m.mu.Lock()
	var names []string
	for _, n := range m.networks {
		if in := m.inspectLocked(n); m.removableLocked(n) == nil && match(&in) {
			names = append(names, n.Network.Name)
		}
	}
	m.mu.Unlock()
	slices.Sort(names)
	report := network.PruneReport{}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return report, err
		}
		// One that came into use or went meanwhile is left alone.
		if err := m.Remove(ctx, name); err != nil {
			if !errdefs.IsPermissionDenied(err) && !errdefs.IsNotFound(err) {
				m.log.Warn("prune network", "network", name, "err", err)
			}
			continue
		}
		report.NetworksDeleted = append(report.NetworksDeleted, name)
	}
	return report, nil
}
