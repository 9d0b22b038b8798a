// Package system is docker's commands on the engine itself: version, info,
// events, inspect.
package system

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/format"
	"lighter/cli/inspect"
	"lighter/cli/session"
)

// Commands returns the verbs on the engine.
func Commands(s *session.Session) []*cobra.Command {
	return []*cobra.Command{newInfoCommand(s), newEventsCommand(s)}
}

// Management returns those verbs that exist below the noun only.
func Management(s *session.Session) []*cobra.Command {
	return []*cobra.Command{newDialStdioCommand(s), newDiskUsageCommand(s), newPruneCommand(s)}
}

// TopLevel returns the verbs that belong to no noun.
func TopLevel(s *session.Session) []*cobra.Command {
	return []*cobra.Command{newVersionCommand(s), newInspectCommand(s)}
}

func newEventsCommand(s *session.Session) *cobra.Command {
	var o client.EventsListOptions
	var filters []string
	var spec string
	cmd := &cobra.Command{
		Use: "events [OPTIONS]", Short: "Get real time events from the server", Args: session.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := session.Filters(filters)
			if err != nil {
				return err
			}
			o.Filters = f
			c, err := s.Client()
			if err != nil {
				return err
			}
			res := c.Events(cmd.Context(), o)
			for {
				select {
				case m := <-res.Messages:
					if err := printEvent(s.Out, spec, m); err != nil {
						return err
					}
				case err := <-res.Err:
					if errors.Is(err, io.EOF) {
						return nil
					}
					return err
				}
			}
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.Since, "since", "", "Show all events created since timestamp")
	fs.StringVar(&o.Until, "until", "", "Stream events until this timestamp")
	fs.StringArrayVarP(&filters, "filter", "f", nil, "Filter output based on conditions provided")
	fs.StringVar(&spec, "format", "", "Format output using a custom template")
	return cmd
}

func printEvent(w io.Writer, spec string, m events.Message) error {
	if spec != "" {
		return format.Template(w, spec, m)
	}
	at := time.Unix(m.Time, 0)
	if m.TimeNano != 0 {
		at = time.Unix(0, m.TimeNano)
	}
	text := fmt.Sprintf("%s %s %s %s", at.Format("2006-01-02T15:04:05.000000000Z07:00"), m.Type, m.Action, m.Actor.ID)
	if len(m.Actor.Attributes) > 0 {
		var attrs []string
		for _, k := range slices.Sorted(maps.Keys(m.Actor.Attributes)) {
			attrs = append(attrs, k+"="+m.Actor.Attributes[k])
		}
		text += " (" + strings.Join(attrs, ", ") + ")"
	}
	_, err := fmt.Fprintln(w, text)
	return err
}

func newInspectCommand(s *session.Session) *cobra.Command {
	var kind, spec string
	var size, verbose bool
	cmd := &cobra.Command{
		Use: "inspect [OPTIONS] NAME|ID [NAME|ID...]", Short: "Return low-level information on Docker objects", Args: session.AtLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			lookups := []inspect.Lookup{
				{Kind: "container", Get: inspect.Container(&size)}, {Kind: "image", Get: inspect.Image(new(string))},
				{Kind: "network", Get: inspect.Network(&verbose)}, {Kind: "volume", Get: inspect.Volume},
			}
			if kind != "" {
				lookups = slices.DeleteFunc(lookups, func(l inspect.Lookup) bool { return l.Kind != kind })
				if len(lookups) == 0 {
					return fmt.Errorf("unknown type: %q", kind)
				}
			}
			return inspect.Print(s.Out, args, spec, func(name string) (inspect.Object, error) {
				return inspect.First(cmd.Context(), c, name, lookups, kind)
			})
		},
	}
	fs := cmd.Flags()
	fs.StringVarP(&spec, "format", "f", "", "Format output using a custom template")
	fs.StringVar(&kind, "type", "", "Only inspect objects of the given type")
	fs.BoolVarP(&size, "size", "s", false, "Display total file sizes if the type is container")
	return cmd
}
