package volume

import (
	"context"
	"errors"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/prune"
	"lighter/cli/session"
)

func newPruneCommand(s *session.Session) *cobra.Command {
	return prune.Verb{
		Short: "Remove unused local volumes", Filter: `Provide filter values (e.g. "label=<label>")`,
		All: "Remove all unused volumes, not just anonymous ones",
		Warning: func(all bool, f client.Filters) (string, error) {
			which := "anonymous local volumes"
			if all {
				if _, ok := f["all"]; ok {
					return "", errors.New("conflicting options: cannot specify both --all and --filter all=1")
				}
				which = "all local volumes"
			}
			return "WARNING! This will remove " + which + " not used by at least one container.", nil
		},
		Prune: Prune,
	}.Command(s)
}

// Prune removes anonymous volumes that no container uses; with all named ones too.
func Prune(ctx context.Context, c client.APIClient, f client.Filters, all bool) (prune.Report, error) {
	res, err := c.VolumePrune(ctx, client.VolumePruneOptions{All: all, Filters: f})
	return prune.Report{Heading: "Deleted Volumes", Lines: res.Report.VolumesDeleted, Reclaimed: res.Report.SpaceReclaimed}, err
}
