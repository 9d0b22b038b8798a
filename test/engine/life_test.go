package engine

import (
	"strings"
	"testing"
	"time"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// lifeTimeout bounds what a container does by itself.
const lifeTimeout = 30 * time.Second

// TestHealthOnFailure: what becomes of a container that is unhealthy.
func TestHealthOnFailure(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	run := func(name, action string, more ...string) {
		args := append([]string{"run", "-d", "--init", "--name", name, "--health-cmd", "echo broken; exit 1", "--health-interval", "50ms", "--health-retries", "2",
			"--health-on-failure", action}, more...)
		d.OK(append(args, "busybox", "sleep", "1000")...)
	}
	inspect := func(name, format string) string { return d.OK("inspect", "-f", format, name) }
	becomes := func(name, format, want string) {
		t.Helper()
		harness.Eventually(t, lifeTimeout, name+" to be "+want, func() bool { return inspect(name, format) == want })
	}
	run("keep", "none")
	run("kill", "kill")
	run("again", "kill", "--restart", "always,backoff=10ms..20ms")
	run("stop", "stop", "--restart", "always")
	run("restart", "restart")
	begun := inspect("restart", "{{.State.StartedAt}}")
	becomes("kill", "{{.State.Status}} {{.State.ExitCode}}", "exited 137")
	becomes("stop", "{{.State.Status}}", "exited")
	becomes("keep", "{{.State.Status}} {{.State.Health.Status}}", "running unhealthy")
	harness.Eventually(t, lifeTimeout, "the restart", func() bool { return inspect("restart", "{{.State.StartedAt}}") != begun })
	harness.Eventually(t, lifeTimeout, "a restart by policy", func() bool { return inspect("again", "{{.RestartCount}}") != "0" })
	if got := inspect("again", `{{.HostConfig.RestartPolicy.Name}} {{index .HostConfig.Annotations "lighter.engine/restart-backoff"}}`); got != "always 10ms..20ms" {
		t.Errorf("the policy is %s", got)
	}
	if got := d.OK("why", "kill"); !strings.Contains(got, "SIGKILL") || !strings.Contains(got, "it was unhealthy") || !strings.Contains(got, "the last ended with 1: broken") {
		t.Errorf("why:\n%s", got)
	}
	if got := d.OK("why", "keep"); !strings.Contains(got, "its health check says unhealthy") {
		t.Errorf("why:\n%s", got)
	}
	for args, want := range map[string]string{
		"--health-on-failure=explode":          `invalid action on a failing health check: "explode"`,
		"--restart=always,backoff=1m..1s":      `invalid restart policy: invalid backoff "1m..1s"`,
		"--restart=on-failure:2,jitter=always": `unknown option "jitter=always"`,
	} {
		if r := d.Docker("create", args, "busybox", "true"); r.Code == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("create %s: %d %q", args, r.Code, r.Stderr)
		}
	}
	d.OK("update", "--restart", "on-failure:3,backoff=1s", "keep")
	if got := inspect("keep", `{{.HostConfig.RestartPolicy.Name}}:{{.HostConfig.RestartPolicy.MaximumRetryCount}} {{index .HostConfig.Annotations "lighter.engine/restart-backoff"}}`); got != "on-failure:3 1s" {
		t.Errorf("after the update the policy is %s", got)
	}
}

// TestWhyWords: the verb on the ends that users ask about.
func TestWhyWords(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	d.Docker("run", "--name", "missing", "busybox", "no-such-program")
	d.Docker("run", "--name", "failing", "busybox", "sh", "-c", "echo what went wrong; exit 4")
	d.OK("run", "-d", "--name", "stopped", "--stop-timeout", "0", "busybox", "sleep", "1000")
	d.OK("stop", "stopped")
	d.OK("create", "--name", "fresh", "busybox", "true")
	for name, want := range map[string]string{
		"missing": `its program "no-such-program", or what it needs to run, does not exist`,
		"failing": "ended with exit code 4",
		"stopped": "it was stopped by docker stop",
		"fresh":   "has never been started",
	} {
		if got := d.OK("why", name); !strings.Contains(got, want) {
			t.Errorf("why %s has no %q:\n%s", name, want, got)
		}
	}
	if got := d.OK("why", "failing"); !strings.Contains(got, "    | what went wrong\n") {
		t.Errorf("no output in\n%s", got)
	}
	if r := d.Docker("why", "nobody"); r.Code != 1 || !strings.Contains(r.Stderr, "No such container: nobody") {
		t.Errorf("why nobody = %d %q", r.Code, r.Stderr)
	}
}

// TestBootOrder: when the engine starts, what others depend on starts first.
func TestBootOrder(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	service := func(name, dependsOn string, more ...string) {
		args := append([]string{"run", "-d", "--init", "--restart", "always", "--name", name,
			"--label", "com.docker.compose.project=p", "--label", "com.docker.compose.service=" + name,
			"--label", "com.docker.compose.depends_on=" + dependsOn}, more...)
		d.OK(append(args, "busybox", "sleep", "1000")...)
	}
	service("web", "db:service_healthy:false,cache:service_started:false")
	service("cache", "db:service_started:false")
	service("db", "", "--health-cmd", "true", "--health-interval", "200ms")
	d.StopDockerd()
	d.StartDockerd()
	harness.Eventually(t, lifeTimeout, "the restart of all", func() bool {
		return d.OK("inspect", "-f", "{{.State.Status}}", "db", "cache", "web") == "running\nrunning\nrunning"
	})
	started := func(name string) time.Time {
		at, err := time.Parse(time.RFC3339Nano, d.OK("inspect", "-f", "{{.State.StartedAt}}", name))
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	db, cache, web := started("db"), started("cache"), started("web")
	if !db.Before(cache) || !cache.Before(web) {
		t.Errorf("db started at %v, cache at %v, web at %v", db, cache, web)
	}
	if got := d.OK("inspect", "-f", "{{.State.Health.Status}}", "db"); got != "healthy" {
		t.Errorf("web runs and db is %s", got)
	}
}
