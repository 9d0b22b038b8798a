// Package volume is docker volume.
package volume

import (
	"fmt"
	"strings"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/inspect"
	"lighter/cli/session"
)

// Command returns docker volume with its verbs.
func Command(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use: "volume", Short: "Manage volumes", Args: session.NoArgs,
		RunE: session.Help,
	}
	cmd.AddCommand(newListCommand(s), newCreateCommand(s), newRemoveCommand(s),
		newPruneCommand(s), newCloneCommand(s), newRenameCommand(s), newExportCommand(s), newImportCommand(s), inspect.Command(s, "VOLUME", "Display detailed information on one or more volumes", inspect.Volume))
	return cmd
}

func newCreateCommand(s *session.Session) *cobra.Command {
	var driver string
	var opts, labels []string
	cmd := &cobra.Command{
		Use: "create [OPTIONS] [VOLUME]", Short: "Create a volume", Args: session.Between(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			o := client.VolumeCreateOptions{Driver: driver, DriverOpts: map[string]string{}, Labels: map[string]string{}}
			if len(args) == 1 {
				o.Name = args[0]
			}
			for to, list := range map[*map[string]string][]string{&o.DriverOpts: opts, &o.Labels: labels} {
				for _, kv := range list {
					k, v, _ := strings.Cut(kv, "=")
					(*to)[k] = v
				}
			}
			res, err := c.VolumeCreate(cmd.Context(), o)
			if err != nil {
				return err
			}
			fmt.Fprintln(s.Out, res.Volume.Name)
			return nil
		},
	}
	fs := cmd.Flags()
	fs.StringVarP(&driver, "driver", "d", "local", "Specify volume driver name")
	fs.StringArrayVarP(&opts, "opt", "o", nil, "Set driver specific options")
	fs.StringArrayVar(&labels, "label", nil, "Set metadata for a volume")
	return cmd
}

func newRemoveCommand(s *session.Session) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rm [OPTIONS] VOLUME [VOLUME...]", Short: "Remove one or more volumes", Args: session.AtLeast(1), Aliases: []string{"remove"},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			return s.Each(args, func(name string) error {
				_, err := c.VolumeRemove(cmd.Context(), name, client.VolumeRemoveOptions{Force: force})
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force the removal of one or more volumes")
	return cmd
}
