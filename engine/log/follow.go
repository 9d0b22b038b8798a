package log

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"
)

// follow goes on where copyPast stopped.
func (r *Reader) follow(ctx context.Context, w io.Writer, f *follower) error {
	var until <-chan time.Time
	if !r.o.Until.IsZero() {
		t := time.NewTimer(time.Until(r.o.Until))
		defer t.Stop()
		until = t.C
	}
	n := 0
	emit := func(raw []byte) error {
		if n++; n%256 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return r.emit(w, raw)
	}
	last := false
	for {
		if err := f.poll(emit); err != nil {
			return err
		}
		if err := r.flush(w); err != nil || last {
			return err
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

// follower reads a log on from a file of it, over rotations.
type follower struct {
	r       *Reader
	cur     source // its file is nil before there is one
	records *recordReader
}

// poll calls emit with the records that are there now and not yet read. An error
// of emit ends it; the record counts as read.
func (f *follower) poll(emit func(raw []byte) error) error {
	for {
		if f.cur.f == nil && !f.next() {
			return nil
		}
		rotated := f.cur.gzip || !isNow(f.cur.f, f.r.path) // asked before the last read of the file
		if err := f.read(emit); err != nil {
			return err
		}
		if !rotated || !f.next() {
			f.records.trim()
			return nil
		}
	}
}

// read reads the file to its end; one that was cut is read from its start.
func (f *follower) read(emit func(raw []byte) error) error {
	if !f.cur.gzip {
		at, err := f.cur.f.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		fi, err := f.cur.f.Stat()
		if err != nil {
			return err
		}
		if fi.Size() < at {
			f.records.rewind()
			if _, err := f.cur.f.Seek(0, io.SeekStart); err != nil {
				return err
			}
		}
	}
	for {
		raw, err := f.records.next()
		if errors.Is(err, io.EOF) || err != nil && f.cur.gzip { // a torn compressed file has no more
			return nil
		}
		if err != nil {
			return err
		}
		if err := emit(raw); err != nil {
			return err
		}
	}
}

// next goes on to the file that came after the current one. It reports whether
// there is one.
func (f *follower) next() bool {
	s, in := f.r.openNext(f.cur)
	if s.f == nil {
		return false
	}
	closeAll(f.r.files)
	f.r.files = []source{s}
	f.cur, f.records = s, f.r.reader(in)
	return true
}

// openNext opens the file that came after done (of none: the live one) when the
// log was rotated, perhaps more than once. It is empty when there is none yet.
func (r *Reader) openNext(done source) (source, io.Reader) {
	const attempts = 16
	for range attempts {
		before := r.number(done)
		name := r.path
		if before > 1 {
			name += "." + strconv.Itoa(before-1)
		}
		s, err := openRotated(name)
		if err != nil {
			if before > 1 {
				continue // shifted meanwhile
			}
			return source{}, nil
		}
		in, err := s.open()
		if err != nil || r.number(done) != before {
			s.f.Close()
			continue
		}
		return s, in
	}
	return source{}, nil
}

// open returns a reader of what the file holds, from its start.
func (s source) open() (io.Reader, error) {
	if !s.gzip {
		return s.f, nil
	}
	return gzip.NewReader(s.f)
}

// number returns which rotated file s is, 0 when it is none. One that has been
// compressed since it was opened is known by its first record.
func (r *Reader) number(s source) int {
	if s.f == nil {
		return 0
	}
	here, err := s.f.Stat()
	if err != nil {
		return 0
	}
	var head []byte
	for n := 1; n < maxRotated; n++ {
		name := r.path + "." + strconv.Itoa(n)
		there, err := os.Stat(name)
		if err == nil && os.SameFile(here, there) {
			return n
		}
		zipped, zerr := os.Stat(name + ".gz")
		if errors.Is(err, fs.ErrNotExist) && zerr != nil {
			return 0
		}
		if zerr != nil {
			continue
		}
		if os.SameFile(here, zipped) {
			return n
		}
		if head == nil {
			if head = r.head(s); head == nil {
				return 0
			}
		}
		if z, err := openRotated(name); err == nil {
			same := z.gzip && bytes.Equal(r.head(z), head)
			z.f.Close()
			if same {
				return n
			}
		}
	}
	return 0
}

// headBytes is how much of a file's first record tells it from other files: in
// the local format that much holds its time.
const headBytes = 1 << 10

// head returns the start of the first record of a file, nil when it has none. It
// leaves the file's position alone.
func (r *Reader) head(s source) []byte {
	in := io.Reader(io.NewSectionReader(s.f, 0, 1<<62))
	if s.gzip {
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil
		}
		in = z
	}
	raw, err := (&recordReader{r: in, format: r.format}).next()
	if err != nil {
		return nil
	}
	return bytes.Clone(raw[:min(len(raw), headBytes)])
}
