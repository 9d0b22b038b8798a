package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/format"
	"lighter/cli/session"
)

var statsColumns = []format.Column{
	{Key: "Container", Header: "CONTAINER"}, {Key: "ID", Header: "CONTAINER ID"}, {Key: "Name", Header: "NAME"},
	{Key: "CPUPerc", Header: "CPU %"}, {Key: "MemUsage", Header: "MEM USAGE / LIMIT"}, {Key: "MemPerc", Header: "MEM %"},
	{Key: "NetIO", Header: "NET I/O"}, {Key: "BlockIO", Header: "BLOCK I/O"}, {Key: "PIDs", Header: "PIDS"},
}

// statsOptions are the flags of stats.
type statsOptions struct {
	all, once, noTrunc bool
	spec               string
}

func newStatsCommand(s *session.Session) *cobra.Command {
	var o statsOptions
	cmd := &cobra.Command{
		Use: "stats [OPTIONS] [CONTAINER...]", Short: "Display a live stream of container(s) resource usage statistics",
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.spec == "" {
				o.spec = s.Config().StatsFormat
			}
			c, err := s.Client()
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), s, c, args)
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&o.all, "all", "a", false, "Show all containers (default shows just running)")
	fs.BoolVar(&o.once, "no-stream", false, "Disable streaming stats and only pull the first result")
	fs.BoolVar(&o.noTrunc, "no-trunc", false, "Do not truncate output")
	fs.StringVar(&o.spec, "format", "", "Format output using a custom template")
	return cmd
}

// refresh is the time between two pictures of a live display.
const refresh = 500 * time.Millisecond

func (o *statsOptions) run(ctx context.Context, s *session.Session, c client.APIClient, names []string) error {
	ctx, cancel := context.WithCancel(ctx)
	b := board{c: c, once: o.once, noTrunc: o.noTrunc}
	defer b.group.Wait()
	defer cancel()
	var watch <-chan events.Message
	var watchErr <-chan error
	if len(names) > 0 {
		for _, name := range names {
			b.add(ctx, name)
		}
	} else {
		if !o.once { // before the list, so that no start is missed
			res := c.Events(ctx, client.EventsListOptions{Filters: make(client.Filters).Add("type", "container")})
			watch, watchErr = res.Messages, res.Err
		}
		list, err := c.ContainerList(ctx, client.ContainerListOptions{All: o.all})
		if err != nil {
			return err
		}
		for _, ctr := range list.Items {
			b.add(ctx, ctr.ID)
		}
	}
	if o.once {
		b.group.Wait()
		return errors.Join(b.print(s.Out, o.spec), b.failure())
	}
	tick := time.NewTicker(refresh)
	defer tick.Stop()
	for {
		select {
		case m := <-watch:
			o.follow(ctx, &b, m)
		case err := <-watchErr:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			if len(names) > 0 && b.idle() {
				return b.failure()
			}
			if !b.complete() {
				continue
			}
			var picture bytes.Buffer
			if err := b.print(&picture, o.spec); err != nil {
				return err
			}
			if err := draw(s, picture.String()); err != nil {
				return err
			}
		}
	}
}

// follow adds a container that appeared and drops one that went.
func (o *statsOptions) follow(ctx context.Context, b *board, m events.Message) {
	switch m.Action {
	case events.ActionCreate:
		if o.all {
			b.add(ctx, m.Actor.ID)
		}
	case events.ActionStart:
		b.add(ctx, m.Actor.ID)
	case events.ActionDie:
		if !o.all {
			b.remove(m.Actor.ID)
		}
	case events.ActionDestroy:
		b.remove(m.Actor.ID)
	}
}

// draw shows a picture; on a terminal in the place of the one before.
func draw(s *session.Session, picture string) error {
	if s.OutIsTerminal() {
		// Home, the end of each line and the rest of the screen cleared.
		picture = "\x1b[H" + strings.ReplaceAll(picture, "\n", "\x1b[K\n") + "\x1b[J"
	}
	_, err := io.WriteString(s.Out, picture)
	return err
}

// board is what is known of the containers shown, in their order.
type board struct {
	c             client.APIClient
	once, noTrunc bool
	group         sync.WaitGroup

	mu   sync.Mutex
	rows []*usage
}

// usage is a line of the board. The board's mutex guards it.
type usage struct {
	name  string // as the user wrote it
	stats container.StatsResponse
	known bool  // stats has been received
	ended bool  // nothing more will come
	err   error // why
	stop  context.CancelFunc
}

func (b *board) add(ctx context.Context, name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := b.find(name); i >= 0 {
		if !b.rows[i].ended {
			return
		}
		b.rows = slices.Delete(b.rows, i, i+1)
	}
	ctx, cancel := context.WithCancel(ctx)
	u := &usage{name: name, stop: cancel}
	b.rows = append(b.rows, u)
	b.group.Go(func() {
		defer cancel()
		err := b.collect(ctx, u)
		b.mu.Lock()
		defer b.mu.Unlock()
		u.ended = true
		if !errors.Is(err, io.EOF) || !u.known {
			u.err = err
		}
	})
}

func (b *board) remove(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := b.find(name); i >= 0 {
		b.rows[i].stop()
		b.rows = slices.Delete(b.rows, i, i+1)
	}
}

func (b *board) find(name string) int {
	return slices.IndexFunc(b.rows, func(u *usage) bool { return u.name == name })
}

// collect receives the numbers of one container until there are no more.
func (b *board) collect(ctx context.Context, u *usage) error {
	res, err := b.c.ContainerStats(ctx, u.name, client.ContainerStatsOptions{Stream: !b.once, IncludePreviousSample: b.once})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	dec := json.NewDecoder(res.Body)
	for {
		var stats container.StatsResponse
		if err := dec.Decode(&stats); err != nil {
			return err
		}
		b.mu.Lock()
		u.stats, u.known = stats, true
		b.mu.Unlock()
		if b.once {
			return nil
		}
	}
}

// complete reports whether something is known of every container.
func (b *board) complete() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !slices.ContainsFunc(b.rows, func(u *usage) bool { return !u.known && !u.ended })
}

// idle reports whether nothing more will come.
func (b *board) idle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !slices.ContainsFunc(b.rows, func(u *usage) bool { return !u.ended })
}

// failure joins what went wrong.
func (b *board) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var failed []error
	for _, u := range b.rows {
		failed = append(failed, u.err)
	}
	return errors.Join(failed...)
}

func (b *board) print(w io.Writer, spec string) error {
	b.mu.Lock()
	rows := make([]map[string]string, 0, len(b.rows))
	for _, u := range b.rows {
		if u.known || u.err == nil {
			rows = append(rows, u.row(b.noTrunc))
		}
	}
	b.mu.Unlock()
	return format.Rows(w, spec, []string{"ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"}, statsColumns, rows)
}

func (u *usage) row(noTrunc bool) map[string]string {
	row := map[string]string{"Container": u.name, "ID": "--", "Name": "--", "CPUPerc": "--", "MemUsage": "-- / --", "MemPerc": "--", "NetIO": "--", "BlockIO": "--", "PIDs": "--"}
	if !u.known {
		return row
	}
	st := &u.stats
	row["ID"], row["Name"] = st.ID, strings.TrimPrefix(st.Name, "/")
	if !noTrunc {
		row["ID"] = format.ShortID(st.ID)
	}
	if u.ended && u.err != nil {
		return row
	}
	used, share := memoryUse(st.MemoryStats), 0.0
	if st.MemoryStats.Limit != 0 {
		share = float64(used) / float64(st.MemoryStats.Limit) * 100
	}
	var received, sent, read, written uint64
	for _, n := range st.Networks {
		received, sent = received+n.RxBytes, sent+n.TxBytes
	}
	for _, e := range st.BlkioStats.IoServiceBytesRecursive {
		switch strings.ToLower(e.Op) {
		case "read":
			read += e.Value
		case "write":
			written += e.Value
		}
	}
	row["CPUPerc"], row["MemPerc"] = percent(processorUse(st)), percent(share)
	row["MemUsage"] = units.BytesSize(float64(used)) + " / " + units.BytesSize(float64(st.MemoryStats.Limit))
	row["NetIO"], row["BlockIO"] = transferred(received, sent), transferred(read, written)
	row["PIDs"] = strconv.FormatUint(st.PidsStats.Current, 10)
	return row
}

func percent(v float64) string { return fmt.Sprintf("%.2f%%", v) }

func transferred(in, out uint64) string {
	return units.HumanSizeWithPrecision(float64(in), 3) + " / " + units.HumanSizeWithPrecision(float64(out), 3)
}

// memoryUse is what is used without the page cache that the kernel would give up
// first: total_inactive_file of cgroup v1, inactive_file of v2.
func memoryUse(m container.MemoryStats) uint64 {
	cache, ok := m.Stats["total_inactive_file"]
	if !ok {
		cache = m.Stats["inactive_file"]
	}
	if cache >= m.Usage {
		return m.Usage
	}
	return m.Usage - cache
}

// processorUse is the share of one processor, in percent, between the two
// samples of st.
func processorUse(st *container.StatsResponse) float64 {
	now, before := st.CPUStats, st.PreCPUStats
	used := float64(now.CPUUsage.TotalUsage) - float64(before.CPUUsage.TotalUsage)
	passed := float64(now.SystemUsage) - float64(before.SystemUsage)
	if used <= 0 || passed <= 0 {
		return 0
	}
	processors := float64(now.OnlineCPUs)
	if processors == 0 {
		processors = float64(len(now.CPUUsage.PercpuUsage))
	}
	return used / passed * processors * 100
}
