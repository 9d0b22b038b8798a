package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"
)

// Entry is a record for delivery to another place.
type Entry struct {
	Time    time.Time
	Stderr  bool
	Text    []byte // without a newline
	Partial Partial
}

// Position is a place in a log of the format "local". The zero value is its
// start.
type Position struct {
	// Head is the start of the first record of the file, which holds its time
	// and so tells it from the others, also when it is renamed or compressed.
	Head [24]byte
	// Offset counts the bytes of the file, uncompressed, before the place.
	Offset int64
}

// Tailer reads a log of the format "local" from a position on, over rotations. It
// belongs to one goroutine.
type Tailer struct {
	r    *Reader
	f    *follower
	pos  Position
	lost bool
}

// OpenTailer opens the log whose live file is at path behind what from says.
// Lost tells whether the file of that position is gone: then reading starts with
// the oldest there is.
func OpenTailer(path string, from Position) (*Tailer, error) {
	r, err := Open(path, "local", Options{Tail: -1, Follow: true})
	if err != nil {
		return nil, err
	}
	t := &Tailer{r: r, f: &follower{r: r}, pos: from}
	if err := t.seek(from); err != nil {
		return nil, errors.Join(fmt.Errorf("open log: %w", err), r.Close())
	}
	return t, nil
}

func (t *Tailer) seek(from Position) error {
	files := t.r.files
	at := 0
	if from != (Position{}) {
		at = -1
		for i, s := range files {
			if head := t.r.head(s); head != nil && [24]byte(pad(head)) == from.Head {
				at = i
			}
		}
		if at < 0 {
			t.lost, at, from = len(files) > 0, 0, Position{}
		}
	}
	if len(files) == 0 {
		return nil
	}
	// What follows is found by name, as for a rotation.
	closeAll(files[:at])
	closeAll(files[at+1:])
	t.r.files = files[at : at+1]
	s := t.r.files[0]
	in, err := s.open()
	if err != nil {
		return nil // a torn compressed file: go on behind it
	}
	if from.Offset > 0 {
		if s.gzip {
			_, err = io.CopyN(io.Discard, in, from.Offset)
		} else {
			_, err = s.f.Seek(from.Offset, io.SeekStart)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	t.f.cur, t.f.records = s, t.r.reader(in)
	t.f.records.offset = from.Offset
	return nil
}

func pad(head []byte) []byte {
	var p [24]byte
	copy(p[:], head)
	return p[:]
}

// Lost reports whether records between the position given and the first one read
// have been rotated away.
func (t *Tailer) Lost() bool { return t.lost }

// Position is behind the last entry that Next has returned.
func (t *Tailer) Position() Position { return t.pos }

var errFull = errors.New("enough for now")

// Next appends to batch the entries that are there, at most maxBytes of text but
// at least one, and none when there are none for now: see Changed.
func (t *Tailer) Next(batch []Entry, maxBytes int) ([]Entry, error) {
	size := 0
	var head []byte // of the current file
	var file *os.File
	rec := &t.r.rec
	err := t.f.poll(func(raw []byte) error {
		if file != t.f.cur.f || t.f.records.offset == int64(len(raw)) {
			if file = t.f.cur.f; t.f.records.offset == int64(len(raw)) {
				head = bytes.Clone(pad(raw))
			} else {
				head = pad(t.r.head(t.f.cur))
			}
		}
		t.pos = Position{Head: [24]byte(head), Offset: t.f.records.offset}
		if !t.r.format.parse(raw, rec) {
			return nil
		}
		text := bytes.Clone(bytes.TrimSuffix(rec.text, []byte{'\n'}))
		batch = append(batch, Entry{Time: time.Unix(0, rec.unixNano()), Stderr: rec.stderr, Text: text, Partial: rec.part})
		if size += len(text) + 64; size >= maxBytes {
			return errFull
		}
		return nil
	})
	if errors.Is(err, errFull) {
		err = nil
	}
	return batch, err
}

// Changed receives when there may be more to read.
func (t *Tailer) Changed() <-chan struct{} { return t.r.watch.changed() }

// Wait returns when there may be more to read, when done is closed, or with ctx's
// cause when it ends.
func (t *Tailer) Wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-t.r.watch.changed():
		return t.r.watch.failed()
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Remove deletes the rotated files from number from on that have been read to
// their end.
func (t *Tailer) Remove(from int) error {
	from = max(from, t.r.number(t.f.cur)+1)
	for n := from; n < maxRotated; n++ {
		name := t.r.path + "." + strconv.Itoa(n)
		gone := 0
		for _, name := range []string{name, name + ".gz"} {
			err := os.Remove(name)
			if errors.Is(err, fs.ErrNotExist) {
				gone++
			} else if err != nil {
				return fmt.Errorf("remove delivered log: %w", err)
			}
		}
		if gone == 2 {
			return nil
		}
	}
	return nil
}

// Close releases the files.
func (t *Tailer) Close() error { return t.r.Close() }
