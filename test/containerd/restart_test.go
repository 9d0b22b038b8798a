package containerd

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lighter/test/harness"
)

// A killed containerd comes back to all its shims, and knows the exits that
// happened while it was away.
func TestRestartWithManyTasks(t *testing.T) {
	n := 12
	if os.Getenv("LIGHTER_TEST_SLOW") != "" {
		n = 100
	}
	c := ours(t)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if r := c.Ctr("run", "-d", "--null-io", harness.Busybox, fmt.Sprint("t", i), "sleep", "1000"); r.Code != 0 {
				t.Errorf("run: %s", r.Stderr)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	// tasks returns pid and status of each task.
	tasks := func() map[string][2]string {
		all := map[string][2]string{}
		for line := range strings.Lines(c.OK("tasks", "ls")) {
			if f := strings.Fields(line); len(f) == 3 && f[0] != "TASK" {
				all[f[0]] = [2]string{f[1], f[2]}
			}
		}
		return all
	}
	before := tasks()
	if len(before) != n {
		t.Fatalf("%d tasks, want %d", len(before), n)
	}
	c.Kill()
	for i := 0; i < n; i += 3 {
		pid, err := strconv.Atoi(before[fmt.Sprint("t", i)][0])
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, 10*time.Second, "the end of a killed process", func() bool {
			return syscall.Kill(pid, 0) == syscall.ESRCH
		})
	}
	start := time.Now()
	c.Start()
	after := tasks()
	t.Logf("%d tasks known %v after the start", n, time.Since(start))
	for i := range n {
		id := fmt.Sprint("t", i)
		want := [2]string{before[id][0], "RUNNING"}
		if i%3 == 0 {
			want[1] = "STOPPED"
		}
		if after[id] != want {
			t.Errorf("task %s is %v, want %v", id, after[id], want)
		}
	}
	for i := range n {
		id := fmt.Sprint("t", i)
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			r := c.Ctr("tasks", "delete", "--force", id)
			if i%3 == 0 && !strings.Contains(r.Stderr, "exit code 137") {
				t.Errorf("delete of task %s: %d, %s, want its exit code 137", id, r.Code, r.Stderr)
			}
			c.Ctr("containers", "delete", id)
		})
	}
	wg.Wait()
	if got := c.OK("tasks", "ls", "-q"); got != "" {
		t.Errorf("tasks %q are left", got)
	}
}
