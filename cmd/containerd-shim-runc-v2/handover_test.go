package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"

	"lighter/internal/shimio"
)

// image tells one image of a process from the next: each has its stack elsewhere.
func image(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	f := strings.Fields(string(b))
	if err != nil || len(f) < 28 {
		t.Fatalf("stat of process %d: %q, %v", pid, b, err)
	}
	return f[27]
}

// awaitImage waits until the process has another image than old.
func awaitImage(t *testing.T, pid int, old string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for image(t, pid) == old {
		select {
		case <-deadline:
			t.Fatal("the process does not change its image")
		case <-time.After(time.Millisecond):
		}
	}
}

// A container that writes all the time loses no byte to a shim that changes its
// image all the time, and its end is told on the connection of before.
func TestHandoverUnderLoad(t *testing.T) {
	const lines = 4000
	e := newShim(t, t.TempDir())
	e.writeBundle(fmt.Sprintf(`i=0; while [ $i -lt %d ]; do echo -n "line "; echo $i; [ $((i%%400)) = 0 ] && sleep 0.02; i=$((i+1)); done; exit 7`, lines), false, nil)
	log, _ := e.create("", false)
	old := image(t, e.shimPid)
	e.startTask("")
	awaitImage(t, e.shimPid, old)
	e.wait("", 7)
	var want strings.Builder
	for i := range lines {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if got := logText(t, log); got != want.String() {
		t.Errorf("log of %d bytes is not the output of %d bytes", len(got), want.Len())
	}
	e.delete()
	if got, want := e.events(4), "create start exit delete"; got != want {
		t.Errorf("events %q, want %q", got, want)
	}
}

// Whenever a process ends, its status arrives.
func TestExitDuringHandover(t *testing.T) {
	for i := range 25 {
		t.Run("", func(t *testing.T) {
			e := newShim(t, t.TempDir())
			status := 10 + i
			e.writeBundle(fmt.Sprintf("sleep 0.%03d; echo -n rest; exit %d", 3*i, status), false, nil)
			log, _ := e.create("", false)
			e.startTask("")
			e.wait("", uint32(status))
			if got := logText(t, log); got != "rest" {
				t.Errorf("log %q", got)
			}
			e.delete()
		})
	}
}

// Attach, a terminal, input, exec and several connections work in any image.
func TestServeAcrossHandover(t *testing.T) {
	for _, terminal := range []bool{false, true} {
		t.Run(fmt.Sprintf("terminal=%v", terminal), func(t *testing.T) {
			e := newShim(t, t.TempDir())
			e.writeBundle("while read x; do [ $x = end ] && exit 3; echo got $x; done", terminal, nil)
			_, attach := e.create("", terminal)
			e.startTask("")
			for i := range 10 {
				awaitImage(t, e.shimPid, image(t, e.shimPid))
				old := e.client
				e.connect()
				defer old.Close()
				conn, err := shimio.Dial(e.ctx, attach, shimio.Request{Stdin: true, Stdout: true})
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(conn, "word%d\n", i)
				want := fmt.Sprintf("got word%d", i)
				var got strings.Builder
				for buf := make([]byte, 100); !strings.Contains(got.String(), want); {
					n, err := conn.Read(buf)
					if err != nil {
						t.Fatalf("read %q, then %v", got.String(), err)
					}
					got.Write(buf[:n])
				}
				conn.Close()
				if _, err := e.task.Pids(e.ctx, &task.PidsRequest{ID: e.id}); err != nil {
					t.Fatal(err)
				}
			}
			conn, err := shimio.Dial(e.ctx, attach, shimio.Request{Stdin: true})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprint(conn, "end\n")
			e.wait("", 3)
			e.delete()
		})
	}
}
