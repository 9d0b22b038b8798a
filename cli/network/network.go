// Package network is docker network.
package network

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/inspect"
	"lighter/cli/session"
)

// Command returns docker network with its verbs.
func Command(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use: "network", Short: "Manage networks", Args: session.NoArgs,
		RunE: session.Help,
	}
	var verbose bool
	inspection := inspect.Command(s, "NETWORK", "Display detailed information on one or more networks", inspect.Network(&verbose))
	inspection.Flags().BoolVarP(&verbose, "verbose", "v", false, "Verbose output for diagnostics")
	cmd.AddCommand(newListCommand(s), newCreateCommand(s), newRemoveCommand(s), newConnectCommand(s), newDisconnectCommand(s),
		newPruneCommand(s), inspection)
	return cmd
}

func newCreateCommand(s *session.Session) *cobra.Command {
	var driver, subnet, gateway string
	var internal bool
	cmd := &cobra.Command{
		Use: "create [OPTIONS] NETWORK", Short: "Create a network", Args: session.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := client.NetworkCreateOptions{Driver: driver, Internal: internal}
			if subnet != "" {
				p, err := netip.ParsePrefix(subnet)
				if err != nil {
					return fmt.Errorf("invalid subnet %s: %w", subnet, err)
				}
				ipam := network.IPAMConfig{Subnet: p}
				if gateway != "" {
					if ipam.Gateway, err = netip.ParseAddr(gateway); err != nil {
						return fmt.Errorf("invalid gateway %s: %w", gateway, err)
					}
				}
				o.IPAM = &network.IPAM{Config: []network.IPAMConfig{ipam}}
			} else if gateway != "" {
				return errors.New("a gateway needs its subnet: give --subnet too")
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
			return nil
		},
	}
	fs := cmd.Flags()
	fs.StringVarP(&driver, "driver", "d", "bridge", "Driver to manage the Network")
	fs.StringVar(&subnet, "subnet", "", "Subnet in CIDR format that represents a network segment")
	fs.StringVar(&gateway, "gateway", "", "IPv4 or IPv6 Gateway for the master subnet")
	fs.BoolVar(&internal, "internal", false, "Restrict external access to the network")
	return cmd
}

func newRemoveCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "rm NETWORK [NETWORK...]", Short: "Remove one or more networks", Args: session.AtLeast(1), Aliases: []string{"remove"},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			return s.Each(args, func(name string) error {
				_, err := c.NetworkRemove(cmd.Context(), name, client.NetworkRemoveOptions{})
				return err
			})
		},
	}
}

func newConnectCommand(s *session.Session) *cobra.Command {
	var aliases []string
	cmd := &cobra.Command{
		Use: "connect [OPTIONS] NETWORK CONTAINER", Short: "Connect a container to a network", Args: session.Exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			_, err = c.NetworkConnect(cmd.Context(), args[0], client.NetworkConnectOptions{
				Container: args[1], EndpointConfig: &network.EndpointSettings{Aliases: aliases},
			})
			return err
		},
	}
	cmd.Flags().StringArrayVar(&aliases, "alias", nil, "Add network-scoped alias for the container")
	return cmd
}

func newDisconnectCommand(s *session.Session) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "disconnect [OPTIONS] NETWORK CONTAINER", Short: "Disconnect a container from a network", Args: session.Exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			_, err = c.NetworkDisconnect(cmd.Context(), args[0], client.NetworkDisconnectOptions{Container: args[1], Force: force})
			return err
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force the container to disconnect from a network")
	return cmd
}
