package task

import (
	"context"

	eventapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"

	"lighter/containerd"
)

// Forward takes an event from a shim: it updates what is known of the task, then
// passes the event on, so that a subscriber who asks finds what the event said.
// It implements events.Forwarder.
func (m *Manager) Forward(ctx context.Context, env *events.Envelope) error {
	m.observe(env)
	return m.cfg.Events.Forward(ctx, env)
}

func (m *Manager) observe(env *events.Envelope) {
	switch env.Topic {
	case "/tasks/start", "/tasks/exec-started", "/tasks/exit", "/tasks/paused", "/tasks/resumed":
	default:
		return
	}
	payload, err := typeurl.UnmarshalAny(env.Event)
	if err != nil {
		m.log.Warn("can't decode a shim's event", "topic", env.Topic, "namespace", env.Namespace, "err", err)
		return
	}
	of, ok := payload.(interface{ GetContainerID() string })
	if !ok {
		return
	}
	m.mu.Lock()
	t := m.tasks[key{env.Namespace, of.GetContainerID()}]
	m.mu.Unlock()
	if t == nil {
		return
	}
	switch e := payload.(type) {
	case *eventapi.TaskStart:
		t.update("", func(p *process) { p.setStatus(containerd.StatusRunning) })
	case *eventapi.TaskExecStarted:
		t.update(e.GetExecID(), func(p *process) { p.setStatus(containerd.StatusRunning) })
	case *eventapi.TaskExit:
		execID := e.GetID()
		if execID == e.GetContainerID() {
			execID = ""
		}
		t.update(execID, func(p *process) {
			// An event that was on its way for long may be of a former task with
			// this ID. One that is not believed does no harm: who waits for the
			// process has asked the shim as well.
			if e.GetPid() != 0 && e.GetPid() == p.state.Pid {
				p.exited(exitOf(e.GetPid(), e.GetExitStatus(), e.GetExitedAt()))
			}
		})
	case *eventapi.TaskPaused:
		t.update("", func(p *process) { p.setStatus(containerd.StatusPaused) })
	case *eventapi.TaskResumed:
		t.update("", func(p *process) { p.setStatus(containerd.StatusRunning) })
	}
}
