package engine

import (
	"strings"
	"testing"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// What a container's state does not allow is refused, and what it is already is
// said with 304; neither changes anything.
func TestBadState(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	fresh := d.OK("create", "--name", "fresh", "busybox", "true")
	ended := d.OK("run", "-d", "--name", "ended", "busybox", "true")
	d.OK("wait", "ended")
	up := d.OK("run", "-d", "--name", "up", "busybox", "sleep", "1000")
	paused := d.OK("run", "-d", "--name", "paused", "busybox", "sleep", "1000")
	d.OK("pause", "paused")
	d.OK("volume", "create", "used")
	d.OK("network", "create", "taken")
	d.OK("create", "--name", "user", "-v", "used:/data", "busybox", "true")
	d.OK("run", "-d", "--name", "member", "--network", "taken", "busybox", "sleep", "1000")
	d.Settle(t)
	for _, tc := range []badRequest{
		{"POST", "/containers/up/start", "", 304, ""},
		{"POST", "/containers/fresh/stop", "", 304, ""},
		{"POST", "/containers/ended/stop", "", 304, ""},
		{"POST", "/containers/paused/start", "", 409, "cannot start a paused container, try unpause instead"},
		{"POST", "/containers/up/start", `{"Binds":["/:/mnt"]}`, 400, "starting container with non-empty request body"},
		{"POST", "/containers/fresh/kill", "", 409, "cannot kill container: fresh: container " + fresh + " is not running"},
		{"POST", "/containers/ended/kill", "", 409, "cannot kill container: ended: container " + ended + " is not running"},
		{"POST", "/containers/up/kill?signal=nothing", "", 400, "invalid signal: nothing"},
		{"POST", "/containers/up/kill?signal=-1", "", 400, "invalid signal: -1"},
		{"POST", "/containers/up/kill?signal=1000", "", 400, "nvalid signal: 1000"},
		{"POST", "/containers/fresh/pause", "", 409, "container " + fresh + " is not running"},
		{"POST", "/containers/paused/pause", "", 409, "container " + paused + " is already paused"},
		{"POST", "/containers/up/unpause", "", 500, "Container " + up + " is not paused"},
		{"POST", "/containers/fresh/unpause", "", 500, "Container " + fresh + " is not paused"},
		{"DELETE", "/containers/up", "", 409, `cannot remove container "up": container is running: stop the container before removing or force remove`},
		{"DELETE", "/containers/paused", "", 409, `cannot remove container "paused": container is paused and must be unpaused first`},
		{"POST", "/containers/create?name=up", `{"Image":"busybox","Cmd":["true"]}`, 409, `Conflict. The container name "/up" is already in use by container "` + up + `". You have to remove (or rename) that container to be able to reuse that name.`},
		{"POST", "/containers/fresh/rename?name=up", "", 409, `Conflict. The container name "/up" is already in use by container "` + up + `"`},
		{"GET", "/containers/fresh/top", "", 409, "container " + fresh + " is not running"},
		{"POST", "/containers/fresh/resize?h=1&w=1", "", 409, "container " + fresh + " is not running"},
		{"POST", "/containers/paused/attach?stream=1&stdout=1", "", 409, "container paused is paused, unpause the container before attach"},
		{"POST", "/containers/up/attach?stream=1&stdout=1&detachKeys=nonsense", "", 400, "Invalid detach keys"},
		{"POST", "/containers/fresh/exec", `{"Cmd":["true"]}`, 409, "container " + fresh + " is not running"},
		{"POST", "/containers/paused/exec", `{"Cmd":["true"]}`, 409, "Container " + paused + " is paused, unpause the container before exec"},
		{"POST", "/containers/up/exec", `{}`, 400, "o exec command specified"},
		{"POST", "/networks/create", `{"Name":"taken"}`, 409, "network with name taken already exists"},
		{"DELETE", "/networks/taken", "", 403, "has active endpoints"},
		{"DELETE", "/networks/bridge", "", 403, "bridge is a pre-defined network and cannot be removed"},
		{"POST", "/networks/taken/connect", `{"Container":"member"}`, 403, "endpoint with name member already exists in network taken"},
		{"POST", "/networks/taken/disconnect", `{"Container":"up"}`, 409, "is not connected to the network taken"},
		{"POST", "/networks/host/connect", `{"Container":"up"}`, 400, ""},
		{"DELETE", "/volumes/used", "", 409, "remove used: volume is in use - ["},
		{"DELETE", "/images/busybox", "", 409, "conflict: unable to delete busybox:latest (must be forced) - container "},
		{"POST", "/containers/up/update", `{"Memory":1}`, 400, "Minimum memory limit allowed is 6MB"},
		{"POST", "/containers/up/update", `{"RestartPolicy":{"Name":"sometimes"}}`, 400, "invalid restart policy"},
	} {
		t.Run(strings.Trim(tc.method+tc.target+tc.body, "/"), func(t *testing.T) { tc.refuse(t, d) })
	}

	// What the command line refuses before it asks, in Docker's words.
	for _, tc := range []struct {
		args   []string
		code   int
		stderr string
	}{
		{[]string{"attach", "ended"}, 1, "cannot attach to a stopped container, start it first"},
		{[]string{"attach", "paused"}, 1, "cannot attach to a paused container, unpause it first"},
		{[]string{"rm", "up"}, 1, `cannot remove container "up": container is running: stop the container before removing or force remove`},
		{[]string{"kill", "ended"}, 1, "is not running"},
		{[]string{"exec", "ended", "true"}, 1, "is not running"},
		{[]string{"exec", "up"}, 1, `requires at least 2 arguments`},
		{[]string{"start", "ghost"}, 1, "No such container: ghost"},
		{[]string{"inspect", "ghost"}, 1, "no such object: ghost"},
		{[]string{"logs", "ghost"}, 1, "No such container: ghost"},
		{[]string{"rmi", "ghost"}, 1, "No such image: ghost:latest"},
		{[]string{"volume", "rm", "used"}, 1, "volume is in use"},
		{[]string{"network", "rm", "taken"}, 1, "has active endpoints"},
		{[]string{"push", "ghost"}, 1, "tag does not exist: ghost:latest"},
		{[]string{"nonsense"}, 1, "unknown command: docker nonsense"},
		{[]string{"--nonsense"}, 125, "unknown flag: --nonsense"},
		{[]string{"ps", "--nonsense"}, 125, "unknown flag: --nonsense"},
		{[]string{"ps", "-Z"}, 125, "unknown shorthand flag: 'Z' in -Z"},
		{[]string{"run"}, 1, "requires at least 1 argument"},
		{[]string{"ps", "--format", "{{.Nonsense}}"}, 1, "Nonsense"},
		{[]string{"ps", "--filter", "nonsense"}, 1, "invalid argument"},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			d.Unchanged(t, func() {
				r := d.Docker(tc.args...)
				if r.Code != tc.code || !strings.Contains(r.Stderr, tc.stderr) {
					t.Errorf("docker %q = %d %q, want %d and %q", tc.args, r.Code, r.Stderr, tc.code, tc.stderr)
				}
			})
		})
	}
	d.OK("unpause", "paused")
	d.OK("rm", "-f", "up", "paused", "fresh", "ended", "user", "member")
	d.OK("volume", "rm", "used")
	d.OK("network", "rm", "taken")
}
