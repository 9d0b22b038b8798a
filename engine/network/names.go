package network

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// nameIndex is what the name servers of containers know: the names and addresses
// of the endpoints of user-defined networks. It is read for every query and never
// locked over anything that waits.
type nameIndex struct {
	mu       sync.RWMutex // guards networks and what is below
	networks map[string]*networkNames
}

// networkNames are the names on one network.
type networkNames struct {
	endpoints map[string]endpointNames // by endpoint ID
	byName    map[string][]string      // endpoint IDs, by name in lower case
	byAddr    map[netip.Addr]string    // endpoint ID
}

type endpointNames struct {
	names []string // the first is the container's own
	addrs []netip.Addr
}

// set makes names and addrs those of an endpoint, instead of what it had.
func (x *nameIndex) set(networkID, endpointID string, names []string, addrs []netip.Addr) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.networks == nil {
		x.networks = make(map[string]*networkNames)
	}
	x.deleteLocked(networkID, endpointID)
	n := x.networks[networkID]
	if n == nil {
		n = &networkNames{map[string]endpointNames{}, map[string][]string{}, map[netip.Addr]string{}}
		x.networks[networkID] = n
	}
	e := endpointNames{addrs: addrs}
	for _, name := range names {
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		if name != "" && !slices.Contains(e.names, name) {
			e.names = append(e.names, name)
			n.byName[name] = append(n.byName[name], endpointID)
		}
	}
	for _, a := range addrs {
		n.byAddr[a] = endpointID
	}
	n.endpoints[endpointID] = e
}

// delete forgets an endpoint.
func (x *nameIndex) delete(networkID, endpointID string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.deleteLocked(networkID, endpointID)
}

func (x *nameIndex) deleteLocked(networkID, endpointID string) {
	n := x.networks[networkID]
	if n == nil {
		return
	}
	e, ok := n.endpoints[endpointID]
	if !ok {
		return
	}
	for _, name := range e.names {
		left := slices.DeleteFunc(n.byName[name], func(id string) bool { return id == endpointID })
		if len(left) == 0 {
			delete(n.byName, name)
		} else {
			n.byName[name] = left
		}
	}
	for _, a := range e.addrs {
		if n.byAddr[a] == endpointID {
			delete(n.byAddr, a)
		}
	}
	delete(n.endpoints, endpointID)
	if len(n.endpoints) == 0 {
		delete(x.networks, networkID)
	}
}

// lookup returns the addresses of name on a network.
func (x *nameIndex) lookup(networkID, name string) (addrs []netip.Addr, known bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	n := x.networks[networkID]
	if n == nil {
		return nil, false
	}
	ids := n.byName[name]
	for _, id := range ids {
		addrs = append(addrs, n.endpoints[id].addrs...)
	}
	return addrs, len(ids) > 0
}

// reverse returns the name that addr has on a network, or "".
func (x *nameIndex) reverse(networkID string, addr netip.Addr) string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	n := x.networks[networkID]
	if n == nil {
		return ""
	}
	if names := n.endpoints[n.byAddr[addr]].names; len(names) > 0 {
		return names[0]
	}
	return ""
}

// outlook is what one container sees of the index. It is dns.Names.
type outlook struct {
	index *nameIndex
	// view is replaced when the container's networks change.
	view atomic.Pointer[[]visible]
}

// visible is a network that a container is on.
type visible struct {
	id, name string
	links    map[string]string // alias, for this container only, to a name
}

// Lookup implements dns.Names. The first network that knows the name answers;
// name.network asks that network alone.
func (o *outlook) Lookup(name string) ([]netip.Addr, bool) {
	view := *o.view.Load()
	for _, v := range view {
		if target, ok := v.links[name]; ok {
			if addrs, known := o.index.lookup(v.id, target); known {
				return addrs, true
			}
		}
		if addrs, known := o.index.lookup(v.id, name); known {
			return addrs, true
		}
	}
	for _, v := range view {
		if bare, ok := strings.CutSuffix(name, "."+strings.ToLower(v.name)); ok {
			if addrs, known := o.index.lookup(v.id, bare); known {
				return addrs, true
			}
		}
	}
	return nil, false
}

// Reverse implements dns.Names.
func (o *outlook) Reverse(addr netip.Addr) string {
	for _, v := range *o.view.Load() {
		if name := o.index.reverse(v.id, addr); name != "" {
			return name + "." + v.name
		}
	}
	return ""
}

// hasNames reports whether containers on n find each other by name.
func (n *netw) hasNames() bool { return n.driver != nil && !n.isDefaultBridge() }

// announceNames makes the names of the sandbox's endpoints known, and lets its
// own name server see the networks it is on now.
func (m *Manager) announceNames(sb *sandbox) {
	rec := sb.rec
	var view []visible
	m.mu.Lock()
	for _, ep := range m.byPreferenceLocked(rec.Endpoints) {
		n := m.networks[ep.NetworkID]
		if !n.hasNames() {
			continue
		}
		view = append(view, visible{ep.NetworkID, n.Network.Name, linkAliases(ep.Settings.Links)})
		m.names.set(ep.NetworkID, ep.EndpointID, dnsNames(&rec.Request, ep.Settings.Aliases), ep.addrs())
	}
	m.mu.Unlock()
	sb.outlook.view.Store(&view)
}

// byPreferenceLocked sorts endpoints by preference as the default gateway.
func (m *Manager) byPreferenceLocked(eps []*endpointRecord) []*endpointRecord {
	return slices.SortedFunc(slices.Values(eps), func(a, b *endpointRecord) int {
		return compareGateways(m.networks[a.NetworkID], a.Settings, m.networks[b.NetworkID], b.Settings)
	})
}

// linkAliases reads "container:alias" pairs.
func linkAliases(links []string) map[string]string {
	aliases := make(map[string]string, len(links))
	for _, l := range links {
		name, alias, ok := strings.Cut(l, ":")
		if !ok {
			alias = name
		}
		aliases[strings.ToLower(alias)] = strings.ToLower(strings.TrimPrefix(name, "/"))
	}
	return aliases
}

// withdrawNames forgets the names of endpoints.
func (m *Manager) withdrawNames(eps ...*endpointRecord) {
	for _, ep := range eps {
		m.names.delete(ep.NetworkID, ep.EndpointID)
	}
}

// addrs are the endpoint's addresses.
func (ep *endpointRecord) addrs() []netip.Addr {
	var addrs []netip.Addr
	for _, p := range ep.prefixes() {
		addrs = append(addrs, p.Addr())
	}
	return addrs
}

// prefixes are the endpoint's addresses with the length of their subnet, IPv4
// first.
func (ep *endpointRecord) prefixes() []netip.Prefix {
	var all []netip.Prefix
	for _, p := range []netip.Prefix{ep.Addr, ep.Addr6} {
		if p.IsValid() {
			all = append(all, p)
		}
	}
	return all
}
