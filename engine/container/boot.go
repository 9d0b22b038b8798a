package container

import (
	"context"
	"sync"
	"time"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
)

// dependencyLimit bounds how long a container waits, at the engine's start, for
// one that it depends on. Then it is started all the same.
const dependencyLimit = 2 * time.Minute

// boot is the start of the containers at the engine's start: those that others
// depend on first.
type boot struct {
	deps    map[string][]dependency
	decided map[string]chan struct{} // by ID; closed when the container has been started, or is not to be
	once    map[string]*sync.Once
}

func newBoot(all []*record) *boot {
	b := &boot{deps: dependencies(all), decided: map[string]chan struct{}{}, once: map[string]*sync.Once{}}
	for _, r := range all {
		b.decided[r.ID], b.once[r.ID] = make(chan struct{}), new(sync.Once)
	}
	return b
}

// decide tells those that depend on the container that its start has been tried,
// or will not be. It is idempotent.
func (b *boot) decide(id string) {
	if once := b.once[id]; once != nil {
		once.Do(func() { close(b.decided[id]) })
	}
}

// awaitDependencies returns when what e depends on is as it wants it, or will not
// be, or after dependencyLimit. Its only error is the end of the Manager.
func (m *Manager) awaitDependencies(e *entry) error {
	if len(m.boot.deps[e.id]) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(m.life, dependencyLimit)
	defer cancel()
	for _, d := range m.boot.deps[e.id] {
		m.mu.RLock()
		on := m.byID[d.id]
		m.mu.RUnlock()
		if on == nil {
			continue
		}
		select {
		case <-m.boot.decided[d.id]:
		case <-ctx.Done():
		}
		m.awaitCondition(ctx, on, d.condition)
		if m.life.Err() != nil {
			return m.life.Err()
		}
		if ctx.Err() != nil {
			m.Log.Warn("start a container without the one that it depends on", "container", e.id, "dependency", d.id, "condition", d.condition)
		}
	}
	return nil
}

// awaitCondition waits until a dependency is healthy, or has ended, if that is
// what is wanted of it.
func (m *Manager) awaitCondition(ctx context.Context, e *entry, condition string) {
	switch condition {
	case "service_completed_successfully":
		done, _ := e.wait(ctx, api.WaitConditionNotRunning)
		<-done
	case "service_healthy":
		changes, err := m.Events.Subscribe(ctx, time.Time{}, time.Time{}, map[string]map[string]bool{
			"type": {string(events.ContainerEventType): true}, "container": {e.id: true},
		})
		for err == nil {
			// Looked at after the subscription: no change is missed.
			r := e.rec.Load()
			if r.Health == nil || r.Health.Status != api.Starting || !r.State.active() {
				return
			}
			if _, ok := <-changes; !ok {
				return
			}
		}
	}
}
