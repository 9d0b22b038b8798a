package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

// idleMemory bounds the memory of an idle shim, in kB. What many shims share counts
// the less the more there are; the test runs few.
const idleMemory = 2048

// An idle shim with a container is small.
func TestIdleMemory(t *testing.T) {
	const shims = 8
	program := filepath.Join(t.TempDir(), "containerd-shim-runc-v2")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	t.Setenv("LIGHTER_TEST_SHIM", program)
	var envs []*env
	for i := range shims {
		e := newShimNamed(t, t.TempDir(), fmt.Sprintf("shimtest-%d-%d", os.Getpid(), i))
		e.writeBundle("exec sleep 1000", false, nil)
		e.create("", false)
		e.startTask("")
		envs = append(envs, e)
	}
	deadline := time.After(30 * time.Second)
	for {
		total := 0
		for _, e := range envs {
			total += rollup(t, e.shimPid)["Pss"]
		}
		if total/shims <= idleMemory {
			t.Logf("%d kB for each of %d", total/shims, shims)
			break
		}
		select {
		case <-deadline:
			t.Fatalf("%d kB for each of %d, want at most %d: %v", total/shims, shims, idleMemory, rollup(t, envs[0].shimPid))
		case <-time.After(100 * time.Millisecond):
		}
	}
	for _, e := range envs {
		if _, err := e.task.Pids(e.ctx, &task.PidsRequest{ID: e.id}); err != nil {
			t.Error(err)
		}
	}
}

// rollup reads sizes in kB.
func rollup(t *testing.T, pid int) map[string]int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for errors.Is(err, unix.ESRCH) { // it has just changed its image
		b, err = os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if kerr := unix.Kill(pid, 0); kerr != nil {
			t.Fatalf("the shim has died: %v", kerr)
		}
	}
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
