package image

import (
	"context"
	"maps"
	"strconv"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/prune"
	"lighter/cli/session"
)

func newPruneCommand(s *session.Session) *cobra.Command {
	return prune.Verb{
		Short: "Remove unused images", Filter: `Provide filter values (e.g. "until=<timestamp>")`,
		All: "Remove all unused images, not just dangling ones",
		Warning: func(all bool, _ client.Filters) (string, error) {
			if all {
				return "WARNING! This will remove all images without at least one container associated to them.", nil
			}
			return "WARNING! This will remove all dangling images.", nil
		},
		Prune: Prune,
	}.Command(s)
}

// Prune removes dangling images; with all every image without a container.
func Prune(ctx context.Context, c client.APIClient, f client.Filters, all bool) (prune.Report, error) {
	f = maps.Clone(f)
	if _, ok := f["dangling"]; all || !ok {
		f["dangling"] = map[string]bool{strconv.FormatBool(!all): true}
	}
	res, err := c.ImagePrune(ctx, client.ImagePruneOptions{Filters: f})
	r := prune.Report{Heading: "Deleted Images", Reclaimed: res.Report.SpaceReclaimed}
	for _, d := range res.Report.ImagesDeleted {
		if d.Untagged != "" {
			r.Lines = append(r.Lines, "untagged: "+d.Untagged)
		} else {
			r.Lines = append(r.Lines, "deleted: "+d.Deleted)
		}
	}
	return r, err
}
