package container

import (
	"context"
	"io"
	"regexp"

	ctrlog "lighter/engine/log"
)

// LogStream is the output of Logs. The caller closes it.
type LogStream struct {
	TTY bool // raw bytes; else stdcopy frames

	// ctx is the request's: it ends a WriteTo that follows.
	ctx context.Context
	r   *ctrlog.Reader
}

// WriteTo writes the log to w. It returns when all is written, when a followed
// container has stopped, or when the context given to Logs ends.
func (s *LogStream) WriteTo(w io.Writer) (int64, error) {
	c := &countingWriter{w: w}
	err := s.r.Copy(s.ctx, c)
	return c.n, err
}

// Close releases the log. Call it when WriteTo has returned.
func (s *LogStream) Close() error { return s.r.Close() }

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// Logs opens the container's log. Following is over when the container stops; one
// that does not run is not followed.
func (m *Manager) Logs(ctx context.Context, ref string, opts LogsOptions) (*LogStream, error) {
	if !opts.Stdout && !opts.Stderr {
		return nil, invalid("You must choose at least one stream")
	}
	e, err := m.lookup(ref)
	if err != nil {
		return nil, err
	}
	r := e.rec.Load()
	if r.State == Removing || r.State == Dead {
		return nil, conflict("can not get logs from container which is dead or marked for removal")
	}
	path := m.logPath(r)
	if path == "" || !logReadable(r) {
		return nil, notImplemented("configured logging driver does not support reading")
	}
	var grep *regexp.Regexp
	if opts.Grep != "" {
		if grep, err = regexp.Compile(opts.Grep); err != nil {
			return nil, invalid("invalid grep pattern: %s", err)
		}
	}
	e.mu.Lock()
	running := e.exited
	e.mu.Unlock()
	reader, err := ctrlog.Open(path, r.LogDriver, ctrlog.Options{
		Stdout: opts.Stdout, Stderr: opts.Stderr, Since: opts.Since, Until: opts.Until, Tail: opts.Tail,
		Timestamps: opts.Timestamps, Details: opts.Details, Grep: grep, Raw: r.Config.Tty,
		Follow: opts.Follow && running != nil, Done: running,
	})
	if err != nil {
		return nil, err
	}
	return &LogStream{TTY: r.Config.Tty, ctx: ctx, r: reader}, nil
}
