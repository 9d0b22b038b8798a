package stdio

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/shimio"
	"lighter/shim/log"
)

// Bounds of a client's buffer, in bytes.
const (
	clientBuffer = 1 << 20
	afterExit    = 2 << 20 // more, for what the pipes of an ended process still hold
	noLimit      = 1 << 30
)

// A client that holds output up has to take leastTaken bytes in each patience,
// else it is disconnected. With a log the client lags in a file first, and finds
// in the log what it misses; without one it is the only receiver.
const (
	leastTaken     = 64 << 10
	patience       = time.Second
	patienceNoLog  = 30 * time.Second
	stuckAfter     = 30 * time.Second // without a byte taken
	spillReadBytes = 256 << 10
)

// client is one attached connection.
type client struct {
	conn   *net.UnixConn
	raw    syscall.RawConn
	framed bool
	stdout bool
	stderr bool

	finished chan struct{} // closed when nothing will be sent any more

	mu       sync.Mutex // guards the fields below; never held over a wait
	room     *sync.Cond // backlog shrank, or gone
	limit    int
	backlog  []byte // not yet sent
	spill    spill  // what comes behind the backlog
	taken    int64  // bytes that the client has read of the backlog
	flushing bool   // a goroutine sends the backlog: others only append
	ending   bool   // close once the backlog is sent
	gone     bool

	sending sync.WaitGroup // the goroutine of flushing
}

func newClient(conn *net.UnixConn, tty bool, req shimio.Request) (*client, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &client{
		conn: conn, raw: raw, limit: clientBuffer, finished: make(chan struct{}),
		framed: req.Framed,
		stdout: req.Stdout || tty && req.Stderr,
		stderr: req.Stderr,
	}
	c.room = sync.NewCond(&c.mu)
	return c, nil
}

func (c *client) wants(s log.Stream) bool {
	if s == log.Stderr {
		return c.stderr
	}
	return c.stdout
}

// write sends p, or buffers it, waiting for room. It reports whether the client
// is still there.
func (c *client) write(s log.Stream, p []byte) bool {
	var header []byte
	if c.framed {
		header = binary.BigEndian.AppendUint32([]byte{1 + byte(s), 0, 0, 0}, uint32(len(p)))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waitRoomLocked(header, p)
	if c.gone || c.ending {
		return !c.gone
	}
	if c.flushing {
		if c.spill.empty() && c.fitsLocked(header, p) {
			c.backlog = append(append(c.backlog, header...), p...)
		} // else it is in the spill
		return true
	}
	n, err := c.trySend(header, p)
	if err != nil {
		c.goneLocked()
		return false
	}
	if n < len(header)+len(p) {
		if n < len(header) {
			c.backlog = append(c.backlog, header[n:]...)
			n = len(header)
		}
		c.backlog = append(c.backlog, p[n-len(header):]...)
		c.startFlushLocked()
	}
	return true
}

func (c *client) fitsLocked(header, p []byte) bool {
	return len(c.backlog)+len(header)+len(p) <= c.limit
}

// waitRoomLocked returns when p can be sent or fits the backlog, when it has been
// put into the spill, or when the client has gone: see leastTaken.
func (c *client) waitRoomLocked(header, p []byte) {
	var timer *time.Timer
	var since time.Time
	var taken int64
	wait := patience
	if c.spill.dir == "" {
		wait = patienceNoLog
	}
	for c.flushing && !c.gone && !c.ending {
		if c.spill.empty() && c.fitsLocked(header, p) || c.spill.add(header, p) {
			break
		}
		if timer == nil {
			since, taken = time.Now(), c.taken
			timer = time.AfterFunc(wait, c.room.Broadcast)
			defer timer.Stop()
		} else if time.Since(since) >= wait {
			if c.taken-taken < leastTaken {
				c.goneLocked()
				return
			}
			since, taken = time.Now(), c.taken
			timer.Reset(wait)
		}
		c.room.Wait()
	}
}

// trySend sends what the socket takes without waiting.
func (c *client) trySend(header, p []byte) (n int, err error) {
	werr := c.raw.Write(func(fd uintptr) bool {
		for {
			if len(header) > 0 {
				n, err = unix.Writev(int(fd), [][]byte{header, p})
			} else {
				n, err = unix.Write(int(fd), p)
			}
			if err != unix.EINTR {
				return true
			}
		}
	})
	if err == unix.EAGAIN {
		return 0, nil
	}
	return max(n, 0), errors.Join(werr, err)
}

// startFlushLocked starts sending the backlog. The goroutine ends when it is
// empty or the client is gone, which closing the connection makes so.
func (c *client) startFlushLocked() {
	c.flushing = true
	c.sending.Go(c.flushBacklog)
}

func (c *client) flushBacklog() {
	for {
		c.mu.Lock()
		if !c.gone && len(c.backlog) == 0 && !c.spill.empty() {
			var err error
			if c.backlog, err = c.spill.take(spillReadBytes); err != nil {
				c.goneLocked()
			}
		}
		if c.gone || len(c.backlog) == 0 {
			c.flushing = false
			c.backlog = nil
			c.conn.SetWriteDeadline(time.Time{}) // or it would fail a later trySend
			if c.ending && !c.gone {
				c.hangUpLocked()
			}
			c.room.Broadcast()
			c.mu.Unlock()
			return
		}
		// Others append only behind this part. It is sent without the lock.
		part := c.backlog
		c.mu.Unlock()

		c.conn.SetWriteDeadline(time.Now().Add(stuckAfter))
		n, err := c.sendSome(part)

		c.mu.Lock()
		if !c.gone {
			c.backlog = c.backlog[n:]
			c.taken += int64(n)
		}
		if errors.Is(err, errStuck) && !c.ending && c.spill.dir != "" {
			err = nil // it may lag: nothing waits for it yet
		}
		if err != nil {
			c.goneLocked()
		}
		c.room.Broadcast()
		c.mu.Unlock()
	}
}

// sendSome waits for the socket to take some of p.
func (c *client) sendSome(p []byte) (n int, err error) {
	werr := c.raw.Write(func(fd uintptr) bool {
		n, err = unix.Write(int(fd), p)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if werr != nil {
		err = werr
		if errors.Is(werr, os.ErrDeadlineExceeded) {
			err = errStuck
		}
	}
	return max(n, 0), err
}

func (c *client) setLimit(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = n
	c.room.Broadcast()
}

// finish ends the connection as soon as the backlog is sent.
func (c *client) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending || c.gone {
		return
	}
	c.ending = true
	if !c.flushing {
		c.hangUpLocked()
	}
}

// abandon ends the connection now and waits for its goroutine.
func (c *client) abandon() {
	c.mu.Lock()
	c.goneLocked()
	c.mu.Unlock()
	c.sending.Wait()
}

// hangUpLocked ends the connection so that the client reads everything, then
// the end. Input that it sent in vain is read first: unread input would make
// its last read an error.
func (c *client) hangUpLocked() {
	c.raw.Control(func(fd uintptr) {
		unix.Shutdown(int(fd), unix.SHUT_RDWR)
		buf := make([]byte, 4096)
		for {
			n, err := unix.Read(int(fd), buf)
			if n <= 0 && err != unix.EINTR {
				return
			}
		}
	})
	c.goneLocked()
}

func (c *client) goneLocked() {
	if c.gone {
		return
	}
	c.gone = true
	c.backlog = nil
	c.spill.close()
	close(c.finished)
	c.conn.Close()
	c.room.Broadcast()
}

// copyInput carries the client's input to the process until its end.
func (c *client) copyInput(in *input, rest []byte) {
	open := len(rest) == 0 || in.write(rest)
	for {
		n, err := readChunk(c.raw, nil, func(p []byte) { open = open && in.write(p) })
		if n <= 0 || err != nil {
			return
		}
	}
}

// discardInput reads until the client's end of input.
func (c *client) discardInput() {
	for {
		n, err := readChunk(c.raw, nil, func([]byte) {})
		if n <= 0 || err != nil {
			return
		}
	}
}

// waitGone waits, after the end of the client's input, until its connection is
// closed from either side.
func (c *client) waitGone() {
	c.raw.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(p, 0)
		return err == nil && p[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
	})
}
