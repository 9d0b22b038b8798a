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

	"lighter/engine/network/ipam"
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
					Name: sb.rec.Request.Name, EndpointID: ep.EndpointID, MacAddress: ep.MAC, IPv4Address: ep.Addr}
			}
		}
	}
	if n.pool != nil {
		in.Status = &network.Status{IPAM: network.IPAMStatus{Subnets: network.SubnetStatuses{
			n.pool.Subnet(): {IPsInUse: n.pool.InUse(), DynamicIPsAvailable: n.pool.Available()}}}}
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

// Create creates a bridge network: its record, its link and its place in the
// firewall.
//
// Commit point: the record. After an error nothing is left.
// Errors: AlreadyExists for the name; PermissionDenied for predefined names, a
// subnet that overlaps another network's, and drivers that need a swarm;
// InvalidArgument; NotFound for an unknown driver; NotImplemented for what
// Docker knows and this does not.
func (m *Manager) Create(ctx context.Context, req network.CreateRequest) (network.CreateResponse, error) {
	if err := checkCreate(&req); err != nil {
		return network.CreateResponse{}, err
	}
	opts, err := parseOptions(req.Options)
	if err != nil {
		return network.CreateResponse{}, err
	}
	m.repairMu.Lock()
	defer m.repairMu.Unlock()
	n, err := m.define(req, opts)
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
	// The firewall before the link: no packet passes a network that is not isolated.
	err = m.applyPolicy(ctx)
	if err == nil {
		err = m.ensureBridge(n)
	}
	if err != nil {
		return network.CreateResponse{}, fmt.Errorf("create network %s: %w", req.Name, joinErr(err, m.undefine(ctx, n)))
	}
	m.announce(events.ActionCreate, n)
	return network.CreateResponse{ID: n.Network.ID}, nil
}

// joinErr adds the failure to clean up to a cause, keeping the cause's class.
func joinErr(err, cleanup error) error {
	if cleanup == nil {
		return err
	}
	return fmt.Errorf("%w (and then: %v)", err, cleanup)
}

// checkCreate refuses what is not a bridge network of this host.
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
	case "macvlan", "ipvlan":
		return notImplemented("network driver %q is not supported yet", req.Driver)
	default:
		return &classed{fmt.Sprintf("could not find plugin %s in v1 plugin registry: plugin not found", req.Driver), errdefs.ErrNotFound}
	}
	switch {
	case req.Scope != "" && req.Scope != "local":
		return notImplemented("networks of scope %q are not supported", req.Scope)
	case req.Ingress:
		return forbidden("This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.")
	case req.ConfigOnly || req.ConfigFrom != nil && req.ConfigFrom.Network != "":
		return notImplemented("configuration-only networks are not supported yet")
	case req.EnableIPv6 != nil && *req.EnableIPv6:
		return errIPv6
	case req.EnableIPv4 != nil && !*req.EnableIPv4:
		return notImplemented("networks without IPv4 are not supported")
	}
	if req.IPAM == nil {
		return nil
	}
	if d := req.IPAM.Driver; d != "" && d != "default" {
		return notImplemented("IPAM driver %q is not supported", d)
	}
	if len(req.IPAM.Options) > 0 {
		return notImplemented("IPAM options are not supported")
	}
	return nil
}

// define makes the network of a request. The caller holds repairMu, so that no
// other network takes the name or subnet meanwhile.
func (m *Manager) define(req network.CreateRequest, opts options) (*netw, error) {
	m.mu.Lock()
	taken := m.byNameLocked(req.Name) != nil
	m.mu.Unlock()
	if taken {
		return nil, &classed{fmt.Sprintf("network with name %s already exists", req.Name), errdefs.ErrAlreadyExists}
	}
	cfg, err := requestedIPAM(req.IPAM)
	if err != nil {
		return nil, err
	}
	chosen := cfg.Subnet.IsValid()
	if err := m.chooseSubnet(&cfg); err != nil {
		return nil, err
	}
	id := newID()
	link := opts.name
	if link == "" {
		link = "br-" + id[:12]
	}
	if err := m.checkLink(link); err != nil {
		return nil, err
	}
	if req.Options == nil {
		req.Options = map[string]string{}
	}
	if req.Labels == nil {
		req.Labels = map[string]string{}
	}
	// The bridge has the gateway's address: it is the gateway.
	return newNetwork(&networkRecord{
		Network: network.Network{
			Name: req.Name, ID: id, Created: time.Now().UTC(), Scope: "local", Driver: req.Driver, EnableIPv4: true,
			IPAM:     network.IPAM{Driver: "default", Options: map[string]string{}, Config: []network.IPAMConfig{cfg}},
			Internal: req.Internal, Attachable: req.Attachable,
			Options: cloneMap(req.Options), Labels: cloneMap(req.Labels),
		},
		Bridge:     link,
		Addr:       netip.PrefixFrom(cfg.Gateway, cfg.Subnet.Bits()),
		Made:       true,
		UserSubnet: chosen,
	})
}

// requestedIPAM returns the IPv4 configuration of a request, checked.
func requestedIPAM(req *network.IPAM) (network.IPAMConfig, error) {
	if req == nil || len(req.Config) == 0 {
		return network.IPAMConfig{}, nil
	}
	if len(req.Config) > 1 {
		return network.IPAMConfig{}, notImplemented("a bridge network has one subnet, %d were given", len(req.Config))
	}
	cfg := req.Config[0]
	const bad = "invalid network config:\n"
	switch {
	case !cfg.Subnet.IsValid():
		if cfg.IPRange.IsValid() || cfg.Gateway.IsValid() || len(cfg.AuxAddress) > 0 {
			return cfg, invalid(bad + "invalid subnet : a range, gateway or address needs one")
		}
		return cfg, nil
	case cfg.Subnet.Addr().Is6():
		return cfg, errIPv6
	case cfg.Subnet != cfg.Subnet.Masked():
		return cfg, invalid(bad+"invalid subnet %s: it should be %s", cfg.Subnet, cfg.Subnet.Masked())
	case cfg.Subnet.Bits() > 30:
		return cfg, invalid(bad+"invalid subnet %s: no room for a gateway and a container", cfg.Subnet)
	case cfg.IPRange.IsValid() && (cfg.IPRange.Addr().Is6() || cfg.IPRange.Bits() < cfg.Subnet.Bits() || !cfg.Subnet.Contains(cfg.IPRange.Addr())):
		return cfg, invalid(bad+"invalid ip-range %s: parent subnet is %s", cfg.IPRange, cfg.Subnet)
	case cfg.IPRange.IsValid() && cfg.IPRange != cfg.IPRange.Masked():
		return cfg, invalid(bad+"invalid ip-range %s: it should be %s", cfg.IPRange, cfg.IPRange.Masked())
	case cfg.Gateway.IsValid() && !cfg.Subnet.Contains(cfg.Gateway):
		return cfg, invalid(bad+"invalid gateway %s: parent subnet is %s", cfg.Gateway, cfg.Subnet)
	}
	for name, a := range cfg.AuxAddress {
		if !cfg.Subnet.Contains(a) {
			return cfg, invalid(bad+"invalid auxiliary address %s (%s): parent subnet is %s", a, name, cfg.Subnet)
		}
	}
	return cfg, nil
}

// chooseSubnet fills in the subnet and gateway that cfg does not have.
func (m *Manager) chooseSubnet(cfg *network.IPAMConfig) error {
	networks := m.snapshot()
	if cfg.Subnet.IsValid() {
		// Overlapping a route of the host is the user's decision, as with Docker.
		if slices.ContainsFunc(networks, func(n *netw) bool { return n.pool != nil && n.pool.Subnet().Overlaps(cfg.Subnet) }) {
			return forbidden("invalid pool request: Pool overlaps with other one on this address space")
		}
	} else {
		taken, err := m.takenSubnets(networks, "")
		if err != nil {
			return err
		}
		if cfg.Subnet, err = ipam.Choose(m.cfg.DefaultAddressPools, taken); err != nil {
			return invalid("%v", err)
		}
	}
	if !cfg.Gateway.IsValid() {
		// The first address of the range, or of the subnet.
		from := cfg.Subnet
		if cfg.IPRange.IsValid() {
			from = cfg.IPRange
		}
		pool, err := ipam.NewPool(cfg.Subnet, from)
		if err != nil {
			return err
		}
		for _, a := range cfg.AuxAddress {
			if err := pool.Reserve(a); err != nil {
				return err
			}
		}
		if cfg.Gateway, err = pool.Take(); err != nil {
			return err
		}
	}
	return nil
}

// checkLink refuses the name of a link that exists.
func (m *Manager) checkLink(name string) error {
	for _, n := range m.snapshot() {
		if n.Bridge == name {
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
	if n.pool == nil || n.Network.Name == network.NetworkBridge {
		return forbidden("%s is a pre-defined network and cannot be removed", n.Network.Name)
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
	if err := m.links.Detach(n.Bridge); err != nil {
		return err
	}
	if err := m.applyPolicy(ctx); err != nil {
		return err
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
