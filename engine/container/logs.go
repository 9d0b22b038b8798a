package container

import (
	"context"
	"io"
	"strings"
	"text/template"

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
	if path == "" {
		return nil, notImplemented("configured logging driver does not support reading")
	}
	e.mu.Lock()
	running := e.exited
	e.mu.Unlock()
	reader, err := ctrlog.Open(path, r.LogDriver, ctrlog.Options{
		Stdout: opts.Stdout, Stderr: opts.Stderr, Since: opts.Since, Until: opts.Until, Tail: opts.Tail,
		Timestamps: opts.Timestamps, Details: opts.Details, Raw: r.Config.Tty,
		Follow: opts.Follow && running != nil, Done: running,
	})
	if err != nil {
		return nil, err
	}
	return &LogStream{TTY: r.Config.Tty, ctx: ctx, r: reader}, nil
}

// tagFields are what a log tag's template may use.
type tagFields struct {
	ID, FullID, Name, ImageID, ImageFullID, ImageName, Command, DaemonName string
}

// logTag expands the template of the log option "tag"; one that cannot be expanded
// stands as it is.
func logTag(r *record, text string) string {
	t, err := template.New("tag").Parse(text)
	if err != nil {
		return text
	}
	image := strings.TrimPrefix(r.ImageID, "sha256:")
	fields := tagFields{
		ID: r.ID[:12], FullID: r.ID, Name: r.name(), ImageFullID: r.ImageID, ImageID: image[:min(12, len(image))],
		ImageName: r.Config.Image, Command: strings.Join(append([]string{r.Path}, r.Args...), " "), DaemonName: "docker",
	}
	var out strings.Builder
	if err := t.Execute(&out, fields); err != nil {
		return text
	}
	return out.String()
}
