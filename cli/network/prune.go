package network

import (
	"context"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/prune"
	"lighter/cli/session"
)

func newPruneCommand(s *session.Session) *cobra.Command {
	return prune.Verb{
		Short: "Remove all unused networks", Filter: `Provide filter values (e.g. "until=<timestamp>")`, NoTotal: true,
		Warning: prune.Warn("WARNING! This will remove all custom networks not used by at least one container."), Prune: Prune,
	}.Command(s)
}

// Prune removes networks that no container uses.
func Prune(ctx context.Context, c client.APIClient, f client.Filters, _ bool) (prune.Report, error) {
	res, err := c.NetworkPrune(ctx, client.NetworkPruneOptions{Filters: f})
	return prune.Report{Heading: "Deleted Networks", Lines: res.Report.NetworksDeleted}, err
}
