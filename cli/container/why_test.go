package container

import (
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
)

func TestWhy(t *testing.T) {
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	at := func(ago time.Duration) string { return now.Add(-ago).Format(time.RFC3339Nano) }
	kill := func(sig string) events.Message {
		return events.Message{Action: events.ActionKill, Actor: events.Actor{Attributes: map[string]string{"signal": sig}}}
	}
	ended := func(code int) container.State {
		return container.State{Status: container.StateExited, ExitCode: code, StartedAt: at(time.Hour), FinishedAt: at(time.Minute)}
	}
	never := time.Time{}.Format(time.RFC3339Nano)
	oom := ended(137)
	oom.OOMKilled = true
	failed := container.State{Status: container.StateCreated, ExitCode: 127, Error: "exec: no such file or directory", StartedAt: never, FinishedAt: never}
	sick := container.State{Status: container.StateRunning, Running: true, StartedAt: at(time.Hour), Health: &container.Health{
		Status: container.Unhealthy, FailingStreak: 4, Log: []*container.HealthcheckResult{{ExitCode: 1, Output: "refused\x1b[31m\n"}},
	}}
	for name, tc := range map[string]struct {
		state  container.State
		edit   func(*facts)
		want   []string
		absent []string
	}{
		"finished": {ended(0), nil, []string{"web: ended with exit code 0, about a minute ago after it had run for 59 minutes: its program finished without an error"}, nil},
		"error": {ended(3), func(f *facts) { f.output = "bad\x1b[2J config\n"; f.c.RestartCount = 2 },
			[]string{"reported an error", "    | bad?[2J config\n", `restarts: 2 by its policy "on-failure:5"`, "docker logs web"}, []string{"\x1b"}},
		"crash":             {ended(139), nil, []string{"a signal ended it, SIGSEGV", "the program crashed"}, nil},
		"killed by someone": {ended(137), nil, []string{"SIGKILL", "no one asked the engine"}, nil},
		"killed on demand": {ended(137), func(f *facts) { f.events = []events.Message{kill("15"), kill("9"), {Action: events.ActionStop}} },
			[]string{"asked to send it SIGKILL", "docker stop", "--stop-timeout"}, []string{"no one asked"}},
		"stopped": {ended(0), func(f *facts) { f.events = []events.Message{kill("15"), {Action: events.ActionStop}} }, []string{"ended properly when it was asked to", "SIGTERM"}, nil},
		"an earlier run's kill": {ended(137), func(f *facts) { f.events = []events.Message{kill("9"), {Action: events.ActionStart}} },
			[]string{"no one asked the engine"}, []string{"asked to send"}},
		"memory":           {oom, func(f *facts) { f.c.HostConfig.Memory = 64 << 20 }, []string{"its memory was used up", "its limit is 64MiB", "docker update --memory"}, nil},
		"memory, no limit": {oom, nil, []string{"it has no limit of its own"}, nil},
		"not found":        {failed, nil, []string{`could not be started: its program "/bin/web", or what it needs to run, does not exist`, "the engine recorded: exec: no such file or directory"}, []string{"last output"}},
		"never started":    {container.State{Status: container.StateCreated, StartedAt: never, FinishedAt: never}, nil, []string{"has never been started", "docker start web"}, nil},
		"unhealthy": {sick, nil, []string{"runs, started about an hour ago, and its health check says unhealthy", "4 checks in a row", "the last ended with 1: refused?[31m",
			`docker exec web sh -c "curl -f localhost"`}, []string{"\x1b"}},
		"killed for its health": {ended(137), func(f *facts) {
			f.events = []events.Message{{Action: "health_status: unhealthy"}, kill("9")}
		}, []string{"it was unhealthy", "SIGKILL"}, nil},
		"nobody saw": {ended(255), nil, []string{"the engine was not there to see how"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := facts{now: now, c: container.InspectResponse{
				Name: "/web", Path: "/bin/web", State: &tc.state,
				HostConfig: &container.HostConfig{RestartPolicy: container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 5}},
				Config:     &container.Config{Healthcheck: &container.HealthConfig{Test: []string{"CMD-SHELL", "curl -f localhost"}}},
			}}
			if tc.edit != nil {
				tc.edit(&f)
			}
			got := f.explain()
			for _, want := range tc.want {
				if !strings.Contains(got, want) {
					t.Errorf("no %q in\n%s", want, got)
				}
			}
			for _, absent := range tc.absent {
				if strings.Contains(got, absent) {
					t.Errorf("%q in\n%s", absent, got)
				}
			}
		})
	}
}
