package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"lighter/engine/network/portmap"
)

// loadSandboxes reads the sandboxes of an earlier process and takes their
// addresses. Which of them still live is for Restore to say.
func (m *Manager) loadSandboxes() error {
	live, gone, err := load(m.store, "sandboxes", func(r *sandboxRecord) int { return r.Version })
	if err != nil {
		return err
	}
	for _, r := range gone {
		m.reap(m.store.sandboxPath(r.SandboxID), linksOf(r.Endpoints))
	}
	for _, r := range live {
		id := r.Request.ContainerID
		if id == "" || m.sandboxes[id] != nil || !m.adopt(r) {
			m.log.Warn("drop network record that fits no network", "container", id)
			if err := m.store.retire(m.store.sandboxPath(r.SandboxID)); err != nil {
				return err
			}
			m.reap(m.store.sandboxPath(r.SandboxID), linksOf(r.Endpoints))
			continue
		}
		sb := m.newSandbox(r)
		sb.connected = true
		m.sandboxes[id] = sb
	}
	return nil
}

// adopt takes the addresses of r, all or none.
func (m *Manager) adopt(r *sandboxRecord) bool {
	for i, ep := range r.Endpoints {
		n := m.networks[ep.NetworkID]
		ok := n != nil && ep.Settings != nil && (n.driver == nil) == (ep.IfName == "") && n.reserve(ep)
		if !ok {
			for _, taken := range r.Endpoints[:i] {
				m.freeEndpointLocked(taken)
			}
			return false
		}
	}
	return true
}

// reserve takes the addresses of ep, all or none.
func (n *netw) reserve(ep *endpointRecord) bool {
	for i, p := range ep.prefixes() {
		s := n.of(p.Addr())
		if s == nil || s.addr.Bits() != p.Bits() || s.pool.Reserve(p.Addr()) != nil {
			for _, taken := range ep.prefixes()[:i] {
				n.of(taken.Addr()).pool.Release(taken.Addr())
			}
			return false
		}
	}
	return true
}

// Restore ends the recovery that Open began. Containers in live, by ID with the
// pid of a process in their network namespace, keep what they have: their host
// ports are bound again, and links that are missing are made. What all others
// had is released.
//
// A container that cannot be restored keeps running as it is; the error says what
// it misses.
func (m *Manager) Restore(ctx context.Context, live map[string]int) error {
	m.mu.Lock()
	var dead []string
	for id := range m.sandboxes {
		if _, ok := live[id]; !ok {
			dead = append(dead, id)
		}
	}
	m.mu.Unlock()
	slices.Sort(dead)
	var errs []error
	for _, id := range dead {
		errs = append(errs, m.Release(ctx, id))
	}
	for id, pid := range live {
		if err := m.restore(ctx, id, pid); err != nil {
			errs = append(errs, fmt.Errorf("restore network of container %q: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) restore(ctx context.Context, id string, pid int) error {
	defer m.containers.lock(id)()
	sb := m.sandbox(id)
	if sb == nil || len(sb.sockets) > 0 {
		return nil // in another container's network, or restored already
	}
	ns, err := openNamespace(pid)
	if err != nil {
		return err
	}
	defer ns.Close()
	x := m.exitsOf(sb.rec)
	var errs []error
	for _, ep := range sb.rec.Endpoints {
		if ep.IfName == "" {
			continue
		}
		n := m.network(ep.NetworkID)
		ok, err := n.driver.attached(ns, n, ep)
		if err == nil && !ok {
			m.log.Warn("container's link is missing, making it again", "container", id, "link", ep.IfName)
			err = m.attach(ns, sb, ep, x)
		}
		errs = append(errs, err)
	}
	errs = append(errs, m.startResolver(sb, ns), m.bindAgain(ctx, sb), m.publish(ctx, sb))
	if key := m.sandboxKey(sb.rec); key != "" {
		if _, err := os.Lstat(key); err != nil {
			errs = append(errs, linkNamespace(key, pid))
		}
	}
	return errors.Join(errs...)
}

// bindAgain binds the host ports of a restored sandbox. One that another program
// took in the meantime stays published, for its traffic never was that program's.
func (m *Manager) bindAgain(ctx context.Context, sb *sandbox) error {
	owner := portmap.Owner{ID: sb.rec.Request.ContainerID, Name: ownerName(&sb.rec.Request)}
	var errs []error
	for _, b := range sb.rec.Bindings {
		s, err := m.ports.Bind(ctx, owner, []portmap.Binding{b})
		sb.sockets = append(sb.sockets, s...)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
