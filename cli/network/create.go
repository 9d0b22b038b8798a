package network

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/session"
)

// ipamFlags are the parts of a network's address pools, each list in any order:
// ranges, gateways and reserved addresses belong to the subnet around them.
type ipamFlags struct {
	driver                    string
	subnets, ranges, gateways []string
	reserved, options         []string
	labels, driverOptions     []string
	enableIPv4, enableIPv6    bool
}

func newCreateCommand(s *session.Session) *cobra.Command {
	var o client.NetworkCreateOptions
	var f ipamFlags
	cmd := &cobra.Command{
		Use: "create [OPTIONS] NETWORK", Short: "Create a network", Args: session.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ipam, err := f.ipam()
			if err != nil {
				return err
			}
			o.IPAM = ipam
			o.Labels, o.Options = pairs(f.labels), pairs(f.driverOptions)
			// Not given, the engine decides by its configuration.
			if cmd.Flags().Changed("ipv4") {
				o.EnableIPv4 = &f.enableIPv4
			}
			if cmd.Flags().Changed("ipv6") {
				o.EnableIPv6 = &f.enableIPv6
			}
			c, err := s.Client()
			if err != nil {
				return err
			}
			res, err := c.NetworkCreate(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			fmt.Fprintln(s.Out, res.ID)
			for _, w := range res.Warning {
				fmt.Fprintln(s.Err, "WARNING:", w)
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	fs := cmd.Flags()
	fs.StringVarP(&o.Driver, "driver", "d", "bridge", "Driver to manage the Network")
	fs.StringArrayVarP(&f.driverOptions, "opt", "o", nil, "Set driver specific options")
	fs.StringArrayVar(&f.labels, "label", nil, "Set metadata on a network")
	fs.BoolVar(&o.Internal, "internal", false, "Restrict external access to the network")
	fs.BoolVar(&f.enableIPv4, "ipv4", true, "Enable or disable IPv4 address assignment")
	fs.BoolVar(&f.enableIPv6, "ipv6", false, "Enable or disable IPv6 address assignment")
	fs.BoolVar(&o.Attachable, "attachable", false, "Enable manual container attachment")
	fs.BoolVar(&o.Ingress, "ingress", false, "Create swarm routing-mesh network")
	fs.StringVar(&o.Scope, "scope", "", "Control the network's scope")
	fs.BoolVar(&o.ConfigOnly, "config-only", false, "Create a configuration only network")
	fs.StringVar(&o.ConfigFrom, "config-from", "", "The network from which to copy the configuration")
	fs.StringVar(&f.driver, "ipam-driver", "default", "IP Address Management Driver")
	fs.StringSliceVar(&f.subnets, "subnet", nil, "Subnet in CIDR format that represents a network segment")
	fs.StringSliceVar(&f.ranges, "ip-range", nil, "Allocate container ip from a sub-range")
	fs.StringSliceVar(&f.gateways, "gateway", nil, "IPv4 or IPv6 Gateway for the master subnet")
	fs.StringArrayVar(&f.reserved, "aux-address", nil, "Auxiliary IPv4 or IPv6 addresses used by Network driver")
	fs.StringArrayVar(&f.options, "ipam-opt", nil, "Set IPAM driver specific options")
	return cmd
}

// ipam joins the flags by subnet.
func (f *ipamFlags) ipam() (*network.IPAM, error) {
	ipam := &network.IPAM{Driver: f.driver, Options: pairs(f.options)}
	for _, text := range f.subnets {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("invalid subnet %s: %w", text, err)
		}
		for _, other := range ipam.Config {
			if other.Subnet.Overlaps(p) {
				return nil, fmt.Errorf("multiple overlapping subnet configuration is not supported: %s and %s", other.Subnet, p)
			}
		}
		ipam.Config = append(ipam.Config, network.IPAMConfig{Subnet: p})
	}
	around := func(addr netip.Addr) *network.IPAMConfig {
		i := slices.IndexFunc(ipam.Config, func(c network.IPAMConfig) bool { return c.Subnet.Contains(addr) })
		if i < 0 {
			return nil
		}
		return &ipam.Config[i]
	}
	for _, text := range f.ranges {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("invalid ip-range %s: %w", text, err)
		}
		c := around(p.Addr())
		switch {
		case c == nil:
			return nil, fmt.Errorf("no matching subnet for range %s", text)
		case c.IPRange.IsValid():
			return nil, fmt.Errorf("cannot configure multiple ranges (%s, %s) on the same subnet (%s)", p, c.IPRange, c.Subnet)
		}
		c.IPRange = p
	}
	for _, text := range f.gateways {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("invalid gateway %s: %w", text, err)
		}
		c := around(addr)
		switch {
		case c == nil:
			return nil, fmt.Errorf("no matching subnet for gateway %s", text)
		case c.Gateway.IsValid():
			return nil, fmt.Errorf("cannot configure multiple gateways (%s, %s) for the same subnet (%s)", addr, c.Gateway, c.Subnet)
		}
		c.Gateway = addr
	}
	reserved := pairs(f.reserved)
	for _, name := range slices.Sorted(maps.Keys(reserved)) {
		addr, err := netip.ParseAddr(reserved[name])
		if err != nil {
			return nil, fmt.Errorf("invalid aux-address %s: %w", reserved[name], err)
		}
		c := around(addr)
		if c == nil {
			return nil, fmt.Errorf("no matching subnet for aux-address %s", addr)
		}
		if c.AuxAddress == nil {
			c.AuxAddress = map[string]netip.Addr{}
		}
		c.AuxAddress[name] = addr
	}
	return ipam, nil
}

// pairs splits key=value texts; a key alone has an empty value.
func pairs(texts []string) map[string]string {
	m := make(map[string]string, len(texts))
	for _, text := range texts {
		k, v, _ := strings.Cut(text, "=")
		m[k] = v
	}
	return m
}
