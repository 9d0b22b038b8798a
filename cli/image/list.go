package image

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/docker/go-units"
	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/format"
	"lighter/cli/session"
)

// Columns are those of a list of images.
var Columns = []format.Column{
	{Key: "Repository", Header: "REPOSITORY", Raw: "repository"}, {Key: "Tag", Header: "TAG", Raw: "tag"}, {Key: "Digest", Header: "DIGEST"},
	{Key: "ID", Header: "IMAGE ID", Raw: "image_id"}, {Key: "CreatedSince", Header: "CREATED"}, {Key: "CreatedAt", Header: "CREATED AT", Raw: "created_at"},
	{Key: "Size", Header: "SIZE", Raw: "virtual_size"}, {Key: "Containers", Header: "CONTAINERS"}, {Key: "SharedSize", Header: "SHARED SIZE"},
	{Key: "UniqueSize", Header: "UNIQUE SIZE"},
}

// plainColumns are those of the list without flags.
var plainColumns = []format.Column{
	{Key: "Image", Header: "IMAGE"}, {Key: "ID", Header: "ID"}, {Key: "DiskUsage", Header: "DISK USAGE"},
	{Key: "ContentSize", Header: "CONTENT SIZE"}, {Key: "Extra", Header: "EXTRA"},
}

func newListCommand(s *session.Session) *cobra.Command {
	var all, quiet, noTrunc, digests, tree bool
	var filters []string
	var spec string
	cmd := &cobra.Command{
		Use: "images [OPTIONS] [REPOSITORY[:TAG]]", Short: "List images", Args: session.Between(0, 1), Aliases: []string{"ls", "list"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if tree {
				for _, name := range []string{"quiet", "no-trunc", "digests", "format"} {
					if cmd.Flags().Changed(name) {
						return errors.New("--" + name + " is not yet supported with --tree")
					}
				}
			}
			f, err := session.Filters(filters)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				f.Add("reference", args[0])
			}
			c, err := s.Client()
			if err != nil {
				return err
			}
			list, err := c.ImageList(cmd.Context(), client.ImageListOptions{All: all, Filters: f, Manifests: tree})
			if err != nil {
				return err
			}
			if spec == "" && !quiet && !tree {
				spec = s.Config().ImagesFormat
			}
			_, dangling := f["dangling"]
			return printList(s, list.Items, view{
				all: all || dangling, quiet: quiet, noTrunc: noTrunc, digests: digests, tree: tree, spec: spec,
			})
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&all, "all", "a", false, "Show all images (default hides intermediate and dangling images)")
	fs.BoolVarP(&quiet, "quiet", "q", false, "Only show image IDs")
	fs.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
	fs.BoolVar(&digests, "digests", false, "Show digests")
	fs.BoolVar(&tree, "tree", false, "List multi-platform images as a tree (EXPERIMENTAL)")
	fs.StringArrayVarP(&filters, "filter", "f", nil, "Filter output based on conditions provided")
	fs.StringVar(&spec, "format", "", "Format output using a custom template")
	return cmd
}

// view is how a list of images is shown.
type view struct {
	all, quiet, noTrunc, digests, tree bool
	spec                               string
}

func printList(s *session.Session, images []imagetypes.Summary, v view) error {
	// The plain list is Docker's newer one: a row per tag, sorted by name.
	plain := v.spec == "" && !v.quiet && !v.noTrunc && !v.digests
	var rows []map[string]string
	for _, img := range images {
		if len(img.RepoTags) == 0 && !v.all && (plain || v.quiet) {
			continue
		}
		if v.quiet {
			id := img.ID
			if !v.noTrunc {
				id = format.ShortID(id)
			}
			fmt.Fprintln(s.Out, id)
			continue
		}
		if !plain {
			rows = append(rows, Rows(img, v.noTrunc)...)
			continue
		}
		rows = append(rows, plainRows(img)...)
		if v.tree {
			rows = append(rows, platformRows(img)...)
		}
	}
	if v.quiet {
		return nil
	}
	if plain {
		if !v.tree {
			slices.SortStableFunc(rows, func(a, b map[string]string) int { return strings.Compare(a["Image"], b["Image"]) })
		}
		return format.Rows(s.Out, "", []string{"Image", "ID", "DiskUsage", "ContentSize", "Extra"}, plainColumns, rows)
	}
	shown := []string{"Repository", "Tag", "ID", "CreatedSince", "Size"}
	if v.digests {
		shown = []string{"Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"}
	}
	return format.Rows(s.Out, v.spec, shown, Columns, rows)
}

// Rows is an image as its columns, a row per tag.
func Rows(img imagetypes.Summary, noTrunc bool) []map[string]string {
	id := img.ID
	if !noTrunc {
		id = format.ShortID(id)
	}
	base := map[string]string{
		"ID": id, "CreatedSince": units.HumanDuration(time.Since(time.Unix(img.Created, 0))) + " ago",
		"CreatedAt": time.Unix(img.Created, 0).Format("2006-01-02 15:04:05 -0700 MST"),
		"Size":      units.HumanSizeWithPrecision(float64(img.Size), 3), "Containers": "N/A", "SharedSize": "N/A", "UniqueSize": "N/A",
	}
	if img.Containers >= 0 {
		base["Containers"] = fmt.Sprint(img.Containers)
	}
	if img.SharedSize >= 0 {
		base["SharedSize"], base["UniqueSize"] = units.HumanSize(float64(img.SharedSize)), units.HumanSize(float64(img.Size-img.SharedSize))
	}
	tags := img.RepoTags
	if len(tags) == 0 {
		tags = []string{"<none>:<none>"}
	}
	rows := make([]map[string]string, 0, len(tags))
	for _, ref := range tags {
		row := maps.Clone(base)
		i := strings.LastIndexByte(ref, ':')
		row["Repository"], row["Tag"] = ref[:i], ref[i+1:]
		row["Digest"] = digestOf(img.RepoDigests, ref[:i])
		rows = append(rows, row)
	}
	return rows
}

// plainRows is an image as the plain list shows it, a row per tag.
func plainRows(img imagetypes.Summary) []map[string]string {
	rows := Rows(img, false)
	for _, row := range rows {
		row["Image"] = row["Repository"] + ":" + row["Tag"]
		if row["Repository"] == "<none>" {
			row["Image"] = "<untagged>"
		}
		row["DiskUsage"], row["ContentSize"], row["Extra"] = row["Size"], contentSize(img), ""
		if img.Containers > 0 {
			row["Extra"] = "U"
		}
	}
	return rows
}

// platformRows are the branches below an image in the tree: its manifests.
func platformRows(img imagetypes.Summary) []map[string]string {
	var rows []map[string]string
	for _, m := range img.Manifests {
		if m.Kind != imagetypes.ManifestKindImage || m.ImageData == nil {
			continue
		}
		extra := ""
		if len(m.ImageData.Containers) > 0 {
			extra = "U"
		}
		rows = append(rows, map[string]string{
			"Image": "├─ " + platforms.Format(m.ImageData.Platform), "ID": format.ShortID(m.ID), "Extra": extra,
			"DiskUsage":   units.HumanSizeWithPrecision(float64(m.Size.Total), 3),
			"ContentSize": units.HumanSizeWithPrecision(float64(m.Size.Content), 3),
		})
	}
	if n := len(rows); n > 0 {
		rows[n-1]["Image"] = "└─ " + strings.TrimPrefix(rows[n-1]["Image"], "├─ ")
	}
	return rows
}

// contentSize is the size of the compressed blobs, which engines report per
// manifest; without that it is not known.
func contentSize(img imagetypes.Summary) string {
	var n int64
	for _, m := range img.Manifests {
		n += m.Size.Content
	}
	if n == 0 {
		return units.HumanSizeWithPrecision(float64(img.Size), 3)
	}
	return units.HumanSizeWithPrecision(float64(n), 3)
}

func digestOf(repoDigests []string, repo string) string {
	for _, d := range repoDigests {
		if name, digest, ok := strings.Cut(d, "@"); ok && name == repo {
			return digest
		}
	}
	return "<none>"
}
