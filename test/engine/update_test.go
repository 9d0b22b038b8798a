package engine

import (
	"net"
	"strings"
	"testing"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// TestUpdateInPlace changes what a running program cannot follow.
func TestUpdateInPlace(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	d.OK("network", "create", "net")
	d.OK("run", "-d", "--name", "web", "--network", "net", "--stop-timeout", "0", "--label", "drop=1",
		"-e", "WHO=before", "-e", "GONE=1", "-v", "data:/data", "-v", "/anonymous", "busybox", "sh", "-c", "nc -ll -p 80 -e echo hello $WHO")
	d.OK("exec", "web", "sh", "-c", "echo kept > /file; echo kept > /data/file; mkdir /filled; echo filled > /filled/file; echo a > /anonymous/file")
	facts := func() string {
		return d.OK("inspect", "-f", "{{.Id}} {{.Name}} {{(index .NetworkSettings.Networks \"net\").IPAddress}} {{.State.Running}}", "web")
	}
	before := facts()
	if got := d.OK("update", "-p", "127.0.0.1::80", "-e", "WHO=after", "--env-rm", "GONE", "-l", "new=2", "--label-rm", "drop", "-v", "fresh:/filled", "--memory", "64m", "--memory-swap", "128m", "web"); got != "web" {
		t.Errorf("update prints %q", got)
	}
	if after := facts(); after != before {
		t.Errorf("after the update %s, before %s", after, before)
	}
	if got := d.OK("exec", "web", "cat", "/file", "/data/file", "/filled/file", "/anonymous/file"); got != "kept\nkept\nfilled\na" {
		t.Errorf("files: %q", got)
	}
	if got := d.OK("exec", "web", "sh", "-c", "echo $WHO-$GONE-"); got != "after--" {
		t.Errorf("environment: %q", got)
	}
	if got := d.OK("inspect", "-f", "{{json .Config.Labels}} {{.HostConfig.Memory}}", "web"); got != `{"new":"2"} 67108864` {
		t.Errorf("labels and memory: %s", got)
	}
	published := strings.TrimSpace(d.OK("port", "web", "80"))
	harness.Eventually(t, streamLimit, "the published port to answer", func() bool {
		conn, err := net.Dial("tcp", published)
		if err != nil {
			return false
		}
		defer conn.Close()
		line := make([]byte, len("hello after"))
		n, _ := conn.Read(line)
		return string(line[:n]) == "hello after"
	})

	// A port that is taken: the container runs as it did.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	volumes := d.OK("volume", "ls", "-q")
	r := d.Docker("update", "-p", taken.Addr().String()+":80", "-e", "WHO=never", "-v", "/more", "web")
	if r.Code != 1 || !strings.Contains(r.Stderr, "Error response from daemon: Cannot update container web, which is as it was: ") {
		t.Errorf("update with a port that is taken: %d %q", r.Code, r.Stderr)
	}
	if after := facts(); after != before {
		t.Errorf("after the failed update %s, before %s", after, before)
	}
	if got := d.OK("exec", "web", "sh", "-c", "echo $WHO"); got != "after" {
		t.Errorf("environment after the failed update: %q", got)
	}
	if after := d.OK("volume", "ls", "-q"); after != volumes {
		t.Errorf("volumes after the failed update %q, before %q", after, volumes)
	}

	// Taken away again; the volume stays.
	d.OK("update", "--publish-rm", "80", "--mount-rm", "/filled", "web")
	if got := d.OK("inspect", "-f", "{{json .HostConfig.PortBindings}} {{len .Mounts}}", "web"); got != "{} 2" {
		t.Errorf("after the removal %s", got)
	}
	if got := d.OK("exec", "web", "cat", "/filled/file"); got != "filled" {
		t.Errorf("below the mount: %q", got)
	}
	d.OK("volume", "rm", "fresh")
	// Bad input stops nothing.
	for _, bad := range [][]string{
		{"-v", "/nothing:/a:odd"}, {"--mount", "type=bind,source=/does/not/exist,target=/x"}, {"-e", "=x"}, {"-p", "70000:80"}, {"-v", "x:/"},
	} {
		started := d.OK("inspect", "-f", "{{.State.StartedAt}}", "web")
		if r := d.Docker(append(append([]string{"update"}, bad...), "web")...); r.Code == 0 {
			t.Errorf("update %q is not refused", bad)
		}
		if got := d.OK("inspect", "-f", "{{.State.StartedAt}}", "web"); got != started {
			t.Errorf("update %q started the container again", bad)
		}
	}
	d.OK("rm", "-f", "-v", "web")
	d.OK("network", "rm", "net")
	d.OK("volume", "rm", "data")
}
