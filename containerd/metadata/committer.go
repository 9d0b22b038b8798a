package metadata

import (
	"context"
	"errors"
	"fmt"
	"sync"

	bolt "go.etcd.io/bbolt"
)

// committer runs changes in bbolt transactions, many in one if they come while
// another transaction is being synced. A change that comes alone is run at once: the
// first to arrive leads, runs all that wait, and hands the lead to one of those
// who came meanwhile. (bbolt's own Batch makes a lone writer wait for company.)
//
// A change may run more than once: it must set what it captures from scratch.
type committer struct {
	db *bolt.DB

	mu      sync.Mutex // guards the fields below
	leading bool
	queue   []*change
}

type change struct {
	fn   func(*tx) error
	err  error
	done chan struct{} // closed when err is valid
	lead chan struct{} // closed when this change is to lead
}

// errNoWrites ends a transaction of changes that wrote nothing, without a sync.
var errNoWrites = errors.New("nothing to write")

// do runs fn in a transaction and returns after it is on disk, or with fn's error
// and nothing changed. A ctx that ends before fn is queued prevents it; one
// that ends later has no effect.
func (c *committer) do(ctx context.Context, fn func(*tx) error) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	ch := &change{fn: fn, done: make(chan struct{}), lead: make(chan struct{})}
	c.mu.Lock()
	c.queue = append(c.queue, ch)
	if !c.leading {
		c.leading = true
		close(ch.lead)
	}
	c.mu.Unlock()
	select {
	case <-ch.done:
		return ch.err
	case <-ch.lead:
	}
	c.mu.Lock()
	batch := c.queue
	c.queue = nil
	c.mu.Unlock()
	c.run(batch)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) > 0 {
		close(c.queue[0].lead)
	} else {
		c.leading = false
	}
	return ch.err
}

// run runs the batch in one transaction. A change that fails after it wrote makes it start
// over without that change; one that fails before it wrote is just left out.
func (c *committer) run(batch []*change) {
	for {
		retry := false
		err := c.db.Update(func(b *bolt.Tx) error {
			wrote := false
			for _, ch := range batch {
				if ch.err != nil {
					continue
				}
				t := &tx{b: b}
				ch.err = guard(ch.fn, t)
				if ch.err != nil && t.wrote {
					retry = true
					return ch.err
				}
				wrote = wrote || t.wrote
			}
			if !wrote {
				return errNoWrites
			}
			return nil
		})
		if retry {
			continue
		}
		if errors.Is(err, errNoWrites) {
			err = nil
		}
		for _, ch := range batch {
			if ch.err == nil && err != nil {
				ch.err = fmt.Errorf("commit transaction: %w", err)
			}
			close(ch.done)
		}
		return
	}
}

// guard turns a panic of one change into its error: the others in the transaction
// are not to blame, and whoever leads is not the one who panicked.
func guard(fn func(*tx) error, t *tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			t.wrote = true
			err = fmt.Errorf("panic in a transaction: %v", p)
		}
	}()
	return fn(t)
}
