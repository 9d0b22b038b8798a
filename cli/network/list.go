package network

import (
	"context"
	"slices"
	"strconv"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/fvbommel/sortorder"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/format"
	"lighter/cli/list"
	"lighter/cli/session"
)

func newListCommand(s *session.Session) *cobra.Command {
	return list.Verb[network.Summary]{
		Short: "List networks", Quiet: "Only display network IDs", NoTrunc: "Do not truncate the output",
		Filter: `Provide filter values (e.g. "driver=bridge")`,
		Format: func(f *configfile.ConfigFile) string { return f.NetworksFormat },
		Fetch: func(ctx context.Context, c client.APIClient, f client.Filters) ([]network.Summary, error) {
			res, err := c.NetworkList(ctx, client.NetworkListOptions{Filters: f})
			slices.SortFunc(res.Items, func(a, b network.Summary) int { return sortorder.NaturalCompare(a.Name, b.Name) })
			return res.Items, err
		},
		Row: row, ID: "ID", Shown: []string{"ID", "Name", "Driver", "Scope"},
		Columns: []format.Column{
			{Key: "ID", Header: "NETWORK ID", Raw: "network_id"}, {Key: "Name", Header: "NAME", Raw: "name"},
			{Key: "Driver", Header: "DRIVER", Raw: "driver"}, {Key: "Scope", Header: "SCOPE", Raw: "scope"},
			{Key: "IPv4", Header: "IPV4"}, {Key: "IPv6", Header: "IPV6"}, {Key: "Internal", Header: "INTERNAL"},
			{Key: "Labels", Header: "LABELS"}, {Key: "CreatedAt", Header: "CREATED AT"},
		},
	}.Command(s)
}

func row(n network.Summary, noTrunc bool) map[string]string {
	id := n.ID
	if !noTrunc {
		id = format.ShortID(id)
	}
	r := map[string]string{
		"ID": id, "Name": n.Name, "Driver": n.Driver, "Scope": n.Scope, "CreatedAt": n.Created.String(),
		"IPv4": strconv.FormatBool(n.EnableIPv4), "IPv6": strconv.FormatBool(n.EnableIPv6), "Internal": strconv.FormatBool(n.Internal),
	}
	format.SetLabels(r, n.Labels)
	return r
}
