package engine

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// On a full disk what needs space fails and leaves nothing, what runs goes on,
// and what gives space back works. When there is space again, so does all.
func TestFullDisk(t *testing.T) {
	testenv.Need(t, testenv.Root)
	const disk = 64 << 20
	d := harness.Start(t, harness.Options{DiskBytes: disk, Args: []string{"--live-restore"}})
	d.Busybox()
	archive := harness.BusyboxTar(t)
	saved := filepath.Join(t.TempDir(), "saved.tar")
	d.OK("save", "-o", saved, "busybox")

	d.OK("run", "-d", "--name", "talker", "busybox", "sh", "-c", ticker)
	d.OK("run", "-d", "--name", "quiet", "-p", "18101:80", "busybox", "sleep", "1000")
	d.OK("create", "--name", "fresh", "busybox", "true")
	d.OK("run", "--name", "ended", "busybox", "true")
	d.OK("volume", "create", "volume")
	d.OK("network", "create", "network")
	waitLines(t, d, "talker", 3)
	d.Settle(t)

	d.Disk.Fill()
	for _, tc := range []struct {
		name string
		args []string
		code int
	}{
		{"run", []string{"run", "--rm", "busybox", "true"}, 125},
		{"create", []string{"create", "--name", "new", "busybox", "true"}, 1},
		{"import", []string{"import", archive, "new"}, 1},
		{"load", []string{"load", "-i", bigger(t, d, archive)}, 1},
		{"commit", []string{"commit", "ended", "new"}, 1},
		{"network create", []string{"network", "create", "new"}, 1},
		{"volume create", []string{"volume", "create", "new"}, 1},
		{"copy-up into a volume", []string{"run", "--rm", "-v", "volume:/bin", "busybox", "true"}, 125},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d.Unchanged(t, func() {
				r := d.Docker(tc.args...)
				if r.Code != tc.code || !strings.Contains(r.Stderr, "no space left on device") {
					t.Errorf("docker %q = %+v, want %d and \"no space left on device\"", tc.args, r, tc.code)
				}
				d.Disk.Fill() // what the failure gave back
			})
		})
	}
	t.Run("what runs goes on", func(t *testing.T) {
		for _, name := range []string{"talker", "quiet"} {
			if got := d.OK("inspect", "--format", "{{.State.Status}}", name); got != "running" {
				t.Errorf("%s is %s", name, got)
			}
		}
		if got := d.OK("exec", "talker", "echo", "in"); got != "in" {
			t.Errorf("exec = %q", got)
		}
		d.OK("ps", "-a")
		d.OK("images")
		d.OK("info")
		d.OK("logs", "talker")
		// A reader still gets what the log has no room for.
		follow(t, d, "attach", "--no-stdin", "--sig-proxy=false", "talker")
	})
	t.Run("end and remove", func(t *testing.T) {
		d.OK("stop", "-t", "1", "quiet")
		d.OK("rm", "quiet")
		d.Disk.Fill()
		d.OK("rm", "fresh")
		d.OK("rm", "-f", "ended")
		d.OK("network", "rm", "network")
		d.OK("volume", "rm", "volume")
		if got := d.OK("ps", "-a", "--format", "{{.Names}}"); got != "talker" {
			t.Errorf("ps = %q, want talker", got)
		}
	})
	t.Run("restart of the daemon", func(t *testing.T) {
		d.Disk.Fill()
		pid := d.OK("inspect", "--format", "{{.State.Pid}}", "talker")
		d.Kill()
		d.StartDockerd()
		if got := d.OK("inspect", "--format", "{{.State.Status}} {{.State.Pid}}", "talker"); got != "running "+pid {
			t.Errorf("after a restart on a full disk: %q, want running %s", got, pid)
		}
	})
	d.Disk.Free()
	t.Run("recovery", func(t *testing.T) {
		// The log goes on; only what came while the disk was full is missing.
		lines := waitLines(t, d, "talker", 0)
		waitLines(t, d, "talker", lines+3)
		last := 0
		for line := range strings.Lines(d.OK("logs", "talker") + "\n") {
			n, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil || n <= last {
				t.Fatalf("the log has %q after %d", line, last)
			}
			last = n
		}
		d.OK("stop", "talker")
		if got := d.OK("wait", "talker"); got != "7" {
			t.Errorf("exit code = %s, want 7", got)
		}
		d.OK("rm", "talker")
		if got := d.OK("run", "--rm", "busybox", "echo", "again"); got != "again" {
			t.Errorf("run = %q", got)
		}
		d.OK("rmi", "busybox")
		d.OK("load", "-i", saved)
		if got := d.OK("run", "--rm", "busybox", "echo", "loaded"); got != "loaded" {
			t.Errorf("run = %q", got)
		}
	})
}

// bigger saves an image that is not loaded any more.
func bigger(t *testing.T, d *harness.Daemon, archive string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "other.tar")
	d.Disk.Free()
	d.OK("import", archive, "other")
	d.OK("save", "-o", path, "other")
	d.OK("rmi", "other")
	d.Disk.Fill()
	return path
}

// waitLines waits until a container's log has so many lines, and returns how
// many it has.
func waitLines(t *testing.T, d *harness.Daemon, name string, atLeast int) int {
	t.Helper()
	var n int
	harness.Eventually(t, 20*time.Second, "more of the log", func() bool {
		n = strings.Count(d.OK("logs", name)+"\n", "\n")
		return n >= atLeast
	})
	return n
}

// follow wants at least one line of the command's output while it runs.
func follow(t *testing.T, d *harness.Daemon, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := d.Command(ctx, harness.Bin(t, "docker"), args...)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &stderr
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 1)
	if _, err := r.Read(line); err != nil {
		t.Errorf("docker %q: no output: %v %s", args, err, stderr.String())
	}
	cmd.Process.Kill()
	cmd.Wait()
}
