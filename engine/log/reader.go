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
	"time"
)

// maxRotated bounds how many rotated files are looked for.
const maxRotated = 10000

// flushBytes is how much output collects before it is written.
const flushBytes = 32 << 10

// Reader is an open log. It belongs to one goroutine; Close may be called from
// another when WriteTo has returned.
type Reader struct {
	path  string
	o     Options
	files []source // the oldest first, the live file last; empty when there is none
	watch *watcher // nil unless o.Follow
	buf   []byte
}

// source is one file of a log.
type source struct {
	f    *os.File
	gzip bool
}

// Open opens the log whose live file is at path. A log that does not exist yet is
// empty. The files are those of one moment: a rotation while they are opened is
// noticed and waited out.
func Open(path string, o Options) (*Reader, error) {
	r := &Reader{path: path, o: o}
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
	return r.follow(ctx, w, live)
}

// copyPast writes what the files hold now and returns the reader of the live
// file, nil when there is none.
func (r *Reader) copyPast(ctx context.Context, w io.Writer) (*lineReader, error) {
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
	var lines *lineReader
	for _, s := range files {
		in := io.Reader(s.f)
		if s.gzip {
			z, err := gzip.NewReader(s.f)
			if err != nil {
				continue // being written, or torn: its lines are lost, the rest is not
			}
			in = z
		}
		lines = &lineReader{r: in}
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
func (r *Reader) copyLines(ctx context.Context, w io.Writer, lines *lineReader) error {
	for {
		if err := ctx.Err(); err != nil {
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
	rec, ok := parse(line)
	if !ok {
		return nil // torn by a crash
	}
	yes, done := r.o.wants(&rec)
	if done {
		return errUntil
	}
	if !yes {
		return nil
	}
	r.buf = r.o.append(r.buf, &rec)
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

// follow goes on where copyPast stopped.
func (r *Reader) follow(ctx context.Context, w io.Writer, lines *lineReader) error {
	var until <-chan time.Time
	if !r.o.Until.IsZero() {
		t := time.NewTimer(time.Until(r.o.Until))
		defer t.Stop()
		until = t.C
	}
	var file *os.File
	if n := len(r.files); n > 0 && lines != nil {
		file = r.files[n-1].f
	}
	last := false
	for {
		if file == nil {
			if file = r.openNext(nil); file != nil {
				lines = &lineReader{r: file}
			}
		}
		if file != nil {
			rotated := !isNow(file, r.path) // asked before the last read of the file
			if err := r.readOn(ctx, w, file, lines); err != nil {
				return err
			}
			if rotated {
				if next := r.openNext(file); next != nil {
					file, lines = next, &lineReader{r: next}
					continue
				}
			}
		}
		if last {
			return nil
		}
		select {
		case <-r.watch.changed():
			if err := r.watch.failed(); err != nil {
				return err
			}
		case <-r.o.Done:
			last = true // read once more: all was written before
		case <-until:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// openNext opens the file that came after done (nil: the live one) when the log
// was rotated, perhaps more than once. It takes the place of the last of r.files.
// It is nil when there is none yet.
func (r *Reader) openNext(done *os.File) *os.File {
	const attempts = 16
	for range attempts {
		before := r.number(done)
		name := r.path
		if before > 1 {
			name += "." + strconv.Itoa(before-1)
		}
		f, err := os.Open(name)
		if err != nil {
			if before > 1 {
				continue // shifted meanwhile
			}
			return nil
		}
		if r.number(done) != before {
			f.Close()
			continue
		}
		closeAll(r.files)
		r.files = []source{{f: f}}
		return f
	}
	return nil
}

// number returns which rotated file f is, 0 when it is none.
func (r *Reader) number(f *os.File) int {
	if f == nil {
		return 0
	}
	here, err := f.Stat()
	if err != nil {
		return 0
	}
	for n := 1; n < maxRotated; n++ {
		there, err := os.Stat(r.path + "." + strconv.Itoa(n))
		if err != nil {
			return 0
		}
		if os.SameFile(here, there) {
			return n
		}
	}
	return 0
}

// readOn writes the new lines of file; one that was cut is read from its start.
func (r *Reader) readOn(ctx context.Context, w io.Writer, file *os.File, lines *lineReader) error {
	at, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if fi, err := file.Stat(); err != nil {
		return err
	} else if fi.Size() < at {
		lines.drop()
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	if err := r.copyLines(ctx, w, lines); !errors.Is(err, io.EOF) {
		return err
	}
	return r.flush(w)
}
