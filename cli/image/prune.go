package image

import (
	"fmt"
	"strconv"

	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/session"
)

func newPruneCommand(s *session.Session) *cobra.Command {
	var all, force bool
	var filters []string
	cmd := &cobra.Command{
		Use: "prune [OPTIONS]", Short: "Remove unused images", Args: session.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := session.Filters(filters)
			if err != nil {
				return err
			}
			if _, ok := f["dangling"]; all || !ok {
				f["dangling"] = map[string]bool{strconv.FormatBool(!all): true}
			}
			warning := "WARNING! This will remove all dangling images."
			if all {
				warning = "WARNING! This will remove all images without at least one container associated to them."
			}
			ok, err := s.Confirm(force, warning)
			if !ok || err != nil {
				return err
			}
			c, err := s.Client()
			if err != nil {
				return err
			}
			res, err := c.ImagePrune(cmd.Context(), client.ImagePruneOptions{Filters: f})
			if err != nil {
				return err
			}
			if len(res.Report.ImagesDeleted) > 0 {
				fmt.Fprintln(s.Out, "Deleted Images:")
				for _, r := range res.Report.ImagesDeleted {
					if r.Untagged != "" {
						fmt.Fprintln(s.Out, "untagged:", r.Untagged)
					} else {
						fmt.Fprintln(s.Out, "deleted:", r.Deleted)
					}
				}
				fmt.Fprintln(s.Out)
			}
			fmt.Fprintln(s.Out, "Total reclaimed space:", units.HumanSize(float64(res.Report.SpaceReclaimed)))
			return nil
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&all, "all", "a", false, "Remove all unused images, not just dangling ones")
	fs.StringArrayVar(&filters, "filter", nil, "Provide filter values (e.g. \"until=<timestamp>\")")
	fs.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	return cmd
}
