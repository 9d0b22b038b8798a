package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/ttrpc"
)

// TestIdleMemory reports what an idle shim with a container takes, and holds a
// built shim to a bound.
func TestIdleMemory(t *testing.T) {
	program := os.Getenv("LIGHTER_TEST_SHIM")
	if program == "" {
		t.Skip("needs a built shim in LIGHTER_TEST_SHIM: the test program itself is larger")
	}
	e := newShim(t, t.TempDir())
	e.writeBundle("exec sleep 1000", false, nil)
	e.create("", false)
	e.startTask("")
	e.client.Close()
	busy := rollup(t, e.shimPid)
	deadline := time.After(30 * time.Second)
	idle := busy
	for last := -1; idle["Pss"] != last || idle["Pss"] >= busy["Pss"]; {
		last = idle["Pss"]
		select {
		case <-deadline:
			t.Fatalf("no memory was given back: %v", idle)
		case <-time.After(idleAfter + time.Second):
		}
		idle = rollup(t, e.shimPid)
	}
	t.Logf("busy: %v kB; idle: %v kB", busy, idle)
	e.connect()
}

// rollup reads sizes in kB.
func rollup(t *testing.T, pid int) map[string]int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	sizes := make(map[string]int)
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		for _, want := range []string{"Rss:", "Pss:", "Pss_Anon:", "Pss_File:", "Private_Dirty:"} {
			if f[0] == want {
				sizes[strings.TrimSuffix(want, ":")], _ = strconv.Atoi(f[1])
			}
		}
	}
	return sizes
}

// BenchmarkServe is the time from executing a server to its first answer.
func BenchmarkServe(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		path := filepath.Join(dir, "s")
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			b.Fatal(err)
		}
		f, err := l.File()
		if err != nil {
			b.Fatal(err)
		}
		cmd := command(dir, "-namespace", testNamespace, "-id", "x", "serve")
		cmd.ExtraFiles = []*os.File{f}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		f.Close()
		conn, err := net.Dial("unix", path)
		if err != nil {
			b.Fatal(err)
		}
		client := ttrpc.NewClient(conn)
		api := task.NewTTRPCTaskClient(client)
		if _, err := api.Connect(b.Context(), &task.ConnectRequest{ID: "x"}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		cmd.Process.Kill()
		cmd.Wait()
		client.Close()
		l.Close()
		b.StartTimer()
	}
}
