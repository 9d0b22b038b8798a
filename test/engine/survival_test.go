package engine

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// ticker prints a number ten times a second and ends with 7 on SIGTERM.
const ticker = "trap 'exit 7' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"

// With --live-restore containers do not notice that the daemons are killed.
func TestLiveRestore(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		d.OK("run", "-d", "--name", "tick", "-p", "18082:80", "busybox", "sh", "-c", ticker)
		pid := d.OK("inspect", "--format", "{{.State.Pid}}", "tick")
		d.Kill()
		if d.External {
			d.KillContainerd()
		}
		before := logLines(t, d)
		harness.Eventually(t, 10*time.Second, "output while no daemon runs", func() bool { return logLines(t, d) > before+3 })
		d.StartContainerd()
		d.StartDockerd()

		if got := d.OK("inspect", "--format", "{{.State.Status}} {{.State.Pid}}", "tick"); got != "running "+pid {
			t.Fatalf("after the restart: %q, want running %s", got, pid)
		}
		if got := d.OK("ps", "--format", "{{.Names}}"); got != "tick" {
			t.Errorf("ps = %q", got)
		}
		if got := d.OK("exec", "tick", "echo", "in"); got != "in" {
			t.Errorf("exec = %q", got)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for _, verb := range [][]string{{"logs", "-f", "--tail", "0"}, {"attach", "--no-stdin", "--sig-proxy=false"}} {
			cmd := d.Command(ctx, harness.Bin(t, "docker"), append(verb, "tick")...)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line := make([]byte, 2)
			if _, err := out.Read(line); err != nil || line[0] < '0' || line[0] > '9' {
				t.Errorf("%v read %q, %v, want a number", verb, line, err)
			}
			cmd.Process.Kill()
			cmd.Wait()
		}
		d.OK("stop", "tick")
		if got := d.OK("wait", "tick"); got != "7" {
			t.Errorf("exit code = %s, want 7", got)
		}
		checkSequence(t, d.OK("logs", "tick"))
		d.OK("rm", "tick")
	}, "--live-restore")
}

// checkSequence wants the numbers from 1 on, each once, in order.
func checkSequence(t *testing.T, log string) {
	t.Helper()
	i := 0
	for line := range strings.Lines(log) {
		i++
		if n, err := strconv.Atoi(strings.TrimSpace(line)); err != nil || n != i {
			t.Fatalf("line %d of the log is %q", i, line)
		}
	}
	if i == 0 {
		t.Error("the log is empty")
	}
}

// logLines counts the records that the shim has written.
func logLines(t *testing.T, d *harness.Daemon) int {
	t.Helper()
	files, err := filepath.Glob(d.Dir + "/data/containers/*/*-json.log")
	if err != nil || len(files) != 1 {
		t.Fatalf("log files: %v, %v, want one", files, err)
	}
	raw, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(raw), "\n")
}

// An exit that happens while the daemons are down is known after their start.
func TestExitWhileDown(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		d.OK("run", "-d", "--name", "ends", "busybox", "sh", "-c", "while [ ! -e /stop ]; do sleep 0.05; done; exit 9")
		d.OK("exec", "-d", "ends", "sh", "-c", "sleep 0.5; touch /stop")
		pid, err := strconv.Atoi(d.OK("inspect", "--format", "{{.State.Pid}}", "ends"))
		if err != nil {
			t.Fatal(err)
		}
		d.Kill()
		if d.External {
			d.KillContainerd()
		}
		harness.Eventually(t, 10*time.Second, "the container's end", func() bool { return ended(pid) })
		d.StartContainerd()
		d.StartDockerd()
		if got := d.OK("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "ends"); got != "exited 9" {
			t.Errorf("after the restart: %q, want exited 9", got)
		}
		d.OK("rm", "ends")
	}, "--live-restore")
}

func ended(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, after, _ := strings.Cut(string(raw), ") ")
	return strings.HasPrefix(after, "Z")
}

// Without --live-restore a daemon that was killed stops, at its next start, the
// containers that it finds.
func TestRestartWithoutLiveRestore(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		d.OK("run", "-d", "--name", "plain", "--stop-timeout", "1", "busybox", "sleep", "1000")
		d.OK("run", "-d", "--name", "again", "--stop-timeout", "1", "--restart", "always", "busybox", "sleep", "1000")
		pid, err := strconv.Atoi(d.OK("inspect", "--format", "{{.State.Pid}}", "plain"))
		if err != nil {
			t.Fatal(err)
		}
		again := d.OK("inspect", "--format", "{{.State.Pid}}", "again")
		d.Kill()
		d.StartDockerd()
		harness.Eventually(t, 10*time.Second, "the stop of the container that was left", func() bool {
			return ended(pid) && d.OK("inspect", "--format", "{{.State.Status}}", "plain") == "exited"
		})
		harness.Eventually(t, 10*time.Second, "the restart of the container that always runs", func() bool {
			return d.OK("inspect", "--format", "{{.State.Status}} {{.State.Pid}}", "again") != "running "+again && d.OK("inspect", "--format", "{{.State.Status}}", "again") == "running"
		})
		d.OK("start", "plain")
		d.OK("rm", "-f", "plain", "again")
	})
}

// A clean stop stops the containers, and leaves them to a start.
func TestCleanStop(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		d.OK("run", "-d", "--name", "clean", "busybox", "sh", "-c", ticker)
		d.StopDockerd()
		d.StartDockerd()
		if got := d.OK("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "clean"); got != "exited 7" {
			t.Errorf("after a clean stop: %q, want exited 7", got)
		}
		d.OK("rm", "clean")
	})
}

// A shim that is killed takes its container with it; the engine says so.
func TestShimKilled(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		id := d.OK("run", "-d", "--name", "orphan", "-p", "18083:80", "busybox", "sleep", "1000")
		other := d.OK("run", "-d", "--name", "other", "busybox", "sleep", "1000")
		shim := shimOf(t, id)
		syscall.Kill(shim, syscall.SIGKILL)
		harness.Eventually(t, 10*time.Second, "the container to be reported dead", func() bool {
			return d.OK("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "orphan") == "exited 137"
		})
		if got := d.OK("inspect", "--format", "{{.State.Status}}", other); got != "running" {
			t.Errorf("the other container is %s", got)
		}
		d.OK("start", "orphan")
		d.OK("rm", "-f", "orphan", "other")
	})
}

// shimOf finds the process that supervises a container by its command line.
func shimOf(t *testing.T, id string) int {
	t.Helper()
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		raw, err := os.ReadFile(dir + "/cmdline")
		if err == nil && strings.Contains(string(raw), id) && strings.Contains(string(raw), "-bundle") {
			pid, err := strconv.Atoi(filepath.Base(dir))
			if err == nil {
				return pid
			}
		}
	}
	t.Fatalf("no shim of %s", id)
	return 0
}

func TestSecondDaemonIsRefused(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	cmd := exec.Command(harness.Bin(t, "dockerd"), "--config-file", "/dev/null", "--data-root", d.Dir+"/data",
		"--exec-root", d.Dir+"/exec2", "--pidfile", d.Dir+"/2.pid", "--host", "unix://"+d.Dir+"/2.sock")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "in use by another daemon") {
		t.Errorf("a second daemon on the same root: %v\n%s", err, out)
	}
}
