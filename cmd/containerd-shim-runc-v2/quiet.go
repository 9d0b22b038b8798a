package main

import (
	"bytes"
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// pace says when memory is given back.
type pace struct {
	// afterStart and after are how long nothing must happen: when the container
	// has been made, after which most run for long or are soon gone, and later.
	afterStart, after time.Duration
	// eager is for tests: the process goes on in a fresh image all the time.
	eager bool
}

var usualPace = pace{afterStart: 300 * time.Millisecond, after: 2 * time.Second}

// longestPause is between two attempts while it cannot be done.
const longestPause = time.Minute

// lean is how much anonymous memory a process may have that is left alone, in
// bytes. A fresh image has about 800 KiB.
const lean = 1100 << 10

// quiet has memory given back when the shim has nothing to do: the process goes
// on in a fresh image. Where that cannot be, with a client attached for a long
// time, the heap is trimmed.
type quiet struct {
	s    *server
	pace pace
	// fresh is set in an image that has not made the container.
	fresh bool

	once  sync.Once
	wake  chan struct{} // capacity 1
	armed atomic.Bool   // run has been woken and not gone to rest
	calls atomic.Bool   // there was one since run looked
	moves atomic.Bool   // output has moved since run looked
}

// called notes that a call has been answered.
func (q *quiet) called() { q.note(&q.calls) }

// moved notes that output has moved.
func (q *quiet) moved() { q.note(&q.moves) }

func (q *quiet) note(what *atomic.Bool) {
	if !what.Load() {
		what.Store(true)
	}
	if !q.armed.Load() && q.armed.CompareAndSwap(false, true) {
		q.wakeup() <- struct{}{} // armed: nobody else sends
	}
}

func (q *quiet) wakeup() chan struct{} {
	q.once.Do(func() { q.wake = make(chan struct{}, 1) })
	return q.wake
}

// run waits for quiet, each time that something has happened.
func (q *quiet) run(ctx context.Context) {
	for {
		if !q.pace.eager {
			select {
			case <-q.wakeup():
			case <-ctx.Done():
				return
			}
		}
		if !q.settle(ctx) {
			return
		}
		q.armed.Store(false)
		// What came between the last look and here found q armed.
		if q.calls.Load() || q.moves.Load() {
			q.note(&q.calls)
		}
	}
}

// settle returns when memory is as small as it gets, false when ctx has ended.
func (q *quiet) settle(ctx context.Context) bool {
	shortest := q.pace.after
	if !q.fresh {
		shortest = q.pace.afterStart
	}
	wait, trimmed := shortest, false
	q.calls.Store(false) // what has happened until now is what woke us
	q.moves.Store(false)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return false
		}
		called, moved := q.calls.Swap(false), q.moves.Swap(false)
		switch {
		case !q.pace.eager && (called || moved && q.fresh):
			// A container that always writes is no reason to keep what its making has left.
			wait, trimmed = shortest, trimmed && !called
		case !q.pace.eager && anonymous() <= lean:
			return true
		default:
			if err := q.s.refresh(); err != nil {
				q.s.log.Warn("memory is not given back", "err", err)
			}
			if q.pace.eager {
				break
			}
			if wait = min(2*wait, longestPause); wait > q.pace.after && !trimmed {
				trimmed = true
				q.trim()
			}
		}
		timer.Reset(wait)
	}
}

// trim frees what can be freed in this image.
func (q *quiet) trim() {
	q.s.shim.Trim()
	// Pools keep their buffers over one collection, and each halves the stacks
	// that grew while the container was made.
	for range 4 {
		runtime.GC()
	}
	debug.FreeOSMemory()
}

// anonymous returns the process's anonymous memory in bytes; much if it cannot be
// told.
func anonymous() int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 1 << 30
	}
	_, rest, _ := bytes.Cut(b, []byte("\nRssAnon:"))
	if f := bytes.Fields(rest[:min(len(rest), 64)]); len(f) > 0 {
		if kb, err := strconv.Atoi(string(f[0])); err == nil {
			return kb << 10
		}
	}
	return 1 << 30
}
