package engine

import (
	"strings"
	"testing"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// TestCheckpointVerbs sees that checkpoints are an experiment, and what an engine
// answers whose runtime cannot make them.
func TestCheckpointVerbs(t *testing.T) {
	testenv.Need(t, testenv.Root)
	plain := harness.Start(t, harness.Options{})
	plain.Busybox()
	plain.OK("create", "--name", "cc", "busybox", "true")
	const off = "Error response from daemon: This experimental feature is disabled by default. Start the Docker daemon in experimental mode in order to enable it."
	if r := plain.Docker("checkpoint", "ls", "cc"); r.Code != 1 || strings.TrimSpace(r.Stderr) != off {
		t.Errorf("checkpoint ls: %d %q", r.Code, r.Stderr)
	}
	if r := plain.Docker("start", "--checkpoint", "x", "cc"); r.Code != 1 || !strings.Contains(r.Stderr, "checkpoint is only supported in experimental mode") {
		t.Errorf("start --checkpoint: %d %q", r.Code, r.Stderr)
	}

	d := harness.Start(t, harness.Options{Args: []string{"--experimental"}})
	d.Busybox()
	d.OK("run", "-d", "--name", "cc", "busybox", "sleep", "10000")
	if got := strings.TrimSpace(d.OK("checkpoint", "ls", "cc")); got != "CHECKPOINT NAME" {
		t.Errorf("checkpoint ls: %q", got)
	}
	d.Unchanged(t, func() {
		for want, args := range map[string][]string{
			"no support for CRIU":     {"checkpoint", "create", "cc", "one"},
			"Invalid checkpoint ID":   {"checkpoint", "create", "--", "cc", "-one"},
			"does not exist":          {"checkpoint", "rm", "cc", "one"},
			"No such container: none": {"checkpoint", "ls", "none"},
		} {
			if r := d.Docker(args...); r.Code != 1 || !strings.Contains(r.Stderr, want) {
				t.Errorf("%q: %d %q, want %q", args, r.Code, r.Stderr, want)
			}
		}
	})
}
