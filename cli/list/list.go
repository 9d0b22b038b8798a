// Package list is the frame of the verbs that list a noun's objects.
package list

import (
	"context"
	"fmt"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/format"
	"lighter/cli/session"
)

// Verb describes the ls verb of a noun with objects of type T.
type Verb[T any] struct {
	Short   string
	Quiet   string // usage of --quiet
	NoTrunc string // usage of --no-trunc; "" for a noun without it
	Filter  string // usage of --filter
	// Format is the format that config.json has for the noun.
	Format func(*configfile.ConfigFile) string
	Fetch  func(ctx context.Context, c client.APIClient, f client.Filters) ([]T, error)
	// Row is an object as its columns; ID is the column that --quiet prints.
	Row     func(item T, noTrunc bool) map[string]string
	ID      string
	Shown   []string // the columns of the plain table
	Columns []format.Column
}

// Command returns the verb.
func (v Verb[T]) Command(s *session.Session) *cobra.Command {
	var quiet, noTrunc bool
	var filters []string
	var spec string
	cmd := &cobra.Command{
		Use: "ls [OPTIONS]", Short: v.Short, Args: session.NoArgs, Aliases: []string{"list"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := session.Filters(filters)
			if err != nil {
				return err
			}
			c, err := s.Client()
			if err != nil {
				return err
			}
			items, err := v.Fetch(cmd.Context(), c, f)
			if err != nil {
				return err
			}
			if spec == "" && !quiet {
				spec = v.Format(s.Config())
			}
			rows := make([]map[string]string, 0, len(items))
			for _, item := range items {
				rows = append(rows, v.Row(item, noTrunc))
			}
			if quiet && (spec == "" || spec == "table") {
				for _, row := range rows {
					fmt.Fprintln(s.Out, row[v.ID])
				}
				return nil
			}
			return format.Rows(s.Out, spec, v.Shown, v.Columns, rows)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	fs := cmd.Flags()
	fs.BoolVarP(&quiet, "quiet", "q", false, v.Quiet)
	if v.NoTrunc != "" {
		fs.BoolVar(&noTrunc, "no-trunc", false, v.NoTrunc)
	}
	fs.StringArrayVarP(&filters, "filter", "f", nil, v.Filter)
	fs.StringVar(&spec, "format", "", "Format output using a custom template")
	return cmd
}
