package engine

import (
	"regexp"
	"testing"

	"lighter/test/harness"
)

// TestManagementVerbs compares what both command lines print for the same state.
func TestManagementVerbs(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		d.OK("run", "-d", "--name", "box", "-m", "64m", "busybox", "sleep", "1000")
		eachCLI(t, func(t *testing.T, docker string) {
			d.OK("volume", "create", "spare")
			d.OK("network", "create", "spare")
			for _, tc := range []struct {
				args   []string
				code   int
				stdout string // a pattern for all of it
				stderr string // for a part
			}{
				{args: []string{"stats", "--no-stream", "box"}, stdout: `CONTAINER ID +NAME +CPU % +MEM USAGE / LIMIT +MEM % +NET I/O +BLOCK I/O +PIDS *\n[0-9a-f]{12} +box +[0-9.]+% +[0-9.]+[KM]?i?B / 64MiB .* 1 *\n`},
				{args: []string{"stats", "--no-stream", "--format", "{{.Container}} {{.PIDs}}", "box"}, stdout: "box 1\n"},
				{args: []string{"stats", "--no-stream", "none"}, code: 1, stdout: `(?s).*`, stderr: "No such container: none"},
				{args: []string{"update", "box"}, code: 1, stderr: "you must provide one or more flags"},
				{args: []string{"update", "--pids-limit", "77", "--restart", "on-failure:3", "box"}, stdout: "box\n"},
				{args: []string{"container", "inspect", "-f", "{{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy.Name}}", "box"}, stdout: "77 on-failure\n"},
				{args: []string{"image", "inspect", "-f", "{{index .RepoTags 0}}", "busybox"}, stdout: "busybox:latest\n"},
				{args: []string{"network", "inspect", "-f", "{{.Name}}", "bridge"}, stdout: "bridge\n"},
				{args: []string{"volume", "inspect", "-f", "{{.Driver}}", "spare"}, stdout: "local\n"},
				{args: []string{"volume", "inspect", "none"}, code: 1, stdout: `\[\]\n`, stderr: "none"},
				{args: []string{"network", "prune", "-f"}, stdout: "Deleted Networks:\nspare\n\n"},
				{args: []string{"volume", "prune", "-f"}, stdout: "Total reclaimed space: 0B\n"},
				{args: []string{"volume", "prune", "-af"}, stdout: "Deleted Volumes:\nspare\n\nTotal reclaimed space: [0-9.]+k?B\n"},
				{args: []string{"image", "prune", "-f"}, stdout: "Total reclaimed space: 0B\n"},
				{args: []string{"ps", "--filter", "name=none"}, stdout: `CONTAINER ID +IMAGE +COMMAND +CREATED +STATUS +PORTS +NAMES\n`},
				{args: []string{"help", "nothing"}, code: 1, stderr: "unknown help topic: nothing"},
				{args: []string{"container", "nothing"}, code: 1, stderr: "docker: unknown command: docker container nothing\n\nUsage:  docker container\n"},
			} {
				r := d.CLI(docker, "", tc.args...)
				if r.Code != tc.code || !regexp.MustCompile(`\A(?:`+tc.stdout+`)\z`).MatchString(r.Stdout) || !regexp.MustCompile(tc.stderr).MatchString(r.Stderr) {
					t.Errorf("docker %q = %d\n%s\n%s", tc.args, r.Code, r.Stdout, r.Stderr)
				}
			}
		})
	})
}
