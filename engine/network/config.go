package network

import (
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"lighter/engine/network/ipam"
)

// Config is how a Manager behaves. Start from DefaultConfig: the zero value of
// the booleans turns features off that Docker has on.
type Config struct {
	// StateDir holds the durable records. It is created with mode 0700 and
	// belongs to one Manager.
	StateDir string
	// SandboxDir, if not "", receives one symbolic link per connected container,
	// named as Allocation.SandboxKey, to the network namespace of its process.
	// It should be on tmpfs (Docker: <exec-root>/netns).
	SandboxDir string

	// Events, if not nil, is told of what happens to networks: create, connect,
	// disconnect and destroy. It must not block.
	Events func(action events.Action, networkID string, attributes map[string]string)

	// Bridge is the link of the default network: "" or "docker0" for one that
	// the Manager makes, another name for one that exists, "none" for no
	// default network at all.
	Bridge string
	// BIP is the address and subnet of the default bridge. The zero value takes
	// a free one from the address pools.
	BIP netip.Prefix
	// FixedCIDR is the part of the default bridge's subnet that containers get
	// addresses from. The zero value is all of it.
	FixedCIDR netip.Prefix
	// DefaultGateway replaces the bridge's address as the default gateway of
	// containers on the default bridge.
	DefaultGateway netip.Addr
	// IPv6 gives the default bridge an IPv6 subnet: BIP6 is the bridge's address
	// in it, FixedCIDR6 the part that containers get addresses from, and
	// DefaultGateway6 replaces the bridge's address as their gateway. A zero BIP6
	// takes the subnet of FixedCIDR6, or a free one.
	IPv6            bool
	BIP6            netip.Prefix
	FixedCIDR6      netip.Prefix
	DefaultGateway6 netip.Addr
	// DirectRouting lets other hosts reach published ports at the containers' own
	// addresses, on every network.
	DirectRouting bool
	// MTU is that of the default bridge and its containers in bytes; 0 means 1500.
	MTU int

	ICC    bool // containers on the default bridge may talk to each other
	IPMasq bool // hide addresses of the default bridge behind the host's
	// IPForward lets the Manager turn on net.ipv4.ip_forward when it finds it
	// off. Traffic between interfaces that are not its own is then dropped,
	// because nobody asked for a router, unless IPForwardNoDrop.
	IPForward       bool
	IPForwardNoDrop bool
	// Firewall lets the Manager keep an nftables table. Without it nothing is
	// masqueraded or isolated and published ports are served by forwarders in
	// the process, as Docker does with --iptables=false.
	Firewall bool
	// RespectInput makes published ports obey the host's own input rules: the
	// process listens on them and forwards, instead of the firewall, which
	// translates packets before those rules see them. Containers then see the
	// host's address, and the ports end with the process.
	RespectInput bool
	// AcceptMark lets packets with this mark, of the bits in AcceptMask, into
	// bridge networks; a zero AcceptMask means none.
	AcceptMark, AcceptMask uint32
	// UserlandProxy forwards what the firewall cannot translate: connections to
	// published ports over IPv6, see package portmap.
	UserlandProxy bool
	// DefaultBindIP is the host address of ports published without one. The
	// zero value is all addresses, IPv4 and IPv6.
	DefaultBindIP netip.Addr
	// DefaultAddressPools is where subnets come from. Nil means Docker's.
	DefaultAddressPools []ipam.Block
	// HostGatewayIPs are what "host-gateway" means in ExtraHosts. Nil means the
	// address of the default bridge.
	HostGatewayIPs []netip.Addr

	// DNS, DNSSearch and DNSOptions are for containers that say nothing else.
	DNS        []netip.Addr
	DNSSearch  []string
	DNSOptions []string

	// HostsPath and ResolvConfPath are the host's files; "" means those in /etc.
	HostsPath, ResolvConfPath string
}

// DefaultConfig returns Docker's defaults with the records in stateDir.
func DefaultConfig(stateDir string) Config {
	return Config{
		StateDir:      stateDir,
		ICC:           true,
		IPMasq:        true,
		IPForward:     true,
		Firewall:      true,
		UserlandProxy: true,
	}
}

const (
	defaultBridge  = "docker0"
	disabledBridge = "none"
	defaultMTU     = 1500
	// maxNameBytes is IFNAMSIZ without the terminating zero.
	maxNameBytes = 15
)

// validate fills in defaults.
func (c *Config) validate() error {
	if c.StateDir == "" {
		return fmt.Errorf("network state directory is not set: %w", errdefs.ErrInvalidArgument)
	}
	if c.Bridge == "" {
		c.Bridge = defaultBridge
	}
	if len(c.Bridge) > maxNameBytes {
		return fmt.Errorf("bridge name %q is longer than %d bytes: %w", c.Bridge, maxNameBytes, errdefs.ErrInvalidArgument)
	}
	if c.MTU == 0 {
		c.MTU = defaultMTU
	}
	if c.MTU < 68 || c.MTU > 65535 {
		return fmt.Errorf("MTU %d is not between 68 and 65535: %w", c.MTU, errdefs.ErrInvalidArgument)
	}
	if c.DefaultAddressPools == nil {
		c.DefaultAddressPools = ipam.DefaultBlocks()
	}
	for _, b := range c.DefaultAddressPools {
		if err := b.Validate(); err != nil {
			return err
		}
	}
	if c.BIP.IsValid() {
		if !c.BIP.Addr().Is4() {
			return fmt.Errorf("bridge address %q is not IPv4: %w", c.BIP, errdefs.ErrInvalidArgument)
		}
		if c.BIP.Masked().Addr() == c.BIP.Addr() && c.BIP.Bits() < 31 {
			return fmt.Errorf("bridge address %q is the address of the network: %w", c.BIP, errdefs.ErrInvalidArgument)
		}
	}
	if c.IPv6 && c.Bridge != defaultBridge {
		return fmt.Errorf("IPv6 on the default bridge needs the bridge %s, not %q: %w", defaultBridge, c.Bridge, errdefs.ErrNotImplemented)
	}
	if c.HostsPath == "" {
		c.HostsPath = "/etc/hosts"
	}
	if c.ResolvConfPath == "" {
		c.ResolvConfPath = "/etc/resolv.conf"
	}
	return nil
}
