// Package prune is the frame of the verbs that remove what nothing uses: a
// question, filters, and a report that looks alike for all nouns.
package prune

import (
	"context"
	"fmt"
	"io"

	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/session"
)

// Report is what was removed.
type Report struct {
	Heading   string // above the lines, without the colon
	Lines     []string
	Reclaimed uint64 // bytes
}

// Print writes the lines, or nothing when there are none.
func (r Report) Print(w io.Writer) {
	if len(r.Lines) == 0 {
		return
	}
	fmt.Fprintln(w, r.Heading+":")
	for _, line := range r.Lines {
		fmt.Fprintln(w, line)
	}
	fmt.Fprintln(w)
}

// PrintTotal ends a report.
func PrintTotal(w io.Writer, reclaimed uint64) {
	fmt.Fprintln(w, "Total reclaimed space:", units.HumanSize(float64(reclaimed)))
}

// Func removes what the filters leave of a noun's unused objects; all widens
// what counts as unused.
type Func func(ctx context.Context, c client.APIClient, f client.Filters, all bool) (Report, error)

// Verb describes the prune verb of one noun.
type Verb struct {
	Short   string
	Filter  string // usage of --filter
	All     string // usage of --all; "" for a noun without it
	Warning func(all bool, f client.Filters) (string, error)
	Prune   Func
	NoTotal bool // the noun's objects take no space
}

// Command returns the verb.
func (v Verb) Command(s *session.Session) *cobra.Command {
	var all, force bool
	var filters []string
	cmd := &cobra.Command{
		Use: "prune [OPTIONS]", Short: v.Short, Args: session.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := session.Filters(filters)
			if err != nil {
				return err
			}
			warning, err := v.Warning(all, f)
			if err != nil {
				return err
			}
			if ok, err := s.Confirm(force, warning); !ok || err != nil {
				return err
			}
			c, err := s.Client()
			if err != nil {
				return err
			}
			report, err := v.Prune(cmd.Context(), c, s.PruneFilters(f), all)
			if err != nil {
				return err
			}
			report.Print(s.Out)
			if !v.NoTotal {
				PrintTotal(s.Out, report.Reclaimed)
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	fs := cmd.Flags()
	if v.All != "" {
		fs.BoolVarP(&all, "all", "a", false, v.All)
	}
	fs.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	fs.StringArrayVar(&filters, "filter", nil, v.Filter)
	return cmd
}

// Warn is a Verb's Warning that is always the same.
func Warn(text string) func(bool, client.Filters) (string, error) {
	return func(bool, client.Filters) (string, error) { return text, nil }
}
