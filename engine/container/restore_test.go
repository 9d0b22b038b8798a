package container

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	ctrdcontainers "github.com/containerd/containerd/v2/core/containers"
	api "github.com/moby/moby/api/types/container"

	"lighter/containerd"
)

func TestCrashKeepsWhatWasPromised(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	id := w.createWith(m, "kept", func(_ *api.Config, h *api.HostConfig) { h.Binds = []string{"vol:/v"} }, "exit", "9")
	w.create(m, "gone", "sleep")
	w.start(m, "kept")
	if res := w.wait(m, "kept", api.WaitConditionNotRunning); res.StatusCode != 9 {
		t.Fatal(res)
	}
	if err := m.Rename(bg, "kept", "renamed"); err != nil {
		t.Fatal(err)
	}
	if err := m.Remove(bg, "gone", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	w.crash(m)

	m = w.open()
	defer w.close(m)
	got, err := m.Inspect(bg, "renamed", false)
	if err != nil || got.ID != id || got.State.ExitCode != 9 || got.State.Status != api.StateExited {
		t.Errorf("after the crash: %+v, %v", got.State, err)
	}
	if err := m.Volumes.Remove(bg, "vol", false); err == nil {
		t.Error("the volume of a container can be removed after a restart")
	}
	// The removal was promised, its record may come back as "removing": then it is finished.
	w.gone(m, "gone")
}

// gone waits for a container to be removed.
func (w *world) gone(m *Manager, ref string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(bg, 10*time.Second)
	defer cancel()
	ch, err := m.Wait(ctx, ref, api.WaitConditionRemoved)
	if err != nil {
		return
	}
	if _, ok := <-ch; !ok {
		w.t.Errorf("%s is still there", ref)
	}
}

func TestSecondEngineIsRefused(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	_, err := Open(bg, m.Deps, w.cfg)
	if err == nil {
		t.Fatal("two engines share one data root")
	}
}

func TestLiveRestoreAdopts(t *testing.T) {
	w := newWorld(t)
	w.cfg.LiveRestore = true
	m := w.open()
	id := w.create(m, "cc", "sleep")
	w.start(m, "cc")
	if err := m.Close(bg); err != nil {
		t.Fatal(err)
	}
	if len(w.tasks.running()) != 1 {
		t.Fatal("the task did not survive")
	}
	m = w.open()
	defer w.close(m)
	if w.state(m, "cc") != Running || len(w.networks.restored) != 1 || w.networks.restored[id] == 0 || w.networks.count() != 1 {
		t.Errorf("state %v, networks restored %v", w.state(m, "cc"), w.networks.restored)
	}
	session, err := m.Attach(bg, "cc", AttachOptions{Stdout: true, Stream: true})
	if err != nil {
		t.Fatalf("attach to an adopted container: %v", err)
	}
	session.Close()
	if _, err := m.Stop(bg, "cc", StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, _ := m.Inspect(bg, "cc", false); got.State.ExitCode != 143 {
		t.Errorf("exit code %d", got.State.ExitCode)
	}
}

func TestStartUnwrittenAtTheCrashIsAdopted(t *testing.T) {
	w := newWorld(t)
	w.cfg.LiveRestore = true
	m := w.open()
	w.create(m, "cc", "sleep")
	w.start(m, "cc") // in memory; written within lazyDelay
	w.crash(m)
	m = w.open()
	defer w.close(m)
	if s := w.state(m, "cc"); s != Running {
		t.Errorf("state = %v, want running: the task is", s)
	}
	if _, err := m.Stop(bg, "cc", StopOptions{}); err != nil {
		t.Error(err)
	}
}

func TestWithoutLiveRestoreLeftoversAreStopped(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	w.create(m, "plain", "sleep")
	w.createWith(m, "again", func(_ *api.Config, h *api.HostConfig) { h.RestartPolicy.Name = "always" }, "sleep")
	w.createWith(m, "once", func(_ *api.Config, h *api.HostConfig) { h.AutoRemove = true }, "sleep")
	evs, err := w.bus.Subscribe(t.Context(), time.Time{}, time.Time{}, map[string]map[string]bool{"event": {"start": true}, "container": {"again": true}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"plain", "again", "once"} {
		w.start(m, name)
	}
	<-evs
	w.crash(m)
	m = w.open()
	defer w.close(m)
	w.wait(m, "plain", api.WaitConditionNotRunning)
	if got, _ := m.Inspect(bg, "plain", false); got.State.ExitCode != 143 {
		t.Errorf("plain ended with %d", got.State.ExitCode)
	}
	<-evs // the policy starts it once more
	if s := w.state(m, "again"); s != Running {
		t.Errorf("again is %v", s)
	}
	w.gone(m, "once")
}

func TestExitWhileNoEngineRan(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	id := w.create(m, "cc", "sleep")
	lost := w.create(m, "lost", "sleep")
	for _, name := range []string{"cc", "lost"} {
		w.start(m, name)
		e, _ := m.lookup(name)
		if _, err := m.commit(bg, e, func(*record) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	w.crash(m)
	if err := w.tasks.Kill(bg, id, "", 9, false); err != nil {
		t.Fatal(err)
	}
	if _, err := w.tasks.Wait(bg, id, ""); err != nil {
		t.Fatal(err)
	}
	w.tasks.mu.Lock()
	w.tasks.m[lost].listener.Close()
	delete(w.tasks.m, lost) // the machine went down
	w.tasks.mu.Unlock()

	m = w.open()
	defer w.close(m)
	for ref, code := range map[string]int{"cc": 137, "lost": 255} {
		if res := w.wait(m, ref, api.WaitConditionNotRunning); res.StatusCode != code {
			t.Errorf("%s ended with %+v, want %d", ref, res, code)
		}
	}
}

func TestOpenSweeps(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	w.create(m, "cc", "sleep")
	w.close(m)
	old := time.Now().Add(-time.Hour)
	leftover := m.dir("0123")
	if err := os.MkdirAll(filepath.Join(leftover, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.snaps.Prepare(bg, "0123", "chain", func(i *snapshotInfo) error {
		i.Labels = map[string]string{labelContainer: "0123"}
		return nil
	})
	w.snaps.m["foreign"] = snapshotInfo{Name: "foreign"}
	w.specs.Create(bg, ctrdcontainers.Container{ID: "0123", Labels: map[string]string{labelContainer: "0123"}, CreatedAt: old})
	w.specs.Create(bg, ctrdcontainers.Container{ID: "foreign", CreatedAt: old})
	m = w.open()
	w.close(m) // waits for the sweep
	if _, err := os.Stat(leftover); !errors.Is(err, os.ErrNotExist) {
		t.Error("the directory was not swept")
	}
	if w.snaps.count() != 2 || len(w.specs.m) != 1 {
		t.Errorf("%d snapshots, specs %v: want the container's and what is not ours", w.snaps.count(), w.specs.m)
	}
}

func TestInterruptedRemovalIsFinished(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	id := w.create(m, "cc", "sleep")
	e, _ := m.lookup("cc")
	if _, err := m.commit(bg, e, func(r *record) error { return r.move(evRemove) }); err != nil {
		t.Fatal(err)
	}
	w.crash(m)
	m = w.open()
	w.gone(m, id)
	w.close(m)
	if w.snaps.count() != 0 {
		t.Error("the snapshot is still there")
	}
}

func TestCloseStopsAll(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	one := 1
	w.create(m, "aa", "sleep")
	w.createWith(m, "bb", func(c *api.Config, h *api.HostConfig) { c.StopTimeout = &one; h.RestartPolicy.Name = "always" }, "stubborn")
	w.start(m, "aa")
	w.start(m, "bb")
	w.close(m)
	if r := w.tasks.running(); len(r) != 0 {
		t.Errorf("tasks left: %v", r)
	}
	if w.networks.count() != 0 {
		t.Error("networks left")
	}
}

func TestStoreRefusesOtherVersions(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	w.close(m)
	path := filepath.Join(w.cfg.DataRoot, "containers.db")
	setVersion(t, path, "2")
	if _, err := Open(bg, m.Deps, w.cfg); err == nil {
		t.Error("a database of a newer version was opened")
	}
}

var _ containerd.Tasks = (*fakeTasks)(nil)
