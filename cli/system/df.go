package system

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/container"
	"lighter/cli/format"
	"lighter/cli/image"
	"lighter/cli/session"
	"lighter/cli/volume"
)

func newDiskUsageCommand(s *session.Session) *cobra.Command {
	var verbose bool
	var spec string
	cmd := &cobra.Command{
		Use: "df [OPTIONS]", Short: "Show docker disk usage", Args: session.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			// Nothing asked for is everything, also what this client has no
			// name for; the numbers of older engines need the objects too.
			du, err := c.DiskUsage(cmd.Context(), client.DiskUsageOptions{
				Containers: true, Images: true, Volumes: true, BuildCache: true, Verbose: verbose,
			})
			if err != nil {
				return err
			}
			logs := logUsage(cmd.Context(), s, verbose)
			if !verbose {
				return printSummary(s, spec, du, logs)
			}
			return printDetails(s, spec, du, logs)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "Show detailed information on space usage")
	cmd.Flags().StringVar(&spec, "format", "", "Format output using a custom template")
	return cmd
}

// logs is the space that containers' logs take; only Lighter's engine knows.
type logs struct {
	ActiveCount, TotalCount, TotalSize, Reclaimable int64
	Items                                           []struct {
		Container, Name string
		Active          bool
		Size            int64
	}
}

// logUsage is nil with an engine that does not count logs.
func logUsage(ctx context.Context, s *session.Session, verbose bool) *logs {
	var answer struct{ LogUsage *logs }
	query := url.Values{"type": {"log"}}
	if verbose {
		query.Set("verbose", "1")
	}
	if err := s.Get(ctx, "/system/df", query, &answer); err != nil {
		s.Log().Debug("Usage of logs", "error", err)
		return nil
	}
	return answer.LogUsage
}

func printSummary(s *session.Session, spec string, du client.DiskUsageResult, l *logs) error {
	rows := []map[string]string{
		summary("Images", du.Images.TotalCount, du.Images.ActiveCount, du.Images.TotalSize, du.Images.Reclaimable),
		summary("Containers", du.Containers.TotalCount, du.Containers.ActiveCount, du.Containers.TotalSize, du.Containers.Reclaimable),
		summary("Local Volumes", du.Volumes.TotalCount, du.Volumes.ActiveCount, du.Volumes.TotalSize, du.Volumes.Reclaimable),
		summary("Build Cache", du.BuildCache.TotalCount, du.BuildCache.ActiveCount, du.BuildCache.TotalSize, du.BuildCache.Reclaimable),
	}
	rows[3]["Reclaimable"], _, _ = strings.Cut(rows[3]["Reclaimable"], " ")
	if l != nil {
		rows = append(rows, summary("Container Logs", l.TotalCount, l.ActiveCount, l.TotalSize, l.Reclaimable))
	}
	return format.Rows(s.Out, spec, []string{"Type", "TotalCount", "Active", "Size", "Reclaimable"}, []format.Column{
		{Key: "Type", Header: "TYPE", Raw: "type"}, {Key: "TotalCount", Header: "TOTAL", Raw: "total"}, {Key: "Active", Header: "ACTIVE", Raw: "active"},
		{Key: "Size", Header: "SIZE", Raw: "size"}, {Key: "Reclaimable", Header: "RECLAIMABLE", Raw: "reclaimable"},
	}, rows)
}

func summary(kind string, total, active, size, reclaimable int64) map[string]string {
	text := units.HumanSize(float64(reclaimable))
	if size > 0 {
		text += fmt.Sprintf(" (%d%%)", reclaimable*100/size)
	}
	return map[string]string{
		"Type": kind, "TotalCount": strconv.FormatInt(total, 10), "Active": strconv.FormatInt(active, 10),
		"Size": units.HumanSize(float64(size)), "Reclaimable": text,
	}
}

// section is a part of the detailed report.
type section struct {
	key, title string
	shown      []string
	columns    []format.Column
	rows       []map[string]string
}

func printDetails(s *session.Session, spec string, du client.DiskUsageResult, l *logs) error {
	sections := details(du, l)
	if spec != "" {
		data := map[string][]map[string]string{}
		for _, sec := range sections {
			rows := make([]map[string]string, 0, len(sec.rows))
			for _, r := range sec.rows {
				rows = append(rows, format.Public(r))
			}
			data[sec.key] = rows
		}
		return format.Template(s.Out, spec, data)
	}
	for i, sec := range sections {
		if i > 0 {
			fmt.Fprintln(s.Out)
		}
		fmt.Fprintf(s.Out, "%s\n\n", sec.title)
		if err := format.Rows(s.Out, "", sec.shown, sec.columns, sec.rows); err != nil {
			return err
		}
	}
	return nil
}

func details(du client.DiskUsageResult, l *logs) []section {
	images := section{
		key: "Images", title: "Images space usage:", columns: image.Columns,
		shown: []string{"Repository", "Tag", "ID", "CreatedSince", "Size", "SharedSize", "UniqueSize", "Containers"},
	}
	for _, img := range du.Images.Items {
		images.rows = append(images.rows, image.Rows(img, false)...)
	}
	containers := section{
		key: "Containers", title: "Containers space usage:", columns: container.Columns,
		shown: []string{"ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names"},
	}
	for _, c := range du.Containers.Items {
		r := container.Row(c, false)
		r["Size"] = units.HumanSizeWithPrecision(float64(c.SizeRw), 3)
		containers.rows = append(containers.rows, r)
	}
	volumes := section{
		key: "Volumes", title: "Local Volumes space usage:", columns: volume.Columns, shown: []string{"Name", "Links", "Size"},
	}
	for _, v := range du.Volumes.Items {
		volumes.rows = append(volumes.rows, volume.Row(v))
	}
	sections := []section{images, containers, volumes, buildCache(du.BuildCache)}
	if l != nil {
		sec := section{
			key: "Logs", title: "Container logs space usage:", shown: []string{"ID", "Name", "Size"},
			columns: []format.Column{{Key: "ID", Header: "CONTAINER ID"}, {Key: "Name", Header: "NAME"}, {Key: "Size", Header: "SIZE"}},
		}
		for _, it := range l.Items {
			sec.rows = append(sec.rows, map[string]string{
				"ID": format.ShortID(it.Container), "Name": strings.TrimPrefix(it.Name, "/"), "Size": units.HumanSize(float64(it.Size)),
			})
		}
		sections = append(sections, sec)
	}
	return sections
}

func buildCache(du client.BuildCacheDiskUsage) section {
	sec := section{
		key: "BuildCache", title: "Build cache usage: " + units.HumanSize(float64(du.TotalSize)),
		shown: []string{"ID", "CacheType", "Size", "CreatedSince", "LastUsedSince", "UsageCount", "Shared"},
		columns: []format.Column{
			{Key: "ID", Header: "CACHE ID"}, {Key: "CacheType", Header: "CACHE TYPE"}, {Key: "Size", Header: "SIZE"},
			{Key: "CreatedSince", Header: "CREATED"}, {Key: "LastUsedSince", Header: "LAST USED"}, {Key: "UsageCount", Header: "USAGE"}, {Key: "Shared", Header: "SHARED"},
		},
	}
	items := slices.Clone(du.Items)
	slices.SortStableFunc(items, func(a, b build.CacheRecord) int {
		return strings.Compare(a.ID, b.ID)
	})
	for _, r := range items {
		id := r.ID
		if len(id) > 12 {
			id = id[:12]
		}
		if r.InUse {
			id += "*"
		}
		row := map[string]string{
			"ID": id, "Parent": strings.Join(r.Parents, ", "), "CacheType": r.Type, "Size": units.HumanSizeWithPrecision(float64(r.Size), 3),
			"CreatedSince": ago(r.CreatedAt), "CreatedAt": r.CreatedAt.String(), "LastUsedAt": "", "LastUsedSince": "",
			"UsageCount": strconv.Itoa(r.UsageCount), "InUse": strconv.FormatBool(r.InUse), "Shared": strconv.FormatBool(r.Shared), "Description": r.Description,
		}
		if r.LastUsedAt != nil {
			row["LastUsedAt"], row["LastUsedSince"] = r.LastUsedAt.String(), ago(*r.LastUsedAt)
		}
		sec.rows = append(sec.rows, row)
	}
	return sec
}

func ago(at time.Time) string { return units.HumanDuration(time.Since(at)) + " ago" }
