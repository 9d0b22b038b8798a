package network

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"lighter/engine/network/dns"
	"lighter/engine/network/etc"
)

// dnsPort is where name servers listen.
const dnsPort = 53

// needsResolver reports whether a container with these endpoints has a name
// server in its namespace: on user-defined networks.
func (m *Manager) needsResolver(rec *sandboxRecord) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(rec.Endpoints, func(ep *endpointRecord) bool { return m.networks[ep.NetworkID].hasNames() })
}

// startResolver starts the name server of a connected sandbox, unless it has one
// or needs none, and makes its names known.
func (m *Manager) startResolver(sb *sandbox, ns *os.File) error {
	m.announceNames(sb)
	if sb.resolver != nil || !m.needsResolver(sb.rec) {
		return nil
	}
	_, keepBare, err := m.internalResolvConf(&sb.rec.Request)
	if err != nil {
		return err
	}
	sb.resolver, err = dns.Listen(ns, dns.Config{
		Names:     &sb.outlook,
		Upstreams: func() []dns.Upstream { return m.upstreams(sb) },
		KeepBare:  keepBare,
		Log:       m.log.With("container", sb.rec.Request.ContainerID),
	})
	if err != nil {
		return fmt.Errorf("start name server: %w", err)
	}
	return nil
}

// stopResolver withdraws the names of a sandbox and stops its name server.
func (m *Manager) stopResolver(sb *sandbox) error {
	m.withdrawNames(sb.rec.Endpoints...)
	if sb.resolver == nil {
		return nil
	}
	err := sb.resolver.Close()
	sb.resolver = nil
	return err
}

// upstreams are the servers that a sandbox's name server asks: those that the
// container or the daemon's configuration names, in the container's network, or
// those that the host uses now. Containers that only have internal networks do
// not reach the host's (CVE-2024-29018).
func (m *Manager) upstreams(sb *sandbox) []dns.Upstream {
	m.mu.Lock()
	rec := sb.rec
	outside := m.exitsLocked(rec).any()
	m.mu.Unlock()
	servers := m.resolver(&rec.Request).Servers
	own := len(servers) > 0
	if !own {
		if !outside {
			return nil
		}
		servers = m.hostServers.read(m.cfg.ResolvConfPath)
	}
	var ups []dns.Upstream
	for _, a := range servers {
		if own && a == dns.Addr {
			continue // itself
		}
		ups = append(ups, dns.Upstream{Addr: netip.AddrPortFrom(a, dnsPort), Host: !own})
	}
	return ups
}

// resolver is what a container asks of name resolution, completed by the
// daemon's configuration.
func (m *Manager) resolver(req *Request) etc.Resolver {
	r := etc.Resolver{Servers: req.DNS, Search: req.DNSSearch, Options: req.DNSOptions}
	if len(r.Servers) == 0 {
		r.Servers = m.cfg.DNS
	}
	if len(r.Search) == 0 {
		r.Search = m.cfg.DNSSearch
	}
	if len(r.Options) == 0 {
		r.Options = m.cfg.DNSOptions
	}
	return r
}

func (m *Manager) internalResolvConf(req *Request) (conf []byte, ndots bool, err error) {
	host, err := readBounded(m.cfg.ResolvConfPath, maxHostsBytes)
	if err != nil {
		return nil, false, fmt.Errorf("read the host's resolver configuration: %w", err)
	}
	return etc.InternalResolvConf(host, m.cfg.ResolvConfPath, m.resolver(req), dns.Addr)
}

// hostServers are the name servers in the host's resolv.conf, which is read again
// when it has changed. The zero value is ready to use.
type hostServers struct {
	mu      sync.Mutex // guards the fields below; held over stat and read of one small file
	file    os.FileInfo
	checked time.Time
	servers []netip.Addr
}

// recheck is how old the knowledge about the file may be.
const recheck = 200 * time.Millisecond

func (h *hostServers) read(path string) []netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if now.Sub(h.checked) < recheck {
		return h.servers
	}
	h.checked = now
	file, err := os.Stat(path)
	if err != nil {
		return h.servers // it may be between two versions
	}
	if h.file != nil && os.SameFile(file, h.file) && file.ModTime().Equal(h.file.ModTime()) && file.Size() == h.file.Size() {
		return h.servers
	}
	if data, err := readBounded(path, maxHostsBytes); err == nil {
		h.file, h.servers = file, etc.Servers(data)
	}
	return h.servers
}

// Rename gives a container another name: on its networks, in lists and in
// errors. One that has no allocation is no error.
func (m *Manager) Rename(_ context.Context, containerID, name string) error {
	defer m.containers.lock(containerID)()
	sb := m.sandbox(containerID)
	if sb == nil {
		return nil
	}
	rec := *sb.rec
	rec.Request.Name = name
	if err := m.store.putSandbox(&rec); err != nil {
		return fmt.Errorf("rename container %q on its networks: %w", containerID, err)
	}
	m.setRecord(sb, &rec)
	if sb.connected {
		m.announceNames(sb)
	}
	return nil
}
