package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	api "github.com/moby/moby/api/types/container"
	eventtypes "github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"

	"lighter/engine/container/rootfs"
)

var bg = context.Background()

func TestLifecycle(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	evs, err := w.bus.Subscribe(t.Context(), time.Time{}, time.Time{}, nil)
	if err != nil {
		t.Fatal(err)
	}

	id := w.create(m, "web", "both")
	session, err := m.Attach(bg, "web", AttachOptions{Stdout: true, Stderr: true, Stream: true})
	if err != nil {
		t.Fatal(err)
	}
	client := newClient(strings.NewReader(""))
	served := make(chan error, 1)
	go func() { served <- session.Serve(bg, client) }()
	ended, err := m.Wait(bg, id, api.WaitConditionNextExit)
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := m.Start(bg, "web"); !changed || err != nil {
		t.Fatalf("Start() = %v, %v", changed, err)
	}
	if res := <-ended; res.StatusCode != 3 || res.Err != "" {
		t.Errorf("wait = %+v, want status 3", res)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve() = %v", err)
	}
	want := "\x01\x00\x00\x00\x00\x00\x00\x04out\n\x02\x00\x00\x00\x00\x00\x00\x04err\n"
	if got := client.out.String(); got != want {
		t.Errorf("attached output = %q, want %q", got, want)
	}
	logs, err := m.Logs(bg, "web", LogsOptions{Stdout: true, Stderr: true, Tail: -1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := logs.WriteTo(&out); err != nil || out.String() != want {
		t.Errorf("logs = %q, %v, want %q", out.String(), err, want)
	}
	logs.Close()

	got, err := m.Inspect(bg, id[:10], true)
	if err != nil {
		t.Fatal(err)
	}
	if s := got.State; s.Status != api.StateExited || s.Running || s.ExitCode != 3 || s.Pid != 0 {
		t.Errorf("state = %+v", s)
	}
	if got.Name != "/web" || got.Path != "both" || got.Config.Hostname != id[:12] || *got.SizeRw != 10 || *got.SizeRootFs != 20 {
		t.Errorf("inspect = %+v", got)
	}
	if w.networks.count() != 0 || len(w.tasks.running()) != 0 {
		t.Errorf("left behind: %d networks, tasks %v", w.networks.count(), w.tasks.running())
	}
	if err := m.Remove(bg, "web", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Inspect(bg, id, false); !errdefs.IsNotFound(err) || err.Error() != "No such container: "+id {
		t.Errorf("inspect after removal: %v", err)
	}
	if n := w.snaps.count(); n != 0 || len(w.specs.m) != 0 {
		t.Errorf("left behind: %d snapshots, %d specs", n, len(w.specs.m))
	}
	for _, dir := range []string{m.dir(id), m.runDir(id)} {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there", dir)
		}
	}
	var actions []string
	for len(actions) < 5 {
		ev := <-evs
		actions = append(actions, string(ev.Action))
		if ev.Actor.ID != id || ev.Actor.Attributes["name"] != "web" || ev.Actor.Attributes["image"] != "img" || ev.Actor.Attributes["img"] != "yes" {
			t.Errorf("event %s has actor %+v", ev.Action, ev.Actor)
		}
		if ev.Action == eventtypes.ActionDie && ev.Actor.Attributes["exitCode"] != "3" {
			t.Errorf("die has attributes %v", ev.Actor.Attributes)
		}
	}
	if want := []string{"create", "attach", "start", "die", "destroy"}; !slices.Equal(actions, want) {
		t.Errorf("events = %v, want %v", actions, want)
	}
}

func TestFailedStartLeavesNothing(t *testing.T) {
	for _, tt := range []struct {
		cmd  string
		code int
		text string
	}{
		{"missing", 127, `failed to create task for container: exec: "missing": executable file not found in $PATH`},
		{"denied", 126, `failed to create task for container: exec: "denied": permission denied`},
	} {
		t.Run(tt.cmd, func(t *testing.T) {
			w := newWorld(t)
			m := w.open()
			defer w.close(m)
			w.createWith(m, "xx", func(_ *api.Config, h *api.HostConfig) { h.RestartPolicy.Name = "always" }, tt.cmd)
			session, err := m.Attach(bg, "xx", AttachOptions{Stdout: true, Stream: true})
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- session.Serve(bg, newClient(strings.NewReader(""))) }()
			_, err = m.Start(bg, "xx")
			if !errdefs.IsInvalidArgument(err) || err.Error() != tt.text {
				t.Errorf("Start() = %v, want %q as InvalidArgument", err, tt.text)
			}
			<-served
			got, _ := m.Inspect(bg, "xx", false)
			if got.State.Status != api.StateCreated || got.State.ExitCode != tt.code || got.State.Error != tt.text {
				t.Errorf("state = %+v", got.State)
			}
			if w.networks.count() != 0 || len(w.tasks.running()) != 0 {
				t.Errorf("left behind: %d networks, tasks %v", w.networks.count(), w.tasks.running())
			}
		})
	}
	t.Run("network", func(t *testing.T) {
		w := newWorld(t)
		m := w.open()
		defer w.close(m)
		w.networks.fail = errdefs.ErrConflict.WithMessage("port is already allocated")
		id := w.create(m, "xx", "sleep")
		if _, err := m.Start(bg, "xx"); err == nil || !strings.Contains(err.Error(), "port is already allocated") {
			t.Errorf("Start() = %v", err)
		}
		w.networks.fail = nil
		w.start(m, id)
	})
}

func TestStopAndKill(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	w.create(m, "polite", "sleep")
	w.create(m, "stubborn", "stubborn")
	for _, name := range []string{"polite", "stubborn"} {
		w.start(m, name)
	}
	if changed, err := m.Start(bg, "polite"); changed || err != nil {
		t.Errorf("second Start() = %v, %v", changed, err)
	}
	if err := m.Kill(bg, "polite", "HUP"); err != nil || w.state(m, "polite") != Running {
		t.Errorf("Kill(HUP) = %v, state %v", err, w.state(m, "polite"))
	}
	if err := m.Remove(bg, "polite", RemoveOptions{}); !errdefs.IsConflict(err) ||
		err.Error() != `cannot remove container "polite": container is running: stop the container before removing or force remove` {
		t.Errorf("Remove() = %v", err)
	}
	for name, code := range map[string]int{"polite": 143, "stubborn": 137} {
		zero := 0
		if name == "polite" {
			zero = 10
		}
		if changed, err := m.Stop(bg, name, StopOptions{Timeout: &zero}); !changed || err != nil {
			t.Errorf("Stop(%s) = %v, %v", name, changed, err)
		}
		if got, _ := m.Inspect(bg, name, false); got.State.ExitCode != code {
			t.Errorf("%s ended with %d, want %d", name, got.State.ExitCode, code)
		}
		if changed, err := m.Stop(bg, name, StopOptions{}); changed || err != nil {
			t.Errorf("second Stop(%s) = %v, %v", name, changed, err)
		}
	}
	e, _ := m.lookup("polite")
	if err := m.Kill(bg, "polite", ""); !errdefs.IsConflict(err) || err.Error() != "cannot kill container: polite: container "+e.id+" is not running" {
		t.Errorf("Kill() = %v", err)
	}
	if err := m.Kill(bg, "polite", "BOGUS"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Kill(BOGUS) = %v", err)
	}
	if err := m.Restart(bg, "polite", StopOptions{}); err != nil || w.state(m, "polite") != Running {
		t.Errorf("Restart() = %v", err)
	}
	if err := m.Remove(bg, "polite", RemoveOptions{Force: true}); err != nil {
		t.Errorf("forced Remove() = %v", err)
	}
}

func TestPause(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	id := w.create(m, "pp", "sleep")
	if err := m.Pause(bg, "pp"); !errdefs.IsConflict(err) {
		t.Errorf("Pause() before start = %v", err)
	}
	w.start(m, "pp")
	if err := m.Pause(bg, "pp"); err != nil {
		t.Fatal(err)
	}
	if err := m.Pause(bg, "pp"); !errdefs.IsConflict(err) || err.Error() != "container "+id+" is already paused" {
		t.Errorf("second Pause() = %v", err)
	}
	if _, err := m.ExecCreate(bg, "pp", api.ExecCreateRequest{Cmd: []string{"x"}}); !errdefs.IsConflict(err) {
		t.Errorf("exec into a paused container: %v", err)
	}
	if _, err := m.Start(bg, "pp"); err == nil || err.Error() != "cannot start a paused container, try unpause instead" {
		t.Errorf("Start() of a paused container = %v", err)
	}
	if c := m.Count(); c != (Counts{Total: 1, Paused: 1}) {
		t.Errorf("Count() = %+v", c)
	}
	if _, err := m.Stop(bg, "pp", StopOptions{}); err != nil { // thaws it
		t.Errorf("Stop() = %v", err)
	}
	if err := m.Unpause(bg, "pp"); err == nil || err.Error() != "Container "+id+" is not paused" {
		t.Errorf("Unpause() = %v", err)
	}
}

func TestRestartPolicy(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	evs, err := w.bus.Subscribe(t.Context(), time.Time{}, time.Time{}, map[string]map[string]bool{"event": {"die": true}})
	if err != nil {
		t.Fatal(err)
	}
	policy := func(name api.RestartPolicyMode, n int) func(*api.Config, *api.HostConfig) {
		return func(_ *api.Config, h *api.HostConfig) {
			h.RestartPolicy = api.RestartPolicy{Name: name, MaximumRetryCount: n}
		}
	}
	w.createWith(m, "fail", policy("on-failure", 2), "exit", "4")
	w.start(m, "fail")
	for range 3 { // the run and two retries
		<-evs
	}
	w.wait(m, "fail", api.WaitConditionNotRunning)
	if got, _ := m.Inspect(bg, "fail", false); got.State.Status != api.StateExited || got.RestartCount != 2 {
		t.Errorf("after all retries: %v, %d restarts", got.State.Status, got.RestartCount)
	}
	w.createWith(m, "fine", policy("on-failure", 0), "exit", "0")
	w.start(m, "fine")
	<-evs
	if w.wait(m, "fine", api.WaitConditionNotRunning); w.state(m, "fine") != Exited {
		t.Errorf("a success was restarted")
	}
	w.createWith(m, "always", policy("always", 0), "exit", "0")
	w.start(m, "always")
	for range 4 {
		<-evs
	}
	if _, err := m.Stop(bg, "always", StopOptions{}); err != nil || w.state(m, "always") != Exited {
		t.Errorf("Stop() of a restarting container = %v, state %v", err, w.state(m, "always"))
	}
}

func TestBackoff(t *testing.T) {
	e := newEntry(&record{HostConfig: &api.HostConfig{}})
	var got []time.Duration
	for range 12 {
		got = append(got, e.nextBackoffLocked(time.Second))
	}
	if got[0] != 100*time.Millisecond || got[1] != 200*time.Millisecond || got[11] != time.Minute {
		t.Errorf("pauses = %v", got)
	}
	if d := e.nextBackoffLocked(steadyRun); d != firstBackoff {
		t.Errorf("after a steady run: %v", d)
	}
}

func TestAutoRemove(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	w.createWith(m, "once", func(_ *api.Config, h *api.HostConfig) {
		h.AutoRemove = true
		h.Mounts = []mount.Mount{{Type: mount.TypeVolume, Target: "/data"}}
	}, "exit", "7")
	if list, _ := m.Volumes.List(bg, nil); len(list.Volumes) != 1 {
		t.Fatalf("volumes = %v", list)
	} else if data, err := os.ReadFile(filepath.Join(list.Volumes[0].Mountpoint, "seed")); err != nil || string(data) != "from the image" {
		t.Errorf("copied up: %q, %v", data, err)
	}
	removed, err := m.Wait(bg, "once", api.WaitConditionRemoved)
	if err != nil {
		t.Fatal(err)
	}
	w.start(m, "once")
	if res := <-removed; res.StatusCode != 7 {
		t.Errorf("wait for removal = %+v", res)
	}
	if list, _ := m.Volumes.List(bg, nil); len(list.Volumes) != 0 {
		t.Errorf("the anonymous volume is still there")
	}
	if _, err := m.lookup("once"); !errdefs.IsNotFound(err) {
		t.Errorf("lookup after removal: %v", err)
	}
}

func TestNames(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	id := w.create(m, "a-1", "sleep")
	opts := func(name string) CreateOptions {
		return CreateOptions{Name: name, Config: &api.Config{Image: "img", Cmd: []string{"x"}}}
	}
	_, err := m.Create(bg, opts("/a-1"))
	want := fmt.Sprintf("Conflict. The container name %q is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.", "/a-1", id)
	if !errdefs.IsConflict(err) || err.Error() != want {
		t.Errorf("taken name: %v", err)
	}
	_, err = m.Create(bg, opts("foo!"))
	if !errdefs.IsInvalidArgument(err) || err.Error() != "Invalid container name (foo!), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed" {
		t.Errorf("bad name: %v", err)
	}
	if err := m.Rename(bg, "a-1", "b-2"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Inspect(bg, "a-1", false); !errdefs.IsNotFound(err) {
		t.Errorf("the old name still works: %v", err)
	}
	if got, err := m.Inspect(bg, "/b-2", false); err != nil || got.ID != id {
		t.Errorf("the new name: %v", err)
	}
	if err := m.Rename(bg, "b-2", "b-2"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("rename to itself: %v", err)
	}
	generated := w.create(m, "", "sleep")
	got, _ := m.Inspect(bg, generated, false)
	if !validName.MatchString(got.Name[1:]) {
		t.Errorf("generated name %q", got.Name)
	}
	if _, err := m.Create(bg, CreateOptions{Config: &api.Config{Image: "nope"}}); !errdefs.IsNotFound(err) || err.Error() != "No such image: nope:latest" {
		t.Errorf("missing image: %v", err)
	}
	if n := w.snaps.count(); n != 2 {
		t.Errorf("%d snapshots of 2 containers", n)
	}
}

func TestWedgedContainerDelaysNobody(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	id := w.create(m, "stuck", "sleep")
	w.create(m, "other", "exit", "5")
	wedge := make(chan struct{})
	w.tasks.wedged[id] = wedge
	started := make(chan error, 1)
	go func() {
		_, err := m.Start(bg, "stuck")
		started <- err
	}()
	// Its turn is taken once the slot is full.
	e, _ := m.lookup("stuck")
	for len(e.op) == 0 {
		select {
		case err := <-started:
			t.Fatal(err)
		default:
		}
	}
	ctx, cancel := context.WithTimeout(bg, 5*time.Second)
	defer cancel()
	if _, err := m.Inspect(ctx, "stuck", false); err != nil {
		t.Errorf("Inspect() = %v", err)
	}
	if list, err := m.List(ctx, ListOptions{All: true}); err != nil || len(list) != 2 {
		t.Errorf("List() = %v, %v", list, err)
	}
	w.start(m, "other")
	if res := w.wait(m, "other", api.WaitConditionNotRunning); res.StatusCode != 5 {
		t.Errorf("other ended with %+v", res)
	}
	short, stop := context.WithCancel(bg)
	stop()
	if err := m.Pause(short, "stuck"); !errors.Is(err, context.Canceled) {
		t.Errorf("an operation in the queue does not heed its context: %v", err)
	}
	close(wedge)
	if err := <-started; err != nil {
		t.Error(err)
	}
}

func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			name := fmt.Sprintf("c%d", i)
			cmd := []string{"sleep"}
			if i%2 == 0 {
				cmd = []string{"exit", "1"}
			}
			resp, err := m.Create(bg, CreateOptions{Name: name, Config: &api.Config{Image: "img", Cmd: cmd}})
			if err != nil {
				t.Error(err)
				return
			}
			var inner sync.WaitGroup
			for range 3 {
				inner.Go(func() { m.Start(bg, name) })
				inner.Go(func() { m.List(bg, ListOptions{All: true}) })
				inner.Go(func() { m.Stop(bg, resp.ID, StopOptions{}) })
				inner.Go(func() { m.Rename(bg, resp.ID, name+"x") })
			}
			inner.Wait()
			if err := m.Remove(bg, resp.ID, RemoveOptions{Force: true}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if c := m.Count(); c.Total != 0 {
		t.Errorf("Count() = %+v", c)
	}
	if len(m.names) != 0 || w.snaps.count() != 0 || w.networks.count() != 0 || len(w.tasks.running()) != 0 {
		t.Errorf("left behind: names %v, %d snapshots, %d networks, tasks %v", m.names, w.snaps.count(), w.networks.count(), w.tasks.running())
	}
}

func TestListFilters(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	a := w.createWith(m, "alpha", func(c *api.Config, _ *api.HostConfig) { c.Labels = map[string]string{"tier": "web"} }, "exit", "2")
	b := w.createWith(m, "beta", func(_ *api.Config, h *api.HostConfig) { h.Binds = []string{"/tmp:/mnt", "vol:/v"} }, "sleep")
	w.start(m, "alpha")
	w.start(m, "beta")
	w.wait(m, "alpha", api.WaitConditionNotRunning)
	for _, tt := range []struct {
		name    string
		all     bool
		limit   int
		filters map[string]map[string]bool
		want    []string
	}{
		{"running only", false, 0, nil, []string{b}},
		{"all", true, 0, nil, []string{b, a}},
		{"limit", false, 1, nil, []string{b}},
		{"name", true, 0, map[string]map[string]bool{"name": {"lph": true}}, []string{a}},
		{"name anchored", true, 0, map[string]map[string]bool{"name": {"^/beta$": true}}, []string{b}},
		{"id", true, 0, map[string]map[string]bool{"id": {a[:8]: true}}, []string{a}},
		{"label", true, 0, map[string]map[string]bool{"label": {"tier=web": true}}, []string{a}},
		{"image label", true, 0, map[string]map[string]bool{"label": {"img": true}}, []string{b, a}},
		{"exited", true, 0, map[string]map[string]bool{"exited": {"2": true}}, []string{a}},
		{"status", false, 0, map[string]map[string]bool{"status": {"exited": true}}, []string{a}},
		{"volume", true, 0, map[string]map[string]bool{"volume": {"vol": true}}, []string{b}},
		{"bind", true, 0, map[string]map[string]bool{"volume": {"/mnt": true}}, []string{b}},
		{"network", true, 0, map[string]map[string]bool{"network": {"b12": true}}, []string{b}},
		{"ancestor", true, 0, map[string]map[string]bool{"ancestor": {"img": true}}, []string{b, a}},
		{"unknown ancestor", true, 0, map[string]map[string]bool{"ancestor": {"nope": true}}, nil},
		{"since", true, 0, map[string]map[string]bool{"since": {"alpha": true}}, []string{b}},
		{"before", true, 0, map[string]map[string]bool{"before": {"beta": true}}, []string{a}},
		{"health", true, 0, map[string]map[string]bool{"health": {"none": true}}, []string{b, a}},
		{"is-task", true, 0, map[string]map[string]bool{"is-task": {"true": true}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list, err := m.List(bg, ListOptions{All: tt.all, Limit: tt.limit, Filters: tt.filters})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range list {
				got = append(got, s.ID)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	if _, err := m.List(bg, ListOptions{Filters: map[string]map[string]bool{"bogus": {"x": true}}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("unknown filter: %v", err)
	}
	if r, err := m.Prune(bg, PruneOptions{}); err != nil || !slices.Equal(r.ContainersDeleted, []string{a}) || r.SpaceReclaimed != 10 {
		t.Errorf("Prune() = %+v, %v", r, err)
	}
	if _, err := m.Top(bg, "beta", ""); err != nil {
		t.Errorf("Top() = %v", err)
	}
}

func TestChangesLeaveOutMountPoints(t *testing.T) {
	found := []rootfs.Change{
		{Kind: rootfs.Added, Path: "/dev"}, {Kind: rootfs.Modified, Path: "/etc"}, {Kind: rootfs.Added, Path: "/etc/hosts"},
		{Kind: rootfs.Modified, Path: "/var"}, {Kind: rootfs.Added, Path: "/var/x"},
	}
	if got := withoutMountPoints(found); !slices.Equal(got, found[3:]) {
		t.Errorf("got %v, want %v", got, found[3:])
	}
	found = append(found, rootfs.Change{Kind: rootfs.Deleted, Path: "/etc/motd"})
	if got := withoutMountPoints(found); len(got) != 4 || got[0].Path != "/etc" {
		t.Errorf("got %v", got)
	}
}

func TestNetworkChanges(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	w.create(m, "cc", "sleep")
	if err := m.ConnectNetwork(bg, "cc", "blue", nil); err != nil {
		t.Fatal(err)
	}
	w.start(m, "cc")
	if err := m.ConnectNetwork(bg, "cc", "red", nil); err != nil {
		t.Fatal(err)
	}
	if err := m.ConnectNetwork(bg, "cc", "red", nil); !errdefs.IsPermissionDenied(err) {
		t.Errorf("second ConnectNetwork() = %v", err)
	}
	if err := m.DisconnectNetwork(bg, "cc", "red", false); err != nil {
		t.Fatal(err)
	}
	if err := m.DisconnectNetwork(bg, "cc", "red", false); !errdefs.IsConflict(err) {
		t.Errorf("second DisconnectNetwork() = %v", err)
	}
}

var _ snapshots.Snapshotter = (*fakeSnapshots)(nil)
