package ttrpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lighter/shim/handover"
)

// Config is what a Server needs.
type Config struct {
	// Handle answers a call. It may be called from several goroutines. The
	// payload is its own. An error reaches the caller as a status of its class.
	Handle func(ctx context.Context, service, method string, payload []byte) ([]byte, error)
	// Waits tells of a method whose calls only wait for something: they are no
	// work, and a handed-over Server calls Handle for them again.
	Waits func(method string) bool
	// Deserted is called when the last connection has ended and no call is being
	// answered, if there has been one; nil for nothing. Connections may come later.
	Deserted func()
	// Gate is entered for the time of each call; nil for none.
	Gate *handover.Gate
	Log  *slog.Logger
}

// Server serves the connections of a listening unix socket. Only processes of the
// same user and group may connect.
type Server struct {
	cfg      Config
	listener *os.File
	ctx      context.Context // the Server's life
	stop     context.CancelFunc

	mu       sync.Mutex // guards the fields below
	conns    map[*conn]struct{}
	calls    int  // being answered, without those that wait
	used     bool // there has been a call
	closed   bool
	answered chan struct{} // closed when closed is set and there are no calls
	ended    bool          // answered is closed

	running sync.WaitGroup // goroutines of the listener and the connections
}

// Serve serves the listening socket l, which is in non-blocking mode, until Close.
// The Server owns it.
func Serve(l *os.File, cfg Config) *Server {
	s := &Server{cfg: cfg, listener: l, conns: make(map[*conn]struct{}), answered: make(chan struct{})}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.running.Go(s.accept)
	return s
}

// Close waits, for at most grace, until the calls that do not wait have been
// answered, and ends the Server. Calls that still run are cancelled.
func (s *Server) Close(grace time.Duration) {
	s.countCalls(0, true)
	s.listener.Close()
	timeout := time.NewTimer(grace)
	defer timeout.Stop()
	select {
	case <-s.answered:
		s.awaitHangup()
	case <-timeout.C:
	}
	s.stop()
	s.mu.Lock()
	for c := range s.conns {
		c.file.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// hangupGrace is how long a Server that ends waits for its clients to hang up.
const hangupGrace = 50 * time.Millisecond

// awaitHangup lets the clients read their answers. ttrpc's own may prefer the end
// of a connection to an answer that came just before it.
func (s *Server) awaitHangup() {
	timeout := time.NewTimer(hangupGrace)
	defer timeout.Stop()
	s.mu.Lock()
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range conns {
		select {
		case <-c.ctx.Done():
		case <-timeout.C:
			return
		}
	}
}

func (s *Server) countCalls(n int, closed bool) {
	defer s.checkDeserted()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls += n
	s.used = s.used || n > 0
	s.closed = s.closed || closed
	if s.closed && s.calls == 0 && !s.ended {
		s.ended = true
		close(s.answered)
	}
}

func (s *Server) accept() {
	rc, err := s.listener.SyscallConn()
	if err != nil {
		return
	}
	for {
		var fd int
		var aerr error
		err := rc.Read(func(l uintptr) bool {
			s.cfg.Gate.Enter()
			fd, _, aerr = unix.Accept4(int(l), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			if aerr == unix.EAGAIN {
				s.cfg.Gate.Leave()
				return false
			}
			return true
		})
		if err != nil {
			return // closed
		}
		if aerr == nil {
			s.admit(fd)
		}
		s.cfg.Gate.Leave()
		switch aerr {
		case nil, unix.EINTR, unix.ECONNABORTED:
			continue
		}
		// Out of descriptors: the next attempt may find one.
		s.cfg.Log.Warn("accept connection", "err", aerr)
		select {
		case <-time.After(acceptPause):
		case <-s.ctx.Done():
			return
		}
	}
}

// acceptPause is how long a Server waits after a failed accept.
const acceptPause = 100 * time.Millisecond

func (s *Server) admit(fd int) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err == nil && (int(cred.Uid) != os.Geteuid() || int(cred.Gid) != os.Getegid()) {
		err = fmt.Errorf("user %d, group %d", cred.Uid, cred.Gid)
	}
	if err != nil {
		s.cfg.Log.Warn("refuse connection", "err", err)
		unix.Close(fd)
		return
	}
	s.add(&conn{server: s, file: os.NewFile(uintptr(fd), "connection")})
}

// add starts serving c.
func (s *Server) add(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.file.Close()
		return
	}
	c.ctx, c.cancel = context.WithCancel(s.ctx)
	s.conns[c] = struct{}{}
	s.running.Go(func() {
		c.serve()
		c.cancel()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		c.file.Close()
		s.checkDeserted()
	})
}

func (s *Server) checkDeserted() {
	s.mu.Lock()
	deserted := s.used && len(s.conns) == 0 && s.calls == 0 && !s.closed
	s.mu.Unlock()
	if deserted && s.cfg.Deserted != nil {
		s.cfg.Deserted()
	}
}

// conn is one connection.
type conn struct {
	server *Server
	file   *os.File
	ctx    context.Context // ends with the connection
	cancel context.CancelFunc

	// Of the reading goroutine, and of State when the gate is closed.
	buf     []byte // of a frame that is not complete
	discard int    // bytes of an oversized message that are still to come
	last    uint32 // the highest stream so far

	write sync.Mutex // held over the write of a frame

	mu      sync.Mutex // guards the field below
	waiting map[uint32]waitingCall
}

// waitingCall is a call of a method that waits.
type waitingCall struct {
	request
	deadline time.Time // zero for none
}

// readSize is how much is read at once, in bytes. Messages are small.
const readSize = 4 << 10

// serve reads frames until the connection ends. The gate is left whenever no part
// of a frame has been read.
func (c *conn) serve() {
	rc, err := c.file.SyscallConn()
	if err != nil {
		return
	}
	inside := false
	defer func() {
		if inside {
			c.server.cfg.Gate.Leave()
		}
	}()
	for {
		buf := c.buf
		if cap(buf)-len(buf) < readSize {
			buf = append(make([]byte, 0, len(buf)*2+readSize), buf...)
		}
		var n int
		var rerr error
		err := rc.Read(func(fd uintptr) bool {
			if !inside {
				c.server.cfg.Gate.Enter()
			}
			inside = true
			n, rerr = unix.Read(int(fd), buf[len(buf):cap(buf)])
			if rerr == unix.EAGAIN && len(c.buf) == 0 && c.discard == 0 {
				inside = false
				c.server.cfg.Gate.Leave()
			}
			return rerr != unix.EAGAIN
		})
		if err != nil || n == 0 && rerr == nil {
			return
		}
		if rerr == unix.EINTR {
			continue
		}
		if rerr != nil {
			return
		}
		c.buf = c.frames(buf[:len(buf)+n])
		if len(c.buf) == 0 {
			c.buf = nil
			if c.discard == 0 {
				inside = false
				c.server.cfg.Gate.Leave()
			}
		}
	}
}

// frames handles the whole frames in p and returns the rest.
func (c *conn) frames(p []byte) []byte {
	for {
		n := min(c.discard, len(p))
		c.discard -= n
		p = p[n:]
		if len(p) < headerSize {
			return p
		}
		h := parseHeader(p)
		if h.length > maxMessage {
			c.discard = int(h.length)
			p = p[headerSize:]
			c.fail(h.stream, &StatusError{ResourceExhausted, fmt.Sprintf("message length %v exceed maximum message size of %v", h.length, maxMessage)})
			continue
		}
		end := headerSize + int(h.length)
		if len(p) < end {
			return p
		}
		c.message(h, p[headerSize:end])
		p = p[end:]
	}
}

// message handles one frame.
func (c *conn) message(h header, p []byte) {
	switch {
	case h.stream%2 != 1:
		c.fail(h.stream, &StatusError{InvalidArgument, "StreamID must be odd for client initiated streams"})
	case h.kind == typeData:
		// There are only unary calls.
		c.fail(h.stream, &StatusError{InvalidArgument, "StreamID is no longer active"})
	case h.kind != typeRequest:
		// Ignored, for what the protocol may have in future.
	case h.stream <= c.last:
		c.fail(h.stream, &StatusError{InvalidArgument, "StreamID cannot be re-used and must increment"})
	default:
		c.last = h.stream
		var r request
		if err := r.decode(append([]byte(nil), p...)); err != nil {
			c.fail(h.stream, &StatusError{InvalidArgument, "unmarshal request error: " + err.Error()})
			return
		}
		var deadline time.Time
		if r.timeout > 0 {
			deadline = time.Now().Add(time.Duration(r.timeout))
		}
		if c.server.cfg.Waits(r.method) {
			c.startWaiting(h.stream, waitingCall{r, deadline})
			return
		}
		c.server.cfg.Gate.Enter()
		c.server.countCalls(1, false)
		c.server.running.Go(func() {
			defer c.server.cfg.Gate.Leave()
			c.respond(h.stream, c.call(r, deadline))
			c.server.countCalls(-1, false)
		})
	}
}

// startWaiting serves a call that waits, outside the gate.
func (c *conn) startWaiting(stream uint32, w waitingCall) {
	c.mu.Lock()
	if c.waiting == nil {
		c.waiting = make(map[uint32]waitingCall)
	}
	c.waiting[stream] = w
	c.mu.Unlock()
	c.server.running.Go(func() {
		resp := c.call(w.request, w.deadline)
		c.server.cfg.Gate.Enter()
		defer c.server.cfg.Gate.Leave()
		c.mu.Lock()
		delete(c.waiting, stream)
		c.mu.Unlock()
		c.respond(stream, resp)
	})
}

// call has the handler answer r.
func (c *conn) call(r request, deadline time.Time) response {
	ctx := c.ctx
	if !deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	payload, err := c.server.cfg.Handle(ctx, r.service, r.method, r.payload)
	if err == nil && len(payload) > maxMessage-64 {
		err = fmt.Errorf("answer of %d bytes is too long: %w", len(payload), &StatusError{ResourceExhausted, "message too long"})
	}
	if err != nil {
		return failure(err)
	}
	return response{payload: payload}
}

func failure(err error) response {
	var st *StatusError
	if errors.As(err, &st) {
		return response{code: st.Code, message: st.Message}
	}
	return response{code: codeOf(err), message: err.Error()}
}

func (c *conn) fail(stream uint32, err error) { c.respond(stream, failure(err)) }

// respond sends an answer. One that cannot be sent ends the connection.
func (c *conn) respond(stream uint32, r response) {
	p := frame(stream, typeResponse, 0, r.encode())
	c.write.Lock()
	defer c.write.Unlock()
	if _, err := c.file.Write(p); err != nil {
		c.file.Close()
	}
}
