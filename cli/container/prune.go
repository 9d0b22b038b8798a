package container

import (
	"context"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/prune"
	"lighter/cli/session"
)

func newPruneCommand(s *session.Session) *cobra.Command {
	return prune.Verb{
		Short: "Remove all stopped containers", Filter: `Provide filter values (e.g. "until=<timestamp>")`,
		Warning: prune.Warn("WARNING! This will remove all stopped containers."), Prune: Prune,
	}.Command(s)
}

// Prune removes stopped containers.
func Prune(ctx context.Context, c client.APIClient, f client.Filters, _ bool) (prune.Report, error) {
	res, err := c.ContainerPrune(ctx, client.ContainerPruneOptions{Filters: f})
	return prune.Report{Heading: "Deleted Containers", Lines: res.Report.ContainersDeleted, Reclaimed: res.Report.SpaceReclaimed}, err
}
