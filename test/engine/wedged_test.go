package engine

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// freezerOf returns the file that freezes the control group of a process, and
// what to write to freeze and to thaw it.
func freezerOf(t *testing.T, pid string) (file, freeze, thaw string) {
	t.Helper()
	groups, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(groups)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && slices.Contains(strings.Split(parts[1], ","), "freezer") {
			return filepath.Join("/sys/fs/cgroup/freezer", parts[2], "freezer.state"), "FROZEN", "THAWED"
		}
	}
	_, path, _ := strings.Cut(strings.TrimSpace(string(groups)), "::")
	return filepath.Join("/sys/fs/cgroup", path, "cgroup.freeze"), "1", "0"
}

// parentOf returns the parent of a container's process: its shim.
func parentOf(t *testing.T, pid string) int {
	t.Helper()
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	after := stat[strings.LastIndexByte(string(stat), ')')+1:]
	ppid, err := strconv.Atoi(strings.Fields(string(after))[1])
	if err != nil {
		t.Fatal(err)
	}
	return ppid
}

// TestWedgedContainers has a container whose processes are frozen behind the
// engine's back and one whose shim is stopped, with requests that hang on both.
// The engine and the other containers go on at full speed.
func TestWedgedContainers(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		testenv.Need(t, testenv.Root)
		for _, name := range []string{"frozen", "stuck", "healthy"} {
			d.OK("run", "-d", "--name", name, "busybox", "sleep", "10000")
		}
		pid := func(name string) string { return d.OK("inspect", "-f", "{{.State.Pid}}", name) }
		file, freeze, thaw := freezerOf(t, pid("frozen"))
		if err := os.WriteFile(file, []byte(freeze), 0); err != nil {
			t.Fatal(err)
		}
		shim := parentOf(t, pid("stuck"))
		if err := syscall.Kill(shim, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		release := sync.OnceFunc(func() {
			os.WriteFile(file, []byte(thaw), 0)
			syscall.Kill(shim, syscall.SIGCONT)
		})
		defer release()

		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var commands [][]string
		for _, name := range []string{"frozen", "stuck"} {
			commands = append(commands, []string{"exec", name, "true"}, []string{"stop", "-t", "100", name}, []string{"stats", name}, []string{"attach", "--no-stdin", name})
		}
		var hung sync.WaitGroup
		for _, args := range commands {
			cmd := d.Command(ctx, harness.Bin(t, "docker"), args...)
			hung.Go(func() { cmd.Run() })
		}
		// The client keeps its connection, so that the engine's time is measured.
		client := &http.Client{Timeout: streamLimit, Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", d.Dir+"/docker.sock")
			},
		}}
		defer client.CloseIdleConnections()
		ask := func(path string) (time.Duration, error) {
			began := time.Now()
			resp, err := client.Get("http://docker" + path)
			if err != nil {
				return 0, err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return 0, fmt.Errorf("status %s", resp.Status)
			}
			return time.Since(began), nil
		}
		for _, path := range []string{"/containers/healthy/json", "/containers/frozen/json", "/containers/stuck/json", "/containers/json", "/containers/healthy/top", "/info"} {
			const n = 200
			var took []time.Duration
			for range n {
				dur, err := ask(path)
				if err != nil {
					t.Fatalf("%s beside wedged containers: %v", path, err)
				}
				took = append(took, dur)
			}
			slices.Sort(took)
			t.Logf("%s: median %v, 99th percentile %v", path, took[n/2], took[n*99/100])
		}
		if got := d.OK("run", "--rm", "busybox", "echo", "at full speed"); got != "at full speed" {
			t.Errorf("run: %q", got)
		}
		if got := d.OK("exec", "healthy", "echo", "here"); got != "here" {
			t.Errorf("exec: %q", got)
		}
		if got := len(strings.Fields(d.OK("ps", "-q"))); got != 3 {
			t.Errorf("%d containers run, want 3", got)
		}
		d.OK("restart", "-t", "0", "healthy")
		d.OK("rm", "-f", "healthy")

		release()
		cancel()
		hung.Wait()
		d.OK("rm", "-f", "frozen", "stuck")
	})
}
