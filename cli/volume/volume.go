// Package volume is docker volume.
package volume

import (
	"errors"
	"fmt"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/format"
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
		newPruneCommand(s), inspect.Command(s, "VOLUME", "Display detailed information on one or more volumes", inspect.Volume))
	return cmd
}

func newListCommand(s *session.Session) *cobra.Command {
	var quiet bool
	var filters []string
	var spec string
	cmd := &cobra.Command{
		Use: "ls [OPTIONS]", Short: "List volumes", Args: session.NoArgs, Aliases: []string{"list"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := session.Filters(filters)
			if err != nil {
				return err
			}
			c, err := s.Client()
			if err != nil {
				return err
			}
			list, err := c.VolumeList(cmd.Context(), client.VolumeListOptions{Filters: f})
			if err != nil {
				return err
			}
			if spec == "" && !quiet {
				spec = s.Config().VolumesFormat
			}
			var rows []map[string]string
			for _, v := range list.Items {
				if quiet {
					fmt.Fprintln(s.Out, v.Name)
					continue
				}
				rows = append(rows, map[string]string{"Driver": v.Driver, "Name": v.Name, "Mountpoint": v.Mountpoint, "Scope": v.Scope})
			}
			if quiet {
				return nil
			}
			return format.Rows(s.Out, spec, []string{"Driver", "Name"}, []format.Column{
				{Key: "Driver", Header: "DRIVER"}, {Key: "Name", Header: "VOLUME NAME"}, {Key: "Mountpoint", Header: "MOUNTPOINT"}, {Key: "Scope", Header: "SCOPE"},
			}, rows)
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&quiet, "quiet", "q", false, "Only display volume names")
	fs.StringArrayVarP(&filters, "filter", "f", nil, "Provide filter values (e.g. \"dangling=true\")")
	fs.StringVar(&spec, "format", "", "Format output using a custom template")
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

func newPruneCommand(s *session.Session) *cobra.Command {
	var all, force bool
	var filters []string
	cmd := &cobra.Command{
		Use: "prune [OPTIONS]", Short: "Remove unused local volumes", Args: session.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := session.Filters(filters)
			if err != nil {
				return err
			}
			which := "anonymous local volumes"
			if all {
				if _, ok := f["all"]; ok {
					return errors.New("conflicting options: cannot specify both --all and --filter all=1")
				}
				which = "all local volumes"
			}
			ok, err := s.Confirm(force, "WARNING! This will remove "+which+" not used by at least one container.")
			if !ok || err != nil {
				return err
			}
			c, err := s.Client()
			if err != nil {
				return err
			}
			res, err := c.VolumePrune(cmd.Context(), client.VolumePruneOptions{All: all, Filters: f})
			if err != nil {
				return err
			}
			if len(res.Report.VolumesDeleted) > 0 {
				fmt.Fprintf(s.Out, "Deleted Volumes:\n%s\n\n", strings.Join(res.Report.VolumesDeleted, "\n"))
			}
			fmt.Fprintln(s.Out, "Total reclaimed space:", units.HumanSize(float64(res.Report.SpaceReclaimed)))
			return nil
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&all, "all", "a", false, "Remove all unused volumes, not just anonymous ones")
	fs.StringArrayVar(&filters, "filter", nil, "Provide filter values (e.g. \"label=<label>\")")
	fs.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	return cmd
}
