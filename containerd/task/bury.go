package task

import (
	"context"
	"errors"
	"time"

	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"lighter/containerd"
)

// exitKilled is the exit code of a process that SIGKILL ended: what becomes of
// the processes of a dead shim.
const exitKilled = 128 + 9

// shimGrace is how long a shim may take to exit after it was told to, or after
// its connection ended.
const shimGrace = 5 * time.Second

// disconnected is called when the connection to a shim has ended, for any
// reason. Only when nobody expected it the shim has died.
func (m *Manager) disconnected(t *task) {
	m.background(func() { // when the Manager is closed, it was that
		if !t.advance(disconnected) {
			return
		}
		m.log.Warn("shim died, killing what is left of its task", "namespace", t.namespace, "task", t.id,
			"log", t.bundle.tail(logName, 4096))
		m.bury(t)
	})
}

// bury removes a dying task whose shim is dead or must go: it kills the shim,
// has the shim binary delete the container with its processes, tells everybody
// who waits, and removes the bundle. It does as much as it can.
func (m *Manager) bury(t *task) {
	log := m.log.With("namespace", t.namespace, "task", t.id)
	t.mu.Lock()
	s := t.shim
	t.mu.Unlock()
	if s != nil {
		s.close()
		if s.child != nil {
			if err := errors.Join(s.child.kill(), s.child.reap(shimGrace)); err != nil {
				log.Error("can't end shim", "pid", s.child.pid, "err", err)
			}
		}
	}
	exit := containerd.Exit{Code: exitKilled}
	if t.binary != "" {
		if resp, err := m.deleteVerb(m.life, t); err != nil {
			log.Error("can't delete what a dead shim left: its processes and cgroups may remain", "err", err)
		} else if resp.GetExitStatus() != 0 {
			exit = exitOf(resp.GetPid(), resp.GetExitStatus(), resp.GetExitedAt())
		} else {
			exit.Pid = resp.GetPid()
		}
	}
	if m.life.Err() != nil {
		return // closed in the middle: the bundle stays for the next run
	}
	if exit.ExitedAt.IsZero() {
		exit.ExitedAt = time.Now().UTC()
	}
	m.announceDeath(t, exit)
	t.bundle.removeSocket()
	if err := t.bundle.remove(); err != nil {
		log.Error("can't remove bundle", "err", err)
	}
	m.forget(t)
}

// announceDeath records and publishes the exits of the processes of a dead shim
// that it has not published itself.
func (m *Manager) announceDeath(t *task, exit containerd.Exit) {
	t.mu.Lock()
	made, deletion := t.made, t.deletion
	if t.procs[""] == nil {
		t.procs[""] = newProcess(containerd.TaskState{ID: t.id, Bundle: t.bundle.path})
	}
	type ended struct {
		execID string
		exit   containerd.Exit
	}
	var news []ended
	for execID, p := range t.procs {
		started := p.state.Status != containerd.StatusCreated
		if p.exited(containerd.Exit{Code: exit.Code, ExitedAt: exit.ExitedAt}) && execID != "" && started {
			news = append(news, ended{execID, p.state.Exit})
		} else if execID == "" && p.state.Exit.Pid == 0 {
			p.state.Exit.Pid = exit.Pid
		}
	}
	init := t.procs[""].state.Exit
	t.mu.Unlock()
	if !made || deletion != nil {
		return
	}
	// init last: who sees it has seen all. It is published even when the shim may
	// have done so: a repeated exit does less harm than a missing one.
	for _, e := range append(news, ended{"", init}) {
		id := e.execID
		if id == "" {
			id = t.id
		}
		m.publish(t, "/tasks/exit", &events.TaskExit{
			ContainerID: t.id, ID: id, Pid: e.exit.Pid, ExitStatus: e.exit.Code, ExitedAt: timestamppb.New(e.exit.ExitedAt),
		})
	}
	m.publish(t, "/tasks/delete", &events.TaskDelete{
		ContainerID: t.id, Pid: init.Pid, ExitStatus: init.Code, ExitedAt: timestamppb.New(init.ExitedAt),
	})
}

func (m *Manager) publish(t *task, topic string, event any) {
	if err := m.cfg.Events.Publish(namespaces.WithNamespace(m.life, t.namespace), topic, event); err != nil {
		m.log.Error("can't publish event", "namespace", t.namespace, "task", t.id, "err", err)
	}
}

// abandon removes a dying task that its shim, which may be well, has not made or
// not made completely.
func (m *Manager) abandon(t *task) {
	t.mu.Lock()
	s := t.shim
	t.mu.Unlock()
	if s == nil {
		m.bury(t)
		return
	}
	err := s.call(m.life, promptTimeout, "Delete", &api.DeleteRequest{ID: t.id}, &api.DeleteResponse{})
	if err != nil && !errdefs.IsNotFound(err) {
		m.bury(t)
		return
	}
	m.dismiss(t, s)
	m.release(t)
}

// release removes the bundle of a dying task whose shim has deleted the
// container, and frees its ID.
func (m *Manager) release(t *task) {
	if err := t.bundle.remove(); err != nil {
		m.log.Error("can't remove bundle", "namespace", t.namespace, "task", t.id, "err", err)
	}
	m.forget(t)
}

// dismiss ends a shim that has nothing left to do.
func (m *Manager) dismiss(t *task, s *shim) {
	log := m.log.With("namespace", t.namespace, "task", t.id)
	// Also when we are being closed: nobody would find this shim again.
	if err := s.shutdown(context.WithoutCancel(m.life), t.id); err != nil {
		log.Warn("shim did not shut down", "err", err)
	}
	if s.child != nil {
		if err := s.child.reap(shimGrace); err != nil {
			log.Error("can't end shim", "pid", s.child.pid, "err", err)
		}
	}
}
