package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"lighter/engine/network/bridge"
	"lighter/engine/network/firewall"
)

// repairPause is the least time between two repairs of the same kind, should
// somebody undo them as fast as they are made.
const repairPause = 100 * time.Millisecond

// watch keeps the host as the records say: it makes again what others remove. It
// is one of the Manager's parts, and ended by stop.
type watch struct {
	links    *bridge.Watcher
	firewall *firewall.Watcher // nil without a firewall
	end      context.CancelFunc
	running  sync.WaitGroup
}

// startWatch starts the repair of what others remove from now on.
func (m *Manager) startWatch(ctx context.Context) (_ *watch, err error) {
	w := &watch{}
	if w.links, err = bridge.Watch(); err != nil {
		return nil, err
	}
	if m.table != nil {
		if w.firewall, err = m.table.Watch(); err != nil {
			return nil, errors.Join(err, w.links.Close())
		}
	}
	// The watch's own lifetime: Open's caller may be done long before.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	w.end = end
	w.running.Go(func() { m.watchLinks(life, w.links) })
	if w.firewall != nil {
		w.running.Go(func() { m.watchFirewall(life, w.firewall) })
	}
	return w, nil
}

// stop ends the watch and waits for a repair that is under way.
func (w *watch) stop() error {
	w.end()
	err := w.links.Close()
	if w.firewall != nil {
		err = errors.Join(err, w.firewall.Close())
	}
	w.running.Wait()
	return err
}

func (m *Manager) watchFirewall(ctx context.Context, w *firewall.Watcher) {
	for {
		removed, err := w.Wait()
		if err != nil {
			m.log.Error("changes of the firewall by others are no longer noticed: restart the daemon", "err", err)
			return
		}
		if !removed || ctx.Err() != nil {
			return
		}
		if err := m.Reapply(ctx); err != nil {
			m.log.Error("restore firewall", "err", err)
		} else {
			m.log.Warn("restored the firewall, of which somebody had removed something")
		}
		pause(ctx, repairPause)
	}
}

func (m *Manager) watchLinks(ctx context.Context, w *bridge.Watcher) {
	told := make(map[string]bool) // overlaps
	for {
		change, err := w.Wait()
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			m.log.Error("changes of links by others are no longer noticed: restart the daemon", "err", err)
			return
		}
		if change.Removed != "" || change.Missed {
			for _, n := range m.snapshot() {
				if n.driver != nil && n.Bridge != "" && (change.Missed || n.Bridge == change.Removed) {
					m.restoreBridge(n)
				}
			}
		}
		if change.Routes || change.Missed {
			overlaps, err := m.overlaps()
			if err != nil {
				m.log.Warn("look for routes that overlap networks", "err", err)
			}
			now := make(map[string]bool, len(overlaps))
			for _, o := range overlaps {
				if now[o] = true; !told[o] {
					m.log.Warn(o)
				}
			}
			told = now
		}
	}
}

// restoreBridge makes the bridge of n again, which somebody deleted, and joins the
// links of running containers to it.
func (m *Manager) restoreBridge(n *netw) {
	m.repairMu.Lock()
	defer m.repairMu.Unlock()
	m.mu.Lock()
	gone := m.closed || m.networks[n.Network.ID] != n
	ports := map[string]bool{} // links, and whether their containers publish
	for _, sb := range m.sandboxes {
		for _, ep := range sb.rec.Endpoints {
			if ep.NetworkID == n.Network.ID && sb.connected {
				ports[ep.Link] = len(sb.rec.Bindings) > 0
			}
		}
	}
	m.mu.Unlock()
	if exists, err := m.links.Exists(n.Bridge); gone || err == nil && exists {
		return
	}
	d, ok := n.driver.(bridgeDriver)
	if !ok || d.usersLink(n) {
		return
	}
	errs := []error{d.ensure(n)}
	anyPublished := false
	for name, published := range ports {
		anyPublished = anyPublished || published
		if exists, err := m.links.Exists(name); err != nil || !exists {
			continue // with its container
		}
		errs = append(errs, m.links.Rejoin(d.endpoint(n, link{hostName: name, published: published})))
	}
	if anyPublished {
		errs = append(errs, m.routeLocalnet(n))
	}
	if err := errors.Join(errs...); err != nil {
		m.log.Error("restore bridge", "network", n.Network.Name, "link", n.Bridge, "err", err)
		return
	}
	m.log.Warn("restored a bridge that somebody had deleted", "network", n.Network.Name, "link", n.Bridge)
}

// overlaps describes the routes of the host that hide a network's subnet, or a part
// of it, or the reverse.
func (m *Manager) overlaps() ([]string, error) {
	networks := m.snapshot()
	routes, err := m.links.Subnets(m.bridges(networks)...)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, n := range networks {
		if n.Bridge == "" {
			continue
		}
		for _, s := range n.segments() {
			if i := slices.IndexFunc(routes, func(r netip.Prefix) bool { return s.addr.Overlaps(r) }); i >= 0 {
				found = append(found, fmt.Sprintf("subnet %s of network %s overlaps %s, which the host has a route to: one of them is not reachable",
					s.addr.Masked(), n.Network.Name, routes[i]))
			}
		}
	}
	slices.Sort(found)
	return found, nil
}

// Warnings says what of the host's configuration keeps networks from working, or
// from being as safe as the administrator may think.
func (m *Manager) Warnings() []string {
	warnings, err := m.overlaps()
	if err != nil {
		m.log.Warn("look for routes that overlap networks", "err", err)
	}
	for i := range warnings {
		warnings[i] = "WARNING: " + warnings[i]
	}
	if m.table == nil || m.cfg.RespectInput || !m.publishes() {
		return warnings
	}
	chains, err := m.table.InputChains()
	if err != nil {
		m.log.Warn("look for the host's firewall", "err", err)
	}
	for _, c := range chains {
		warnings = append(warnings, "WARNING: published ports are reachable whatever the host's firewall says (chain "+c+"): firewall-mode=respect makes them obey it")
	}
	return warnings
}

// publishes reports whether a container publishes a port that the firewall
// translates.
func (m *Manager) publishes() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, sb := range m.sandboxes {
		for _, b := range sb.rec.Bindings {
			if !b.Forward && !b.HostIP.IsLoopback() {
				return true
			}
		}
	}
	return false
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
