package volume

import (
	"context"
	"slices"
	"strconv"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/go-units"
	"github.com/fvbommel/sortorder"
	"github.com/moby/moby/api/types/volume"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/format"
	"lighter/cli/list"
	"lighter/cli/session"
)

func newListCommand(s *session.Session) *cobra.Command {
	return list.Verb[volume.Volume]{
		Short: "List volumes", Quiet: "Only display volume names", Filter: `Provide filter values (e.g. "dangling=true")`,
		Format: func(f *configfile.ConfigFile) string { return f.VolumesFormat },
		Fetch: func(ctx context.Context, c client.APIClient, f client.Filters) ([]volume.Volume, error) {
			res, err := c.VolumeList(ctx, client.VolumeListOptions{Filters: f})
			slices.SortFunc(res.Items, func(a, b volume.Volume) int { return sortorder.NaturalCompare(a.Name, b.Name) })
			return res.Items, err
		},
		Row: func(v volume.Volume, _ bool) map[string]string { return Row(v) }, ID: "Name", Shown: []string{"Driver", "Name"}, Columns: Columns,
	}.Command(s)
}

// Columns are those of a list of volumes.
var Columns = []format.Column{
	{Key: "Name", Header: "VOLUME NAME", Raw: "name"}, {Key: "Driver", Header: "DRIVER", Raw: "driver"},
	{Key: "Mountpoint", Header: "MOUNTPOINT"}, {Key: "Scope", Header: "SCOPE"}, {Key: "Labels", Header: "LABELS"},
	{Key: "Links", Header: "LINKS"}, {Key: "Size", Header: "SIZE"}, {Key: "Group", Header: "GROUP"},
	{Key: "Availability", Header: "AVAILABILITY"}, {Key: "Status", Header: "STATUS"},
}

// Row is a volume as its columns. Size and links are known only to those who
// asked for the disk usage.
func Row(v volume.Volume) map[string]string {
	r := map[string]string{
		"Name": v.Name, "Driver": v.Driver, "Mountpoint": v.Mountpoint, "Scope": v.Scope,
		"Links": "N/A", "Size": "N/A", "Group": "N/A", "Availability": "N/A", "Status": "N/A",
	}
	if v.UsageData != nil {
		r["Links"], r["Size"] = strconv.FormatInt(v.UsageData.RefCount, 10), units.HumanSize(float64(v.UsageData.Size))
	}
	format.SetLabels(r, v.Labels)
	return r
}
