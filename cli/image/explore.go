package image

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"

	"github.com/containerd/platforms"
	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"lighter/cli/format"
	"lighter/cli/session"
)

// saveOptions are those for the platform named by a flag, "" for the engine's.
func saveOptions(platform string) ([]client.ImageSaveOption, error) {
	if platform == "" {
		return nil, nil
	}
	p, err := platforms.Parse(platform)
	if err != nil {
		return nil, err
	}
	return []client.ImageSaveOption{client.ImageSaveWithPlatforms(p)}, nil
}

func checkFormat(spec string) error {
	if spec != "" && spec != "json" {
		return fmt.Errorf("unknown format %q: use json, or none for text", spec)
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "    ")
	return enc.Encode(v)
}

func size(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

// quoted makes a path from an image safe for a terminal.
func quoted(p string) string {
	q := strconv.Quote(p)
	if q == `"`+p+`"` {
		return p
	}
	return q
}

// oneLine makes text from an image safe for a table on a terminal.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
}

// saver checks the flags that diff and explore share, and returns what reads
// images from the engine.
func saver(s *session.Session, spec, platform string) (client.APIClient, []client.ImageSaveOption, error) {
	if err := checkFormat(spec); err != nil {
		return nil, nil, err
	}
	opts, err := saveOptions(platform)
	if err != nil {
		return nil, nil, err
	}
	c, err := s.Client()
	return c, opts, err
}

func newDiffCommand(s *session.Session) *cobra.Command {
	var platform, spec string
	cmd := &cobra.Command{
		Use: "diff [OPTIONS] IMAGE IMAGE", Short: "Show what differs between the files and configurations of two images", Args: session.Exactly(2),
		Long: "Show what differs between the files and configurations of two images.\n\n" +
			"A: added in the second, C: changed (contents, kind, mode or owner), D: not in the second.",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, opts, err := saver(s, spec, platform)
			if err != nil {
				return err
			}
			var both [2]*contents
			group, ctx := errgroup.WithContext(cmd.Context())
			for i, ref := range args {
				group.Go(func() (err error) {
					both[i], err = read(ctx, c, ref, opts...)
					return err
				})
			}
			if err := group.Wait(); err != nil {
				return err
			}
			before, _ := both[0].apply()
			after, _ := both[1].apply()
			files := compare(before, after)
			config, err := compareConfig(both[0].config.Config, both[1].config.Config)
			if err != nil {
				return err
			}
			if spec == "json" {
				return printJSON(s.Out, struct {
					Files  []change
					Config []configChange
				}{files, config})
			}
			for _, f := range files {
				fmt.Fprintf(s.Out, "%s %s\n", f.Kind, quoted(f.Path))
			}
			for _, f := range config {
				fmt.Fprintf(s.Out, "config %s: %s -> %s\n", f.Field, f.Before, f.After)
			}
			return nil
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&platform, "platform", "", `Compare the given platform (e.g., "linux/amd64") of both images`)
	fs.StringVar(&spec, "format", "", `Print "json" instead of text`)
	return cmd
}

func newExploreCommand(s *session.Session) *cobra.Command {
	var platform, spec string
	var files bool
	cmd := &cobra.Command{
		Use: "explore [OPTIONS] IMAGE", Short: "Show what each layer of an image adds, changes, removes and wastes", Args: session.Exactly(1),
		Long: "Show what each layer of an image adds, changes, removes and wastes.\n\n" +
			"WASTED is the size of files of the layers below that a layer replaces or removes:\nthey are transferred and stored, but nobody sees them.",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, opts, err := saver(s, spec, platform)
			if err != nil {
				return err
			}
			image, err := read(cmd.Context(), c, args[0], opts...)
			if err != nil {
				return err
			}
			all, effects := image.apply()
			var stored, wasted int64
			for i, e := range effects {
				stored, wasted = stored+e.Size, wasted+e.Wasted
				if !files {
					effects[i].Changes = nil
				}
			}
			if spec == "json" {
				return printJSON(s.Out, struct {
					Layers       []effect
					Files        int
					Size, Wasted int64
				}{effects, len(all), stored, wasted})
			}
			return showLayers(s.Out, effects, len(all), stored, wasted)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&platform, "platform", "", `Explore the given platform (e.g., "linux/amd64")`)
	fs.BoolVar(&files, "files", false, "List the files of each layer")
	fs.StringVar(&spec, "format", "", `Print "json" instead of text`)
	return cmd
}

func showLayers(w io.Writer, effects []effect, files int, stored, wasted int64) error {
	columns := []format.Column{
		{Key: "Layer", Header: "LAYER"}, {Key: "Size", Header: "SIZE"}, {Key: "Added", Header: "ADDED"}, {Key: "Changed", Header: "CHANGED"},
		{Key: "Removed", Header: "REMOVED"}, {Key: "Wasted", Header: "WASTED"}, {Key: "CreatedBy", Header: "CREATED BY"},
	}
	rows := make([]map[string]string, 0, len(effects))
	for _, e := range effects {
		rows = append(rows, map[string]string{
			"Layer": format.ShortID(e.Layer), "Size": size(e.Size), "Added": strconv.Itoa(e.Added), "Changed": strconv.Itoa(e.Changed),
			"Removed": strconv.Itoa(e.Removed), "Wasted": size(e.Wasted),
			"CreatedBy": format.Ellipsis(oneLine(e.CreatedBy), 45),
		})
	}
	if err := format.Rows(w, "", []string{"Layer", "Size", "Added", "Changed", "Removed", "Wasted", "CreatedBy"}, columns, rows); err != nil {
		return err
	}
	for _, e := range effects {
		if len(e.Changes) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s\n", format.ShortID(e.Layer))
		for _, c := range e.Changes {
			fmt.Fprintf(w, "%s %9s %s\n", c.Kind, size(c.Size), quoted(c.Path))
		}
	}
	part := 0.0
	if stored > 0 {
		part = 100 * float64(wasted) / float64(stored)
	}
	fmt.Fprintf(w, "\n%d files, %s in layers, %s wasted (%.1f%%)\n", files, size(stored), size(wasted), part)
	return nil
}
