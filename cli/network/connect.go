package network

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/session"
)

func newConnectCommand(s *session.Session) *cobra.Command {
	var ep network.EndpointSettings
	var ip4, ip6 string
	var linkLocal, driverOptions []string
	cmd := &cobra.Command{
		Use: "connect [OPTIONS] NETWORK CONTAINER", Short: "Connect a container to a network", Args: session.Exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ipam, err := addresses(ip4, ip6, linkLocal)
			if err != nil {
				return err
			}
			ep.IPAMConfig, ep.DriverOpts = ipam, pairs(driverOptions)
			c, err := s.Client()
			if err != nil {
				return err
			}
			_, err = c.NetworkConnect(cmd.Context(), args[0], client.NetworkConnectOptions{Container: args[1], EndpointConfig: &ep})
			return err
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&ip4, "ip", "", `IPv4 address (e.g., "172.30.100.104")`)
	fs.StringVar(&ip6, "ip6", "", `IPv6 address (e.g., "2001:db8::33")`)
	fs.StringArrayVar(&ep.Aliases, "alias", nil, "Add network-scoped alias for the container")
	fs.StringArrayVar(&ep.Links, "link", nil, "Add link to another container")
	fs.StringSliceVar(&linkLocal, "link-local-ip", nil, "Add a link-local address for the container")
	fs.StringArrayVar(&driverOptions, "driver-opt", nil, "driver options for the network")
	fs.IntVar(&ep.GwPriority, "gw-priority", 0, "Highest gw-priority provides the default gateway. Accepts positive and negative values")
	return cmd
}

// addresses are those asked for, nil without any.
func addresses(ip4, ip6 string, linkLocal []string) (*network.EndpointIPAMConfig, error) {
	if ip4 == "" && ip6 == "" && len(linkLocal) == 0 {
		return nil, nil
	}
	var c network.EndpointIPAMConfig
	parse := func(text string) (addr netip.Addr, err error) {
		if text != "" {
			if addr, err = netip.ParseAddr(text); err != nil {
				err = fmt.Errorf("invalid IP address %q: %w", text, err)
			}
		}
		return addr, err
	}
	var err4, err6 error
	c.IPv4Address, err4 = parse(ip4)
	c.IPv6Address, err6 = parse(ip6)
	failed := []error{err4, err6}
	for _, text := range linkLocal {
		addr, err := parse(text)
		c.LinkLocalIPs, failed = append(c.LinkLocalIPs, addr), append(failed, err)
	}
	return &c, errors.Join(failed...)
}

func newRemoveCommand(s *session.Session) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rm NETWORK [NETWORK...]", Short: "Remove one or more networks", Args: session.AtLeast(1), Aliases: []string{"remove"},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			return s.Each(args, func(name string) error {
				_, err := c.NetworkRemove(cmd.Context(), name, client.NetworkRemoveOptions{})
				if force && errdefs.IsNotFound(err) {
					return nil
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not error if the network does not exist")
	return cmd
}
