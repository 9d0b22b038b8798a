// Package stdio carries a container process's input and output.
//
// The stdio strings of the Task API choose how:
//
//	""                      /dev/null
//	/path, fifo:///path     a fifo that a client reads or writes (a regular file works for output)
//	file:///path            both output streams appended to one file
//	binary:///path?k=v      a logger program with stdout, stderr and a ready pipe as fds 3, 4, 5
//	shimlog:...             the log and the attach socket of package shimio
//
// Whatever the kind, the process gets plain pipes (or a terminal), so nothing of
// the host's can be opened again through its /proc/self/fd.
//
// # Attached clients
//
// Output reaches a client directly while the client keeps up, and through a
// buffer of at most 1 MiB when it does not. Behind that it collects, for a process
// with a log, in an unnamed file beside the log, of at most 64 MiB: the process
// goes on. A client that is even further behind holds the process up as a pipe
// would, if it takes at least 64 KiB in each second (without a log: in 30 s); else
// it is disconnected. Once the process has ended the buffer may grow by what its
// pipes still held, so that a slow client does not delay the log.
//
// Any number of clients may write input. Input with StdinOnce is closed when the
// first client that writes it half-closes or goes away; otherwise it stays open.
// With a terminal StdinOnce means nothing, since the terminal has no end of
// input, and output is raw also for a client that asked for frames.
package stdio

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"lighter/internal/shimio"
	"lighter/shim/handover"
	"lighter/shim/log"
	"lighter/shim/reaper"
)

// pipeSize is the size of an output pipe, in bytes: enough that the process
// seldom waits for the shim. The kernel allocates what is used.
const pipeSize = 256 << 10

// Config says what to carry where.
type Config struct {
	// Namespace and Container are passed to logger programs.
	Namespace, Container  string
	Terminal              bool
	Stdin, Stdout, Stderr string
	// UID and GID own the pipes.
	UID, GID int
}

// Deps are what an IO needs.
type Deps struct {
	// Reaper starts logger programs.
	Reaper *reaper.Reaper
	Log    *slog.Logger
	// Busy is called when bytes move. It must be cheap.
	Busy func()
	// Gate is entered while bytes are carried; nil for none.
	Gate *handover.Gate
}

// IO is the input and output of one process. Its life is New, Open, the process,
// Drain, Close; it serves attached clients from New on.
type IO struct {
	cfg  Config
	deps Deps
	out  sink
	in   input

	stdinPath string      // fifo, or ""
	broker    *broker     // out, when it is a broker
	program   *logProgram // the logger program, or nil

	pumps   sync.WaitGroup
	sources []*source
	streams []log.Stream  // of the sources
	exited  chan struct{} // closed by Drain: the process has ended
	drained chan struct{} // closed when the pumps have ended and the sink is flushed

	mu      sync.Mutex // guards the fields below
	opened  bool
	child   [3]*os.File
	console *os.File
	size    *winsize
	closed  bool
}

// sink takes output. The pump of each stream calls write, then end.
type sink interface {
	write(s log.Stream, p []byte)
	end(s log.Stream)
	// processExited says that what comes is what was left in the pipes.
	processExited()
	// flush returns when all that was written has arrived, or ctx ends.
	flush(ctx context.Context)
	// abort says that write must not wait any more.
	abort()
	// close releases the sink; unflushed output may go on arriving.
	close()
}

// New prepares the input and output that cfg names. Errors of class
// InvalidArgument name the string at fault.
func New(cfg Config, deps Deps) (*IO, error) {
	if deps.Busy == nil {
		deps.Busy = func() {}
	}
	io := &IO{cfg: cfg, deps: deps, exited: make(chan struct{}), drained: make(chan struct{})}
	if s, is, err := cfg.shimlog(); is {
		if err != nil {
			return nil, err
		}
		return io, io.useBroker(s)
	}
	io.stdinPath = cfg.stdinPath()
	scheme, path, err := splitScheme(cfg.Stdout)
	if err != nil {
		return nil, err
	}
	switch scheme {
	case "", "fifo":
		_, stderr, err := splitScheme(cfg.Stderr)
		if err != nil {
			return nil, err
		}
		if cfg.Terminal { // all output is one stream; clients name a file that they do not make
			stderr = ""
		}
		out, err := openFifos(path, stderr)
		if err != nil {
			return nil, err
		}
		io.out = out
	case "file":
		out, err := openFileSink(path)
		if err != nil {
			return nil, err
		}
		io.out = out
	case "binary":
		io.program, err = newLogProgram(cfg, deps)
		if err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("open stdout: scheme %q of %q is unknown: %w", scheme, cfg.Stdout, errdefs.ErrInvalidArgument)
	}
	return io, nil
}

// shimlog returns what stdout says if it is one of package shimio's.
func (cfg Config) shimlog() (s shimio.Stdio, is bool, err error) {
	if !shimio.Is(cfg.Stdout) {
		return s, false, nil
	}
	if s, err = shimio.Parse(cfg.Stdout); err != nil {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return s, true, err
}

func (cfg Config) stdinPath() string { return strings.TrimPrefix(cfg.Stdin, "fifo://") }

func logConfig(s shimio.Stdio) log.Config {
	return log.Config{
		Driver: s.LogDriver, Path: s.LogPath, MaxBytes: s.LogMaxBytes, MaxFiles: s.LogMaxFiles,
		Compress: s.LogCompress, Hold: s.LogHold, Attrs: s.LogAttrs,
	}
}

func (io *IO) useBroker(s shimio.Stdio) (err error) {
	var w *log.Writer
	if s.LogDriver != "" {
		if w, err = log.Open(logConfig(s), io.deps.Log); err != nil {
			return err
		}
	}
	io.broker = newBroker(w, io.cfg.Terminal, s, &io.in)
	io.out = io.broker
	return nil
}

// Open makes the pipes and starts carrying. It returns the process's ends, nil
// for /dev/null and for a terminal's. Release them with CloseChild when the
// process has been started.
func (io *IO) Open() (stdin, stdout, stderr *os.File, err error) {
	io.mu.Lock()
	defer io.mu.Unlock()
	if io.opened || io.closed {
		return nil, nil, nil, fmt.Errorf("open stdio: already used: %w", errdefs.ErrFailedPrecondition)
	}
	io.opened = true
	defer func() {
		if err != nil {
			io.closeChildLocked()
		}
	}()
	if io.cfg.Terminal {
		if io.program != nil {
			// The terminal's output goes through a pipe of ours to the program.
			if io.out, err = io.program.startForTerminal(); err != nil {
				return nil, nil, nil, err
			}
		}
		return nil, nil, nil, nil
	}
	if err := io.openInputLocked(); err != nil {
		return nil, nil, nil, err
	}
	if io.program != nil {
		io.child[1], io.child[2], err = io.program.start()
		return io.child[0], io.child[1], io.child[2], err
	}
	for i, want := range []bool{io.wants(log.Stdout), io.wants(log.Stderr)} {
		if !want {
			continue
		}
		r, w, err := io.pipeLocked(readEnd, pipeSize)
		if err != nil {
			return nil, nil, nil, err
		}
		io.child[1+i] = w
		io.pumpLocked(r, log.Stream(i), nil)
	}
	return io.child[0], io.child[1], io.child[2], nil
}

func (io *IO) wants(s log.Stream) bool {
	if f, ok := io.out.(*fifoSink); ok {
		return f.files[s] != nil
	}
	return true
}

// openInputLocked makes the input pipe, if the process has input.
func (io *IO) openInputLocked() error {
	if io.stdinPath == "" && (io.broker == nil || !io.broker.stdio.Stdin) {
		return nil
	}
	r, w, err := io.pipeLocked(writeEnd, 0)
	if err != nil {
		return err
	}
	io.child[0] = r
	io.in.open(w, true)
	if io.stdinPath != "" {
		return io.in.readFifo(io.stdinPath, io.deps)
	}
	return nil
}

// pipeLocked makes a pipe whose process's end belongs to the configured owner.
func (io *IO) pipeLocked(ourEnd pipeEnd, size int) (r, w *os.File, err error) {
	r, w, err = pipe(ourEnd)
	if err != nil {
		return nil, nil, err
	}
	if io.cfg.UID != 0 || io.cfg.GID != 0 {
		if err := r.Chown(io.cfg.UID, io.cfg.GID); err != nil {
			r.Close()
			w.Close()
			return nil, nil, err
		}
	}
	setPipeSize(w, size)
	return r, w, nil
}

// pumpLocked starts carrying from f to the sink. It owns f.
func (io *IO) pumpLocked(f *os.File, s log.Stream, terminal <-chan struct{}) {
	src := &source{f: f, exited: terminal, gate: io.deps.Gate}
	io.streams = append(io.streams, s)
	io.sources = append(io.sources, src)
	io.pumps.Go(func() {
		src.copy(func(p []byte) {
			io.deps.Busy()
			io.out.write(s, p)
		})
		io.deps.Gate.Enter()
		defer io.deps.Gate.Leave()
		io.out.end(s)
		src.close()
	})
}

// CloseChild closes the process's ends of the pipes.
func (io *IO) CloseChild() {
	io.mu.Lock()
	defer io.mu.Unlock()
	io.closeChildLocked()
}

func (io *IO) closeChildLocked() {
	for i, f := range io.child {
		if f != nil {
			f.Close()
			io.child[i] = nil
		}
	}
}

// Console takes the master end of the process's terminal and starts carrying.
func (io *IO) Console(master *os.File) error {
	f, err := pollable(master)
	if err != nil {
		return fmt.Errorf("take console: %w", err)
	}
	io.mu.Lock()
	defer io.mu.Unlock()
	if io.closed || io.console != nil {
		f.Close()
		return fmt.Errorf("take console: not expected: %w", errdefs.ErrFailedPrecondition)
	}
	io.console = f
	if io.size != nil {
		if err := io.size.apply(f); err != nil {
			return fmt.Errorf("take console: %w", err)
		}
	}
	if io.out != nil {
		io.pumpLocked(f, log.Stdout, io.exited)
	}
	if io.stdinPath != "" || io.broker != nil && io.broker.stdio.Stdin {
		io.in.open(f, false)
		if io.stdinPath != "" {
			return io.in.readFifo(io.stdinPath, io.deps)
		}
	}
	return nil
}

// Resize sets the size of the terminal, now or when it comes.
func (io *IO) Resize(width, height uint32) error {
	size := &winsize{width: uint16(width), height: uint16(height)}
	if width > 0xffff || height > 0xffff {
		return fmt.Errorf("resize terminal to %dx%d: too large: %w", width, height, errdefs.ErrInvalidArgument)
	}
	io.mu.Lock()
	defer io.mu.Unlock()
	if !io.cfg.Terminal {
		return fmt.Errorf("resize terminal: the process has none: %w", errdefs.ErrFailedPrecondition)
	}
	io.size = size
	if io.console == nil || io.closed {
		return nil
	}
	return size.apply(io.console)
}

// CloseStdin ends the process's input once the clients that write it now have
// closed theirs (fifo), or at once (attach).
func (io *IO) CloseStdin() {
	io.in.closeWhenUnused()
}

// Drain waits until the process's output has arrived at its destinations, for
// at most timeout: a process that inherited the pipes may hold them open. Call
// it when the process has ended; nobody reads the pipes after it.
func (io *IO) Drain(timeout time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	close(io.exited)
	io.in.close()
	if io.out != nil {
		io.out.processExited()
	}
	pumped := make(chan struct{})
	go func() {
		defer close(io.drained)
		io.pumps.Wait()
		close(pumped)
		if io.out != nil {
			io.out.flush(ctx)
		}
		if io.program != nil {
			io.program.flush(ctx)
		}
	}()
	select {
	case <-pumped:
	case <-ctx.Done():
		io.mu.Lock()
		for _, s := range io.sources {
			s.stop()
		}
		io.mu.Unlock()
		// A client may be slow to read its fifo: that goes on until Close.
		if io.broker != nil {
			io.broker.abort()
		}
	}
	select {
	case <-io.drained:
	case <-ctx.Done():
	}
}

// closeGrace is how long Close lets a client read what is left for its fifo.
const closeGrace = 2 * time.Second

// Close releases everything. Attached clients still get what they have coming.
// It is safe in any state and may be repeated.
func (io *IO) Close() {
	io.mu.Lock()
	if io.closed {
		io.mu.Unlock()
		return
	}
	io.closed = true
	io.closeChildLocked()
	for _, s := range io.sources {
		s.stop()
	}
	console, piped := io.console, len(io.sources) > 0
	io.mu.Unlock()

	io.in.close()
	if console != nil && !piped {
		console.Close()
	}
	if io.out != nil {
		io.out.processExited()
		patience := time.AfterFunc(closeGrace, io.out.abort)
		io.pumps.Wait()
		patience.Stop()
		io.out.close()
	}
	if io.program != nil {
		io.program.close()
	}
	io.in.reader.Wait()
}

// Trim frees buffers. Use it when the process is idle.
func (io *IO) Trim() {
	if io.broker != nil && io.broker.log != nil {
		io.broker.log.Trim()
	}
}

// splitScheme splits a stdio string. A path alone has no scheme.
func splitScheme(s string) (scheme, path string, err error) {
	if s == "" || strings.HasPrefix(s, "/") {
		return "", s, nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", "", fmt.Errorf("parse stdio %q: %w: %w", s, err, errdefs.ErrInvalidArgument)
	}
	if !filepath.IsAbs(u.Path) {
		return "", "", fmt.Errorf("parse stdio %q: path is not absolute: %w", s, errdefs.ErrInvalidArgument)
	}
	return u.Scheme, u.Path, nil
}

func closeAll(files ...*os.File) error {
	var errs []error
	for _, f := range files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
