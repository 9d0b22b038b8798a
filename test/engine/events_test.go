package engine

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"lighter/test/harness"
)

// message is a line of docker events.
type message struct {
	Type, Action string
	Actor        struct {
		ID         string
		Attributes map[string]string
	}
	Scope    string `json:"scope"`
	TimeNano int64  `json:"timeNano"`
}

func (m message) String() string { return m.Type + " " + m.Action }

// eventsBetween asks the history.
func eventsBetween(t *testing.T, d *harness.Daemon, docker, since, until string, filters ...string) []message {
	t.Helper()
	args := []string{"events", "--since", since, "--until", until, "--format", "{{json .}}"}
	for _, f := range filters {
		args = append(args, "--filter", f)
	}
	r := d.CLI(docker, "", args...)
	if r.Code != 0 {
		t.Fatalf("docker %q = %+v", args, r)
	}
	var got []message
	for line := range strings.Lines(r.Stdout) {
		var m message
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("events printed %q: %v", line, err)
		}
		got = append(got, m)
	}
	return got
}

func words(list []message) []string {
	out := make([]string, len(list))
	for i, m := range list {
		out[i] = m.String()
	}
	return out
}

// now is the daemon's clock, as events and logs take it.
func now(t *testing.T, d *harness.Daemon) string {
	t.Helper()
	return d.OK("info", "--format", "{{.SystemTime}}")
}

// A run tells all that happens, once and in order.
func TestEventsOfRun(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		d.OK("volume", "create", "data")
		eachCLI(t, func(t *testing.T, docker string) {
			since := now(t, d)
			if r := d.CLI(docker, "", "run", "--rm", "--name", "told", "--label", "who=me", "-v", "data:/data", "busybox", "sh", "-c", "exit 3"); r.Code != 3 {
				t.Fatalf("run = %+v", r)
			}
			var got []message
			// The removal goes on when the command line has returned.
			harness.Eventually(t, commandLimit, "the last event", func() bool {
				got = eventsBetween(t, d, docker, since, now(t, d))
				return len(got) > 0 && got[len(got)-1].Action == "destroy"
			})
			want := []string{
				"container create", "container attach", "network connect", "volume mount", "container start",
				"network disconnect", "volume unmount", "container die", "container destroy",
			}
			// The network and the volumes of a start come in either order.
			inOrder := func(list []string) []string {
				list = slices.Clone(list)
				for i := 1; i < len(list); i++ {
					if strings.HasPrefix(list[i-1], "volume ") && strings.HasPrefix(list[i], "network ") {
						list[i-1], list[i] = list[i], list[i-1]
					}
				}
				return list
			}
			if !slices.Equal(inOrder(words(got)), want) {
				t.Fatalf("events = %q, want %q", words(got), want)
			}
			id := got[0].Actor.ID
			for i, m := range got {
				a := m.Actor.Attributes
				if m.Scope != "local" {
					t.Errorf("%v has the scope %q", m, m.Scope)
				}
				if i > 0 && m.TimeNano <= got[i-1].TimeNano {
					t.Errorf("%v is not later than %v", m, got[i-1])
				}
				switch m.Type {
				case "container":
					if m.Actor.ID != id || a["name"] != "told" || a["image"] != "busybox" || a["who"] != "me" {
						t.Errorf("%v = %+v", m, m.Actor)
					}
					if m.Action == "die" && (a["exitCode"] != "3" || a["execDuration"] == "") {
						t.Errorf("%v = %v, want exitCode and execDuration", m, a)
					}
				case "network":
					if a["container"] != id || a["name"] != "bridge" || a["type"] != "bridge" {
						t.Errorf("%v = %+v", m, m.Actor)
					}
				case "volume":
					if m.Actor.ID != "data" || a["container"] != id || a["driver"] != "local" {
						t.Errorf("%v = %+v", m, m.Actor)
					}
					if m.Action == "mount" && (a["destination"] != "/data" || a["read/write"] != "true" || a["propagation"] != "") {
						t.Errorf("%v = %v", m, a)
					}
				}
			}
			until := fmt.Sprintf("%d.%09d", got[len(got)-1].TimeNano/1e9, got[len(got)-1].TimeNano%1e9)
			for _, tc := range []struct {
				filters []string
				want    []string
			}{
				{[]string{"type=network"}, []string{"network connect", "network disconnect"}},
				{[]string{"type=network", "type=volume", "event=connect", "event=mount"}, []string{"network connect", "volume mount"}},
				{[]string{"container=told", "event=die"}, []string{"container die"}},
				{[]string{"container=" + id[:12], "event=die"}, []string{"container die"}},
				{[]string{"container=other"}, nil},
				{[]string{"label=who=me", "event=start"}, []string{"container start"}},
				{[]string{"label=who", "label=who=you"}, nil},
				{[]string{"image=busybox", "event=create"}, []string{"container create"}},
				{[]string{"network=bridge"}, []string{"network connect", "network disconnect"}},
				{[]string{"volume=data"}, []string{"volume mount", "volume unmount"}},
				{[]string{"scope=swarm"}, nil},
			} {
				if got := inOrder(words(eventsBetween(t, d, docker, since, until, tc.filters...))); !slices.Equal(got, tc.want) {
					t.Errorf("events with %q = %q, want %q", tc.filters, got, tc.want)
				}
			}
			// The bounds themselves are in.
			first := fmt.Sprintf("%d.%09d", got[0].TimeNano/1e9, got[0].TimeNano%1e9)
			if got := words(eventsBetween(t, d, docker, first, first)); !slices.Equal(got, want[:1]) {
				t.Errorf("events from and to the first = %q, want %q", got, want[:1])
			}
		})
		// A run that fails: what began is ended.
		since := now(t, d)
		d.Docker("run", "--rm", "-v", "data:/data", "busybox", "no-such-program")
		var got []string
		harness.Eventually(t, commandLimit, "the last event", func() bool {
			got = words(eventsBetween(t, d, harness.Bin(t, "docker"), since, now(t, d)))
			return len(got) > 0 && got[len(got)-1] == "container destroy"
		})
		count := func(w string) (n int) {
			for _, g := range got {
				if g == w {
					n++
				}
			}
			return n
		}
		if count("network connect") != count("network disconnect") || count("volume mount") != count("volume unmount") || count("container start") != 0 || count("container create") != 1 {
			t.Errorf("events of a failed run = %q", got)
		}
		d.OK("volume", "rm", "data")
	})
}
