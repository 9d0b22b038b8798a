package container

import (
	"errors"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

func TestReconfigure(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	id := w.createWith(m, "web", func(c *api.Config, h *api.HostConfig) {
		c.Env, c.Labels = []string{"A=1", "B=2"}, map[string]string{"keep": "k", "drop": "d"}
		h.Binds = []string{"old:/old", "both:/both"}
	}, "sleep")
	w.start(m, "web")
	before, _ := m.lookup("web")
	snapshots := w.snaps.count()
	port := network.MustParsePort("80/tcp")
	_, err := m.Reconfigure(bg, "web", Reconfiguration{
		Publish: network.PortMap{port: {{HostPort: "8080"}}},
		Env:     []string{"A=9", "C=3"}, EnvRemove: []string{"B", "unknown"},
		Labels: map[string]string{"new": "n"}, LabelsRemove: []string{"drop"},
		Binds: []string{"fresh:/both"}, Unmount: []string{"/old/"},
	})
	if err != nil {
		t.Fatal(err)
	}
	e, err := m.lookup("web")
	if err != nil || e != before || e.id != id {
		t.Fatalf("the container is another one: %v", err)
	}
	r := e.rec.Load()
	if r.State != Running || r.Former != nil || r.ManuallyStopped {
		t.Errorf("state %v, former %v, manually stopped %v", r.State, r.Former, r.ManuallyStopped)
	}
	if env := r.Config.Env[:2]; !slices.Equal(env, []string{"A=9", "PATH=/bin"}) || !slices.Contains(r.Config.Env, "C=3") {
		t.Errorf("env %q", r.Config.Env)
	}
	if l := r.Config.Labels; l["keep"] != "k" || l["new"] != "n" || l["drop"] != "" {
		t.Errorf("labels %v", l)
	}
	if _, exposed := r.Config.ExposedPorts[port]; !exposed || len(r.HostConfig.PortBindings[port]) != 1 {
		t.Errorf("ports %v, exposed %v", r.HostConfig.PortBindings, r.Config.ExposedPorts)
	}
	if len(r.Mounts) != 1 || r.Mounts[0].Name != "fresh" || !slices.Equal(r.HostConfig.Binds, []string{"fresh:/both"}) {
		t.Errorf("mounts %+v, binds %q", r.Mounts, r.HostConfig.Binds)
	}
	if n := w.snaps.count(); n != snapshots {
		t.Errorf("%d snapshots, had %d", n, snapshots)
	}
	// What is not mounted any more is free, and still there.
	if err := m.Volumes.Remove(bg, "old", false); err != nil {
		t.Errorf("remove the volume that was unmounted: %v", err)
	}
	if err := m.Volumes.Remove(bg, "fresh", false); !errdefs.IsConflict(err) {
		t.Errorf("remove the volume that is mounted: %v", err)
	}
}

func TestReconfigureGoesBack(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	w.createWith(m, "web", func(c *api.Config, h *api.HostConfig) {
		c.Env, h.Binds, h.AutoRemove = []string{"A=1"}, []string{"data:/data"}, true
	}, "sleep")
	w.start(m, "web")
	e, _ := m.lookup("web")
	cause := errors.New("port is already allocated")
	w.networks.mu.Lock()
	w.networks.failOnce = cause
	w.networks.mu.Unlock()
	_, err := m.Reconfigure(bg, "web", Reconfiguration{Env: []string{"A=2"}, Binds: []string{"more:/more"}})
	if !errors.Is(err, cause) {
		t.Errorf("the update ended with %v", err)
	}
	r := e.rec.Load()
	if r.State != Running || r.Former != nil || r.Config.Env[0] != "A=1" || len(r.Mounts) != 1 || r.Error != "" {
		t.Errorf("after the failure: %v %q %+v %q", r.State, r.Config.Env, r.Mounts, r.Error)
	}
	if err := m.Volumes.Remove(bg, "more", false); err != nil {
		t.Errorf("remove the volume of the failed update: %v", err)
	}
	// What cannot be is refused before anything is stopped.
	for _, bad := range []Reconfiguration{
		{Env: []string{"=x"}}, {Binds: []string{"a:/x", "b:/x"}}, {Volumes: []string{"relative"}}, {Binds: []string{"/h:/"}},
	} {
		started := e.rec.Load().StartedAt
		if _, err := m.Reconfigure(bg, "web", bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", bad, err)
		}
		if e.rec.Load().StartedAt != started {
			t.Errorf("%+v: the container was started again", bad)
		}
	}
}

func TestReconfigureStates(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	w.create(m, "idle", "sleep")
	if _, err := m.Reconfigure(bg, "idle", Reconfiguration{Env: []string{"A=2"}}); err != nil {
		t.Fatal(err)
	}
	if s := w.state(m, "idle"); s != Created {
		t.Errorf("a container that was created is %v", s)
	}
	w.start(m, "idle")
	e, _ := m.lookup("idle")
	started := e.rec.Load().StartedAt
	if _, err := m.Reconfigure(bg, "idle", Reconfiguration{Labels: map[string]string{"a": "b"}}); err != nil {
		t.Fatal(err)
	}
	if r := e.rec.Load(); r.Config.Labels["a"] != "b" || r.StartedAt != started {
		t.Errorf("labels %v, started %v, was %v", r.Config.Labels, r.StartedAt, started)
	}
	if err := m.Pause(bg, "idle"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Reconfigure(bg, "idle", Reconfiguration{Env: []string{"A=3"}}); !errdefs.IsConflict(err) {
		t.Errorf("of a paused one: %v", err)
	}
	if r := e.rec.Load(); r.Former != nil {
		t.Error("a refused update is under way")
	}
}

func TestReconfigureInterrupted(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	w.createWith(m, "web", func(c *api.Config, h *api.HostConfig) {
		c.Env, h.Binds = []string{"A=1"}, []string{"data:/data"}
	}, "sleep")
	w.start(m, "web")
	e, _ := m.lookup("web")
	change := Reconfiguration{Env: []string{"A=2"}, Unmount: []string{"/data"}}
	ctx := m.in(bg)
	if err := m.acquireForChange(ctx, e, &change); err != nil {
		t.Fatal(err)
	}
	next, _, _, err := m.changed(e.rec.Load(), &change)
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.commit(ctx, e, func(r *record) error {
		r.Config, r.HostConfig, r.Mounts = next.Config, next.HostConfig, next.Mounts
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	e.release()
	w.crash(m)

	m = w.open()
	defer w.close(m)
	e, err = m.lookup("web")
	if err != nil {
		t.Fatal(err)
	}
	if r := e.rec.Load(); r.Former != nil || r.Config.Env[0] != "A=1" || len(r.Mounts) != 1 {
		t.Errorf("after the crash: %v %q %+v", r.Former, r.Config.Env, r.Mounts)
	}
	if _, err := m.Start(bg, "web"); err != nil { // waits for the start under way
		t.Error(err)
	}
	if s := w.state(m, "web"); s != Running {
		t.Errorf("after the crash it is %v", s)
	}
	if err := m.Volumes.Remove(bg, "data", false); !errdefs.IsConflict(err) {
		t.Errorf("remove the volume: %v", err)
	}
}
