// Package network is docker network.
package network

import (
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
