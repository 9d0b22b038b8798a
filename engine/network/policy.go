package network

import (
	"context"
	"fmt"
	"strings"

	"lighter/engine/network/bridge"
	"lighter/engine/network/firewall"
)

// forwarding is the switch of one address family that makes the host a router.
type forwarding struct {
	file   string // of the record that we turned it on
	sysctl string // for the log
	get    func() (bool, error)
	enable func() error
}

var (
	forwarding4 = forwarding{"forwarding", "net.ipv4.ip_forward", bridge.Forwarding, bridge.EnableForwarding}
	forwarding6 = forwarding{"forwarding6", "net.ipv6.conf.all.forwarding", bridge.Forwarding6, bridge.EnableForwarding6}
)

// enableForwarding turns on forwarding for the families that networks have.
func (m *Manager) enableForwarding(ctx context.Context) error {
	if !m.cfg.IPForward {
		return nil
	}
	need4, need6 := m.cfg.Bridge != disabledBridge, false
	for _, n := range m.snapshot() {
		need4, need6 = need4 || n.v4 != nil, need6 || n.v6 != nil
	}
	for _, f := range []struct {
		forwarding
		need bool
	}{{forwarding4, need4}, {forwarding6, need6}} {
		if !f.need {
			continue
		}
		on, err := f.get()
		if err != nil {
			return fmt.Errorf("read IP forwarding: %w", err)
		}
		if on {
			continue
		}
		// The record first: a crash in between must not leave a router behind.
		if err := m.store.setEnabledForwarding(f.file); err != nil {
			return err
		}
		if err := m.applyPolicy(ctx); err != nil {
			return err
		}
		if err := f.enable(); err != nil {
			return fmt.Errorf("enable IP forwarding: %w", err)
		}
		m.log.Info("enabled IP forwarding", "sysctl", f.sysctl)
	}
	return nil
}

// openFirewall builds the table from the records, with the ports of containers
// that an earlier process left, and warns of what it cannot overrule.
func (m *Manager) openFirewall(ctx context.Context) error {
	if m.table == nil {
		return nil
	}
	if err := m.table.EnsureUserTable(); err != nil {
		return err
	}
	for _, sb := range m.sandboxes {
		sb.published = m.firewallPorts(sb.rec)
		if err := m.table.Publish(ctx, sb.published...); err != nil {
			return err
		}
	}
	if err := m.applyPolicy(ctx); err != nil {
		return err
	}
	if m.cfg.Bridge == disabledBridge {
		return nil
	}
	drop, err := m.table.ForeignDrop()
	if err != nil {
		return fmt.Errorf("list firewall chains: %w", err)
	}
	if len(drop) > 0 {
		m.log.Warn("forwarded packets are dropped by another firewall: accept those of the bridges there", "chains", strings.Join(drop, ", "))
	}
	return nil
}

// applyPolicy makes the firewall's chains those of the networks.
func (m *Manager) applyPolicy(ctx context.Context) error {
	if m.table == nil {
		return nil
	}
	p := firewall.Policy{
		AcceptMark: m.cfg.AcceptMark, AcceptMask: m.cfg.AcceptMask,
		DropForward4: !m.cfg.IPForwardNoDrop && m.store.enabledForwarding(forwarding4.file),
		DropForward6: !m.cfg.IPForwardNoDrop && m.store.enabledForwarding(forwarding6.file),
	}
	for _, n := range m.snapshot() {
		if n.driver == nil {
			continue
		}
		if np, ok := n.driver.policy(n); ok {
			p.Networks = append(p.Networks, np)
		}
	}
	return m.table.Apply(ctx, p)
}

// Reapply builds the firewall table again, after somebody flushed the ruleset. It
// is one transaction, and does no harm when nothing is missing.
func (m *Manager) Reapply(ctx context.Context) error {
	if m.table == nil {
		return nil
	}
	return m.table.Reapply(ctx)
}

// Ruleset returns the firewall table as text that nft(8) reads; "" without one.
func (m *Manager) Ruleset() string {
	if m.table == nil {
		return ""
	}
	return m.table.String()
}
