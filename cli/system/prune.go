package system

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/container"
	"lighter/cli/image"
	"lighter/cli/network"
	"lighter/cli/prune"
	"lighter/cli/session"
	"lighter/cli/volume"
)

func newPruneCommand(s *session.Session) *cobra.Command {
	var all, force, volumes bool
	var filters []string
	cmd := &cobra.Command{
		Use: "prune [OPTIONS]", Short: "Remove unused data", Args: session.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := session.Filters(filters)
			if err != nil {
				return err
			}
			if _, ok := f["until"]; ok && volumes {
				return fmt.Errorf(`ERROR: The "until" filter is not supported with "--volumes"`)
			}
			f = s.PruneFilters(f)
			if ok, err := s.Confirm(force, pruneWarning(all, volumes, f)); !ok || err != nil {
				return err
			}
			c, err := s.Client()
			if err != nil {
				return err
			}
			steps := []prune.Func{container.Prune, network.Prune}
			if volumes {
				steps = append(steps, func(ctx context.Context, c client.APIClient, f client.Filters, _ bool) (prune.Report, error) {
					return volume.Prune(ctx, c, f, false)
				})
			}
			var reclaimed uint64
			for _, step := range append(steps, image.Prune, pruneBuilds) {
				report, err := step(cmd.Context(), c, f, all)
				if err != nil {
					return err
				}
				report.Print(s.Out)
				reclaimed += report.Reclaimed
			}
			prune.PrintTotal(s.Out, reclaimed)
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	fs := cmd.Flags()
	fs.BoolVarP(&all, "all", "a", false, "Remove all unused images not just dangling ones")
	fs.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	fs.BoolVar(&volumes, "volumes", false, "Prune anonymous volumes")
	fs.StringArrayVar(&filters, "filter", nil, `Provide filter values (e.g. "label=<key>=<value>")`)
	return cmd
}

func pruneWarning(all, volumes bool, f client.Filters) string {
	what := []string{"all stopped containers", "all networks not used by at least one container"}
	if volumes {
		what = append(what, "all anonymous volumes not used by at least one container")
	}
	if all {
		what = append(what, "all images without at least one container associated to them", "all build cache")
	} else {
		what = append(what, "all dangling images", "unused build cache")
	}
	text := "WARNING! This will remove:\n  - " + strings.Join(what, "\n  - ") + "\n"
	if len(f) > 0 {
		text += "\n  Items to be pruned will be filtered with:\n"
		for _, key := range slices.Sorted(maps.Keys(f)) {
			for _, value := range slices.Sorted(maps.Keys(f[key])) {
				text += "  - " + key + "=" + value + "\n"
			}
		}
	}
	return text
}

// pruneBuilds removes build cache; an engine that does not build has none.
func pruneBuilds(ctx context.Context, c client.APIClient, f client.Filters, all bool) (prune.Report, error) {
	res, err := c.BuildCachePrune(ctx, client.BuildCachePruneOptions{All: all, Filters: f})
	if errdefs.IsNotImplemented(err) || errdefs.IsNotFound(err) {
		return prune.Report{}, nil
	}
	return prune.Report{Heading: "Deleted build cache objects", Lines: res.Report.CachesDeleted, Reclaimed: res.Report.SpaceReclaimed}, err
}
