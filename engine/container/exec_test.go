package container

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	api "github.com/moby/moby/api/types/container"
	eventtypes "github.com/moby/moby/api/types/events"
)

func TestExec(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	w.create(m, "cc", "sleep")
	if _, err := m.ExecCreate(bg, "cc", api.ExecCreateRequest{Cmd: []string{"x"}}); !errdefs.IsConflict(err) {
		t.Errorf("exec into a stopped container: %v", err)
	}
	w.start(m, "cc")
	e, _ := m.lookup("cc")
	m.change(e, func(r *record) error { r.Pid = os.Getpid(); return nil }) // its root is ours
	run := func(cmd ...string) (string, int) {
		t.Helper()
		id, err := m.ExecCreate(bg, "cc", api.ExecCreateRequest{Cmd: cmd, AttachStdout: true, AttachStderr: true})
		if err != nil {
			t.Fatal(err)
		}
		s, err := m.ExecStart(bg, id, ExecStartOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.ExecStart(bg, id, ExecStartOptions{}); !errdefs.IsConflict(err) {
			t.Errorf("second ExecStart() = %v", err)
		}
		client := newClient(strings.NewReader(""))
		s.Serve(bg, client)
		got, err := m.ExecInspect(bg, id)
		if err != nil || got.ExitCode == nil || got.Running {
			t.Fatalf("ExecInspect() = %+v, %v", got, err)
		}
		return client.out.String(), *got.ExitCode
	}
	if out, code := run("both"); code != 3 || !strings.Contains(out, "out\n") || !strings.Contains(out, "err\n") {
		t.Errorf("exec = %q, %d", out, code)
	}
	if out, code := run("missing"); code != 127 || !strings.HasSuffix(out, "executable file not found in $PATH\r\n") {
		t.Errorf("missing program = %q, %d", out, code)
	}
	if _, err := m.ExecInspect(bg, "nope"); !errdefs.IsNotFound(err) || err.Error() != "No such exec instance: nope" {
		t.Errorf("unknown exec: %v", err)
	}
	if _, err := m.ExecCreate(bg, "cc", api.ExecCreateRequest{Cmd: []string{"x"}, User: "no-such-user"}); !errdefs.IsInvalidArgument(err) ||
		err.Error() != "unable to find user no-such-user: no matching entries in passwd file" {
		t.Errorf("unknown user: %v", err)
	}
}

func TestHealthBecomesUnhealthy(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	evs, err := w.bus.Subscribe(t.Context(), time.Time{}, time.Time{}, map[string]map[string]bool{"event": {"health_status": true}})
	if err != nil {
		t.Fatal(err)
	}
	w.createWith(m, "sick", func(c *api.Config, _ *api.HostConfig) {
		c.Healthcheck = &api.HealthConfig{Test: []string{"CMD", "both"}, Interval: 5 * time.Millisecond, Retries: 2}
	}, "sleep")
	w.start(m, "sick")
	e, _ := m.lookup("sick")
	m.change(e, func(r *record) error { r.Pid = os.Getpid(); return nil })
	if ev := <-evs; ev.Action != eventtypes.ActionHealthStatusUnhealthy {
		t.Errorf("event %q", ev.Action)
	}
	got, _ := m.Inspect(bg, "sick", false)
	if h := got.State.Health; h == nil || h.Status != api.Unhealthy || len(h.Log) < 2 || h.Log[len(h.Log)-1].Output != "out\nerr\n" && h.Log[len(h.Log)-1].ExitCode != -1 {
		t.Errorf("health = %+v", h)
	}
}
