package engine

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"lighter/test/harness"
)

const (
	// commandLimit bounds what the daemon does after a command has returned.
	commandLimit = 10 * time.Second

	churnRuns    = 200
	churnWorkers = 8
)

// Many short runs at once all work, and leave the daemon as they found it: no
// object, file or rule more, and no goroutine or descriptor.
func TestChurn(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		// What the first runs make once: caches, connections, pools.
		churn(t, d, 2*churnWorkers)
		waitCollected(t, d)
		d.Settle(t)
		var before, after usage
		d.Unchanged(t, func() {
			before = takeUsage(t, d)
			churn(t, d, churnRuns)
			waitCollected(t, d)
		})
		// A few come and go: the request that asks, timers, idle connections.
		const slack = 4
		harness.Eventually(t, 2*commandLimit, "goroutines and descriptors to go", func() bool {
			after = takeUsage(t, d)
			return after.NGoroutines <= before.NGoroutines+slack && after.NFd <= before.NFd+slack
		})
		t.Logf("before %+v, after %+v", before, after)
	})
}

func churn(t *testing.T, d *harness.Daemon, runs int) {
	t.Helper()
	work := make(chan int)
	var workers sync.WaitGroup
	for range churnWorkers {
		workers.Go(func() {
			for i := range work {
				word := fmt.Sprint("run ", i)
				if r := d.Docker("run", "--rm", "busybox", "echo", word); r.Code != 0 || r.Stdout != word+"\n" {
					t.Errorf("run %d = %+v", i, r)
				}
			}
		})
	}
	for i := range runs {
		work <- i
	}
	close(work)
	workers.Wait()
}

// collectLimit bounds the rest that the garbage collector takes after its work.
const collectLimit = time.Minute

// waitCollected waits until of all snapshots only the image's layer has files.
func waitCollected(t *testing.T, d *harness.Daemon) {
	t.Helper()
	root := "data/containerd/daemon"
	if d.External {
		root = "croot"
	}
	harness.Eventually(t, collectLimit, "the garbage collector", func() bool {
		found, err := filepath.Glob(filepath.Join(d.Dir, root, "snapshots/overlayfs/snapshots/*"))
		return err == nil && len(found) == 1
	})
}

// usage is what the daemon says of itself.
type usage struct{ NGoroutines, NFd, Containers, NEventsListener int }

func takeUsage(t *testing.T, d *harness.Daemon) usage {
	t.Helper()
	var u usage
	answer := d.Request(t, "GET", "/info", "")
	if err := json.Unmarshal([]byte(answer.Body), &u); err != nil || u.NGoroutines == 0 || u.NFd == 0 {
		t.Fatalf("info = %d %q: %v", answer.Status, tail(answer.Body), err)
	}
	return u
}
