package handover

import "sync"

// Gate counts work. Work is done between Enter and Leave: it begins before its
// input is taken from the kernel (a read, an accept, a wait) and ends when nothing
// of it is left in the process's memory alone. So while the gate is closed all
// that matters is in the kernel, or in the state that the closer can see.
//
// The zero value is open; a nil Gate is never closed.
type Gate struct {
	// Work holds mu for reading. It is only ever tried for writing, which makes
	// nobody wait who works.
	mu sync.RWMutex
}

// Enter begins a piece of work. It waits while the gate is closed.
func (g *Gate) Enter() {
	if g != nil {
		g.mu.RLock()
	}
}

// Leave ends a piece of work, not necessarily by the goroutine that began it.
func (g *Gate) Leave() {
	if g != nil {
		g.mu.RUnlock()
	}
}

// TryClose closes the gate if no work is going on, and reports whether it did.
func (g *Gate) TryClose() bool { return g.mu.TryLock() }

// Open opens a closed gate.
func (g *Gate) Open() { g.mu.Unlock() }
