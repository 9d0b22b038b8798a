package container

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/format"
	"lighter/cli/session"
)

// Columns are those of a list of containers.
var Columns = []format.Column{
	{Key: "ID", Header: "CONTAINER ID", Raw: "container_id"}, {Key: "Image", Header: "IMAGE", Raw: "image"},
	{Key: "Command", Header: "COMMAND", Raw: "command"}, {Key: "RunningFor", Header: "CREATED"},
	{Key: "CreatedAt", Header: "CREATED AT", Raw: "created_at"}, {Key: "State", Header: "STATE", Raw: "state"},
	{Key: "Status", Header: "STATUS", Raw: "status"}, {Key: "HealthStatus", Header: "HEALTH STATUS"},
	{Key: "Names", Header: "NAMES", Raw: "names"}, {Key: "Labels", Header: "LABELS", Raw: "labels"},
	{Key: "Ports", Header: "PORTS", Raw: "ports"}, {Key: "Size", Header: "SIZE"}, {Key: "Mounts", Header: "MOUNTS"},
	{Key: "LocalVolumes", Header: "LOCAL VOLUMES"}, {Key: "Networks", Header: "NETWORKS"}, {Key: "Platform", Header: "PLATFORM"},
}

func newListCommand(s *session.Session) *cobra.Command {
	var all, quiet, noTrunc, size, latest bool
	var last int
	var filters []string
	var spec string
	cmd := &cobra.Command{
		Use: "ps [OPTIONS]", Short: "List containers", Args: session.NoArgs, Aliases: []string{"ls", "list"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := session.Filters(filters)
			if err != nil {
				return err
			}
			c, err := s.Client()
			if err != nil {
				return err
			}
			if spec == "" && !quiet {
				spec = s.Config().PsFormat
			}
			opts := client.ContainerListOptions{All: all, Size: size || strings.Contains(spec, ".Size"), Limit: last, Filters: f}
			if latest {
				opts.Limit = 1
			}
			list, err := c.ContainerList(cmd.Context(), opts)
			if err != nil {
				return err
			}
			if quiet {
				if cmd.Flags().Changed("format") {
					fmt.Fprintln(s.Err, "WARNING: Ignoring custom format, because both --format and --quiet are set.")
				}
				for _, ctr := range list.Items {
					id := ctr.ID
					if !noTrunc {
						id = format.ShortID(id)
					}
					fmt.Fprintln(s.Out, id)
				}
				return nil
			}
			shown := []string{"ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"}
			if size {
				shown = append(shown, "Size")
			}
			rows := make([]map[string]string, 0, len(list.Items))
			for _, ctr := range list.Items {
				rows = append(rows, Row(ctr, noTrunc))
			}
			return format.Rows(s.Out, spec, shown, Columns, rows)
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&all, "all", "a", false, "Show all containers (default shows just running)")
	fs.BoolVarP(&quiet, "quiet", "q", false, "Only display container IDs")
	fs.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
	fs.BoolVarP(&size, "size", "s", false, "Display total file sizes")
	fs.BoolVarP(&latest, "latest", "l", false, "Show the latest created container (includes all states)")
	fs.IntVarP(&last, "last", "n", -1, "Show n last created containers (includes all states)")
	fs.StringArrayVarP(&filters, "filter", "f", nil, "Filter output based on conditions provided")
	fs.StringVar(&spec, "format", "", "Format output using a custom template")
	return cmd
}

// Row is a container as its columns.
func Row(c container.Summary, noTrunc bool) map[string]string {
	id, image, command := c.ID, c.Image, strconv.Quote(c.Command)
	if image == "" {
		image = "<no image>"
	}
	if !noTrunc {
		id = format.ShortID(id)
		command = strconv.Quote(format.Ellipsis(c.Command, 18))
		if strings.HasPrefix(image, "sha256:") {
			image = format.ShortID(image)
		}
	}
	names := make([]string, 0, len(c.Names))
	for _, n := range c.Names {
		names = append(names, strings.TrimPrefix(n, "/"))
	}
	var mounts []string
	volumes := 0
	for _, m := range c.Mounts {
		name := cmp.Or(m.Name, m.Source)
		if !noTrunc {
			name = format.Ellipsis(name, 15)
		}
		mounts = append(mounts, name)
		if m.Driver == "local" {
			volumes++
		}
	}
	var networks []string
	if c.NetworkSettings != nil {
		networks = slices.Sorted(maps.Keys(c.NetworkSettings.Networks))
	}
	created := time.Unix(c.Created, 0)
	size := units.HumanSizeWithPrecision(float64(c.SizeRw), 3)
	if c.SizeRootFs > 0 {
		size += " (virtual " + units.HumanSizeWithPrecision(float64(c.SizeRootFs), 3) + ")"
	}
	r := map[string]string{
		"ID": id, "Image": image, "Command": command, "CreatedAt": created.Format("2006-01-02 15:04:05 -0700 MST"),
		"RunningFor": units.HumanDuration(time.Since(created)) + " ago", "State": string(c.State), "Status": c.Status,
		"Ports": displayPorts(c.Ports), "Names": strings.Join(names, ","), "Size": size, "HealthStatus": "", "Platform": "",
		"Mounts": strings.Join(mounts, ","), "LocalVolumes": strconv.Itoa(volumes), "Networks": strings.Join(networks, ","),
	}
	if c.Health != nil {
		r["HealthStatus"] = string(c.Health.Status)
	}
	if d := c.ImageManifestDescriptor; d != nil && d.Platform != nil {
		r["Platform"] = platforms.Format(*d.Platform)
	}
	format.SetLabels(r, c.Labels)
	return r
}

// displayPorts writes ports as ps shows them, consecutive ones as a range.
func displayPorts(ports []container.PortSummary) string {
	type run struct {
		ip              string
		proto           string
		private, public uint16
		within          int
	}
	slices.SortFunc(ports, func(a, b container.PortSummary) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.IP.String(), b.IP.String()),
			cmp.Compare(a.PrivatePort, b.PrivatePort), cmp.Compare(a.PublicPort, b.PublicPort))
	})
	var runs []run
	for _, p := range ports {
		ip := ""
		if p.PublicPort != 0 && p.IP.IsValid() {
			ip = p.IP.String()
		}
		if n := len(runs) - 1; n >= 0 {
			last := &runs[n]
			next := last.private+uint16(last.within)+1 == p.PrivatePort && last.proto == p.Type && last.ip == ip
			samePublic := last.public == 0 && p.PublicPort == 0 || last.public != 0 && p.PublicPort == last.public+uint16(last.within)+1
			if next && samePublic {
				last.within++
				continue
			}
		}
		runs = append(runs, run{ip: ip, proto: p.Type, private: p.PrivatePort, public: p.PublicPort})
	}
	out := make([]string, 0, len(runs))
	for _, r := range runs {
		text := portRange(r.private, r.within) + "/" + r.proto
		if r.public != 0 {
			text = net.JoinHostPort(r.ip, portRange(r.public, r.within)) + "->" + text
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func portRange(first uint16, more int) string {
	if more == 0 {
		return strconv.Itoa(int(first))
	}
	return fmt.Sprintf("%d-%d", first, int(first)+more)
}

func hostPort(b network.PortBinding) string { return net.JoinHostPort(b.HostIP.String(), b.HostPort) }

func sortedPorts(ports network.PortMap) []network.Port {
	return slices.SortedFunc(maps.Keys(ports), func(a, b network.Port) int {
		return cmp.Or(cmp.Compare(a.Num(), b.Num()), cmp.Compare(a.Proto(), b.Proto()))
	})
}
