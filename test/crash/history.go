package crash

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// entry is one line of the history.
type entry struct {
	Point    string // its name, which runs it again
	Start    time.Time
	Took     time.Duration // of the call, in nanoseconds
	Fired    bool          // the call under fault was reached
	Call     string        // the system call at which it fired
	Code     int           // exit code of the client
	Acked    bool
	Output   string
	Recovery time.Duration // from the start of the daemon to its first answer; 0 when none was started
	Problems []string      // what the checker found
}

// history is a file that is written through before the next fault, outside of
// what is tested.
type history struct {
	mu      sync.Mutex // guards the fields below
	file    *os.File
	entries []entry
}

func openHistory(t testing.TB, path string) *history {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &history{file: f}
}

func (h *history) add(t testing.TB, e entry) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.entries = append(h.entries, e)
	line, err := json.Marshal(e)
	if err == nil {
		_, err = h.file.Write(append(line, '\n'))
	}
	if err == nil {
		err = h.file.Sync()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// summary says what was run and how long recovery took.
func (h *history) summary(seed uint64) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var fired, failed int
	var times []time.Duration
	actions := map[string]int{}
	for _, e := range h.entries {
		if e.Fired {
			fired++
			_, fault, _ := strings.Cut(e.Point, "/")
			parts := strings.SplitN(fault, ":", 3)
			actions[strings.Join(parts[:min(2, len(parts))], " ")]++
		}
		if len(e.Problems) > 0 {
			failed++
		}
		if e.Recovery > 0 {
			times = append(times, e.Recovery)
		}
	}
	slices.Sort(times)
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d points, %d faults committed, %d failed\n", seed, len(h.entries), fired, failed)
	names := make([]string, 0, len(actions))
	for name := range actions {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, "  %-20s %d\n", name, actions[name])
	}
	if n := len(times); n > 0 {
		fmt.Fprintf(&b, "recovery of %d: p50 %v, p99 %v, max %v\n", n, times[n/2].Round(time.Millisecond),
			times[n*99/100].Round(time.Millisecond), times[n-1].Round(time.Millisecond))
	}
	return b.String()
}
