package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"lighter/engine/network/bridge"
	"lighter/engine/network/firewall"
)

// Drivers whose containers have links that share one of the host's. Nothing of
// their traffic passes the host's firewall, and the host itself does not reach
// them: that is how the kernel makes these links.
const (
	driverMacvlan = "macvlan"
	driverIpvlan  = "ipvlan"
)

// childDriver is the driver of macvlan and ipvlan networks.
type childDriver struct {
	m    *Manager
	kind bridge.Kind
}

var _ driver = childDriver{}

// Modes as users give them.
var (
	macvlanModes = map[string]uint32{
		"private":  uint32(nl.MACVLAN_MODE_PRIVATE),
		"vepa":     uint32(nl.MACVLAN_MODE_VEPA),
		"bridge":   uint32(nl.MACVLAN_MODE_BRIDGE),
		"passthru": uint32(nl.MACVLAN_MODE_PASSTHRU),
	}
	ipvlanModes = map[string]uint32{
		"l2": uint32(netlink.IPVLAN_MODE_L2), "l3": uint32(netlink.IPVLAN_MODE_L3), "l3s": uint32(netlink.IPVLAN_MODE_L3S),
	}
	ipvlanFlags = map[string]uint16{
		"bridge": uint16(netlink.IPVLAN_FLAG_BRIDGE), "private": uint16(netlink.IPVLAN_FLAG_PRIVATE), "vepa": uint16(netlink.IPVLAN_FLAG_VEPA),
	}
)

// defineParent settles which link of the host a network's links share, and whether
// it is to be made: a VLAN of a link that exists (eth0.10), or one that leads
// nowhere for a network without a parent.
func (m *Manager) defineParent(r *networkRecord, opts *options) error {
	r.Parent = opts.parent
	if r.Parent == "" {
		r.Parent, r.Made = "dm-"+r.Network.ID[:12], true
		return nil
	}
	if r.Network.Internal {
		return invalid("an internal %s network has no parent interface: leave out option parent", r.Network.Driver)
	}
	for _, n := range m.snapshot() {
		if n.Parent == r.Parent && n.Network.Driver == driverMacvlan && r.Network.Driver == driverMacvlan {
			return forbidden("network %s is already using parent interface %s", n.Network.Name, r.Parent)
		}
		if n.Parent == r.Parent && n.Network.Driver != r.Network.Driver {
			return forbidden("network %s of driver %s is already using parent interface %s", n.Network.Name, n.Network.Driver, r.Parent)
		}
	}
	if r.Parent == "lo" {
		return invalid("loopback interface is not a valid %s parent link", r.Network.Driver)
	}
	exists, err := m.links.Exists(r.Parent)
	if err != nil || exists {
		return err
	}
	under, _, err := vlanOf(r.Parent)
	if err != nil {
		return err
	}
	if exists, err = m.links.Exists(under); err == nil && !exists {
		err = invalid("invalid option parent: neither interface %s nor interface %s exists", r.Parent, under)
	}
	r.Made = true
	return err
}

// vlanOf reads a name like eth0.10.
func vlanOf(name string) (parent string, id int, err error) {
	i := strings.LastIndexByte(name, '.')
	if i <= 0 {
		return "", 0, invalid("invalid option parent: interface %s does not exist", name)
	}
	id, err = strconv.Atoi(name[i+1:])
	if err != nil || id < 1 || id > 4094 {
		return "", 0, invalid("invalid option parent: %s is neither an interface nor a VLAN of one: its number is not between 1 and 4094", name)
	}
	return name[:i], id, nil
}

func (d childDriver) ensure(n *netw) error {
	if err := d.m.links.Supports(d.kind); err != nil {
		return err
	}
	exists, err := d.m.links.Exists(n.Parent)
	if err != nil || exists {
		return err
	}
	if !n.Made {
		return invalid("parent interface %s of network %s does not exist", n.Parent, n.Network.Name)
	}
	if n.opts.parent == "" {
		return d.m.links.MakeDummy(n.Parent)
	}
	parent, id, err := vlanOf(n.Parent)
	if err != nil {
		return err
	}
	return d.m.links.MakeVLAN(n.Parent, parent, id)
}

func (d childDriver) remove(n *netw) error {
	if !n.Made {
		return nil
	}
	return d.m.links.Detach(n.Parent)
}

func (d childDriver) attach(ns *os.File, n *netw, l link) error {
	c := bridge.Child{
		Kind: d.kind, Parent: n.Parent, Mode: n.opts.childMode, Flag: n.opts.childFlag,
		Endpoint: bridge.Endpoint{
			Name: l.name, MAC: l.mac, MTU: n.opts.mtu, Addrs: l.addrs, Gateways: l.gateways,
			OnLink: d.traits(n).onLink, Sysctls: l.sysctls,
		},
	}
	if !n.opts.mtuGiven {
		c.MTU = 0 // the parent's
	}
	if d.kind == bridge.Ipvlan || n.opts.childMode == macvlanModes["passthru"] {
		c.MAC = nil
	}
	err := d.m.links.AttachChild(ns, c)
	if errors.Is(err, bridge.ErrNoParent) {
		return fmt.Errorf("%w: %w", errNotMade, err)
	}
	return err
}

func (d childDriver) attached(ns *os.File, _ *netw, ep *endpointRecord) (bool, error) {
	return bridge.ExistsIn(ns, ep.IfName)
}

func (d childDriver) detach(_ context.Context, ns *os.File, _ *netw, ep *endpointRecord) error {
	if ns == nil {
		return nil
	}
	return bridge.DetachIn(ns, ep.IfName)
}

func (d childDriver) policy(*netw) (firewall.Network, bool) { return firewall.Network{}, false }

func (d childDriver) publishes() bool { return false }

func (d childDriver) traits(n *netw) traits {
	return traits{
		ownMAC: d.kind == bridge.Macvlan,
		onLink: d.kind == bridge.Ipvlan && n.opts.childMode != ipvlanModes["l2"],
	}
}

// Options of the two drivers, beside those of all.
var (
	optionParent   = func(o *options, v string) error { o.parent = v; return checkLinkName(v) }
	macvlanOptions = map[string]func(o *options, value string) error{
		"parent":       optionParent,
		"macvlan_mode": modeOption(macvlanModes),
	}
	ipvlanOptions = map[string]func(o *options, value string) error{
		"parent":      optionParent,
		"ipvlan_mode": modeOption(ipvlanModes),
		"ipvlan_flag": func(o *options, v string) error {
			flag, ok := ipvlanFlags[v]
			o.childFlag = flag
			return oneOf(v, ok, slices.Sorted(maps.Keys(ipvlanFlags)))
		},
	}
)

func modeOption(modes map[string]uint32) func(*options, string) error {
	return func(o *options, v string) error {
		mode, ok := modes[v]
		o.childMode = mode
		return oneOf(v, ok, slices.Sorted(maps.Keys(modes)))
	}
}

func oneOf(v string, ok bool, known []string) error {
	if ok {
		return nil
	}
	return invalid("it is one of %s", strings.Join(known, ", "))
}
