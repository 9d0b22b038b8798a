package stdio

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"lighter/internal/shimio"
	"lighter/shim/log"
)

// broker is the sink of a "shimlog" process: it writes the log and hands output
// to the attached clients, who may come and go.
type broker struct {
	stdio shimio.Stdio
	tty   bool
	log   *log.Writer // nil without a log
	in    *input

	mu      sync.Mutex // guards the fields below; never held over I/O
	clients map[*client]struct{}
	exited  bool
	aborted bool
	done    bool // no output comes any more
}

func newBroker(w *log.Writer, tty bool, s shimio.Stdio, in *input) *broker {
	return &broker{stdio: s, tty: tty, log: w, in: in, clients: make(map[*client]struct{})}
}

func (b *broker) write(s log.Stream, p []byte) {
	if b.log != nil {
		b.log.Write(s, time.Now(), p)
	}
	for _, c := range b.attached() {
		if c.wants(s) && !c.write(s, p) {
			b.detach(c)
		}
	}
}

func (b *broker) attached() []*client {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.clients) == 0 {
		return nil
	}
	list := make([]*client, 0, len(b.clients))
	for c := range b.clients {
		list = append(list, c)
	}
	return list
}

func (b *broker) end(s log.Stream) {
	if b.log != nil {
		b.log.End(s, time.Now())
	}
}

func (b *broker) processExited() {
	b.mu.Lock()
	b.exited = true
	b.mu.Unlock()
	if b.log != nil {
		b.log.Release() // nobody delays the end of a container
	}
	b.setLimits()
}

func (b *broker) abort() {
	b.mu.Lock()
	b.aborted = true
	b.mu.Unlock()
	b.setLimits()
}

// setLimits tells the clients how much may be buffered for them.
func (b *broker) setLimits() {
	for _, c := range b.attached() {
		c.setLimit(b.limit())
	}
}

func (b *broker) limit() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.limitLocked()
}

func (b *broker) limitLocked() int {
	switch {
	case b.aborted:
		return noLimit // what can still come is bounded by afterStop
	case b.exited:
		return clientBuffer + afterExit
	default:
		return clientBuffer
	}
}

// flush ends the clients' connections, each when it has everything.
func (b *broker) flush(ctx context.Context) {
	b.mu.Lock()
	b.done = true
	b.mu.Unlock()
	for _, c := range b.attached() {
		c.finish()
	}
	for _, c := range b.attached() {
		select {
		case <-c.finished:
		case <-ctx.Done():
			return
		}
	}
}

func (b *broker) close() {
	b.mu.Lock()
	b.done = true
	b.mu.Unlock()
	for _, c := range b.attached() {
		c.finish()
	}
	if b.log != nil {
		b.log.Close() // a lost write was reported when it happened
	}
}

func (b *broker) attach(conn *net.UnixConn, rest []byte, req shimio.Request) error {
	c, err := newClient(conn, b.tty, req)
	if err != nil {
		return err
	}
	b.mu.Lock()
	if b.done {
		b.mu.Unlock()
		return errAlreadyExited
	}
	// The answer goes out ahead of any output: the client is not known yet.
	c.limit = b.limitLocked()
	if b.log != nil {
		c.spill.dir = filepath.Dir(b.stdio.LogPath)
	}
	c.backlog = append(answer(shimio.Response{TTY: b.tty}), c.backlog...)
	c.startFlushLocked()
	b.clients[c] = struct{}{}
	b.mu.Unlock()

	if req.Stdin && b.stdio.Stdin {
		c.copyInput(b.in, rest)
		if b.stdio.StdinOnce && !b.tty {
			b.in.close()
		}
	} else {
		c.discardInput()
	}
	c.waitGone()
	b.detach(c)
	return nil
}

func (b *broker) detach(c *client) {
	c.abandon()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.clients, c)
}

var errAlreadyExited = fmt.Errorf("the process has exited: %w", errdefs.ErrFailedPrecondition)

// setLogLimits changes the rotation of the log, if there is one.
func (io *IO) setLogLimits(l shimio.LogLimits) {
	if io.broker != nil && io.broker.log != nil {
		io.broker.log.SetLimits(l.MaxBytes, l.MaxFiles)
	}
}

// Attach serves one client of the process: it answers req on conn, carries the
// streams, and returns when the client has gone. rest is what was read of the
// connection behind the request. Attach owns conn, except when it returns an
// error: then nothing has been sent and the caller answers.
//
// Errors: FailedPrecondition when the process has exited or was made without
// an attach socket.
func (io *IO) Attach(conn *net.UnixConn, rest []byte, req shimio.Request) error {
	if io.broker == nil {
		return fmt.Errorf("the process has no attachable streams: %w", errdefs.ErrFailedPrecondition)
	}
	return io.broker.attach(conn, rest, req)
}

var errStuck = errors.New("the client took no output for " + stuckAfter.String())
