// Package builder is the build cache's commands of the docker command line.
package builder

import (
	"context"
	"fmt"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/session"
)

// pruneOptions are docker builder prune's flags.
type pruneOptions struct {
	all, force                 bool
	filters                    []string
	reserved, maxUsed, minFree string
	keepStorage                string
}

// NewPruneCommand is docker builder prune.
func NewPruneCommand(s *session.Session) *cobra.Command {
	var o pruneOptions
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove build cache", Args: session.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runPrune(cmd.Context(), s, o) },
	}
	fs := cmd.Flags()
	fs.BoolVarP(&o.all, "all", "a", false, "Remove all unused build cache, not just dangling ones")
	fs.BoolVarP(&o.force, "force", "f", false, "Do not prompt for confirmation")
	fs.StringArrayVar(&o.filters, "filter", nil, `Provide filter values (e.g. "until=24h")`)
	fs.StringVar(&o.keepStorage, "keep-storage", "", "Amount of disk space to keep for cache")
	fs.StringVar(&o.reserved, "reserved-space", "", "Amount of disk space always allowed to keep for cache")
	fs.StringVar(&o.maxUsed, "max-used-space", "", "Maximum amount of disk space allowed to keep for cache")
	fs.StringVar(&o.minFree, "min-free-space", "", "Target amount of free disk space after pruning")
	return cmd
}

func runPrune(ctx context.Context, s *session.Session, o pruneOptions) error {
	filters, err := session.Filters(o.filters)
	if err != nil {
		return err
	}
	opts := client.BuildCachePruneOptions{All: o.all, Filters: s.PruneFilters(filters)}
	for _, size := range []struct {
		to   *int64
		text string
	}{{&opts.ReservedSpace, o.keepStorage}, {&opts.ReservedSpace, o.reserved}, {&opts.MaxUsedSpace, o.maxUsed}, {&opts.MinFreeSpace, o.minFree}} {
		if size.text == "" {
			continue
		}
		if *size.to, err = units.RAMInBytes(size.text); err != nil {
			return err
		}
	}
	warning := "WARNING! This will remove all dangling build cache."
	if o.all {
		warning = "WARNING! This will remove all build cache."
	}
	if ok, err := s.Confirm(o.force, warning); err != nil || !ok {
		return err
	}
	c, err := s.Client()
	if err != nil {
		return err
	}
	res, err := c.BuildCachePrune(ctx, opts)
	if err != nil {
		return err
	}
	if ids := res.Report.CachesDeleted; len(ids) > 0 {
		fmt.Fprintf(s.Out, "Deleted build cache objects:\n%s\n\n", strings.Join(ids, "\n"))
	}
	fmt.Fprintln(s.Out, "Total reclaimed space:", units.HumanSize(float64(res.Report.SpaceReclaimed)))
	return nil
}
