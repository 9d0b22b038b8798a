package container

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/events"

	ctrlog "lighter/engine/log"
	"lighter/internal/shimio"
)

// AttachSession is one client's connection to the streams of a process. Serve or
// Close ends it.
type AttachSession struct {
	Raw bool // the output is plain bytes; else stdcopy frames

	m     *Manager
	e     *entry
	stdin bool
	keys  []byte // that detach, empty for none
	// replay writes the log before the live streams; nil for none.
	replay func(ctx context.Context, w io.Writer) error
	// begin starts what the session shows, once it is served; nil for none.
	begin func(ctx context.Context) error
	// ended waits until the end of what the session shows is recorded, so that a
	// client that sees the stream close finds the exit code; nil for none.
	ended    func(ctx context.Context)
	detached events.Action
	execID   string

	// ready delivers the connection to the shim, nil when there will be none.
	// Capacity 1; sent once.
	ready chan *shimio.Conn
	once  sync.Once
}

// endLimit bounds how long a stream stays open for its exit code.
const endLimit = 10 * time.Second

// Attach connects a client to the container's streams. To one that is created it
// connects before the start: no output is missed. The caller hijacks its
// connection and calls Serve, or Close when it cannot.
func (m *Manager) Attach(ctx context.Context, ref string, opts AttachOptions) (*AttachSession, error) {
	keys, err := detachKeys(opts.DetachKeys)
	if err != nil {
		return nil, invalid("Invalid detach keys (%s) provided", opts.DetachKeys)
	}
	e, err := m.lookup(ref)
	if err != nil {
		return nil, err
	}
	r := e.rec.Load()
	switch r.State {
	case Paused:
		return nil, conflict("container %s is paused, unpause the container before attach", ref)
	case Restarting:
		return nil, conflict("container %s is restarting, wait until the container is running", ref)
	}
	s := &AttachSession{
		Raw: r.Config.Tty || opts.Raw, m: m, e: e, detached: events.ActionDetach,
		stdin: opts.Stdin && opts.Stream && r.Config.OpenStdin, ready: make(chan *shimio.Conn, 1),
	}
	if r.Config.Tty {
		s.keys = keys
	}
	if opts.Logs {
		s.replay = m.replay(r, opts)
	}
	if !opts.Stream {
		s.deliver(nil)
	} else if err := s.connect(ctx, opts); err != nil {
		return nil, err
	}
	m.publish(r, events.ActionAttach)
	return s, nil
}

func (m *Manager) replay(r *record, opts AttachOptions) func(context.Context, io.Writer) error {
	return func(ctx context.Context, w io.Writer) error {
		path := m.logPath(r)
		if path == "" || !logReadable(r) {
			return notImplemented("configured logging driver does not support reading")
		}
		reader, err := ctrlog.Open(path, r.LogDriver, ctrlog.Options{Stdout: opts.Stdout, Stderr: opts.Stderr, Tail: -1, Raw: r.Config.Tty || opts.Raw})
		if err != nil {
			return err
		}
		return errors.Join(reader.Copy(ctx, w), reader.Close())
	}
}

// connect dials the shim, or queues the session for the start.
func (s *AttachSession) connect(ctx context.Context, opts AttachOptions) error {
	req := shimio.Request{Stdin: s.stdin, Stdout: opts.Stdout, Stderr: opts.Stderr, Framed: !s.Raw}
	s.e.mu.Lock()
	attachable, removed := s.e.attachable, s.e.pending == nil
	if !attachable && !removed {
		s.e.pending[s] = req
	}
	s.e.mu.Unlock()
	switch {
	case removed:
		return notFound("No such container: %s", s.e.id)
	case attachable:
		return s.dial(ctx, req)
	}
	return nil
}

// dial connects to the attach socket and delivers the connection.
func (s *AttachSession) dial(ctx context.Context, req shimio.Request) error {
	ctx, cancel := context.WithTimeout(ctx, attachLimit)
	defer cancel()
	conn, err := shimio.Dial(ctx, s.m.attachSocket(s.e.id), req)
	if err != nil {
		s.deliver(nil)
		return err
	}
	s.deliver(conn)
	return nil
}

// deliver hands the connection to Serve, once; a later one is closed.
func (s *AttachSession) deliver(conn *shimio.Conn) {
	sent := false
	s.once.Do(func() {
		s.ready <- conn
		sent = true
	})
	if !sent && conn != nil {
		conn.Close()
	}
}

// connectPending connects the sessions that came before the task.
func (m *Manager) connectPending(ctx context.Context, e *entry) error {
	e.mu.Lock()
	pending := e.pending
	if pending != nil {
		e.pending = make(map[*AttachSession]shimio.Request)
	}
	e.attachable = true
	e.mu.Unlock()
	var errs []error
	for s, req := range pending {
		if err := s.dial(ctx, req); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("connect attached clients: %w", err)
	}
	return nil
}

func (e *entry) setAttachable(v bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.attachable = v
}

// dropPending ends the sessions that wait for a start that will not come.
func (e *entry) dropPending() {
	e.mu.Lock()
	pending := e.pending
	if pending != nil {
		e.pending = make(map[*AttachSession]shimio.Request)
	}
	e.mu.Unlock()
	for s := range pending {
		s.deliver(nil)
	}
}

// Close ends a session that is not served.
func (s *AttachSession) Close() error {
	s.e.mu.Lock()
	delete(s.e.pending, s)
	s.e.mu.Unlock()
	s.deliver(nil)
	select {
	case conn := <-s.ready:
		if conn != nil {
			return conn.Close()
		}
	default:
	}
	return nil
}

// Serve copies between the client and the process until the process has ended and
// all its output is written, the client has gone or detaches, or ctx ends. At
// the end it calls client.CloseWrite.
//
// When client has a SetReadDeadline, Serve uses it to end its reading; without,
// one read may be left until the caller closes the client.
func (s *AttachSession) Serve(ctx context.Context, client Client) error {
	defer s.Close()
	ctx, cancel := context.WithCancelCause(s.m.in(ctx))
	defer cancel(nil)
	if s.replay != nil {
		if err := s.replay(ctx, client); err != nil {
			return errors.Join(err, client.CloseWrite())
		}
	}
	if s.begin != nil {
		if err := s.begin(ctx); err != nil {
			// Docker compatibility: the status has been sent, so the text is the
			// stream.
			_, writeErr := client.Write(s.frame(err.Error() + "\r\n"))
			return errors.Join(err, writeErr, client.CloseWrite())
		}
	}
	in := s.copyIn(ctx, client, cancel)
	err := s.copyOut(ctx, client)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	detached := errors.Is(err, errDetached)
	if detached || errors.Is(err, errClientGone) {
		err = nil
	}
	if detached {
		s.publishDetach()
	} else if s.ended != nil && ctx.Err() == nil {
		s.ended(ctx)
	}
	if closeErr := client.CloseWrite(); err == nil && !detached && ctx.Err() == nil {
		err = closeErr
	}
	cancel(nil)
	in.end(client)
	return err
}

// frame is text as the session's client reads it, on standard output.
func (s *AttachSession) frame(text string) []byte {
	if s.Raw {
		return []byte(text)
	}
	head := [8]byte{byte(stdcopy.Stdout)}
	binary.BigEndian.PutUint32(head[4:], uint32(len(text)))
	return append(head[:], text...)
}

func (s *AttachSession) publishDetach() {
	r := s.e.rec.Load()
	if s.execID != "" {
		s.m.publish(r, s.detached, "execID", s.execID)
		return
	}
	s.m.publish(r, s.detached)
}

// errDetached ends a session whose client typed the detach keys; errClientGone
// one whose client cannot be read any more.
var (
	errDetached   = errors.New("detached")
	errClientGone = errors.New("the client has gone")
)

// copyOut writes the process's output to the client.
func (s *AttachSession) copyOut(ctx context.Context, client io.Writer) error {
	conn, err := s.conn(ctx)
	if err != nil || conn == nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	_, err = io.Copy(client, onlyReader{conn})
	return err
}

// onlyReader hides other methods, which would bypass the reader.
type onlyReader struct{ io.Reader }

// conn waits for the connection to the shim, nil for none. It may be called more
// than once.
func (s *AttachSession) conn(ctx context.Context) (*shimio.Conn, error) {
	select {
	case c := <-s.ready:
		s.ready <- c
		return c, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// input is the reading side of a session.
type input struct{ done chan struct{} }

// copyIn copies the client's input to the process in the background; without
// input it watches for the client's end.
func (s *AttachSession) copyIn(ctx context.Context, client io.Reader, cancel context.CancelCauseFunc) input {
	in := input{make(chan struct{})}
	go func() {
		defer close(in.done)
		r := &keyReader{r: client, keys: s.keys}
		if !s.stdin {
			if _, err := io.Copy(io.Discard, r); err != nil && ctx.Err() == nil {
				cancel(clientError(err))
			}
			return
		}
		conn, err := s.conn(ctx)
		if err != nil || conn == nil {
			return
		}
		_, err = io.Copy(onlyWriter{conn}, r)
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, errDetached), r.failed:
			cancel(clientError(err))
		case err == nil:
			conn.CloseWrite() // the process sees the end of its input; it may have gone
		}
	}()
	return in
}

type onlyWriter struct{ io.Writer }

func clientError(err error) error {
	if errors.Is(err, errDetached) {
		return errDetached
	}
	return errClientGone
}

// end stops the reading of the client where that is possible and waits for it.
func (in input) end(client any) {
	d, ok := client.(interface{ SetReadDeadline(time.Time) error })
	if !ok || d.SetReadDeadline(time.Now()) != nil {
		return
	}
	select {
	case <-in.done:
	case <-time.After(time.Second): // a write into a process that does not read; the connection's end frees it
	}
}

// keyReader reads a client's input and ends it with errDetached at the detach
// keys. Keys that begin the sequence are held back until it is clear.
type keyReader struct {
	r      io.Reader
	keys   []byte
	held   int  // how many of keys were typed
	failed bool // the client could not be read
}

func (k *keyReader) Read(p []byte) (int, error) {
	if len(k.keys) == 0 {
		return k.note(k.r.Read(p))
	}
	if len(p) <= len(k.keys) {
		p = p[:min(len(p), 1)]
	}
	buf := make([]byte, max(1, len(p)-len(k.keys)))
	n, err := k.note(k.r.Read(buf))
	var out bytes.Buffer
	for _, b := range buf[:n] {
		if b == k.keys[k.held] {
			if k.held++; k.held == len(k.keys) {
				k.held = 0
				return copy(p, out.Bytes()), errDetached
			}
			continue
		}
		out.Write(k.keys[:k.held])
		k.held = 0
		if b == k.keys[0] && len(k.keys) > 1 {
			k.held = 1
			continue
		}
		out.WriteByte(b)
	}
	if err != nil && k.held > 0 {
		out.Write(k.keys[:k.held])
		k.held = 0
	}
	return copy(p, out.Bytes()), err
}

func (k *keyReader) note(n int, err error) (int, error) {
	if err != nil && !errors.Is(err, io.EOF) {
		k.failed = true
	}
	return n, err
}

// defaultDetachKeys are ctrl-p, ctrl-q.
var defaultDetachKeys = []byte{16, 17}

// detachKeys reads a list such as "ctrl-p,q"; "" gives the default.
func detachKeys(s string) ([]byte, error) {
	if s == "" {
		return defaultDetachKeys, nil
	}
	var keys []byte
	for key := range strings.SplitSeq(s, ",") {
		name, ctrl := strings.CutPrefix(key, "ctrl-")
		if len(name) != 1 {
			return nil, fmt.Errorf("unknown key %q", key)
		}
		c := name[0]
		switch {
		case !ctrl:
		case c >= 'a' && c <= 'z':
			c -= 'a' - 1
		case c == '@':
			c = 0
		case c >= '[' && c <= '_':
			c -= '[' - 27
		default:
			return nil, fmt.Errorf("unknown key %q", key)
		}
		keys = append(keys, c)
	}
	return keys, nil
}
