package container

import (
	"context"

	api "github.com/moby/moby/api/types/container"
)

// waiter is a caller of Wait.
type waiter struct {
	condition api.WaitCondition
	c         chan WaitResult // capacity 1: one result is sent, then it is closed
	stop      func() bool     // ends the watch of the caller's context
}

// Wait reports when the container meets condition. The caller is registered when
// Wait returns: an exit after that is not missed. The channel receives one result
// and is closed; it is closed without one when ctx ends first.
func (m *Manager) Wait(ctx context.Context, ref string, condition api.WaitCondition) (<-chan WaitResult, error) {
	switch condition {
	case "":
		condition = api.WaitConditionNotRunning
	case api.WaitConditionNotRunning, api.WaitConditionNextExit, api.WaitConditionRemoved:
	default:
		return nil, invalid("invalid condition: %q", condition)
	}
	e, err := m.lookup(ref)
	if err != nil {
		return nil, err
	}
	w, _ := e.wait(ctx, condition)
	return w, nil
}

// wait registers a waiter and returns the record that it starts from.
func (e *entry) wait(ctx context.Context, condition api.WaitCondition) (<-chan WaitResult, *record) {
	w := &waiter{condition: condition, c: make(chan WaitResult, 1)}
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.rec.Load()
	if condition == api.WaitConditionNotRunning && !r.State.active() && e.exited == nil {
		w.c <- r.result()
		close(w.c)
		return w.c, r
	}
	if e.waiters == nil { // removed since it was looked up
		w.c <- r.result()
		close(w.c)
		return w.c, r
	}
	e.waiters[w] = struct{}{}
	w.stop = context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if _, ok := e.waiters[w]; ok {
			delete(e.waiters, w)
			close(w.c)
		}
	})
	return w.c, r
}

func (r *record) result() WaitResult { return WaitResult{StatusCode: r.ExitCode, Err: r.waitError()} }

// waitError is the reason of a container that could not be started.
func (r *record) waitError() string {
	if r.State == Dead || r.StartedAt.IsZero() {
		return r.Error
	}
	return ""
}

// stopped tells the waiters that a run has ended; removed tells all.
func (e *entry) stopped(r *record) { e.finish(r, false) }
func (e *entry) removed(r *record) { e.finish(r, true) }

func (e *entry) finish(r *record, gone bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for w := range e.waiters {
		if !gone && w.condition == api.WaitConditionRemoved {
			continue
		}
		w.stop()
		delete(e.waiters, w)
		w.c <- r.result()
		close(w.c)
	}
	if gone {
		e.waiters = nil
	}
}
