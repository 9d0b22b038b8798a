package log

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
)

// maxRotated bounds how many rotated files are looked for.
const maxRotated = 10000

// flushBytes is how much output collects before it is written.
const flushBytes = 128 << 10

// Reader is an open log. It belongs to one goroutine; Close may be called from
// another when WriteTo has returned.
type Reader struct {
	path   string
	format format
	o      Options
	rec    record
	files  []source // the oldest first, the live file last; empty when there is none
	watch  *watcher // nil unless o.Follow
	buf    []byte
}

// source is one file of a log.
type source struct {
	f    *os.File
	gzip bool
}

// formatOf returns the format that the shim writes for a driver: all but
// json-file have their lines in the local format.
func formatOf(driver string) format {
	if driver == "json-file" {
		return jsonLines{}
	}
	return localFrames{}
}

func (r *Reader) reader(in io.Reader) *recordReader { return &recordReader{r: in, format: r.format} }

// Open opens the log of a driver, "json-file" or "local", whose live file is at path. A log that does not exist yet is
// empty. The files are those of one moment: a rotation while they are opened is
// noticed and waited out.
func Open(path, driver string, o Options) (*Reader, error) {
	r := &Reader{path: path, o: o, format: formatOf(driver)}
	if o.Follow {
		var err error
		if r.watch, err = newWatcher(path); err != nil { // before the files: no change is missed
			return nil, fmt.Errorf("follow log: %w", err)
		}
	}
	if err := r.openFiles(); err != nil {
		return nil, errors.Join(fmt.Errorf("open log: %w", err), r.Close())
	}
	return r, nil
}

// openFiles opens the live file and then the rotated ones by rising number. A
// rotation in between shifts the names, so that a file shows up twice: then all
// is done again.
func (r *Reader) openFiles() error {
	const attempts = 16
	for n := range attempts {
		live, err := os.Open(r.path)
		if errors.Is(err, fs.ErrNotExist) {
			live = nil
		} else if err != nil {
			return err
		}
		files := []source{}
		if live != nil {
			files = append(files, source{f: live})
		}
		if r.o.Tail != 0 {
			for i := 1; i < maxRotated; i++ {
				s, err := openRotated(r.path + "." + strconv.Itoa(i))
				if errors.Is(err, fs.ErrNotExist) {
					break
				}
				if err != nil {
					closeAll(files)
					return err
				}
				files = append([]source{s}, files...)
			}
		}
		moved := live == nil && len(files) > 0 || live != nil && !isNow(live, r.path)
		if hasTwins(files) || moved && n < attempts-1 { // at last: someone has deleted the live file
			closeAll(files)
			continue
		}
		r.files = files
		return nil
	}
	return errors.New("it is rotated faster than it can be opened")
}

func openRotated(name string) (source, error) {
	f, err := os.Open(name)
	if err == nil {
		return source{f: f}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return source{}, err
	}
	f, err = os.Open(name + ".gz")
	return source{f: f, gzip: true}, err
}

// isNow reports whether path still names f.
func isNow(f *os.File, path string) bool {
	here, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(here, there)
}

func hasTwins(files []source) bool {
	for i := range files {
		a, errA := files[i].f.Stat()
		for j := range i {
			b, errB := files[j].f.Stat()
			if errA != nil || errB != nil || os.SameFile(a, b) {
				return true
			}
		}
	}
	return false
}

func closeAll(files []source) {
	for _, s := range files {
		s.f.Close()
	}
}

// Close releases the files.
func (r *Reader) Close() error {
	closeAll(r.files)
	r.files = nil
	if r.watch != nil {
		return r.watch.close()
	}
	return nil
}

// errUntil ends the reading at Options.Until.
var errUntil = errors.New("past the end of the time asked for")

// Copy writes what Options select to w. It returns when all is written, when the
// following ends, or when ctx does.
func (r *Reader) Copy(ctx context.Context, w io.Writer) error {
	err := r.copy(ctx, w)
	if errors.Is(err, errUntil) {
		err = r.flush(w)
	}
	return err
}

func (r *Reader) copy(ctx context.Context, w io.Writer) error {
	live, err := r.copyPast(ctx, w)
	if err != nil {
		return err
	}
	if err := r.flush(w); err != nil {
		return err
	}
	if !r.o.Follow {
		return nil
	}
	f := &follower{r: r}
	if live != nil {
		f.cur, f.records = r.files[len(r.files)-1], live
	}
	return r.follow(ctx, w, f)
}

// copyPast writes what the files hold now and returns the reader of the live
// file, nil when there is none.
func (r *Reader) copyPast(ctx context.Context, w io.Writer) (*recordReader, error) {
	files := r.files
	if r.o.Tail >= 0 {
		first, offset, err := r.findTail()
		if err != nil {
			return nil, err
		}
		if first < len(files) {
			files = files[first:]
			for _, s := range files[1:] { // the search has left them at their end
				if _, err := s.f.Seek(0, io.SeekStart); err != nil {
					return nil, err
				}
			}
			if !files[0].gzip {
				if _, err := files[0].f.Seek(offset, io.SeekStart); err != nil {
					return nil, err
				}
			} else if err := r.copyGzipTail(ctx, w, files[0], offset); err != nil {
				return nil, err
			} else {
				files = files[1:]
			}
		}
	}
	if r.o.Tail < 0 && !r.o.Since.IsZero() {
		var err error
		if files, err = r.skipToSince(files); err != nil {
			return nil, err
		}
	}
	var lines *recordReader
	for _, s := range files {
		in := io.Reader(s.f)
		if s.gzip {
			z, err := gzip.NewReader(s.f)
			if err != nil {
				continue // being written, or torn: its lines are lost, the rest is not
			}
			in = z
		}
		lines = r.reader(in)
		if err := r.copyLines(ctx, w, lines); err != nil && !errors.Is(err, io.EOF) {
			if s.gzip && !errors.Is(err, errUntil) && ctx.Err() == nil && !isWriteError(err) {
				continue
			}
			return nil, err
		}
	}
	if len(r.files) == 0 || len(files) == 0 {
		return nil, nil
	}
	return lines, nil
}

// copyLines writes the lines until io.EOF, which it returns.
func (r *Reader) copyLines(ctx context.Context, w io.Writer, lines *recordReader) error {
	for n := 0; ; n++ {
		if n%256 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		line, err := lines.next()
		if err != nil {
			return err
		}
		if err := r.emit(w, line); err != nil {
			return err
		}
	}
}

func (r *Reader) emit(w io.Writer, line []byte) error {
	rec := &r.rec
	if !r.format.parse(line, rec) {
		return nil // torn by a crash
	}
	yes, done := r.o.wants(rec)
	if done {
		return errUntil
	}
	if !yes {
		return nil
	}
	r.buf = r.o.append(r.buf, rec)
	if len(r.buf) >= flushBytes {
		return r.flush(w)
	}
	return nil
}

// writeError marks a failure of the output.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }

func isWriteError(err error) bool {
	_, ok := errors.AsType[writeError](err)
	return ok
}

func (r *Reader) flush(w io.Writer) error {
	if len(r.buf) == 0 {
		return nil
	}
	_, err := w.Write(r.buf)
	r.buf = r.buf[:0]
	if err != nil {
		return writeError{err}
	}
	return nil
}
