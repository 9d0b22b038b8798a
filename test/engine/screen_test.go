package engine

import (
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"lighter/test/harness"
)

// screen collects what a terminal shows.
type screen struct {
	term *os.File
	mu   sync.Mutex // guards out
	out  strings.Builder
}

func newScreen(term *os.File) *screen {
	s := &screen{term: term}
	go func() { // ends when the terminal is closed
		io.Copy(s, term)
	}()
	return s
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

func (s *screen) send(t *testing.T, keys string) {
	t.Helper()
	if _, err := io.WriteString(s.term, keys); err != nil {
		t.Fatalf("type %q: %v; the terminal shows %q", keys, err, s.text())
	}
}

func (s *screen) waitFor(t *testing.T, want string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("the terminal shows %q", s.text())
		}
	}()
	harness.Eventually(t, 10*time.Second, "the terminal to show "+want, func() bool { return strings.Contains(s.text(), want) })
}
