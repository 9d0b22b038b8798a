package network

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/network"

	"lighter/engine/network/bridge"
	"lighter/engine/network/dns"
	"lighter/engine/network/firewall"
	"lighter/engine/network/ipam"
	"lighter/engine/network/portmap"
	"lighter/internal/cleanup"
)

// Manager owns the networks of one daemon. Its methods may be called
// concurrently; those for the same container wait for each other.
type Manager struct {
	cfg   Config
	log   *slog.Logger
	store *store
	links *bridge.Links
	ports *portmap.Allocator
	table *firewall.Table // nil without a firewall

	canFilterFrames bool // as bridge.CanFilterFrames

	names       nameIndex
	hostServers hostServers

	containers keyLocks       // serialises the operations of one container
	reaper     sync.WaitGroup // removal of links, see reap
	watch      *watch

	// repairMu serialises making bridges and changing the firewall's policy.
	// Locked before mu.
	repairMu sync.Mutex

	mu        sync.Mutex // guards the fields below
	networks  map[string]*netw
	sandboxes map[string]*sandbox // by container ID
	closed    bool
}

// netw is a network. What is not guarded by Manager.mu never changes.
type netw struct {
	networkRecord
	driver driver // nil for host and none
	v4, v6 *segment
	opts   options
}

// sandbox is a container's part of the network. Its fields are guarded by the
// container's lock, except where written otherwise.
type sandbox struct {
	rec       *sandboxRecord // replaced, never changed, under Manager.mu
	sockets   []*portmap.Socket
	published []firewall.Port // as the firewall has them
	connected bool            // links were made
	resolver  *dns.Server     // nil if it needs none or was not started
	outlook   outlook         // what the resolver sees
}

func (m *Manager) newSandbox(rec *sandboxRecord) *sandbox {
	return &sandbox{rec: rec, outlook: outlook{index: &m.names}}
}

// Open reads the records in cfg.StateDir, creates or repairs the default bridge
// and builds the firewall, also for the containers of an earlier process; call
// Restore next. With no container and no user-defined network it takes a few
// milliseconds.
//
// Errors: InvalidArgument for a bad cfg; FailedPrecondition if the default
// bridge's subnet overlaps a route of the host or no free one is left.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (_ *Manager, err error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	st, err := openStore(cfg.StateDir, log)
	if err != nil {
		return nil, err
	}
	links, err := bridge.Open()
	if err != nil {
		return nil, err
	}
	undo := cleanup.Make(links.Close)
	defer undo.Run()
	m := &Manager{
		cfg:       cfg,
		log:       log,
		store:     st,
		links:     links,
		ports:     portmap.New(portmap.Config{Firewall: cfg.Firewall, Forward: cfg.UserlandProxy || cfg.RespectInput || !cfg.Firewall}),
		networks:  make(map[string]*netw),
		sandboxes: make(map[string]*sandbox),

		canFilterFrames: bridge.CanFilterFrames(),
	}
	if cfg.Firewall {
		m.table = firewall.New(tableName(cfg))
		undo.Add(m.table.Close)
	}
	undo.Add(func() error { m.reaper.Wait(); return nil })
	if err := m.loadNetworks(); err != nil {
		return nil, err
	}
	if err := m.ensurePredefined(); err != nil {
		return nil, err
	}
	m.ensureNetworks()
	if err := m.loadSandboxes(); err != nil {
		return nil, err
	}
	if err := m.openFirewall(ctx); err != nil {
		return nil, err
	}
	if err := m.enableForwarding(ctx); err != nil {
		return nil, err
	}
	if m.watch, err = m.startWatch(ctx); err != nil {
		return nil, err
	}
	undo.Release()
	return m, nil
}

// tableName tells two daemons in one network namespace apart, also if they share
// a bridge.
func tableName(cfg Config) string {
	sum := sha256.Sum256([]byte(cfg.StateDir))
	return "lighter-" + cfg.Bridge + "-" + hex.EncodeToString(sum[:4])
}

// ensureNetworks makes what networks have on the host. One that fails is tried
// again when a container needs it.
func (m *Manager) ensureNetworks() {
	for _, n := range m.networks {
		if n.driver == nil || n.isDefaultBridge() {
			continue
		}
		if err := n.driver.ensure(n); err != nil {
			m.log.Warn("network is not usable", "network", n.Network.Name, "err", err)
		}
	}
}

func (m *Manager) loadNetworks() error {
	live, gone, err := load(m.store, "networks", func(r *networkRecord) int { return r.Version })
	if err != nil {
		return err
	}
	for _, r := range gone {
		if r.Made {
			if err := m.links.Detach(r.hostLink()); err != nil {
				m.log.Warn("remove link of deleted network", "network", r.Network.Name, "err", err)
				continue
			}
		}
		if err := m.store.forget(m.store.networkPath(r.Network.ID)); err != nil {
			return err
		}
	}
	for _, r := range live {
		n, err := m.newNetwork(r)
		if err != nil {
			return fmt.Errorf("load network %q: %w", r.Network.Name, err)
		}
		m.networks[r.Network.ID] = n
	}
	return nil
}

// newNetwork returns the network of a record.
func (m *Manager) newNetwork(r *networkRecord) (n *netw, err error) {
	n = &netw{networkRecord: *r}
	if n.driver, err = m.driverOf(r); err != nil || n.driver == nil {
		return n, err
	}
	if n.opts, err = parseOptions(r.Network.Driver, r.Network.Options); err != nil {
		return nil, err
	}
	if n.v4, err = newSegment(r, r.Addr, r.UserSubnet, n.opts.mode4); err != nil {
		return nil, err
	}
	if n.v6, err = newSegment(r, r.Addr6, r.UserSubnet6, n.opts.mode6); err != nil {
		return nil, err
	}
	if len(n.segments()) == 0 {
		return nil, fmt.Errorf("it has no subnet")
	}
	return n, nil
}

// hostLink is the link on the host that the network is made of.
func (r *networkRecord) hostLink() string { return cmp.Or(r.Bridge, r.Parent) }

// ensurePredefined makes the records of host, none and bridge, and the default
// bridge itself.
func (m *Manager) ensurePredefined() error {
	for name, driver := range map[string]string{network.NetworkHost: "host", network.NetworkNone: "null"} {
		if m.byNameLocked(name) != nil {
			continue
		}
		n, err := m.newNetwork(&networkRecord{Network: network.Network{
			Name: name, ID: newID(), Created: time.Now().UTC(), Scope: "local", Driver: driver, EnableIPv4: true,
			IPAM:    network.IPAM{Driver: "default"},
			Options: map[string]string{}, Labels: map[string]string{},
		}})
		if err != nil {
			return err
		}
		if err := m.store.putNetwork(&n.networkRecord); err != nil {
			return err
		}
		m.networks[n.Network.ID] = n
	}
	if m.cfg.Bridge == disabledBridge {
		n := m.byNameLocked(network.NetworkBridge)
		if n == nil {
			return nil
		}
		if n.Made {
			if err := m.links.RemoveUnused(n.Bridge); err != nil {
				return err
			}
		}
		delete(m.networks, n.Network.ID)
		return os.Remove(m.store.networkPath(n.Network.ID))
	}
	if err := m.ensureDefaultBridge(); err != nil {
		return fmt.Errorf("create default %q network: %w", network.NetworkBridge, err)
	}
	return nil
}

func (m *Manager) ensureDefaultBridge() error {
	old := m.byNameLocked(network.NetworkBridge)
	have, exists, err := m.links.Find(m.cfg.Bridge)
	if err != nil {
		return err
	}
	own := m.cfg.Bridge == defaultBridge
	if !own && !exists {
		return invalid("bridge %q does not exist: create it or leave the default", m.cfg.Bridge)
	}
	addr, err := m.defaultSubnet(old, have)
	if err != nil {
		return err
	}
	r := &networkRecord{
		Network: network.Network{
			Name: network.NetworkBridge, ID: newID(), Created: time.Now().UTC(), Scope: "local", Driver: "bridge", EnableIPv4: true,
			IPAM: network.IPAM{Driver: "default", Config: []network.IPAMConfig{{
				Subnet: addr.Masked(), Gateway: addr.Addr(), IPRange: m.cfg.FixedCIDR}}},
			Options: defaultBridgeOptions(m.cfg),
			Labels:  map[string]string{},
		},
		Bridge: m.cfg.Bridge,
		Addr:   addr,
		Made:   own && !exists,
	}
	if gw := m.cfg.DefaultGateway; gw.IsValid() {
		if !addr.Contains(gw) {
			return invalid("default gateway %s is not within subnet %s", gw, addr.Masked())
		}
		r.Network.IPAM.Config[0].AuxAddress = map[string]netip.Addr{auxDefaultGateway: gw}
	}
	if m.cfg.IPv6 {
		if err := m.addDefaultIPv6(r, old); err != nil {
			return err
		}
	}
	if old != nil {
		r.Network.ID, r.Network.Created = old.Network.ID, old.Network.Created
		r.Made = own && (old.Made && old.Bridge == r.Bridge || !exists)
		if old.Made && old.Bridge != r.Bridge {
			if err := m.links.RemoveUnused(old.Bridge); err != nil {
				return err
			}
		}
	}
	n, err := m.newNetwork(r)
	if err != nil {
		return err
	}
	if old == nil || !equalRecords(&old.networkRecord, r) {
		if err := m.store.putNetwork(&n.networkRecord); err != nil {
			return err
		}
	}
	m.networks[r.Network.ID] = n
	return n.driver.ensure(n)
}

// addDefaultIPv6 gives the default bridge's record the IPv6 subnet that is
// configured, the one it had, or a free one.
func (m *Manager) addDefaultIPv6(r *networkRecord, old *netw) error {
	addr := m.cfg.BIP6
	switch {
	case addr.IsValid():
	case m.cfg.FixedCIDR6.IsValid():
		sub := m.cfg.FixedCIDR6.Masked()
		addr = netip.PrefixFrom(sub.Addr().Next(), sub.Bits())
	case old != nil && old.Addr6.IsValid():
		addr = old.Addr6
	default:
		cfg := network.IPAMConfig{}
		if _, err := m.chooseSubnet(&cfg, true); err != nil {
			return err
		}
		addr = netip.PrefixFrom(cfg.Gateway, cfg.Subnet.Bits())
	}
	cfg := network.IPAMConfig{Subnet: addr.Masked(), Gateway: addr.Addr(), IPRange: m.cfg.FixedCIDR6}
	if gw := m.cfg.DefaultGateway6; gw.IsValid() {
		if !addr.Contains(gw) {
			return invalid("default gateway %s is not within subnet %s", gw, addr.Masked())
		}
		cfg.AuxAddress = map[string]netip.Addr{auxDefaultGateway6: gw}
	}
	r.Network.EnableIPv6, r.Addr6 = true, addr
	r.Network.IPAM.Config = append(r.Network.IPAM.Config, cfg)
	return nil
}

// auxDefaultGateway is how Docker shows --default-gateway in a network's IPAM.
const (
	auxDefaultGateway  = "DefaultGatewayIPv4"
	auxDefaultGateway6 = "DefaultGatewayIPv6"
)

// defaultSubnet chooses the default bridge's address: the one configured, the one
// the link has, the one it had, or a free one.
func (m *Manager) defaultSubnet(old *netw, have netip.Prefix) (netip.Prefix, error) {
	if m.cfg.BIP.IsValid() {
		if m.cfg.Bridge != defaultBridge {
			return netip.Prefix{}, invalid("You specified -b & --bip, mutually exclusive options. Please specify only one.")
		}
		return m.cfg.BIP, nil
	}
	if have.IsValid() {
		return have, nil
	}
	if m.cfg.Bridge != defaultBridge {
		return netip.Prefix{}, invalid("bridge %q has no IPv4 address", m.cfg.Bridge)
	}
	taken, err := m.takenSubnets(m.snapshot(), network.NetworkBridge)
	if err != nil {
		return netip.Prefix{}, err
	}
	if old != nil && old.Addr.IsValid() && !slices.ContainsFunc(taken, old.Addr.Overlaps) {
		return old.Addr, nil
	}
	if m.cfg.FixedCIDR.IsValid() && !slices.ContainsFunc(taken, m.cfg.FixedCIDR.Overlaps) {
		sub := m.cfg.FixedCIDR.Masked()
		return netip.PrefixFrom(sub.Addr().Next(), sub.Bits()), nil
	}
	blocks, err := m.blocks(false)
	if err != nil {
		return netip.Prefix{}, err
	}
	sub, err := ipam.Choose(blocks, taken)
	if err != nil {
		return netip.Prefix{}, conflict("%v", err)
	}
	return netip.PrefixFrom(sub.Addr().Next(), sub.Bits()), nil
}

// takenSubnets returns the subnets that a new network must not overlap: those of
// networks, without the one called except, and those that the host has routes to.
func (m *Manager) takenSubnets(networks []*netw, except string) ([]netip.Prefix, error) {
	var taken []netip.Prefix
	for _, n := range networks {
		if n.Network.Name != except {
			for _, s := range n.segments() {
				taken = append(taken, s.addr.Masked())
			}
		}
	}
	routes, err := m.links.Subnets(m.bridges(networks)...)
	if err != nil {
		return nil, err
	}
	return append(taken, routes...), nil
}

// bridges are the links of networks, whose routes are no reason to keep clear.
func (m *Manager) bridges(networks []*netw) []string {
	var names []string
	for _, n := range networks {
		if n.Bridge != "" {
			names = append(names, n.Bridge)
		}
	}
	return names
}

// snapshot returns the networks in no order.
func (m *Manager) snapshot() []*netw {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.networks))
}

// repair makes what n has on the host again, which somebody removed.
func (m *Manager) repair(n *netw) error {
	m.repairMu.Lock()
	defer m.repairMu.Unlock()
	return n.driver.ensure(n)
}

// Close waits for removals that are under way and releases what the process
// holds: host ports are free for others, forwarders end. Unless keep, or if a
// container still has a sandbox, it removes the firewall table and the bridges
// that it made; network definitions stay. IP forwarding stays as it is.
func (m *Manager) Close(ctx context.Context, keep bool) error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	sandboxes := slices.Collect(maps.Values(m.sandboxes))
	networks := slices.Collect(maps.Values(m.networks))
	m.mu.Unlock()

	errs := []error{m.watch.stop()}
	m.reaper.Wait()
	for _, sb := range sandboxes {
		errs = append(errs, portmap.CloseAll(sb.sockets))
		if sb.resolver != nil {
			errs = append(errs, sb.resolver.Close())
		}
	}
	if !keep && len(sandboxes) == 0 {
		if m.table != nil {
			errs = append(errs, m.table.Remove(ctx), m.table.RemoveUserTable())
		}
		for _, n := range networks {
			if n.Made {
				errs = append(errs, m.links.RemoveUnused(n.hostLink()))
			}
		}
	}
	if m.table != nil {
		errs = append(errs, m.table.Close())
	}
	errs = append(errs, m.links.Close())
	return errors.Join(errs...)
}

// byNameLocked returns the network of that name, or nil.
func (m *Manager) byNameLocked(name string) *netw {
	for _, n := range m.networks {
		if n.Network.Name == name {
			return n
		}
	}
	return nil
}

// findLocked returns the network that ref means: an ID, a name, or the beginning of
// one ID.
func (m *Manager) findLocked(ref string) (*netw, error) {
	if ref == "" {
		return nil, invalid("invalid name: name is empty")
	}
	if n := m.networks[ref]; n != nil {
		return n, nil
	}
	if n := m.byNameLocked(ref); n != nil {
		return n, nil
	}
	var found []*netw
	for id, n := range m.networks {
		if strings.HasPrefix(id, ref) {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 0:
		return nil, notFound(ref)
	case 1:
		return found[0], nil
	}
	return nil, invalid("network %s is ambiguous (%d matches found on ID prefix)", ref, len(found))
}

// newID returns 64 random hexadecimal digits.
func newID() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// keyLocks is a mutex per key. The zero value is ready to use.
type keyLocks struct {
	mu    sync.Mutex // guards locks
	locks map[string]*keyLock
}

type keyLock struct {
	sync.Mutex
	users int // guarded by keyLocks.mu
}

// lock locks key and returns the function that unlocks it.
func (k *keyLocks) lock(key string) func() {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = make(map[string]*keyLock)
	}
	l := k.locks[key]
	if l == nil {
		l = &keyLock{}
		k.locks[key] = l
	}
	l.users++
	k.mu.Unlock()

	l.Lock()
	return func() {
		l.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, key)
		}
	}
}
