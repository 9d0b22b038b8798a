package container

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"syscall"
	"time"

	"lighter/engine/label"

	"github.com/containerd/errdefs"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
)

// Remove deletes a container and all that is its own. A running one is a
// Conflict unless opts.Force is set.
//
// Commit point: the state "removing" in the store. From there on a crash or an
// error leaves a container that Open, or another Remove, finishes.
func (m *Manager) Remove(ctx context.Context, ref string, opts RemoveOptions) error {
	if opts.Link {
		return m.removeLink(ref)
	}
	e, err := m.lookup(ref)
	if err != nil {
		return err
	}
	err = m.remove(context.WithoutCancel(ctx), e, opts)
	switch {
	case err == nil:
		return nil
	case e.rec.Load().State == Removing && errdefs.IsConflict(err):
		return conflict("removal of container %s is already in progress", ref)
	}
	return fmt.Errorf("cannot remove container %q: %w", ref, err)
}

func (m *Manager) remove(ctx context.Context, e *entry, opts RemoveOptions) error {
	ctx = m.in(ctx)
	if err := m.acquireStopped(ctx, e, opts.Force); err != nil {
		return err
	}
	defer e.release()
	if m.unknown(e) {
		return nil // removed while we waited
	}
	r, err := m.commit(ctx, e, func(r *record) error { return r.move(evRemove) })
	if err != nil {
		if r != nil { // in memory, not on disk: do not start what may come back
			m.change(e, func(r *record) error { r.State = Dead; return nil })
		}
		return err
	}
	if err := m.erase(ctx, r, opts.Volumes); err != nil {
		m.change(e, func(r *record) error { r.Error = err.Error(); return r.move(evFail) })
		return err
	}
	m.forget(e)
	m.publish(r, events.ActionDestroy)
	e.removed(e.rec.Load())
	e.dropPending()
	return nil
}

// removeTries bounds how often a container that somebody starts again is killed
// to be removed.
const removeTries = 5

// acquireStopped takes e's operation slot when the container does not run, with
// force after it has been killed: again if a restart that was under way has
// started it meanwhile.
func (m *Manager) acquireStopped(ctx context.Context, e *entry, force bool) error {
	for try := 1; ; try++ {
		r := e.rec.Load()
		if r.State == Removing {
			return refusal(r, evRemove)
		}
		if r.State.active() {
			if !force {
				return refusal(r, evRemove)
			}
			if err := m.kill(ctx, e, syscall.SIGKILL); err != nil && !errdefs.IsConflict(err) {
				return fmt.Errorf("could not kill container: %w", err)
			}
		}
		if err := e.acquire(ctx); err != nil {
			return err
		}
		if !force || !e.rec.Load().State.active() || try == removeTries {
			return nil
		}
		e.release()
	}
}

// unknown reports whether e has been removed.
func (m *Manager) unknown(e *entry) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.byID[e.id] != e
}

// erase deletes what belongs to r. It is idempotent.
func (m *Manager) erase(ctx context.Context, r *record, volumes bool) error {
	var errs []error
	note := func(what string, err error) {
		if err != nil && !isNotFound(err) {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	note("remove task", m.eraseTask(ctx, r.ID))
	note("release network", m.Networks.Release(ctx, r.ID))
	note("remove spec", m.Services.Containers.Delete(ctx, r.ID))
	if sn, err := m.snapshotter(r); err != nil {
		note("remove file system", err)
	} else {
		note("remove file system", sn.Remove(ctx, r.ID))
	}
	note("remove mounted images", m.releaseImages(ctx, r))
	note("remove runtime directory", m.removeRunDir(r.ID))
	if len(errs) > 0 {
		return errors.Join(errs...) // keep the rest for another try
	}
	m.deliveries.stop(r.ID, removeGrace)
	note("remove volumes", m.releaseVolumes(ctx, r, volumes))
	note("remove directory", os.RemoveAll(m.dir(r.ID)))
	return errors.Join(errs...)
}

// eraseTask deletes a task that was left over.
func (m *Manager) eraseTask(ctx context.Context, id string) error {
	if _, err := m.Services.Tasks.State(ctx, id, ""); isNotFound(err) {
		return nil
	}
	return m.destroyTask(ctx, id)
}

// forget drops e from memory, and its record from the store when that writes
// next: until then Open would find it "removing" and finish it once more.
func (m *Manager) forget(e *entry) {
	r := e.rec.Load()
	m.mu.Lock()
	delete(m.byID, e.id)
	if m.names[r.Name] == e.id {
		delete(m.names, r.Name)
	}
	for id, x := range m.execs {
		if x.container == e.id {
			delete(m.execs, id)
		}
	}
	m.mu.Unlock()
	m.store.put(e.id, nil)
}

// Prune removes the stopped containers that match the filters until, label and
// label!.
func (m *Manager) Prune(ctx context.Context, opts PruneOptions) (api.PruneReport, error) {
	report := api.PruneReport{ContainersDeleted: []string{}}
	for key := range opts.Filters {
		if key != "until" && key != "label" && key != "label!" {
			return report, invalid("invalid filter '%s'", key)
		}
	}
	until, err := pruneUntil(opts.Filters["until"])
	if err != nil {
		return report, err
	}
	for _, e := range m.entries() {
		if ctx.Err() != nil {
			break
		}
		r := e.rec.Load()
		if r.State.active() || r.State == Removing || !until.IsZero() && r.Created.After(until) {
			continue
		}
		if !label.Match(r.Config.Labels, maps.Keys(opts.Filters["label"])) ||
			len(opts.Filters["label!"]) > 0 && label.Match(r.Config.Labels, maps.Keys(opts.Filters["label!"])) {
			continue
		}
		size, _, err := m.sizes(m.in(ctx), r)
		if err != nil {
			m.Log.Debug("cannot measure a container", "container", r.ID, "err", err)
		}
		if err := m.remove(context.WithoutCancel(ctx), e, RemoveOptions{}); err != nil {
			m.Log.Warn("cannot prune a container", "container", r.ID, "err", err)
			continue
		}
		report.ContainersDeleted = append(report.ContainersDeleted, r.ID)
		report.SpaceReclaimed += uint64(size)
	}
	m.Events.Publish(events.ContainerEventType, events.ActionPrune, events.Actor{
		Attributes: map[string]string{"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10)},
	})
	return report, context.Cause(ctx)
}

// pruneUntil reads the filter "until": a time stamp or how long ago.
func pruneUntil(terms map[string]bool) (time.Time, error) {
	if len(terms) > 1 {
		return time.Time{}, invalid("more than one until filter specified")
	}
	for term := range terms {
		return parseTime(term, time.Now())
	}
	return time.Time{}, nil
}

// parseTime reads a Unix time with fraction, an RFC 3339 time or a date, or a
// duration before now.
func parseTime(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		return time.Unix(0, int64(f*1e9)), nil
	}
	return time.Time{}, invalid("invalid time: %q", s)
}
