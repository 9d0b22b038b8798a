package oom

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestUnified(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "memory.events")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("oom 1\noom_kill 3\n")
	reports := make(chan bool, 10)
	w, err := Watch(map[string]string{"": dir}, nil, func() { reports <- true })
	if err != nil {
		t.Fatal(err)
	}
	write("oom 2\noom_kill 3\n") // the limit was hit, nobody was killed
	write("oom 2\noom_kill 4\n")
	select {
	case <-reports:
	case <-time.After(10 * time.Second):
		t.Fatal("no report")
	}
	// Close reports what it finds.
	w.event.Close()
	write("oom 2\noom_kill 5\n")
	w.Close()
	if len(reports) != 1 {
		t.Errorf("%d reports at the end, want 1", len(reports))
	}
}

func TestWithoutController(t *testing.T) {
	for _, paths := range []map[string]string{nil, {"cpu": "/"}, {"": "/nonexistent"}, {"memory": "/nonexistent"}} {
		if _, err := Watch(paths, nil, nil); !errors.Is(err, ErrNoController) {
			t.Errorf("Watch(%v): %v", paths, err)
		}
	}
}
