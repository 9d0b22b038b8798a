package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"

	"lighter/runc/cgroup"
)

const defaultInterval = 5 * time.Second

func eventsFlags(fs *flagSet) {
	fs.string(new(string), "interval", "", "DURATION", "time between two readings (default: 5s)")
	fs.bool(new(bool), "stats", "", "print one reading and exit")
}

// runEvents prints readings of the container's counters and out-of-memory
// notifications, a JSON document a line, until the container is gone.
func runEvents(ctx context.Context, a *app, fs *flagSet, args []string) error {
	if err := operands(args, 1, 1); err != nil {
		return err
	}
	interval, err := time.ParseDuration(fs.value("interval", defaultInterval.String()))
	if err != nil || interval <= 0 {
		return fmt.Errorf("--interval: invalid duration %q", fs.value("interval", ""))
	}
	e := eventPrinter{w: a.stdout, id: args[0]}
	if e.paths, err = a.rt.RunningCgroup(ctx, e.id); err != nil {
		return err
	}
	if fs.set["stats"] {
		return e.stats()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	oom, err := cgroup.WatchOOM(ctx, e.paths)
	if err != nil && !errdefs.IsNotImplemented(err) {
		return err
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case _, ok := <-oom:
			if !ok {
				return nil // the group is gone
			}
			err = e.print("oom", nil)
		case <-tick.C:
			if _, gone := a.rt.RunningCgroup(ctx, e.id); gone != nil {
				return nil
			}
			err = e.stats()
		}
		if err != nil {
			return err
		}
	}
}

// eventPrinter writes the events of one container.
type eventPrinter struct {
	w     io.Writer
	id    string
	paths map[string]string
}

func (e *eventPrinter) print(kind string, data any) error {
	return json.NewEncoder(e.w).Encode(struct {
		Type string `json:"type"`
		ID   string `json:"id"`
		Data any    `json:"data,omitempty"`
	}{kind, e.id, data})
}

func (e *eventPrinter) stats() error {
	m, err := cgroup.Load(e.paths)
	if err != nil {
		return err
	}
	s, err := m.Stats()
	if err != nil {
		return err
	}
	return e.print("stats", newStats(s))
}
